"""Many society-tier environments in one array program."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any, TypeVar

import numpy as np
from gymnasium.utils.seeding import np_random
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from mfenv.distributions import UNIFORM
from mfenv.dynamics.society import SocietyState, Worlds, initial_state, society_step, worlds_of
from mfenv.envs.observation import credibility, domain_index, vector
from mfenv.envs.social import EPSILON, SocialEnv, recorded_shares
from mfenv.errors import MfenvError
from mfenv.events.event import Event
from mfenv.events.synthetic.response import Topics
from mfenv.interventions import INTENSITIES, N_ACTIONS, decode_action

__all__ = ["SocietyVectorEnv"]

_COSTS = np.array([decode_action(a).cost for a in range(N_ACTIONS)])
_T = TypeVar("_T", Worlds, SocietyState, Topics)


class SocietyVectorEnv(VectorEnv[NDArray[np.float32], NDArray[np.int64], Any]):
    """``num_envs`` worlds of ``MFLLM-Society-v0`` that step together.

    The same numbers as ``num_envs`` environments one by one (with the seeds that Gymnasium's
    ``SyncVectorEnv`` gives them), without texts: infos hold ``event_id``, ``step``, ``harm``,
    ``cost``, ``spent``, ``budget_left`` and ``unaffordable`` as arrays. Synthetic events and
    ``observation="box"`` only; everything else works with ``vectorization_mode="sync"``.
    A world that was truncated starts its next episode at the next step (``NEXT_STEP``).
    """

    metadata = {  # noqa: RUF012
        "render_modes": [],
        "render_fps": 4,
        "autoreset_mode": AutoresetMode.NEXT_STEP,
    }

    def __init__(
        self,
        num_envs: int = 1,
        *,
        dynamics: str = "society",
        events: str | None = None,
        observation: str = "box",
        render_mode: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Take the arguments of :class:`~mfenv.envs.social.SocialEnv`."""
        for name, value, allowed in (
            ("dynamics", dynamics, ("society",)),
            ("events", events, (None, "synthetic")),
            ("observation", observation, ("box",)),
            ("render_mode", render_mode, (None,)),
        ):
            if value not in allowed:
                raise MfenvError(
                    f"{name}={value!r} has no vectorised form; allowed: {allowed[-1]!r}, or "
                    "gymnasium.make_vec(..., vectorization_mode='sync')"
                )
        if num_envs < 1:
            raise MfenvError(f"num_envs={num_envs!r} is not allowed; allowed: 1 or more")
        self._one = SocialEnv(dynamics, events=events, observation=observation, **kwargs)
        self.num_envs, self.render_mode = num_envs, render_mode
        self.single_observation_space = self._one.observation_space
        self.single_action_space = self._one.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._rngs: list[np.random.Generator] | None = None
        self._events: list[Event] = []
        self._worlds: Worlds | None = None
        self._state: SocietyState | None = None
        k = num_envs
        self._latest, self._previous = np.tile(UNIFORM, (k, 1)), np.tile(UNIFORM, (k, 1))
        self._domain = np.zeros(k, dtype=np.intp)
        self._credibility, self._spent = np.zeros(k), np.zeros(k)
        self._elapsed = np.zeros(k, dtype=np.int64)
        self._over = np.zeros(k, dtype=bool)

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Start episodes in every world, or where ``options["reset_mask"]`` is true."""
        k = self.num_envs
        seeds = [seed] * k if seed is None else seed
        if isinstance(seeds, int | np.integer):
            seeds = [int(seeds) + i for i in range(k)]
        if len(seeds) != k:
            raise MfenvError(f"{len(seeds)} seeds for {k} environments; allowed: one for each")
        options = options or {}
        mask = np.asarray(options.get("reset_mask", np.ones(k, dtype=bool)))
        if mask.shape != (k,) or mask.dtype != np.bool_ or not mask.any():
            raise MfenvError(f"reset_mask must be {k} booleans with at least one true")
        if self._rngs is None:
            if not mask.all():
                raise MfenvError("the first reset must start every world")
            self._rngs = [np_random(None)[0] for _ in range(k)]
        for i in np.flatnonzero(mask).tolist():
            if seeds[i] is not None:
                self._rngs[i] = np_random(seeds[i])[0]
        self._begin(np.flatnonzero(mask), options.get("event_id"))
        return self._observe(), self._infos(mask, np.zeros(k), np.zeros(k), np.zeros(k, dtype=bool))

    def step(
        self, actions: NDArray[np.int64]
    ) -> tuple[
        NDArray[np.float32],
        NDArray[np.float64],
        NDArray[np.bool_],
        NDArray[np.bool_],
        dict[str, Any],
    ]:
        """Step every world; one whose episode was over starts the next, with reward 0."""
        if self._worlds is None or self._state is None:
            raise MfenvError("the environment has no episode yet: call reset() first")
        if not self.action_space.contains(actions):
            raise MfenvError(f"actions {actions!r} are not in {self.action_space}")
        flat = np.asarray(actions)
        if flat.ndim == 2:
            flat = np.where(
                flat[:, 0] == 0, 0, 1 + (flat[:, 0] - 1) * len(INTENSITIES) + flat[:, 1]
            )
        active = ~self._over
        paid = self._spent + _COSTS[flat] <= self._one.budget + EPSILON
        done = np.where(active & paid, flat, 0)
        state, record = society_step(self._worlds, self._state, done)
        self._state = _where(active, state, self._state)
        self._previous = np.where(active[:, None], self._latest, self._previous)
        self._latest = np.where(active[:, None], record.distribution, self._latest)
        cost = _COSTS[done]
        self._spent = self._spent + cost
        self._elapsed = self._elapsed + active
        own = (~record.planted).sum(axis=1)
        harm = np.array(
            [
                self._one.objective.harm(d, int(n), e.truth) if a else 0.0
                for d, n, e, a in zip(record.distribution, own, self._events, active, strict=True)
            ]
        )
        rewards = np.where(active, -harm - self._one.cost_weight * cost, 0.0)
        resetting = np.flatnonzero(self._over)
        truncated = active & (self._elapsed >= self._one.horizon)
        if len(resetting):
            self._begin(resetting, None)
        self._over = truncated
        infos = self._infos(np.ones(self.num_envs, dtype=bool), harm, cost, active & (done != flat))
        return (
            self._observe(),
            rewards,
            np.zeros(self.num_envs, dtype=bool),
            truncated.copy(),
            infos,
        )

    def _begin(self, index: NDArray[np.intp], event_id: str | None) -> None:
        """Draw events for some worlds, exactly as the single environment does."""
        assert self._rngs is not None
        one, ids = self._one, self._one.scenarios.ids
        if event_id is not None and event_id not in ids:
            some = ", ".join(ids[:3])
            raise MfenvError(f"unknown event {event_id!r}; allowed: {len(ids)} such as {some}")
        events, seeds = [], []
        for i in index:
            rng = self._rngs[i]
            place, noise_seed = int(rng.integers(len(ids))), int(rng.integers(2**31))
            draw = float(rng.standard_normal())
            event = one.scenarios.event(ids[place] if event_id is None else event_id)
            events.append(event)
            seeds.append(noise_seed)
            self._credibility[i] = credibility(event.truth, one.credibility_noise, draw)
            self._domain[i] = domain_index(event.domain)
            labels = np.asarray(event.labels)[1 : 1 + one.warmup]
            recorded = [UNIFORM, UNIFORM, *recorded_shares(labels, one.batch)]
            self._previous[i], self._latest[i] = recorded[-2:]
        worlds = worlds_of(events, seeds, warmup=one.warmup, batch=one.batch)
        state = initial_state(worlds, events)
        if self._worlds is None or self._state is None:
            self._events, self._worlds, self._state = events, worlds, state
        else:
            for i, event in zip(index, events, strict=True):
                self._events[i] = event
            self._worlds = _put(self._worlds, worlds, index)
            self._state = _put(self._state, state, index)
        self._spent[index], self._elapsed[index], self._over[index] = 0.0, 0, False

    def _observe(self) -> NDArray[np.float32]:
        assert self._state is not None
        budget = self._one.budget
        left = (budget - self._spent) / budget if budget else np.zeros(self.num_envs)
        return vector(
            distribution=self._latest,
            previous=self._previous,
            domain=self._domain,
            time=self._elapsed / self._one.horizon,
            budget=np.maximum(left, 0.0),
            activity=self._state.activity,
            credibility=self._credibility,
        )

    def _infos(
        self,
        mask: NDArray[np.bool_],
        harm: NDArray[np.float64],
        cost: NDArray[np.float64],
        unaffordable: NDArray[np.bool_],
    ) -> dict[str, Any]:
        infos: dict[str, Any] = {
            "event_id": np.array([e.event_id for e in self._events], dtype=object),
            "step": self._elapsed.copy(),
            "harm": harm,
            "cost": cost,
            "spent": self._spent.copy(),
            "budget_left": np.maximum(self._one.budget - self._spent, 0.0),
            "unaffordable": unaffordable,
        }
        return infos | {f"_{name}": mask.copy() for name in infos}


def _put(whole: _T, part: _T, index: NDArray[np.intp]) -> _T:
    """A copy of ``whole`` with the worlds of ``part`` at ``index``."""
    changed: dict[str, Any] = {}
    for field in fields(whole):
        value, new = getattr(whole, field.name), getattr(part, field.name)
        if isinstance(value, np.ndarray):
            value = value.copy()
            value[index] = new
            changed[field.name] = value
        elif isinstance(value, Topics):
            changed[field.name] = _put(value, new, index)
    return replace(whole, **changed)


def _where(mask: NDArray[np.bool_], new: SocietyState, old: SocietyState) -> SocietyState:
    if mask.all():
        return new
    index = np.flatnonzero(mask)
    part = SocietyState(new.step[index], new.perceived[index], new.activity[index])
    return _put(old, part, index)
