"""An interpolated n-gram model over token ids, as sorted arrays: what comes next, for many rows.

    p_k(w | h) = a(h, w) + left(h) · p_{k-1}(w | h')        h' is h without its first token

``a`` are the discounted relative frequencies of the n-grams that are known, and ``left(h)``, what
they leave of 1, goes to the shorter context. Where ``h`` is unknown, p_k is p_{k-1}. So the chances
sum to one whatever is stored. With the counts and discounts of Chen and Goodman, "An empirical
study of smoothing techniques for language modeling", Computer Speech & Language 13 (1999), this is
modified Kneser-Ney smoothing; :mod:`training.kneser_ney` estimates it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["KneserNey", "Level"]

Floats = NDArray[np.float64]
Ids = NDArray[np.int64]

_UNKNOWN = -1  # the id of a context that is not stored


@dataclass(frozen=True, slots=True)
class Level:
    """The n-grams of one length, sorted by what they begin with, then by their last token.

    ``children`` ``(m,)``: how many begin with each of the ``m`` n-grams that are a token shorter;
    ``tokens`` ``(n,)``: the last token of each; ``chances`` ``(n,)``: their part a(h, w).
    """

    children: Ids
    tokens: Ids
    chances: Floats


class KneserNey:
    """The model. Tokens are 0 to ``vocabulary`` - 1; ``start`` stands before a text.

    The context of a row is an array ``(order - 1,)`` of ids: of its last token, its last two
    tokens and so on, each an index into the n-grams of that length, -1 where it is not stored.
    """

    def __init__(self, unigram: Floats, levels: Sequence[Level]) -> None:
        """Take the chances ``(V,)`` of single tokens and the levels from pairs of tokens upwards.

        Raises ``ValueError`` where they are no model: chances that are no distribution, or
        n-grams that do not fit together.
        """
        self.vocabulary = self.start = len(unigram)
        self.order = len(levels) + 1
        self.levels = tuple(levels)
        if not levels:
            raise ValueError("there are no n-grams")
        if not (unigram > 0).all() or not np.isfinite(unigram).all():
            raise ValueError("a token has no chance of its own")
        self.unigram: Floats = unigram / unigram.sum()
        self._keys: list[Ids] = []  # context · (V + 1) + token of every n-gram, ascending
        self._first: list[Ids] = []  # where the n-grams of each context begin
        self._left: list[Floats] = []
        shorter = self.vocabulary + 1
        for k, level in enumerate(self.levels, start=2):
            children, tokens, chances = level.children, level.tokens, level.chances
            if len(children) != shorter or children.min(initial=0) < 0:
                raise ValueError(f"{k}-grams do not fit to those that are a token shorter")
            if not children.sum() == len(tokens) == len(chances):
                raise ValueError(f"there are not as many {k}-grams as their contexts have")
            if len(tokens) and not 0 <= tokens.min() <= tokens.max() < self.vocabulary:
                raise ValueError(f"a {k}-gram ends in a token that is not there")
            context = np.repeat(np.arange(shorter), children)
            keys = context * (self.vocabulary + 1) + tokens
            if not (np.diff(keys) > 0).all():
                raise ValueError(f"{k}-grams are not in order")
            left = 1.0 - np.bincount(context, chances, minlength=shorter)
            if not ((chances >= 0).all() and (left > 0).all()):  # not with NaN either
                raise ValueError(f"the chances of {k}-grams are no part of 1")
            self._keys.append(keys)
            self._first.append(np.cumsum(children) - children)
            self._left.append(np.asarray(left, dtype=np.float64))
            shorter = len(tokens)

    @property
    def parameters(self) -> int:
        """How many chances are stored."""
        return self.vocabulary + sum(len(level.tokens) for level in self.levels)

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """What :meth:`from_arrays` reads.

        Chances of n-grams are rounded down to half precision, so that what they leave is positive.
        """
        result: dict[str, NDArray[np.generic]] = {"unigram": self.unigram.astype(np.float32)}
        for k, level in enumerate(self.levels, start=2):
            half = level.chances.astype(np.float16)
            half = np.where(half > level.chances, np.nextafter(half, np.float16(0)), half)
            result[f"children.{k}"] = level.children.astype(np.uint16)
            result[f"tokens.{k}"] = level.tokens.astype(np.uint16)
            result[f"chances.{k}"] = half.astype(np.float16)
        return result

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]]) -> KneserNey:
        """The model of some arrays; ``ValueError`` or ``KeyError`` where they are none."""
        order = 1 + sum(name.startswith("tokens.") for name in arrays)
        levels = [
            Level(
                np.asarray(arrays[f"children.{k}"], dtype=np.int64).reshape(-1),
                np.asarray(arrays[f"tokens.{k}"], dtype=np.int64).reshape(-1),
                np.asarray(arrays[f"chances.{k}"], dtype=np.float64).reshape(-1),
            )
            for k in range(2, order + 1)
        ]
        return cls(np.asarray(arrays["unigram"], dtype=np.float64).reshape(-1), levels)

    def begin(self, rows: int) -> Ids:
        """The contexts ``(rows, order - 1)`` of texts that are yet to be written."""
        contexts = np.full((rows, self.order - 1), _UNKNOWN)
        contexts[:, 0] = self.start
        return contexts

    def advance(self, contexts: Ids, tokens: Ids) -> Ids:
        """Contexts ``(b, order - 1)`` after one more token each, ``(b,)``."""
        result = np.empty_like(contexts)
        result[:, 0] = tokens
        for k in range(self.order - 2):
            result[:, k + 1] = self._find(k, contexts[:, k], tokens)
        return result

    def chances(self, contexts: Ids, tokens: Ids) -> Floats:
        """The chance ``(b,)`` of one token ``(b,)`` behind each context ``(b, order - 1)``."""
        p = self.unigram[tokens]
        for k, level in enumerate(self.levels):
            known = np.flatnonzero(contexts[:, k] != _UNKNOWN)
            ids = contexts[known, k]
            found = self._find(k, ids, tokens[known])
            p[known] *= self._left[k][ids]
            hit = found != _UNKNOWN
            p[known[hit]] += level.chances[found[hit]]
        return p

    def probabilities(self, contexts: Ids) -> Floats:
        """The distribution ``(b, V)`` behind each context ``(b, order - 1)``."""
        some, which = np.unique(contexts, axis=0, return_inverse=True)
        left = np.ones(len(some))
        scales = []
        for k in reversed(range(self.order - 1)):
            known = np.flatnonzero(some[:, k] != _UNKNOWN)
            scales.append((k, known, left[known]))
            left[known] *= self._left[k][some[known, k]]
        p = left[:, None] * self.unigram
        for k, known, scale in scales:
            level, ids = self.levels[k], some[known, k]
            count = level.children[ids]
            end = np.cumsum(count)
            at = np.arange(end[-1] if len(end) else 0)
            at += np.repeat(self._first[k][ids] - (end - count), count)
            rows = np.repeat(known, count)
            p[rows, level.tokens[at]] += np.repeat(scale, count) * level.chances[at]
        return np.asarray(p[which.reshape(-1)])

    def _find(self, k: int, contexts: Ids, tokens: Ids) -> Ids:
        """Indices among the n-grams of level ``k`` of contexts ``(b,)`` and tokens; -1: unknown."""
        keys = self._keys[k]
        if not len(keys):
            return np.full(len(tokens), _UNKNOWN)
        wanted = contexts * (self.vocabulary + 1) + tokens
        at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        return np.where((keys[at] == wanted) & (contexts != _UNKNOWN), at, _UNKNOWN)
