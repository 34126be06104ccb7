"""The mean-field process: language models act, and their summary is what the next agents read.

A step has three phases (act, label, summarise), in which :mod:`mfenv.dynamics.engine` asks the
models. It commits when the last phase is done, so a call that fails leaves every process where it
was.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from mfenv.distributions import UNIFORM, counts, normalise, shares
from mfenv.dynamics.calibration import Calibration, Evidence, candidate_uniforms, choose
from mfenv.dynamics.engine import label_rows, play
from mfenv.dynamics.models import (
    ActionRequest,
    ActionResult,
    Annotator,
    MeanFieldModel,
    PolicyModel,
    Reaction,
    SummaryRequest,
    SummaryResult,
)
from mfenv.dynamics.notices import notice_texts, planted_texts
from mfenv.dynamics.opinions import (
    NEW,
    OpinionModel,
    opinion_uniforms,
    opinions_of,
    with_opinions,
)
from mfenv.dynamics.reach import (
    INITIAL,
    PLANTED,
    keyed_uniforms,
    perceive,
    perception_rate,
    planted_count,
    reach_weights,
)
from mfenv.dynamics.records import StepRecord
from mfenv.errors import MfenvError
from mfenv.events.event import Event
from mfenv.interventions import KINDS, NONE, Intervention, Kind, next_activity
from mfenv.labels import N_DIMENSIONS, Labels, decode_code, encode_code
from mfenv.noise import NoiseKey, candidate_key
from mfenv.states import opinion_text, state_text

__all__ = [
    "HISTORY",
    "MeanFieldProcess",
    "ProcessSettings",
    "advance",
    "batches",
    "real_rollout",
    "replay",
    "warm_up",
]

Floats = NDArray[np.float64]
_Q = TypeVar("_Q")
_A = TypeVar("_A")

HISTORY = 30
"""Reactions before the latest batch that a mean-field model is shown at most."""

SUMMARISER = -1
"""Agent index of the mean-field model in noise keys."""

_QUIET: Floats = np.zeros(len(KINDS))
_QUIET.setflags(write=False)


@dataclass(frozen=True, slots=True)
class ProcessSettings:
    """How many agents of an event act, how many at once, and how many with their real posts."""

    agents: int = 300  # at most, warm-up included
    batch: int = 16
    warmup: int = 50

    def __post_init__(self) -> None:
        for name, least in (("agents", 1), ("batch", 1), ("warmup", 0)):
            value = getattr(self, name)
            if value < least:
                raise ValueError(f"{name} {value!r} is not allowed; allowed: {least} or more")


def batches(n_agents: int, settings: ProcessSettings) -> list[tuple[int, int, bool]]:
    """The plan of an event with ``n_agents`` repliers: ``(start, stop, warm-up?)`` of each step.

    The last batch of the warm-up and the last batch of all may be smaller than the others.
    """
    total = min(n_agents, settings.agents)
    warmup = min(settings.warmup, total)
    plan = [(i, min(i + settings.batch, warmup), True) for i in range(0, warmup, settings.batch)]
    plan += [
        (i, min(i + settings.batch, total), False) for i in range(warmup, total, settings.batch)
    ]
    return plan


@dataclass(frozen=True, slots=True)
class _State:
    """Everything of a process that a step changes."""

    step: int
    mean_field: str
    distribution: Floats
    perceived: Floats
    activity: Floats
    message: str | None  # wording of the running statement
    history: tuple[tuple[Reaction, int], ...]  # with the post index of real ones, else -1
    opinions: NDArray[np.int8] | None = None  # (people,) where they are kept
    evidence: Evidence | None = None  # where reactions are calibrated


_START = _State(0, "", UNIFORM, INITIAL, _QUIET, None, ())


class MeanFieldProcess:
    """The language-model tier: a population played by a policy and a mean-field model.

    Agent ``k`` is the author of ``event.posts[k + 1]`` and acts once; the first ``warmup`` agents
    act with their real texts. Implements :class:`mfenv.dynamics.records.Dynamics`. Step many
    processes together with :func:`warm_up` and :func:`advance`.

    With ``opinions`` every person (``event.posts.authors``) keeps an opinion over the whole run,
    see :mod:`mfenv.dynamics.opinions`; agents who are the same person share it.

    With ``calibration`` the policy model is asked several times for every agent, in the warm-up
    too, and one of the reactions is chosen, see :mod:`mfenv.dynamics.calibration`.
    """

    def __init__(
        self,
        policy: PolicyModel,
        mean_field_model: MeanFieldModel,
        annotator: Annotator,
        settings: ProcessSettings | None = None,
        opinions: OpinionModel | None = None,
        calibration: Calibration | None = None,
    ) -> None:
        self.policy = policy
        self.mean_field_model = mean_field_model
        self.annotator = annotator
        self.settings = settings or ProcessSettings()
        self.opinion_model = opinions
        self.calibration = calibration
        self.seed = 0
        self._event: Event | None = None
        self._content = ""  # fingerprint of the event
        self._plan: list[tuple[int, int, bool]] = []
        self._state = _START

    # -- where the process stands ----------------------------------------------------------

    @property
    def event(self) -> Event:
        """The event that is played; an error before :meth:`reset` or :meth:`begin`."""
        if self._event is None:
            raise MfenvError("the process has no event yet: call reset(event, seed) first")
        return self._event

    @property
    def step_index(self) -> int:
        """Index of the next step, warm-up included."""
        return self._state.step

    @property
    def warmup_steps(self) -> int:
        """Steps of the warm-up."""
        return sum(warmup for _, _, warmup in self._plan)

    @property
    def horizon(self) -> int:
        """Rollout steps of the event in all, warm-up excluded."""
        return len(self._plan) - self.warmup_steps

    @property
    def total_steps(self) -> int:
        """Steps of the event in all: warm-up and rollout."""
        return len(self._plan)

    @property
    def in_warmup(self) -> bool:
        """Whether the next step is one of the warm-up."""
        return not self.done and self._plan[self._state.step][2]

    @property
    def done(self) -> bool:
        """Whether every agent has acted."""
        return self._state.step >= len(self._plan)

    @property
    def mean_field(self) -> str:
        """The mean field that the next agents read."""
        return self._state.mean_field

    @property
    def distribution(self) -> Floats:
        """Label shares ``(23,)`` of the latest step; uniform before the first."""
        return self._state.distribution

    @property
    def perceived(self) -> Floats:
        """Moving average ``(23,)`` of what reached the mean field."""
        return self._state.perceived

    @property
    def activity(self) -> Floats:
        """Running interventions ``(6,)`` during the latest step."""
        return self._state.activity

    @property
    def opinions(self) -> NDArray[np.int8] | None:
        """Everybody's opinion ``(people,)``, -1 before they act; ``None`` where none is kept."""
        return self._state.opinions

    @property
    def next_agents(self) -> NDArray[np.int64]:
        """Indices ``(n,)`` of the agents of the next step; empty at the end."""
        if self.done:
            return np.arange(0)
        start, stop, _ = self._plan[self._state.step]
        return np.arange(start, stop)

    def states(self, agents: Sequence[int] | NDArray[np.int64]) -> list[str]:
        """State texts of agents."""
        profiles, language = self.event.posts.profiles, self.event.language
        if profiles is None:
            return [state_text(None, language)] * len(agents)
        return [state_text(profiles[int(k) + 1], language) for k in agents]

    def requests(self, intervention: Intervention = NONE) -> tuple[ActionRequest, ...]:
        """What the agents of the next step would be asked, one request each."""
        return _Step(self, intervention, None).all_requests

    def identity(self) -> dict[str, Any]:
        """What the process plays, JSON-able: a journal is only continued by the same."""
        result = {
            "event": self.event.event_id,
            "event_content": self._content,
            "seed": self.seed,
            **asdict(self.settings),
        }
        if self.opinion_model is not None:
            authors = np.asarray(self.event.posts.authors[: self._plan[-1][1] + 1], dtype="<i4")
            people = hashlib.sha256(authors.tobytes()).hexdigest()[:16]
            result["opinions"] = {"model": self.opinion_model.revision, "people": people}
        if self.calibration is not None:
            result["calibration"] = asdict(self.calibration)
        return result

    # -- moving it -------------------------------------------------------------------------

    def begin(self, event: Event, seed: int) -> None:
        """Go to the start of an event, before its warm-up."""
        plan = batches(len(event.posts) - 1, self.settings)
        if not plan:
            raise MfenvError(f"event {event.event_id!r} has no replies: nobody can act")
        self._event, self.seed = event, int(seed)
        self._content = _fingerprint(event, self.settings)
        self._plan = plan
        evidence = None if self.calibration is None else Evidence.nothing()
        self._state = replace(_START, evidence=evidence)
        if self.opinion_model is not None:
            people = int(np.max(event.posts.authors[: plan[-1][1] + 1])) + 1
            nobody = _read_only(np.full(people, NEW, dtype=np.int8))
            self._state = replace(self._state, opinions=nobody)

    def reset(self, event: Event, seed: int) -> list[StepRecord]:
        """Start an event and play its warm-up from the real posts; returns those steps."""
        before = (self._event, self.seed, self._content, self._plan, self._state)
        self.begin(event, seed)
        try:
            return warm_up([self])[0]
        except BaseException:
            self._event, self.seed, self._content, self._plan, self._state = before
            raise

    def step(self, intervention: Intervention = NONE) -> StepRecord:
        """Advance by one batch. Raises ``ModelError``, changing nothing, if a model fails."""
        return advance([self], [intervention])[0]

    def fork(self) -> Self:
        """An independent copy that shares the models and sees the same noise from here on."""
        copy = type(self)(
            self.policy,
            self.mean_field_model,
            self.annotator,
            self.settings,
            self.opinion_model,
            self.calibration,
        )
        # States are immutable, so both may hold the same one.
        copy._event, copy.seed, copy._content = self._event, self.seed, self._content
        copy._plan, copy._state = self._plan, self._state
        return copy

    def snapshot(self) -> dict[str, Any]:
        """The state, JSON-able apart from its arrays."""
        state = self._state
        kept: dict[str, Any] = {}
        if state.opinions is not None:
            kept["everybody"] = state.opinions.copy()
        if state.evidence is not None:
            seen = state.evidence
            kept["evidence"] = np.stack([seen.real, seen.simulated, seen.own])
            kept["disturbed"] = seen.disturbed
        return {
            **self.identity(),
            **kept,
            "step": state.step,
            "mean_field": state.mean_field,
            "distribution": state.distribution.copy(),
            "perceived": state.perceived.copy(),
            "activity": state.activity.copy(),
            "message": state.message,
            "history": [
                {
                    "text": r.text,
                    "state": r.state,
                    "labels": decode_code(r.labels),
                    "weight": r.weight,
                    "popularity": r.popularity,
                    "post": post,
                }
                for r, post in state.history
            ],
        }

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Go back to a snapshot of the same event with the same settings, its seed included."""
        for name, mine in self.identity().items():
            if name != "seed" and snapshot.get(name) != mine:
                raise MfenvError(
                    f"the snapshot was taken with {name} {snapshot.get(name)!r}, not {mine!r}"
                )
        if self.opinion_model is None and "opinions" in snapshot:
            raise MfenvError("the snapshot was taken with opinions, this process keeps none")
        if self.calibration is None and "calibration" in snapshot:
            raise MfenvError("the snapshot was taken with a calibration, this process has none")
        self.seed = int(snapshot["seed"])
        self._state = _State(
            step=int(snapshot["step"]),
            mean_field=snapshot["mean_field"],
            distribution=_frozen(snapshot["distribution"]),
            perceived=_frozen(snapshot["perceived"]),
            activity=_frozen(snapshot["activity"]),
            message=snapshot["message"],
            history=tuple(
                (
                    Reaction(
                        text=h["text"],
                        state=h["state"],
                        labels=_read_only(encode_code(h["labels"])),
                        weight=h["weight"],
                        popularity=h["popularity"],
                    ),
                    h["post"],
                )
                for h in snapshot["history"]
            ),
            opinions=None
            if self.opinion_model is None
            else _read_only(np.array(snapshot["everybody"], dtype=np.int8)),
            evidence=None if self.calibration is None else _evidence(snapshot),
        )


class _Step:
    """One step of one process in flight: what it asks in each phase, and what came back.

    ``given`` are actions that come from outside the policy model, one for each agent. ``taken`` is
    the record of the step where it is replayed: its reactions are chosen already.
    """

    def __init__(
        self,
        process: MeanFieldProcess,
        intervention: Intervention,
        given: Sequence[str] | None,
        taken: StepRecord | None = None,
    ) -> None:
        event, before = process.event, process._state
        if process.done:
            raise MfenvError(
                f"event {event.event_id!r} is over: its {process.horizon} rollout steps are taken"
            )
        start, stop, warmup = process._plan[before.step]
        _check_intervention(intervention, warmup)
        self.process, self.event, self.before = process, event, before
        self.policy, self.annotator = process.policy, process.annotator
        self.mean_field_model = process.mean_field_model
        self.intervention, self.warmup = intervention, warmup
        self.index, self.seed = before.step, process.seed
        self.agents = np.arange(start, stop)
        self.n = stop - start
        self.states = process.states(self.agents)
        self.everybody = before.opinions
        self.opinions: NDArray[np.int8] | None = None
        if process.opinion_model is not None and before.opinions is not None:
            self.people = np.asarray(event.posts.authors)[self.agents + 1]
            u = opinion_uniforms(self.seed, self.agents, self.index)
            moved = process.opinion_model.move(before.opinions[self.people], before.perceived, u)
            self.opinions = _read_only(moved)
        self.activity = _read_only(next_activity(before.activity, intervention))
        self.message = before.message if self.activity[Kind.STATEMENT] > 0 else None
        if intervention.kind is Kind.STATEMENT:
            self.message = intervention.message
        k = int(planted_count(self.activity, self.n))
        self.planted = np.arange(self.n) < k
        self.planted_texts = _planted(intervention, event.language, self.seed, self.index, k)
        self.texts: list[str] = [""] * self.n
        self.prompts = [""] * self.n
        self.prompt_tokens = self.completion_tokens = 0
        self.labels = np.zeros((self.n, N_DIMENSIONS), dtype=np.int8)
        self.summary_prompt = ""
        self.mean_field = before.mean_field
        self.distribution, self.perceived = before.distribution, before.perceived
        self.history = before.history
        self.summary: SummaryRequest | None = None
        self.evidence = before.evidence
        if self.evidence is not None and self.activity.any():
            self.evidence = replace(self.evidence, disturbed=True)
        self.calibration = process.calibration if given is None and taken is None else None
        self.candidates: list[ActionResult] = []  # of the agents in order, M each
        self.candidate_counts = None if taken is None else taken.candidates
        if warmup:
            given = [event.posts.texts[int(k) + 1] for k in self.agents]
        if given is not None and len(given) != self.n:
            raise ValueError(f"{len(given)} actions given, {self.n} agents act in this step")
        self.given = given

    # Phase 1: act.

    @property
    def all_requests(self) -> tuple[ActionRequest, ...]:
        """One request for every agent of the step, planted or not."""
        notices = notice_texts(
            self.activity, self.event.domain, self.event.language, message=self.message
        )
        opinions = [""] * self.n
        if self.opinions is not None:
            opinions = [opinion_text(int(o), self.event.language) for o in self.opinions]
        return tuple(
            ActionRequest(
                topic=self.event.topic,
                language=self.event.language,
                mean_field=self.before.mean_field,
                notices=notices,
                state=state,
                key=NoiseKey(self.seed, int(agent), self.index),
                opinion=opinion,
            )
            for state, agent, opinion in zip(self.states, self.agents, opinions, strict=True)
        )

    def action_requests(self) -> list[ActionRequest]:
        """Requests of the agents that act by the policy model."""
        if self.given is not None and self.calibration is None:
            return []
        asked = 1 if self.calibration is None else self.calibration.candidates
        return [
            replace(r, key=candidate_key(r.key, j))
            for r, p in zip(self.all_requests, self.planted, strict=True)
            if not p
            for j in range(asked)
        ]

    def take_actions(self, results: Sequence[ActionResult]) -> None:
        """Take the policy model's answers to :meth:`action_requests`."""
        if self.calibration is not None:
            self.candidates = list(results)
            results = results[:: self.calibration.candidates]
        for result in self.candidates or results:
            self.prompt_tokens += int(result.prompt_tokens)
            self.completion_tokens += int(result.completion_tokens)
        if self.given is not None:
            self.texts = list(self.given)
        else:
            for i, result in zip(np.flatnonzero(~self.planted), results, strict=True):
                self.texts[i], self.prompts[i] = result.text, result.prompt
        self.texts[: len(self.planted_texts)] = self.planted_texts

    # Phase 2: label.

    def label_requests(self) -> list[tuple[str, str, str]]:
        """Topic, text and language of the reactions whose labels are not known."""
        texts = [self.texts[i] for i in self._unlabelled()]
        texts += [candidate.text for candidate in self.candidates]
        return [(self.event.topic, text, self.event.language) for text in texts]

    def _unlabelled(self) -> NDArray[np.intp]:
        if self.warmup and self.event.labels is not None:
            return np.arange(0)
        # The default planted texts have their labels by construction; a person's wording has not.
        known = self.planted & (self.intervention.message is None)
        return np.flatnonzero(~known)

    def take_labels(self, labels: Labels) -> None:
        """Take the annotator's answers; works out the distribution and what is perceived."""
        if self.warmup and self.event.labels is not None:
            self.labels = np.array(self.event.labels[self.agents + 1], dtype=np.int8)
        else:
            self.labels[self.planted] = PLANTED
            self.labels[self._unlabelled()] = labels[: len(self._unlabelled())]
        if self.candidates:
            self._choose(labels[-len(self.candidates) :])
        self.labels = _read_only(self.labels)
        own = self.labels[~self.planted]
        if len(own):
            self.distribution = _read_only(shares(own))
        u = keyed_uniforms(self.seed, self.agents, self.index)
        weights = reach_weights(self.labels, self.activity, u)
        rate = perception_rate(int(self.agents[0]), self.n, self.process.settings.batch)
        if self.evidence is not None and self.candidate_counts is not None:
            real = counts(self.labels) if self.warmup else None
            self.evidence = self.evidence.saw(self.candidate_counts, real, rate)
        perceived = perceive(self.before.perceived, self.labels, weights, rate=rate)
        if self.opinions is not None:
            perceived = self._think(self.opinions, perceived, weights, rate)
        self.perceived = _read_only(perceived)
        self._show(weights)

    def _choose(self, labels: Labels) -> None:
        """Count the candidates, whose labels these are, and let one of each agent's happen."""
        assert self.calibration is not None
        assert self.evidence is not None
        self.candidate_counts = _read_only(counts(labels).astype(np.int64))
        if self.given is not None:
            return
        m, own = self.calibration.candidates, np.flatnonzero(~self.planted)
        before = int(self.agents[0]) - self.process.settings.warmup
        target = self.calibration.target(self.evidence, normalise(self.candidate_counts), before)
        u = candidate_uniforms(self.seed, self.agents[own], self.index, self.calibration.draws)
        offered = labels.reshape(len(own), m, N_DIMENSIONS)
        for k, (i, j) in enumerate(zip(own, choose(offered, target, u), strict=True)):
            chosen, self.labels[i] = self.candidates[k * m + j], offered[k, j]
            self.texts[i], self.prompts[i] = chosen.text, chosen.prompt

    def _think(
        self, drawn: NDArray[np.int8], perceived: Floats, weights: Floats, rate: float
    ) -> Floats:
        """Keep the opinions of who acted; returns what is perceived with them."""
        model = self.process.opinion_model
        assert model is not None
        assert self.everybody is not None
        # What comes from outside is what its author thinks; a planted reaction says nothing of it.
        shown = opinions_of(self.labels)
        kept = drawn if self.given is None else np.where(self.planted, drawn, shown)
        self.opinions = _read_only(kept)
        everybody = self.everybody.copy()
        everybody[self.people] = kept  # of two turns of one person in a step the later one counts
        self.everybody = _read_only(everybody)
        labels = with_opinions(self.labels, np.where(self.planted, shown, kept))
        thought = perceive(self.before.perceived, labels, weights, rate=rate)
        return (1.0 - model.coupling) * perceived + model.coupling * thought

    def _show(self, weights: Floats) -> None:
        """Work out the reactions that the mean-field model is shown."""
        posts, history = self.agents + 1, self.before.history
        popularity = np.zeros(self.n)
        if self.warmup:
            counted = _popularity(self.event, seen=int(posts[-1]))
            popularity = counted[posts]
            history = tuple(
                (r if post < 0 else replace(r, popularity=float(counted[post])), post)
                for r, post in history
            )
        shown = tuple(
            Reaction(
                text=self.texts[i],
                state=self.states[i],
                labels=self.labels[i],
                weight=float(weights[i]),
                popularity=float(popularity[i]),
            )
            for i in np.flatnonzero(weights > 0)
        )
        reached = posts[weights > 0] if self.warmup else np.full(len(shown), -1)
        latest = tuple(zip(shown, (int(x) for x in reached), strict=True))
        self.history = (*history, *latest)[-HISTORY:]
        # Where friction kept everything back there is nothing to summarise: m stays as it is.
        if shown:
            self.summary = SummaryRequest(
                topic=self.event.topic,
                language=self.event.language,
                mean_field=self.before.mean_field,
                reactions=shown,
                history=tuple(r for r, _ in history),
                perceived=self.perceived,
                key=NoiseKey(self.seed, SUMMARISER, self.index),
            )

    # Phase 3: summarise.

    def summary_requests(self) -> list[SummaryRequest]:
        """One request, or none where nothing reached the mean field."""
        return [] if self.summary is None else [self.summary]

    def take_summary(self, result: SummaryResult) -> None:
        """Take the mean-field model's answer to :attr:`summary`."""
        self.mean_field, self.summary_prompt = result.text, result.prompt
        self.prompt_tokens += int(result.prompt_tokens)
        self.completion_tokens += int(result.completion_tokens)

    def commit(self) -> StepRecord:
        """Move the process to the state after this step."""
        self.process._state = _State(
            step=self.index + 1,
            mean_field=self.mean_field,
            distribution=self.distribution,
            perceived=self.perceived,
            activity=self.activity,
            message=self.message,
            history=self.history,
            opinions=self.everybody,
            evidence=self.evidence,
        )
        return StepRecord(
            step=self.index,
            warmup=self.warmup,
            agents=_read_only(self.agents),
            texts=tuple(self.texts),
            labels=self.labels,
            planted=_read_only(self.planted),
            distribution=self.distribution,
            perceived=self.perceived,
            mean_field=self.mean_field,
            activity=self.activity,
            intervention=self.intervention,
            prompt_tokens=self.prompt_tokens,
            completion_tokens=self.completion_tokens,
            prompts=tuple(self.prompts),
            summary_prompt=self.summary_prompt,
            opinions=self.opinions,
            candidates=self.candidate_counts,
        )


