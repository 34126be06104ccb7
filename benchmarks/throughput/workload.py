"""What playing populations asks of a language model: prompts and answers of each phase, in tokens.

Two sources give the same :class:`Workload`: :func:`counted` takes the calls of a played model that
a :class:`Recorder` has kept; :func:`playback` needs no model: real reactions (or the synthetic
society's) are put in the place of written ones and counted mean fields in the place of summaries,
so that the prompts are the project's own. Tokens are a tokenizer's, or estimated from characters.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.light_mean_field import CountedMeanField
from agents.prompts import PromptFormat
from mfenv.dynamics.assemble import AUTO, build_annotator
from mfenv.dynamics.models import (
    ActionRequest,
    ActionResult,
    SummaryRequest,
    SummaryResult,
)
from mfenv.dynamics.process import MeanFieldProcess, ProcessSettings, advance, warm_up
from mfenv.errors import MfenvError
from mfenv.events.event import Event

__all__ = [
    "BLOCK",
    "Call",
    "Encode",
    "Phase",
    "Recorder",
    "Workload",
    "acting_prompts",
    "by_characters",
    "counted",
    "expected_longest",
    "playback",
    "prefix_hits",
]

Ints = NDArray[np.int64]
Encode = Callable[[str], Sequence[Hashable]]
"""A prompt's tokens, or what stands for them."""

BLOCK = 16
"""Tokens of a block, the unit in which vLLM and SGLang's paged caches keep what they have read."""


# -- what was asked --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Call:
    """Prompts, the other arguments of a call, which say how to sample, and its answers."""

    prompts: Sequence[str]
    keys: Sequence[Any]
    sampling: Any
    limits: Mapping[str, Any]  # tokens that may not be written, a grammar
    answers: Sequence[Any] = ()

    @property
    def acts(self) -> bool:
        """Whether it asks for actions: with tokens that no action may contain."""
        return "never" in self.limits


@dataclass
class Recorder:
    """A backbone that hands on every call and keeps what was asked and answered."""

    inner: Any
    calls: list[Call] = field(default_factory=list)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def generate(
        self, prompts: Sequence[str], keys: Sequence[Any], sampling: Any, **limits: Any
    ) -> Any:
        """Generate, and keep the call."""
        answers = self.inner.generate(prompts, keys, sampling, **limits)
        self.calls.append(Call(prompts, keys, sampling, limits, answers))
        return answers

    __hash__ = object.__hash__


# -- in tokens -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Phase:
    """The requests of one phase, in the order of their asking."""

    prompt: Ints
    """``(requests,)`` tokens of the prompts."""
    known: Ints
    """``(requests,)`` of these, those in whole blocks that an earlier prompt begins with."""
    written: Ints
    """``(requests,)`` tokens of the answers."""

    @property
    def hit_rate(self) -> float:
        """Share of the prompt tokens that a prefix cache has, if it forgets nothing."""
        return float(self.known.sum() / max(1, self.prompt.sum()))

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt with the longest answer."""
        return int(self.prompt.max(initial=0) + self.written.max(initial=0))


@dataclass(frozen=True, slots=True)
class Workload:
    """What some steps of some worlds ask: actions, and one summary a step."""

    act: Phase
    summary: Phase
    batch: int

    @property
    def prompt_tokens(self) -> float:
        """Prompt tokens a decision, the summaries' included."""
        return float((self.act.prompt.sum() + self.summary.prompt.sum()) / len(self.act.prompt))

    @property
    def written_tokens(self) -> float:
        """Written tokens a decision, the summaries' included."""
        return float((self.act.written.sum() + self.summary.written.sum()) / len(self.act.prompt))

    @property
    def hit_rate(self) -> float:
        """Share of all prompt tokens that a prefix cache has."""
        known = self.act.known.sum() + self.summary.known.sum()
        return float(known / max(1, self.act.prompt.sum() + self.summary.prompt.sum()))

    @property
    def summaries_share(self) -> float:
        """Share of the written tokens that are summaries: what the mean field costs in decoding."""
        written = self.summary.written.sum()
        return float(written / max(1, written + self.act.written.sum()))


def prefix_hits(prompts: Sequence[Sequence[Hashable]], block: int = BLOCK) -> Ints:
    """``(n,)`` tokens of each prompt in whole blocks that an earlier one begins with, too.

    Like vLLM's automatic prefix caching with room for everything, prompts taken one after the
    other: an upper bound for requests that are in flight together. The block with a prompt's last
    token is always read.
    """
    seen: set[tuple[Hashable, ...]] = set()
    hits = []
    for prompt in prompts:
        begins = [tuple(prompt[:end]) for end in range(block, len(prompt) + 1, block)]
        fresh = next((k for k, begin in enumerate(begins) if begin not in seen), len(begins))
        hits.append(block * fresh - (block if block * fresh == len(prompt) else 0))
        seen.update(begins[fresh:])
    return np.array(hits, dtype=np.int64)


