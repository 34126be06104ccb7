"""The eight label dimensions of a reaction, and how labels are stored as arrays.

A label set of ``n`` reactions is an ``int8`` array of shape ``(n, 8)``: column ``d`` holds the
index of the label within dimension ``d``. A distribution over labels is a float array of shape
``(23,)``: the labels of all dimensions one after the other, each dimension summing to one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "DIMENSIONS",
    "NAMES",
    "N_DIMENSIONS",
    "N_LABELS",
    "OFFSETS",
    "SILENT_REPOST",
    "SLICES",
    "Dimension",
    "Labels",
    "decode",
    "decode_code",
    "dimension",
    "encode",
    "encode_code",
    "one_hot",
]

Labels = NDArray[np.int8]
"""Labels of ``n`` reactions: shape ``(n, 8)``, index of the label within its dimension."""


@dataclass(frozen=True, slots=True)
class Dimension:
    """One label dimension: its name, its labels in order, and their one-letter codes."""

    name: str
    labels: tuple[str, ...]
    codes: str

    def index(self, label: str) -> int:
        """Return the index of ``label``; raise ``ValueError`` naming the allowed labels."""
        try:
            return self.labels.index(label)
        except ValueError:
            allowed = ", ".join(self.labels)
            raise ValueError(f"{self.name}: unknown label {label!r}; allowed: {allowed}") from None


# The order is fixed: it is the order of every label array and of every distribution.
DIMENSIONS: tuple[Dimension, ...] = (
    Dimension("rumor", ("spread", "counter"), "sc"),
    Dimension("sentiment_state", ("angry", "calm", "happy", "sad", "fear", "surprise"), "achsfu"),
    Dimension("sentiment_tendency", ("positive", "negative", "neutral"), "pnz"),
    Dimension("behavior", ("comment", "share"), "cr"),
    Dimension("stance", ("support", "oppose", "neutral"), "son"),
    Dimension("belief", ("believe", "doubt"), "bd"),
    Dimension("subjectivity", ("subjective", "objective"), "so"),
    Dimension("intent", ("question", "promotion", "opinion"), "qpo"),
)
N_DIMENSIONS = len(DIMENSIONS)
OFFSETS: tuple[int, ...] = tuple(
    int(x) for x in np.cumsum([0, *(len(d.labels) for d in DIMENSIONS)])
)
N_LABELS = OFFSETS[-1]
NAMES: tuple[str, ...] = tuple(f"{d.name}/{label}" for d in DIMENSIONS for label in d.labels)
SLICES: Mapping[str, slice] = MappingProxyType(
    {d.name: slice(OFFSETS[i], OFFSETS[i + 1]) for i, d in enumerate(DIMENSIONS)}
)


def dimension(name: str) -> int:
    """Return the position of the dimension called ``name``; ``ValueError`` names the others."""
    for i, d in enumerate(DIMENSIONS):
        if d.name == name:
            return i
    allowed = ", ".join(d.name for d in DIMENSIONS)
    raise ValueError(f"unknown dimension {name!r}; allowed: {allowed}")


def encode(labels: Mapping[str, str] | Sequence[str]) -> Labels:
    """Encode one reaction's label names as an ``int8`` array of shape ``(8,)``.

    ``labels`` maps dimension names to label names, or lists label names in the order of
    ``DIMENSIONS``. Raises ``ValueError`` for a missing dimension or an unknown label.
    """
    if isinstance(labels, Mapping):
        missing = [d.name for d in DIMENSIONS if d.name not in labels]
        if missing:
            raise ValueError(f"labels lack the dimensions: {', '.join(missing)}")
        labels = [labels[d.name] for d in DIMENSIONS]
    if len(labels) != N_DIMENSIONS:
        raise ValueError(f"{len(labels)} labels given, {N_DIMENSIONS} needed")
    return np.array([d.index(x) for d, x in zip(DIMENSIONS, labels, strict=True)], dtype=np.int8)


def decode(labels: Labels) -> dict[str, str]:
    """Name the labels of one reaction, array of shape ``(8,)``."""
    return {d.name: d.labels[int(i)] for d, i in zip(DIMENSIONS, labels, strict=True)}


def encode_code(code: str) -> Labels:
    """Encode an eight-letter label string such as ``"sczrnbop"``; shape ``(8,)``."""
    if len(code) != N_DIMENSIONS:
        raise ValueError(f"label code {code[:20]!r} must have {N_DIMENSIONS} letters")
    out = np.empty(N_DIMENSIONS, dtype=np.int8)
    for i, (d, letter) in enumerate(zip(DIMENSIONS, code, strict=True)):
        position = d.codes.find(letter)
        if position < 0:
            raise ValueError(f"label code {code!r}: {letter!r} is none of {d.codes!r} ({d.name})")
        out[i] = position
    return out


def decode_code(labels: Labels) -> str:
    """Write one reaction's labels, shape ``(8,)``, as an eight-letter string."""
    return "".join(d.codes[int(i)] for d, i in zip(DIMENSIONS, labels, strict=True))


def one_hot(labels: Labels) -> NDArray[np.float64]:
    """Turn labels ``(..., 8)`` into indicator rows ``(..., 23)``, one 1 in each dimension."""
    labels = np.asarray(labels)
    out = np.zeros((*labels.shape[:-1], N_LABELS))
    index = labels.astype(np.intp) + np.asarray(OFFSETS[:-1])
    np.put_along_axis(out, index, 1.0, axis=-1)
    return out


SILENT_REPOST: Labels = encode_code("sczrnbop")
"""Labels of a repost without words of its own, by rule."""
SILENT_REPOST.setflags(write=False)
