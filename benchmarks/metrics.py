"""How far a simulated population is from the real one: pure functions on arrays.

Shapes: label arrays end in ``(n, 8)``, counts and shares in ``(23,)``, results for each dimension
in ``(8,)``; leading axes (events, seeds, windows) broadcast. Divergences are in nats. ``rng`` is
always explicit.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mfenv.distributions import SMOOTHING, kl_per_dimension, normalise
from mfenv.labels import OFFSETS, Labels, one_hot
from mfenv.noise import categorical

__all__ = [
    "HALF_LIFE",
    "PERSISTENCE",
    "WINDOWS",
    "Interval",
    "block_bootstrap",
    "bootstrap",
    "drift",
    "jensen_shannon",
    "kl",
    "noise_floor",
    "paired",
    "persistence",
    "rotation",
    "smoothing",
    "squared_error",
    "stratified_bootstrap",
    "student",
    "total_variation",
    "window_counts",
]

Floats = NDArray[np.float64]

WINDOWS: tuple[str, ...] = ("short", "mid", "long")
"""The horizon's thirds, by number of reactions."""

PERSISTENCE = 48
"""How many of the last warm-up reactions the persistence baseline continues."""

HALF_LIFE = 24.0
"""Reactions after which the weight of an old one has halved, in exponential smoothing."""

_DRAWS = 4000


