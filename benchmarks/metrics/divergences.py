"""Distances of label distributions, dimension by dimension, and what sampling alone leaves of them.

Counts and shares end in ``(23,)``, results for each dimension in ``(8,)``; leading axes (events,
seeds, windows) broadcast. KL and Jensen-Shannon divergences are in nats. ``rng`` is always
explicit.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from types import MappingProxyType

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mfenv.distributions import SMOOTHING, kl_per_dimension, normalise
from mfenv.labels import DIMENSIONS, OFFSETS, Labels, dimension, one_hot

__all__ = [
    "ORDER",
    "WINDOWS",
    "draw_counts",
    "jensen_shannon",
    "kl",
    "noise_floor",
    "squared_error",
    "total_variation",
    "wasserstein",
    "window_counts",
]

Floats = NDArray[np.float64]

WINDOWS: tuple[str, ...] = ("short", "mid", "long")
"""The horizon's thirds, by number of reactions."""

ORDER: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "sentiment_tendency": ("positive", "neutral", "negative"),
        "stance": ("support", "neutral", "oppose"),
    }
)
"""The dimensions whose labels lie on a line, and their order on it."""


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


def wasserstein(p: ArrayLike, q: ArrayLike) -> Floats:
    """1-Wasserstein distance of shares ``(..., 23)``: ``(..., 8)`` from 0 to 1.

    The ground distance of two labels: where :data:`ORDER` puts a dimension's labels on a line
    (sentiment tendency, stance), they stand at equal steps on it and its ends are 1 apart, so a
    move from positive to neutral costs one half. Elsewhere different labels are 1 apart (two labels
    lie on a line anyway), and the distance is the total variation.
    """
    p, q = np.asarray(p, dtype=float), np.asarray(q, dtype=float)
    result = total_variation(p, q)
    for name, order in ORDER.items():
        d = dimension(name)
        line = [OFFSETS[d] + DIMENSIONS[d].index(label) for label in order]
        # On a line: the area between the cumulative shares.
        gap = np.abs(np.cumsum(p[..., line] - q[..., line], axis=-1))
        result[..., d] = gap[..., :-1].sum(axis=-1) / (len(line) - 1)
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


def draw_counts(
    shares: ArrayLike, n: ArrayLike, rng: np.random.Generator, draws: int | None = None
) -> Floats:
    """Label counts of ``n`` ``(...)`` reactions drawn from shares ``(..., 23)``.

    Every dimension is drawn independently of the others. Returns ``(..., 23)``, or
    ``(draws, ..., 23)``.
    """
    p = np.asarray(shares, dtype=float)
    size = np.broadcast_to(np.asarray(n, dtype=np.int64), p.shape[:-1])
    shape = size.shape if draws is None else (draws, *size.shape)
    parts = [rng.multinomial(size, p[..., a:b], size=shape) for a, b in pairwise(OFFSETS)]
    return np.concatenate(parts, axis=-1).astype(float)


def noise_floor(
    real: ArrayLike, n: ArrayLike, m: ArrayLike, rng: np.random.Generator, draws: int = 400
) -> Floats:
    """KL that sampling alone leaves between real and real; returns ``(..., 8)``.

    From the shares of ``real`` counts ``(..., 23)``, ``n`` ``(...)`` reactions are drawn on the
    real side and ``m`` ``(...)`` on the simulated side, as many as the comparison had, and their
    KL is averaged over the draws.
    """
    p = normalise(real)
    sides = [draw_counts(p, size, rng, draws) for size in (n, m)]
    result: Floats = kl(sides[0], sides[1]).mean(axis=0)
    return result
