"""Pieces of pages that show untrusted data: escaped text, figures, charts as inline SVG.

Pure functions from values to HTML. The classes that charts use have their look in ``CHART_STYLE``,
which wants the variables ``--ink --muted --line --warm --c1 … --c5 --with --font``.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "CHART_STYLE",
    "SMOOTH",
    "block_size",
    "escape",
    "legend",
    "nice",
    "number",
    "panel",
    "percent",
    "scale",
    "share_grid",
]

Floats = NDArray[np.float64]

SMOOTH = 3
"""Points that a drawn line averages over."""

_POINTS = 240  # of a drawn line at most; the steps of a longer run are averaged in blocks
_TOPS = (0.1, 0.25, 0.5, 0.75, 1.0)  # upper ends of a panel's scale


def escape(text: str) -> str:
    """Escape untrusted text; control characters, which XML and terminals dislike, are replaced."""
    clean = "".join(c if c.isprintable() or c in "\n\u200d\u3000" else "\ufffd" for c in text)
    return html.escape(clean.encode("utf-8", "replace").decode("utf-8"), quote=True)


def number(x: float, digits: int = 3) -> str:
    """A figure for a table, with a real minus sign."""
    if math.isnan(x):
        return "–"
    text = f"{x:.{digits}f}"
    if not text.strip("-0."):  # nothing is left of what was below zero
        text = text.removeprefix("-")
    return text.replace("-", "\N{MINUS SIGN}")


def percent(x: float) -> str:
    """A share for a table or an axis."""
    return f"{100 * x:.0f}%"


def share_grid(left: float, right: float, bottom: float, height: float, top: float) -> str:
    """SVG lines with their labels at the shares 0, ``top`` / 2 and ``top`` of a panel."""
    lines = []
    for part in (0.0, 0.5, 1.0):
        y = bottom - height * part
        lines.append(
            f'<line class="grid" x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>'
            f'<text class="tick" x="{left - 5}" y="{y + 3.5:.1f}" text-anchor="end">'
            f"{100 * part * top:.3g}%</text>"
        )
    return "".join(lines)


def scale(real: Floats, simulated: Sequence[Floats]) -> float:
    """Upper end of a panel's axis: of real ``(steps, labels)``, simulated ``(seeds, …)`` shares."""
    highest = max([float(np.max(real)), *(float(np.max(s.mean(axis=0))) for s in simulated)])
    return next((t for t in _TOPS if t >= highest), 1.0)


