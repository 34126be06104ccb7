"""Episodes drawn by counter: a pure function of (seed, episode), for all lanes at once."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mfenv.dynamics.surrogate.sampling import normal_quantile
from mfenv.noise import uniform

__all__ = ["Drawn", "draw_episode", "draw_episodes", "lane_seed"]

_PLACE, _NOISE, _READING = 0, 1, 2  # tokens of the noise key
_EPISODES = -5  # keeps the keys apart from those of the episodes' own noise


class Drawn(NamedTuple):
    """``K`` episodes that begin."""

    place: NDArray[np.int64]  # (K,) index of the event
    noise: NDArray[np.int64]  # (K,) seed of the episode's noise
    reading: NDArray[np.float64]  # (K,) standard normal, of the topic's truth


def draw_episodes(seed: ArrayLike, episode: ArrayLike, events: int) -> Drawn:
    """Episode number ``episode`` ``(K,)`` of lanes with seeds ``(K,)``, from so many events."""
    seed, episode = np.asarray(seed, dtype=np.int64), np.asarray(episode, dtype=np.int64)
    place, noise, reading = (
        uniform(seed, _EPISODES, episode, token) for token in (_PLACE, _NOISE, _READING)
    )
    return Drawn(
        np.floor(place * events).astype(np.int64),
        np.floor(noise * 2.0**31).astype(np.int64),
        normal_quantile(reading),
    )


def draw_episode(seed: int, episode: int, events: int) -> tuple[int, int, float]:
    """:func:`draw_episodes` of one lane: the event's index, the noise's seed, and the reading."""
    place, noise, reading = (
        float(uniform(int(seed), _EPISODES, episode, token)) for token in (_PLACE, _NOISE, _READING)
    )
    return int(place * events), int(noise * 2.0**31), float(normal_quantile(reading))


def lane_seed(generator: np.random.Generator) -> int:
    """A seed for a lane that was given none."""
    return int(generator.integers(2**62))
