"""The pages of the site: pure functions from rows and entries to HTML.

A page needs nothing but itself: styles, the one script and the charts stand in it, it asks for
nothing from anywhere, and a content security policy allows that script alone, by its hash. What
comes out of an entry is untrusted and is escaped.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.compare import FLOOR, PERSISTENCE
from benchmarks.drawing import CHART_STYLE, escape, legend, nice, number, panel, scale
from benchmarks.fidelity.conditions import CORE
from benchmarks.fidelity.tracks import TRACKS
from benchmarks.leaderboard.check import MIN_SEEDS
from benchmarks.leaderboard.rows import Board, Figure, Row, Submission, core_of, slug
from benchmarks.leaderboard.verification import RULE
from mfenv.labels import DIMENSIONS, OFFSETS, Labels, one_hot

__all__ = ["entry_page", "index_page", "method_page"]

Floats = NDArray[np.float64]

_CASES = 3  # whose trajectories are drawn
_LINES = 3  # methods in a drawing
_LEVELS = 5  # of a heat map


@cache
def _asset(name: str) -> str:
    return (files("benchmarks.leaderboard") / name).read_text(encoding="utf-8")


_ICON = (
    "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'%3E"
    "%3Crect width='16' height='16' rx='4' fill='%232c6bb3'/%3E%3Cpath d='M3 12V8h2v4zm4 "
    "0V4h2v8zm4 0V6h2v6z' fill='%23fff'/%3E%3C/svg%3E"
)


def _page(title: str, here: str, body: Sequence[str], *, script: bool = False) -> str:
    """A whole page. ``here`` is its path in the site."""
    up = "../" if "/" in here else ""
    code = _asset("site.js") if script else ""
    allowed = "none"
    if script:
        allowed = "sha256-" + base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    policy = (
        "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; "
        f"form-action 'none'; script-src '{allowed}'"
    )
    links = "".join(
        f'<li><a href="{up}{path}"{" aria-current=page" if path == here else ""}>{name}</a></li>'
        for path, name in (("index.html", "Leaderboard"), ("method.html", "How it is scored"))
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        f'<link rel="icon" href="{_ICON}"><title>{escape(title)}</title>'
        f"<style>{CHART_STYLE}{_asset('site.css')}</style></head>\n"
        '<body><a class="skip" href="#content">Skip to the content</a>'
        f'<header class="top"><strong>mfenv leaderboard</strong><nav aria-label="Site"><ul>{links}'
        '</ul></nav></header>\n<main id="content" tabindex="-1">\n'
        + "\n".join(part for part in body if part)
        + f'\n</main><footer>Also as <a href="{up}leaderboard.json">leaderboard.json</a> and '
        f'<a href="{up}leaderboard.csv">leaderboard.csv</a>.</footer>\n'
        + (f"<script>{code}</script>" if script else "")
        + "</body></html>\n"
    )


# -- the index -------------------------------------------------------------------------------


def index_page(boards: Sequence[Board], skipped: Mapping[str, str]) -> str:
    """All boards. ``skipped`` are entries that were left out: name → the first problem."""
    body = [
        "<h1>How close do simulated populations come to real ones?</h1>"
        '<p class="lead">Language models play the people of an event after a warm-up of real '
        "reactions. Their population is compared with the real one, in eight label dimensions: the "
        "lower the KL divergence, the closer. Simple forecasts without any model stand in between, "
        "in grey; a simulator earns its place by beating <em>persistence</em>.</p>"
        "<p>Every figure was computed from an entry's journals, none is claimed. The small figures "
        'are 95% intervals over events. <a href="method.html">How it is scored</a> says what the '
        "columns mean.</p>",
        _skipped(skipped),
        _filters(boards) if boards else "<p>There are no entries yet.</p>",
        *(_board(board) for board in boards),
    ]
    return _page("mfenv leaderboard", "index.html", body, script=True)


def _skipped(skipped: Mapping[str, str]) -> str:
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


def _filters(boards: Sequence[Board]) -> str:
    options = "".join(
        f'<option value="{_board_id(b)}">{escape(_board_name(b))}</option>' for b in boards
    )
    return (
        '<form class="filters" id="filters" role="search" aria-label="Filter the results" hidden>'
        '<label class="field">Backbone or method<input type="search" name="text" '
        'autocomplete="off"></label>'
        '<label class="field">Track<select name="board"><option value="">all</option>'
        f"{options}</select></label>"
        '<label><input type="checkbox" name="ranked">ranked only</label>'
        '<label><input type="checkbox" name="verified">verified only</label>'
        '<label><input type="checkbox" name="baselines" checked>baselines</label>'
        '<p role="status" id="shown"></p></form>'
    )


def _board_id(board: Board) -> str:
    return f"{board.track}-{board.split}"


def _board_name(board: Board) -> str:
    return f"{board.track}, {board.split}"


_COLUMNS = (
    ("Rank", ""),
    ("Backbone", "text"),
    ("Method", "text"),
    ("Mean KL", ""),
    ("Excess KL", ""),
    ("Against persistence", "text"),
    ("IQM", ""),
    ("ΔNLL", ""),
    ("Decisions/s", ""),
    ("Tokens", ""),
    ("Cost", ""),
    ("Seeds", ""),
    ("Verified", "text"),
    ("Events", "text"),
)
"""Headings, and the classes of their cells."""


_NO_RANK = (
    "No rank: other events, other settings or too few seeds. These figures cannot be compared with "
    "the ranked ones."
)


def _board(board: Board) -> str:
    # A column that nobody has anything in is left out.
    priced = any(row.cost for row in board.rows)
    head = "".join(
        f'<th scope="col" aria-sort="none"{_class(kind)}><button type="button">{name}</button></th>'
        for name, kind in _COLUMNS
        if name != "Cost" or priced
    )
    ranked = [r for r in board.rows if not r.unranked]
    rest = [r for r in board.rows if r.unranked]
    body = ""
    for rows, title in ((ranked, ""), (rest, _NO_RANK)):
        if rows:
            axis = _axis(rows)
            lines = "".join(_row(row, axis, priced) for row in rows)
            body += f"<tbody>{_group(title)}{lines}</tbody>"
    name = escape(_board_name(board))
    track = TRACKS[board.track]
    return (
        f'<section data-board="{_board_id(board)}"><h2 id="{_board_id(board)}">{name}</h2>'
        f'<p class="note">{escape(track.what[0].upper() + track.what[1:])}. Lower is better in the '
        "columns of KL, IQM and ΔNLL. Drawn: the mean KL with its interval; dashed: persistence, "
        "dotted: the noise floor.</p>"
        f'<div class="scroll" role="region" aria-labelledby="{_board_id(board)}" tabindex="0">'
        f'<table class="board"><caption><span>Results on {name}; the buttons in the headings sort.'
        f"</span></caption><thead><tr>{head}</tr></thead>{body}</table></div></section>"
    )


def _class(kind: str) -> str:
    return f' class="{kind}"' if kind else ""


def _group(title: str) -> str:
    if not title:
        return ""
    columns = len(_COLUMNS)
    return (
        f'<tr class="group"><th scope="rowgroup" class="text" colspan="{columns}">{title}</th></tr>'
    )


@dataclass(frozen=True, slots=True)
class _Axis:
    """What a board's KL are drawn on."""

    top: float
    guides: Sequence[tuple[str, float]]
    """Class and place of vertical lines."""


