"""One self-contained HTML page on a forecast: fan charts, turning points, coverage.

:func:`render` is a pure function from a :class:`Page` to HTML, as :mod:`benchmarks.report` is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.drawing import escape, legend, number, percent, share_grid
from benchmarks.forecast_bands import Forecast, Scores, TurnChance
from benchmarks.page import document, facts
from mfenv.labels import DIMENSIONS, NAMES, OFFSETS

__all__ = ["SHOWN", "Course", "Page", "Row", "render"]

Floats = NDArray[np.float64]

SHOWN: tuple[tuple[int, ...], ...] = tuple(
    (OFFSETS[d] + 1,) if len(dim.labels) == 2 else tuple(range(OFFSETS[d], OFFSETS[d + 1]))
    for d, dim in enumerate(DIMENSIONS)
)
"""Labels of each dimension that are shown: of two one says it all."""

_HALF, _MOST = 0.5, 0.9
_TOPS = (0.1, 0.2, 0.4, 0.6, 0.8, 1.0)  # upper ends of a panel's scale; their halves are whole


@dataclass(frozen=True, slots=True)
class Course:
    """What one method says of the horizon."""

    name: str
    fan: Forecast  # windows that end at every step; the first ends with the warm-up
    turns: Sequence[TurnChance]  # 23
    scores: Scores | None  # where people really reacted after the warm-up


@dataclass(frozen=True, slots=True)
class Row:
    """One label at the end of the horizon."""

    label: str
    now: float
    median: float
    half: tuple[float, float]
    most: tuple[float, float]
    chance: TurnChance
    real: float | None  # share at the end of the horizon, where it was reached
    turned: tuple[int, bool] | None  # where the real trend turned, and whether it was a peak


@dataclass(frozen=True, slots=True)
class Page:
    """Everything the page shows. The last course is the trivial baseline."""

    title: str
    topic: str
    language: str
    warmup: int  # reactions
    horizon: int
    window: int
    turn: float  # movement that makes a turning point
    ends: NDArray[np.int64]  # (points,) of the real shares, in reactions after the warm-up
    real: Floats  # (points, 23)
    happened: int  # real reactions after the warm-up
    real_turns: Sequence[tuple[int, bool] | None]  # 23
    courses: Sequence[Course]
    facts: Mapping[str, Mapping[str, str]]
    command: str

    def rows(self, c: Course) -> list[Row]:
        """The shown labels at the end of the horizon, as a course sees them."""
        middle, half, most = c.fan.quantile(0.5), c.fan.band(_HALF), c.fan.band(_MOST)
        whole = self.happened >= self.horizon
        return [
            Row(
                label=NAMES[i].replace("/", ": ").replace("_", " "),
                now=float(middle[0, i]),
                median=float(middle[-1, i]),
                half=(float(half[0][-1, i]), float(half[1][-1, i])),
                most=(float(most[0][-1, i]), float(most[1][-1, i])),
                chance=c.turns[i],
                real=float(self.real[-1, i]) if whole else None,
                turned=self.real_turns[i],
            )
            for columns in SHOWN
            for i in columns
        ]


def render(page: Page) -> str:
    """Write the page. The same page gives the same bytes."""
    own, baseline = page.courses[:-1], page.courses[-1]
    parts = [
        _header(page),
        _expected(page, own[0], baseline),
        _coverage(page),
        *(_fans(page, c, baseline, f"c{i % 5 + 1}") + _table(page, c) for i, c in enumerate(own)),
        facts(page.facts, page.command),
    ]
    return document(page.title, parts, _STYLE)


def _header(page: Page) -> str:
    return (
        f"<header><p class='eyebrow'>mfenv forecast</p><h1>{escape(page.title)}</h1>"
        f'<blockquote lang="{escape(page.language)}" dir="auto">{escape(page.topic)}'
        "</blockquote></header>"
    )


def _span(low: float, high: float) -> str:
    return f"{100 * low:.0f} to {percent(high)}"


def _expected(page: Page, c: Course, baseline: Course) -> str:
    """The forecast in a few sentences: what moves most, what turns most likely."""
    rows = page.rows(c)
    most = max(rows, key=lambda r: abs(r.median - r.now))
    likely = max(rows, key=lambda r: r.chance.probability)
    beside = next(r for r in page.rows(baseline) if r.label == likely.label)
    moved = (
        f"After {page.horizon} more reactions <strong>{escape(c.name)}</strong> expects the "
        f"largest change in <strong>{escape(most.label)}</strong>: {percent(most.now)} now, "
        f"{percent(most.median)} then (90% band {_span(*most.most)})."
        if most.median != most.now
        else f"<strong>{escape(c.name)}</strong> expects no share to change."
    )
    turns = (
        f"The likeliest turn is that of <strong>{escape(likely.label)}</strong>: "
        f"{percent(likely.chance.probability)} of the seeds ({_place(likely.chance)}), "
        f"{percent(beside.chance.probability)} of {escape(baseline.name)}'s, in which a turn is "
        "sampling noise."
        if likely.chance.probability > 0
        else f"In no seed does a trend turn by {100 * page.turn:.0f} points and more."
    )
    return f"<section><h2>What is expected</h2><p>{moved} {turns}</p></section>"


def _place(chance: TurnChance) -> str:
    if chance.where is None:
        return "–"
    low, middle, high = (f"{x:.0f}" for x in chance.where)
    return f"at reaction {middle}" + (f", {low} to {high}" if low != high else "")


def _coverage(page: Page) -> str:
    """How much the bands are worth, where something has happened."""
    scored = [(c, c.scores) for c in page.courses if c.scores is not None]
    if not scored:
        return (
            "<section><h2>Held against what happened</h2><p class='note'>There is nothing to hold "
            f"it against yet: {page.happened} reactions after the warm-up, {page.window} make a "
            "window.</p></section>"
        )
    best = min(s.crps for _, s in scored)
    head = "".join(f"<th>{percent(x.level)} band</th>" for x in scored[0][1].inside)
    lines = "".join(
        f"<tr><th scope='row'>{escape(c.name)}</th>"
        + "".join(
            f"<td>{percent(x.share)} <span class='ci'>{percent(x.expected)} expected</span></td>"
            for x in s.inside
        )
        + f"<td class='{'best' if s.crps == best else ''}'>{number(s.crps, 4)}</td>"
        f"<td>{number(s.pinball, 4)}</td><td>{number(s.interval, 3)}</td></tr>"
        for c, s in scored
    )
    n = scored[0][1].windows
    return (
        "<section><h2>Held against what happened</h2><p class='note'>Part of the real shares that "
        f"lie inside the bands, over {n} {'windows' if n > 1 else 'window'} of {page.window} "
        "reactions that do not overlap and all labels, every dimension alike. A band ends at "
        "whole reactions, so more than its name is <em>expected</em> inside where the forecast is "
        "right, above all for rare labels. CRPS, pinball loss and interval score (90%) are in "
        "shares; lower is better. One event says little: its labels and windows are not "
        "independent.</p>"
        f"<div class='scroll'><table class='figures'><thead><tr><th></th>{head}<th>CRPS</th>"
        f"<th>pinball</th><th>interval score</th></tr></thead><tbody>{lines}</tbody></table></div>"
        "</section>"
    )


def _fans(page: Page, c: Course, baseline: Course, kind: str) -> str:
    groups = []
    for dimension, columns in zip(DIMENSIONS, SHOWN, strict=True):
        top = _scale(page, c, columns)
        panels = "".join(_panel(page, c, baseline, i, top, kind) for i in columns)
        groups.append(
            f"<div class='dimension n{len(columns)}'><h3>{dimension.name.replace('_', ' ')}</h3>"
            f"<div class='panels'>{panels}</div></div>"
        )
    names = legend(
        [
            ("real", "real"),
            (f"{c.name}: median, 50% and 90% band", f"{kind} solid"),
            (f"{baseline.name}: 90% band", "other"),
        ]
    )
    return (
        f"<section><h2>Forecast by {escape(c.name)}</h2><p class='note'>Share of each label in "
        f"the last {page.window} reactions, step by step; 0 is the end of the warm-up (shaded), "
        "whose reactions are known. The bands are about the share that will be observed in a "
        "window of that size, sampling noise included. One scale within a dimension.</p>"
        f"{names}<div class='dimensions'>{''.join(groups)}</div></section>"
    )


def _scale(page: Page, c: Course, columns: Sequence[int]) -> float:
    index = list(columns)
    highest = max(float(c.fan.band(_MOST)[1][:, index].max()), float(page.real[:, index].max()))
    return next((t for t in _TOPS if t >= highest), 1.0)


def _panel(page: Page, c: Course, baseline: Course, i: int, top: float, kind: str) -> str:
    """The fan of one label as SVG."""
    left, right, bottom, height = 34.0, 236.0, 104.0, 96.0
    total = page.warmup + page.horizon

    def x(place: float) -> float:
        return left + (right - left) * (place + page.warmup) / total

    def y(share: float) -> float:
        return bottom - height * min(max(share, 0.0), top) / top

    def points(places: NDArray[np.int64], shares: Floats) -> str:
        pairs = zip(places, shares, strict=True)
        return " ".join(f"{x(float(p)):.1f},{y(float(s)):.1f}" for p, s in pairs)

    def area(f: Forecast, level: float, style: str) -> str:
        low, high = f.band(level)
        back = points(f.ends[::-1], low[::-1, i])
        return f'<polygon class="{style}" points="{points(f.ends, high[:, i])} {back}"/>'

    parts = [
        f'<rect class="warm" x="{left}" y="{bottom - height}" width="{x(0) - left:.1f}" '
        f'height="{height}"/>',
        share_grid(left, right, bottom, height, top),
    ]
    for place, anchor in ((0, "middle"), (page.horizon // 2, "middle"), (page.horizon, "end")):
        parts.append(
            f'<text class="tick" x="{x(place):.1f}" y="{bottom + 13}" text-anchor="{anchor}">'
            f"{place}</text>"
        )
    parts += [
        area(c.fan, _MOST, f"fan {kind}"),
        area(c.fan, _HALF, f"fan {kind}"),
        area(baseline.fan, _MOST, "other"),
        f'<polyline class="{kind} solid" '
        f'points="{points(c.fan.ends, c.fan.quantile(0.5)[:, i])}"/>',
        f'<polyline class="real" points="{points(page.ends, page.real[:, i])}"/>',
        *(
            f'<circle class="step" cx="{x(float(p)):.1f}" cy="{y(float(s)):.1f}" r="1.6"/>'
            for p, s in zip(page.ends, page.real[:, i], strict=True)
        ),
    ]
    label = escape(NAMES[i].partition("/")[2])
    return (
        f'<figure class="panel"><figcaption>{label}</figcaption><svg viewBox="0 0 240 122" '
        f'role="img" aria-label="forecast of the share of {label}">{"".join(parts)}</svg></figure>'
    )


def _table(page: Page, c: Course) -> str:
    """Every label at the end of the horizon, and whether its trend turns on the way."""
    lines = []
    for r in page.rows(c):
        chance = r.chance
        lines.append(
            f"<tr><th scope='row'>{escape(r.label)}</th><td>{percent(r.now)}</td>"
            f"<td class='lead'>{percent(r.median)}</td><td>{_span(*r.half)}</td>"
            f"<td>{_span(*r.most)}</td>"
            f"<td>{'–' if r.real is None else percent(r.real)}</td>"
            f"<td class='lead'>{percent(chance.probability)}</td><td>{percent(chance.peak)}</td>"
            f"<td>{'–' if chance.where is None else _place(chance)}</td>"
            f"<td>{_turned(page, r)}</td></tr>"
        )
    return (
        f"<section><h2>Shares and turning points by {escape(c.name)}</h2><p class='note'>Shares "
        f"in the last {page.window} reactions, now and at reaction {page.horizon}. A trend turns "
        f"where a share has risen to a peak by {100 * page.turn:.0f} points or more and falls "
        "from it by as much again, or the reverse; the probability is the part of the seeds in "
        "which that happens after the warm-up, <em>peak</em> the part in which it is a peak, "
        "<em>where</em> the reaction of the first such turn (the middle one of the seeds, and "
        "what eight in ten lie within).</p>"
        "<div class='scroll'><table class='figures'><thead><tr><th></th><th>now</th>"
        "<th>median</th><th>50% band</th><th>90% band</th><th>really</th><th>turns</th>"
        "<th>peak</th><th>where</th><th>really turned</th></tr></thead>"
        f"<tbody>{''.join(lines)}</tbody></table></div></section>"
    )


def _turned(page: Page, row: Row) -> str:
    if row.turned is not None:
        return f"{'peak' if row.turned[1] else 'trough'} at {row.turned[0]}"
    return "no" if page.happened >= page.horizon else "–"


_STYLE = """
.fan{stroke:none;opacity:.2}.fan.c1{fill:var(--c1)}.fan.c2{fill:var(--c2)}
.fan.c3{fill:var(--c3)}.fan.c4{fill:var(--c4)}.fan.c5{fill:var(--c5)}
polygon.other{fill:none;stroke:var(--muted);stroke-width:1;stroke-dasharray:3 3}
polyline.solid{stroke-dasharray:none}.key.solid{border-top-style:solid}
.key.other{border-color:var(--muted);border-top-style:dashed;border-top-width:2px}
@media (max-width:820px){.panel .tick{font-size:13px}}
"""
