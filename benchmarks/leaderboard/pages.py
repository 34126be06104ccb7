"""The pages on fidelity and on method: pure functions from rows and entries to HTML."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.compare import FLOOR, PERSISTENCE
from benchmarks.drawing import escape, legend, nice, number, panel, scale
from benchmarks.fidelity.conditions import CORE
from benchmarks.fidelity.tracks import TRACKS
from benchmarks.leaderboard.check import MIN_SEEDS
from benchmarks.leaderboard.frame import (
    again,
    asset,
    cell,
    count,
    cut,
    facts_list,
    filters,
    group,
    heading,
    page,
    shown_figure,
    shown_interval,
    skipped_entries,
    standing,
    table_row,
    verified_chip,
    whisker,
)
from benchmarks.leaderboard.outcomes import MIN_EVENTS
from benchmarks.leaderboard.rows import Board, Figure, Row, Submission, core_of, slug
from benchmarks.leaderboard.verification import RULE
from mfenv.labels import DIMENSIONS, OFFSETS, Labels, one_hot

__all__ = ["entry_page", "index_page", "method_page"]

Floats = NDArray[np.float64]

_CASES = 3  # whose trajectories are drawn
_LINES = 3  # methods in a drawing
_LEVELS = 5  # of a heat map


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
        skipped_entries(skipped),
        filters({_board_id(b): _board_name(b) for b in boards}, "Backbone or method", "Track")
        if boards
        else "<p>There are no entries yet.</p>",
        *(_board(board) for board in boards),
    ]
    return page("mfenv leaderboard", "index.html", body, script=True)


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
    ("Intervention outcome", "text"),
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
    empty = set()
    if not any(row.cost for row in board.rows):
        empty.add("Cost")
    if not any(row.outcomes for row in board.rows):
        empty.add("Intervention outcome")
    columns = [c for c in _COLUMNS if c[0] not in empty]
    ranked = [r for r in board.rows if not r.unranked]
    rest = [r for r in board.rows if r.unranked]
    body = ""
    for rows, title in ((ranked, ""), (rest, _NO_RANK)):
        if rows:
            axis = _axis(rows)
            lines = "".join(_row(row, axis, empty) for row in rows)
            body += f"<tbody>{group(title, len(columns))}{lines}</tbody>"
    name = escape(_board_name(board))
    track = TRACKS[board.track]
    return (
        f'<section data-board="{_board_id(board)}"><h2 id="{_board_id(board)}">{name}</h2>'
        f'<p class="note">{escape(track.what[0].upper() + track.what[1:])}. Lower is better in the '
        "columns of KL, IQM and ΔNLL. Drawn: the mean KL with its interval; dashed: persistence, "
        "dotted: the noise floor.</p>"
        f'<div class="scroll" role="region" aria-labelledby="{_board_id(board)}" tabindex="0">'
        f'<table class="board"><caption><span>Results on {name}; the buttons in the headings sort.'
        f"</span></caption>{heading(columns)}{body}</table></div></section>"
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


def _row(row: Row, axis: _Axis, empty: Container[str]) -> str:
    method = row.kind == "method"
    name = (
        f'<a href="entries/{row.entry}.html">{escape(cut(row.backbone, 60))}</a>'
        f'<span class="sub">{escape(cut(row.revision, 16))}</span>'
        if method
        else "no model"
    )
    verified = {True: "verified", False: "not reproduced", None: "no"}[row.verified]
    cost = " ".join(f"{x:,.2f} {escape(c)}" for c, x in sorted((row.cost or {}).items()))
    speed = row.decisions_per_second
    excess = shown_figure(row.excess, sign=True)
    if row.floor:
        excess += f'<span class="ci">{row.floor} the floor</span>'
    cells = {
        "Rank": cell("Rank", row.rank, "" if row.rank is None else str(row.rank)),
        "Backbone": f'<th scope="row" class="text" data-value="{escape(row.backbone)}">'
        f'<span class="name">{name}</span></th>',
        "Method": cell("Method", row.method, escape(row.method), "text lead"),
        "Mean KL": cell(
            "Mean KL",
            row.kl.mean,
            shown_figure(row.kl) + whisker("mean KL", row.kl, 0.0, axis.top, axis.guides),
            "figure lead kl",
        ),
        "Excess KL": cell("Excess KL", _mean(row.excess), excess, "figure"),
        "Against persistence": cell(
            "Against persistence", _mean(row.against_persistence), _relation(row), "text figure"
        ),
        "IQM": cell("IQM", _mean(row.iqm), shown_figure(row.iqm), "figure"),
        "ΔNLL": cell("ΔNLL", _mean(row.nll), shown_figure(row.nll, 3, sign=True), "figure"),
        "Decisions/s": cell("Decisions/s", speed, "" if speed is None else f"{speed:,.1f}"),
        "Tokens": cell("Tokens", row.tokens, "" if row.tokens is None else count(row.tokens)),
        "Cost": cell("Cost", sum((row.cost or {}).values()) if row.cost else None, cost),
        "Intervention outcome": cell(
            "Intervention outcome",
            row.outcomes[0].net.mean if row.outcomes else None,
            _outcomes(row) if method else "",
            "text",
        ),
        "Seeds": cell("Seeds", row.seeds, str(row.seeds)),
        "Verified": cell(
            "Verified",
            verified if method else None,
            verified_chip(row.verified) if method else "",
            "text",
        ),
        "Events": cell(
            "Events", row.events, escape(row.events.replace(" of the official list", "")), "text"
        ),
    }
    return table_row(
        row.kind,
        f"{row.backbone} {row.revision} {row.method}",
        not row.unranked,
        row.verified is True,
        [html for column, html in cells.items() if column not in empty],
    )


def _outcomes(row: Row) -> str:
    """The best planner's net uplift in this simulator, with the way to its board."""
    return (
        "".join(
            f'<a href="planners.html#{x.board}">{escape(cut(x.planner, 40))}</a>'
            f'<span class="figure">{shown_figure(x.net, sign=True)}</span>'
            for x in row.outcomes
        )
        or "–"
    )