def _axis(rows: Sequence[Row]) -> _Axis:
    """An axis for the methods and persistence; a baseline that is far off is cut."""
    near = [r for r in rows if r.kind == "method" or r.method == PERSISTENCE]
    ends = [r.kl.mean if r.kl.high is None else r.kl.high for r in near]
    guides = [("guide", r.kl.mean) for r in rows if r.method == PERSISTENCE]
    guides += [("guide floor", r.kl.mean) for r in rows if r.kind == "floor"]
    return _Axis(nice(max([1e-3, *ends])), guides)


def _row(row: Row, axis: _Axis, priced: bool) -> str:
    method = row.kind == "method"
    text = escape(f"{row.backbone} {row.revision} {row.method}".lower())
    kind = {"method": "", "baseline": "baseline", "floor": "floor-row"}[row.kind]
    name = (
        f'<a href="entries/{row.entry}.html">{escape(_cut(row.backbone, 60))}</a>'
        f'<span class="sub">{escape(_cut(row.revision, 16))}</span>'
        if method
        else "no model"
    )
    verified = {True: "verified", False: "not reproduced", None: "no"}[row.verified]
    cost = " ".join(f"{x:,.2f} {escape(c)}" for c, x in sorted((row.cost or {}).items()))
    speed = row.decisions_per_second
    excess = _figure(row.excess, sign=True)
    if row.floor:
        excess += f'<span class="ci">{row.floor} the floor</span>'
    cells = [
        _cell("Rank", row.rank, "" if row.rank is None else str(row.rank)),
        f'<th scope="row" class="text" data-value="{escape(row.backbone)}">'
        f'<span class="name">{name}</span></th>',
        _cell("Method", row.method, escape(row.method), "text lead"),
        _cell("Mean KL", row.kl.mean, _figure(row.kl) + _whisker(row.kl, axis), "figure lead kl"),
        _cell("Excess KL", _mean(row.excess), excess, "figure"),
        _cell("Against persistence", _mean(row.against_persistence), _relation(row), "text figure"),
        _cell("IQM", _mean(row.iqm), _figure(row.iqm), "figure"),
        _cell("ΔNLL", _mean(row.nll), _figure(row.nll, 3, sign=True), "figure"),
        _cell("Decisions/s", speed, "" if speed is None else f"{speed:,.1f}"),
        _cell("Tokens", row.tokens, "" if row.tokens is None else _count(row.tokens)),
        _cell("Cost", sum((row.cost or {}).values()) if row.cost else None, cost),
        _cell("Seeds", row.seeds, str(row.seeds)),
        _cell("Verified", verified if method else None, _verified(row) if method else "", "text"),
        _cell(
            "Events", row.events, escape(row.events.replace(" of the official list", "")), "text"
        ),
    ]
    if not priced:
        del cells[10]
    return (
        f'<tr data-text="{text}" data-kind="{row.kind}" data-ranked="{_yes(not row.unranked)}" '
        f'data-verified="{_yes(row.verified is True)}"{_class(kind)}>{"".join(cells)}</tr>'
    )