def block_size(steps: int) -> int:
    """Steps behind one drawn point."""
    return -(-steps // _POINTS)


def _blocks(y: Floats, stride: int) -> Floats:
    """Means of ``stride`` successive values over the last axis; the last block may be shorter."""
    if stride == 1:
        return y
    starts = np.arange(0, y.shape[-1], stride)
    sizes = np.minimum(starts + stride, y.shape[-1]) - starts
    return np.asarray(np.add.reduceat(y, starts, axis=-1) / sizes)


def _smooth(y: Floats) -> Floats:
    """Centred moving average over the last axis, shorter at the ends."""
    kernel = np.ones(SMOOTH)
    weight = np.convolve(np.ones(y.shape[-1]), kernel, mode="same")
    return np.apply_along_axis(lambda v: np.convolve(v, kernel, mode="same"), -1, y) / weight


def panel(
    label: str,
    column: int,
    real: Floats,
    warmup: int,
    series: Sequence[tuple[str, Floats]],
    top: float,
    mark: int | None = None,
) -> str:
    """One label's shares over the steps as SVG; ``series`` are (class, shares of the rollout)."""
    steps = len(real)
    stride = block_size(steps)
    shown = _blocks(real[:, column], stride)
    left, right, bottom, height = 34.0, 236.0, 104.0, 96.0

    def x(step: float) -> float:
        return left + (right - left) * step / steps

    def y(share: float) -> float:
        return bottom - height * min(max(share, 0.0), top) / top

    def points(first: int, values: Floats) -> str:
        return " ".join(f"{at(first, i)},{y(float(v)):.1f}" for i, v in enumerate(values))

    def at(first: int, i: int) -> str:
        return f"{x(min(first + (i + 0.5) * stride, steps)):.1f}"

    parts = [
        f'<rect class="warm" x="{left}" y="{bottom - height}" width="{x(warmup) - left:.1f}" '
        f'height="{height}"/>'
    ]
    parts.append(share_grid(left, right, bottom, height, top))
    for step in sorted({1, warmup + 1, steps}):
        parts.append(
            f'<text class="tick" x="{x(step - 0.5):.1f}" y="{bottom + 13}" text-anchor="middle">'
            f"{step}</text>"
        )
    if mark is not None:
        parts.append(
            f'<line class="mark" x1="{x(mark):.1f}" x2="{x(mark):.1f}" '
            f'y1="{bottom - height}" y2="{bottom}"/>'
        )
    lines = []
    for kind, shares in series:
        smooth = _smooth(_blocks(shares[..., column], stride))
        if len(smooth) > 1:
            low, high = smooth.min(axis=0), smooth.max(axis=0)
            back = points(warmup, high).split()[::-1]
            parts.append(
                f'<polygon class="band {kind}" points="{points(warmup, low)} {" ".join(back)}"/>'
            )
        lines.append(f'<polyline class="{kind}" points="{points(warmup, smooth.mean(axis=0))}"/>')
    parts += [
        f'<circle class="step" cx="{at(0, i)}" cy="{y(float(v)):.1f}" r="1.6"/>'
        for i, v in enumerate(shown)
    ]
    parts.append(f'<polyline class="real" points="{points(0, _smooth(shown))}"/>')
    return (
        f'<figure class="panel"><figcaption>{escape(label)}</figcaption>'
        f'<svg viewBox="0 0 240 122" role="img" aria-label="share of {escape(label)} over the '
        f'steps">{"".join(parts + lines)}</svg></figure>'
    )


def legend(entries: Sequence[tuple[str, str]]) -> str:
    """What the lines are: names and the classes of their marks."""
    keys = "".join(f"<li><span class='key {c}'></span>{escape(n)}</li>" for n, c in entries)
    return f"<ul class='legend'>{keys}</ul>"


def nice(top: float) -> float:
    """The next of 1, 2, 4, 5, 8, 10 times a power of ten."""
    base = 10.0 ** math.floor(math.log10(top))
    return float(next(base * f for f in (1, 2, 4, 5, 8, 10, 20) if base * f >= top * 0.999))


CHART_STYLE = """
svg{display:block;width:100%;height:auto;overflow:visible}
svg text{font-family:var(--font);fill:var(--muted)}
.tick{font-size:10px;font-variant-numeric:tabular-nums}
.grid{stroke:var(--line);stroke-width:1}
.mark{stroke:var(--with);stroke-width:1.5;stroke-dasharray:2 3}
.warm{fill:var(--warm)}
polyline{fill:none;stroke-width:2;stroke-linejoin:round;stroke-linecap:round}
polyline.real{stroke:var(--ink);stroke-width:1.6}
.step{fill:var(--ink);opacity:.28}
.band{opacity:.17;stroke:none}
.c1{stroke:var(--c1)}.c2{stroke:var(--c2)}.c3{stroke:var(--c3)}.c4{stroke:var(--c4)}
.c5{stroke:var(--c5)}.plain{stroke:var(--muted)}.with{stroke:var(--with)}
polyline.c2{stroke-dasharray:6 3}polyline.c3{stroke-dasharray:2 3}
polyline.c4{stroke-dasharray:8 3 2 3}
polyline.c5{stroke-dasharray:1 4}polyline.with{stroke-dasharray:7 3}
.band.c1,.dot.c1{fill:var(--c1)}.band.c2,.dot.c2{fill:var(--c2)}.band.c3,.dot.c3{fill:var(--c3)}
.band.c4,.dot.c4{fill:var(--c4)}.band.c5,.dot.c5{fill:var(--c5)}.dot.plain{fill:var(--muted)}
.band.with{fill:var(--with)}
.key{display:inline-block;width:18px;height:0;border-top:3px solid var(--muted);
margin-right:7px;vertical-align:middle;border-radius:2px}
.key.real{border-color:var(--ink)}.key.c1{border-color:var(--c1)}
.key.c2{border-color:var(--c2);border-top-style:dashed}
.key.c3{border-color:var(--c3);border-top-style:dotted}
.key.c4{border-color:var(--c4);border-top-style:dashed}
.key.c5{border-color:var(--c5);border-top-style:dotted}
.key.with{border-color:var(--with);border-top-style:dashed}
.legend{list-style:none;display:flex;flex-wrap:wrap;gap:4px 22px;padding:0;margin:0 0 14px;
font-size:.88rem}
"""
"""The look of what is drawn here."""
