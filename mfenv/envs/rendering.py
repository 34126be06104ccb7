"""Pictures of a population's trajectory: as text, and as an RGB array.

Topics and reactions are untrusted text: control characters are removed, long texts are cut, and
nothing is read as markup.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mfenv.errors import MissingExtraError
from mfenv.interventions import KINDS
from mfenv.labels import DIMENSIONS, SLICES, dimension

__all__ = ["HEIGHT", "WIDTH", "Frame", "ansi", "require_pictures", "rgb_array"]

WIDTH, HEIGHT = 960, 720
"""Size of a picture in pixels."""

_SHOWN = ("belief", "stance", "sentiment_state", "behavior")
_BLOCKS = " ▏▎▍▌▋▊▉█"
_SHADES = " ░▒▓█"
# Colour-blind-safe hues (Okabe and Ito); one meaning keeps one colour across the panels.
_COLOURS = {
    "believe": "#D55E00",
    "doubt": "#0072B2",
    "support": "#D55E00",
    "oppose": "#0072B2",
    "neutral": "#BBBBBB",
    "angry": "#D55E00",
    "calm": "#56B4E9",
    "happy": "#F0E442",
    "sad": "#0072B2",
    "fear": "#CC79A7",
    "surprise": "#009E73",
    "comment": "#56B4E9",
    "share": "#E69F00",
}
_INK, _GREY, _BAR = "#222222", "#777777", "#444444"


@dataclass(frozen=True)
class Frame:
    """All that a picture shows of an episode so far; ``k`` steps, warm-up included."""

    event_id: str
    topic: str
    domain: str
    objective: str
    batch: int
    horizon: int  # rollout steps of the episode
    warmup: int  # how many of the k steps are warm-up
    distributions: NDArray[np.float64]  # (k, 23)
    activity: NDArray[np.float64]  # (k, 6)
    actions: Sequence[str]  # (k - warmup,) names of what was done
    harm: Sequence[float]  # (k - warmup,)
    rewards: Sequence[float]  # (k - warmup,)
    budget: float | None  # None where nobody intervenes
    budget_left: float | None
    mean_field: str
    texts: Sequence[str]  # some of the latest reactions
    harm_name: str = "harm"


def clean(text: str, length: int) -> str:
    """One line of at most ``length`` characters without control characters."""
    text = "".join(" " if unicodedata.category(c)[0] in "CZ" else c for c in text)
    text = " ".join(text.split())
    return text if len(text) <= length else text[: length - 1] + "…"


def ansi(frame: Frame) -> str:
    """The episode so far as plain text of about thirty lines."""
    done = len(frame.actions)
    lines = [
        f"{clean(frame.topic, 76)}",
        f"event {clean(frame.event_id, 40)} · {frame.domain} · step {done}/{frame.horizon}"
        f" · {frame.objective}",
        "",
    ]
    if not len(frame.distributions):
        lines.append("nobody has reacted yet")
    for name in _SHOWN if len(frame.distributions) else ():
        latest = frame.distributions[-1]
        labels = DIMENSIONS[dimension(name)].labels
        for i, (label, share) in enumerate(zip(labels, latest[SLICES[name]], strict=True)):
            head = name.replace("_", " ") if i == 0 else ""
            lines.append(f"{head:>16} {label:<9}{_bar(float(share), 24)} {100 * share:3.0f}%")
    lines.append("")
    for k, kind in enumerate(KINDS if frame.budget is not None else ()):
        strip = "".join(_SHADES[round(4 * float(a))] for a in frame.activity[frame.warmup :, k])
        lines.append(f"{kind.replace('_', ' '):>16} |{strip:<{frame.horizon}}|")
    harm = "".join(_SHADES[round(4 * min(1.0, h))] for h in frame.harm)
    lines += [f"{frame.harm_name:>16} |{harm:<{frame.horizon}}|", ""]
    if frame.budget is not None:
        lines.append(
            f"action {frame.actions[-1] if done else '—'} · reward so far {sum(frame.rewards):.3f}"
            f" · budget {frame.budget_left:.2f} of {frame.budget:.2f}"
        )
    lines += [f"mean field | {clean(part, 100)}" for part in frame.mean_field.splitlines() if part]
    lines += [f"reaction   | {clean(t, 100) or '(repost without words)'}" for t in frame.texts]
    return "\n".join(lines) + "\n"


def _bar(share: float, width: int) -> str:
    eighths = round(share * width * 8)
    return ("█" * (eighths // 8) + _BLOCKS[eighths % 8].strip()).ljust(width)


def require_pictures() -> None:
    """Raise ``MissingExtraError`` where matplotlib is absent."""
    try:
        import matplotlib  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingExtraError("reports", "render_mode='rgb_array'") from error


@lru_cache(maxsize=1)
def _fonts() -> tuple[tuple[str, frozenset[int]], ...]:
    """Paths and characters of the fonts to try: matplotlib's own, then installed Chinese ones."""
    from matplotlib import font_manager
    from matplotlib.ft2font import FT2Font

    wanted = ("Noto Sans CJK", "Source Han Sans", "WenQuanYi", "SimHei", "Microsoft YaHei",
              "PingFang", "Hiragino Sans GB", "Droid Sans Fallback", "Noto Serif CJK")  # fmt: skip
    paths: list[Any] = [font_manager.findfont("DejaVu Sans")]
    for prefix in wanted:
        found = (f for f in font_manager.fontManager.ttflist if f.name.startswith(prefix))
        regular = [f.fname for f in found if f.weight in (400, "normal", "regular")]
        paths += sorted(set(regular))[:1]
    return tuple((path, frozenset(FT2Font(path).get_charmap())) for path in paths)


