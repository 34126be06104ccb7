"""What all pages of the site share: the frame, warnings, filters, and the cells of tables.

A page needs nothing but itself: styles, the one script and the charts stand in it, it asks for
nothing from anywhere, and a content security policy allows that script alone, by its hash. What
comes out of an entry is untrusted and is escaped.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from benchmarks.drawing import CHART_STYLE, escape, number
from benchmarks.leaderboard.rows import Figure
from benchmarks.leaderboard.verification import Verification

__all__ = [
    "again",
    "asset",
    "cell",
    "count",
    "css_class",
    "cut",
    "facts_list",
    "filters",
    "group",
    "heading",
    "page",
    "shown_figure",
    "shown_interval",
    "skipped_entries",
    "standing",
    "table_row",
    "verified_chip",
    "whisker",
]


@cache
def asset(name: str) -> str:
    """A file that comes with the package."""
    return (files("benchmarks.leaderboard") / name).read_text(encoding="utf-8")


_ICON = (
    "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E"
    "%3Crect width='16' height='16' rx='4' fill='%232c6bb3'/%3E%3Cpath d='M3 12V8h2v4zm4 "
    "0V4h2v8zm4 0V6h2v6z' fill='%23fff'/%3E%3C/svg%3E"
)
_PAGES = (
    ("index.html", "Fidelity"),
    ("planners.html", "Planners"),
    ("method.html", "How it is scored"),
)
_NAMED = 8  # methods that a sentence names
_FILES = ("leaderboard.json", "leaderboard.csv", "planners.csv")


def page(title: str, here: str, body: Sequence[str], *, script: bool = False) -> str:
    """A whole page. ``here`` is its path in the site."""
    up = "../" if "/" in here else ""
    code = asset("site.js") if script else ""
    allowed = "none"
    if script:
        allowed = "sha256-" + base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    policy = (
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
        f"form-action 'none'; script-src '{allowed}'"
    )
    links = "".join(
        f'<li><a href="{up}{path}"{" aria-current=page" if path == here else ""}>{name}</a></li>'
        for path, name in _PAGES
    )
    data = [f'<a href="{up}{name}">{name}</a>' for name in _FILES]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        f'<link rel="icon" href="{_ICON}"><title>{escape(title)}</title>'
        f"<style>{CHART_STYLE}{asset('site.css')}</style></head>\n"
        '<body><a class="skip" href="#content">Skip to the content</a>'
        f'<header class="top"><strong>mfenv leaderboard</strong><nav aria-label="Site"><ul>{links}'
        '</ul></nav></header>\n<main id="content" tabindex="-1">\n'
        + "\n".join(part for part in body if part)
        + f"\n</main><footer>Also as {', '.join(data[:-1])} and {data[-1]}.</footer>\n"
        + (f"<script>{code}</script>" if script else "")
        + "</body></html>\n"
    )


def skipped_entries(skipped: Mapping[str, str]) -> str:
    """A warning about entries that were left out: name → the first problem."""
    if not skipped:
        return ""
    items = "".join(
        f"<li><strong>{escape(name)}</strong>: {escape(problem)}</li>"
        for name, problem in skipped.items()
    )
    noun = "entry is" if len(skipped) == 1 else "entries are"
    return (
        f'<div class="warning"><p>{len(skipped)} {noun} invalid and left out:</p>'
        f"<ul>{items}</ul></div>"
    )


def filters(boards: Mapping[str, str], text: str, board: str) -> str:
    """The form that filters the tables. ``boards`` maps their ids to names, the rest are labels."""
    options = "".join(f'<option value="{k}">{escape(v)}</option>' for k, v in boards.items())
    return (
        '<form class="filters" id="filters" role="search" aria-label="Filter the results" hidden>'
        f'<label class="field">{text}<input type="search" name="text" autocomplete="off"></label>'
        f'<label class="field">{board}<select name="board"><option value="">all</option>'
        f"{options}</select></label>"
        '<label><input type="checkbox" name="ranked">ranked only</label>'
        '<label><input type="checkbox" name="verified">verified only</label>'
        '<label><input type="checkbox" name="baselines" checked>baselines</label>'
        '<p role="status" id="shown"></p></form>'
    )


# -- tables ----------------------------------------------------------------------------------


def css_class(kind: str) -> str:
    """An attribute, if there is anything to say."""
    return f' class="{kind}"' if kind else ""


def heading(columns: Sequence[tuple[str, str]]) -> str:
    """A row of headings that sort: names, and the classes of their cells."""
    cells = "".join(
        f'<th scope="col" aria-sort="none"{css_class(kind)}><button type="button">{name}'
        "</button></th>"
        for name, kind in columns
    )
    return f"<thead><tr>{cells}</tr></thead>"


def group(title: str, columns: int) -> str:
    """A row above others that says what they have in common."""
    if not title:
        return ""
    return (
        f'<tr class="group"><th scope="rowgroup" class="text" colspan="{columns}">{title}</th></tr>'
    )


def table_row(kind: str, text: str, ranked: bool, verified: bool, cells: Sequence[str]) -> str:
    """A row that can be filtered: ``kind`` is ``method``, ``baseline`` or ``floor``."""
    look = {"method": "", "baseline": "baseline", "floor": "floor-row"}[kind]
    return (
        f'<tr data-text="{escape(text.lower())}" data-kind="{kind}" data-ranked="{_yes(ranked)}" '
        f'data-verified="{_yes(verified)}"{css_class(look)}>{"".join(cells)}</tr>'
    )


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def cell(label: str, value: float | str | None, shown: str, kind: str = "") -> str:
    """A cell: what it is sorted by, and what is shown."""
    sort = "" if value is None else escape(f"{value}")
    classes = " ".join(c for c in (kind, "" if shown else "none") if c)
    return f'<td data-label="{label}" data-value="{sort}"{css_class(classes)}>{shown}</td>'


def cut(text: str, most: int) -> str:
    """A text of at most so many characters."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def count(n: int) -> str:
    """A large number in three digits."""
    for unit, name in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if n >= unit:
            return f"{n / unit:.3g}\N{NO-BREAK SPACE}{name}"
    return str(n)