# -- moving many --------------------------------------------------------------------------


def advance(
    processes: Sequence[MeanFieldProcess],
    interventions: Sequence[Intervention] | None = None,
    actions: Sequence[Sequence[str] | None] | None = None,
    timings: dict[str, float] | None = None,
) -> list[StepRecord]:
    """Move every process by one step, in lockstep, with one call a phase to each shared model.

    ``interventions`` has one entry a process (default: none). ``actions`` gives, where not
    ``None``, the texts of a process's agents from outside instead of from its policy model.
    Seconds of each phase are added to ``timings``. If any call fails, ``ModelError`` is raised and
    no process has moved.
    """
    interventions = [NONE] * len(processes) if interventions is None else interventions
    actions = [None] * len(processes) if actions is None else actions
    if not len(processes) == len(interventions) == len(actions):
        raise ValueError(
            f"{len(processes)} processes, {len(interventions)} interventions and "
            f"{len(actions)} lists of actions do not fit together"
        )
    if len({id(p) for p in processes}) != len(processes):
        raise ValueError("a process is given twice; fork() it to step it twice")
    steps = [_Step(p, u, a) for p, u, a in zip(processes, interventions, actions, strict=True)]
    play(steps, timings)
    return [s.commit() for s in steps]


def warm_up(processes: Sequence[MeanFieldProcess]) -> list[list[StepRecord]]:
    """Play what is left of every process's warm-up, in lockstep; returns each one's steps."""
    records: list[list[StepRecord]] = [[] for _ in processes]
    while True:
        left = [i for i, p in enumerate(processes) if p.in_warmup]
        if not left:
            return records
        for i, record in zip(left, advance([processes[i] for i in left]), strict=True):
            records[i].append(record)


