"""Draws from keyed uniforms whose cost does not depend on how many people act.

A few people are drawn one by one, each by the inverse CDF. Of more each count takes one uniform:
the inverse CDF of the binomial where its variance is small, else its Cornish-Fisher expansion to
the second order (the normal approximation with the skewness).
"""

from __future__ import annotations

import math
from functools import cache
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "FEW",
    "SMALL_VARIANCE",
    "binomial",
    "categorical_counts",
    "multinomial",
    "normal_quantile",
    "quantile_table",
]

Floats = NDArray[np.float64]

FEW = 32
"""People up to whom each is drawn."""

SMALL_VARIANCE = 9.0
"""Below this variance of a binomial the draw is exact."""

PARTS = 64  # of each octave of the quantile table
OCTAVES = 53  # uniforms have 53 bits


@cache
def quantile_table() -> Floats:
    """Normal quantiles at 2^-e · (1 + j / 64) for e = 2 to 54, j = 0 to 64: ``(53, 65)``.

    Linear interpolation in it is within 5e-5 standard deviations.
    """
    inverse = NormalDist().inv_cdf
    table = np.array(
        [
            [inverse(2.0**-e * (1 + j / PARTS)) for j in range(PARTS + 1)]
            for e in range(2, OCTAVES + 2)
        ]
    )
    table.setflags(write=False)
    return table


def _quantile(u: float) -> float:
    tail = max(min(u, 1.0 - u), 2.0 ** -(OCTAVES + 1))
    mantissa, exponent = math.frexp(tail)
    place = PARTS if tail >= 0.5 else (2.0 * mantissa - 1.0) * PARTS
    row = 0 if tail >= 0.5 else -exponent - 1
    column = min(int(place), PARTS - 1)
    low, high = quantile_table()[row, column : column + 2].tolist()
    z = float(low + (high - low) * (place - column))
    return z if u < 0.5 else -z


def normal_quantile(u: ArrayLike) -> Floats:
    """Quantiles of the standard normal at uniforms in [0, 1); same shape."""
    if isinstance(u, float):
        return np.asarray(_quantile(u))
    u = np.asarray(u, dtype=float)
    tail = np.maximum(np.minimum(u, 1.0 - u), 2.0 ** -(OCTAVES + 1))
    mantissa, exponent = np.frexp(tail)  # mantissa in [0.5, 1)
    half = tail >= 0.5
    place = np.where(half, PARTS, (2.0 * mantissa - 1.0) * PARTS)
    row = np.where(half, 0, -exponent - 1)
    column = np.minimum(place.astype(np.intp), PARTS - 1)
    table = quantile_table()
    low, high = table[row, column], table[row, column + 1]
    z = low + (high - low) * (place - column)
    return np.asarray(np.where(u < 0.5, z, -z))


def binomial(n: ArrayLike, p: ArrayLike, u: ArrayLike) -> Floats:
    """Counts of ``n`` people who do what each does with chance ``p``, from uniforms; broadcasts."""
    n, p, u = np.broadcast_arrays(
        np.asarray(n, dtype=float), np.clip(np.asarray(p, dtype=float), 0.0, 1.0), np.asarray(u)
    )
    turned = p > 0.5
    small = np.where(turned, 1.0 - p, p)
    v = np.where(turned, 1.0 - u, u)
    variance = n * small * (1.0 - small)
    mean = n * small
    with np.errstate(divide="ignore"):
        mass = np.exp(n * np.log1p(-small))
    odds = small / (1.0 - small)
    exact = variance < SMALL_VARIANCE
    count = np.zeros(n.shape)
    cdf = mass.copy()
    running = exact & (v >= cdf)
    k = 0
    while running.any():
        k += 1
        mass = mass * ((n - k + 1.0) / k * odds)
        count = count + running
        cdf = cdf + mass
        # What rounding leaves of the tail belongs to the last count with any mass.
        running = running & (v >= cdf) & (count < n) & ((mass > 1e-18) | (k < mean))
    z = normal_quantile(v)
    wide = np.floor(mean + np.sqrt(variance) * z + (1.0 - 2.0 * small) * (z * z - 1.0) / 6.0 + 0.5)
    count = np.where(exact, count, np.minimum(np.maximum(wide, 0.0), n))
    return np.asarray(np.where(turned, n - count, count))


def multinomial(n: ArrayLike, p: ArrayLike, u: ArrayLike) -> Floats:
    """Counts ``(..., k)`` of ``n`` ``(...)`` people over chances ``(..., k)``.

    One binomial after the other, each of those who are left; uniforms ``(..., k - 1)``.
    """
    p, u = np.asarray(p, dtype=float), np.asarray(u, dtype=float)
    left = np.broadcast_to(np.asarray(n, dtype=float), p.shape[:-1])
    counts = np.empty(p.shape)
    mass = p.sum(axis=-1)
    for j in range(p.shape[-1] - 1):
        chance = np.where(mass > 0, p[..., j] / np.where(mass > 0, mass, 1.0), 0.0)
        counts[..., j] = binomial(left, chance, u[..., j])
        left = left - counts[..., j]
        mass = mass - p[..., j]
    counts[..., -1] = left
    return counts


def categorical_counts(n: ArrayLike, p: ArrayLike, u: ArrayLike) -> Floats:
    """Counts ``(..., k)`` of the first ``n`` ``(...)`` of ``m`` people, each with a uniform.

    Chances ``(..., k)`` and uniforms ``(..., m)``.
    """
    p, u = np.asarray(p, dtype=float), np.asarray(u, dtype=float)
    n = np.asarray(n, dtype=float)
    acting = np.arange(u.shape[-1]) < n[..., None]
    below = np.cumsum(p[..., :-1], axis=-1)
    beyond = ((u[..., None] >= below[..., None, :]) & acting[..., None]).sum(axis=-2)
    edges = np.concatenate([n[..., None], beyond, np.zeros((*n.shape, 1))], axis=-1)
    return np.asarray(edges[..., :-1] - edges[..., 1:])
