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
from numpy.typing import NDArray

from mfenv.envs.unicode_text import UnicodeText
from mfenv.events.event import DOMAINS
from mfenv.interventions import KINDS
from mfenv.labels import N_LABELS
from mfenv.noise import uniform

__all__ = [
    "DOMAIN_NAMES",
    "FORMATS",
    "OBSERVATION_SLICES",
    "TEXT_LENGTHS",
    "as_parts",
    "credibility",
    "credibility_reading",
    "observation_space",
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
_ENDS = np.cumsum([size for _, size, _ in _PARTS]).tolist()

OBSERVATION_SLICES: Mapping[str, slice] = MappingProxyType(
    {name: slice(end - size, end) for (name, size, _), end in zip(_PARTS, _ENDS, strict=True)}
)
"""Where each part lies in the vector."""

_READING_TOKEN = 901  # noise key of a credibility reading
_CERTAIN = 60.0  # log odds of a reading that is never wrong


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


def vector(
    *,
    distribution: NDArray[np.float64],
    previous: NDArray[np.float64],
    domain: str | None,
    time: float,
    budget: float,
    activity: NDArray[np.float64],
    credibility: float,
) -> NDArray[np.float32]:
    """Assemble the vector ``(63,)`` from distributions ``(23,)``, activity ``(6,)`` and fractions.

    ``time`` is the part of the horizon that is over, ``budget`` the part of the budget left.
    """
    one_hot = np.zeros(len(DOMAIN_NAMES))
    one_hot[DOMAIN_NAMES.index(domain if domain in DOMAINS else "unknown")] = 1.0
    parts = (
        distribution,
        distribution - previous,
        one_hot,
        [time],
        [budget],
        activity,
        [credibility],
    )
    return np.clip(np.concatenate(parts), -1.0, 1.0).astype(np.float32)


def as_parts(values: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    """Split a vector ``(63,)`` into fresh arrays by slice."""
    return {name: values[where].copy() for name, where in OBSERVATION_SLICES.items()}


def credibility_reading(truth: bool | None, noise: float, seed: int, step: int) -> float:
    """Log odds that one reading of a topic's truth adds, positive for "true".

    The reading of a step is wrong with probability ``noise``, keyed by (seed, step), so that it
    is the same under every planner. An unknown truth adds nothing.
    """
    if truth is None or noise == 0.5:
        return 0.0
    right = float(uniform(seed, -1, step, _READING_TOKEN)) < 1 - noise
    weight = math.log((1 - noise) / noise) if noise > 0 else _CERTAIN
    return weight if right == truth else -weight


def credibility(log_odds: float) -> float:
    """Posterior probability that the topic is true, from the readings so far and even prior odds.

    It is calibrated: of the topics with credibility c, a part c is true.
    """
    return 0.5 * (1.0 + math.tanh(log_odds / 2))
