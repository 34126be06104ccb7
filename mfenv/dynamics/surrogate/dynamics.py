"""The surrogate tier as the dynamics of one world."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from mfenv.distributions import shares
from mfenv.dynamics.assemble import build_annotator
from mfenv.dynamics.engine import label_rows
from mfenv.dynamics.mean_field_text import render
from mfenv.dynamics.process import ProcessSettings, batches
from mfenv.dynamics.reach import INITIAL, perceive, perception_rate
from mfenv.dynamics.records import StepRecord
from mfenv.dynamics.surrogate.kernel import Worlds, begin
from mfenv.dynamics.surrogate.model import SurrogateModel
from mfenv.dynamics.surrogate.stepping import OneWorld, one_world, stepper
from mfenv.errors import MfenvError
from mfenv.events.event import DOMAINS, Event
from mfenv.interventions import KINDS, NONE, Intervention, encode_action
from mfenv.labels import N_DIMENSIONS, N_LABELS, Labels
from mfenv.noise import uniform

__all__ = ["BATCH", "HORIZON", "Start", "SurrogateDynamics", "member_numbers", "start_of"]

Floats = NDArray[np.float64]

BATCH = 16
"""People a step in the language-model tier, which the warm-up is played with at most."""

HORIZON = 2**31 - 1
"""Steps of an episode at most: counted people never run out."""

_MEMBER = -4  # of the noise key; a step's own draws have steps from 0
_NOBODY: NDArray[np.bool_] = np.zeros(0, dtype=bool)
_NO_LABELS: Labels = np.zeros((0, N_DIMENSIONS), dtype=np.int8)
_NO_AGENTS: NDArray[np.int64] = np.zeros(0, dtype=np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class Start:
    """Where an event's episodes start: after its recorded warm-up. Equal if it is the same."""

    domain: int
    truth: int  # 1 true, 0 false, -1 not known
    perceived: Floats  # (23,)
    latest: Floats  # (23,) shares of the last recorded batch
    mixture: Floats  # (A,)
    records: tuple[StepRecord, ...]
    labels: Labels  # (m, 8) of the warm-up


class _Same:
    """An event as a key: the same object, since events do not compare."""

    def __init__(self, event: Event) -> None:
        self.event = event

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and other.event is self.event

    def __hash__(self) -> int:
        return id(self.event)


def start_of(event: Event, model: SurrogateModel, *, warmup: int, batch: int) -> Start:
    """Where episodes of an event start; worked out once for an event.

    An event without labels is labelled by the model's annotator.
    """
    return _start(_Same(event), model, warmup, min(batch, BATCH))


@lru_cache(maxsize=4096)
def _start(key: _Same, model: SurrogateModel, warmup: int, batch: int) -> Start:
    event = key.event
    if len(event.posts) <= warmup:
        raise MfenvError(
            f"event {event.event_id!r} has {len(event.posts) - 1} replies; "
            f"the warm-up of {warmup} needs as many"
        )
    texts = event.posts.texts[1 : warmup + 1]
    if event.labels is not None:
        labels = np.asarray(event.labels[1 : warmup + 1], dtype=np.int8)
    elif warmup:
        rows = [(event.topic, text, event.language) for text in texts]
        labels = np.array(label_rows(build_annotator(model.annotator, event), rows), dtype=np.int8)
    else:
        labels = _NO_LABELS
    labels = _sealed(labels.reshape(-1, N_DIMENSIONS))
    perceived, records = INITIAL, []
    settings = ProcessSettings(agents=max(warmup, 1), batch=batch, warmup=warmup)
    for number, (first, stop, _) in enumerate(batches(warmup, settings)):
        part = labels[first:stop]
        rate = perception_rate(first, stop - first, batch)
        perceived = _sealed(perceive(perceived, part, np.ones(stop - first), rate))
        records.append(
            StepRecord(
                step=number,
                warmup=True,
                agents=_sealed(np.arange(first, stop)),
                texts=tuple(texts[first:stop]),
                labels=part,
                planted=_sealed(np.zeros(stop - first, dtype=bool)),
                distribution=_sealed(shares(part)),
                perceived=perceived,
                mean_field="",
                activity=_sealed(np.zeros(len(KINDS))),
                intervention=NONE,
            )
        )
    last = labels[-batch:] if len(labels) >= 2 * batch else labels
    return Start(
        domain=DOMAINS.index(event.domain) if event.domain in DOMAINS else len(DOMAINS),
        truth=-1 if event.truth is None else int(event.truth),
        perceived=perceived,
        latest=_sealed(shares(last)),
        mixture=_sealed(_mixture(event, model)),
        records=tuple(records),
        labels=labels,
    )