def drawable(text: str) -> tuple[str, str] | None:
    """The part of a text that some installed font can draw, and that font's path.

    Single symbols without a glyph (emoji) are left out. ``None`` where no font has most of the
    letters, so that a topic never turns into boxes.
    """
    letters = [c for c in text if not c.isspace()]
    best = max(_fonts(), key=lambda font: sum(ord(c) in font[1] for c in letters))
    kept = "".join(c for c in text if c.isspace() or ord(c) in best[1])
    if not letters or len(kept.replace(" ", "")) < 0.7 * len(letters):
        return None
    return " ".join(kept.split()), best[0]


def rgb_array(frame: Frame) -> NDArray[np.uint8]:
    """The episode so far as a picture ``(720, 960, 3)``.

    Shares by step in four panels, what a planner did and what runs below them. The warm-up has
    negative steps. Raises ``MissingExtraError`` where matplotlib is absent.
    """
    require_pictures()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH / 100, HEIGHT / 100), dpi=100, facecolor="white")
    canvas = FigureCanvasAgg(figure)
    grid = figure.add_gridspec(
        3, 2, left=0.125, right=0.90, top=0.855, bottom=0.065, hspace=0.42, wspace=0.42,
        height_ratios=(1, 1, 1.05),
    )  # fmt: skip
    steps = np.arange(len(frame.distributions)) - frame.warmup + 1
    span = (0.5 - frame.warmup, frame.horizon + 0.5)
    _head(figure, frame)
    for i, name in enumerate(_SHOWN):
        _shares(figure.add_subplot(grid[i // 2, i % 2]), frame, name, steps, span)
    _timeline(figure.add_subplot(grid[2, :]), frame, steps, span)
    canvas.draw()
    return np.array(canvas.buffer_rgba())[..., :3].copy()


def _head(figure: Any, frame: Frame) -> None:
    from matplotlib.font_manager import FontProperties

    found = drawable(clean(frame.topic, 100))
    if found is None:
        text, font = "(no installed font can draw this topic; render_mode='ansi' shows it)", None
    else:
        wide = sum(unicodedata.east_asian_width(c) in "WF" for c in found[0])
        text = clean(found[0], 50 if 2 * wide > len(found[0]) else 84)
        font = FontProperties(fname=found[1])
    figure.text(0.02, 0.955, text, fontproperties=font, fontsize=13, color=_INK, parse_math=False)
    done = len(frame.actions)
    identity = drawable(clean(frame.event_id, 40))
    figure.text(
        0.02,
        0.915,
        f"event {identity[0] if identity else '?'}   ·   {frame.domain}   ·   "
        f"step {done} of {frame.horizon}   ·   harm: {frame.objective}   ·   "
        f"reward so far {sum(frame.rewards):.2f}   ·   "
        f"budget {frame.budget_left or 0:.1f} of {frame.budget or 0:.1f}",
        fontsize=9,
        color=_GREY,
        parse_math=False,
    )


def _shares(axes: Any, frame: Frame, name: str, steps: NDArray[Any], span: Any) -> None:
    """Stacked label shares of one dimension by step."""
    labels = DIMENSIONS[dimension(name)].labels
    shares = frame.distributions[:, SLICES[name]]
    below = np.zeros(len(steps))
    latest = shares[-1] if len(steps) else np.zeros(len(labels))
    for label, share in zip(labels, shares.T, strict=True):
        axes.bar(steps, share, 0.92, below, color=_COLOURS[label], linewidth=0)
        below = below + share
    middle = np.cumsum(latest) - latest / 2
    for y, label, share in zip(_spread(middle), labels, latest, strict=True):
        axes.text(
            1.03, y, f"{label} {share:.0%}", fontsize=7.5, va="center", color=_INK,
            transform=axes.transAxes,
        )  # fmt: skip
        axes.plot(
            [1.005, 1.02], [y, y], color=_COLOURS[label], linewidth=5, solid_capstyle="butt",
            transform=axes.transAxes, clip_on=False,
        )  # fmt: skip
    axes.set_title(name.replace("_", " "), fontsize=9.5, loc="left", color=_INK, pad=4)
    axes.set(xlim=span, ylim=(0, 1), yticks=[0, 0.5, 1])
    axes.set_yticklabels(["0", "50%", "100%"])
    _plain(axes)
    if frame.warmup:
        axes.axvline(0.5, color=_INK, linewidth=0.8, linestyle=(0, (3, 2)))


def _spread(heights: NDArray[np.float64], gap: float = 0.125) -> NDArray[np.float64]:
    """Move label heights in [0, 1] apart to at least ``gap``, keeping their order."""
    n = len(heights)
    gap = min(gap, 1 / n)
    result = heights.copy()
    for i in range(1, n):
        result[i] = max(result[i], result[i - 1] + gap)
    result[-1] = min(result[-1], 1 - gap / 2)
    for i in range(n - 2, -1, -1):
        result[i] = min(result[i], result[i + 1] - gap)
    return np.asarray(result)


def _timeline(axes: Any, frame: Frame, steps: NDArray[Any], span: Any) -> None:
    """What runs by step (rows of kinds, darker is stronger), and the harm above it."""
    rows = len(KINDS)
    if len(steps):
        edges = np.append(steps - 0.5, steps[-1] + 0.5)
        axes.pcolormesh(
            edges, np.arange(rows + 1) - 0.5, frame.activity.T, cmap="Purples", vmin=0, vmax=1,
            edgecolors="#EEEEEE", linewidth=0.4,
        )  # fmt: skip
    for step, action in enumerate(frame.actions, start=1):
        kind, _, intensity = action.partition("/")
        if kind in KINDS:
            axes.text(
                step, KINDS.index(kind), intensity[0].upper(), fontsize=7, ha="center",
                va="center", color="white", fontweight="bold",
                bbox={"boxstyle": "round,pad=0.18", "facecolor": _INK, "edgecolor": "none"},
            )  # fmt: skip
    top = rows + 1.6
    axes.bar(
        np.arange(1, len(frame.harm) + 1), [-1.9 * min(1.0, h) for h in frame.harm], 0.92,
        rows + 1.5, color=_BAR, linewidth=0,
    )  # fmt: skip
    axes.axhline(rows + 1.5, color="#CCCCCC", linewidth=0.6)
    axes.set(xlim=span, ylim=(top, -0.6))
    axes.set_yticks([*range(rows), rows + 0.6])
    axes.set_yticklabels([*(k.replace("_", " ") for k in KINDS), "harm (0 to 1)"], fontsize=8)
    axes.set_title(
        "interventions: what was done (L, M, H) and what runs; and the harm of each step",
        fontsize=9.5, loc="left", color=_INK, pad=4,
    )  # fmt: skip
    axes.set_xlabel(
        f"step ({frame.batch} reactions each"
        + ("; warm-up left of the dashed line)" if frame.warmup else ")"),
        fontsize=8.5,
        color=_GREY,
    )
    _plain(axes)
    if frame.warmup:
        axes.axvline(0.5, color=_INK, linewidth=0.8, linestyle=(0, (3, 2)))


def _plain(axes: Any) -> None:
    axes.tick_params(labelsize=8, colors=_GREY, length=2)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color("#BBBBBB")
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=9))
