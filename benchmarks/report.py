"""One self-contained HTML page on a simulated event: no network, no scripts, readable in print.

:func:`render` is a pure function from a :class:`Report` to HTML. Topic, profiles, reactions and
mean fields are untrusted: every text is escaped, and a content security policy forbids scripts
and requests even if an escape were missing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.compare import Score
from benchmarks.drawing import (
    SMOOTH,
    block_size,
    escape,
    legend,
    nice,
    number,
    panel,
    percent,
    scale,
)
from benchmarks.metrics import WINDOWS, Interval
from benchmarks.page import document, facts
from mfenv.labels import DIMENSIONS, N_DIMENSIONS, NAMES, OFFSETS

__all__ = ["Effect", "Method", "Report", "Samples", "render"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Samples:
    """Reactions of one step, side by side."""

    step: int
    columns: Mapping[str, Sequence[str]]  # "real" or a method → texts; "" is a silent repost


@dataclass(frozen=True, slots=True)
class Method:
    """What a method did: label shares ``(seeds, rollout steps, 23)`` and its first seed's text."""

    name: str
    shares: Floats
    mean_fields: Sequence[tuple[int, str]] = ()  # (step, text), in order


@dataclass(frozen=True, slots=True)
class Effect:
    """A counterfactual: the same noise with and without an intervention."""

    method: str
    name: str  # "fact_check/high at step 5"
    step: int
    labels: Sequence[str]  # "belief/doubt", one for each row below
    without: Sequence[float]  # shares from that step on, mean over seeds
    with_it: Sequence[float]
    difference: Sequence[Interval]
    shares: Floats  # (seeds, rollout steps, 23) with the intervention


@dataclass(frozen=True, slots=True)
class Report:
    """Everything the page shows."""

    title: str
    topic: str
    language: str
    warmup: int  # steps
    real: Floats  # (steps, 23), warm-up included
    methods: Sequence[Method]
    scores: Sequence[Score]
    floor: Score | None
    facts: Mapping[str, Mapping[str, str]]  # heading → name → value
    command: str
    samples: Sequence[Samples] = ()
    effects: Sequence[Effect] = ()
    notes: Sequence[str] = ()


def render(report: Report) -> str:
    """Write the page. The same report gives the same bytes."""
    colour = {m.name: f"c{i % 5 + 1}" for i, m in enumerate(report.methods)}
    body = [
        _header(report),
        _verdict(report, colour),
        _table(report, colour),
        _trajectories(report, colour),
        *(_effect(e, report, colour) for e in report.effects),
        _reactions(report, colour),
        _mean_fields(report, colour),
        facts(report.facts, report.command),
    ]
    return document(report.title, body)


def _interval(x: Interval, digits: int = 3) -> str:
    span = (
        ""
        if math.isnan(x.low)
        else f' <span class="ci">{number(x.low, digits)} to {number(x.high, digits)}</span>'
    )
    return f"{number(x.mean, digits)}{span}"


def _swatch(name: str, colour: Mapping[str, str]) -> str:
    kind = colour.get(name, "real" if name == "real" else "plain")
    return f'<span class="key {kind}"></span>{escape(name)}'


def _header(report: Report) -> str:
    return (
        f"<header><p class='eyebrow'>mfenv simulation</p><h1>{escape(report.title)}</h1>"
        f'<blockquote lang="{escape(report.language)}" dir="auto">{escape(report.topic)}'
        "</blockquote></header>"
    )


def _verdict(report: Report, colour: Mapping[str, str]) -> str:
    """The finding in one sentence, and the forest plot beside it."""
    ranked = sorted(report.scores, key=lambda s: s.kl.mean)
    if not ranked:
        return ""
    best = ranked[0]
    sentence = (
        f"<strong>{escape(best.name)}</strong> is closest to the real population on this event: "
        f"mean KL {number(best.kl.mean)} nats"
    )
    if len(ranked) > 1:
        sentence += ", then " + ", ".join(
            f"{escape(s.name)} {number(s.kl.mean)}" for s in ranked[1:]
        )
    sentence += "."
    if len(ranked) > 1 and not best.kl.high < ranked[1].kl.low:
        sentence += (
            f" The intervals of {escape(best.name)} and {escape(ranked[1].name)} overlap: this "
            "event alone does not tell them apart."
        )
    if report.floor is not None:
        sentence += (
            f" Sampling alone leaves {number(report.floor.kl.mean)} "
            "(the noise floor: real against real at the same sizes)."
        )
    notes = "".join(f"<p class='note'>{escape(n)}</p>" for n in report.notes)
    return (
        f"<section><h2>Who comes closest</h2><p>{sentence}</p>{notes}"
        f"{_forest(report, colour)}</section>"
    )


