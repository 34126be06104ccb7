"""What the lanes of a vector environment have spent and seen: their half of a step, in NumPy.

:mod:`mfenv.envs.compiled_lanes` does the same compiled, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mfenv.distributions import UNIFORM
from mfenv.envs.objectives import Objective
from mfenv.envs.observation import vector

__all__ = ["Lanes", "Settle", "Settled", "Terms", "new_lanes", "observe", "settle"]

Floats = NDArray[np.float64]


@dataclass(slots=True)
class Lanes:
    """Where the episodes of ``K`` lanes stand; changed in place."""

    truth: NDArray[np.int64]  # (K,) 1 true, 0 false, -1 not known
    domain: NDArray[np.intp]  # (K,)
    credibility: Floats  # (K,)
    previous: Floats  # (K, 23) shares of the batch before the latest
    latest: Floats  # (K, 23) shares of the latest batch
    spent: Floats  # (K,)
    elapsed: NDArray[np.int64]  # (K,)
    steps: NDArray[np.int64]  # (K,) of the episode in all


def new_lanes(k: int) -> Lanes:
    """Lanes without an episode."""
    return Lanes(
        truth=np.full(k, -1, dtype=np.int64),
        domain=np.zeros(k, dtype=np.intp),
        credibility=np.zeros(k),
        previous=np.tile(UNIFORM, (k, 1)),
        latest=np.tile(UNIFORM, (k, 1)),
        spent=np.zeros(k),
        elapsed=np.zeros(k, dtype=np.int64),
        steps=np.ones(k, dtype=np.int64),
    )


@dataclass(frozen=True, slots=True)
class Terms:
    """What every lane is played for."""

    objective: Objective
    budget: float
    cost_weight: float


class Settled(NamedTuple):
    """What a step came to."""

    observation: NDArray[np.float32]  # (K, 63)
    reward: Floats  # (K,)
    harm: Floats  # (K,)
    truncated: NDArray[np.bool_]  # (K,)


Settle = Callable[
    [Lanes, Terms, NDArray[np.bool_], Floats, Floats, NDArray[np.int64], Floats], Settled
]
"""The type of :func:`settle`."""


def settle(
    lanes: Lanes,
    terms: Terms,
    active: NDArray[np.bool_],
    cost: Floats,
    distribution: Floats,
    own: NDArray[np.int64],
    activity: Floats,
) -> Settled:
    """Move active lanes on by what a step cost ``(K,)`` and what came of it; observe all.

    ``distribution`` ``(K, 23)`` has the shares of the ``own`` ``(K,)`` reactions. Lanes that are
    not active have reward and harm 0.
    """
    k = len(active)
    harm = np.zeros(k)
    i = slice(None) if active.all() else np.flatnonzero(active)
    harm[i] = terms.objective.harms(distribution[i], own[i], lanes.truth[i])
    reward = np.where(active, -harm - terms.cost_weight * cost, 0.0)
    lanes.previous[i] = lanes.latest[i]
    lanes.latest[i] = distribution[i]
    lanes.spent[i] += cost[i]
    lanes.elapsed[i] += 1
    truncated = active & (lanes.elapsed >= lanes.steps)
    return Settled(observe(lanes, terms.budget, activity), reward, harm, truncated)


def observe(lanes: Lanes, budget: float, activity: Floats) -> NDArray[np.float32]:
    """Observations ``(K, 63)``; activity is ``(K, 6)``."""
    left = (budget - lanes.spent) / budget if budget else np.zeros(len(lanes.spent))
    return vector(
        distribution=lanes.latest,
        previous=lanes.previous,
        domain=lanes.domain,
        time=lanes.elapsed / lanes.steps,
        budget=np.maximum(left, 0.0),
        activity=activity,
        credibility=lanes.credibility,
    )
