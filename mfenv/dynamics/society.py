"""The society tier: the synthetic society itself as dynamics, exact and in NumPy only.

:func:`society_step` advances ``K`` worlds at once; :class:`SocietyDynamics` is the same for one
world with snapshots, forks and texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mfenv.distributions import normalise, shares
from mfenv.dynamics.notices import notice_texts, planted_texts
from mfenv.dynamics.reach import (
    BLOCKED,
    INITIAL,
    PERCEPTION_RATE,
    PLANTED,
    PLANTED_SHARE,
    keyed_uniforms,
    perceive,
    plant,
    reach_weights,
    stance_weights,
)
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
from mfenv.labels import N_DIMENSIONS, Labels, one_hot
from mfenv.noise import uniform

__all__ = [
    "Limit",
    "SocietyDynamics",
    "SocietyRecord",
    "SocietySnapshot",
    "SocietyState",
    "SocietyStep",
    "Worlds",
    "credibility",
    "initial_state",
    "mean_field_limit",
    "next_activities",
    "society_step",
    "worlds_of",
]

Floats = NDArray[np.float64]

WARMUP = 50
"""Reactions of an event that are taken as recorded before the society goes on by itself."""

BATCH = 16
READING = 0.62
"""Probability that one step's credibility reading points to the truth."""

_TEXT_TOKEN = 100  # noise keys: labels take tokens 0 to 7, texts from here
_READING_TOKEN = 901
_FLOOR = 0.1  # as in mfenv.interventions


@dataclass(frozen=True, slots=True)
class Worlds:
    """What stays fixed in ``K`` worlds."""

    seed: NDArray[np.int64]  # (K,) noise of the run
    topics: Topics
    archetypes: NDArray[np.int8]  # (K, P) of the reactions' authors, in order, the source left out
    first: NDArray[np.int64]  # (K,) reactions that the warm-up took
    batch: int = BATCH
    surges: bool = True

    def __len__(self) -> int:
        return len(self.seed)


@dataclass(frozen=True, slots=True)
class SocietyState:
    """What changes in ``K`` worlds. Arrays are never written to in place."""

    step: NDArray[np.int64]  # (K,) steps done since the warm-up
    perceived: Floats  # (K, 23)
    activity: Floats  # (K, 6) of the last step


@dataclass(frozen=True, slots=True)
class SocietyStep:
    """One step of ``K`` worlds."""

    agents: NDArray[np.int64]  # (K, n) reaction index within the event: 1 is the first after the source
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
    """Vectorised :func:`mfenv.interventions.next_activity`: ``(K, 6)`` and flat actions ``(K,)``."""
    actions = np.asarray(actions, dtype=np.intp)
    result = activity * DECAY
    result[result < _FLOOR] = 0.0
    acting = np.flatnonzero(actions)
    kind, intensity = np.divmod(actions[acting] - 1, len(INTENSITIES))
    result[acting, kind] = np.maximum(result[acting, kind], np.asarray(STRENGTHS)[intensity])
    return result


def agents_at(worlds: Worlds, step: NDArray[np.int64]) -> NDArray[np.int64]:
    """Indices ``(K, n)`` of the reactions whose authors act; they start again when used up."""
    position = worlds.first[:, None] + step[:, None] * worlds.batch + np.arange(worlds.batch)
    return position % worlds.archetypes.shape[1] + 1


def society_step(
    worlds: Worlds, state: SocietyState, actions: ArrayLike
) -> tuple[SocietyState, SocietyStep]:
    """Advance ``K`` worlds by one batch under flat actions ``(K,)``. Pure."""
    activity = next_activities(state.activity, actions)
    agents = agents_at(worlds, state.step)
    archetypes = np.take_along_axis(worlds.archetypes, agents - 1, axis=1)
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


def warm_up(labels: Labels, batch: int = BATCH) -> Floats:
    """Perceived distribution ``(23,)`` after recorded reactions ``(m, 8)``, in batches.

    The last batch may be short: it moves perception in proportion to its length.
    """
    perceived = INITIAL
    for start in range(0, len(labels), batch):
        part = labels[start : start + batch]
        rate = PERCEPTION_RATE * len(part) / batch
        perceived = perceive(perceived, part, np.ones(len(part)), rate)
    return perceived


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
        raise MfenvError(f"events of one batch need the same number of posts, got {sorted(lengths)}")
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
        ),
        archetypes=np.array([e.meta["archetypes"][1:] for e in events], dtype=np.int8),
        first=np.full(len(events), warmup, dtype=np.int64),
        batch=batch,
        surges=surges,
    )


def initial_state(worlds: Worlds, events: Sequence[Event]) -> SocietyState:
    """The state of worlds after their events' recorded warm-up."""
    warm = [
        warm_up(np.asarray(e.labels)[1 : 1 + int(k)], worlds.batch)
        for e, k in zip(events, worlds.first, strict=True)
    ]
    return SocietyState(
        step=np.zeros(len(worlds), dtype=np.int64),
        perceived=np.stack(warm),
        activity=np.zeros((len(worlds), len(Kind))),
    )


def credibility(truth: ArrayLike, seed: ArrayLike, step: ArrayLike) -> Floats:
    """Posterior probability that a topic is true, from one noisy reading a step.

    Readings 0 … ``step`` are each right with probability :data:`READING`; the prior is one half.
    Arguments broadcast; the result has their common shape.
    """
    truth, seed, step = np.broadcast_arrays(np.asarray(truth, bool), seed, step)
    rounds = np.arange(int(step.max(initial=0)) + 1)
    right = uniform(seed[..., None], -1, rounds, _READING_TOKEN) < READING
    votes = np.where(right == truth[..., None], 1, -1) * (rounds <= step[..., None])
    odds = votes.sum(axis=-1) * np.log(READING / (1 - READING))
    return np.asarray(1.0 / (1.0 + np.exp(-odds)))


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
    planted = one_hot(PLANTED) * stance_weights(activity, PLANTED[4])[:, None]
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


