"""Modified Kneser-Ney smoothing: from texts to an n-gram model, without what only few events hold.

Chen and Goodman, "An empirical study of smoothing techniques for language modeling", Computer
Speech & Language 13 (1999): an n-gram of the highest order counts as often as it occurs, a shorter
one as often as different tokens stand before it (one that begins a text, where none does, as often
as it occurs). D_1, D_2 and D_3 are taken off counts of one, two, and three or more.

N-grams that occur in few events are left out. What they would have explained is left to the shorter
ones: a shorter n-gram counts once for each longer one that is kept and ends in it, and as often as
it occurs for those that are not (Siivola, Hirsimäki and Virpioja, "On growing and pruning
Kneser-Ney smoothed n-gram models", IEEE TASLP 15, 2007). Where nothing is left out that is Chen and
Goodman's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agents.backbones.kneser_ney import KneserNey, Level
from agents.backbones.vocabulary import END

__all__ = ["discounts", "estimate"]

Ids = NDArray[np.int64]
Floats = NDArray[np.float64]

_UNKNOWN = -1
_USUAL = (0.5, 1.0, 1.5)  # discounts where too little was counted to estimate them


@dataclass(slots=True)
class _Counted:
    """The n-grams of one length behind known contexts, sorted by context and token."""

    context: Ids  # (n,) index among the known n-grams that are a token shorter
    token: Ids  # (n,)
    count: Ids  # (n,) occurrences, then the modified count
    kept: NDArray[np.bool_]  # (n,)
    ending: Ids  # (kept,) what each kept one ends in, an index among the known shorter ones


def estimate(
    texts: Sequence[Sequence[int]],
    events: Sequence[int],
    *,
    vocabulary: int,
    order: int,
    min_events: int = 1,
) -> KneserNey:
    """Fit a model to texts (token ids without their ends), each of an event (any number).

    N-grams of two and more tokens that occur in fewer than ``min_events`` events are left out.
    """
    lengths = np.array([len(t) + 2 for t in texts], dtype=np.int64)
    token = np.fromiter(
        (x for t in texts for x in (vocabulary, *t, END)), dtype=np.int64, count=lengths.sum()
    )
    event = np.repeat(np.asarray(events, dtype=np.int64), lengths)
    place = np.arange(len(token)) - np.repeat(np.cumsum(lengths) - lengths, lengths)

    counted: list[_Counted] = []
    shorter = token  # the id of the known n-gram that ends at each place, from one token on
    known = vocabulary + 1
    for k in range(2, order + 1):
        at = np.flatnonzero(place >= k - 1)
        at = at[shorter[at - 1] != _UNKNOWN]
        found, shorter = _count(at, token, event, shorter, vocabulary, min_events)
        counted.append(found)
        known = int(found.kept.sum())
        if not known and k < order:
            # Nothing can be longer either.
            empty = np.zeros(0, dtype=np.int64)
            none = np.zeros(0, dtype=bool)
            counted += [_Counted(empty, empty, empty, none, empty)] * (order - k)
            break
    single = np.bincount(token, minlength=vocabulary + 1)
    single[vocabulary] = 0  # nobody writes the start of a text
    kept_before: NDArray[np.bool_] = np.ones(vocabulary + 1, dtype=bool)
    counts = [single, *(c.count for c in counted)]
    for k, longer in enumerate(counted):
        # A kept n-gram explains all but one of its occurrences; the one is for what it ends in.
        index = np.flatnonzero(kept_before)[longer.ending]
        explained = np.zeros_like(counts[k])
        np.add.at(explained, index, longer.count[longer.kept] - 1)
        counts[k] = counts[k] - explained
        kept_before = longer.kept
    discounted = counts[0] - discounts(counts[0])[np.minimum(counts[0], 3)]
    total = counts[0].sum()
    unigram = discounted[:vocabulary] / total
    unigram += (1 - unigram.sum()) / vocabulary
    levels = []
    known = vocabulary + 1
    for c, count in zip(counted, counts[1:], strict=True):
        part = count - discounts(count)[np.minimum(count, 3)]
        chance = part / np.bincount(c.context, count, minlength=known)[c.context]
        children = np.bincount(c.context[c.kept], minlength=known)
        levels.append(Level(children, c.token[c.kept], chance[c.kept]))
        known = int(c.kept.sum())
    return KneserNey(unigram, levels)


def _count(
    at: Ids, token: Ids, event: Ids, shorter: Ids, vocabulary: int, min_events: int
) -> tuple[_Counted, Ids]:
    """Count the n-grams that end at some places; also the id of the kept one at every place.

    ``shorter`` are the ids of the known n-grams that are a token shorter, at every place.
    """
    key = shorter[at - 1] * (vocabulary + 1) + token[at]
    order = np.lexsort((event[at], key))
    key, owner, at = key[order], event[at][order], at[order]
    new = np.ones(len(key), dtype=bool)
    new[1:] = key[1:] != key[:-1]
    other = new.copy()
    other[1:] |= owner[1:] != owner[:-1]
    index = np.cumsum(new) - 1
    distinct = key[new]
    kept = np.bincount(index[other], minlength=len(distinct)) >= min_events
    renumbered = np.where(kept, np.cumsum(kept) - 1, _UNKNOWN)
    ids = np.full(len(token), _UNKNOWN)
    ids[at] = renumbered[index]
    one = at[new][kept]  # a place where each kept one ends
    return _Counted(
        context=distinct // (vocabulary + 1),
        token=distinct % (vocabulary + 1),
        count=np.bincount(index, minlength=len(distinct)),
        kept=kept,
        ending=shorter[one],
    ), ids


def discounts(counts: Ids) -> Floats:
    """0 and D_1 to D_3 from how many n-grams have each count (Chen and Goodman, equation 26).

    A discount that cannot be estimated, or is not between 0 and its count, is 0.5, 1 or 1.5.
    """
    n = [int((counts == c).sum()) for c in range(1, 5)]
    y = n[0] / (n[0] + 2 * n[1]) if n[0] else 0.0
    result = [0.0]
    for c, usual in enumerate(_USUAL, start=1):
        d = c - (c + 1) * y * n[c] / n[c - 1] if n[c - 1] and n[c] else usual
        result.append(d if 0 < d < c else usual)
    return np.array(result)