def _mean(figure: Figure | None) -> float | None:
    return None if figure is None else figure.mean


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _count(n: int) -> str:
    """A large number in three digits."""
    for unit, name in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if n >= unit:
            return f"{n / unit:.3g} {name}"
    return str(n)


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _cell(label: str, value: float | str | None, shown: str, kind: str = "") -> str:
    """A cell: what it is sorted by, and what is shown."""
    sort = "" if value is None else escape(f"{value}")
    classes = " ".join(c for c in (kind, "" if shown else "none") if c)
    return f'<td data-label="{label}" data-value="{sort}"{_class(classes)}>{shown}</td>'


def _figure(figure: Figure | None, digits: int = 4, sign: bool = False) -> str:
    if figure is None:
        return ""
    plus = "+" if sign and figure.mean > 0 else ""
    span = ""
    if figure.low is not None and figure.high is not None:
        ends = f"{number(figure.low)} to {number(figure.high)}"
        span = f'<span class="ci">{ends}</span>'
    return f"{plus}{number(figure.mean, digits)}{span}"


def _relation(row: Row) -> str:
    if not row.relation or row.against_persistence is None:
        return ""
    kind = {"better": " good", "worse": " bad", "not clear": ""}[row.relation]
    gap = row.against_persistence
    shown = number(gap.mean)
    if gap.low is not None and gap.high is not None:
        shown = f"{number(gap.low)} to {number(gap.high)}"
    return f'<span class="chip{kind}">{row.relation}</span><span class="ci">{shown}</span>'


def _verified(row: Row) -> str:
    if row.verified is None:
        return "no"
    return (
        '<span class="chip good">verified</span>'
        if row.verified
        else '<span class="chip bad">not reproduced</span>'
    )


