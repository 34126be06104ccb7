"""What a planner observes, as one float32 vector with named slices.

The topic's truth is hidden. Two things are visible of it: what the population believes, and a
noisy credibility, the posterior probability that the topic is true.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
from gymnasium.spaces import Box, Dict
from numpy.typing import ArrayLike, NDArray

from mfenv.envs.unicode_text import UnicodeText
from mfenv.errors import MfenvError
from mfenv.events.event import DOMAINS
from mfenv.interventions import KINDS
from mfenv.labels import N_LABELS

__all__ = [
    "DOMAIN_NAMES",
    "FORMATS",
    "OBSERVATION_SLICES",
    "TEXT_LENGTHS",
    "as_parts",
    "credibilities",
    "credibility",
    "domain_index",
    "observation_space",
    "readings",
    "vector",
]

DOMAIN_NAMES: tuple[str, ...] = (*DOMAINS, "unknown")
"""The entries of the domain slice, one-hot; an event whose domain is not known has the last."""

FORMATS: tuple[str, ...] = ("box", "dict", "text")
"""Observation formats: one vector, the same by slice, or the vector with topic and mean field."""

TEXT_LENGTHS: Mapping[str, int] = MappingProxyType({"topic": 1000, "mean_field": 2000})
"""Most characters of the texts in a text observation; what is longer is cut."""

_PARTS: tuple[tuple[str, int, float], ...] = (  # name, size, lower bound; the upper bound is 1
    ("distribution", N_LABELS, 0.0),
    ("change", N_LABELS, -1.0),
    ("domain", len(DOMAIN_NAMES), 0.0),
    ("time", 1, 0.0),
    ("budget", 1, 0.0),
    ("activity", len(KINDS), 0.0),
    ("credibility", 1, 0.0),
)
_ONE = np.float32(1.0)
_ENDS = np.cumsum([size for _, size, _ in _PARTS]).tolist()

OBSERVATION_SLICES: Mapping[str, slice] = MappingProxyType(
    {name: slice(end - size, end) for (name, size, _), end in zip(_PARTS, _ENDS, strict=True)}
)
"""Where each part lies in the vector."""


def observation_space(kind: str) -> Box | Dict:
    """The observation space of a format, one of ``FORMATS``."""
    low = np.concatenate([np.full(size, bound) for _, size, bound in _PARTS]).astype(np.float32)
    box = Box(low, np.ones_like(low), dtype=np.float32)
    if kind == "box":
        return box
    if kind == "dict":
        return Dict(
            {
                name: Box(box.low[where].copy(), box.high[where].copy(), dtype=np.float32)
                for name, where in OBSERVATION_SLICES.items()
            }
        )
    texts = {name: UnicodeText(length) for name, length in TEXT_LENGTHS.items()}
    return Dict({**texts, "vector": box})


def domain_index(domain: str | None) -> int:
    """Position of a domain in the domain slice."""
    return DOMAIN_NAMES.index(domain if domain in DOMAINS else "unknown")


def vector(
    *,
    distribution: ArrayLike,
    previous: ArrayLike,
    domain: ArrayLike,
    time: ArrayLike,
    budget: ArrayLike,
    activity: ArrayLike,
    credibility: ArrayLike,
) -> NDArray[np.float32]:
    """Assemble vectors ``(..., 63)``.

    Distributions ``(..., 23)``, activity ``(..., 6)``; ``(...)`` of: the domain's index, the part
    of the horizon that is over, the part of the budget that is left, and the credibility.
    """
    distribution = np.asarray(distribution, dtype=float)
    shape = distribution.shape[:-1]
    values = np.zeros((*shape, _ENDS[-1]), dtype=np.float32)
    parts = OBSERVATION_SLICES
    values[..., parts["distribution"]] = distribution
    change = values[..., parts["change"]]
    np.subtract(distribution, previous, out=change, casting="same_kind")
    hot = parts["domain"].start + np.asarray(domain)
    if shape:
        np.put_along_axis(values, np.broadcast_to(hot, shape)[..., None], 1.0, axis=-1)
    else:
        values[hot] = 1.0
    values[..., parts["time"].start] = time
    values[..., parts["budget"].start] = budget
    values[..., parts["activity"]] = activity
    values[..., parts["credibility"].start] = credibility
    return np.minimum(np.maximum(values, -_ONE, out=values), _ONE, out=values)


def as_parts(values: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    """Split a vector ``(63,)`` into fresh arrays by slice."""
    return {name: values[where].copy() for name, where in OBSERVATION_SLICES.items()}


def credibility(truth: bool | None, noise: float, draw: float) -> float:
    """Posterior probability that a topic is true, from one noisy reading of its truth.

    The reading is ``z = ±1 + noise · draw`` (+1 for a true topic) with ``draw`` standard normal;
    under even prior odds the posterior is ``1 / (1 + exp(−2 z / noise²))``. It is calibrated: of
    the topics with credibility c, a part c is true. With ``noise`` 1 the more likely side is right
    in Φ(1) = 84% of the episodes; 0 reveals the truth; an unknown truth gives 0.5.
    """
    if truth is None:
        return 0.5
    sign = 1.0 if truth else -1.0
    if noise == 0:
        return (1.0 + sign) / 2
    return 0.5 * (1.0 + math.tanh((sign + noise * draw) / noise**2))


def readings(given: ArrayLike, k: int) -> NDArray[np.float64]:
    """The option ``reading`` of ``reset`` as ``(k,)`` draws: one number for all, or ``k`` of them.

    Raises ``MfenvError`` for anything else.
    """
    try:
        draws = np.array(np.broadcast_to(np.asarray(given, dtype=float), (k,)))
    except (TypeError, ValueError):
        draws = np.array([np.nan])
    if not np.isfinite(draws).all():
        raise MfenvError(
            f"options['reading'] {given!r} is not allowed; allowed: one finite number, or {k}"
        )
    return draws


def credibilities(
    truth: NDArray[np.int64], noise: float, draw: NDArray[np.float64]
) -> NDArray[np.float64]:
    """:func:`credibility` of ``K`` topics at once; ``truth`` is 1, 0, or -1 where not known."""
    sign = np.where(truth == 1, 1.0, -1.0)
    if noise == 0:
        value = (1.0 + sign) / 2
    else:
        value = 0.5 * (1.0 + np.tanh((sign + noise * draw) / noise**2))
    return np.where(truth < 0, 0.5, value)
