"""Lanes that show a planner, beside each observation, the mean of the shares of its episode."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper

from agents.planners.running_means import RunningMeans

__all__ = ["RememberedMeans"]

Floats = NDArray[np.float32]


class RememberedMeans(VecEnvWrapper):  # type: ignore[misc]
    """Observations ``(K, 86)``: what the lanes show ``(K, 63)``, then the means ``(K, 23)``."""

    def __init__(self, venv: VecEnv) -> None:
        space = venv.observation_space
        low, high = (
            np.concatenate([bound, np.full(RunningMeans.SIZE, value, dtype=np.float32)])
            for bound, value in ((space.low, 0.0), (space.high, 1.0))
        )
        super().__init__(venv, observation_space=gymnasium.spaces.Box(low, high, dtype=np.float32))
        self._means = RunningMeans(self.num_envs)

    def reset(self) -> Floats:
        """Start an episode in every lane."""
        return self._means.extend(np.asarray(self.venv.reset()))

    def step_wait(
        self,
    ) -> tuple[Floats, NDArray[np.float32], NDArray[np.bool_], list[dict[str, Any]]]:
        """Step; where an episode begins, so do the means."""
        observations, rewards, dones, infos = self.venv.step_wait()
        for i in np.flatnonzero(dones).tolist():
            last = infos[i].get("terminal_observation")
            if last is not None:
                infos[i]["terminal_observation"] = self._means.peek(i, last)
        return self._means.extend(np.asarray(observations)), rewards, dones, infos
