"""The society tier: the synthetic society itself as dynamics, exact and in NumPy only.

:func:`society_step` advances ``K`` worlds at once; :class:`SocietyDynamics` is the same for one
world, with records, snapshots and forks.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any, Self, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mfenv.distributions import UNIFORM, normalise, shares
from mfenv.dynamics.mean_field_text import render
from mfenv.dynamics.notices import notice_texts, planted_texts
from mfenv.dynamics.reach import (
    BLOCKED,
    INITIAL,
    PERCEPTION_RATE,
    PLANTED,
    PLANTED_SHARE,
    keyed_uniforms,
    perceive,
    perception_rate,
    plant,
    reach_weights,
    stance_weights,
)
from mfenv.dynamics.records import StepRecord
from mfenv.errors import MfenvError
from mfenv.events.event import DOMAINS, Event
from mfenv.events.synthetic.grammar import N_TEXT_DRAWS, write_many
from mfenv.events.synthetic.response import (
    Topics,
    draw_labels,
    expected_counts,
    expected_shares,
    response,
    surge,
)
from mfenv.interventions import (
    DECAY,
    INTENSITIES,
    NONE,
    STRENGTHS,
    Intervention,
    Kind,
    encode_action,
)
from mfenv.labels import N_DIMENSIONS, Labels, dimension, one_hot
from mfenv.noise import uniform

__all__ = [
    "Limit",
    "SocietyDynamics",
    "SocietyState",
    "SocietyStep",
    "Worlds",
    "agents_at",
    "initial_state",
    "limit_step",
    "mean_field_limit",
    "next_activities",
    "society_step",
    "start",
    "text_uniforms",
    "warm_up",
    "worlds_of",
]

Floats = NDArray[np.float64]

WARMUP = 50
"""Agents of an event that act as recorded before the society goes on by itself."""

BATCH = 16
"""Agents a step."""

_TEXT_TOKEN = 100  # noise keys: labels take tokens 0 to 7, texts from here
_FLOOR = 0.1  # as in mfenv.interventions


@dataclass(frozen=True, slots=True)
class Worlds:
    """What stays fixed in ``K`` worlds."""

    seed: NDArray[np.int64]  # (K,) noise of the run
    topics: Topics
    archetypes: NDArray[np.int8]  # (K, P): agent k is the author of the event's post k + 1
    warmup: int = 0  # agents that act as recorded
    batch: int = BATCH
    surges: bool = True

    def __len__(self) -> int:
        return len(self.seed)

    @property
    def warmup_steps(self) -> int:
        """Steps of the warm-up; the last one may be short."""
        return -(-self.warmup // self.batch)


@dataclass(frozen=True, slots=True)
class SocietyState:
    """What changes in ``K`` worlds. Arrays are never written to in place."""

    step: NDArray[np.int64]  # (K,) steps done, warm-up included
    perceived: Floats  # (K, 23)
    activity: Floats  # (K, 6) of the last step


@dataclass(frozen=True, slots=True)
class SocietyStep:
    """One step of ``K`` worlds."""

    agents: NDArray[np.int64]  # (K, n)
    archetypes: NDArray[np.int8]  # (K, n)
    own: Labels  # (K, n, 8) what the agents themselves would have done
    labels: Labels  # (K, n, 8) with planted reactions in place
    planted: NDArray[np.bool_]  # (K, n)
    weights: Floats  # (K, n) in the perceived distribution
    distribution: Floats  # (K, 23) of the reactions that are not planted
    perceived: Floats  # (K, 23) after the step
    activity: Floats  # (K, 6) during the step
    surge: Floats  # (K,)


def next_activities(activity: Floats, actions: ArrayLike) -> Floats:
    """Activity ``(K, 6)`` of the next step under flat actions ``(K,)``.

    The same as :func:`mfenv.interventions.next_activity` in each world.
    """
    actions = np.asarray(actions, dtype=np.intp)
    result = np.asarray(activity * DECAY)
    result[result < _FLOOR] = 0.0
    acting = np.flatnonzero(actions)
    kind, intensity = np.divmod(actions[acting] - 1, len(INTENSITIES))
    result[acting, kind] = np.maximum(result[acting, kind], np.asarray(STRENGTHS)[intensity])
    return result


def agents_at(worlds: Worlds, step: NDArray[np.int64]) -> NDArray[np.int64]:
    """Agents ``(K, n)`` of a step ``(K,)`` after the warm-up; they start again when used up."""
    first = worlds.warmup + (step - worlds.warmup_steps)[:, None] * worlds.batch
    agents: NDArray[np.int64] = (first + np.arange(worlds.batch)) % worlds.archetypes.shape[1]
    return agents


def society_step(
    worlds: Worlds, state: SocietyState, actions: ArrayLike
) -> tuple[SocietyState, SocietyStep]:
    """Advance ``K`` worlds by one batch under flat actions ``(K,)``. Pure."""
    activity = next_activities(state.activity, actions)
    agents = agents_at(worlds, state.step)
    archetypes = np.take_along_axis(worlds.archetypes, agents, axis=1)
    seed, step = worlds.seed[:, None], state.step[:, None]
    surges = (
        surge(worlds.seed, state.step, worlds.topics.virality)
        if worlds.surges
        else np.zeros(len(worlds))
    )
    tables = response(worlds.topics, state.perceived, activity, surges)
    u = uniform(seed[..., None], agents[..., None], step[..., None], np.arange(N_DIMENSIONS))
    own = draw_labels(tables, archetypes, u)
    labels, planted = plant(own, activity)
    weights = reach_weights(labels, activity, keyed_uniforms(seed, agents, step))
    perceived = perceive(state.perceived, labels, weights)
    distribution = normalise((one_hot(own) * ~planted[..., None]).sum(axis=1))
    record = SocietyStep(
        agents, archetypes, own, labels, planted, weights, distribution, perceived, activity, surges
    )
    return SocietyState(state.step + 1, perceived, activity), record


def worlds_of(
    events: Sequence[Event],
    seeds: Sequence[int],
    *,
    warmup: int = WARMUP,
    batch: int = BATCH,
    surges: bool = True,
) -> Worlds:
    """Worlds of synthetic events, one for each pair of event and seed, of equal length.

    Raises ``MfenvError`` for an event without hidden parameters (one that is not synthetic),
    without exact labels, or not longer than the warm-up.
    """
    if len(events) != len(seeds):
        raise MfenvError(f"{len(events)} events and {len(seeds)} seeds: their number must be equal")
    lengths = {len(e.posts) for e in events}
    if len(lengths) > 1:
        raise MfenvError(
            f"events of one batch need the same number of posts, got {sorted(lengths)}"
        )
    hidden = []
    for event in events:
        if "hidden" not in event.meta or "archetypes" not in event.meta or event.labels is None:
            raise MfenvError(
                f"event {event.event_id}: the society tier needs a synthetic event "
                "(with hidden parameters, archetypes and exact labels)"
            )
        if len(event.posts) < warmup + 2:
            raise MfenvError(
                f"event {event.event_id}: {len(event.posts)} posts; "
                f"a source and more than {warmup} reactions are needed"
            )
        hidden.append(event.meta["hidden"])
    return Worlds(
        seed=np.array(seeds, dtype=np.int64),
        topics=Topics(
            domain=np.array([DOMAINS.index(str(e.domain)) for e in events]),
            credulity=np.array([h["credulity"] for h in hidden], dtype=float),
            virality=np.array([h["virality"] for h in hidden], dtype=float),
            trust=np.array([h["trust"] for h in hidden], dtype=float),
            truth=np.array([bool(e.truth) for e in events]),
        ),
        archetypes=np.array([e.meta["archetypes"][1:] for e in events], dtype=np.int8),
        warmup=warmup,
        batch=batch,
        surges=surges,
    )


def start(worlds: Worlds) -> SocietyState:
    """Nobody has acted yet."""
    return SocietyState(
        step=np.zeros(len(worlds), dtype=np.int64),
        perceived=np.tile(INITIAL, (len(worlds), 1)),
        activity=np.zeros((len(worlds), len(Kind))),
    )


def warm_up(worlds: Worlds, events: Sequence[Event]) -> list[tuple[SocietyState, Labels]]:
    """Play the recorded warm-up: the state after each step, and its labels ``(K, m, 8)``.

    Perception averages the first reactions, as in the language-model tier.
    """
    recorded = np.stack([np.asarray(e.labels)[1 : 1 + worlds.warmup] for e in events])
    state = start(worlds)
    steps = []
    for first in range(0, worlds.warmup, worlds.batch):
        part = recorded[:, first : first + worlds.batch]
        rate = perception_rate(first, part.shape[1], worlds.batch)
        perceived = perceive(state.perceived, part, np.ones(part.shape[:2]), rate)
        state = SocietyState(state.step + 1, perceived, state.activity)
        steps.append((state, part))
    return steps


def initial_state(worlds: Worlds, events: Sequence[Event]) -> SocietyState:
    """The state of worlds after their events' recorded warm-up."""
    steps = warm_up(worlds, events)
    return steps[-1][0] if steps else start(worlds)