def _forest(report: Report, colour: Mapping[str, str]) -> str:
    """Mean KL of every method with its interval, on one axis, as SVG."""
    ends = [s.kl.mean if math.isnan(s.kl.high) else s.kl.high for s in report.scores]
    top = nice(max([*ends, 1e-3]))
    left, right, row = 110, 580, 26
    height = row * len(report.scores) + 34

    def x(value: float) -> float:
        return left + (right - left) * value / top

    marks = []
    for tick in np.linspace(0, top, 5):
        marks.append(
            f'<line class="grid" x1="{x(tick):.1f}" x2="{x(tick):.1f}" y1="4" y2="{height - 26}"/>'
            f'<text class="tick" x="{x(tick):.1f}" y="{height - 11}" text-anchor="middle">'
            f"{tick:.3g}</text>"
        )
    if report.floor is not None:
        at = x(report.floor.kl.mean)
        marks.append(
            f'<line class="floor" x1="{at:.1f}" x2="{at:.1f}" y1="0" y2="{height - 26}">'
            "<title>noise floor</title></line>"
        )
    for i, score in enumerate(report.scores):
        y = row * i + 18
        kind = colour.get(score.name, "plain")
        low, high = (
            (score.kl.mean,) * 2 if math.isnan(score.kl.low) else (score.kl.low, score.kl.high)
        )
        marks.append(
            f'<text class="name" x="{left - 12}" y="{y + 4}" text-anchor="end">'
            f"{escape(score.name)}</text>"
            f'<line class="whisker {kind}" x1="{x(low):.1f}" x2="{x(high):.1f}" y1="{y}" y2="{y}"/>'
            f'<circle class="dot {kind}" cx="{x(score.kl.mean):.1f}" cy="{y}" r="5"/>'
        )
    caption = "Mean KL in nats (lower is better) with its 95% interval over seeds"
    if report.floor is not None:
        caption += "; dashed: the noise floor"
    return (
        f'<figure><div class="scroll"><svg class="forest" viewBox="0 0 600 {height}" role="img" '
        f'aria-label="{caption}">{"".join(marks)}</svg></div><figcaption>{caption}.</figcaption></figure>'
    )


def _table(report: Report, colour: Mapping[str, str]) -> str:
    rows = list(report.scores) + ([report.floor] if report.floor is not None else [])
    if not report.scores:
        return ""
    best = [min(s.per_dimension[d] for s in report.scores) for d in range(N_DIMENSIONS)]
    head = "".join(
        f"<th>{name}</th>"
        for name in (
            "mean KL",
            "excess",
            "sq. error",
            *WINDOWS,
            *(d.name.replace("_", " ") for d in DIMENSIONS),
        )
    )
    lines = []
    for s in rows:
        floor = s is report.floor
        cells = [
            f"<td class='lead'>{_interval(s.kl)}</td>",
            f"<td>{number(s.excess)}</td>",
            f"<td>{number(s.squared_error, 4)}</td>",
            *(f"<td>{number(w)}</td>" for w in s.per_window),
            *(
                f"<td>{number(v)}</td>"
                if floor or v > best[d]
                else f"<td class='best'>{number(v)}</td>"
                for d, v in enumerate(s.per_dimension)
            ),
        ]
        lines.append(
            f"<tr{' class=' + chr(39) + 'floor' + chr(39) if floor else ''}>"
            f"<th scope='row'>{_swatch(s.name, colour)}</th>{''.join(cells)}</tr>"
        )
    return (
        "<section><h2>KL per dimension</h2><p class='note'>KL(real ‖ simulated) in nats, 0.5 added "
        "to every label count, averaged over the short, mid and long third of the horizon. "
        "<em>Excess</em> is the KL minus the noise floor. <em>Squared error</em> is that of the "
        "expected shares, without its sampling part. Bold: lowest in its dimension.</p>"
        f"<div class='scroll'><table class='figures'><thead><tr><th></th>{head}</tr></thead>"
        f"<tbody>{''.join(lines)}</tbody></table></div></section>"
    )


def _trajectories(report: Report, colour: Mapping[str, str]) -> str:
    if not len(report.real):
        return ""
    series = [(colour[m.name], m.shares) for m in report.methods]
    names = legend([("real", "real"), *((m.name, colour[m.name]) for m in report.methods)])
    groups = []
    for d, dimension in enumerate(DIMENSIONS):
        # Of two labels one says it all.
        shown = range(1, 2) if len(dimension.labels) == 2 else range(len(dimension.labels))
        columns = [OFFSETS[d] + k for k in shown]
        top = scale(report.real[:, columns], [s[..., columns] for _, s in series])
        panels = "".join(
            panel(dimension.labels[k], c, report.real, report.warmup, series, top)
            for k, c in zip(shown, columns, strict=True)
        )
        groups.append(
            f"<div class='dimension n{len(columns)}'><h3>{dimension.name.replace('_', ' ')}</h3>"
            f"<div class='panels'>{panels}</div></div>"
        )
    stride = block_size(len(report.real))
    dots = "dots are the real steps" if stride == 1 else f"dots average {stride} real steps"
    return (
        "<section><h2>Trajectories</h2><p class='note'>Share of each label, step by step: lines "
        f"average {SMOOTH * stride} steps, {dots}, bands span the seeds. Shaded: the "
        "warm-up, where everybody is real. One scale within a dimension.</p>"
        f"{names}<div class='dimensions'>{''.join(groups)}</div></section>"
    )