def _mixture(event: Event, model: SurrogateModel) -> Floats:
    """Shares of the archetypes: the event's own where it tells them, else the model's."""
    known = event.meta.get("archetypes")
    size = len(model.archetypes)
    if size == 1 or known is None or len(known) < 2:
        return np.array(model.mixture, dtype=float)
    count = np.bincount(np.asarray(known[1:], dtype=np.intp), minlength=size)
    if len(count) > size:
        raise MfenvError(
            f"event {event.event_id!r} has {len(count)} archetypes, "
            f"the surrogate {model.name!r} has {size}: {', '.join(model.archetypes)}"
        )
    return np.asarray(count / count.sum())


def member_numbers(
    model: SurrogateModel, member: int | str | None, seeds: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Member of the ensemble for noise seeds ``(K,)``; -1 is the fit to all data.

    ``"random"`` draws one for each seed. Raises ``MfenvError`` for a number without a member.
    """
    if member is None:
        return np.full(seeds.shape, -1, dtype=np.int64)
    if member == "random":
        n = len(model.members)
        if n == 0:
            raise MfenvError(f"member='random': the surrogate {model.name!r} has no members")
        return np.floor(uniform(seeds, _MEMBER, 0) * n).astype(np.int64)
    if isinstance(member, bool) or not isinstance(member, int | np.integer):
        raise MfenvError(f"member={member!r} is not allowed; allowed: None, a number, 'random'")
    model.member(int(member))
    return np.full(seeds.shape, int(member), dtype=np.int64)


@lru_cache(maxsize=4096)
def _begun(model: SurrogateModel, start: Start, member: int) -> Worlds:
    """The world that episodes of an event begin in, but for its seed; it is never written to."""
    worlds = begin(
        model,
        seed=np.zeros(1, dtype=np.int64),
        member=np.array([member]),
        domain=np.array([start.domain]),
        truth=np.array([start.truth]),
        perceived=start.perceived[None],
        latest=start.latest[None],
        mixture=start.mixture[None],
    )
    for field in fields(worlds):
        getattr(worlds, field.name).setflags(write=False)
    return worlds


class _Counted(StepRecord):
    """A step of counted people: what it came to as one array, the rest as nobody left it."""

    __slots__ = ("_state",)
    _state: Floats  # (52,) distribution, perceived, activity

    warmup = False
    agents, texts, labels, planted = _NO_AGENTS, (), _NO_LABELS, _NOBODY
    mean_field = summary_prompt = ""
    prompt_tokens = completion_tokens = 0
    prompts, opinions, candidates = (), None, None

    def __init__(self, step: int, intervention: Intervention, counted: int, state: Floats) -> None:
        put = object.__setattr__
        put(self, "step", step)
        put(self, "intervention", intervention)
        put(self, "counted", counted)
        put(self, "_state", state)

    @property
    def distribution(self) -> Floats:  # type: ignore[override]
        return self._state[:N_LABELS]

    @property
    def perceived(self) -> Floats:  # type: ignore[override]
        return self._state[N_LABELS : 2 * N_LABELS]

    @property
    def activity(self) -> Floats:  # type: ignore[override]
        return self._state[2 * N_LABELS :]


class SurrogateDynamics:
    """The surrogate as the dynamics of one world.

    Implements :class:`mfenv.dynamics.records.Dynamics`. The warm-up is the event's recorded one;
    from there on people are counted, not listed: records have no texts, labels and agents, and
    ``own`` of them. All noise is keyed by (seed, step, draw), so a fork sees what its parent sees.
    """

    def __init__(
        self,
        model: SurrogateModel,
        *,
        batch: int = BATCH,
        warmup: int = 50,
        member: int | str | None = None,
    ) -> None:
        if batch < 1 or warmup < 0:
            raise MfenvError(
                f"batch {batch} and warmup {warmup} are not allowed; "
                "allowed: batch 1 or more, warmup 0 or more"
            )
        self.model, self.batch, self.warmup, self.member = model, batch, warmup, member
        self.seed = 0
        self._one: OneWorld | None = None
        self._event: Event | None = None
        self._start: Start | None = None
        self._worlds: Worlds | None = None

    def reset(self, event: Event, seed: int = 0) -> list[StepRecord]:
        """Start an event; returns the steps of its recorded warm-up."""
        start = start_of(event, self.model, warmup=self.warmup, batch=self.batch)
        seeds = np.array([seed], dtype=np.int64)
        member = int(member_numbers(self.model, self.member, seeds)[0])
        self._one = None
        self._worlds = replace(_begun(self.model, start, member), seed=seeds)
        self._event, self._start, self.seed = event, start, int(seed)
        return list(start.records)

    def _started(self) -> tuple[Event, Start, Worlds]:
        if self._event is None or self._start is None or self._worlds is None:
            raise MfenvError("the surrogate has no event yet: call reset(event, seed) first")
        return self._event, self._start, self._worlds

    @property
    def event(self) -> Event:
        """The event that is played."""
        return self._started()[0]

    @property
    def start(self) -> Start:
        """Where the event's episodes start."""
        return self._started()[1]

    @property
    def step_index(self) -> int:
        """Index of the next step, warm-up included."""
        _, start, worlds = self._started()
        return len(start.records) + int(worlds.step[0])

    @property
    def horizon(self) -> int:
        """Rollout steps of an episode at most."""
        return HORIZON

    @property
    def mean_field(self) -> str:
        """What is perceived, as text: shares without reactions; "" before anybody acted."""
        if self.step_index == 0:
            return ""
        return render(self.perceived, (), self.event.language)

    @property
    def distribution(self) -> Floats:
        """Label shares ``(23,)`` of the latest batch's own reactions."""
        return _sealed(self._started()[2].latest[0].copy())

    @property
    def perceived(self) -> Floats:
        """Moving average ``(23,)`` of what reached the mean field."""
        return _sealed(self._started()[2].perceived[0].copy())

    @property
    def activity(self) -> Floats:
        """Running interventions ``(6,)`` during the latest step."""
        return _sealed(self._started()[2].activity[0].copy())

    @property
    def not_identified(self) -> tuple[str, ...]:
        """Names of the kinds whose response nothing is known of: they have no effect."""
        return self.model.not_identified

    def step(self, intervention: Intervention = NONE) -> StepRecord:
        """Let the next batch act under an intervention."""
        _, start, worlds = self._started()
        one = self._one
        if one is None:
            play = stepper(self.model)
            one = self._one = one_world(play, worlds, batch=self.batch, warmup=self.warmup)
            self._worlds = worlds = one.worlds
        number = len(start.records) + worlds.step.item()
        own = one.step(encode_action(intervention))
        state = one.state.copy()
        state.setflags(write=False)
        return _Counted(number, intervention, own, state)

    def snapshot(self) -> dict[str, Any]:
        """What :meth:`restore` needs to come back to this point of the same event."""
        event, _, worlds = self._started()
        return {
            "event_id": event.event_id,
            "seed": self.seed,
            "step": int(worlds.step[0]),
            "member": int(worlds.member[0]),
            "offset": worlds.offset[0].copy(),
            "perceived": worlds.perceived[0].copy(),
            "distribution": worlds.latest[0].copy(),
            "activity": worlds.activity[0].copy(),
        }

    def restore(self, snapshot: dict[str, Any]) -> None:
        """Go back to a snapshot of the event that is played."""
        event, _, worlds = self._started()
        if snapshot["event_id"] != event.event_id:
            raise MfenvError(
                f"the snapshot is of event {snapshot['event_id']!r}, not of {event.event_id!r}"
            )
        self.seed = int(snapshot["seed"])
        self._one = None
        self._worlds = replace(
            worlds,
            seed=np.array([self.seed], dtype=np.int64),
            member=np.array([snapshot["member"]], dtype=np.int64),
            offset=np.array(snapshot["offset"], dtype=float)[None],
            step=np.array([snapshot["step"]], dtype=np.int64),
            perceived=np.array(snapshot["perceived"], dtype=float)[None],
            latest=np.array(snapshot["distribution"], dtype=float)[None],
            activity=np.array(snapshot["activity"], dtype=float)[None],
        )

    def fork(self) -> Self:
        """An independent world at this point, with the same noise ahead of it."""
        twin = type(self)(self.model, batch=self.batch, warmup=self.warmup, member=self.member)
        twin._event, twin._start, twin.seed = self._event, self._start, self.seed
        twin._worlds = None if self._worlds is None else self._worlds.copy()
        return twin


def _sealed(array: NDArray[Any]) -> NDArray[Any]:
    array.setflags(write=False)
    return array


def rows_of(starts: Sequence[Start]) -> dict[str, NDArray[Any]]:
    """The arrays of several starts, for :func:`mfenv.dynamics.surrogate.kernel.begin`."""
    return {
        "domain": np.array([s.domain for s in starts]),
        "truth": np.array([s.truth for s in starts]),
        "perceived": np.stack([s.perceived for s in starts]),
        "latest": np.stack([s.latest for s in starts]),
        "mixture": np.stack([s.mixture for s in starts]),
    }