@dataclass(frozen=True, slots=True)
class Limit:
    """The deterministic path of infinitely many agents a step, over ``T`` steps."""

    distribution: Floats  # (K, T, 23) of the agents' own reactions
    perceived: Floats  # (K, T, 23) after each step
    activity: Floats  # (K, T, 6)


def limit_step(
    topics: Topics,
    perceived: Floats,
    activity: Floats,
    mixture: Floats,
    surges: ArrayLike = 0.0,
) -> tuple[Floats, Floats]:
    """One step of the mean-field limit: own distribution and next perceived, both ``(K, 23)``.

    ``activity`` ``(K, 6)`` is that during the step; ``mixture`` ``(A,)`` or ``(K, A)``.
    """
    tables = response(topics, perceived, activity, surges)
    distribution = expected_shares(tables, mixture)
    weights = np.repeat(stance_weights(activity[:, None, :], np.arange(3))[..., None], 2, axis=-1)
    weights[..., 1] *= 1.0 - BLOCKED * activity[:, None, Kind.FRICTION]
    counts, _ = expected_counts(tables, mixture, weights)
    share = PLANTED_SHARE * activity[:, Kind.SEED, None]
    planted = one_hot(PLANTED) * stance_weights(activity, PLANTED[dimension("stance")])[:, None]
    reached = normalise((1.0 - share) * counts + share * planted)
    return distribution, (1.0 - PERCEPTION_RATE) * perceived + PERCEPTION_RATE * reached