def replay(process: MeanFieldProcess, record: StepRecord) -> StepRecord:
    """Take a recorded step again, with the record's answers in place of the models'.

    Everything else is worked out anew, so the returned record equals ``record`` where that one
    was written by this process with these settings. The caller compares.
    """
    step = _Step(process, record.intervention, None, record)
    if len(record.texts) != step.n:
        raise MfenvError(f"step {record.step} has {len(record.texts)} agents, expected {step.n}")
    own = np.flatnonzero(~step.planted)
    prompts = record.prompts or [""] * step.n
    step.take_actions([ActionResult(record.texts[int(i)], prompts[int(i)]) for i in own])
    step.take_labels(record.labels[step._unlabelled()])
    if step.summary is not None:
        step.take_summary(SummaryResult(record.mean_field, record.summary_prompt))
    return replace(
        step.commit(),
        prompt_tokens=record.prompt_tokens,
        completion_tokens=record.completion_tokens,
    )


def real_rollout(
    event: Event, annotator: Annotator, settings: ProcessSettings | None = None
) -> list[StepRecord]:
    """What the real people did, in the batches of the process: the steps to compare with.

    The mean field is empty; labels are the event's own where known, else the annotator's.
    """
    settings = settings or ProcessSettings()
    plan = batches(len(event.posts) - 1, settings)
    total = plan[-1][1] if plan else 0
    texts = list(event.posts.texts[1 : total + 1])
    if event.labels is not None:
        labels = np.asarray(event.labels[1 : total + 1], dtype=np.int8)
    else:
        rows = [(event.topic, text, event.language) for text in texts]
        labels = np.array(label_rows(annotator, rows), dtype=np.int8).reshape(-1, N_DIMENSIONS)
    records, perceived = [], INITIAL
    for t, (start, stop, warmup) in enumerate(plan):
        n, batch = stop - start, _read_only(labels[start:stop])
        rate = perception_rate(start, n, settings.batch)
        perceived = _read_only(perceive(perceived, batch, np.ones(n), rate=rate))
        records.append(
            StepRecord(
                step=t,
                warmup=warmup,
                agents=_read_only(np.arange(start, stop)),
                texts=tuple(texts[start:stop]),
                labels=batch,
                planted=_read_only(np.zeros(n, dtype=bool)),
                distribution=_read_only(shares(batch)),
                perceived=perceived,
                mean_field="",
                activity=_QUIET,
                intervention=NONE,
            )
        )
    return records


