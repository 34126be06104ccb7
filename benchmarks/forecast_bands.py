"""Predictive distributions of label shares, their scores, and turning points: pure functions.

A forecast says how many of the next ``m`` reactions of a window will have each label, as
probabilities of the counts 0 to m. Bands, coverage and scores follow from those exactly, with the
sampling noise of the window in them: they are about the share that will be observed.

Shapes: labels end in ``(n, 8)``, counts in ``(windows, 23)``, probabilities of counts in
``(windows, 23, size + 1)``, padded with zeros where a window has fewer reactions to come.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

from benchmarks.metrics import turning_points
from mfenv.labels import DIMENSIONS, Labels, one_hot

__all__ = [
    "LEVELS",
    "Forecast",
    "Inside",
    "Scores",
    "Smoothing",
    "TurnChance",
    "band",
    "count_probabilities",
    "coverage",
    "crps",
    "dimension_mean",
    "fan_ends",
    "forecast",
    "interval_score",
    "overdispersion",
    "pinball",
    "pit",
    "pit_histogram",
    "redrawn",
    "score",
    "share_curves",
    "trailing_counts",
    "turn_after",
    "turn_chance",
]

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

LEVELS: tuple[float, ...] = tuple(k / 10 for k in range(1, 10))
"""Levels of central bands in a reliability curve, and of quantiles in the pinball loss."""

_EPS = 1e-9  # a level that a sum of probabilities meets is met, whatever the rounding
_POINTS = 240  # of a fan at most, beside the first
_SIZES = np.array([len(d.labels) for d in DIMENSIONS])
_WEIGHTS: Floats = np.repeat(1 / (len(DIMENSIONS) * _SIZES), _SIZES)


@dataclass(frozen=True, slots=True)
class Smoothing:
    """How K simulated windows become probabilities of counts.

    ``None`` in its place takes the K windows as they are.
    """

    excess: float = 0.03
    """Added to the overdispersion that the seeds show: what they do not know of the real course.

    Chosen on one half of the validation events; see ``benchmarks/results/calibration-*``.
    """
    pseudo: float = 0.5
    """Added to every label's count over all seeds, so that what no seed did is not impossible."""


# -- windows ---------------------------------------------------------------------------------


def trailing_counts(labels: Labels, ends: ArrayLike, size: int) -> Counts:
    """Count labels ``(..., n, 8)`` in windows of ``size`` reactions; gives ``(..., windows, 23)``.

    A window holds the last ``size`` reactions up to and without index ``end``, of ``ends``
    ``(windows,)`` from 0 to n; it is shorter where fewer went before.
    """
    ends = np.asarray(ends, dtype=np.int64)
    indicators = one_hot(labels).astype(np.int64)
    start = np.zeros((*indicators.shape[:-2], 1, indicators.shape[-1]), dtype=np.int64)
    total = np.concatenate([start, indicators.cumsum(axis=-2)], axis=-2)
    return np.asarray(total[..., ends, :] - total[..., np.maximum(ends - size, 0), :])


# -- probabilities of counts ----------------------------------------------------------------


def overdispersion(count: ArrayLike, sizes: ArrayLike) -> Floats:
    """How far windows of several seeds differ beyond sampling noise; gives ``(windows,)``.

    Counts ``(seeds, windows, 23)`` of windows of ``sizes`` ``(windows,)`` reactions. The value is
    the correlation ρ of two reactions of a window in a Dirichlet-multinomial, by moments: a count
    has the variance m p (1 − p) (1 + (m − 1) ρ), pooled over the labels (the moment estimator of
    Mosimann, Biometrika 49, 1962). Negative where seeds differ less than independent reactions
    would; 0 where there is nothing to estimate it from.
    """
    count = np.asarray(count, dtype=float)
    m = np.asarray(sizes, dtype=float)
    k = len(count)
    if k < 2:
        return np.zeros(len(m))
    p = count.mean(axis=0) / np.maximum(m, 1)[:, None]
    # Unbiased over seeds: mean square between them is p(1-p) less than the variance of the mean.
    between = count.var(axis=0, ddof=1)
    expected = m[:, None] * p * (1 - p) + between / np.maximum(m, 1)[:, None] / k
    total = (expected * _WEIGHTS).sum(axis=-1)
    ratio = (between * _WEIGHTS).sum(axis=-1) / np.where(total > 0, total, 1.0)
    return np.where((total > 0) & (m > 1), (ratio - 1) / np.maximum(m - 1, 1), 0.0)


