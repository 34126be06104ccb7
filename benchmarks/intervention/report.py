"""One self-contained page on a planner and an event: curves with and without, what it did, why.

:func:`render` is a pure function from a :class:`Report` to HTML. Topic and reactions are untrusted:
every text is escaped. The uplift's interval and the simulator's fidelity stand beside every claim.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.drawing import escape, legend, nice, number, percent
from benchmarks.metrics import Interval
from benchmarks.page import document, facts
from mfenv.interventions import INTENSITIES, KINDS, action_name, decode_action
from mfenv.labels import NAMES

__all__ = ["Policy", "Report", "Said", "render"]

Floats = NDArray[np.float64]
Actions = NDArray[np.int64]

_SHOWN = (
    "belief/believe",
    "rumor/spread",
    "stance/support",
    "stance/oppose",
    "behavior/share",
    "intent/question",
)


@dataclass(frozen=True, slots=True)
class Said:
    """The same people in one step, with and without; what was planted is left out."""

    step: int  # from 1
    without: Sequence[str]
    with_it: Sequence[str]


@dataclass(frozen=True, slots=True)
class Policy:
    """What the planner would do at each step if the rumour's share were another one."""

    shares: Sequence[float]  # (Y,) ascending
    actions: Actions  # (Y, T)
    path: Sequence[float]  # (T,) the rumour's share that it really saw


@dataclass(frozen=True, slots=True)
class Report:
    """Everything the page shows. Arrays are ``(K, T)``: seeds, steps."""

    title: str
    topic: str
    language: str
    planner: str
    objective: str
    simulator: str
    fidelity: str
    budget: float
    uplift: Interval
    net: Interval
    harm_without: Floats
    harm_with: Floats
    shares_without: Floats  # (K, T, 23)
    shares_with: Floats
    actions: Actions  # what was paid
    cost: Floats
    refused: int
    said: Sequence[Said]
    changed: tuple[int, int, int] | None
    """Reactions of the first seed since the first intervention: all, other words, other belief."""
    policy: Policy | None
    facts: Mapping[str, Mapping[str, str]]
    command: str
    notes: Sequence[str] = ()


def render(report: Report) -> str:
    """Write the page. The same report gives the same bytes."""
    parts = [
        _header(report),
        _verdict(report),
        _curves(report),
        _timeline(report),
        _labels(report),
        _said(report),
        _policy(report),
        _limits(report),
        facts(report.facts, report.command),
    ]
    return document(report.title, parts, _STYLE)


def _beside(report: Report) -> str:
    """What stands beside every claim."""
    return (
        f"<p class='note beside'>Uplift {_interval(report.uplift)} over "
        f"{_seeds(report)}. Simulator: {escape(report.simulator)}; fidelity: "
        f"{escape(report.fidelity)}.</p>"
    )


def _seeds(report: Report) -> str:
    k = len(report.harm_with)
    return f"{k} seed{'s' if k > 1 else ''}"


def _interval(x: Interval) -> str:
    sign = "+" if x.mean > 0 else ""
    if math.isnan(x.low):
        return f"{sign}{number(x.mean)} (one seed: no interval)"
    return f"{sign}{number(x.mean)} [{number(x.low)}, {number(x.high)}]"


def _header(report: Report) -> str:
    return (
        "<header><p class='eyebrow'>mfenv intervention</p>"
        f"<h1>{escape(report.title)}</h1>"
        f'<blockquote lang="{escape(report.language)}" dir="auto">{escape(report.topic)}'
        "</blockquote></header>"
    )


def _verdict(report: Report) -> str:
    without, with_it = report.harm_without.mean(), report.harm_with.mean()
    spent = float(report.cost.sum(axis=1).mean())
    if math.isnan(report.uplift.low):
        word = "One seed says little: there is no interval."
    elif report.uplift.low > 0:
        word = "In this simulator, on this event, it helps."
    elif report.uplift.high < 0:
        word = "In this simulator, on this event, it <strong>does harm</strong>."
    else:
        word = "The interval includes 0: no effect is shown."
    notes = "".join(f"<p class='note'>{escape(n)}</p>" for n in report.notes)
    return (
        f"<section><h2>What it achieves</h2><p>Harm ({escape(report.objective)}), mean over the "
        f"episode: {number(float(without))} without intervention, {number(float(with_it))} with "
        f"<strong>{escape(report.planner)}</strong>. Uplift {_interval(report.uplift)}, net of "
        f"cost {_interval(report.net)}; it spends {number(spent, 2)} of "
        f"{report.budget:g}. {word}</p>{_beside(report)}{notes}</section>"
    )


