"""A language model as the annotator: a rubric, batches of reactions, and answers that are checked.

Written ``llm:BACKBONE``, for example ``llm:openai:MODEL@BASE_URL``. Every answer must be JSON with
exactly one entry for each reaction, known by its number; what is not is asked again, then reaction
by reaction, and at last raised. Nothing is padded and nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.annotators.rules import silent_reposts
from agents.backbones.base import JsonBackbone, Message, UnusableAnswersError
from agents.prompts.untrusted import REACTION_CHARACTERS, TOPIC_CHARACTERS, quote
from mfenv.dynamics.assemble import build_backbone
from mfenv.errors import MfenvError
from mfenv.labels import DIMENSIONS, N_DIMENSIONS, SILENT_REPOST, Labels, one_hot
from mfenv.noise import NoiseKey

__all__ = ["BATCH", "LanguageModelAnnotator", "from_spec", "schema"]

BATCH = 20
"""Reactions to one topic that are labelled by one answer."""

_ANNOTATOR = -2  # the agent of an annotator's noise key
_TRIES = 2  # of a whole batch

_Row = tuple[str, str]  # topic, text


def schema(n: int) -> dict[str, Any]:
    """The JSON schema of labels for ``n`` reactions."""
    labels = {d.name: {"type": "string", "enum": list(d.labels)} for d in DIMENSIONS}
    entry = {
        "type": "object",
        "properties": {"id": {"type": "integer"}, **labels},
        "required": ["id", *labels],
        "additionalProperties": False,
    }
    return {
        "type": "object",
        "properties": {"labels": {"type": "array", "items": entry, "minItems": n, "maxItems": n}},
        "required": ["labels"],
        "additionalProperties": False,
    }


class LanguageModelAnnotator:
    """Labels reactions with a language model that can be asked for JSON."""

    def __init__(self, backbone: JsonBackbone, *, batch: int = BATCH) -> None:
        """``batch`` reactions at most are labelled by one answer."""
        if batch < 1:
            raise ValueError(f"batch {batch} is not allowed; allowed: 1 or more")
        self.backbone, self.batch = backbone, batch
        self.name = f"llm:{backbone.name}"
        self._rubric = files(__package__).joinpath("rubric.md").read_text(encoding="utf-8")

    def probabilities(
        self, topics: Sequence[str], texts: Sequence[str], languages: Sequence[str]
    ) -> NDArray[np.float64]:
        """The labels as one-hot rows ``(n, 23)``: a model that names labels gives no shares."""
        return one_hot(self.label(topics, texts, languages))

    def label(
        self, topics: Sequence[str], texts: Sequence[str], languages: Sequence[str]
    ) -> Labels:
        """Labels ``(n, 8)``; reposts without words are labelled by rule, equal rows once.

        Raises ``UnusableAnswersError`` if a reaction got no answer that can be used, and
        ``ModelError`` if the model could not be asked.
        """
        rows = list(zip(topics, texts, strict=True))
        silent = silent_reposts(texts)
        asked = list(dict.fromkeys(r for r, s in zip(rows, silent, strict=True) if not s))
        known = self._ask(asked)
        labels = [SILENT_REPOST if s else known[row] for row, s in zip(rows, silent, strict=True)]
        return np.array(labels, dtype=np.int8).reshape(-1, N_DIMENSIONS)

    def _ask(self, rows: Sequence[_Row]) -> dict[_Row, Labels]:
        by_topic: dict[str, list[_Row]] = {}
        for row in rows:
            by_topic.setdefault(row[0], []).append(row)
        batches = [
            of[i : i + self.batch]
            for of in by_topic.values()
            for i in range(0, len(of), self.batch)
        ]
        known: dict[_Row, Labels] = {}
        for attempt in range(_TRIES):
            batches = self._round(batches, attempt, known)
        left = self._round([[row] for batch in batches for row in batch], _TRIES, known)
        if left:
            raise UnusableAnswersError(
                f"{self.name}: {len(left)} of {len(rows)} reactions got no labels that can be "
                f"used, though each was asked for alone; the first begins {left[0][0][1][:40]!r}",
                [rows.index(row) for batch in left for row in batch],
            )
        return known

    def _round(
        self, batches: Sequence[list[_Row]], attempt: int, known: dict[_Row, Labels]
    ) -> list[list[_Row]]:
        """Ask for batches, put what was learned into ``known``, return those without an answer."""
        left: list[list[_Row]] = []
        for size in sorted({len(b) for b in batches}, reverse=True):
            same = [b for b in batches if len(b) == size]
            for batch, answer in zip(same, self._answers(same, attempt), strict=True):
                labels = None if answer is None else _read(answer, size)
                if labels is None:
                    left.append(batch)
                else:
                    known.update(zip(batch, labels, strict=True))
        return left

    def _answers(
        self, batches: Sequence[list[_Row]], attempt: int
    ) -> list[Mapping[str, Any] | None]:
        """One answer for each of equally large batches; ``None`` where none could be used."""
        asked = [self._conversation(b) for b in batches]
        keys = [NoiseKey(0, _ANNOTATOR, attempt)] * len(batches)
        wanted = schema(len(batches[0]))
        try:
            return list(self.backbone.complete_json(asked, wanted, keys))
        except UnusableAnswersError as error:
            bad = set(error.indices)
        good = [i for i in range(len(batches)) if i not in bad]
        result: list[Mapping[str, Any] | None] = [None] * len(batches)
        if good:
            answers = self.backbone.complete_json(
                [asked[i] for i in good], wanted, keys[: len(good)]
            )
            for i, answer in zip(good, answers, strict=True):
                result[i] = answer
        return result

    def _conversation(self, batch: Sequence[_Row]) -> list[Message]:
        topic = quote(batch[0][0], TOPIC_CHARACTERS)
        lines = [
            f"{i}. {quote(text, REACTION_CHARACTERS)}" for i, (_, text) in enumerate(batch, start=1)
        ]
        asked = f"{self._rubric}\nPost: {topic}\nReactions:\n" + "\n".join(lines)
        # One message of the user's: many chat templates take no second message of the system's.
        return [{"role": "user", "content": asked}]


def _read(answer: Mapping[str, Any], size: int) -> list[Labels] | None:
    """Labels in the order of the numbers; ``None`` where the numbers are not 1 to ``size``."""
    entries = {entry["id"]: entry for entry in answer["labels"]}
    if sorted(entries) != list(range(1, size + 1)):
        return None
    return [
        np.array([d.index(entries[i][d.name]) for d in DIMENSIONS], dtype=np.int8)
        for i in range(1, size + 1)
    ]


def from_spec(spec: str = "") -> LanguageModelAnnotator:
    """``BACKBONE`` → an annotator; written ``llm:BACKBONE`` in the CLI."""
    if not spec:
        raise MfenvError("annotator llm needs a backbone: llm:openai:MODEL@BASE_URL")
    backbone = build_backbone(spec)
    if not isinstance(backbone, JsonBackbone):
        raise MfenvError(
            f"annotator llm: backbone {spec!r} cannot be asked for JSON; allowed: a served one, "
            "openai:MODEL@BASE_URL"
        )
    return LanguageModelAnnotator(backbone)
