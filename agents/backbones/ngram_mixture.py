"""An n-gram model that also reads: words of the topic and of the mean field mix with its own.

An n-gram model knows the last few tokens of what it writes and nothing of its prompt. So its next
token is a linear mixture (Jelinek and Mercer 1980) with caches (Kuhn and De Mori, IEEE TPAMI 12,
1990) of what was read: the topic with its notices, and the reactions that the mean field quotes.
With g the n-gram model and w any token but the end,

    p(w | h) = l_0 g(w | h) + (1 - g(end | h)) · sum over caches k of l_k c_k(w | h)

Of the topic and of the quotations there are three caches each: the shares of all their tokens, of
those that stand behind the last token written, and behind the last two. A cache that is empty there
leaves its weight to g. The weights l sum to one; the first token of a text has its own. A text ends
as g says, with one exception: where the mean field states the share s of reposts, nothing at all is
written with the chance sigmoid(a + b logit s).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agents.backbones.kneser_ney import KneserNey
from agents.backbones.vocabulary import END, Vocabulary

__all__ = ["SOURCES", "Mixture", "Prompt", "Reading", "Walk", "log_odds", "read"]

Floats = NDArray[np.float64]
Ids = NDArray[np.int64]
Mask = NDArray[np.bool_]

SOURCES = (
    "n-grams",
    "topic",
    "topic behind one",
    "topic behind two",
    "quotations",
    "quotations behind one",
    "quotations behind two",
)
"""Where a token comes from, in the order of the weights."""

_NOTHING = -1  # behind the last text that was read
_EXTREME = 0.02  # shares are stated on a grid; 0% and 100% say less than they seem to


@dataclass(frozen=True, slots=True)
class Prompt:
    """What is read of a prompt."""

    topic: str
    quotations: tuple[str, ...] = ()
    reposts: float | None = None
    """The share of reposts that the mean field states."""


@dataclass(frozen=True, slots=True)
class Reading:
    """Some prompts as arrays, each different one of the ``G`` once."""

    group: Ids
    """Which of them each row of the batch has, ``(n,)``."""
    tokens: Ids
    """The tokens of the topic and then of the quotations, ``(G, L)``.

    The start of a text stands before each, -1 behind the last one.
    """
    quoted: Mask
    """Which tokens are quoted, ``(G, L)``."""
    reposts: Floats
    """The stated share of reposts, ``(G,)``; NaN where none is."""


@dataclass(frozen=True, slots=True)
class Walk:
    """Where some texts are that are written side by side."""

    contexts: Ids
    """Of the n-gram model, ``(b, order - 1)``."""
    last: Ids
    """The last two tokens, ``(b, 2)``; the start of a text is a token of its own."""

    def some(self, keep: Mask) -> Walk:
        """Those of the texts to ``keep`` ``(b,)``."""
        return Walk(self.contexts[keep], self.last[keep])


def read(prompts: Sequence[Prompt], vocabulary: Vocabulary) -> Reading:
    """Encode prompts; equal ones are read once."""
    distinct = {prompt: k for k, prompt in enumerate(dict.fromkeys(prompts))}
    start = len(vocabulary)
    rows = []
    for prompt in distinct:
        texts = [[start, *vocabulary.encode(t)] for t in (prompt.topic, *prompt.quotations)]
        rows.append((len(texts[0]), [token for text in texts for token in text]))
    width = max((len(row) for _, row in rows), default=1)
    tokens = np.full((len(rows), width), _NOTHING)
    for k, (_, row) in enumerate(rows):
        tokens[k, : len(row)] = row
    behind = np.arange(width) >= np.array([topic for topic, _ in rows])[:, None]
    return Reading(
        np.array([distinct[p] for p in prompts], dtype=np.int64),
        tokens,
        behind & (tokens != _NOTHING) & (tokens != start),
        np.array([np.nan if p.reposts is None else p.reposts for p in distinct]),
    )


def log_odds(reposts: Floats) -> Floats:
    """The log-odds of stated shares, which are kept off 0 and 1."""
    s = np.clip(reposts, _EXTREME, 1 - _EXTREME)
    return np.asarray(np.log(s / (1 - s)))


class Mixture:
    """The model: an n-gram model, the weights of the mixture, and when nothing is written."""

    def __init__(self, ngrams: KneserNey, weights: Floats, silence: Floats) -> None:
        """Take weights ``(2, 7)`` of :data:`SOURCES`, for the first token and for all others.

        ``silence`` ``(2,)`` are a and b; NaN: stated shares are not used. Raises ``ValueError``
        where the weights are no distributions.
        """
        shape = (2, len(SOURCES))
        if weights.shape != shape or silence.shape != (2,):
            raise ValueError(f"the weights of the mixture are not of shape {shape} and (2,)")
        if not ((weights >= 0).all() and np.allclose(weights.sum(axis=-1), 1, atol=1e-5)):
            raise ValueError("the weights of the mixture do not sum to one")
        if np.isinf(silence).any():
            raise ValueError("the chance that nothing is written is not finite")
        self.ngrams = ngrams
        self.weights: Floats = weights / weights.sum(axis=-1, keepdims=True)
        self.silence = silence

    def begin(self, rows: int) -> Walk:
        """Texts ``(rows,)`` that are yet to be written."""
        return Walk(self.ngrams.begin(rows), np.full((rows, 2), self.ngrams.start))

    def advance(self, walk: Walk, tokens: Ids, keep: Mask) -> Walk:
        """Those texts to ``keep`` ``(b,)`` after one more token each ``(b,)``."""
        walk, tokens = walk.some(keep), tokens[keep]
        return Walk(
            self.ngrams.advance(walk.contexts, tokens),
            np.stack([walk.last[:, 1], tokens], axis=1),
        )

    def probabilities(self, reading: Reading, rows: Ids, walk: Walk) -> Floats:
        """The distribution ``(b, V)`` of the next token of each of some rows of a reading."""
        p = self.ngrams.probabilities(walk.contexts)
        end = p[:, END].copy()
        own, parts = self._weighted(reading, rows, walk)
        p *= own[:, None]
        r, at = np.nonzero(parts)
        np.add.at(p, (r, reading.tokens[reading.group[rows[r]], at]), (1 - end[r]) * parts[r, at])
        ends = self._ends(reading, rows, walk, end)
        p *= ((1 - ends) / (1 - end))[:, None]
        p[:, END] = ends
        return p

    def chances(self, reading: Reading, rows: Ids, walk: Walk, tokens: Ids) -> Floats:
        """The chance ``(b,)`` of one token ``(b,)`` in :meth:`probabilities`."""
        end = self._end(walk)
        own, parts = self._weighted(reading, rows, walk)
        same = reading.tokens[reading.group[rows]] == tokens[:, None]
        p = own * self.ngrams.chances(walk.contexts, tokens)
        p += (1 - end) * (parts * same).sum(axis=1)
        ends = self._ends(reading, rows, walk, end)
        return np.where(tokens == END, ends, p * (1 - ends) / (1 - end))

    def sources(self, reading: Reading, rows: Ids, walk: Walk, tokens: Ids) -> Floats:
        """What each source says of tokens ``(b,)``, none the end, given that none ends: ``(b, 7)``.

        An empty cache says what the n-gram model says.
        """
        own = self.ngrams.chances(walk.contexts, tokens) / (1 - self._end(walk))
        same = reading.tokens[reading.group[rows]] == tokens[:, None]
        said = [own]
        for cache in self._caches(reading, rows, walk):
            size = cache.sum(axis=1)
            said.append(np.where(size > 0, (cache & same).sum(axis=1) / np.maximum(size, 1), own))
        return np.stack(said, axis=1)

    def _end(self, walk: Walk) -> Floats:
        """The n-gram model's chances ``(b,)`` of the end."""
        return self.ngrams.chances(walk.contexts, np.full(len(walk.last), END))

    def _ends(self, reading: Reading, rows: Ids, walk: Walk, end: Floats) -> Floats:
        """The chances ``(b,)`` of the end; ``end`` are those of the n-gram model."""
        stated = log_odds(reading.reposts[reading.group[rows]])
        a, b = self.silence
        use = ~np.isnan(stated + a + b) & (walk.last[:, 1] == self.ngrams.start)
        return np.where(use, 1 / (1 + np.exp(-(a + b * np.where(use, stated, 0.0)))), end)

    def _weighted(self, reading: Reading, rows: Ids, walk: Walk) -> tuple[Floats, Floats]:
        """The n-gram model's weight ``(b,)``, and that of each token that was read ``(b, L)``."""
        later = (walk.last[:, 1] != self.ngrams.start).astype(np.int64)
        weights = self.weights[later]
        own = weights[:, 0].copy()
        parts = np.zeros((len(rows), reading.tokens.shape[1]))
        for k, cache in enumerate(self._caches(reading, rows, walk), start=1):
            size = cache.sum(axis=1)
            own += np.where(size == 0, weights[:, k], 0.0)
            parts += (weights[:, k] / np.maximum(size, 1))[:, None] * cache
        return own, parts

    def _caches(self, reading: Reading, rows: Ids, walk: Walk) -> list[Mask]:
        """Which tokens ``(b, L)`` that were read are in each of the six caches."""
        group = reading.group[rows]
        tokens, quoted = reading.tokens[group], reading.quoted[group]
        topic = (tokens != _NOTHING) & (tokens != self.ngrams.start) & ~quoted
        one, two = np.zeros_like(topic), np.zeros_like(topic)
        one[:, 1:] = tokens[:, :-1] == walk.last[:, 1, None]
        two[:, 2:] = one[:, 2:] & (tokens[:, :-2] == walk.last[:, 0, None])
        return [text & behind for text in (topic, quoted) for behind in (True, one, two)]