def _whisker(figure: Figure, axis: _Axis) -> str:
    """A mean with its interval on the board's axis; dashed: persistence, dotted: the floor."""
    left, right = 4.0, 92.0

    def x(value: float) -> str:
        return f"{left + (right - left) * min(max(value, 0.0), axis.top) / axis.top:.1f}"

    marks = [f'<line class="axis" x1="{left}" x2="{right}" y1="20" y2="20"/>']
    marks += [
        f'<line class="{kind}" x1="{x(at)}" x2="{x(at)}" y1="0" y2="20"/>'
        for kind, at in axis.guides
    ]
    if figure.low is not None and figure.high is not None:
        marks.append(
            f'<line class="whisker" x1="{x(figure.low)}" x2="{x(figure.high)}" y1="10" y2="10"/>'
        )
    if figure.mean <= axis.top:
        marks.append(f'<circle class="point" cx="{x(figure.mean)}" cy="10" r="4.5"/>')
    else:
        marks.append('<path class="point" d="M86 4l8 6-8 6z"/>')
    return (
        f'<svg class="drawn" viewBox="0 0 96 22" role="img" aria-label="mean KL '
        f'{number(figure.mean)} on an axis from 0 to {axis.top:.3g}">{"".join(marks)}</svg>'
    )


# -- an entry --------------------------------------------------------------------------------


def entry_page(submission: Submission) -> str:
    """What an entry is, how its methods did, and how to make it again."""
    entry, checked, scores = submission.entry, submission.checked, submission.checked.scores
    assert scores is not None
    manifest = entry.manifest
    names = ", ".join(model.get("name", "?") for model in manifest.backbone)
    body = [
        f"<h1>{escape(names)}</h1>"
        f'<p class="lead">{escape(manifest.track)}, {escape(manifest.split)}: '
        f"{scores['cases']['count']} cases, {len(manifest.seeds)} seeds.</p>",
        _standing(submission),
        _dimension_map(scores),
        _domain_map(scores),
        _trajectories(submission),
        _studies(scores),
        _facts(submission),
        _again(submission),
    ]
    return _page(f"{names}: mfenv leaderboard", f"entries/{slug(checked)}.html", body)


def _standing(submission: Submission) -> str:
    standing, found = submission.checked.standing, submission.verification
    assert standing is not None
    if standing.unranked:
        text = f"<strong>No rank</strong>: {escape('; '.join(standing.unranked))}."
    else:
        text = "<strong>Ranked</strong>: on the official events, with the official settings."
    if found is None:
        verified = "<strong>Not verified</strong>: nothing was rerun."
    else:
        good = [m for m, ok in found.methods.items() if ok]
        bad = [m for m, ok in found.methods.items() if not ok]
        verified = ""
        if good:
            verified += (
                f"<strong>Verified</strong>: a random part of {escape(', '.join(good))} was "
            )
            verified += "rerun and came out the same. "
        if bad:
            verified += f"<strong>Not reproduced</strong>: {escape(', '.join(bad))}."
    return f'<section class="first"><p>{text}</p><p>{verified}</p></section>'


def _heat(
    title: str, note: str, columns: Sequence[str], rows: Sequence[tuple[str, Sequence[float]]]
) -> str:
    """A table whose cells are the darker the larger they are, on the scale of its rows."""
    known = np.array([values for _, values in rows], dtype=float)
    edges = np.quantile(known, np.arange(1, _LEVELS) / _LEVELS)
    head = "".join(f'<th scope="col">{escape(c.replace("_", " "))}</th>' for c in columns)
    lines = "".join(
        f'<tr><th scope="row" class="text">{escape(name)}</th>'
        + "".join(f'<td class="h{int(np.searchsorted(edges, v))}">{number(v)}</td>' for v in values)
        + "</tr>"
        for name, values in rows
    )
    identity = title.lower().replace(" ", "-")
    return (
        f'<section><h2 id="{identity}">{title}</h2><div class="scroll" role="region" '
        f'aria-labelledby="{identity}" tabindex="0"><table class="heat"><caption>'
        f"<span>{note}</span></caption>"
        f'<thead><tr><th scope="col">method</th>{head}</tr></thead><tbody>{lines}</tbody></table>'
        "</div></section>"
    )