def mean_field_limit(
    topics: Topics,
    perceived: Floats,
    actions: ArrayLike,
    mixture: Floats,
    surges: ArrayLike | None = None,
) -> Limit:
    """The limit of infinitely many agents a step, from perceived ``(K, 23)``.

    ``actions`` ``(T,)`` or ``(K, T)`` are flat; ``surges`` ``(K, T)``, none by default.
    """
    k = len(topics)
    actions = np.broadcast_to(np.asarray(actions), (k, np.shape(actions)[-1]))
    activity = np.zeros((k, len(Kind)))
    own, path, active = [], [], []
    for t in range(actions.shape[1]):
        activity = next_activities(activity, actions[:, t])
        shock = 0.0 if surges is None else np.asarray(surges)[:, t]
        distribution, perceived = limit_step(topics, perceived, activity, mixture, shock)
        own.append(distribution)
        path.append(perceived)
        active.append(activity)
    return Limit(np.stack(own, axis=1), np.stack(path, axis=1), np.stack(active, axis=1))


class _Texts(Sequence[str]):
    """Reactions' texts, written when first read: most planners never do."""

    def __init__(self, labels: Labels, planted: tuple[str, ...], subject: str, seed: int,
                 step: int, agents: NDArray[np.int64]) -> None:  # fmt: skip
        self._key = (labels, planted, subject, seed, step, agents)
        self._written: list[str] | None = None

    def __len__(self) -> int:
        return len(self._key[0])

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if self._written is None:
            labels, planted, subject, seed, step, agents = self._key
            own = labels[len(planted) :]
            u = text_uniforms(seed, agents[len(planted) :], step)
            self._written = [*planted, *write_many(own, [subject] * len(own), u)]
        return self._written[index]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]


def text_uniforms(seed: ArrayLike, agents: ArrayLike, step: ArrayLike) -> Floats:
    """Keyed uniforms ``(..., N_TEXT_DRAWS)`` that reactions are written from."""
    token = np.arange(_TEXT_TOKEN, _TEXT_TOKEN + N_TEXT_DRAWS)
    parts = np.broadcast_arrays(np.asarray(seed), np.asarray(agents), np.asarray(step))
    return uniform(*(x[..., None] for x in parts), token)


