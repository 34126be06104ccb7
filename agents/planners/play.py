"""Episodes of planners, many at once and paired: the same event, seed and noise for every planner.

A lane is an episode of one planner. All lanes step together in one vector environment, so that in
the language-model tier one call a phase answers all of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.planners.base import COST_OF_ACTION, Insider, Planner, affordable
from agents.planners.oracle import SocietyView
from mfenv.dynamics.society import SocietyState
from mfenv.envs.draws import draw_episodes
from mfenv.envs.observation import OBSERVATION_SLICES
from mfenv.envs.social import EPSILON
from mfenv.envs.social_vector import SocialVectorEnv
from mfenv.errors import MfenvError
from mfenv.labels import N_LABELS

__all__ = ["Lane", "Played", "Watch", "budgeted", "lane_seed", "play"]

_SHARES = OBSERVATION_SLICES["distribution"]


@dataclass(frozen=True, slots=True)
class Lane:
    """One episode: who plans, the event, and the number of the run."""

    planner: str
    event_id: str
    seed: int


@dataclass(frozen=True, slots=True)
class Played:
    """What ``L`` lanes left behind, ``T`` steps each; entries behind a lane's end are 0."""

    steps: NDArray[np.int64]  # (L,) steps of each episode
    wanted: NDArray[np.int64]  # (L, T) flat actions that the planners asked for
    counts: NDArray[np.int64]  # (L, T, 23) label counts of the population's own reactions
    warmup: NDArray[np.float64]  # (L, 23) label shares that the episode starts from
    credibility: NDArray[np.float64]  # (L,)


Watch = Callable[[NDArray[np.float32], NDArray[np.bool_], SocialVectorEnv], None]
"""Sees a step: the observations ``(L, 63)`` and masks ``(L, 19)`` that planners acted on, and the
environment after it."""


def lane_seed(event_id: str, seed: int) -> int:
    """The environment's seed of a run of an event, the same for every planner.

    Runs of different events share no noise, so that events are independent draws.
    """
    return int.from_bytes(hashlib.sha256(f"{event_id}/{seed}".encode()).digest()[:4], "big")


def budgeted(
    wanted: NDArray[np.int64], budget: float
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """What of wanted actions ``(..., T)`` a budget pays, in order, and which it cannot pay."""
    done, spent = np.zeros_like(wanted), np.zeros(wanted.shape[:-1])
    for t in range(wanted.shape[-1]):
        cost = COST_OF_ACTION[wanted[..., t]]
        paid = spent + cost <= budget + EPSILON
        done[..., t] = np.where(paid, wanted[..., t], 0)
        spent = spent + np.where(paid, cost, 0.0)
    return done, done != wanted


def play(
    arguments: Mapping[str, Any],
    planners: Mapping[str, Planner],
    lanes: Sequence[Lane],
    watch: Watch | None = None,
) -> Played:
    """Play every lane to its end in one vector environment.

    ``arguments`` are those of :class:`~mfenv.envs.social_vector.SocialVectorEnv`; ``planners`` has
    the planner of every lane's name; ``watch`` is called after each step. Raises ``MfenvError``
    for an event that cannot be played, and for an oracle where there are no true dynamics.
    """
    envs = SocialVectorEnv(len(lanes), **arguments)
    horizon = envs.single.horizon
    seeds = [lane_seed(lane.event_id, lane.seed) for lane in lanes]
    ids = [lane.event_id for lane in lanes]
    # Of the same run every tier shows the same credibility, which much of the outcome hangs on.
    reading = draw_episodes(seeds, 0, 1).reading
    observation, infos = envs.reset(seed=seeds, options={"event_id": ids, "reading": reading})
    groups = {
        name: np.array([i for i, lane in enumerate(lanes) if lane.planner == name])
        for name in dict.fromkeys(lane.planner for lane in lanes)
    }
    for name, index in groups.items():
        planner = planners[name]
        if isinstance(planner, Insider):
            planner.see(_view(envs, index, name))
        planner.reset(np.array([lanes[i].seed for i in index], dtype=np.int64))
    n = len(lanes)
    wanted = np.zeros((n, horizon), dtype=np.int64)
    counts = np.zeros((n, horizon, N_LABELS), dtype=np.int64)
    warmup = observation[:, _SHARES].astype(float)
    credibility = observation[:, OBSERVATION_SLICES["credibility"]][:, 0].astype(float)
    steps = np.zeros(n, dtype=np.int64)
    running = np.ones(n, dtype=bool)
    for t in range(horizon):
        masks = affordable(infos["budget_left"])
        actions = np.zeros(n, dtype=np.int64)
        for name, index in groups.items():
            actions[index] = _checked(planners[name].act(observation[index], masks[index]), name)
        actions = np.where(running, actions, 0)
        before = observation
        observation, _, _, truncated, infos = envs.step(actions)
        own = infos["own"][:, None]
        wanted[:, t] = actions
        counts[running, t] = np.rint(observation[:, _SHARES].astype(float) * own)[running]
        steps += running
        if watch is not None:
            watch(before, masks, envs)
        running &= ~truncated
        if not running.any():
            break
    envs.close()
    return Played(steps, wanted, counts, warmup, credibility)


def _checked(actions: NDArray[np.int64], name: str) -> NDArray[np.int64]:
    actions = np.asarray(actions)
    if not (np.issubdtype(actions.dtype, np.integer) and actions.ndim == 1):
        raise MfenvError(
            f"planner {name!r} gave {actions.dtype} {actions.shape}; needed: (K,) ints"
        )
    if actions.min() < 0 or actions.max() >= len(COST_OF_ACTION):
        raise MfenvError(f"planner {name!r} gave an action outside 0 to {len(COST_OF_ACTION) - 1}")
    return actions.astype(np.int64)


def _view(envs: SocialVectorEnv, index: NDArray[np.int64], name: str) -> SocietyView:
    """The true dynamics of some lanes."""
    one = envs.single
    if one.tier != "society":
        raise MfenvError(
            f"planner {name!r} needs the true dynamics, which dynamics={one.tier!r} does not have; "
            "allowed: dynamics='society'"
        )
    worlds, _ = envs.society()

    def state() -> SocietyState:
        _, now = envs.society()
        return SocietyState(now.step[index], now.perceived[index], now.activity[index])

    return SocietyView(
        worlds=replace(
            worlds,
            seed=worlds.seed[index],
            topics=worlds.topics.take(index),
            archetypes=worlds.archetypes[index],
        ),
        state=state,
        truth=worlds.topics.truth[index],
        objective=one.objective,
        budget=one.budget,
        cost_weight=one.cost_weight,
        horizon=one.horizon,
    )
