"""Many planners' environments that step together.

In the language-model tier all worlds hand their requests to one backbone call per phase; in the
society tier they are one array program.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any, Protocol, TypeVar

import numpy as np
from gymnasium.utils.seeding import np_random
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from mfenv.distributions import UNIFORM
from mfenv.dynamics.process import MeanFieldProcess, advance, warm_up
from mfenv.dynamics.records import StepRecord
from mfenv.dynamics.society import SocietyState, Worlds, initial_state, society_step, worlds_of
from mfenv.envs.observation import domain_index, vector
from mfenv.envs.social import EPSILON, SocialEnv, recorded_shares
from mfenv.errors import MfenvError
from mfenv.events.event import Event
from mfenv.events.synthetic.response import Topics
from mfenv.interventions import INTENSITIES, N_ACTIONS, decode_action
from mfenv.labels import N_DIMENSIONS, N_LABELS, Labels

__all__ = ["SocialVectorEnv"]

Floats = NDArray[np.float64]

_COSTS = np.array([decode_action(a).cost for a in range(N_ACTIONS)])
_T = TypeVar("_T", Worlds, SocietyState, Topics)


class SocialVectorEnv(VectorEnv[NDArray[np.float32], NDArray[np.int64], Any]):
    """``num_envs`` worlds of ``MFLLM-Social-v0`` or ``MFLLM-Society-v0`` that step together.

    The same numbers as ``num_envs`` environments one by one with the seeds that Gymnasium's
    ``SyncVectorEnv`` gives them (in the language-model tier up to the rounding of larger
    batches), without texts: infos hold ``event_id``, ``step``, ``harm``, ``cost``, ``spent``,
    ``budget_left``, ``unaffordable`` and ``own`` (how many of the step's reactions are the
    population's own; 0 after a reset) as arrays. ``observation="box"`` only, and synthetic
    events in the society tier; the rest works with ``vectorization_mode="sync"``. A world that was
    truncated starts its next episode at the next step (``NEXT_STEP``).
    """

    metadata = {  # noqa: RUF012
        "render_modes": [],
        "render_fps": 4,
        "autoreset_mode": AutoresetMode.NEXT_STEP,
    }

    def __init__(
        self,
        num_envs: int = 1,
        dynamics: str = "llm",
        *,
        events: str | None = None,
        observation: str = "box",
        render_mode: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Take the arguments of :class:`~mfenv.envs.social.SocialEnv`."""
        for name, value, allowed in (
            ("events", events, (None, "synthetic") if dynamics == "society" else (events,)),
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
        k = num_envs
        self._rngs: list[np.random.Generator] | None = None
        self._events: list[Event | None] = [None] * k
        self._population: _Population = (
            _Society(self._one) if dynamics == "society" else _Language(self._one, k)
        )
        self._latest, self._previous = np.tile(UNIFORM, (k, 1)), np.tile(UNIFORM, (k, 1))
        self._domain = np.zeros(k, dtype=np.intp)
        self._credibility, self._spent = np.zeros(k), np.zeros(k)
        self._elapsed, self._steps = np.zeros(k, dtype=np.int64), np.ones(k, dtype=np.int64)
        self._over = np.zeros(k, dtype=bool)

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Start episodes in every world, or where ``options["reset_mask"]`` is true.

        ``options["event_id"]`` chooses the event of all of them, or, as a list, of each world.
        """
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
        index = np.flatnonzero(mask).tolist()
        for i in index:
            if seeds[i] is not None:
                self._rngs[i] = np_random(seeds[i])[0]
        chosen = options.get("event_id")
        ids = [chosen] * k if chosen is None or isinstance(chosen, str) else list(chosen)
        if len(ids) != k:
            raise MfenvError(f"{len(ids)} event ids for {k} environments; allowed: one for each")
        self._begin(index, [ids[i] for i in index])
        nothing = np.zeros(k, dtype=np.int64)
        infos = self._infos(mask, np.zeros(k), np.zeros(k), np.zeros(k, dtype=bool), nothing)
        return self._observe(), infos

    def step(
        self, actions: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], Floats, NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """Step every world; one whose episode was over starts the next, with reward 0."""
        if self._rngs is None:
            raise MfenvError("the environment has no episode yet: call reset() first")
        if not self.action_space.contains(actions):
            raise MfenvError(f"actions {actions!r} are not in {self.action_space}")
        wanted = np.asarray(actions)
        if wanted.ndim == 2:
            kind, intensity = wanted.T
            wanted = np.where(kind == 0, 0, 1 + (kind - 1) * len(INTENSITIES) + intensity)
        active = ~self._over
        paid = self._spent + _COSTS[wanted] <= self._one.budget + EPSILON
        done = np.where(active & paid, wanted, 0)
        distribution, own = self._population.step(done, active)
        harm, cost = np.zeros(self.num_envs), _COSTS[done]
        for i in np.flatnonzero(active).tolist():
            event = self._events[i]
            assert event is not None
            harm[i] = self._one.objective.harm(distribution[i], int(own[i]), event.truth)
        rewards = np.where(active, -harm - self._one.cost_weight * cost, 0.0)
        self._previous = np.where(active[:, None], self._latest, self._previous)
        self._latest = np.where(active[:, None], distribution, self._latest)
        self._spent = self._spent + cost
        self._elapsed = self._elapsed + active
        truncated = active & (self._elapsed >= self._steps)
        over = np.flatnonzero(self._over).tolist()
        self._begin(over, [None] * len(over))
        self._over = truncated
        everyone = np.ones(self.num_envs, dtype=bool)
        infos = self._infos(everyone, harm, cost, active & (done != wanted), own * active)
        return self._observe(), rewards, ~everyone, truncated.copy(), infos

    # -- for oracles and benchmarks --------------------------------------------------------

    @property
    def single(self) -> SocialEnv:
        """The environment whose arguments all worlds have; it is never stepped."""
        return self._one

    def society(self) -> tuple[Worlds, SocietyState]:
        """The society tier's worlds with their hidden parameters, and their state."""
        if not isinstance(self._population, _Society):
            raise MfenvError("only dynamics='society' has true dynamics that can be looked into")
        return self._population.begun()

    def records(self) -> list[StepRecord | None]:
        """What the latest step left behind in each world, with texts; in the LLM tier only."""
        if not isinstance(self._population, _Language):
            raise MfenvError("only dynamics='llm' keeps texts; step one environment for them")
        return list(self._population.latest)

    # -- inside ----------------------------------------------------------------------------

    def _begin(self, index: list[int], event_ids: Sequence[str | None]) -> None:
        """Start episodes of some worlds, drawn exactly as the single environment draws them."""
        if not index:
            return
        assert self._rngs is not None
        drawn = [self._one.draw(self._rngs[i], e) for i, e in zip(index, event_ids, strict=True)]
        recorded = self._population.begin(index, [d[0] for d in drawn], [d[1] for d in drawn])
        for i, (event, _, credibility), labels in zip(index, drawn, recorded, strict=True):
            self._events[i] = event
            self._credibility[i], self._domain[i] = credibility, domain_index(event.domain)
            shares = [UNIFORM, UNIFORM, *recorded_shares(labels, self._one.batch)]
            self._previous[i], self._latest[i] = shares[-2:]
        self._steps[index] = np.minimum(self._one.horizon, self._population.horizon(index))
        self._spent[index], self._elapsed[index], self._over[index] = 0.0, 0, False

    def _observe(self) -> NDArray[np.float32]:
        budget = self._one.budget
        left = (budget - self._spent) / budget if budget else np.zeros(self.num_envs)
        return vector(
            distribution=self._latest,
            previous=self._previous,
            domain=self._domain,
            time=self._elapsed / self._steps,
            budget=np.maximum(left, 0.0),
            activity=self._population.activity,
            credibility=self._credibility,
        )

    def _infos(
        self,
        mask: NDArray[np.bool_],
        harm: Floats,
        cost: Floats,
        unaffordable: NDArray[np.bool_],
        own: NDArray[np.int64],
    ) -> dict[str, Any]:
        ids = ["" if event is None else event.event_id for event in self._events]
        infos: dict[str, Any] = {
            "event_id": np.array(ids, dtype=object),
            "step": self._elapsed.copy(),
            "harm": harm,
            "cost": cost,
            "spent": self._spent.copy(),
            "budget_left": np.maximum(self._one.budget - self._spent, 0.0),
            "unaffordable": unaffordable,
            "own": own,
        }
        return infos | {f"_{name}": mask.copy() for name in infos}


class _Population(Protocol):
    """The people of ``K`` worlds."""

    @property
    def activity(self) -> Floats:
        """Running interventions ``(K, 6)``."""
        ...

    def begin(
        self, index: list[int], events: Sequence[Event], seeds: Sequence[int]
    ) -> list[Labels]:
        """Start events in some worlds; returns the labels ``(m, 8)`` of each warm-up."""
        ...

    def horizon(self, index: list[int]) -> NDArray[np.int64]:
        """Steps that the events of some worlds have people for."""
        ...

    def step(
        self, actions: NDArray[np.int64], active: NDArray[np.bool_]
    ) -> tuple[Floats, NDArray[np.int64]]:
        """Step the active worlds; shares ``(K, 23)`` of their ``(K,)`` own reactions."""
        ...


class _Society:
    """The society tier: one array program."""

    def __init__(self, one: SocialEnv) -> None:
        self._one = one
        self._worlds: Worlds | None = None
        self._state: SocietyState | None = None

    def begun(self) -> tuple[Worlds, SocietyState]:
        """The worlds and where they stand."""
        assert self._worlds is not None
        assert self._state is not None
        return self._worlds, self._state

    @property
    def activity(self) -> Floats:
        return self.begun()[1].activity

    def begin(
        self, index: list[int], events: Sequence[Event], seeds: Sequence[int]
    ) -> list[Labels]:
        worlds = worlds_of(events, seeds, warmup=self._one.warmup, batch=self._one.batch)
        state = initial_state(worlds, events)
        if self._worlds is None or self._state is None:  # the first time all worlds begin
            self._worlds, self._state = worlds, state
        else:
            self._worlds = _put(self._worlds, worlds, index)
            self._state = _put(self._state, state, index)
        return [np.asarray(e.labels)[1 : 1 + self._one.warmup] for e in events]

    def horizon(self, index: list[int]) -> NDArray[np.int64]:
        return np.full(len(index), self._one.horizon)

    def step(
        self, actions: NDArray[np.int64], active: NDArray[np.bool_]
    ) -> tuple[Floats, NDArray[np.int64]]:
        worlds, old = self.begun()
        state, record = society_step(worlds, old, actions)
        if not active.all():
            i = np.flatnonzero(active)
            part = SocietyState(state.step[i], state.perceived[i], state.activity[i])
            state = _put(old, part, i.tolist())
        self._state = state
        return record.distribution, (~record.planted).sum(axis=1)


class _Language:
    """The language-model tier: processes in lockstep, one call a phase."""

    def __init__(self, one: SocialEnv, k: int) -> None:
        self._one = one
        self._processes: list[MeanFieldProcess | None] = [None] * k
        self.latest: list[StepRecord | None] = [None] * k

    def _process(self, i: int) -> MeanFieldProcess:
        process = self._processes[i]
        assert process is not None
        return process

    @property
    def activity(self) -> Floats:
        return np.stack([self._process(i).activity for i in range(len(self._processes))])

    def begin(
        self, index: list[int], events: Sequence[Event], seeds: Sequence[int]
    ) -> list[Labels]:
        fresh = [self._one.make_process(event) for event in events]
        for process, event, seed in zip(fresh, events, seeds, strict=True):
            process.begin(event, seed)
            if process.horizon < 1:
                raise MfenvError(
                    f"event {event.event_id!r} has {len(event.posts) - 1} replies; more than the "
                    f"warm-up of {self._one.warmup} are needed"
                )
        records = warm_up(fresh)
        for i, process in zip(index, fresh, strict=True):
            self._processes[i] = process
        nothing = np.zeros((0, N_DIMENSIONS), dtype=np.int8)
        return [np.concatenate([nothing, *(r.labels for r in steps)]) for steps in records]

    def horizon(self, index: list[int]) -> NDArray[np.int64]:
        return np.array([self._process(i).horizon for i in index], dtype=np.int64)

    def step(
        self, actions: NDArray[np.int64], active: NDArray[np.bool_]
    ) -> tuple[Floats, NDArray[np.int64]]:
        index = np.flatnonzero(active).tolist()
        distribution = np.zeros((len(active), N_LABELS))
        own = np.zeros(len(active), dtype=np.int64)
        interventions = [decode_action(actions[i]) for i in index]
        records = advance([self._process(i) for i in index], interventions) if index else []
        self.latest = [None] * len(active)
        for i, record in zip(index, records, strict=True):
            self.latest[i] = record
            distribution[i], own[i] = record.distribution, int((~record.planted).sum())
        return distribution, own


def _put(whole: _T, part: _T, index: list[int]) -> _T:
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