def window_counts(labels: Labels, keep: ArrayLike | None = None) -> Floats:
    """Count labels ``(..., n, 8)`` in the horizon's three windows; returns ``(..., 3, 23)``.

    Reaction ``i`` of ``n`` falls into window ``3 i // n``. ``keep`` ``(..., n)`` leaves reactions
    out of the counts (planted ones) without moving the windows. Needs at least three reactions.
    """
    labels = np.asarray(labels)
    n = labels.shape[-2]
    if n < len(WINDOWS):
        raise ValueError(f"{n} reactions are too few for {len(WINDOWS)} windows")
    indicators = one_hot(labels)
    if keep is not None:
        indicators = indicators * np.asarray(keep, dtype=float)[..., None]
    starts = [-(-w * n // len(WINDOWS)) for w in range(len(WINDOWS))]
    result: Floats = np.add.reduceat(indicators, starts, axis=-2)
    return result


def kl(real: ArrayLike, simulated: ArrayLike) -> Floats:
    """KL(real ‖ simulated) of counts ``(..., 23)``, 0.5 added to each count; gives ``(..., 8)``."""
    return kl_per_dimension(normalise(real, SMOOTHING), normalise(simulated, SMOOTHING))


def jensen_shannon(p: ArrayLike, q: ArrayLike) -> Floats:
    """Jensen-Shannon divergence of shares ``(..., 23)``: ``(..., 8)`` from 0 to ln 2."""
    p, q = np.asarray(p, dtype=float), np.asarray(q, dtype=float)
    middle = (p + q) / 2
    return (kl_per_dimension(p, middle) + kl_per_dimension(q, middle)) / 2


def total_variation(p: ArrayLike, q: ArrayLike) -> Floats:
    """Half the absolute difference of shares ``(..., 23)``: ``(..., 8)`` from 0 to 1."""
    gap = np.abs(np.asarray(p, dtype=float) - np.asarray(q, dtype=float))
    result: Floats = np.add.reduceat(gap, OFFSETS[:-1], axis=-1) / 2
    return result


def squared_error(real: ArrayLike, simulated: ArrayLike) -> Floats:
    """Squared distance of the expected shares, from counts ``(..., 23)``; returns ``(..., 8)``.

    The sampling variance of both sides is subtracted, so the mean is the squared distance of the
    underlying distributions at any sample size: equal ones score 0 on average, and a single
    value can be negative. Pool the seeds' counts first. Both sides need two reactions or more.
    """
    total = np.zeros(())
    shares = []
    for count in (np.asarray(real, dtype=float), np.asarray(simulated, dtype=float)):
        n = np.add.reduceat(count, OFFSETS[:-1], axis=-1)
        if np.any(n < 2):
            raise ValueError("squared_error needs at least two reactions on either side")
        p = normalise(count)
        total = total - (1 - np.add.reduceat(p**2, OFFSETS[:-1], axis=-1)) / (n - 1)
        shares.append(p)
    gap = (shares[0] - shares[1]) ** 2
    result: Floats = total + np.add.reduceat(gap, OFFSETS[:-1], axis=-1)
    return result


def noise_floor(
    real: ArrayLike, n: ArrayLike, m: ArrayLike, rng: np.random.Generator, draws: int = 400
) -> Floats:
    """KL that sampling alone leaves between real and real; returns ``(..., 8)``.

    From the shares of ``real`` counts ``(..., 23)``, ``n`` ``(...)`` reactions are drawn on the
    real side and ``m`` ``(...)`` on the simulated side, as many as the comparison had, and their
    KL is averaged over the draws.
    """
    p = normalise(real)
    shape = p.shape[:-1]
    sizes = [np.broadcast_to(np.asarray(k, dtype=np.int64), shape) for k in (n, m)]
    sides = [
        np.concatenate(
            [
                rng.multinomial(size, p[..., a:b], size=(draws, *shape))
                for a, b in pairwise(OFFSETS)
            ],
            axis=-1,
        )
        for size in sizes
    ]
    result: Floats = kl(sides[0], sides[1]).mean(axis=0)
    return result


def persistence(
    warmup: Labels, n: int, rng: np.random.Generator, last: int = PERSISTENCE
) -> Labels:
    """The baseline that nothing changes: ``(n, 8)`` drawn from the last warm-up reactions.

    Whole reactions are drawn with replacement from the last ``last`` of ``warmup`` ``(w, 8)``, so
    that the baseline has as many reactions as the methods beside it.
    """
    recent = np.asarray(warmup)[-last:]
    if len(recent) == 0:
        raise ValueError("persistence needs a warm-up with at least one reaction")
    return recent[rng.integers(len(recent), size=n)]


def rotation(warmup: Labels, n: int, rng: np.random.Generator, last: int = PERSISTENCE) -> Labels:
    """Persistence without the noise of drawing: ``(n, 8)``, the last reactions in turn.

    The last ``last`` of ``warmup`` ``(w, 8)`` in a random order, then in another one, and so on:
    the measure for a method that chooses its reactions jointly.
    """
    recent = np.asarray(warmup)[-last:]
    if len(recent) == 0:
        raise ValueError("rotation needs a warm-up with at least one reaction")
    rounds = [rng.permutation(len(recent)) for _ in range(-(-n // len(recent)))]
    taken: Labels = recent[np.concatenate([*rounds, np.arange(0)])[:n].astype(int)]
    return taken


def smoothing(
    warmup: Labels, n: int, rng: np.random.Generator, half_life: float = HALF_LIFE
) -> Labels:
    """Exponential smoothing: the shares of the warm-up continue, old reactions counting less.

    Whole reactions ``(n, 8)`` are drawn from ``warmup`` ``(w, 8)``; a reaction's weight halves with
    every ``half_life`` reactions after it.
    """
    past = np.asarray(warmup)
    if len(past) == 0:
        raise ValueError("smoothing needs a warm-up with at least one reaction")
    weight = 0.5 ** (np.arange(len(past))[::-1] / half_life)
    return past[rng.choice(len(past), size=n, p=weight / weight.sum())]


def drift(warmup: Labels, n: int, rng: np.random.Generator) -> Labels:
    """The straight line through the warm-up goes on: ``(n, 8)`` from ``warmup`` ``(w, 8)``.

    Least squares on the label indicators over time; what the line says of a reaction to come is
    cut to [0, 1], and its labels are drawn independently in each dimension.
    """
    past = one_hot(np.asarray(warmup))
    if len(past) == 0:
        raise ValueError("drift needs a warm-up with at least one reaction")
    time = np.arange(len(past)) - (len(past) - 1) / 2
    slope = time @ past / max(float(time @ time), 1.0)  # (23,)
    ahead = np.arange(n)[:, None] + (len(past) + 1) / 2
    expected = normalise(np.clip(past.mean(axis=0) + ahead * slope, 0.0, 1.0))
    columns = [categorical(expected[:, a:b], rng.random(n)) for a, b in pairwise(OFFSETS)]
    return np.stack(columns, axis=1).astype(np.int8)


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean with its 95% interval. ``low`` and ``high`` are NaN where there is only one value."""

    mean: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval shows a difference."""
        return bool(self.low > 0 or self.high < 0)

    def __str__(self) -> str:
        if math.isnan(self.low):
            return f"{self.mean:.4f}"
        return f"{self.mean:.4f} [{self.low:.4f}, {self.high:.4f}]"


def student(values: ArrayLike) -> Interval:
    """Mean and 95% interval of few independent values ``(k,)`` (seeds) by Student's t."""
    x = np.asarray(values, dtype=float)
    if len(x) < 2:
        return Interval(float(x.mean()), math.nan, math.nan)
    half = _t_975(len(x) - 1) * float(x.std(ddof=1)) / math.sqrt(len(x))
    return Interval(float(x.mean()), float(x.mean()) - half, float(x.mean()) + half)


def _t_975(df: int) -> float:
    """The 97.5% point of Student's t: bisection on the finite series for whole ``df``."""
    low, high = 0.0, 13.0  # 12.71 at df = 1
    for _ in range(60):
        t = (low + high) / 2
        theta = math.atan2(t, math.sqrt(df))
        sine, cosine = math.sin(theta), math.cos(theta)
        odd = df % 2
        term, series = (cosine, cosine if df > 1 else 0.0) if odd else (1.0, 1.0)
        for k in range(3 if odd else 2, df - 1, 2):
            term *= cosine**2 * (k - 1) / k
            series += term
        inside = 2 / math.pi * (theta + sine * series) if odd else sine * series
        low, high = (t, high) if inside < 0.95 else (low, t)
    return (low + high) / 2


def _interval(mean: float, replicates: Floats) -> Interval:
    low, high = np.quantile(replicates, [0.025, 0.975])
    return Interval(mean, float(low), float(high))


def bootstrap(values: ArrayLike, rng: np.random.Generator, draws: int = _DRAWS) -> Interval:
    """Mean and percentile interval of independent values ``(n,)`` (events)."""
    x = np.asarray(values, dtype=float)
    return block_bootstrap(x, np.arange(len(x)), rng, draws)


def paired(a: ArrayLike, b: ArrayLike, rng: np.random.Generator, draws: int = _DRAWS) -> Interval:
    """Mean of ``a - b`` and its bootstrap interval; ``a`` and ``b`` ``(n,)`` share their events."""
    return bootstrap(np.asarray(a, dtype=float) - np.asarray(b, dtype=float), rng, draws)


def block_bootstrap(
    values: ArrayLike, blocks: ArrayLike, rng: np.random.Generator, draws: int = _DRAWS
) -> Interval:
    """Mean and interval of values ``(n,)`` that come in blocks ``(n,)`` (an event's threads).

    Whole blocks are drawn, since values within one are not independent. The mean is over values.
    """
    x = np.asarray(values, dtype=float)
    names, index = np.unique(np.asarray(blocks), return_inverse=True)
    if len(names) < 2:
        return Interval(float(x.mean()), math.nan, math.nan)
    sums, sizes = np.bincount(index, weights=x), np.bincount(index)
    chosen = rng.integers(len(names), size=(draws, len(names)))
    return _interval(float(x.mean()), sums[chosen].sum(axis=1) / sizes[chosen].sum(axis=1))


def stratified_bootstrap(
    scores: ArrayLike,
    rng: np.random.Generator,
    statistic: Callable[[Floats], Floats] | None = None,
    draws: int = _DRAWS,
) -> Interval:
    """Interval of scores ``(runs, tasks)`` where the tasks are fixed and the runs are random.

    Runs are drawn within each task. ``statistic`` maps ``(draws, runs, tasks)`` to ``(draws,)``;
    the default is the mean.
    """
    x = np.asarray(scores, dtype=float)
    of = statistic if statistic is not None else lambda s: np.asarray(s.mean(axis=(1, 2)))
    mean = float(of(x[None])[0])
    if x.shape[0] < 2:
        return Interval(mean, math.nan, math.nan)
    rows = rng.integers(x.shape[0], size=(draws, *x.shape))
    return _interval(mean, of(x[rows, np.arange(x.shape[1])]))
