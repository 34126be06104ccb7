"""What a planner achieves against doing nothing, on the same episodes with the same noise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from agents.planners.learned import LearnedPlanner
from mfenv.envs.registration import SOCIAL
from mfenv.noise import generator
from training.planners.spread import Crew
from training.planners.vec_env import GymnasiumVecEnv

__all__ = ["Uplift", "Validation", "make_lanes"]

_FIRST_SEED = 1_000_000_000  # no training episode has such a seed but by a rare chance
_BOOTSTRAP_STREAM = 7432
_RESAMPLES = 2000
_LEVELS = (2.5, 97.5)

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Uplift:
    """Sums over an episode, averaged over episodes; what is compared has the same noise."""

    gain: float
    """Return with the planner minus return without: less harm, and what it cost."""
    harm: float
    """Harm without minus harm with the planner, and its 95% interval over events."""
    harm_low: float
    harm_high: float
    spent: float
    """Budget that was used."""
    harm_without: float
    episodes: int


def make_lanes(
    environment: Mapping[str, Any],
    num_envs: int,
    *,
    bootstrap: bool = True,
    crew: Crew | None = None,
) -> GymnasiumVecEnv:
    """Lanes of the environment with these arguments, in this process or stepped by a crew."""
    if crew is None:
        lanes = gymnasium.make_vec(f"mfenv:{SOCIAL}", num_envs=num_envs, **environment)
    else:
        lanes = crew.lanes(environment, num_envs)
    return GymnasiumVecEnv(lanes, bootstrap=bootstrap)


class Validation:
    """A fixed set of episodes; doing nothing in them is played once."""

    def __init__(
        self, environment: Mapping[str, Any], episodes: int, crew: Crew | None = None
    ) -> None:
        self._env = make_lanes(environment, episodes, crew=crew)
        self._seeds = _FIRST_SEED + np.arange(episodes)
        self._events: NDArray[np.str_] = np.zeros(0, dtype=str)
        self._without: tuple[Floats, Floats, Floats] | None = None

    def measure(self, planner: LearnedPlanner) -> Uplift:
        """Play a planner against doing nothing."""
        if self._without is None:
            self._without = self._play(None)
        returns, harm, _ = self._without
        with_returns, with_harm, spent = self._play(planner)
        less = harm - with_harm
        low, high = _interval(less, self._events)
        return Uplift(
            gain=float((with_returns - returns).mean()),
            harm=float(less.mean()),
            harm_low=low,
            harm_high=high,
            spent=float(spent.mean()),
            harm_without=float(harm.mean()),
            episodes=len(harm),
        )

    def _play(self, planner: LearnedPlanner | None) -> tuple[Floats, Floats, Floats]:
        """Return, harm and budget spent ``(K,)`` of each lane's first episode."""
        env = self._env
        env.seed(_FIRST_SEED)
        observation = env.reset()
        self._events = np.array([info["event_id"] for info in env.reset_infos])
        if planner is not None:
            planner.reset(self._seeds)
        returns, harm, spent = (np.zeros(env.num_envs) for _ in range(3))
        over = np.zeros(env.num_envs, dtype=bool)
        while not over.all():
            actions = np.zeros(env.num_envs, dtype=np.int64)
            if planner is not None:
                actions = planner.act(observation, env.action_masks())
            observation, rewards, dones, infos = env.step(actions)
            played = ~over
            returns += rewards * played
            harm += np.array([info["harm"] for info in infos]) * played
            spent += np.array([info["cost"] for info in infos]) * played
            over |= dones
        return returns, harm, spent


def _interval(values: Floats, groups: NDArray[np.str_]) -> tuple[float, float]:
    """A 95% percentile bootstrap of the mean ``(K,)`` that resamples whole events ``(K,)``."""
    _, where = np.unique(groups, return_inverse=True)
    sums, sizes = np.bincount(where, weights=values), np.bincount(where)
    rng = generator(_BOOTSTRAP_STREAM, len(values))
    drawn = rng.integers(len(sums), size=(_RESAMPLES, len(sums)))
    means = sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
    low, high = np.percentile(means, _LEVELS)
    return float(low), float(high)
