"""Plays episodes in the tier that a surrogate is to stand for, in parts that survive a kill."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mfenv.dynamics.assemble import AUTO, build_process
from mfenv.dynamics.process import ProcessSettings, advance, warm_up
from mfenv.dynamics.society import initial_state, society_step, worlds_of
from mfenv.envs.observation import domain_index
from mfenv.envs.scenarios import SPLITS
from mfenv.envs.social import recorded_shares
from mfenv.events.event import Event
from mfenv.events.synthetic.generator import SyntheticSociety, random_actions
from mfenv.interventions import N_ACTIONS, decode_action
from mfenv.noise import generator
from training.fit_surrogate.episodes import Episodes, concatenate, episode, load, save

__all__ = ["BATCH", "HORIZON", "WARMUP", "Plan", "Tier", "collect", "plans", "tier"]

WARMUP, BATCH, HORIZON = 50, 16, 16  # as the environment's defaults
_RESPONSE_STEPS, _RESPONSE_EVENTS = 6, 14  # as in benchmarks.response
_PART = 16  # episodes that are played together and saved together
_BLOCK = 1200  # episodes whose schedules are drawn together, so that more of them change none
_STREAM = 61  # first word of the generator's key
_NOISE = 1_000  # of the noise seeds, apart from those of other data


@dataclass(frozen=True, slots=True)
class Plan:
    """What is played: episode ``e`` plays event ``event[e]`` of a split under ``actions[e]``."""

    name: str
    split: str
    event: NDArray[np.int64]  # (E,)
    seed: NDArray[np.int64]  # (E,) of the noise
    actions: NDArray[np.intp]  # (E, T)

    def __len__(self) -> int:
        return len(self.event)


class Tier(Protocol):
    """Plays events together: ``(events, noise seeds, actions (m, T)) → m episodes``."""

    def __call__(
        self,
        events: Sequence[Event],
        numbers: Sequence[int],
        seeds: Sequence[int],
        actions: NDArray[np.intp],
    ) -> Episodes:
        """Play one part."""
        ...


def plans(episodes: int, seed: int = 0, *, events: int = 280, held_out: int = 4) -> list[Plan]:
    """Held-out episodes, responses to each intervention, and the episodes to learn from.

    Random schedules (:func:`mfenv.events.synthetic.generator.random_actions`: none, sparse, mixed
    and sustained ones) on ``events`` events of the train society; ``held_out`` on each validation
    event; and every action, repeated for six steps under the same noise, on 14 of these events.
    ``episodes`` is rounded up to a whole number of parts; the first ones do not depend on it.
    """
    n = SPLITS["validation"][1]
    episodes = -(-episodes // _PART) * _PART

    def schedule(name: int, size: int) -> NDArray[np.intp]:
        return random_actions(generator(_STREAM, seed, name), size, HORIZON)

    blocks = [schedule(1 + 2 * b, _BLOCK) for b in range(-(-episodes // _BLOCK))]
    held = np.tile(np.arange(n), held_out)
    asked = np.tile(np.arange(_RESPONSE_EVENTS), N_ACTIONS)
    answers = np.repeat(np.arange(N_ACTIONS), _RESPONSE_EVENTS)
    return [
        Plan(
            "held-out",
            "validation",
            held,
            _NOISE + np.arange(len(held)),
            schedule(0, len(held)),
        ),
        Plan(
            "response",
            "validation",
            asked,
            asked,
            np.repeat(answers[:, None], _RESPONSE_STEPS, axis=1),
        ),
        Plan(
            "train",
            "train",
            np.arange(episodes) % events,
            2 * _NOISE + np.arange(episodes),
            np.concatenate(blocks)[:episodes],
        ),
    ]


def tier(name: str, method: str) -> Tier:
    """The tier of a backbone's name; ``"society"`` is the synthetic society itself."""
    if name == "society":
        return _society

    def language(
        events: Sequence[Event],
        numbers: Sequence[int],
        seeds: Sequence[int],
        actions: NDArray[np.intp],
    ) -> Episodes:
        settings = ProcessSettings(
            agents=WARMUP + actions.shape[1] * BATCH, batch=BATCH, warmup=WARMUP
        )
        processes = [build_process(method, name, AUTO, e, settings) for e in events]
        for process, event, seed in zip(processes, events, seeds, strict=True):
            process.begin(event, seed)
        warmup = warm_up(processes)
        start = [p.perceived for p in processes]
        steps = [
            advance(processes, [decode_action(a) for a in actions[:, t]])
            for t in range(actions.shape[1])
        ]
        records = list(zip(*steps, strict=True))
        return concatenate(
            [
                episode(e, i, w, r, BATCH, z)
                for e, i, w, r, z in zip(events, numbers, warmup, records, start, strict=True)
            ]
        )

    return language


def _society(
    events: Sequence[Event],
    numbers: Sequence[int],
    seeds: Sequence[int],
    actions: NDArray[np.intp],
) -> Episodes:
    worlds = worlds_of(events, seeds, warmup=WARMUP, batch=BATCH)
    state = initial_state(worlds, events)
    perceived, steps = [state.perceived], []
    for t in range(actions.shape[1]):
        state, record = society_step(worlds, state, actions[:, t])
        perceived.append(state.perceived)
        steps.append(record)
    recorded = [np.asarray(e.labels)[1 : 1 + WARMUP] for e in events]
    return Episodes(
        event=np.array(numbers, dtype=np.int32),
        domain=np.array([domain_index(e.domain) for e in events], dtype=np.int8),
        truth=np.array([-1 if e.truth is None else int(e.truth) for e in events], dtype=np.int8),
        latest=np.stack([recorded_shares(labels, BATCH)[-1] for labels in recorded]),
        actions=actions.astype(np.int8),
        labels=np.stack([r.labels for r in steps], axis=1),
        planted=np.stack([r.planted for r in steps], axis=1),
        archetypes=np.stack([r.archetypes for r in steps], axis=1),
        perceived=np.stack(perceived, axis=1),
        activity=np.stack([r.activity for r in steps], axis=1),
        distribution=np.stack([r.distribution for r in steps], axis=1),
    )


def collect(
    plan: Plan, play: Tier, folder: Path, tell: Callable[[int, int], None] = lambda done, all: None
) -> Episodes:
    """Play a plan in parts; parts that are in ``folder`` already are read instead.

    ``tell(done, all)`` is called after each part.
    """
    parts = []
    for first in range(0, len(plan), _PART):
        path = folder / plan.name / f"{first:06d}.safetensors"
        if not path.exists():
            chosen = slice(first, first + _PART)
            numbers = plan.event[chosen].tolist()
            events = [_event(SPLITS[plan.split][0], i) for i in numbers]
            save(play(events, numbers, plan.seed[chosen].tolist(), plan.actions[chosen]), path)
        parts.append(load(path))
        tell(min(first + _PART, len(plan)), len(plan))
    return concatenate(parts)


@lru_cache(maxsize=512)
def _event(seed: int, index: int) -> Event:
    return SyntheticSociety(seed).event(index, 1 + WARMUP + HORIZON * BATCH)