def _dimension_map(scores: Mapping[str, Any]) -> str:
    names = [d.name for d in DIMENSIONS]
    rows = [
        (
            method,
            [scores["kl"][method]["mean"]]
            + [scores["kl"][method]["per_dimension"][d]["mean"] for d in names],
        )
        for method in (*scores["ranked"], FLOOR)
    ]
    return _heat(
        "KL by dimension",
        "KL(real ‖ simulated) in nats, best method first; darker is further from the real people.",
        ["all", *names],
        rows,
    )


def _domain_map(scores: Mapping[str, Any]) -> str:
    domains = scores["per_domain"]
    if not domains:
        return (
            '<section><h2>KL by domain</h2><p class="note">No domain has the ten events that '
            "figures of its own need.</p></section>"
        )
    return _heat(
        "KL by domain",
        "Mean KL of the domains that have ten events or more; darker is further.",
        [f"{name} ({row['cases']})" for name, row in domains.items()],
        [
            (method, [row[method]["mean"] for row in domains.values()])
            for method in (*scores["ranked"], FLOOR)
        ],
    )


def _trajectories(submission: Submission) -> str:
    """Shares over the steps of a few cases, of the best methods."""
    entry, scores = submission.entry, submission.checked.scores
    assert scores is not None
    core = core_of(entry)
    facts, played = entry.manifest.conditions[core], entry.played[core]
    chosen = [m for m in scores["ranked"] if m in facts.methods][:_LINES]
    colours = {method: f"c{i + 1}" for i, method in enumerate(chosen)}
    parts = []
    for k in range(min(_CASES, len(played.cases))):
        warm = _shares(played.warmup[k], facts.batch)
        real = np.concatenate([warm, _shares(played.real[k], facts.batch)])
        series = [(colours[m], _shares(played.simulated[m][:, k], facts.batch)) for m in chosen]
        case = entry.cases[played.cases[k]]
        domain = f", {escape(case.domain)}" if case.domain else ""
        parts.append(
            f"<details{' open' if k == 0 else ''}><summary>Case {played.cases[k]}{domain}"
            f"</summary><div class='panels'>{''.join(_panels(real, len(warm), series))}</div>"
            "</details>"
        )
    keys = legend([("real", "real"), *((m, c) for m, c in colours.items())])
    return (
        '<section><h2>Trajectories</h2><p class="note">Share of each label, step by step, in the '
        "first cases by number, of the methods with the lowest mean KL. Lines average three steps, "
        "bands span the seeds, dots are the real steps. Shaded: the warm-up, where everybody is "
        f"real.</p>{keys}{''.join(parts)}</section>"
    )


def _shares(labels: Labels, batch: int) -> Floats:
    """Shares ``(…, steps, 23)`` of labels ``(…, n, 8)``, step by step."""
    hot = one_hot(labels)
    starts = np.arange(0, labels.shape[-2], batch)
    sizes = np.minimum(starts + batch, labels.shape[-2]) - starts
    return np.asarray(np.add.reduceat(hot, starts, axis=-2) / sizes[:, None])


def _panels(real: Floats, warmup: int, series: Sequence[tuple[str, Floats]]) -> Iterator[str]:
    for d, dimension in enumerate(DIMENSIONS):
        # Of two labels one says it all.
        first = 1 if len(dimension.labels) == 2 else 0
        columns = [OFFSETS[d] + k for k in range(first, len(dimension.labels))]
        top = scale(real[:, columns], [s[..., columns] for _, s in series])
        for k, column in enumerate(columns, start=first):
            name = f"{dimension.name.replace('_', ' ')}: {dimension.labels[k]}"
            yield panel(name, column, real, warmup, series, top)


def _studies(scores: Mapping[str, Any]) -> str:
    if not scores["studies"]:
        return ""
    lines = "".join(
        f'<tr><th scope="row" class="text">{escape(name)}</th>'
        f'<td class="text">{escape(method)}</td>'
        f"<td>{study['cases']['count']}</td><td>{_interval(study['kl'][method])}</td>"
        f"<td>{_interval(study['kl'][method]['excess'])}</td></tr>"
        for name, study in {CORE: scores, **scores["studies"]}.items()
        for method in study["ranked"]
    )
    return (
        '<section><h2 id="studies">One thing changed at a time</h2><div class="scroll" '
        'role="region" aria-labelledby="studies" tabindex="0"><table><caption><span>Mean KL and '
        "excess over the floor of the same sizes; fewer cases where events are too short."
        "</span></caption>"
        "<thead><tr>"
        '<th scope="col" class="text">condition</th><th scope="col" class="text">method</th>'
        '<th scope="col">cases</th><th scope="col">mean KL</th><th scope="col">excess</th></tr>'
        f"</thead><tbody>{lines}</tbody></table></div></section>"
    )


