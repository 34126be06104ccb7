"""The engine: many processes in lockstep, with one model call a phase.

A step in flight (:class:`StepInFlight`) only says what it asks of its models in each of the three
phases (act, label, summarise) and takes the answers. :func:`play` hands the requests of all steps
whose models are equal to that model in one call; how those are batched, and which prefixes are
read once, is the backbone's business.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np

from mfenv.dynamics.models import (
    ActionRequest,
    ActionResult,
    Annotator,
    MeanFieldModel,
    PolicyModel,
    SummaryRequest,
    SummaryResult,
)
from mfenv.errors import MfenvError, ModelError
from mfenv.labels import DIMENSIONS, N_DIMENSIONS, Labels

__all__ = ["StepInFlight", "label_rows", "play"]

_Q = TypeVar("_Q")
_A = TypeVar("_A")


class StepInFlight(Protocol):
    """One step of one process, from its questions to its answers."""

    @property
    def policy(self) -> PolicyModel:
        """Writes the actions."""
        ...

    @property
    def annotator(self) -> Annotator:
        """Labels the reactions."""
        ...

    @property
    def mean_field_model(self) -> MeanFieldModel:
        """Rewrites the mean field."""
        ...

    def action_requests(self) -> list[ActionRequest]:
        """What the policy model is asked."""
        ...

    def take_actions(self, results: Sequence[ActionResult]) -> None:
        """Take its answers, in order."""
        ...

    def label_requests(self) -> list[tuple[str, str, str]]:
        """Topic, text and language of the reactions whose labels are not known."""
        ...

    def take_labels(self, labels: Labels) -> None:
        """Take their labels ``(n, 8)``."""
        ...

    def summary_requests(self) -> list[SummaryRequest]:
        """What the mean-field model is asked: one request, or none."""
        ...

    def take_summary(self, result: SummaryResult) -> None:
        """Take its answer."""
        ...


def play(steps: Sequence[StepInFlight], timings: dict[str, float] | None = None) -> None:
    """Take all steps through their three phases together.

    Seconds of each phase are added to ``timings``. Raises ``ModelError`` if any call fails; the
    steps are then to be thrown away.
    """
    clock = _Clock(timings)
    acted = _ask(
        [s.policy for s in steps],
        [s.action_requests() for s in steps],
        lambda model, requests: _checked_actions(model, model.act(requests)),
    )
    for s, results in zip(steps, acted, strict=True):
        s.take_actions(results)
    clock.lap("act")
    labelled = _ask([s.annotator for s in steps], [s.label_requests() for s in steps], label_rows)
    for s, labels in zip(steps, labelled, strict=True):
        s.take_labels(np.array(labels, dtype=np.int8).reshape(-1, N_DIMENSIONS))
    clock.lap("label")
    summarised = _ask(
        [s.mean_field_model for s in steps],
        [s.summary_requests() for s in steps],
        lambda model, requests: _checked_summaries(model, model.summarise(requests)),
    )
    for s, summaries in zip(steps, summarised, strict=True):
        for summary in summaries:
            s.take_summary(summary)
    clock.lap("summarise")


def _ask(
    models: Sequence[Any],
    requests: Sequence[Sequence[_Q]],
    call: Callable[[Any, list[_Q]], list[_A]],
) -> list[list[_A]]:
    """Hand the requests of all steps to their models, one call for each distinct model."""
    groups: dict[Any, list[int]] = {}
    for i, (model, rows) in enumerate(zip(models, requests, strict=True)):
        if rows:
            key = model if isinstance(model, Hashable) else id(model)
            groups.setdefault(key, []).append(i)
    answers: list[list[_A]] = [[] for _ in models]
    for members in groups.values():
        model = models[members[0]]
        flat = [row for i in members for row in requests[i]]
        try:
            result = call(model, flat)
        except MfenvError:
            raise
        except Exception as error:
            raise ModelError(
                f"{type(model).__name__} failed: {type(error).__name__}: {error}"
            ) from error
        if len(result) != len(flat):
            raise ModelError(
                f"{type(model).__name__} gave {len(result)} answers to {len(flat)} requests"
            )
        position = 0
        for i in members:
            answers[i] = list(result[position : position + len(requests[i])])
            position += len(requests[i])
    return answers


def label_rows(annotator: Annotator, rows: Sequence[tuple[str, str, str]]) -> list[Labels]:
    """Annotate rows of topic, text and language, each distinct row once."""
    if not rows:
        return []
    distinct = list(dict.fromkeys(rows))
    topics, texts, languages = zip(*distinct, strict=True)
    labels = np.asarray(annotator.label(list(topics), list(texts), list(languages)))
    sizes = np.array([len(d.labels) for d in DIMENSIONS])
    if labels.shape != (len(distinct), N_DIMENSIONS):
        raise ModelError(
            f"annotator {annotator.name!r} gave labels of shape {labels.shape}, "
            f"expected {(len(distinct), N_DIMENSIONS)}"
        )
    if not ((labels >= 0) & (labels < sizes)).all():
        raise ModelError(f"annotator {annotator.name!r} gave a label outside its dimension")
    index = {row: i for i, row in enumerate(distinct)}
    return [labels[index[row]] for row in rows]


def _checked_actions(model: Any, results: Sequence[ActionResult]) -> list[ActionResult]:
    for result in results:
        if not isinstance(result.text, str):
            raise ModelError(f"{type(model).__name__} gave an action that is no text")
    return list(results)


def _checked_summaries(model: Any, results: Sequence[SummaryResult]) -> list[SummaryResult]:
    for result in results:
        if not isinstance(result.text, str):
            raise ModelError(f"{type(model).__name__} gave a mean field that is no text")
    return list(results)


class _Clock:
    """Adds the seconds since the last lap to a named phase."""

    def __init__(self, timings: dict[str, float] | None) -> None:
        self.timings, self.last = timings, time.perf_counter()

    def lap(self, phase: str) -> None:
        now = time.perf_counter()
        if self.timings is not None:
            self.timings[phase] = self.timings.get(phase, 0.0) + now - self.last
        self.last = now
