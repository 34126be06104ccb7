"""What a planner without a memory of its own is told of the past: the mean of all shares so far.

A batch of 16 people says little about a population, all batches of an episode say more: who knows
the matter asks more questions of a false claim, for example, which no single batch shows.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mfenv.envs.observation import OBSERVATION_SLICES

__all__ = ["RunningMeans"]

Floats = NDArray[np.float32]

_SHARES, _TIME = OBSERVATION_SLICES["distribution"], OBSERVATION_SLICES["time"].start


class RunningMeans:
    """Means of the label shares of ``K`` lanes since their episodes began."""

    SIZE = _SHARES.stop - _SHARES.start

    def __init__(self, lanes: int) -> None:
        self._sum = np.zeros((lanes, self.SIZE), dtype=np.float32)
        self._count = np.zeros((lanes, 1), dtype=np.float32)

    def extend(self, observation: Floats) -> Floats:
        """Take in observations ``(K, 63)``; return them with the means ``(K, 86)``.

        An observation at time 0 begins an episode.
        """
        beginning = observation[:, _TIME] <= 0
        self._sum[beginning], self._count[beginning] = 0.0, 0.0
        self._sum += observation[:, _SHARES]
        self._count += 1.0
        return np.concatenate([observation, self._sum / self._count], axis=1, dtype=np.float32)

    def peek(self, lane: int, observation: Floats) -> Floats:
        """What one more observation ``(63,)`` of a lane would be extended to."""
        mean = (self._sum[lane] + observation[_SHARES]) / (self._count[lane] + 1.0)
        return np.concatenate([observation, mean], dtype=np.float32)
