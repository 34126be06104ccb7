"""What reaches the mean field: friction, amplification, planted reactions, and perception.

Pure functions on arrays, shared by the language-model tier and the society tier. Interventions
that act here are never shown to an agent as text; they change what the next agents perceive of
the population. Planted reactions take the place of the first agents of a batch in the mean field
and count neither in the observed distribution nor in a reward or metric.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mfenv.distributions import UNIFORM, normalise
from mfenv.interventions import STRENGTHS, Kind
from mfenv.labels import Labels, dimension, encode_code, one_hot
from mfenv.noise import uniform

__all__ = [
    "INITIAL",
    "PERCEPTION_RATE",
    "PLANTED",
    "keyed_uniforms",
    "level_strength",
    "perceive",
    "perception_rate",
    "plant",
    "planted_count",
    "reach_weights",
]

Floats = NDArray[np.float64]

PERCEPTION_RATE = 1 / 3
"""Weight of a full batch in the perceived distribution, an exponential moving average."""

INITIAL: Floats = UNIFORM
"""What is perceived before anybody reacted."""

BLOCKED = 0.8  # probability that friction at full strength keeps a share from the mean field
AMPLIFIED = 2.0  # extra weight of a reaction that is amplified at full strength
PLANTED_SHARE = 0.25  # part of a batch that seeding at full strength replaces

PLANTED: Labels = encode_code("ccncodoo")
"""Labels of a planted reaction: a calm, factual comment that opposes and doubts the claim."""
PLANTED.setflags(write=False)

_BEHAVIOR, _STANCE = dimension("behavior"), dimension("stance")
_SHARE, _SUPPORT, _OPPOSE = 1, 0, 1
_DRAW = -1  # token of the noise key; a model's own tokens count from 0
_FLOOR = 0.1  # activity below this has ended, as in mfenv.interventions


def level_strength(activity: ArrayLike) -> Floats:
    """Strength of the intensity nearest to each activity, 0 where nothing runs; same shape.

    This is the strength that a notice states, see :mod:`mfenv.dynamics.notices`.
    """
    activity = np.asarray(activity, dtype=float)
    strengths = np.asarray(STRENGTHS)
    nearest = np.abs(activity[..., None] - strengths).argmin(axis=-1)
    return np.where(activity < _FLOOR, 0.0, strengths[nearest])


def planted_count(activity: ArrayLike, n: int) -> NDArray[np.intp]:
    """Number of planted reactions in a batch of ``n``; activity ``(..., 6)`` gives ``(...)``."""
    seeding = np.asarray(activity, dtype=float)[..., Kind.SEED]
    return np.rint(seeding * n * PLANTED_SHARE).astype(np.intp)


def plant(labels: Labels, activity: ArrayLike) -> tuple[Labels, NDArray[np.bool_]]:
    """Replace the first reactions of each batch by planted ones.

    Labels ``(..., n, 8)`` and activity ``(..., 6)`` give labels ``(..., n, 8)`` and the mask of
    planted reactions ``(..., n)``.
    """
    labels = np.asarray(labels)
    n = labels.shape[-2]
    planted = np.arange(n) < planted_count(activity, n)[..., None]
    return np.where(planted[..., None], PLANTED, labels).astype(np.int8), planted


def keyed_uniforms(seed: ArrayLike, agent: ArrayLike, step: ArrayLike) -> Floats:
    """The uniforms that decide whether friction blocks a reaction; keys broadcast."""
    return uniform(seed, agent, step, _DRAW)


def reach_weights(labels: Labels, activity: ArrayLike, u: ArrayLike) -> Floats:
    """Weight of each reaction in the perceived distribution.

    Labels ``(..., n, 8)``, activity ``(..., 6)`` and uniforms ``(..., n)`` give ``(..., n)``:
    0 where friction blocked a share, else 1, times what amplification adds.
    """
    labels = np.asarray(labels)
    activity = np.asarray(activity, dtype=float)[..., None, :]
    blocked = (labels[..., _BEHAVIOR] == _SHARE) & (
        np.asarray(u) < BLOCKED * activity[..., Kind.FRICTION]
    )
    return np.where(blocked, 0.0, stance_weights(activity, labels[..., _STANCE]))


def stance_weights(activity: Floats, stance: NDArray[np.generic]) -> Floats:
    """Weight of reactions by stance under amplification; ``activity[..., 6]`` broadcasts."""
    support = AMPLIFIED * activity[..., Kind.AMPLIFY_SUPPORT] * (stance == _SUPPORT)
    oppose = AMPLIFIED * activity[..., Kind.AMPLIFY_OPPOSE] * (stance == _OPPOSE)
    return np.asarray(1.0 + support + oppose)


def perception_rate(seen: int, n: int, batch: int) -> float:
    """Weight of ``n`` reactions that come after ``seen`` others in the perceived distribution.

    The first reactions are simply averaged, so that the start value has no say. Later on a full
    batch has :data:`PERCEPTION_RATE`, and a shorter one moves the average in proportion to its
    length, so that every reaction counts about alike.
    """
    return max(PERCEPTION_RATE * n / batch, n / (seen + n))


def perceive(
    perceived: ArrayLike, labels: Labels, weights: ArrayLike, rate: float = PERCEPTION_RATE
) -> Floats:
    """Next perceived distribution: ``(1 - rate)`` of the old, ``rate`` of the batch's shares.

    Perceived ``(..., 23)``, labels ``(..., n, 8)`` and weights ``(..., n)`` give ``(..., 23)``.
    A batch without any weight changes nothing. :func:`perception_rate` gives the rate of the
    first batches and of short ones.
    """
    perceived = np.asarray(perceived, dtype=float)
    weights = np.asarray(weights, dtype=float)
    batch = normalise((weights[..., None] * one_hot(labels)).sum(axis=-2))
    moved = (1.0 - rate) * perceived + rate * batch
    return np.where(weights.sum(axis=-1)[..., None] > 0, moved, perceived)
