"""Synthetic events, and a stream of labelled steps that a language model can learn from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mfenv.dynamics.mean_field_text import render, telling
from mfenv.dynamics.models import Reaction
from mfenv.dynamics.notices import VISIBLE, notice_texts, planted_texts
from mfenv.dynamics.reach import INITIAL
from mfenv.dynamics.society import (
    BATCH,
    Worlds,
    society_step,
    start,
    text_uniforms,
)
from mfenv.events.event import DOMAINS, Event, Posts, Profile
from mfenv.events.synthetic.archetypes import ARCHETYPES, MIXTURE, N_PROFILE_DRAWS, profiles
from mfenv.events.synthetic.grammar import write_many
from mfenv.events.synthetic.response import Topics
from mfenv.events.synthetic.topics import Topic, sample_topic
from mfenv.interventions import INTENSITIES, Kind
from mfenv.labels import DIMENSIONS, Labels, encode_code
from mfenv.noise import generator, uniform

__all__ = ["SyntheticSociety", "TrainingStep", "training_steps"]

Floats = NDArray[np.float64]

_SOURCE_LABELS = encode_code("sczcsbop")  # the post that makes the claim
_PROFILE_TOKEN, _ARCHETYPE_TOKEN, _TIME_TOKEN, _PARENT_TOKEN = 200, 300, 301, 302
_TOPIC_STREAM, _CORPUS_STREAM = 11, 12  # first words of generator keys
_AUTHOR_TOKEN = 303
_GAP = 90.0  # seconds between reactions at the start of an event of virality 0


def topics_of(topics: list[Topic]) -> Topics:
    """The hidden parameters of topics as arrays."""
    return Topics(
        domain=np.array([DOMAINS.index(t.domain) for t in topics]),
        credulity=np.array([t.credulity for t in topics]),
        virality=np.array([t.virality for t in topics]),
        trust=np.array([t.trust for t in topics]),
        truth=np.array([t.truth for t in topics], dtype=bool),
    )


class SyntheticSociety:
    """Generates events. Equal seeds and indices give equal events."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    def topic(self, index: int) -> Topic:
        """The topic of an event. Domains take turns; true and false claims alternate in blocks."""
        return sample_topic(
            generator(_TOPIC_STREAM, self.seed, index),
            domain=DOMAINS[index % len(DOMAINS)],
            truth=index // len(DOMAINS) % 2 == 1,
        )

    def event(self, index: int, n_posts: int = 300, people: int | None = None) -> Event:
        """One event of ``n_posts`` posts, the source included, without interventions.

        By default everybody acts once. With ``people``, so many take the posts after the source
        between them, each post by anyone, and keep archetype and profile when they come back.
        """
        return self._events([index], n_posts, people)[0]

    def events(self, n: int, n_posts: int = 300, first: int = 0) -> list[Event]:
        """Events ``first`` to ``first + n - 1``, generated together."""
        return self._events(list(range(first, first + n)), n_posts)

    def _events(self, indices: list[int], n_posts: int, people: int | None = None) -> list[Event]:
        if n_posts < 1:
            raise ValueError(f"n_posts {n_posts} is not allowed; an event has at least its source")
        if people is not None and people < 1:
            raise ValueError(f"people {people} is not allowed; allowed: 1 or more")
        topics = [self.topic(i) for i in indices]
        # One noise seed per event, so that an event does not depend on what it is made with.
        seeds = np.array(
            [int(uniform(self.seed, i, 0, 0) * 2**53) for i in indices], dtype=np.int64
        )
        authors = np.broadcast_to(np.arange(n_posts), (len(indices), n_posts))
        if people is not None:
            u = uniform(seeds[:, None], np.arange(n_posts), 0, _AUTHOR_TOKEN)
            authors = 1 + np.floor(u * people).astype(np.int64)
            authors[:, 0] = 0
        u = uniform(seeds[:, None], authors, 0, _ARCHETYPE_TOKEN)
        archetypes = np.searchsorted(np.cumsum(MIXTURE), u, side="right").astype(np.int8)
        archetypes = np.minimum(archetypes, len(ARCHETYPES) - 1).astype(np.int8)
        labels = np.empty((len(indices), n_posts, 8), dtype=np.int8)
        labels[:, 0] = _SOURCE_LABELS
        if n_posts > 1:
            worlds = Worlds(
                seed=seeds,
                topics=topics_of(topics),
                archetypes=archetypes[:, 1:],
            )
            state = start(worlds)
            quiet = np.zeros(len(indices), dtype=np.intp)
            for first in range(1, n_posts, BATCH):
                state, record = society_step(worlds, state, quiet)
                size = min(BATCH, n_posts - first)
                labels[:, first : first + size] = record.labels[:, :size]
        return [
            self._assemble(i, topic, int(seed), authors[k], archetypes[k], labels[k])
            for k, (i, topic, seed) in enumerate(zip(indices, topics, seeds, strict=True))
        ]

    def _assemble(
        self,
        index: int,
        topic: Topic,
        seed: int,
        authors: NDArray[np.int64],
        archetypes: NDArray[np.int8],
        labels: Labels,
    ) -> Event:
        n = len(labels)
        people = np.arange(n)
        agents = people[1:] - 1
        u = text_uniforms(seed, agents, agents // BATCH)
        texts = write_many(labels[1:], [topic.subject] * (n - 1), u)
        wait = -np.log1p(-uniform(seed, people, 0, _TIME_TOKEN))
        gaps = _GAP * np.exp(-0.8 * topic.virality) * (1.0 + people / 60.0) * wait
        gaps[0] = 0.0
        # Most react to the source, some to an earlier reaction that has words.
        u = uniform(seed, people, 0, _PARENT_TOKEN)
        parents = np.where(u < 0.7, 0, np.floor((u - 0.7) / 0.3 * people)).astype(np.int32)
        spoken = np.array([True, *(bool(t) for t in texts)])
        parents = np.where(spoken[parents], parents, 0).astype(np.int32)
        parents[0] = -1
        draws = uniform(
            seed, authors[:, None], 0, np.arange(_PROFILE_TOKEN, _PROFILE_TOKEN + N_PROFILE_DRAWS)
        )
        shared = labels[:, 3] == 1
        return Event(
            event_id=f"synthetic-{self.seed}-{index}",
            topic=topic.text,
            posts=Posts(
                offsets=np.round(np.cumsum(gaps), 1),
                authors=authors.astype(np.int32),
                parents=parents,
                texts=[topic.text, *texts],
                kinds=["source", *("repost" if x else "comment" for x in shared[1:])],
                profiles=profiles(archetypes, draws),
            ),
            language="en",
            domain=topic.domain,
            label="true" if topic.truth else "false",
            source="synthetic",
            labels=labels,
            meta={
                "seed": self.seed,
                "index": index,
                "subject": topic.subject,
                "hidden": {
                    "credulity": topic.credulity,
                    "virality": topic.virality,
                    "trust": topic.trust,
                    "noise": seed,
                },
                "archetypes": archetypes.tolist(),
            },
        )


@dataclass(frozen=True, slots=True)
class TrainingStep:
    """One step of the society as a training example: a shared context and ``n`` actions."""

    topic: str
    domain: str
    language: str
    step: int
    perceived: Floats  # (23,) before the step: what the mean field says
    reactions: tuple[str, ...]  # telling reactions of the batch before
    mean_field: str  # the text that renders both; "" before anything happened
    notices: tuple[str, ...]
    activity: Floats  # (6,) during the step
    profiles: tuple[Profile, ...]  # n
    texts: tuple[str, ...]  # n, the agents' own
    labels: Labels  # (n, 8), the agents' own
    batch: tuple[str, ...]  # what reached the mean field: planted texts in place, blocked ones out
    perceived_next: Floats  # (23,)
    mean_field_next: str  # the text after the step


def random_actions(rng: np.random.Generator, worlds: int, steps: int) -> NDArray[np.intp]:
    """Random schedules of flat actions ``(worlds, steps)``: every kind and intensity, and rests.

    A fifth of the worlds see no intervention; the others a rate of their own, half of them with
    one favourite kind. In two fifths one action is taken at nearly every step, so that sustained
    and mixed use both occur. Kinds with notices and high intensities come more often, since
    activity fades and would show its lower levels mostly.
    """
    rate = np.where(rng.random(worlds) < 0.2, 0.0, rng.uniform(0.1, 0.9, worlds))[:, None]
    odds = np.where(np.isin(np.arange(len(Kind)), VISIBLE), 2.0, 1.0)
    odds[Kind.FACT_CHECK] = 1.0  # it lasts longest
    odds /= odds.sum()
    mixed = rng.choice(len(Kind), p=odds, size=(worlds, steps))
    favourite = rng.choice(len(Kind), p=odds, size=(worlds, 1))
    kind = np.where(rng.random((worlds, 1)) < 0.5, favourite, mixed)
    intensity = rng.choice(len(INTENSITIES), p=(0.25, 0.3, 0.45), size=(worlds, steps))
    sustained = (rng.random((worlds, 1)) < 0.4) & (rate > 0)
    kind = np.where(sustained, favourite, kind)
    intensity = np.where(sustained, intensity[:, :1], intensity)
    rate = np.where(sustained, 0.9, rate)
    action = 1 + kind * len(INTENSITIES) + intensity
    return np.where(rng.random((worlds, steps)) < rate, action, 0).astype(np.intp)


def training_steps(
    seed: int, n: int, *, steps: int = 16, block: int = 128, surges: bool = False
) -> Iterator[TrainingStep]:
    """Yield ``n`` training steps of random worlds, shuffled within blocks of worlds.

    Half of the worlds start from nothing, half from a random perceived distribution, so that a
    model sees the response to all shares and not only to those that arise. Surges are left out
    by default: no text announces them.
    """
    done = 0
    number = 0
    while done < n:
        rng = generator(_CORPUS_STREAM, seed, number)
        number += 1
        for record in _block(rng, block, steps, surges):
            yield record
            done += 1
            if done == n:
                return


def _random_perceived(rng: np.random.Generator, worlds: int) -> Floats:
    """Perceived distributions ``(worlds, 23)``, from flat to extreme."""
    parts = []
    for d in DIMENSIONS:
        sharpness = np.exp(rng.uniform(-0.7, 1.6, worlds))[:, None]
        draws = rng.standard_gamma(np.broadcast_to(sharpness, (worlds, len(d.labels))))
        parts.append((draws + 1e-6) / (draws + 1e-6).sum(axis=1, keepdims=True))
    return np.concatenate(parts, axis=1)


def _block(rng: np.random.Generator, k: int, steps: int, surges: bool) -> Iterator[TrainingStep]:
    topics = [sample_topic(rng) for _ in range(k)]
    archetypes = rng.choice(len(ARCHETYPES), p=MIXTURE, size=(k, steps * BATCH)).astype(np.int8)
    seeds = rng.integers(2**53, size=k)
    worlds = Worlds(
        seed=seeds,
        topics=topics_of(topics),
        archetypes=archetypes,
        surges=surges,
    )
    cold = rng.random(k) < 0.5
    perceived = np.where(cold[:, None], INITIAL, _random_perceived(rng, k))
    state = replace(start(worlds), perceived=perceived)
    actions = random_actions(rng, k, steps)
    records: list[TrainingStep] = []
    told: list[tuple[str, ...]] = [() for _ in range(k)]
    for t in range(steps):
        before = state
        state, r = society_step(worlds, state, actions[:, t])
        subjects = [topic.subject for topic in topics for _ in range(BATCH)]
        u = text_uniforms(seeds[:, None], r.agents, t).reshape(k * BATCH, -1)
        texts = write_many(r.own.reshape(-1, 8), subjects, u)
        who = profiles(r.archetypes.ravel(), rng.random((k * BATCH, N_PROFILE_DRAWS)))
        for w, topic in enumerate(topics):
            rows = slice(w * BATCH, (w + 1) * BATCH)
            own = tuple(texts[rows])
            fresh = planted_texts(int(r.planted[w].sum()), "en", int(seeds[w]), t)
            reached = [
                Reaction(text, "", labels, float(weight))
                for text, labels, weight in zip(
                    (*fresh, *own[len(fresh) :]), r.labels[w], r.weights[w], strict=True
                )
                if weight > 0
            ]
            blank = t == 0 and cold[w]
            said = tuple(telling(reached))
            records.append(
                TrainingStep(
                    topic=topic.text,
                    domain=topic.domain,
                    language="en",
                    step=t,
                    perceived=before.perceived[w],
                    reactions=told[w],
                    mean_field="" if blank else render(before.perceived[w], told[w], "en"),
                    notices=notice_texts(r.activity[w], topic.domain),
                    activity=r.activity[w],
                    profiles=tuple(who[rows]),
                    texts=own,
                    labels=r.own[w],
                    batch=tuple(x.text for x in reached),
                    perceived_next=r.perceived[w],
                    mean_field_next=render(r.perceived[w], said, "en"),
                )
            )
            told[w] = said
    for i in rng.permutation(len(records)):
        yield records[i]