@dataclass(frozen=True, slots=True)
class SocietyRecord:
    """One step of one world. ``texts`` are written when first asked for."""

    step: int
    agents: NDArray[np.int64]  # (n,) index of the post whose author acts
    labels: Labels  # (n, 8), planted reactions in place
    planted: NDArray[np.bool_]  # (n,)
    weights: Floats  # (n,) in the perceived distribution
    distribution: Floats  # (23,) of the reactions that are not planted
    perceived: Floats  # (23,) after the step
    activity: Floats  # (6,) during the step
    surge: float
    notices: tuple[str, ...]
    _subject: str = field(repr=False)
    _seed: int = field(repr=False)

    @property
    def texts(self) -> list[str]:
        """The reactions' texts, ``n`` of them; the same at every call."""
        u = text_uniforms(np.array(self._seed), self.agents, np.array(self.step))
        written = write_many(self.labels, [self._subject] * len(self.labels), u)
        for i, text in enumerate(
            planted_texts(int(self.planted.sum()), "en", self._seed, self.step)
        ):
            written[i] = text
        return written


@dataclass(frozen=True, slots=True)
class SocietySnapshot:
    """All that a world needs to go on."""

    event: Event
    seed: int
    state: SocietyState


def text_uniforms(seed: ArrayLike, agents: ArrayLike, step: ArrayLike) -> Floats:
    """Keyed uniforms ``(..., N_TEXT_DRAWS)`` that reactions are written from."""
    token = np.arange(_TEXT_TOKEN, _TEXT_TOKEN + N_TEXT_DRAWS)
    parts = np.broadcast_arrays(np.asarray(seed), np.asarray(agents), np.asarray(step))
    return uniform(*(x[..., None] for x in parts), token)


class SocietyDynamics:
    """The synthetic society as the dynamics of one world.

    The first ``warmup`` reactions of an event are as recorded; from there the authors of the
    event's further posts act in batches (and start again when used up). All noise is keyed by
    (seed, agent, step, draw), so a fork sees what its parent sees.
    """

    def __init__(self, *, batch: int = BATCH, warmup: int = WARMUP, surges: bool = True) -> None:
        if batch < 1 or warmup < 0:
            raise MfenvError(f"batch {batch} must be at least 1 and warmup {warmup} at least 0")
        self.batch, self.warmup, self.surges = batch, warmup, surges
        self._event: Event | None = None
        self._seed = 0
        self._worlds: Worlds | None = None
        self._state: SocietyState | None = None

    def reset(self, event: Event, seed: int = 0) -> Floats:
        """Start an event and play its warm-up; returns the warm-up's shares ``(23,)``."""
        self._worlds = worlds_of(
            [event], [seed], warmup=self.warmup, batch=self.batch, surges=self.surges
        )
        self._event, self._seed = event, seed
        self._state = initial_state(self._worlds, [event])
        return shares(np.asarray(event.labels)[1 : 1 + self.warmup])

    def _started(self) -> tuple[Event, Worlds, SocietyState]:
        if self._event is None or self._worlds is None or self._state is None:
            raise MfenvError("the society has no event: call reset(event, seed) first")
        return self._event, self._worlds, self._state

    @property
    def event(self) -> Event:
        """The event that runs."""
        return self._started()[0]

    @property
    def perceived(self) -> Floats:
        """The perceived distribution ``(23,)`` that the next agents respond to."""
        return self._started()[2].perceived[0].copy()

    @property
    def activity(self) -> Floats:
        """The activity ``(6,)`` of interventions during the last step."""
        return self._started()[2].activity[0].copy()

    def step(self, intervention: Intervention = NONE) -> SocietyRecord:
        """Let the next batch act under an intervention."""
        event, worlds, state = self._started()
        number = int(state.step[0])
        self._state, r = society_step(worlds, state, [encode_action(intervention)])
        return SocietyRecord(
            step=number,
            agents=r.agents[0],
            labels=r.labels[0],
            planted=r.planted[0],
            weights=r.weights[0],
            distribution=r.distribution[0],
            perceived=r.perceived[0],
            activity=r.activity[0],
            surge=float(r.surge[0]),
            notices=notice_texts(r.activity[0], event.domain, "en", intervention.message),
            _subject=str(event.meta["subject"]),
            _seed=self._seed,
        )

    def snapshot(self) -> SocietySnapshot:
        """What :meth:`restore` needs to come back to this point."""
        event, _, state = self._started()
        return SocietySnapshot(event, self._seed, state)

    def restore(self, snapshot: SocietySnapshot) -> None:
        """Go on from a snapshot (of this or of another object with the same settings)."""
        self._event, self._seed, self._state = snapshot.event, snapshot.seed, snapshot.state
        self._worlds = worlds_of(
            [snapshot.event],
            [snapshot.seed],
            warmup=self.warmup,
            batch=self.batch,
            surges=self.surges,
        )

    def fork(self) -> SocietyDynamics:
        """A second world at this point, with the same noise ahead of it."""
        other = SocietyDynamics(batch=self.batch, warmup=self.warmup, surges=self.surges)
        other.restore(self.snapshot())
        return other
