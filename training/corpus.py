"""Steps of real or synthetic populations as training examples for a backbone.

A step is one batch of people acting under one mean field. Corpora are random-access: example
``i`` is a pure function of the corpus, its seed and ``i``, so that training resumes exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mfenv.distributions import normalise, shares
from mfenv.dynamics.mean_field_text import render, telling
from mfenv.dynamics.models import Annotator, Reaction
from mfenv.dynamics.reach import perception_rate
from mfenv.events.event import Event
from mfenv.labels import Labels
from mfenv.noise import generator
from mfenv.states import state_text

__all__ = ["EventCorpus", "StepCorpus", "StepExample", "label_events"]


@dataclass(frozen=True, slots=True)
class StepExample:
    """One step: what everybody read, and what each of ``n`` people did."""

    topic: str
    language: str
    notices: tuple[str, ...]
    mean_field: str  # before the step
    reactions_only: str  # the same without shares, as the baselines "recent" and "popular" see it
    states: tuple[str, ...]  # (n,)
    actions: tuple[str, ...]  # (n,)
    observed: tuple[str, ...]  # (m,) what reached the mean field in this step
    next_mean_field: str  # after the step


_BLURRED = 0.5  # of the old mean fields state other shares than the real ones
_FRESH = 0.2  # of the examples have no old mean field
_SMALL = (1, 2, 4, 8)  # sizes of half of the batches: what few reactions say is easier to learn


class StepCorpus(Protocol):
    """Random access to training steps."""

    language: str

    def example(self, index: int) -> StepExample:
        """Return example ``index``, any non-negative integer."""
        ...

    def rewriting(self, index: int) -> StepExample:
        """Example ``index`` for the job of rewriting a mean field, whatever that one says."""
        ...

    def unplanned(self, index: int) -> StepExample:
        """Example ``index`` among steps without interventions, for the prior r(m)."""
        ...

    def texts_by_event(self) -> Sequence[Sequence[str]]:
        """All texts of each event, for training a tokenizer."""
        ...


def label_events(events: Sequence[Event], annotator: Annotator) -> list[Labels]:
    """Label every post of every event in one annotator call; one ``(n, 8)`` array an event."""
    if all(e.labels is not None for e in events):
        return [e.labels for e in events if e.labels is not None]
    sizes = [len(e.posts) for e in events]
    labels = annotator.label(
        [e.topic for e in events for _ in range(len(e.posts))],
        [t for e in events for t in e.posts.texts],
        [e.language for e in events for _ in range(len(e.posts))],
    )
    return np.split(labels, np.cumsum(sizes)[:-1])


def _blur(perceived: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    """Shares ``(23,)`` around given ones, each dimension from a Dirichlet distribution."""
    sharpness = np.exp(rng.uniform(1.0, 4.0))
    return normalise(rng.standard_gamma(sharpness * (perceived + 0.03)), smoothing=1e-9)


class EventCorpus:
    """Steps drawn from events: an event by its number of posts (capped), then a place in it."""

    def __init__(
        self,
        events: Sequence[Event],
        labels: Sequence[Labels],
        *,
        seed: int = 0,
        batch: int = 16,
        memory: int = 8,
        cap: int = 600,
    ) -> None:
        """``memory`` batches before a step make its mean field; ``cap`` limits a large event."""
        kept = [(e, y) for e, y in zip(events, labels, strict=True) if len(e.posts) > batch]
        self._events = [e for e, _ in kept]
        self._labels = [y for _, y in kept]
        self.language = self._events[0].language
        self._seed, self._batch, self._memory = seed, batch, memory
        weight = np.array([min(len(e.posts), cap) for e in self._events], dtype=float)
        self._cdf: NDArray[np.float64] = np.cumsum(weight / weight.sum())

    def __len__(self) -> int:
        return len(self._events)

    def texts_by_event(self) -> Sequence[Sequence[str]]:
        """Topic and posts with words of each event."""
        return [[e.topic, *(t for t in e.posts.texts if t)] for e in self._events]

    def example(self, index: int) -> StepExample:
        """Draw an event and a step in it; the first step (no mean field yet) included."""
        return self._draw(index, rewriting=False)

    def rewriting(self, index: int) -> StepExample:
        """A step of the same event, for learning to rewrite: harder and easier ones as well.

        Half of the old mean fields state other shares than the real ones, and what follows is
        worked out from what is stated: a model that rewrites its own mean field must carry on from
        whatever it says, errors included. Half of the batches are small, and some come first.
        """
        return self._draw(index, rewriting=True)

    def _draw(self, index: int, *, rewriting: bool) -> StepExample:
        rng = generator(self._seed, index)
        i = min(int(np.searchsorted(self._cdf, rng.random())), len(self._events) - 1)
        event, labels, n = self._events[i], self._labels[i], self._batch
        start = 1 + int(rng.integers(0, len(event.posts) - n))
        # Half of the time batches are cut as the process cuts them, from the first reaction on.
        first = 1 + (start - 1) % n
        bounds = list(range(first if first < start else 1, start + 1, n))[-self._memory - 1 :]
        steps = max(0, len(bounds) - 1)
        latest = n
        if rewriting and rng.random() < 0.5:
            latest = min(n, int(rng.choice(_SMALL)))
        if rewriting and rng.random() < _FRESH:
            steps = 0
        perceived = None
        for k in range(steps):
            batch_shares = shares(labels[bounds[k] : bounds[k + 1]])
            rate = perception_rate(k * n, bounds[k + 1] - bounds[k], n)
            perceived = (
                batch_shares
                if perceived is None
                else ((1 - rate) * perceived + rate * batch_shares)
            )
        if perceived is not None and rewriting and rng.random() < _BLURRED:
            perceived = _blur(perceived, rng)
        before = self._reactions(event, labels, bounds[-2], start) if steps else []
        now = self._reactions(event, labels, start, start + latest)
        rate = perception_rate(steps * n, latest, n)
        batch_shares = shares(labels[start : start + latest])
        after = batch_shares if perceived is None else (1 - rate) * perceived + rate * batch_shares
        said = telling(before)
        return StepExample(
            topic=event.topic,
            language=event.language,
            notices=(),
            mean_field=render(perceived, said, event.language) if steps else "",
            reactions_only=render(None, [r.text for r in before if r.text][-5:], event.language),
            states=tuple(r.state for r in now),
            actions=tuple(r.text for r in now),
            observed=tuple(r.text for r in now),
            next_mean_field=render(after, telling(now), event.language),
        )

    def unplanned(self, index: int) -> StepExample:
        """The same as :meth:`example`: nothing was planned in these events."""
        return self.example(index)

    def _reactions(self, event: Event, labels: Labels, start: int, stop: int) -> list[Reaction]:
        profiles = event.posts.profiles
        return [
            Reaction(
                text=event.posts.texts[j],
                state=state_text(None if profiles is None else profiles[j], event.language),
                labels=labels[j],
            )
            for j in range(start, stop)
        ]