def _mean(figure: Figure | None) -> float | None:
    return None if figure is None else figure.mean


def _relation(row: Row) -> str:
    if not row.relation or row.against_persistence is None:
        return ""
    kind = {"better": " good", "worse": " bad", "not clear": ""}[row.relation]
    gap = row.against_persistence
    shown = number(gap.mean)
    if gap.low is not None and gap.high is not None:
        shown = f"{number(gap.low)} to {number(gap.high)}"
    return f'<span class="chip{kind}">{row.relation}</span><span class="ci">{shown}</span>'


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
        standing(checked.standing.unranked if checked.standing else (), submission.verification),
        _dimension_map(scores),
        _domain_map(scores),
        _trajectories(submission),
        _studies(scores),
        _facts(submission),
        again(manifest.command, submission.verification),
    ]
    return page(f"{names}: mfenv leaderboard", f"entries/{slug(checked)}.html", body)


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
        f"<td>{study['cases']['count']}</td><td>{shown_interval(study['kl'][method])}</td>"
        f"<td>{shown_interval(study['kl'][method]['excess'])}</td></tr>"
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
    return facts_list(groups)


# -- how it is scored ------------------------------------------------------------------------


def method_page() -> str:
    """What the columns mean, and what can be believed of them."""
    tracks = "".join(
        f"<li><strong>{escape(t.name)}</strong>: {escape(t.what)}; a warm-up of {t.warmup} real "
        f"reactions, then {t.horizon}; the texts that are written are "
        f"{'public' if t.open_text else 'kept private'}.</li>"
        for t in TRACKS.values()
    )
    body = [
        asset("method.html").format(
            tracks=tracks, seeds=MIN_SEEDS, events=MIN_EVENTS, **_rule_in_words()
        )
    ]
    return page("How the mfenv leaderboard is scored", "method.html", body)


def _rule_in_words() -> dict[str, str]:
    return {
        "texts": f"{100 * RULE.texts:.0f}%",
        "calibrated": f"{100 * RULE.calibrated:.0f}%",
        "free": f"{100 * RULE.free_labels:.0f}%",
        "relabelled": f"{100 * RULE.relabelled:.0f}%",
        "likelihood": f"{100 * RULE.likelihood:g}%",
    }
