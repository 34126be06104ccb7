"""Fuzz targets: what language models answer, as labels and as interventions."""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from agents.annotators.language_model import LanguageModelAnnotator, schema
from agents.backbones.base import Message, UnusableAnswersError
from agents.backbones.json_answers import mismatch, read_object
from benchmarks.fuzz.mutate import changed_bytes, changed_text, changed_value, dump, rounds
from benchmarks.fuzz.target import Target, pick, text_of
from mfenv.intervention_text import MESSAGE_CHARACTERS, intervention_text, parse_intervention
from mfenv.interventions import INTENSITIES, KINDS
from mfenv.labels import DIMENSIONS, N_DIMENSIONS
from mfenv.noise import NoiseKey

__all__ = ["TARGETS"]

_REACTIONS = ["really?", "no", "it is true"]


class Answers:
    """A backbone that gives the answers of an input, read the way a served one reads them."""

    name = "answers"

    def __init__(self, texts: Sequence[str]) -> None:
        self._texts = list(texts)

    def complete_json(
        self,
        conversations: Sequence[Sequence[Message]],
        wanted: dict[str, Any],
        keys: Sequence[NoiseKey],
    ) -> list[dict[str, Any]]:
        """One answer for each conversation; raises for those that cannot be used."""
        answers, bad = [], []
        for i in range(len(conversations)):
            text = self._texts.pop(0) if self._texts else ""
            try:
                answers.append(read_object(text, wanted))
            except ValueError:
                bad.append(i)
        if bad:
            raise UnusableAnswersError("cannot be used", bad)
        return answers


def _answer(random: Random) -> dict[str, Any]:
    labels = [
        {"id": i + 1, **{d.name: pick(random, d.labels) for d in DIMENSIONS}}
        for i in range(len(_REACTIONS))
    ]
    return {"labels": labels}


def make_labels(random: Random) -> bytes:
    """An answer, changed as a value, as text in a fence, or as bytes."""
    value: Any = _answer(random)
    if random.random() < 0.8:
        for _ in range(rounds(random)):
            value = changed_value(random, value)
    data = dump(random, value)
    kind = random.random()
    if kind < 0.2:
        data = b"```json\n" + data + b"\n```"
    elif kind < 0.25:
        data = b"```" + data + b"```\nThat is all."
    elif kind < 0.45:
        data = changed_bytes(random, data)
    return data


@functools.cache
def _schema() -> dict[str, Any]:
    return schema(len(_REACTIONS))


def read_labels(data: bytes, folder: Path) -> None:
    """The reader of answers, and the annotator around it."""
    text = data.decode("utf-8", "surrogateescape")
    value: dict[str, Any] | None = None
    with contextlib.suppress(ValueError):  # documented: it says what is wrong
        value = read_object(text, _schema())
        assert mismatch(value, _schema()) is None
    try:
        n = len(_REACTIONS)
        annotator = LanguageModelAnnotator(Answers([text, text, *[text] * n]))  # type: ignore[arg-type]
        labels = annotator.label(["a topic"] * n, _REACTIONS, ["en"] * n)
    except UnusableAnswersError:
        return
    assert labels.shape == (n, N_DIMENSIONS)
    assert labels.dtype == np.int8
    assert all(0 <= row[i] < len(d.labels) for row in labels for i, d in enumerate(DIMENSIONS))
    if value is None:
        return  # each reaction was asked for alone
    given = {entry["id"]: entry for entry in value["labels"]}
    for i, row in enumerate(labels, start=1):  # nothing is guessed
        assert [d.labels[k] for d, k in zip(DIMENSIONS, row, strict=True)] == [
            given[i][d.name] for d in DIMENSIONS
        ]


def make_intervention(random: Random) -> bytes:
    """An intervention as text, changed."""
    text = f"{pick(random, KINDS)}/{pick(random, INTENSITIES)}"
    if random.random() < 0.6:
        text += ": " + "We looked into it. 查过了"
    if random.random() < 0.1:
        text = "none"
    for _ in range(rounds(random) - (random.random() < 0.3)):
        text = changed_text(random, text)
    return text.encode("utf-8", "surrogatepass")


def read_intervention(data: bytes, folder: Path) -> None:
    """The strict reader of a planner's answers."""
    text = text_of(data)
    found = parse_intervention(text)
    if found is not None:
        assert intervention_text(found) == text.strip(), "what was read is not what was written"
        assert parse_intervention(intervention_text(found)) == found
        assert found.message is None or len(found.message) <= MESSAGE_CHARACTERS
        json.dumps(found.message).encode()


TARGETS = (
    Target("labels", "a model's answers as labels", make_labels, read_labels, 0.14),
    Target(
        "intervention", "a model's answers as interventions", make_intervention, read_intervention,
        0.62,
    ),
)  # fmt: skip