# -- charts ------------------------------------------------------------------------------------


def _chart(
    series: Sequence[tuple[str, Floats]], top: float, name: str, *, width: int, height: int
) -> str:
    """Lines of means with bands over the seeds, as SVG; ``series`` are (class, ``(K, T)``)."""
    left, right, bottom, high = 40.0, width - 8.0, height - 22.0, height - 32.0
    steps = series[0][1].shape[1]

    def x(step: float) -> float:
        return float(left + (right - left) * (step - 0.5) / steps)

    def y(value: float) -> float:
        return bottom - high * min(max(value, 0.0), top) / top

    def points(values: Floats) -> list[str]:
        return [f"{x(t + 1):.1f},{y(float(v)):.1f}" for t, v in enumerate(values)]

    parts = []
    for part in (0.0, 0.25, 0.5, 0.75, 1.0):
        at = bottom - high * part
        parts.append(
            f'<line class="grid" x1="{left}" x2="{right}" y1="{at:.1f}" y2="{at:.1f}"/>'
            f'<text class="tick" x="{left - 5}" y="{at + 3.5:.1f}" text-anchor="end">'
            f"{part * top:.3g}</text>"
        )
    for step in sorted({1, (steps + 1) // 2, steps}):
        parts.append(
            f'<text class="tick" x="{x(step):.1f}" y="{bottom + 14}" text-anchor="middle">'
            f"{step}</text>"
        )
    lines = []
    for kind, values in series:
        if len(values) > 1:
            around = points(values.min(axis=0)) + points(values.max(axis=0))[::-1]
            parts.append(f'<polygon class="band {kind}" points="{" ".join(around)}"/>')
        lines.append(f'<polyline class="{kind}" points="{" ".join(points(values.mean(axis=0)))}"/>')
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(name)}">'
        f"{''.join(parts + lines)}</svg>"
    )


def _names(report: Report) -> str:
    return legend([("without intervention", "c1"), ("with the planner", "with")])


def _curves(report: Report) -> str:
    every = np.concatenate([report.harm_without, report.harm_with])
    top = nice(max(float(every.max()), 1e-3))
    chart = _chart(
        [("c1", report.harm_without), ("with", report.harm_with)],
        top,
        "harm over the steps, without and with the planner",
        width=720,
        height=280,
    )
    return (
        "<section><h2>Harm, with and without</h2><p class='note'>The same event, start and noise "
        "of every agent twice. Lines: mean over the seeds; bands: lowest to highest.</p>"
        f"{_names(report)}<figure class='wide'><div class='scroll'>{chart}</div><figcaption>harm "
        f"by step</figcaption></figure>{_beside(report)}</section>"
    )


