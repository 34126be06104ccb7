"use strict";
(() => {
  const all = (root, selector) => Array.from(root.querySelectorAll(selector));
  const form = document.getElementById("filters");
  const rows = all(document, ".board tbody tr[data-text]");

  const value = (row, column) => {
    const text = row.cells[column].dataset.value;
    const number = Number(text);
    return text === undefined || text === "" ? null : Number.isNaN(number) ? text : number;
  };

  // What has no value comes last, whichever way is sorted.
  const compare = (a, b, sign) => {
    if (a === null || b === null) return (a === null) - (b === null);
    if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1;
    return sign * (typeof a === "number" ? a - b : a.localeCompare(b, "en"));
  };

  const sort = (heading) => {
    const table = heading.closest("table");
    const descending = heading.getAttribute("aria-sort") === "ascending";
    all(table, "thead th[aria-sort]").forEach((th) => th.setAttribute("aria-sort", "none"));
    heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
    const sign = descending ? -1 : 1;
    all(table, "tbody").forEach((body) => {
      all(body, "tr[data-text]")
        .map((row) => [row, value(row, heading.cellIndex)])
        .sort((a, b) => compare(a[1], b[1], sign))
        .forEach(([row]) => body.append(row));
    });
  };

  const filter = () => {
    const wanted = form.elements.text.value.trim().toLowerCase();
    const board = form.elements.board.value;
    let shown = 0;
    rows.forEach((row) => {
      const kind = row.dataset.kind;
      row.hidden =
        (kind === "method"
          ? (wanted !== "" && !row.dataset.text.includes(wanted)) ||
            (form.elements.verified.checked && row.dataset.verified !== "yes")
          : !form.elements.baselines.checked) ||
        (form.elements.ranked.checked && row.dataset.ranked !== "yes");
    });
    all(document, "section[data-board]").forEach((section) => {
      section.hidden = board !== "" && section.dataset.board !== board;
      all(section, "tbody").forEach((body) => {
        body.hidden = !all(body, "tr[data-text]").some((row) => !row.hidden);
      });
      if (!section.hidden) {
        shown += all(section, 'tr[data-kind="method"]').filter((row) => !row.hidden).length;
      }
    });
    const total = rows.filter((row) => row.dataset.kind === "method").length;
    document.getElementById("shown").textContent = `${shown} of ${total} results shown`;
  };

  all(document, "th[aria-sort] button").forEach((button) => {
    button.addEventListener("click", () => sort(button.closest("th")));
  });
  if (form) {
    form.hidden = false;
    form.addEventListener("input", filter);
    form.addEventListener("submit", (event) => event.preventDefault());
    filter();
  }
})();