def _interval(value: Mapping[str, Any]) -> str:
    if value["mean"] is None:
        return ""
    return _figure(Figure(value["mean"], value["low"], value["high"]))


def _facts(submission: Submission) -> str:
    entry, checked = submission.entry, submission.checked
    manifest = entry.manifest
    core = manifest.conditions[core_of(entry)]
    groups: dict[str, dict[str, str]] = {
        "Settings": {
            "warm-up": f"{core.warmup} reactions",
            "horizon": f"{core.horizon} reactions",
            "batch": f"{core.batch}",
            "seeds": ", ".join(map(str, manifest.seeds)),
            "sampling": core.sampling,
            "annotator": manifest.annotator,
            "baseline": manifest.baseline,
        },
        "Cost": {
            "decisions": f"{core.usage.decisions:,}",
            "seconds": f"{core.usage.seconds:,.0f}",
            "prompt tokens": f"{core.usage.prompt_tokens:,}",
            "written tokens": f"{core.usage.completion_tokens:,}",
            **{f"cost, {c}": f"{x:,.2f}" for c, x in sorted((manifest.cost or {}).items())},
            "machine": manifest.machine,
        },
        "Hashes": {
            "entry.json": checked.digest,
            "events": manifest.events,
            f"data ({manifest.data['file']})": manifest.data["sha256"],
            "prompts": manifest.prompts,
            "mfenv": manifest.package,
        },
        "Methods": dict(core.methods),
    }
    for i, model in enumerate(manifest.backbone):
        title = "Backbone" if len(manifest.backbone) == 1 else f"Backbone {i + 1}"
        groups[title] = dict(sorted(model.items()))
    shown = "".join(
        f"<div><h3>{title}</h3><dl>"
        + "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in facts.items())
        + "</dl></div>"
        for title, facts in groups.items()
    )
    return f'<section><h2>Settings and hashes</h2><div class="facts">{shown}</div></section>'


def _again(submission: Submission) -> str:
    found = submission.verification
    rerun = ""
    if found is not None:
        rerun = f"<h3>What was rerun</h3><pre>{escape(chr(10).join(found.lines))}</pre>"
    return (
        "<section><h2>How to make it again</h2><p>The command as the entry gives it. It was "
        "written by the entry's author: read it before you run it.</p>"
        f"<pre>{escape(submission.entry.manifest.command)}</pre>"
        "<p>To rerun a random part and compare it with the journals:</p>"
        f"<pre>mfenv leaderboard verify ENTRY --fraction 0.1</pre>{rerun}</section>"
    )


# -- how it is scored ------------------------------------------------------------------------


def method_page() -> str:
    """What the columns mean, and what can be believed of them."""
    tracks = "".join(
        f"<li><strong>{escape(t.name)}</strong>: {escape(t.what)}; a warm-up of {t.warmup} real "
        f"reactions, then {t.horizon}; the texts that are written are "
        f"{'public' if t.open_text else 'kept private'}.</li>"
        for t in TRACKS.values()
    )
    body = [_asset("method.html").format(tracks=tracks, seeds=MIN_SEEDS, **_rule_in_words())]
    return _page("How the mfenv leaderboard is scored", "method.html", body)


def _rule_in_words() -> dict[str, str]:
    return {
        "texts": f"{100 * RULE.texts:.0f}%",
        "calibrated": f"{100 * RULE.calibrated:.0f}%",
        "free": f"{100 * RULE.free_labels:.0f}%",
        "relabelled": f"{100 * RULE.relabelled:.0f}%",
        "likelihood": f"{100 * RULE.likelihood:g}%",
    }