def count_probabilities(count: ArrayLike, sizes: ArrayLike, smoothing: Smoothing | None) -> Floats:
    """Probabilities ``(windows, 23, max(sizes) + 1)`` of the count of each label.

    From counts ``(seeds, windows, 23)`` in simulated windows of ``sizes`` ``(windows,)`` reactions.

    Without smoothing they are the frequencies over the seeds. With it a Dirichlet-multinomial is
    fitted by moments, whose count of one label is beta-binomial: its mean is that of the seeds
    (with pseudo-counts), its overdispersion that of the seeds, at least 0 and widened by 1/seeds
    for the uncertainty of their mean, plus what the smoothing adds.
    """
    count = np.asarray(count)
    m = np.broadcast_to(np.asarray(sizes, dtype=np.int64), count.shape[1:2])
    width = int(m.max(initial=0)) + 1
    values = np.arange(width)
    if smoothing is None:
        return np.asarray((count[..., None] == values).mean(axis=0))
    k = len(count)
    pseudo = smoothing.pseudo
    labels = np.repeat(_SIZES, _SIZES)
    p = (count.sum(axis=0) + pseudo) / (k * m[:, None] + pseudo * labels)
    rho = np.maximum(overdispersion(count, m), 0.0)
    seen = ((1 + (m - 1) * rho) * (1 + 1 / k) - 1) / np.maximum(m - 1, 1)
    total = np.minimum(seen + smoothing.excess, 1 - 1e-6)
    return beta_binomial(p, total[:, None], m[:, None])


def beta_binomial(p: Floats, rho: Floats, m: Counts) -> Floats:
    """Probabilities ``(..., max(m) + 1)`` of a beta-binomial count of ``m``, binomial at ρ = 0.

    Mean m p and variance m p (1 − p) (1 + (m − 1) ρ); shapes broadcast, 0 < p < 1, 0 ≤ ρ < 1.
    By the ratio of successive terms, which needs no gamma function.
    """
    p, rho, m = np.broadcast_arrays(np.asarray(p, float), rho, m)
    theta = (rho / (1 - rho))[..., None]
    j = np.arange(int(m.max(initial=0)))
    left = (m[..., None] - j).astype(float)  # m - j, not positive beyond the last count
    with np.errstate(divide="ignore", invalid="ignore"):
        step = (
            np.log(left)
            + np.log(p[..., None] + j * theta)
            - np.log(j + 1.0)
            - np.log(1 - p[..., None] + (left - 1) * theta)
        )
    rise = np.cumsum(np.where(left > 0, step, -np.inf), axis=-1)
    log = np.concatenate([np.zeros((*p.shape, 1)), rise], axis=-1)
    weight = np.exp(log - log.max(axis=-1, keepdims=True))
    return np.asarray(weight / weight.sum(axis=-1, keepdims=True))


@dataclass(frozen=True, slots=True)
class Forecast:
    """Probabilities of the label counts in windows that end after the warm-up."""

    ends: Counts  # (windows,) reactions of the horizon before each window's end
    sizes: Counts  # (windows,) reactions of each window, those of the warm-up included
    known: Counts  # (windows, 23) label counts of the reactions that the warm-up has already
    probabilities: Floats  # (windows, 23, most + 1) of the counts among the others

    def band(self, level: float) -> tuple[Floats, Floats]:
        """Shares ``(windows, 23)`` at the lower and the upper end of the central band."""
        low, high = band(self.probabilities, level)
        sizes = self.sizes[:, None]
        return (self.known + low) / sizes, (self.known + high) / sizes

    def quantile(self, level: float) -> Floats:
        """Shares ``(windows, 23)`` that are not exceeded with probability ``level``."""
        least = (self.probabilities.cumsum(axis=-1) < level - _EPS).sum(axis=-1)
        return np.asarray((self.known + least) / self.sizes[:, None])


def forecast(
    warmup: Labels,
    simulated: Labels,
    ends: ArrayLike,
    size: int,
    smoothing: Smoothing | None,
) -> Forecast:
    """Forecast windows of ``size`` reactions that end ``ends`` ``(windows,)`` reactions on.

    From labels of the warm-up ``(w, 8)`` and of the horizon as simulated ``(seeds, n, 8)``. What
    of a window lies in the warm-up is known, so a fan opens from where the warm-up ends.
    """
    ends = np.asarray(ends, dtype=np.int64)
    ahead = np.minimum(ends, size)  # reactions of the window that are to come
    known = [trailing_counts(warmup, [len(warmup)], size - int(n))[0] for n in ahead]
    count = trailing_counts(simulated, ends, size)
    return Forecast(
        ends=ends,
        sizes=np.minimum(size, len(warmup) + ends),
        known=np.stack(known),
        probabilities=count_probabilities(count, ahead, smoothing),
    )


# -- bands and scores ------------------------------------------------------------------------


