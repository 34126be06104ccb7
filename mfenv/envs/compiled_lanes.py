""":func:`mfenv.envs.lanes.settle`, compiled: one pass over the lanes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from mfenv.envs.lanes import Lanes, Settled, Terms
from mfenv.envs.objectives import Misbelief, Polarization
from mfenv.envs.observation import OBSERVATION_SLICES
from mfenv.interventions import KINDS
from mfenv.labels import N_LABELS, SLICES

__all__ = ["settle"]

Floats = NDArray[np.float64]

_GIVEN, _MISBELIEF, _POLARIZATION = 0, 1, 2
_BELIEVE, _DOUBT = SLICES["belief"].start, SLICES["belief"].start + 1
_SUPPORT, _OPPOSE = SLICES["stance"].start, SLICES["stance"].start + 1
_STARTS = {name: where.start for name, where in OBSERVATION_SLICES.items()}
_CHANGE, _DOMAIN, _TIME = _STARTS["change"], _STARTS["domain"], _STARTS["time"]
_BUDGET, _ACTIVITY, _CREDIBILITY = (
    _STARTS["budget"], _STARTS["activity"], _STARTS["credibility"],
)  # fmt: skip
_DOMAINS = _TIME - _DOMAIN
_SIZE, _KINDS = OBSERVATION_SLICES["credibility"].stop, len(KINDS)


@njit(cache=True, inline="always")
def _bounded(x: float) -> Any:
    single = np.float32(x)
    return min(max(single, np.float32(-1.0)), np.float32(1.0))


@njit(cache=True)
def _all(
    kind: int,
    budget: float,
    cost_weight: float,
    active: Any,
    cost: Any,
    distribution: Any,
    activity: Any,
    truth: Any,
    domain: Any,
    credibility: Any,
    previous: Any,
    latest: Any,
    spent: Any,
    elapsed: Any,
    steps: Any,
    observation: Any,
    reward: Any,
    harm: Any,
    truncated: Any,
) -> None:
    for i in range(len(active)):
        row = observation[i]
        if active[i]:
            if kind == _MISBELIEF:
                harm[i] = distribution[i, _DOUBT if truth[i] == 1 else _BELIEVE]
            elif kind == _POLARIZATION:
                harm[i] = 4.0 * distribution[i, _SUPPORT] * distribution[i, _OPPOSE]
            reward[i] = -harm[i] - cost_weight * cost[i]
            for x in range(N_LABELS):
                old, new = latest[i, x], distribution[i, x]
                previous[i, x] = old
                latest[i, x] = new
                row[x] = _bounded(new)
                row[_CHANGE + x] = _bounded(new - old)
            spent[i] += cost[i]
            elapsed[i] += 1
            truncated[i] = elapsed[i] >= steps[i]
        else:
            reward[i] = 0.0
            truncated[i] = False
            for x in range(N_LABELS):
                row[x] = _bounded(latest[i, x])
                row[_CHANGE + x] = _bounded(latest[i, x] - previous[i, x])
        for x in range(_DOMAINS):
            row[_DOMAIN + x] = 0.0
        row[_DOMAIN + domain[i]] = 1.0
        row[_TIME] = _bounded(elapsed[i] / steps[i])
        row[_BUDGET] = _bounded(max((budget - spent[i]) / budget, 0.0)) if budget else 0.0
        for x in range(_KINDS):
            row[_ACTIVITY + x] = _bounded(activity[i, x])
        row[_CREDIBILITY] = _bounded(credibility[i])


def settle(
    lanes: Lanes,
    terms: Terms,
    active: NDArray[np.bool_],
    cost: Floats,
    distribution: Floats,
    own: NDArray[np.int64],
    activity: Floats,
) -> Settled:
    """See :func:`mfenv.envs.lanes.settle`."""
    k = len(active)
    harm = np.zeros(k)
    kind = _GIVEN
    if type(terms.objective) is Misbelief and not (lanes.truth < 0).any():
        kind = _MISBELIEF
    elif type(terms.objective) is Polarization:
        kind = _POLARIZATION
    else:
        i = np.flatnonzero(active)
        harm[i] = terms.objective.harms(distribution[i], own[i], lanes.truth[i])
    result = Settled(
        np.empty((k, _SIZE), dtype=np.float32), np.empty(k), harm, np.empty(k, dtype=np.bool_)
    )
    _all(
        kind,
        terms.budget,
        terms.cost_weight,
        active,
        cost,
        distribution,
        activity,
        lanes.truth,
        lanes.domain,
        lanes.credibility,
        lanes.previous,
        lanes.latest,
        lanes.spent,
        lanes.elapsed,
        lanes.steps,
        *result,
    )
    return result
