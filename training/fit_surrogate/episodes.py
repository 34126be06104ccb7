"""Episodes as arrays: what a surrogate is fitted to and compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mfenv.distributions import UNIFORM
from mfenv.dynamics.records import StepRecord
from mfenv.envs.observation import domain_index
from mfenv.envs.social import recorded_shares
from mfenv.errors import DataError
from mfenv.events.event import Event
from mfenv.interventions import encode_action
from mfenv.labels import N_LABELS

__all__ = ["Episodes", "concatenate", "episode", "load", "save"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Episodes:
    """``E`` episodes of ``T`` steps with ``n`` people in each."""

    event: NDArray[np.int32]  # (E,) number of the event within its set
    domain: NDArray[np.int8]  # (E,) index into DOMAIN_NAMES
    truth: NDArray[np.int8]  # (E,) 1 true, 0 false, -1 not known
    latest: Floats  # (E, 23) shares of the last recorded batch before the first step
    actions: NDArray[np.int8]  # (E, T) flat actions
    labels: NDArray[np.int8]  # (E, T, n, 8) with planted reactions in place
    planted: NDArray[np.bool_]  # (E, T, n)
    archetypes: NDArray[np.int8]  # (E, T, n)
    perceived: Floats  # (E, T + 1, 23) before each step, and after the last
    activity: Floats  # (E, T, 6) during each step
    distribution: Floats  # (E, T, 23) shares of the reactions that are not planted

    def __len__(self) -> int:
        return len(self.event)

    def take(self, index: NDArray[Any]) -> Episodes:
        """The episodes at indices, or where a mask is true."""
        return Episodes(**{f.name: getattr(self, f.name)[index] for f in fields(self)})


def episode(
    event: Event,
    number: int,
    warmup: Sequence[StepRecord],
    records: Sequence[StepRecord],
    batch: int,
    start: Floats,
) -> Episodes:
    """One episode from its records; ``start`` ``(23,)`` is what was perceived before them.

    People of an event that tells of no archetypes have archetype 0.
    """
    everybody = np.asarray(event.meta.get("archetypes", np.zeros(len(event.posts))), dtype=np.int8)
    recorded = [UNIFORM]
    if warmup:
        recorded = recorded_shares(np.concatenate([r.labels for r in warmup]), batch)
    return Episodes(
        event=np.array([number], dtype=np.int32),
        domain=np.array([domain_index(event.domain)], dtype=np.int8),
        truth=np.array([-1 if event.truth is None else int(event.truth)], dtype=np.int8),
        latest=recorded[-1][None],
        actions=np.array([[encode_action(r.intervention) for r in records]], dtype=np.int8),
        labels=np.stack([r.labels for r in records])[None],
        planted=np.stack([r.planted for r in records])[None],
        archetypes=np.stack([everybody[r.agents + 1] for r in records])[None],
        perceived=np.stack([start, *(r.perceived for r in records)])[None],
        activity=np.stack([r.activity for r in records])[None],
        distribution=np.stack([r.distribution for r in records])[None],
    )


def concatenate(parts: Sequence[Episodes]) -> Episodes:
    """Put episodes of equal length and batch together."""
    return Episodes(
        **{f.name: np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(Episodes)}
    )


def save(episodes: Episodes, path: Path) -> None:
    """Write episodes as safetensors; the file is there in one move, whole or not at all."""
    from safetensors.numpy import save_file

    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    save_file(
        {f.name: np.ascontiguousarray(getattr(episodes, f.name)) for f in fields(episodes)},
        partial,
    )
    partial.replace(path)


def load(path: Path) -> Episodes:
    """Read what :func:`save` wrote; ``DataError`` where it is something else."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        found = Episodes(**load_file(path))
        if found.distribution.shape[-1] != N_LABELS:
            raise ValueError(f"distributions need {N_LABELS} entries")
        return found
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise DataError(
            str(path), "(all)", "episodes", f"not readable as episodes ({error}); delete the file"
        ) from None
