"""What a planner is, and how one is found by its name.

A planner steers ``K`` lanes at once: episodes that step together, each with its own event and
seed. It reads what an environment shows (observations, what the budget can pay, and what it did
before) and nothing else; an :class:`Insider` says that it sees more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mfenv import plugins
from mfenv.envs.observation import OBSERVATION_SLICES
from mfenv.envs.social import EPSILON
from mfenv.interventions import N_ACTIONS, decode_action

if TYPE_CHECKING:
    from agents.planners.oracle import SocietyView

__all__ = ["GROUP", "Clock", "Insider", "Planner", "affordable", "build_planner"]

GROUP = "mfenv.planners"
"""Entry point group: factories that take nothing, or what stands behind the name's colon."""

COST_OF_ACTION: NDArray[np.float64] = np.array([decode_action(a).cost for a in range(N_ACTIONS)])
COST_OF_ACTION.setflags(write=False)


class Planner(Protocol):
    """Chooses interventions in ``K`` lanes."""

    name: str
    """As :func:`build_planner` takes it; it says everything that the planner's choices hang on."""

    def reset(self, seeds: NDArray[np.int64]) -> None:
        """Begin episodes in ``K = len(seeds)`` lanes; a planner's own chance comes from these."""
        ...

    def act(self, observation: NDArray[np.float32], masks: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Flat actions ``(K,)`` for observations ``(K, 63)``; masks ``(K, 19)`` can be paid."""
        ...


@runtime_checkable
class Insider(Planner, Protocol):
    """A planner that also sees the true dynamics of its lanes: a bound, not a competitor."""

    def see(self, view: SocietyView) -> None:
        """Take the view of the lanes that the next :meth:`reset` begins."""
        ...


def affordable(budget_left: ArrayLike) -> NDArray[np.bool_]:
    """Which flat actions the rest of the budget ``(K,)`` can pay: ``(K, 19)``."""
    left = np.asarray(budget_left, dtype=float)
    return np.asarray(left[:, None] + EPSILON >= COST_OF_ACTION)


def build_planner(name: str) -> Planner:
    """The planner of a name; one that takes an argument is written ``NAME:ARGUMENT``.

    Raises ``MfenvError`` that says what is allowed, and ``MissingExtraError`` where an extra is
    not installed.
    """
    planner: Planner = plugins.build(GROUP, name)
    return planner


class Clock:
    """Steps since each lane's episode began; an observation at time 0 begins one."""

    def __init__(self) -> None:
        self._steps: NDArray[np.int64] = np.zeros(0, dtype=np.int64)

    def reset(self, lanes: int) -> None:
        """Nothing has been seen yet."""
        self._steps = np.full(lanes, -1, dtype=np.int64)

    def tick(self, observation: NDArray[np.float32]) -> NDArray[np.int64]:
        """Steps ``(K,)`` that are over in the episodes of observations ``(K, 63)``."""
        time = observation[:, OBSERVATION_SLICES["time"]][:, 0]
        self._steps = np.where(time <= 0, 0, self._steps + 1)
        return self._steps
