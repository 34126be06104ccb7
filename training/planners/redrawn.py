"""Warm-ups drawn anew, so that no planner knows an event by its recorded reactions.

An event's warm-up is recorded, so each of its episodes begins with the same observation. However
many there are to train on, a policy soon knows each of them, and its hidden truth, by
those shares: its return on unseen events then falls while that on the training events rises. In
training the shares that an episode begins with are therefore drawn anew: what the last two batches
of the warm-up have in common stands for the population, and both are sampled from it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper

from mfenv.envs.observation import OBSERVATION_SLICES
from mfenv.labels import SLICES
from mfenv.noise import generator

__all__ = ["RedrawnWarmup", "redraw"]

_STREAM = 7435
_NOW, _CHANGE = OBSERVATION_SLICES["distribution"], OBSERVATION_SLICES["change"]

Floats = NDArray[np.float32]


def redraw(
    shares: NDArray[np.float64], batch: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Shares ``(K, 23)`` of ``batch`` reactions that are drawn from shares ``(K, 23)``.

    A dimension without any shares has none afterwards.
    """
    drawn = np.empty_like(shares)
    for where in SLICES.values():
        odds = np.clip(shares[:, where], 0.0, None)
        total = odds.sum(axis=1, keepdims=True)
        known = total > 0
        odds = np.where(known, odds / np.where(known, total, 1.0), 1.0 / odds.shape[1])
        drawn[:, where] = rng.multinomial(batch, odds) / batch * known
    return drawn


class RedrawnWarmup(VecEnvWrapper):  # type: ignore[misc]
    """Lanes whose episodes begin with a redrawn warm-up; all that follows is theirs."""

    def __init__(self, venv: VecEnv, batch: int) -> None:
        super().__init__(venv)
        self._batch, self._rng = batch, generator(_STREAM, 0)
        self._before = np.zeros((self.num_envs, SLICES["intent"].stop))
        self._first = np.ones(self.num_envs, dtype=bool)  # lanes that have not acted yet

    def seed(self, seed: int | None = None) -> Any:
        """Seed the lanes and the draws."""
        self._rng = generator(_STREAM, 0 if seed is None else seed)
        return super().seed(seed)

    def reset(self) -> Floats:
        """Start an episode in every lane."""
        return self._begin(np.array(self.venv.reset()), np.ones(self.num_envs, dtype=bool))

    def step_wait(
        self,
    ) -> tuple[Floats, NDArray[np.float32], NDArray[np.bool_], list[dict[str, Any]]]:
        """Step; the first change in an episode is that from the redrawn shares."""
        observations, rewards, dones, infos = self.venv.step_wait()
        observations = np.array(observations)
        lanes = np.flatnonzero(self._first & ~dones)
        observations[lanes, _CHANGE] = observations[lanes, _NOW] - self._before[lanes]
        return self._begin(observations, dones), rewards, dones, infos

    def _begin(self, observations: Floats, starting: NDArray[np.bool_]) -> Floats:
        self._first = starting.copy()
        lanes = np.flatnonzero(starting)
        if len(lanes):
            now = observations[lanes, _NOW].astype(np.float64)
            common = now - observations[lanes, _CHANGE] / 2
            latest, previous = (redraw(common, self._batch, self._rng) for _ in range(2))
            observations[lanes, _NOW] = latest
            observations[lanes, _CHANGE] = latest - previous
            self._before[lanes] = latest
        return observations
