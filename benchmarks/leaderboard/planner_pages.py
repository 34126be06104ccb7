"""The pages on planners: their boards, and what each of them did in an entry.

An outcome stands nowhere without the fidelity of the simulator that it was measured in.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.planners.play import budgeted
from benchmarks.drawing import escape, legend, nice, number, percent
from benchmarks.intervention.gate import Fidelity
from benchmarks.intervention.lineup import NOTHING
from benchmarks.intervention.tables import HARM
from benchmarks.leaderboard.frame import (
    again,
    cell,
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
from benchmarks.leaderboard.planner_board import Outcome, PlannerBoard, PlannerRow, outcome_page
from benchmarks.leaderboard.rows import Figure
from mfenv.interventions import INTENSITIES, KINDS

__all__ = ["outcome_entry_page", "planners_page"]

Floats = NDArray[np.float64]

_STEPS = 96  # columns of a timeline; the steps of longer episodes are averaged in blocks

_NOT_THE_PUBLIC = (
    "It is not the public: nothing here says what an intervention would do to real people."
)


def planners_page(boards: Sequence[PlannerBoard], skipped: Mapping[str, str]) -> str:
    """All boards of planners. ``skipped`` are entries that were left out."""
    body = [
        "<h1>What do interventions achieve in simulated populations?</h1>"
        '<p class="lead">A planner chooses what to do, when and how strongly, under a budget. It '
        "is compared with doing nothing on the same events, from the same start and under the same "
        f"noise of every person. {_NOT_THE_PUBLIC}</p>"
        "<p>Every figure was computed from an entry's episodes, none is claimed. The small figures "
        "are 95% intervals over events and seeds. "
        '<a href="method.html#planners">How it is scored</a> says what the columns mean.</p>',
        skipped_entries(skipped),
        filters({b.id: b.name for b in boards}, "Planner", "Simulator")
        if boards
        else "<p>There are no entries of planners yet.</p>",
        *(_board(board) for board in boards),
    ]
    return page("Planners: mfenv leaderboard", "planners.html", body, script=True)


_COLUMNS = (
    ("Rank", ""),
    ("Planner", "text"),
    ("Net uplift", ""),
    ("Uplift", ""),
    ("Harm avoided per cost", ""),
    ("Cost", ""),
    ("Refused", ""),
    ("Of the oracle’s", ""),
    ("Survives transfer", ""),
    ("Simulator’s fidelity", "text"),
    ("Seeds", ""),
    ("Verified", "text"),
    ("Events", "text"),
)
"""Headings, and the classes of their cells."""

_NO_RANK = (
    "No rank: other events, other settings, too few seeds, or a simulator of unknown fidelity. "
    "These figures cannot be compared with the ranked ones."
)


def _board(board: PlannerBoard) -> str:
    empty = set()
    if not any(row.oracle for row in board.rows):
        empty.add("Of the oracle’s")
    if not any(row.survives_from for row in board.rows):
        empty.add("Survives transfer")
    columns = [c for c in _COLUMNS if c[0] not in empty]
    body = ""
    for rows, title in (
        ([r for r in board.rows if not r.unranked], ""),
        ([r for r in board.rows if r.unranked], _NO_RANK),
    ):
        if rows:
            axis = _axis(rows)
            lines = "".join(_row(row, axis, empty) for row in rows)
            body += f"<tbody>{group(title, len(columns))}{lines}</tbody>"
    name = escape(board.name)
    target = f" Target: <code>{escape(cut(board.target, 300))}</code>." if board.target else ""
    known = {(r.fidelity.statement if r.fidelity else "", r.fidelity_page): r for r in board.rows}
    beside = "".join(_beside(r.fidelity, board.name, r.fidelity_page) for r in known.values())
    return (
        f'<section data-board="{board.id}"><h2 id="{board.id}">{name}</h2>{beside}'
        f'<p class="note">Harm: {HARM[board.objective]}.{target} Higher is better in the columns '
        "of uplift. Drawn: the net uplift with its interval; dashed: nothing is gained.</p>"
        f'<div class="scroll" role="region" aria-labelledby="{board.id}" tabindex="0">'
        f'<table class="board"><caption><span>Planners in {name}; the buttons in the headings '
        f"sort.</span></caption>{heading(columns)}{body}</table></div></section>"
    )


def _beside(fidelity: Fidelity | None, simulator: str, source: str = "", up: str = "") -> str:
    """What is known of a simulator: the sentence that stands beside every outcome."""
    if fidelity is None:
        return (
            f'<p class="beside unknown"><strong>Fidelity unknown</strong>: nobody measured how '
            f"close {escape(simulator)} comes to a real population, so what is achieved in it has "
            f"no rank.</p>"
        )
    link = f' (<a href="{up}entries/{source}.html">measured here</a>)' if source else ""
    return (
        f'<p class="beside"><strong>Simulator</strong>: {escape(fidelity.simulator)}. '
        f"<strong>Fidelity</strong>: {escape(fidelity.statement)}{link}.</p>"
    )


def _axis(rows: Sequence[PlannerRow]) -> tuple[float, float]:
    """Ends of the axis that net uplifts are drawn on; zero is on it."""
    lows = [r.net.mean if r.net.low is None else r.net.low for r in rows]
    highs = [r.net.mean if r.net.high is None else r.net.high for r in rows]
    top, bottom = nice(max(1e-3, *highs, 0.0)), -nice(max(1e-3, -min([*lows, 0.0])))
    return (0.0 if min(lows) >= 0 else bottom), top


def _row(row: PlannerRow, axis: tuple[float, float], empty: Container[str]) -> str:
    described = " ".join(
        x for x in (row.planner if row.planner != row.label else "", row.revision) if x
    )
    name = (
        f'<a href="entries/{row.entry}.html">{escape(cut(row.label, 60))}</a>'
        f'<span class="sub">{escape(cut(described, 64))}</span>'
    )
    verified = {True: "verified", False: "not reproduced", None: "no"}[row.verified]
    survives = shown_figure(row.survives, 3)
    if row.survives_from:
        survives = f'{survives or "–"}<span class="ci">of {escape(row.survives_from)}</span>'
    net = shown_figure(row.net, sign=True) + whisker("net uplift", row.net, *axis, [("guide", 0.0)])
    fidelity = "fidelity unknown" if row.fidelity is None else row.fidelity.short
    cells = {
        "Rank": cell("Rank", row.rank, "" if row.rank is None else str(row.rank)),
        "Planner": f'<th scope="row" class="text" data-value="{escape(row.label)}">'
        f'<span class="name planner">{name}</span></th>',
        "Net uplift": cell("Net uplift", row.net.mean, net, "figure lead net"),
        "Uplift": cell("Uplift", row.uplift.mean, shown_figure(row.uplift, sign=True), "figure"),
        "Harm avoided per cost": cell(
            "Harm avoided per cost", _mean(row.per_cost), shown_figure(row.per_cost), "figure"
        ),
        "Cost": cell("Cost", row.cost, number(row.cost, 2)),
        "Refused": cell("Refused", row.refused, number(row.refused, 2)),
        "Of the oracle’s": cell(
            "Of the oracle’s", _mean(row.oracle), shown_figure(row.oracle, 3), "figure"
        ),
        "Survives transfer": cell("Survives transfer", _mean(row.survives), survives, "figure"),
        "Simulator’s fidelity": cell(
            "Simulator’s fidelity", fidelity, escape(fidelity), "text fidelity"
        ),
        "Seeds": cell("Seeds", row.seeds, str(row.seeds)),
        "Verified": cell("Verified", verified, verified_chip(row.verified), "text"),
        "Events": cell("Events", row.events, escape(row.events), "text"),
    }
    return table_row(
        row.kind,
        f"{row.label} {row.planner} {row.revision}",
        not row.unranked,
        row.verified is True,
        [html for column, html in cells.items() if column not in empty],
    )


def _mean(figure: Figure | None) -> float | None:
    return None if figure is None else figure.mean


# -- an entry --------------------------------------------------------------------------------


def outcome_entry_page(
    outcome: Outcome, fidelity: Fidelity | None, source: str, unranked: Sequence[str]
) -> str:
    """What an entry is, what each of its planners did when, and what it achieved.

    ``source`` is the page on this site that the fidelity comes from, or "".
    """
    entry, scores = outcome.entry, outcome.checked.scores
    assert scores is not None
    simulator = outcome.simulator
    title = f"Planners in {simulator.name}"
    beside = _beside(fidelity, simulator.name, source, "../")
    body = [
        f"<h1>{escape(title)}</h1>"
        f'<p class="lead">{escape(entry.setting.objective)}, {len(entry.events)} events, '
        f"{entry.seeds} seeds, budget {entry.setting.budget:g}. {_NOT_THE_PUBLIC}</p>{beside}",
        standing(unranked, outcome.verification),
        _by_truth(entry.setting.objective, scores, beside),
        _curves(outcome, beside),
        _facts(outcome),
        again(entry.command, outcome.verification),
    ]
    return page(
        f"{title}: mfenv leaderboard", f"entries/{outcome_page(outcome.checked)}.html", body
    )


def _by_truth(objective: str, scores: Mapping[str, Any], beside: str) -> str:
    """Net uplift of every planner, and the same for false and for true topics."""
    rows = scores["planners"]
    truths = [*rows[NOTHING]["by_truth"]]
    truths = truths if len(truths) == 2 else []
    head = "".join(f'<th scope="col">{t} topics</th>' for t in truths)
    lines = "".join(
        f'<tr><th scope="row" class="text">{escape(label)}</th>'
        f'<td class="figure">{shown_interval(rows[label]["net"], sign=True)}</td>'
        + "".join(
            f'<td class="figure">{shown_interval(rows[label]["by_truth"][t], sign=True)}</td>'
            for t in truths
        )
        + f"<td>{number(rows[label]['harm'], 4)}</td><td>{number(rows[label]['peak'], 4)}</td>"
        f"<td>{percent(rows[label]['half']['reached'])}</td></tr>"
        for label in scores["ranked"]
    )
    return (
        '<section><h2 id="truth">Net uplift by truth of the topic</h2>'
        f'{beside}<div class="scroll" role="region" aria-labelledby="truth" tabindex="0">'
        f'<table class="by-truth"><caption><span>Harm: {HARM[objective]}. Planners do not see '
        "which topics are true. Peak: the highest harm of three successive steps; halved: part of "
        "the events whose harm falls to half of that without intervention.</span></caption>"
        "<thead><tr>"
        '<th scope="col" class="text">planner</th><th scope="col">net uplift</th>'
        f'{head}<th scope="col">harm</th><th scope="col">peak</th><th scope="col">halved</th>'
        f"</tr></thead><tbody>{lines}</tbody></table></div></section>"
    )


def _curves(outcome: Outcome, beside: str) -> str:
    """Harm by step and the timeline of actions, a panel for each planner."""
    scores = outcome.checked.scores
    assert scores is not None
    curves = {label: scores["planners"][label]["curve"] for label in scores["ranked"]}
    top = nice(max(1e-3, *(v for c in curves.values() for v in c)))
    labels = list(outcome.entry.planners)
    panels = "".join(
        _panel(label, curve, curves[NOTHING], _timeline(outcome, labels.index(label)), top)
        for label, curve in curves.items()
        if label != NOTHING
    )
    keys = legend([("with the planner", "c2"), ("without intervention", "plain")])
    return (
        '<section><h2>Harm and actions, step by step</h2><p class="note">Mean harm over events and '
        "seeds, best planner first. Below it: in which part of the episodes each kind of "
        "intervention was used at that step (the darker the more), of what the budget paid.</p>"
        f'{beside}{keys}<div class="panels wide">{panels}</div></section>'
    )


def _timeline(outcome: Outcome, p: int) -> Floats:
    """Share of the running episodes that use each kind at each step ``(6, T)``."""
    setting, played = outcome.entry.setting, outcome.entry.episodes
    done, _ = budgeted(played.wanted[p], setting.budget)  # (S, E, T)
    kind = (done - 1) // len(INTENSITIES)  # none is -1
    running = np.broadcast_to(np.arange(setting.horizon) < played.steps[:, None], done.shape)
    used = np.stack([((kind == k) & running).sum(axis=(0, 1)) for k in range(len(KINDS))])
    return np.asarray(used / np.maximum(running.sum(axis=(0, 1)), 1))


def _panel(
    label: str, curve: Sequence[float], without: Sequence[float], used: Floats, top: float
) -> str:
    left, right, bottom, height, row = 90.0, 296.0, 98.0, 90.0, 14.0
    steps = used.shape[1]

    def line(kind: str, values: Sequence[float]) -> str:
        points = " ".join(
            f"{left + (right - left) * (t + 0.5) / steps:.1f},{bottom - height * v / top:.1f}"
            for t, v in enumerate(values)
        )
        return f'<polyline class="{kind}" points="{points}"/>'

    parts = []
    for part in (0.0, 0.5, 1.0):
        y = bottom - height * part
        parts.append(
            f'<line class="grid" x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text class="tick" x="{left - 5}" y="{y + 3.5:.1f}" text-anchor="end">'
            f"{part * top:.3g}</text>"
        )
    parts += [line("plain", without), line("c2", curve)]
    stride = -(-steps // _STEPS)
    for k, kind in enumerate(KINDS):
        y = bottom + 8 + row * k
        parts.append(
            f'<text class="tick" x="{left - 5}" y="{y + 10:.1f}" text-anchor="end">'
            f"{kind.replace('_', ' ')}</text>"
            f'<line class="grid" x1="{left}" x2="{right}" y1="{y + row:.1f}" y2="{y + row:.1f}"/>'
        )
        for first in range(0, steps, stride):
            share = float(used[k, first : first + stride].mean())
            if share > 0:
                x, end = (
                    left + (right - left) * min(t, steps) / steps for t in (first, first + stride)
                )
                parts.append(
                    f'<rect class="did" x="{x:.1f}" y="{y + 1:.1f}" width="{end - x - 0.6:.1f}" '
                    f'height="{row - 2}" opacity="{0.15 + 0.85 * share:.2f}"/>'
                )
    foot = bottom + 8 + row * len(KINDS) + 12
    for step in sorted({1, steps}):
        x = left + (right - left) * (step - 0.5) / steps
        parts.append(
            f'<text class="tick" x="{x:.1f}" y="{foot}" text-anchor="middle">{step}</text>'
        )
    most = sorted(range(len(KINDS)), key=lambda k: -used[k].mean())
    said = ", ".join(
        f"{KINDS[k].replace('_', ' ')} {percent(float(used[k].mean()))}"
        for k in most
        if used[k].any()
    )
    return (
        f'<figure class="panel"><figcaption>{escape(cut(label, 80))}</figcaption>'
        f'<svg viewBox="0 0 300 {foot + 4:.0f}" role="img" aria-label="harm by step with '
        f"{escape(cut(label, 80))}: from {number(curve[0])} to {number(curve[-1])}, without "
        f'intervention {number(without[-1])}; used over all steps: {said or "nothing"}">'
        f"{''.join(parts)}</svg></figure>"
    )


def _facts(outcome: Outcome) -> str:
    entry, simulator = outcome.entry, outcome.simulator
    setting = entry.setting
    groups: dict[str, Mapping[str, str]] = {
        "Settings": {
            "tier": simulator.tier,
            **({"method": simulator.method} if simulator.method else {}),
            "objective": setting.objective,
            "events": f"{setting.events or 'synthetic'}, {setting.split or 'all'}",
            "horizon": f"{setting.horizon} steps",
            "budget": f"{setting.budget:g}",
            "cost weight": f"{setting.cost_weight:g}",
            "batch": f"{setting.batch}",
            "warm-up": f"{setting.warmup} reactions",
            **{k: str(v) for k, v in sorted(setting.more.items())},
        },
        "Entry": {
            "entry.json": outcome.checked.digest,
            "mfenv": entry.package,
            "machine": entry.machine,
        },
        **{
            kind.capitalize(): dict(sorted(model.items()))
            for kind, model in sorted(entry.models.items())
        },
        "Planners": {
            label: " ".join(x for x in (p["name"], p["revision"]) if x)
            for label, p in entry.planners.items()
        },
    }
    return facts_list(groups)