def by_characters(characters: float) -> Encode:
    """Tokens of a model whose tokenizer is not here: so many characters are one.

    About 4 for English and 1.5 for Chinese text with the tokenizers of Qwen2 and GPT-4o.
    """
    if not characters > 0:
        raise MfenvError(f"{characters:g} characters a token are not allowed; allowed: above 0")

    def encode(text: str) -> Sequence[Hashable]:
        ends = [round(characters * k) for k in range(1, round(len(text) / characters) + 1)]
        return [text[a:b] for a, b in itertools.pairwise([0, *ends])] or [text]

    return encode


def expected_longest(lengths: Ints, rows: int) -> float:
    """Mean of the longest of ``rows`` answers, lengths drawn from those that were seen ``(n,)``."""
    values, counts = np.unique(lengths, return_counts=True)
    below = np.cumsum(counts) / counts.sum()
    return float(np.sum(values * np.diff(below**rows, prepend=0.0)))


# -- sources -----------------------------------------------------------------------------------


def counted(calls: Sequence[Call], batch: int, encode: Encode | None) -> Workload:
    """A workload from recorded calls; without ``encode`` four characters are a token."""
    encode = encode or by_characters(4)
    phases = []
    for acts in (True, False):
        some = [c for c in calls if c.acts == acts]
        prompts = [encode(p) for c in some for p in c.prompts]
        answers = [a for c in some for a in c.answers]
        lengths = np.array([len(p) for p in prompts], dtype=np.int64)
        told = np.array([a.prompt_tokens for a in answers], dtype=np.int64)
        # What a server counted is right; shares of it go by our own count.
        prompt = np.where(told > 0, told, lengths)
        known = prefix_hits(prompts) * prompt // np.maximum(lengths, 1)
        written = np.array([a.completion_tokens for a in answers], dtype=np.int64)
        phases.append(Phase(prompt, known, written))
    return Workload(phases[0], phases[1], batch)


class _Playback:
    """A policy and a mean-field model that know what was really written, and only say it."""

    def __init__(self, prompts: PromptFormat, events: Sequence[Event]) -> None:
        self.prompts, self.events = prompts, events
        self.asked: dict[bool, list[tuple[str, str]]] = {True: [], False: []}

    def act(self, requests: Sequence[ActionRequest]) -> list[ActionResult]:
        """What each agent's real self wrote."""
        results = []
        for r in requests:
            text = self.events[r.key.seed].posts.texts[r.key.agent + 1]
            self.asked[True].append((self.prompts.policy_prompt(r), text))
            results.append(ActionResult(text))
        return results

    def summarise(self, requests: Sequence[SummaryRequest]) -> list[SummaryResult]:
        """The counted shares and the most telling reactions."""
        results = CountedMeanField().summarise(requests)
        for request, result in zip(requests, results, strict=True):
            self.asked[False].append((self.prompts.summary_prompt(request), result.text))
        return results


def playback(
    prompts: PromptFormat,
    encode: Encode,
    events: Sequence[Event],
    *,
    batch: int,
    steps: int,
    longest: tuple[int, int] = (64, 200),
    more: int = 0,
) -> Workload:
    """The workload without a model: ``steps`` rollout steps with the events' own reactions.

    ``longest`` are the most tokens of an action and of a summary; ``more`` tokens (thinking) are
    written beside each.
    """
    model = _played(prompts, events, batch, steps)
    phases = []
    for acts, most in zip((True, False), longest, strict=True):
        pairs = model.asked[acts]
        tokens = [encode(p) for p, _ in pairs]
        phases.append(
            Phase(
                np.array([len(t) for t in tokens], dtype=np.int64),
                prefix_hits(tokens),
                np.array([min(most, len(encode(t)) + 1) + more for _, t in pairs], dtype=np.int64),
            )
        )
    return Workload(phases[0], phases[1], batch)


def acting_prompts(
    prompts: PromptFormat, events: Sequence[Event], *, batch: int, steps: int
) -> list[str]:
    """Prompts of the actions of :func:`playback`: what a load can be made of."""
    return [prompt for prompt, _ in _played(prompts, events, batch, steps).asked[True]]


def _played(prompts: PromptFormat, events: Sequence[Event], batch: int, steps: int) -> _Playback:
    model = _Playback(prompts, events)
    processes = _begun(events, model, model, batch, steps)
    warm_up(processes)
    for asked in model.asked.values():
        asked.clear()
    for _ in range(steps):
        advance(processes)
    return model


def _begun(
    events: Sequence[Event], policy: Any, mean_field: Any, batch: int, steps: int
) -> list[MeanFieldProcess]:
    """Worlds at the start of their events, whose number is their seed. One step warms them up."""
    settings = ProcessSettings(batch * (steps + 1), batch, batch)
    short = next((e for e in events if len(e.posts) - 1 < settings.agents), None)
    if short is not None:
        raise MfenvError(
            f"event {short.event_id} has {len(short.posts) - 1} reactions, {settings.agents} are "
            f"needed for {steps} steps of {batch}; lower --batch, or leave it out"
        )
    judge = build_annotator(AUTO, events[0])
    processes = [MeanFieldProcess(policy, mean_field, judge, settings) for _ in events]
    for k, (process, event) in enumerate(zip(processes, events, strict=True)):
        process.begin(event, k)
    return processes