def band(probabilities: Floats, level: float) -> tuple[Counts, Counts]:
    """Least and greatest count ``(...)`` of the central band of probabilities ``(..., m + 1)``.

    No more than (1 − level)/2 lies below it, and no more above: it holds whole reactions, so it
    is a little wider than its level says.
    """
    below = (1 - level) / 2
    total = probabilities.cumsum(axis=-1)
    low = (total < below - _EPS).sum(axis=-1)
    high = (total <= 1 - below + _EPS).sum(axis=-1)
    return low, np.minimum(high, _last(probabilities))


def _last(probabilities: Floats) -> Counts:
    """Greatest count that is possible."""
    possible = probabilities > 0
    return np.asarray(probabilities.shape[-1] - 1 - possible[..., ::-1].argmax(axis=-1))


def crps(probabilities: Floats, observed: ArrayLike) -> Floats:
    """Continuous ranked probability score in reactions, ``(...)``; 0 is a certain hit.

    Σ_k (F(k) − 1[observed ≤ k])² (Gneiting and Raftery, JASA 102, 2007). Divided by the window's
    reactions it is that of the share.
    """
    total = probabilities.cumsum(axis=-1)
    passed = np.arange(probabilities.shape[-1]) >= np.asarray(observed)[..., None]
    return np.asarray(((total - passed) ** 2).sum(axis=-1))


def pinball(probabilities: Floats, observed: ArrayLike, levels: Sequence[float]) -> Floats:
    """Mean pinball loss of the quantiles at ``levels`` in reactions, ``(...)``."""
    total, y = probabilities.cumsum(axis=-1), np.asarray(observed, dtype=float)
    result = np.zeros(y.shape)
    for level in levels:
        q = (total < level - _EPS).sum(axis=-1)
        result += np.where(y >= q, level * (y - q), (1 - level) * (q - y))
    return result / len(levels)


def interval_score(probabilities: Floats, observed: ArrayLike, level: float) -> Floats:
    """Winkler's score of the central band in reactions, ``(...)``: its width, and misses dearly.

    A miss costs 2/(1 − level) times its distance from the band.
    """
    low, high = band(probabilities, level)
    y = np.asarray(observed, dtype=float)
    missed = np.maximum(low - y, 0) + np.maximum(y - high, 0)
    return np.asarray(high - low + 2 / (1 - level) * missed)


def pit(probabilities: Floats, observed: ArrayLike) -> Floats:
    """The probability integral transform of counts, ``(..., 2)``: F(observed − 1), F(observed).

    The transform of a discrete observation is the whole stretch between the two, not a point in
    it drawn at random (Czado, Gneiting and Held, Biometrics 65, 2009).
    """
    total = np.concatenate(
        [np.zeros((*probabilities.shape[:-1], 1)), probabilities.cumsum(axis=-1)], axis=-1
    )
    index = np.asarray(observed, dtype=np.int64)[..., None]
    return np.concatenate([np.take_along_axis(total, index + i, axis=-1) for i in (0, 1)], axis=-1)


def coverage(transform: Floats, level: float) -> Floats:
    """Part ``(...)`` of each transform ``(..., 2)`` in the central ``level``: 0 to 1.

    Its mean is ``level`` for a forecast that is right, however coarse the counts are.
    """
    return _part_between(transform, (1 - level) / 2, (1 + level) / 2)


def pit_histogram(transform: Floats, bins: int = 10) -> Floats:
    """Parts ``(..., bins)`` of each transform ``(..., 2)``; flat on average if forecasts are right.

    Heaped at both ends: bands too narrow; in the middle: too wide.
    """
    edges = np.linspace(0, 1, bins + 1)
    return np.stack([_part_between(transform, a, b) for a, b in pairwise(edges)], axis=-1)


def _part_between(transform: Floats, low: float, high: float) -> Floats:
    a, b = transform[..., 0], transform[..., 1]
    width = b - a
    shared = np.clip(np.minimum(b, high) - np.maximum(a, low), 0, None)
    # What was impossible has a transform without width: it lies in the bin above it, 1 in the last.
    point = (a >= low) & ((a < high) | (high >= 1))
    return np.asarray(np.where(width > _EPS, shared / np.where(width > _EPS, width, 1), point))


def dimension_mean(values: ArrayLike) -> Floats:
    """Mean over labels ``(..., 23)`` in which all eight dimensions weigh the same; ``(...)``."""
    return np.asarray(np.asarray(values, dtype=float) @ _WEIGHTS)


@dataclass(frozen=True, slots=True)
class Inside:
    """How many observed shares lie in a central band."""

    level: float
    share: float  # of the (window, label) cells, all dimensions alike
    expected: float  # the same if the forecast is right; above the level, as counts are whole


@dataclass(frozen=True, slots=True)
class Scores:
    """A forecast held against what happened; the losses are in shares, less is better."""

    windows: int
    inside: tuple[Inside, ...]
    crps: float
    pinball: float
    interval: float  # interval score of the widest band