class SocietyDynamics:
    """The synthetic society as the dynamics of one world.

    Implements :class:`mfenv.dynamics.records.Dynamics`. The first ``warmup`` agents of an event
    act as recorded; from there the authors of the event's further posts act in full batches (and
    start again when used up). All noise is keyed by (seed, agent, step, draw), so a fork sees
    what its parent sees. The mean field is the perceived shares, without reactions.
    """

    def __init__(self, *, batch: int = BATCH, warmup: int = WARMUP, surges: bool = True) -> None:
        if batch < 1 or warmup < 0:
            raise MfenvError(
                f"batch {batch} and warmup {warmup} are not allowed; "
                "allowed: batch 1 or more, warmup 0 or more"
            )
        self.batch, self.warmup, self.surges = batch, warmup, surges
        self.seed = 0
        self._event: Event | None = None
        self._worlds: Worlds | None = None
        self._state: SocietyState | None = None
        self._distribution: Floats = UNIFORM
        self._message: str | None = None

    def reset(self, event: Event, seed: int = 0) -> list[StepRecord]:
        """Start an event: play its recorded warm-up and return those steps."""
        self._load(event, seed)
        worlds = self._started()[1]
        self._state, self._distribution, self._message = start(worlds), UNIFORM, None
        records = []
        for number, (state, labels) in enumerate(warm_up(worlds, [event])):
            self._state = state
            self._distribution = shares(labels[0])
            agents = number * self.batch + np.arange(labels.shape[1])
            records.append(
                StepRecord(
                    step=number,
                    warmup=True,
                    agents=_sealed(agents),
                    texts=tuple(event.posts.texts[int(k) + 1] for k in agents),
                    labels=_sealed(labels[0]),
                    planted=_sealed(np.zeros(len(agents), dtype=bool)),
                    distribution=_sealed(self._distribution),
                    perceived=_sealed(state.perceived[0]),
                    mean_field=self.mean_field,
                    activity=_sealed(state.activity[0]),
                    intervention=NONE,
                )
            )
        return records

    def _load(self, event: Event, seed: int) -> None:
        self._worlds = worlds_of(
            [event], [seed], warmup=self.warmup, batch=self.batch, surges=self.surges
        )
        self._event, self.seed = event, seed

    def _started(self) -> tuple[Event, Worlds, SocietyState]:
        if self._event is None or self._worlds is None:
            raise MfenvError("the society has no event: call reset(event, seed) first")
        return self._event, self._worlds, self._state or start(self._worlds)

    @property
    def event(self) -> Event:
        """The event that is played."""
        return self._started()[0]

    @property
    def step_index(self) -> int:
        """Index of the next step, warm-up included."""
        return int(self._started()[2].step[0])

    @property
    def horizon(self) -> int:
        """Rollout steps of an episode in all, warm-up excluded."""
        left = int(self._started()[1].archetypes.shape[1]) - self.warmup
        return -(-left // self.batch)

    @property
    def mean_field(self) -> str:
        """The current mean field as text: the perceived shares; "" before anybody acted."""
        state = self._started()[2]
        return render(state.perceived[0], (), "en") if int(state.step[0]) else ""

    @property
    def distribution(self) -> Floats:
        """Label shares ``(23,)`` of the latest step; uniform before the first."""
        return self._distribution.copy()

    @property
    def perceived(self) -> Floats:
        """The perceived distribution ``(23,)`` that the next agents respond to."""
        return np.array(self._started()[2].perceived[0])

    @property
    def activity(self) -> Floats:
        """Running interventions ``(6,)`` during the latest step."""
        return np.array(self._started()[2].activity[0])

    @property
    def notices(self) -> tuple[str, ...]:
        """What running interventions showed to the agents of the latest step."""
        event, _, state = self._started()
        return notice_texts(state.activity[0], event.domain, "en", self._message)

    def step(self, intervention: Intervention = NONE) -> StepRecord:
        """Let the next batch act under an intervention."""
        event, worlds, state = self._started()
        number = int(state.step[0])
        self._state, r = society_step(worlds, state, [encode_action(intervention)])
        if intervention.kind is Kind.STATEMENT:
            self._message = intervention.message
        self._distribution = r.distribution[0]
        subject = str(event.meta["subject"])
        planted = int(r.planted[0].sum())
        return StepRecord(
            step=number,
            warmup=False,
            agents=_sealed(r.agents[0]),
            texts=_Texts(
                r.labels[0],
                planted_texts(planted, "en", self.seed, number)
                if intervention.message is None
                else (intervention.message,) * planted,
                subject,
                self.seed,
                number,
                r.agents[0],
            ),
            labels=_sealed(r.labels[0]),
            planted=_sealed(r.planted[0]),
            distribution=_sealed(r.distribution[0]),
            perceived=_sealed(r.perceived[0]),
            mean_field=self.mean_field,
            activity=_sealed(r.activity[0]),
            intervention=intervention,
        )

    def snapshot(self) -> dict[str, Any]:
        """What :meth:`restore` needs to come back to this point of the same event."""
        event, _, state = self._started()
        return {
            "event_id": event.event_id,
            "seed": self.seed,
            "step": int(state.step[0]),
            "perceived": state.perceived[0].copy(),
            "activity": state.activity[0].copy(),
            "distribution": self._distribution.copy(),
            "message": self._message,
        }

    def restore(self, snapshot: dict[str, Any]) -> None:
        """Go back to a snapshot of the event that is played."""
        event = self.event
        if snapshot["event_id"] != event.event_id:
            raise MfenvError(
                f"the snapshot is of event {snapshot['event_id']!r}, not of {event.event_id!r}"
            )
        self._load(event, int(snapshot["seed"]))
        self._state = SocietyState(
            step=np.array([snapshot["step"]], dtype=np.int64),
            perceived=np.array(snapshot["perceived"], dtype=float)[None],
            activity=np.array(snapshot["activity"], dtype=float)[None],
        )
        self._distribution = np.array(snapshot["distribution"], dtype=float)
        self._message = snapshot["message"]

    def fork(self) -> Self:
        """An independent world at this point, with the same noise ahead of it."""
        return copy(self)  # arrays are replaced, never written to, so sharing them is safe


def _sealed(array: NDArray[Any]) -> NDArray[Any]:
    """A read-only view: records share arrays with states."""
    view = array.view()
    view.setflags(write=False)
    return view