def _timeline(report: Report) -> str:
    seeds, steps = report.actions.shape
    used = [
        k
        for k in range(len(KINDS))
        if ((report.actions - 1) // len(INTENSITIES) == k)[report.actions > 0].any()
    ]
    if not used:
        return "<section><h2>What it did</h2><p>It did nothing.</p></section>"
    left, cell, row = 132, 36, 28
    width, height = left + cell * steps + 8, row * (len(used) + 1) + 24
    parts = []
    for i, kind in enumerate(used):
        y = row * i + 4
        parts.append(
            f'<text class="name" x="{left - 8}" y="{y + 18}" text-anchor="end">'
            f"{KINDS[kind].replace('_', ' ')}</text>"
        )
        for t in range(steps):
            here = [decode_action(a) for a in report.actions[:, t] if a > 0]
            here = [u for u in here if u.kind == kind]
            strength = sum(u.strength for u in here) / seeds
            opacity = f"{strength:.2f}"
            label = "" if not here else f"{len(here)} of {seeds}"
            parts.append(
                f'<rect class="cell" x="{left + cell * t}" y="{y}" width="{cell - 3}" '
                f'height="{row - 4}"/>'
            )
            if here:
                parts.append(
                    f'<rect class="kind{kind}" x="{left + cell * t}" y="{y}" width="{cell - 3}" '
                    f'height="{row - 4}" opacity="{opacity}"><title>step {t + 1}: {label} seeds, '
                    f"mean strength {opacity}</title></rect>"
                )
    y = row * len(used) + 4
    parts.append(f'<text class="name" x="{left - 8}" y="{y + 18}" text-anchor="end">cost</text>')
    for t in range(steps):
        mean = float(report.cost[:, t].mean())
        if mean > 0:
            parts.append(
                f'<text class="tick" x="{left + cell * t + cell / 2 - 2:.1f}" y="{y + 18}" '
                f'text-anchor="middle">{mean:.2f}</text>'
            )
        parts.append(
            f'<text class="tick" x="{left + cell * t + cell / 2 - 2:.1f}" y="{height - 4}" '
            f'text-anchor="middle">{t + 1}</text>'
        )
    rows = "".join(
        f"<tr><th scope='row'>{t + 1}</th><td>{action_name(int(a)).replace('_', ' ')}</td>"
        f"<td>{report.cost[0, t]:.2f}</td><td>{report.cost[0, : t + 1].sum():.2f}</td></tr>"
        for t, a in enumerate(report.actions[0])
        if a > 0
    )
    refused = (
        f" It asked {report.refused} times for more than was left of the budget."
        if report.refused
        else ""
    )
    return (
        "<section><h2>What it did</h2><p class='note'>Interventions by step; the deeper the "
        f"colour, the stronger on average over the {_seeds(report)}. Below: mean cost.{refused}</p>"
        f'<figure class="wide"><div class="scroll"><svg class="grid-chart" viewBox="0 0 {width} '
        f'{height}" role="img" aria-label="interventions and cost by step">{"".join(parts)}</svg>'
        "</div></figure><details><summary>the first seed, step by step</summary>"
        "<div class='scroll'><table class='figures'><thead><tr><th>step</th><th>intervention</th>"
        f"<th>cost</th><th>spent</th></tr></thead><tbody>{rows}</tbody></table></div></details>"
        "</section>"
    )


def _labels(report: Report) -> str:
    panels = []
    for name in _SHOWN:
        c = NAMES.index(name)
        pair = [report.shares_without[..., c], report.shares_with[..., c]]
        top = nice(max(0.1, *(float(v.max()) for v in pair)))
        chart = _chart(
            [("c1", pair[0]), ("with", pair[1])],
            min(top, 1.0),
            f"share of {name} over the steps",
            width=260,
            height=150,
        )
        caption = escape(name.replace("/", ": "))
        panels.append(f"<figure class='panel'><figcaption>{caption}</figcaption>{chart}</figure>")
    return (
        "<section><h2>What the population does</h2><p class='note'>Shares of its own reactions; "
        f"what a planner planted is not counted.</p>{_names(report)}<div class='panels'>"
        f"{''.join(panels)}</div>{_beside(report)}</section>"
    )


def _said(report: Report) -> str:
    if report.changed is None:
        return ""
    total, words, belief = report.changed
    if not total:
        return ""
    groups = []
    for each in report.said:
        rows = "".join(
            f"<tr{'' if a == b else ' class=' + chr(39) + 'other' + chr(39)}>"
            f"<td>{_reaction(a, report)}</td><td>{_reaction(b, report)}</td></tr>"
            for a, b in zip(each.without, each.with_it, strict=True)
        )
        groups.append(
            f"<article class='sample'><h3>step {each.step}</h3><div class='scroll'>"
            "<table class='reactions k2'><thead><tr><th>without</th><th>with</th></tr></thead>"
            f"<tbody>{rows}</tbody></table></div></article>"
        )
    return (
        f"<section><h2>What people say differently</h2><p>Of {total} reactions since the first "
        f"intervention (first seed), {percent(words / total)} have other words and "
        f"{percent(belief / total)} another belief than the same person's without it.</p>"
        "<p class='note'>A row is one simulated person, with the same noise in both columns: the "
        "first of some steps, unselected. Marked: other words. They are statements of nobody.</p>"
        + "".join(groups)
        + _beside(report)
        + "</section>"
    )


def _reaction(text: str, report: Report) -> str:
    if not text.strip():
        return "<span class='silent'>repost without words</span>"
    return f'<span lang="{escape(report.language)}" dir="auto">{escape(text)}</span>'


def _policy(report: Report) -> str:
    if report.policy is None:
        return (
            "<section><h2>Its policy</h2><p class='note'>This planner does not choose by what an "
            "environment shows, so there is no map of its choices.</p></section>"
        )
    policy = report.policy
    rows, steps = policy.actions.shape
    left, cell, row = 48, 36, 22
    width, height = left + cell * steps + 8, row * rows + 26
    parts, kinds = [], set()
    for i in range(rows):
        y = row * (rows - 1 - i)
        share = percent(policy.shares[i])
        parts.append(
            f'<text class="tick" x="{left - 6}" y="{y + 15}" text-anchor="end">{share}</text>'
        )
        for t in range(steps):
            action = int(policy.actions[i, t])
            u = decode_action(action)
            look = 'class="cell"'
            if u.kind is not None:
                kinds.add(int(u.kind))
                look = f'class="kind{int(u.kind)}" opacity="{0.15 + 0.85 * u.strength:.2f}"'
            parts.append(
                f'<rect {look} x="{left + cell * t}" y="{y}" width="{cell - 2}" '
                f'height="{row - 2}"><title>step {t + 1}, {share}: '
                f"{action_name(action).replace('_', ' ')}</title></rect>"
            )
    for t in range(steps):
        parts.append(
            f'<text class="tick" x="{left + cell * t + cell / 2 - 1:.1f}" y="{height - 8}" '
            f'text-anchor="middle">{t + 1}</text>'
        )
    low, high = policy.shares[0], policy.shares[-1]

    def at(share: float) -> float:
        part = (min(max(share, low), high) - low) / (high - low)
        return float(row * (rows - 0.5) - row * (rows - 1) * part)

    path = " ".join(
        f"{left + cell * t + cell / 2 - 1:.1f},{at(s):.1f}" for t, s in enumerate(policy.path)
    )
    parts.append(f'<polyline class="real" points="{path}"/>')
    keys = "".join(
        f"<li><span class='swatch kind{k}'></span>{KINDS[k].replace('_', ' ')}</li>"
        for k in sorted(kinds)
    )
    return (
        "<section><h2>Its policy</h2><p class='note'>What it would do at each step (across) if the "
        "share that spreads the rumour were another one (up), all else as in the first seed's run. "
        "Deeper: stronger. Line: the share that it really saw. Once the budget of that run "
        "is spent nothing can be done.</p>"
        f"<ul class='legend'>{keys}<li><span class='swatch cell'></span>none</li></ul>"
        f'<figure class="wide"><div class="scroll"><svg class="grid-chart" viewBox="0 0 {width} '
        f'{height}" role="img" aria-label="action by step and share of the rumour">'
        f"{''.join(parts)}</svg></div></figure></section>"
    )


def _limits(report: Report) -> str:
    return (
        "<section><h2>What this cannot say</h2><p>A simulated population is not the public. The "
        "figures hold in this simulator, for this event and budget; the fidelity beside them says "
        "how far it is from a real population without interventions. How real people would respond "
        "to one was never observed here. The tool is for understanding and countering harm; "
        "objectives that increase it are not part of it.</p></section>"
    )


_STYLE = """
.wide svg{min-width:560px;max-width:900px}.grid-chart .name{font-size:12px;fill:var(--ink)}
rect.cell,.swatch.cell{fill:var(--card);background:var(--card)}
.kind0{fill:var(--c1);background:var(--c1)}.kind1{fill:var(--c2);background:var(--c2)}
.kind2{fill:var(--c3);background:var(--c3)}.kind3{fill:var(--c4);background:var(--c4)}
.kind4{fill:var(--c5);background:var(--c5)}.kind5{fill:var(--with);background:var(--with)}
.swatch{display:inline-block;width:13px;height:13px;border-radius:3px;margin-right:7px;
vertical-align:-2px;border:1px solid var(--line)}
strong,.panel figcaption{overflow-wrap:anywhere}
.beside{border-left:3px solid var(--line);padding-left:10px;margin-top:14px}
tr.other td:last-child{box-shadow:inset 3px 0 0 var(--with)}
"""