def score(made: Forecast, real: Labels, size: int, levels: Sequence[float]) -> Scores | None:
    """Scores of windows of ``size`` reactions, by the labels ``(n, 8)`` after the warm-up.

    Windows that reach beyond ``real`` are left out; ``None`` where none is left.
    """
    n = int((made.ends <= len(real)).sum())
    if n == 0:
        return None
    seen = trailing_counts(real, made.ends[:n], size)
    probabilities = made.probabilities[:n]
    part = 1 / made.sizes[:n, None]
    total = np.concatenate([np.zeros((n, len(_WEIGHTS), 1)), probabilities.cumsum(axis=-1)], -1)
    inside = []
    for level in levels:
        low, high = band(probabilities, level)
        mass = np.take_along_axis(total, high[..., None] + 1, -1) - np.take_along_axis(
            total, low[..., None], -1
        )
        hit = (low <= seen) & (seen <= high)
        inside.append(Inside(level, _mean(hit), _mean(mass[..., 0])))
    return Scores(
        windows=n,
        inside=tuple(inside),
        crps=_mean(crps(probabilities, seen) * part),
        pinball=_mean(pinball(probabilities, seen, LEVELS) * part),
        interval=_mean(interval_score(probabilities, seen, max(levels)) * part),
    )


def _mean(values: ArrayLike) -> float:
    return float(dimension_mean(values).mean())


# -- turning points --------------------------------------------------------------------------


def fan_ends(horizon: int, batch: int) -> NDArray[np.int64]:
    """Where a fan is drawn: reactions after the warm-up at the end of every step, from 0.

    Of a long horizon some steps, evenly spread.
    """
    stride = batch * max(1, -(-horizon // (batch * _POINTS)))
    return np.unique([*range(0, horizon, stride), horizon])


def share_curves(
    warmup: Labels, after: Labels, batch: int, window: int
) -> tuple[NDArray[np.int64], Floats]:
    """Shares in the last ``window`` reactions, step by step from within the warm-up on.

    Labels ``(w, 8)`` and ``(..., n, 8)`` give places ``(points,)`` in reactions after the warm-up
    (negative within it) and shares ``(..., points, 23)``. The first windows of the warm-up, less
    than half full, are left out.
    """
    n = len(warmup)
    least = min(n, -(-window // 2))
    before = np.arange(-batch, least - n - 1, -batch)[::-1]
    ends = np.concatenate([before, fan_ends(after.shape[-2], batch)])
    known = np.broadcast_to(warmup, (*after.shape[:-2], *warmup.shape))
    count = trailing_counts(np.concatenate([known, after], axis=-2), n + ends, window)
    return ends, count / np.minimum(n + ends, window)[:, None]


def redrawn(labels: Labels, batch: int, rng: np.random.Generator) -> Labels:
    """Labels ``(n, 8)`` drawn with replacement from those of their own step of ``batch``.

    Reactions that were chosen jointly, so that a step has the shares it should have, hold less
    sampling noise than those of people; drawn once more they hold as much.
    """
    n = len(labels)
    start = np.arange(n) // batch * batch
    drawn: Labels = labels[start + rng.integers(np.minimum(batch, n - start))]
    return drawn


@dataclass(frozen=True, slots=True)
class TurnChance:
    """How likely a trend turns within the horizon, by the seeds in which it does."""

    probability: float  # part of the seeds whose trend turns
    peak: float  # part of the seeds whose first turn is a peak; the rest are troughs
    where: tuple[float, float, float] | None
    """Reactions after the warm-up at which it first turns: 10%, half, 90% of those seeds."""


def turn_after(curve: ArrayLike, ends: ArrayLike, least: float) -> tuple[int, bool] | None:
    """The first turn of a curve ``(n,)`` at or after the end of the warm-up: (where, peak?).

    ``ends`` ``(n,)`` are its places in reactions after the warm-up, negative within it. What lies
    in the warm-up only says where the trend comes from.
    """
    places = np.asarray(ends)
    for turn in turning_points(curve, width=1, swing=least):
        if places[turn.step] >= 0:
            return int(places[turn.step]), turn.direction < 0
    return None


def turn_chance(curves: ArrayLike, ends: ArrayLike, least: float) -> TurnChance:
    """The chance of a turn after the warm-up, from the curves ``(seeds, n)`` of the seeds."""
    curves = np.asarray(curves, dtype=float)
    turns = [t for curve in curves if (t := turn_after(curve, ends, least)) is not None]
    places = [place for place, _ in turns]
    where = np.quantile(places, (0.1, 0.5, 0.9), method="inverted_cdf") if places else None
    return TurnChance(
        probability=len(turns) / len(curves),
        peak=sum(peak for _, peak in turns) / len(curves),
        where=None if where is None else (float(where[0]), float(where[1]), float(where[2])),
    )
