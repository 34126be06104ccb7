"""Data sets from events: real actions under a mean field, and histories to summarise.

Events are played teacher-forced: everybody does what the real person did, and a mean-field model
writes what they read. Both data sets are pure functions of the events, the models and the seed,
and are split by event by whoever chooses the events.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from heapq import nsmallest
from itertools import islice

import datasets
import numpy as np
from numpy.typing import NDArray

from agents.prompts import PromptFormat
from mfenv.dynamics.assemble import ModelPair
from mfenv.dynamics.mean_field_text import with_shares
from mfenv.dynamics.models import ActionRequest, Annotator
from mfenv.dynamics.process import MeanFieldProcess, ProcessSettings, advance
from mfenv.errors import MfenvError
from mfenv.events.event import Event
from mfenv.noise import uniform
from training.actions import RealAction

__all__ = ["Step", "mean_field_histories", "policy_examples", "teacher_forced"]

_BLOCK = 64  # events that are played together
_ORDER = 7451  # stream of the noise that orders examples


@dataclass(frozen=True, slots=True)
class Step:
    """One step of an event in which everybody did what the real people did."""

    event: int  # its number among the events that were given
    index: int
    requests: tuple[ActionRequest, ...]  # (n,) what the agents read
    texts: tuple[str, ...]  # (n,) what they wrote
    distribution: NDArray[np.float64]  # (23,) label shares of what they wrote
    summary_prompt: str  # what the mean-field model was given after it; "" if it is no LLM


def teacher_forced(
    events: Iterable[Event],
    models: ModelPair,
    annotator: Annotator,
    *,
    agents: int,
    batch: int = 16,
    seed: int,
) -> Iterator[list[Step]]:
    """The steps of each event in turn, with the mean fields that real actions lead to.

    Events are read as they are needed, a block at a time, and each block is played in lockstep.
    At most ``agents`` people of each act, ``batch`` in a step.
    """
    settings = ProcessSettings(agents, batch, warmup=agents)  # all of it a warm-up: real actions
    source, number = iter(events), 0
    while block := list(islice(source, _BLOCK)):
        processes = [
            MeanFieldProcess(models.policy, models.mean_field, annotator, settings) for _ in block
        ]
        played: list[list[Step]] = [[] for _ in block]
        for process, event in zip(processes, block, strict=True):
            process.begin(event, seed)
        while left := [i for i, p in enumerate(processes) if not p.done]:
            asked = [processes[i].requests() for i in left]
            records = advance([processes[i] for i in left])
            for i, requests, record in zip(left, asked, records, strict=True):
                played[i].append(
                    Step(
                        number + i,
                        record.step,
                        requests,
                        tuple(record.texts),
                        record.distribution,
                        record.summary_prompt,
                    )
                )
        yield from played
        number += len(block)


def policy_examples(
    steps: Iterable[Sequence[Step]], *, seed: int, limit: int | None = None
) -> list[RealAction]:
    """What each person wrote, with the mean field that they read; in an order by ``seed``."""

    def placed() -> Iterator[tuple[float, RealAction]]:
        for event in steps:
            for s in event:
                posts = [r.key.agent + 1 for r in s.requests]
                order = uniform(seed, _ORDER, s.event, posts)
                for place, post, request, text in zip(
                    order, posts, s.requests, s.texts, strict=True
                ):
                    yield (
                        float(place),
                        RealAction(
                            event=s.event,
                            post=post,
                            topic=request.topic,
                            language=request.language,
                            state=request.state,
                            text=text,
                            mean_field=request.mean_field,
                        ),
                    )

    # With a limit no more than those are held.
    first = sorted if limit is None else partial(nsmallest, limit)
    return [action for _, action in first(placed(), key=lambda row: row[0])]


def mean_field_histories(
    steps: Iterable[Sequence[Step]],
    prompts: PromptFormat,
    *,
    seed: int,
    horizon: int = 1,
    future: int = 4,
    limit: int | None = None,
) -> datasets.Dataset:
    """Histories with what follows them, one row each, in an order by ``seed``.

    Columns: ``prompt`` (what the mean-field model reads: topic, old mean field, latest actions),
    ``prior_prompt`` (the bare instruction and the topic), ``mean_field`` (what the model wrote),
    ``topic``, ``language``, ``states`` and ``actions`` (those of the next ``horizon`` steps, fewer
    at an event's end), ``future`` (the mean field with the shares of each of the next ``future``
    steps in place of its own), ``event``, ``step``, ``seed``.

    Raises ``MfenvError`` if no event has two steps.
    """
    rows = []
    for event in steps:
        for k, s in enumerate(event[:-1]):
            following = event[k + 1 : k + 1 + horizon]
            first = following[0].requests[0]
            rows.append(
                {
                    "prompt": s.summary_prompt,
                    "prior_prompt": prompts.prior_prompt(first.topic, first.language),
                    "mean_field": first.mean_field,
                    "topic": first.topic,
                    "language": first.language,
                    "states": [r.state for f in following for r in f.requests],
                    "actions": [t for f in following for t in f.texts],
                    "future": [
                        with_shares(first.mean_field, f.distribution, first.language)
                        for f in event[k + 1 : k + 1 + future]
                    ],
                    "event": s.event,
                    "step": s.index,
                    "seed": seed,
                }
            )
    rows = [r for r in rows if r["prompt"]]
    if not rows:
        raise MfenvError(
            "no event is long enough for a history and what follows it; give longer events or "
            "smaller steps (--batch), and a mean-field model that is a language model"
        )
    places = np.array([(r["event"], r["step"]) for r in rows])
    order = uniform(seed, _ORDER + 1, places[:, 0], places[:, 1])
    rows = [rows[int(k)] for k in np.argsort(order, kind="stable")[:limit]]
    return datasets.Dataset.from_list(rows)
