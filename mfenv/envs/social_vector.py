"""Many planners' environments that step together.

In the language-model tier all worlds hand their requests to one backbone call per phase; in the
society and surrogate tiers they are one array program.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
from gymnasium.utils.seeding import np_random
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from mfenv.distributions import UNIFORM
from mfenv.dynamics.process import MeanFieldProcess, advance, warm_up
from mfenv.dynamics.records import StepRecord
from mfenv.dynamics.society import SocietyState, Worlds, initial_state, society_step, worlds_of
from mfenv.envs.lanes import Settle, Terms, new_lanes, observe, settle
from mfenv.envs.observation import credibilities, domain_index, readings
from mfenv.envs.social import EPSILON, SocialEnv, recorded_shares
from mfenv.errors import MfenvError
from mfenv.events.event import Event
from mfenv.events.synthetic.response import Topics
from mfenv.interventions import INTENSITIES, KINDS, N_ACTIONS, decode_action
from mfenv.labels import N_DIMENSIONS, N_LABELS, Labels

if TYPE_CHECKING:
    from mfenv.dynamics.surrogate.kernel import Worlds as Counted

__all__ = ["SocialVectorEnv"]

Floats = NDArray[np.float64]

_COSTS = np.array([decode_action(a).cost for a in range(N_ACTIONS)])
_T = TypeVar("_T", Worlds, SocietyState, Topics)


class SocialVectorEnv(VectorEnv[NDArray[np.float32], NDArray[np.int64], Any]):
    """``num_envs`` worlds of one of the planner's environments that step together.

    The same numbers as ``num_envs`` environments one by one with the seeds that Gymnasium's
    ``SyncVectorEnv`` gives them (in the language-model tier up to the rounding of larger
    batches), without texts: infos hold ``event_id``, ``step``, ``harm``, ``cost``, ``spent``,
    ``budget_left``, ``unaffordable`` and ``own`` (how many of the step's reactions are the
    population's own; 0 after a reset) as arrays. ``observation="box"`` only, and synthetic
    events in the society tier; the rest works with ``vectorization_mode="sync"``. A world that was
    truncated starts its next episode at the next step (``NEXT_STEP``).

    In the surrogate tier lanes draw by counter: everything is a pure function of the lane's seed,
    its episode's number, the step and the draw.
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
        self._begun = False
        self._population: _Population = _POPULATIONS[dynamics](self._one, k)
        self._ids = np.full(k, "", dtype=object)
        self._lanes = new_lanes(k)
        self._terms = Terms(self._one.objective, self._one.budget, self._one.cost_weight)
        self._over = np.zeros(k, dtype=bool)

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Start episodes in every world, or where ``options["reset_mask"]`` is true.

        ``options["event_id"]`` chooses the event of all of them, or, as a list, of each world;
        ``options["reading"]`` gives the draws of the truth's reading, one number or one for each.
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
        if not self._begun and not mask.all():
            raise MfenvError("the first reset must start every world")
        chosen = options.get("event_id")
        ids = [chosen] * k if chosen is None or isinstance(chosen, str) else list(chosen)
        if len(ids) != k:
            raise MfenvError(f"{len(ids)} event ids for {k} environments; allowed: one for each")
        index = np.flatnonzero(mask)
        self._population.seed(index, [seeds[i] for i in index.tolist()])
        self._begin(index, [ids[i] for i in index.tolist()])
        if (reading := options.get("reading")) is not None:
            given = readings(reading, k)[index]
            noise = self._one.credibility_noise
            lanes = self._lanes
            lanes.credibility[index] = credibilities(lanes.truth[index], noise, given)
        nothing = np.zeros(k, dtype=np.int64)
        infos = self._infos(mask, np.zeros(k), np.zeros(k), np.zeros(k, dtype=bool), nothing)
        return observe(self._lanes, self._one.budget, self._population.activity), infos

    def step(
        self, actions: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], Floats, NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """Step every world; one whose episode was over starts the next, with reward 0."""
        if not self._begun:
            raise MfenvError("the environment has no episode yet: call reset() first")
        if not self.action_space.contains(actions):
            raise MfenvError(f"actions {actions!r} are not in {self.action_space}")
        wanted = np.asarray(actions)
        if wanted.ndim == 2:
            kind, intensity = wanted.T
            wanted = np.where(kind == 0, 0, 1 + (kind - 1) * len(INTENSITIES) + intensity)
        active = ~self._over
        paid = self._lanes.spent + _COSTS[wanted] <= self._one.budget + EPSILON
        done = np.where(active & paid, wanted, 0)
        distribution, own = self._population.step(done, active)
        cost = _COSTS[done]
        over = np.flatnonzero(self._over)
        self._begin(over, [None] * len(over))
        settled = self._population.settle(
            self._lanes, self._terms, active, cost, distribution, own, self._population.activity
        )
        self._over = settled.truncated
        everyone = np.ones(self.num_envs, dtype=bool)
        infos = self._infos(everyone, settled.harm, cost, active & (done != wanted), own)
        return (
            settled.observation,
            settled.reward,
            np.zeros(self.num_envs, dtype=bool),
            settled.truncated.copy(),
            infos,
        )

    def action_masks(self) -> NDArray[np.bool_]:
        """What each world's budget can pay: ``(K, 19)``, or ``(K, 7 + 3)`` for MultiDiscrete.

        The row of a world whose episode is over is of no account: its next action is ignored.
        """
        if not self._begun:
            raise MfenvError("the environment has no episode yet: call reset() first")
        flat = self._lanes.spent[:, None] + _COSTS <= self._one.budget + EPSILON
        if self.single_action_space.shape == ():
            return np.asarray(flat)
        kinds = flat[:, 1:].reshape(-1, len(KINDS), len(INTENSITIES)).any(axis=2)
        none = np.ones((self.num_envs, 1), dtype=bool)
        return np.concatenate([none, kinds, np.repeat(none, len(INTENSITIES), axis=1)], axis=1)

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

    def _begin(self, index: NDArray[np.intp], event_ids: Sequence[str | None]) -> None:
        """Start episodes of some worlds, drawn exactly as the single environment draws them."""
        if not len(index):
            return
        self._ids = self._ids.copy()  # infos hold the one before
        size = self._population.portion if self._begun else len(index)
        for first in range(0, len(index), size):
            part = slice(first, first + size)
            self._begin_together(index[part], event_ids[part])
        self._begun = True

    def _begin_together(self, index: NDArray[np.intp], event_ids: Sequence[str | None]) -> None:
        begun, lanes = self._population.begin(index, event_ids), self._lanes
        self._ids[index], lanes.truth[index] = begun.event_id, begun.truth
        lanes.credibility[index], lanes.domain[index] = begun.credibility, begun.domain
        lanes.previous[index], lanes.latest[index] = begun.previous, begun.latest
        lanes.steps[index] = np.minimum(self._one.horizon, begun.horizon)
        lanes.spent[index], lanes.elapsed[index], self._over[index] = 0.0, 0, False

    def _infos(
        self,
        mask: NDArray[np.bool_],
        harm: Floats,
        cost: Floats,
        unaffordable: NDArray[np.bool_],
        own: NDArray[np.int64],
    ) -> dict[str, Any]:
        infos: dict[str, Any] = {
            "event_id": self._ids,
            "step": self._lanes.elapsed.copy(),
            "harm": harm,
            "cost": cost,
            "spent": self._lanes.spent.copy(),
            "budget_left": np.maximum(self._one.budget - self._lanes.spent, 0.0),
            "unaffordable": unaffordable,
            "own": own,
        }
        unknown = self._population.not_identified
        if unknown.any():
            infos["not_identified"] = (self._population.activity[:, unknown] > 0).any(axis=1)
        return infos | {f"_{name}": mask.copy() for name in infos}


@dataclass(frozen=True, slots=True)
class _Begun:
    """Episodes that begin in ``m`` worlds."""

    event_id: NDArray[np.object_]  # (m,)
    truth: NDArray[np.int64]  # (m,) 1 true, 0 false, -1 not known
    domain: NDArray[np.intp]  # (m,)
    credibility: Floats  # (m,)
    previous: Floats  # (m, 23)
    latest: Floats  # (m, 23)
    horizon: NDArray[np.int64]  # (m,) steps that the event has people for


class _Population(Protocol):
    """The people of ``K`` worlds."""

    @property
    def activity(self) -> Floats:
        """Running interventions ``(K, 6)``."""
        ...

    @property
    def not_identified(self) -> NDArray[np.bool_]:
        """Kinds of intervention ``(6,)`` that nothing is known of."""
        ...

    def seed(self, index: NDArray[np.intp], seeds: Sequence[int | None]) -> None:
        """Seed the draws of some worlds; what has ``None`` goes on, or is seeded at random."""
        ...

    def begin(self, index: NDArray[np.intp], event_ids: Sequence[str | None]) -> _Begun:
        """Draw and start the next episodes of some worlds; of each the event, if it is chosen."""
        ...

    @property
    def settle(self) -> Settle:
        """What does the lanes' half of a step."""
        ...

    @property
    def portion(self) -> int:
        """How many worlds begin an episode at once, after all have begun their first."""
        ...

    def step(
        self, actions: NDArray[np.int64], active: NDArray[np.bool_]
    ) -> tuple[Floats, NDArray[np.int64]]:
        """Step the active worlds; shares ``(K, 23)`` of their ``(K,)`` own reactions.

        Both are of no account where a world is not active, but its number is 0.
        """
        ...


class _Listed:
    """A population of events whose people are listed: drawn world by world."""

    not_identified = np.zeros(len(KINDS), dtype=bool)
    settle = staticmethod(settle)
    portion = sys.maxsize  # one backbone call for all

    def __init__(self, one: SocialEnv, k: int) -> None:
        self._one = one
        self._rngs: list[np.random.Generator | None] = [None] * k

    def seed(self, index: NDArray[np.intp], seeds: Sequence[int | None]) -> None:
        for i, seed in zip(index.tolist(), seeds, strict=True):
            if seed is not None or self._rngs[i] is None:
                self._rngs[i] = np_random(seed)[0]

    def begin(self, index: NDArray[np.intp], event_ids: Sequence[str | None]) -> _Begun:
        drawn = []
        for i, event_id in zip(index.tolist(), event_ids, strict=True):
            rng = self._rngs[i]
            assert rng is not None
            drawn.append(self._one.draw(rng, event_id))
        events, seeds, readings = zip(*drawn, strict=True)
        recorded = self._start(index.tolist(), events, seeds)
        batches = [
            [UNIFORM, UNIFORM, *recorded_shares(labels, self._one.batch)][-2:]
            for labels in recorded
        ]
        return _Begun(
            event_id=np.array([e.event_id for e in events], dtype=object),
            truth=np.array([-1 if e.truth is None else int(e.truth) for e in events]),
            domain=np.array([domain_index(e.domain) for e in events]),
            credibility=np.array(readings),
            previous=np.stack([previous for previous, _ in batches]),
            latest=np.stack([latest for _, latest in batches]),
            horizon=self._horizon(index.tolist()),
        )

    def _start(
        self, index: list[int], events: Sequence[Event], seeds: Sequence[int]
    ) -> list[Labels]:
        """Start events in some worlds; returns the labels ``(m, 8)`` of each warm-up."""
        raise NotImplementedError

    def _horizon(self, index: list[int]) -> NDArray[np.int64]:
        """Steps that the events of some worlds have people for."""
        raise NotImplementedError


class _Society(_Listed):
    """The society tier: one array program."""

    def __init__(self, one: SocialEnv, k: int) -> None:
        super().__init__(one, k)
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

    def _start(
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

    def _horizon(self, index: list[int]) -> NDArray[np.int64]:
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
        return record.distribution, (~record.planted).sum(axis=1) * active


class _Language(_Listed):
    """The language-model tier: processes in lockstep, one call a phase."""

    def __init__(self, one: SocialEnv, k: int) -> None:
        super().__init__(one, k)
        self._processes: list[MeanFieldProcess | None] = [None] * k
        self.latest: list[StepRecord | None] = [None] * k

    def _process(self, i: int) -> MeanFieldProcess:
        process = self._processes[i]
        assert process is not None
        return process

    @property
    def activity(self) -> Floats:
        return np.stack([self._process(i).activity for i in range(len(self._processes))])

    def _start(
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

    def _horizon(self, index: list[int]) -> NDArray[np.int64]:
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


class _Surrogate:
    """The surrogate tier: one array program, episodes drawn by counter."""

    portion = 512  # arrays that fit into the cache

    def __init__(self, one: SocialEnv, k: int) -> None:
        from mfenv.dynamics.surrogate.stepping import is_compiled, stepper

        self._one, self._model = one, one.surrogate
        self._play = stepper(self._model)
        self.settle: Settle = settle
        if is_compiled():
            from mfenv.envs import compiled_lanes

            self.settle = compiled_lanes.settle
        self._lane = np.zeros(k, dtype=np.int64)
        self._episode = np.full(k, -1, dtype=np.int64)
        self._worlds: Counted | None = None
        self._rows = _Rows(one)
        self.not_identified = ~np.array(self._model.identified)

    @property
    def activity(self) -> Floats:
        assert self._worlds is not None
        return self._worlds.activity

    def seed(self, index: NDArray[np.intp], seeds: Sequence[int | None]) -> None:
        from mfenv.envs.draws import lane_seed

        fresh: np.random.Generator | None = None
        for i, seed in zip(index.tolist(), seeds, strict=True):
            if seed is None and self._episode[i] >= 0:
                continue
            if seed is None:
                fresh = fresh or np_random(None)[0]
                seed = lane_seed(fresh)
            self._lane[i], self._episode[i] = seed, -1

    def begin(self, index: NDArray[np.intp], event_ids: Sequence[str | None]) -> _Begun:
        from mfenv.dynamics.surrogate.dynamics import HORIZON, member_numbers
        from mfenv.dynamics.surrogate.kernel import begin
        from mfenv.envs.draws import draw_episodes

        self._episode[index] += 1
        ids = self._one.scenarios.ids
        drawn = draw_episodes(self._lane[index], self._episode[index], len(ids))
        place = drawn.place.copy()
        for k, event_id in enumerate(event_ids):
            if event_id is not None:
                place[k] = self._rows.place(event_id)
        rows = self._rows.at(place)
        new = begin(
            self._model,
            seed=drawn.noise,
            member=member_numbers(self._model, self._one.member, drawn.noise),
            domain=rows.domain[place],
            truth=rows.truth[place],
            perceived=rows.perceived[place],
            latest=rows.reached[place],
            mixture=rows.mixture[place],
        )
        if self._worlds is None:  # the first time all worlds begin
            self._worlds = new
        else:
            self._worlds.put(index, new)
        truth = rows.truth[place]
        return _Begun(
            event_id=rows.event_id[place],
            truth=truth,
            domain=rows.domain[place],
            credibility=credibilities(truth, self._one.credibility_noise, drawn.reading),
            previous=rows.previous[place],
            latest=rows.latest[place],
            horizon=np.full(len(index), HORIZON),
        )

    def step(
        self, actions: NDArray[np.int64], active: NDArray[np.bool_]
    ) -> tuple[Floats, NDArray[np.int64]]:
        assert self._worlds is not None
        one = self._one
        own = self._play(self._worlds, actions, active, batch=one.batch, warmup=one.warmup)
        return self._worlds.latest, own


class _Rows:
    """Where the episodes of every event of a set start, as arrays that fill as events are drawn."""

    def __init__(self, one: SocialEnv) -> None:
        self._one = one
        self._known: NDArray[np.bool_] | None = None

    def _open(self) -> None:
        n = len(self._one.scenarios.ids)
        self._known = np.zeros(n, dtype=bool)
        self.event_id = np.full(n, "", dtype=object)
        self.truth = np.full(n, -1, dtype=np.int64)
        self.domain = np.zeros(n, dtype=np.intp)
        self.perceived, self.reached = np.zeros((n, N_LABELS)), np.zeros((n, N_LABELS))
        self.previous, self.latest = np.zeros((n, N_LABELS)), np.zeros((n, N_LABELS))
        self.mixture = np.zeros((n, len(self._one.surrogate.archetypes)))

    def place(self, event_id: str) -> int:
        """The place of a chosen event in the set."""
        self._one.event(0, event_id)  # says what is allowed
        return self._one.scenarios.ids.index(event_id)

    def at(self, places: NDArray[np.int64]) -> _Rows:
        """The rows, with those at ``places`` filled."""
        if self._known is None:
            self._open()
        assert self._known is not None
        if not self._known[places].all():
            for i in np.unique(places[~self._known[places]]).tolist():
                self._fill(i)
                self._known[i] = True
        return self

    def _fill(self, i: int) -> None:
        from mfenv.dynamics.surrogate.dynamics import start_of

        one = self._one
        event = one.event(i)
        start = start_of(event, one.surrogate, warmup=one.warmup, batch=one.batch)
        self.event_id[i] = event.event_id
        self.truth[i] = -1 if event.truth is None else int(event.truth)
        self.domain[i] = start.domain
        self.perceived[i], self.reached[i] = start.perceived, start.latest
        self.mixture[i] = start.mixture
        self.previous[i], self.latest[i] = [
            UNIFORM,
            UNIFORM,
            *recorded_shares(start.labels, one.batch),
        ][-2:]


_POPULATIONS: dict[str, Callable[[SocialEnv, int], _Population]] = {
    "llm": _Language,
    "society": _Society,
    "surrogate": _Surrogate,
}


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
