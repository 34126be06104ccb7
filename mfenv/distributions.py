"""Population distributions: 23 probabilities, one block per label dimension.

Every function takes arrays whose last axis has the 23 labels of :mod:`mfenv.labels`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mfenv.labels import DIMENSIONS, N_DIMENSIONS, N_LABELS, OFFSETS, Labels, one_hot

__all__ = ["SMOOTHING", "UNIFORM", "counts", "kl_per_dimension", "normalise", "shares"]

Floats = NDArray[np.float64]

SMOOTHING = 0.5
"""Added to every label count before a KL divergence, so that no count of zero is infinite."""

UNIFORM: Floats = np.concatenate([np.full(len(d.labels), 1 / len(d.labels)) for d in DIMENSIONS])
UNIFORM.setflags(write=False)


def counts(labels: Labels, weights: ArrayLike | None = None) -> Floats:
    """Count labels ``(n, 8)``, optionally weighted ``(n,)``; returns ``(23,)``."""
    indicators = one_hot(labels)
    if weights is None:
        return np.asarray(indicators.sum(axis=0))
    return np.asarray(np.asarray(weights, dtype=float) @ indicators)


def normalise(count: ArrayLike, smoothing: float = 0.0) -> Floats:
    """Turn counts ``(..., 23)`` into probabilities that sum to one in every dimension.

    ``smoothing`` is added to every label's count first. A dimension without any count becomes
    uniform.
    """
    count = np.asarray(count, dtype=float) + smoothing
    totals = np.add.reduceat(count, OFFSETS[:-1], axis=-1)
    sizes = np.diff(OFFSETS)
    total = np.repeat(totals, sizes, axis=-1)
    safe = np.where(total > 0, total, 1.0)
    return np.where(total > 0, count / safe, UNIFORM)


def shares(labels: Labels, smoothing: float = 0.0) -> Floats:
    """Return the label shares ``(23,)`` of reactions with labels ``(n, 8)``."""
    return normalise(counts(labels), smoothing)


def kl_per_dimension(p: ArrayLike, q: ArrayLike) -> Floats:
    """KL(p ‖ q) in nats for each dimension; ``(..., 23)`` and ``(..., 23)`` give ``(..., 8)``.

    Where ``p`` is zero the term is zero; where ``q`` is zero and ``p`` is not, it is infinite.
    """
    p, q = np.asarray(p, dtype=float), np.asarray(q, dtype=float)
    if p.shape[-1] != N_LABELS or q.shape[-1] != N_LABELS:
        raise ValueError(
            f"distributions need {N_LABELS} entries, got {p.shape[-1]} and {q.shape[-1]}"
        )
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(p > 0, p * (np.log(p) - np.log(q)), 0.0)
    result: Floats = np.add.reduceat(terms, OFFSETS[:-1], axis=-1)
    assert result.shape[-1] == N_DIMENSIONS
    return result
