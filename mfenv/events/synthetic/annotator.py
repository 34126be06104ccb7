"""Exact labels for texts that the synthetic grammar wrote."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mfenv.dynamics.models import Annotator
from mfenv.errors import ModelError
from mfenv.events.synthetic.grammar import parse
from mfenv.labels import N_DIMENSIONS, N_LABELS, Labels, one_hot

__all__ = ["ExactAnnotator"]


class ExactAnnotator:
    """Reads texts by the grammar; what it cannot read goes to a fallback annotator.

    Without a fallback such a text raises :class:`~mfenv.errors.ModelError`: a guess must not pass
    for an exact label. :meth:`label_with_coverage` says which labels are exact.
    """

    name = "exact"

    def __init__(self, fallback: Annotator | None = None) -> None:
        self.fallback = fallback
        if fallback is not None:
            self.name = f"exact+{fallback.name}"

    def label(
        self, topics: Sequence[str], texts: Sequence[str], languages: Sequence[str]
    ) -> Labels:
        """Labels ``(n, 8)``; raises ``ModelError`` for an unread text where no fallback is set."""
        return self.label_with_coverage(topics, texts, languages)[0]

    def label_with_coverage(
        self, topics: Sequence[str], texts: Sequence[str], languages: Sequence[str]
    ) -> tuple[Labels, NDArray[np.bool_]]:
        """Labels ``(n, 8)`` and the mask ``(n,)`` of those that the grammar read exactly."""
        labels, exact = self._read(texts)
        rest = np.flatnonzero(~exact)
        if len(rest):
            labels[rest] = self._fallback(texts, rest).label(
                *([column[int(i)] for i in rest] for column in (topics, texts, languages))
            )
        return labels, exact

    def probabilities(
        self, topics: Sequence[str], texts: Sequence[str], languages: Sequence[str]
    ) -> NDArray[np.float64]:
        """Label probabilities ``(n, 23)``: 0 or 1 where the text was read exactly."""
        labels, exact = self._read(texts)
        result = one_hot(labels) if len(texts) else np.empty((0, N_LABELS))
        rest = np.flatnonzero(~exact)
        if len(rest):
            result[rest] = self._fallback(texts, rest).probabilities(
                *([column[int(i)] for i in rest] for column in (topics, texts, languages))
            )
        return result

    @staticmethod
    def _read(texts: Sequence[str]) -> tuple[Labels, NDArray[np.bool_]]:
        labels = np.zeros((len(texts), N_DIMENSIONS), dtype=np.int8)
        exact = np.zeros(len(texts), dtype=bool)
        for i, text in enumerate(texts):
            found = parse(text)
            if found is not None:
                labels[i], exact[i] = found, True
        return labels, exact

    def _fallback(self, texts: Sequence[str], rest: NDArray[np.intp]) -> Annotator:
        if self.fallback is None:
            text = texts[int(rest[0])]
            raise ModelError(
                f"the grammar cannot have written {text[:80]!r} ({len(rest)} such of {len(texts)} "
                "texts); give ExactAnnotator a trained annotator as its fallback"
            )
        return self.fallback