def shown_figure(figure: Figure | None, digits: int = 4, sign: bool = False) -> str:
    """A mean with its interval below it."""
    if figure is None:
        return ""
    plus = "+" if sign and figure.mean > 0 else ""
    span = ""
    if figure.low is not None and figure.high is not None:
        ends = f"{number(figure.low)} to {number(figure.high)}"
        span = f'<span class="ci">{ends}</span>'
    return f"{plus}{number(figure.mean, digits)}{span}"


def shown_interval(value: Mapping[str, Any], digits: int = 4, sign: bool = False) -> str:
    """The same for a score."""
    if value["mean"] is None:
        return ""
    return shown_figure(Figure(value["mean"], value["low"], value["high"]), digits, sign)


def verified_chip(verified: bool | None) -> str:
    """What a rerun found."""
    if verified is None:
        return "no"
    return (
        '<span class="chip good">verified</span>'
        if verified
        else '<span class="chip bad">not reproduced</span>'
    )


def whisker(
    what: str,
    figure: Figure,
    bottom: float,
    top: float,
    guides: Sequence[tuple[str, float]] = (),
) -> str:
    """A mean with its interval on a board's axis; ``guides`` are classes and places of lines."""
    left, right = 4.0, 92.0

    def x(value: float) -> str:
        part = (min(max(value, bottom), top) - bottom) / (top - bottom)
        return f"{left + (right - left) * part:.1f}"

    marks = [f'<line class="axis" x1="{left}" x2="{right}" y1="20" y2="20"/>']
    marks += [
        f'<line class="{kind}" x1="{x(at)}" x2="{x(at)}" y1="0" y2="20"/>' for kind, at in guides
    ]
    if figure.low is not None and figure.high is not None:
        marks.append(
            f'<line class="whisker" x1="{x(figure.low)}" x2="{x(figure.high)}" y1="10" y2="10"/>'
        )
    if figure.mean <= top:
        marks.append(f'<circle class="point" cx="{x(figure.mean)}" cy="10" r="4.5"/>')
    else:
        marks.append('<path class="point" d="M86 4l8 6-8 6z"/>')
    return (
        f'<svg class="drawn" viewBox="0 0 96 22" role="img" aria-label="{what} '
        f'{number(figure.mean)} on an axis from {bottom:.3g} to {top:.3g}">'
        f"{''.join(marks)}</svg>"
    )


# -- an entry's page -------------------------------------------------------------------------


def standing(unranked: Sequence[str], found: Verification | None) -> str:
    """Whether an entry has a rank, and what a rerun found of it."""
    if unranked:
        text = f"<strong>No rank</strong>: {escape('; '.join(unranked))}."
    else:
        text = "<strong>Ranked</strong>: on the official events, with the official settings."
    if found is None:
        verified = "<strong>Not verified</strong>: nothing was rerun."
    else:
        good = [m for m, ok in found.methods.items() if ok]
        bad = [m for m, ok in found.methods.items() if not ok]
        verified = ""
        if good:
            verified += f"<strong>Verified</strong>: a random part of {escape(_some(good))} was "
            verified += "rerun and came out the same. "
        if bad:
            verified += f"<strong>Not reproduced</strong>: {escape(', '.join(bad))}."
    return f'<section class="first"><p>{text}</p><p>{verified}</p></section>'


def _some(names: Sequence[str]) -> str:
    """Names in one line; the tables have all of them."""
    if len(names) <= _NAMED:
        return ", ".join(names)
    return f"{', '.join(names[:_NAMED])} and {len(names) - _NAMED} more"


def facts_list(groups: Mapping[str, Mapping[str, str]]) -> str:
    """Settings and hashes by title."""
    shown = "".join(
        f"<div><h3>{title}</h3><dl>"
        + "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in facts.items())
        + "</dl></div>"
        for title, facts in groups.items()
    )
    return f'<section><h2>Settings and hashes</h2><div class="facts">{shown}</div></section>'


def again(command: str, found: Verification | None) -> str:
    """How an entry is made again, and what was."""
    rerun = ""
    if found is not None:
        rerun = f"<h3>What was rerun</h3><pre>{escape(chr(10).join(found.lines))}</pre>"
    return (
        "<section><h2>How to make it again</h2><p>The command as the entry gives it. It was "
        "written by the entry's author: read it before you run it.</p>"
        f"<pre>{escape(command)}</pre>"
        "<p>To rerun a random part and compare it with the journals:</p>"
        f"<pre>mfenv leaderboard verify ENTRY --fraction 0.1</pre>{rerun}</section>"
    )
