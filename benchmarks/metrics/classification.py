"""How well individual labels are predicted, dimension by dimension."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mfenv.labels import DIMENSIONS, N_DIMENSIONS, Labels

__all__ = ["F1", "confusion", "f1", "label_f1", "macro_f1"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class F1:
    """F1 of predicted labels, 0 to 1. Every reaction has one label in each dimension."""

    labels: Floats  # (23,) of each label; absent ones have ``zero_division``
    macro: Floats  # (8,) mean over a dimension's labels
    micro: Floats  # (8,) all labels of a dimension pooled, which is the accuracy

    @property
    def mean_macro(self) -> float:
        """Mean over the dimensions."""
        return float(self.macro.mean())

    @property
    def mean_micro(self) -> float:
        """Mean over the dimensions; also the micro-F1 of all 23 labels pooled."""
        return float(self.micro.mean())


def confusion(reference: Labels, predicted: Labels) -> list[Floats]:
    """Confusion counts of labels ``(n, 8)`` and ``(n, 8)``: for each dimension ``(k, k)``.

    Row: the reference label; column: the predicted one. A row over its sum is the distribution of
    predictions given the reference. Raises ``ValueError`` for labels outside their dimension.
    """
    true, guess = (np.asarray(x).astype(np.int64) for x in (reference, predicted))
    if true.shape != guess.shape or true.ndim != 2 or true.shape[1] != N_DIMENSIONS:
        raise ValueError(
            f"labels of the same reactions need one shape (n, {N_DIMENSIONS}), "
            f"got {true.shape} and {guess.shape}"
        )
    tables = []
    for d, dimension in enumerate(DIMENSIONS):
        k = len(dimension.labels)
        for column in (true[:, d], guess[:, d]):
            if np.any((column < 0) | (column >= k)):
                raise ValueError(f"{dimension.name}: labels must be from 0 to {k - 1}")
        pairs = np.bincount(true[:, d] * k + guess[:, d], minlength=k * k)
        tables.append(pairs.reshape(k, k).astype(float))
    return tables


def label_f1(table: ArrayLike, zero_division: float = math.nan) -> Floats:
    """F1 of each label from confusion counts ``(..., k, k)``: ``(..., k)``.

    2 · hits / (times in the reference + times predicted). A label that occurs in neither has
    ``zero_division``; one that occurs and is never hit has 0.
    """
    counts = np.asarray(table, dtype=float)
    hit = np.einsum("...ii->...i", counts)
    both = counts.sum(axis=-1) + counts.sum(axis=-2)
    return np.where(both > 0, 2 * hit / np.maximum(both, 1e-12), zero_division)


def macro_f1(table: ArrayLike, zero_division: float = math.nan) -> Floats:
    """Mean of :func:`label_f1` over the labels, NaN left out: ``(..., k, k)`` gives ``(...)``."""
    each = label_f1(table, zero_division)
    known = ~np.isnan(each)
    total = np.where(known, each, 0.0).sum(axis=-1)
    number = known.sum(axis=-1)
    return np.asarray(np.where(number > 0, total / np.maximum(number, 1), np.nan))


def f1(reference: Labels, predicted: Labels, zero_division: float = math.nan) -> F1:
    """F1 of individual labels: reference ``(n, 8)`` against predicted ``(n, 8)``.

    A label that occurs neither in the reference nor in the prediction has no F1. It is left out of
    the macro mean (``zero_division`` NaN: scikit-learn's ``f1_score`` with its default labels), or
    counts as 0 or 1 (``zero_division=0`` or ``1``: scikit-learn's with all labels given).
    """
    tables = confusion(reference, predicted)
    if not len(reference):
        raise ValueError("f1 needs at least one reaction")
    return F1(
        labels=np.concatenate([label_f1(table, zero_division) for table in tables]),
        macro=np.stack([macro_f1(table, zero_division) for table in tables]),
        micro=np.array([float(np.trace(table) / table.sum()) for table in tables]),
    )