def _effect(effect: Effect, report: Report, colour: Mapping[str, str]) -> str:
    kind = colour[effect.method]
    plain = next(m.shares for m in report.methods if m.name == effect.method)
    rows = "".join(
        f"<tr{' class=' + chr(39) + 'shown' + chr(39) if d.excludes_zero else ''}>"
        f"<th scope='row'>{escape(label.replace('/', ': '))}</th><td>{percent(a)}</td>"
        f"<td>{percent(b)}</td><td class='lead'>{_points(d)}</td></tr>"
        for label, a, b, d in zip(
            effect.labels, effect.without, effect.with_it, effect.difference, strict=True
        )
    )
    series = [(kind, plain), ("with", effect.shares)]
    columns = [NAMES.index(label) for label in effect.labels]
    panels = "".join(
        panel(
            NAMES[c].replace("/", ": "),
            c,
            report.real,
            report.warmup,
            series,
            scale(report.real[:, [c]], [plain[..., [c]], effect.shares[..., [c]]]),
            report.warmup + effect.step,
        )
        for c in columns
    )
    names = legend(
        [("real", "real"), (f"{effect.method}, nothing done", kind), (effect.name, "with")]
    )
    return (
        f"<section><h2>What if: {escape(effect.name)}</h2><p class='note'>"
        f"{escape(effect.method)} twice from the same point with the same noise, without and "
        "with the intervention. Shares of the population's own reactions from the intervention to "
        "the end; differences in percentage points with their 95% interval over seeds. Bold: the "
        "interval excludes 0."
        f"</p>{names}<div class='panels'>{panels}</div>"
        "<div class='scroll'><table class='figures'><thead><tr><th></th><th>without</th>"
        f"<th>with</th><th>difference</th></tr></thead><tbody>{rows}</tbody></table></div></section>"
    )


def _points(x: Interval) -> str:
    scaled = Interval(100 * x.mean, 100 * x.low, 100 * x.high)
    sign = "+" if scaled.mean > 0 else ""
    return f"{sign}{_interval(scaled, 1)}"


def _reactions(report: Report, colour: Mapping[str, str]) -> str:
    if not report.samples:
        return ""
    groups = []
    for sample in report.samples:
        head = "".join(f"<th scope='col'>{_swatch(name, colour)}</th>" for name in sample.columns)
        rows = "".join(
            "<tr>" + "".join(f"<td>{_reaction(t, report.language)}</td>" for t in texts) + "</tr>"
            for texts in zip(*sample.columns.values(), strict=True)
        )
        groups.append(
            f"<article class='sample'><h3>step {sample.step + 1}</h3><div class='scroll'>"
            f"<table class='reactions k{len(sample.columns)}'><thead><tr>{head}</tr></thead>"
            f"<tbody>{rows}</tbody></table></div></article>"
        )
    return (
        "<section><h2>Reactions side by side</h2><p class='note'>The first people of some steps "
        "after the warm-up, unselected. A row is one person, as they really reacted and as "
        "simulated.</p>" + "".join(groups) + "</section>"
    )


def _reaction(text: str, language: str) -> str:
    if not text.strip():
        return "<span class='silent'>repost without words</span>"
    return f'<span lang="{escape(language)}" dir="auto">{escape(text)}</span>'


def _mean_fields(report: Report, colour: Mapping[str, str]) -> str:
    blocks = []
    for method in report.methods:
        fields = list(method.mean_fields)
        if not fields:
            continue
        chosen = sorted({round(i) for i in np.linspace(0, len(fields) - 1, min(5, len(fields)))})
        shown = "".join(_field(fields[i], report.language) for i in chosen)
        rest = "".join(_field(each, report.language) for each in fields)
        blocks.append(
            f"<h3>{_swatch(method.name, colour)}</h3><dl class='fields'>{shown}</dl>"
            f"<details><summary>{_how_many(fields)} steps</summary><dl class='fields'>{rest}</dl>"
            "</details>"
        )
    if not blocks:
        return ""
    return (
        "<section><h2>The mean field over time</h2><p class='note'>What the next agents read about "
        f"the population; first seed.</p>{''.join(blocks)}</section>"
    )


def _how_many(fields: Sequence[tuple[int, str]]) -> str:
    every = len(fields) == fields[-1][0] - fields[0][0] + 1
    return f"{'all ' if every else ''}{len(fields)}"


def _field(field: tuple[int, str], language: str) -> str:
    step, text = field
    shown = escape(text) if text else "<span class='silent'>empty</span>"
    return (
        f'<div><dt>after step {step + 1}</dt><dd lang="{escape(language)}" dir="auto">{shown}</dd>'
        "</div>"
    )