# -- small things --------------------------------------------------------------------------


def _check_intervention(intervention: Intervention, warmup: bool) -> None:
    if warmup and intervention.kind is not None:
        raise ValueError("the warm-up replays real posts: no intervention is allowed in it")
    worded = (None, Kind.STATEMENT, Kind.SEED)
    if intervention.message is not None and intervention.kind not in worded:
        raise ValueError(
            f"an intervention {KINDS[intervention.kind]!r} takes no message; "
            f"allowed: {', '.join(KINDS[k] for k in worded if k is not None)}"
        )


def _planted(
    intervention: Intervention, language: str, seed: int, step: int, count: int
) -> tuple[str, ...]:
    if intervention.kind is Kind.SEED and intervention.message is not None:
        return (intervention.message,) * count
    return planted_texts(count, language, seed, step)


def _popularity(event: Event, seen: int) -> Floats:
    """Popularity ``(n_posts,)`` of posts: replies among the posts up to ``seen``, and likes."""
    parents = np.asarray(event.posts.parents[: seen + 1])
    counts = np.bincount(parents[parents >= 0], minlength=len(event.posts)).astype(float)
    if event.posts.profiles is not None:
        for i, profile in enumerate(event.posts.profiles[: seen + 1]):
            if profile is not None and profile.likes is not None:
                counts[i] += profile.likes
    return counts


def _fingerprint(event: Event, settings: ProcessSettings) -> str:
    """A hash of all that the process reads of an event."""
    n = min(len(event.posts), settings.agents + 1)
    digest = hashlib.sha256()
    for part in (event.topic, event.language, str(event.domain), *event.posts.texts[:n]):
        data = part.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little") + data)
    digest.update(np.asarray(event.posts.parents[:n], dtype="<i4").tobytes())
    if event.labels is not None:
        digest.update(np.asarray(event.labels[:n], dtype=np.int8).tobytes())
    if event.posts.profiles is not None:
        digest.update(repr(list(event.posts.profiles[:n])).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()[:16]


def _evidence(snapshot: Mapping[str, Any]) -> Evidence:
    real, simulated, own = _frozen(snapshot["evidence"])
    return Evidence(real, simulated, own, bool(snapshot["disturbed"]))


def _read_only(array: NDArray[Any]) -> NDArray[Any]:
    """The same array, sealed: states and records are shared between forks."""
    array.setflags(write=False)
    return array


def _frozen(array: Any) -> Floats:
    return _read_only(np.array(array, dtype=float))
