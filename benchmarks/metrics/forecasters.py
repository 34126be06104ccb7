"""Baselines without a model that continue the warm-up: labels ``(w, 8)`` give labels ``(n, 8)``.

``rng`` is always explicit.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from mfenv.distributions import normalise
from mfenv.labels import OFFSETS, Labels, one_hot
from mfenv.noise import categorical

__all__ = ["HALF_LIFE", "PERSISTENCE", "drift", "persistence", "rotation", "smoothing"]

PERSISTENCE = 48
"""How many of the last warm-up reactions the persistence baseline continues."""

HALF_LIFE = 24.0
"""Reactions after which the weight of an old one has halved, in exponential smoothing."""


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
