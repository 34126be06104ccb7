"""From scores of runs, seeds and events to one number with its 95% interval.

Two kinds of interval answer two questions. *Seeds within fixed events* (:func:`student`,
:func:`stratified_bootstrap`): would other seeds say the same of these events? *Events as draws*
(:func:`bootstrap`, :func:`paired`, :func:`block_bootstrap`, :func:`hierarchical_bootstrap`): would
other events? ``rng`` is always explicit.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "Interval",
    "block_bootstrap",
    "bootstrap",
    "hierarchical_bootstrap",
    "iqm",
    "paired",
    "probability_of_improvement",
    "probability_of_improvement_interval",
    "ratio",
    "stratified_bootstrap",
    "student",
]

Floats = NDArray[np.float64]

_DRAWS = 4000


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


def _statistic(given: Callable[[Floats], Floats] | None) -> Callable[[Floats], Floats]:
    return given if given is not None else lambda s: np.asarray(s.mean(axis=(1, 2)))


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
    of = _statistic(statistic)
    mean = float(of(x[None])[0])
    if x.shape[0] < 2:
        return Interval(mean, math.nan, math.nan)
    rows = rng.integers(x.shape[0], size=(draws, *x.shape))
    return _interval(mean, of(x[rows, np.arange(x.shape[1])]))


def hierarchical_bootstrap(
    scores: ArrayLike,
    rng: np.random.Generator,
    statistic: Callable[[Floats], Floats] | None = None,
    draws: int = _DRAWS,
) -> Interval:
    """Interval of scores ``(seeds, events)`` where both the events and their seeds are draws.

    Events are drawn first, then seeds within each drawn event. ``statistic`` maps
    ``(draws, seeds, events)`` to ``(draws,)``; the default is the mean. For a paired comparison
    give the differences of two methods' scores. With one event there is no interval. The noise of
    the seeds enters twice (in what is drawn from, and in the drawing), so the interval is a little
    wide where seeds differ more than events (Davison and Hinkley, *Bootstrap Methods and their
    Application*, 1997, section 3.8).
    """
    x = np.asarray(scores, dtype=float)
    seeds, events = x.shape
    of = _statistic(statistic)
    mean = float(of(x[None])[0])
    if events < 2:
        return Interval(mean, math.nan, math.nan)
    columns = rng.integers(events, size=(draws, 1, events))
    rows = rng.integers(seeds, size=(draws, seeds, events))
    return _interval(mean, of(x[rows, columns]))


def ratio(a: ArrayLike, b: ArrayLike, rng: np.random.Generator, draws: int = _DRAWS) -> Interval:
    """Mean of ``a`` divided by mean of ``b``, with its hierarchical bootstrap interval.

    ``a`` ``(seeds, events)`` and ``b`` ``(other seeds, events)`` have the same events, which are
    drawn together; so are the seeds within an event where both have as many (the same runs), else
    each has its own. The ratio means something only where ``b`` is clearly not 0.
    """
    x, y = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    events = x.shape[1]
    if y.shape[1] != events:
        raise ValueError(f"{events} and {y.shape[1]} events; needed: the same")
    mean = float(x.mean() / y.mean()) if y.mean() else math.nan
    if events < 2 or math.isnan(mean):
        return Interval(mean, math.nan, math.nan)
    columns = rng.integers(events, size=(draws, 1, events))
    of_a = rng.integers(len(x), size=(draws, len(x), events))
    of_b = of_a if len(x) == len(y) else rng.integers(len(y), size=(draws, len(y), events))
    below = y[of_b, columns].mean(axis=(1, 2))
    above = x[of_a, columns].mean(axis=(1, 2))
    return _interval(mean, above / np.where(below == 0, np.finfo(float).tiny, below))


def iqm(scores: ArrayLike) -> Floats:
    """Interquartile mean of scores ``(..., runs, tasks)`` over runs and tasks together: ``(...)``.

    The mean without the lowest and the highest quarter (rounded down to whole scores) of all
    ``runs * tasks`` of them: Agarwal et al., "Deep Reinforcement Learning at the Edge of the
    Statistical Precipice", NeurIPS 2021. A ``statistic`` of the bootstraps.
    """
    x = np.asarray(scores, dtype=float)
    flat = np.sort(x.reshape(*x.shape[:-2], -1), axis=-1)
    cut = flat.shape[-1] // 4
    return np.asarray(flat[..., cut : flat.shape[-1] - cut].mean(axis=-1))


def probability_of_improvement(x: ArrayLike, y: ArrayLike) -> Floats:
    """How probably a run of ``x`` is better (lower) than a run of ``y``, averaged over tasks.

    P(X < Y) + P(X = Y)/2 over all pairs of runs of a task, from scores ``(..., runs, tasks)`` of
    two methods, whose numbers of runs may differ; returns ``(...)``. 0.5 where neither is better.
    Agarwal et al. (2021), there for scores of which more is better.
    """
    return np.asarray(_wins(x, y).mean(axis=(-3, -2, -1)))


def probability_of_improvement_interval(
    x: ArrayLike, y: ArrayLike, rng: np.random.Generator, draws: int = _DRAWS
) -> Interval:
    """:func:`probability_of_improvement` of ``(runs, tasks)`` with its stratified bootstrap.

    The tasks are fixed, the runs of each method are drawn within each task. NaN bounds where a
    method has one run.
    """
    wins = _wins(x, y)
    rows, columns, tasks = wins.shape
    mean = float(wins.mean())
    if min(rows, columns) < 2:
        return Interval(mean, math.nan, math.nan)
    # How often each run is drawn, which is the weight of its pairs.
    of_x, of_y = (
        rng.multinomial(runs, np.full(runs, 1 / runs), size=(draws, tasks)).astype(float)
        for runs in (rows, columns)
    )
    won = np.einsum("dti,ijt,dtj->d", of_x, wins, of_y, optimize=True)
    return _interval(mean, won / wins.size)


def _wins(x: ArrayLike, y: ArrayLike) -> Floats:
    """1 where a run of ``x`` is lower than one of ``y``, 0.5 at a tie: ``(..., rx, ry, tasks)``."""
    a, b = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    if a.shape[-1] != b.shape[-1]:
        raise ValueError(
            f"the methods have {a.shape[-1]} and {b.shape[-1]} tasks; needed: the same"
        )
    a, b = a[..., :, None, :], b[..., None, :, :]
    result: Floats = (a < b) + 0.5 * (a == b)
    return result
