"""How varied texts and labels are, and how likely texts are.

Texts are cut into units that need no tokenizer: ``"character"`` (every character but white space,
for Chinese and the like) or ``"word"`` (what white space separates). Diversity depends on the
number of texts, so compare as many texts of each side.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mfenv.distributions import normalise
from mfenv.labels import OFFSETS

__all__ = ["Unit", "distinct_n", "label_entropy", "nll_per_token", "self_bleu"]

Floats = NDArray[np.float64]
Unit = Literal["character", "word"]

_EPSILON = 0.1  # stands for the matches of an order that has none


def _units(text: str, unit: Unit) -> list[str]:
    if unit not in get_args(Unit):
        raise ValueError(f"unknown unit {unit!r}; allowed: {', '.join(get_args(Unit))}")
    words = text.split()
    return words if unit == "word" else list("".join(words))


def _ngrams(units: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(units[i : i + n]) for i in range(len(units) - n + 1))


def distinct_n(texts: Sequence[str], n: int, unit: Unit) -> float:
    """Different n-grams of all texts over all their n-grams, 0 to 1 (Li et al., NAACL 2016).

    NaN where no text has ``n`` units.
    """
    if n < 1:
        raise ValueError(f"n must be at least 1, got {n}")
    found: Counter[tuple[str, ...]] = Counter()
    for text in texts:
        found.update(_ngrams(_units(text, unit), n))
    return len(found) / found.total() if found else math.nan


def self_bleu(texts: Sequence[str], unit: Unit, order: int = 4) -> float:
    """Mean BLEU of each text against all the others, 0 to 1: 1 where all say the same.

    Zhu et al., "Texygen", SIGIR 2018; BLEU of Papineni et al., ACL 2002, of a single text: the
    geometric mean of the clipped n-gram precisions up to ``order`` times the brevity penalty (the
    reference of the nearest length, the shorter of two). A text shorter than ``order`` units is
    judged by the orders that it has. An order without any match counts as 0.1 matches (Chen and
    Cherry, WMT 2014, method 1); where not even a single unit is shared BLEU is 0. Texts without
    any unit (silent reposts) are left out; NaN where fewer than two are left.
    """
    if order < 1:
        raise ValueError(f"order must be at least 1, got {order}")
    cut = [units for units in (_units(text, unit) for text in texts) if units]
    if len(cut) < 2:
        return math.nan
    sizes = sorted(map(len, cut))
    log_precision = np.zeros((order, len(cut)))
    shared = np.ones(len(cut), dtype=bool)
    for n in range(1, order + 1):
        grams = [_ngrams(units, n) for units in cut]
        most = _largest_two(grams)
        for i, mine in enumerate(grams):
            total = mine.total()
            if not total:
                continue
            hits = 0
            for gram, count in mine.items():
                first, owner, second = most[gram]
                hits += min(count, second if owner == i else first)
            shared[i] &= n > 1 or hits > 0
            log_precision[n - 1, i] = math.log((hits or _EPSILON) / total)
    scores = np.zeros(len(cut))
    for i, units in enumerate(cut):
        if shared[i]:
            orders = min(order, len(units))
            penalty = min(0.0, 1 - _nearest(sizes, len(units)) / len(units))
            scores[i] = math.exp(penalty + log_precision[:orders, i].mean())
    return float(scores.mean())


def _largest_two(
    grams: Sequence[Counter[tuple[str, ...]]],
) -> dict[tuple[str, ...], tuple[int, int, int]]:
    """For each n-gram its largest count in one text, which text, and the largest in another."""
    most: dict[tuple[str, ...], tuple[int, int, int]] = {}
    for i, each in enumerate(grams):
        for gram, count in each.items():
            first, owner, second = most.get(gram, (0, -1, 0))
            if count > first:
                most[gram] = count, i, first
            elif count > second:
                most[gram] = first, owner, count
    return most


def _nearest(sizes: Sequence[int], size: int) -> int:
    """The length in sorted ``sizes`` that is nearest to ``size``, one of which is a text's own."""
    at = bisect_left(sizes, size)
    others = [*sizes[max(at - 1, 0) : at], *sizes[at + 1 : at + 2]]
    return min(others, key=lambda other: (abs(other - size), other))


def label_entropy(count: ArrayLike) -> Floats:
    """Entropy in nats of every dimension: counts ``(..., 23)`` give ``(..., 8)``."""
    p = normalise(count)
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(p > 0, -p * np.log(p), 0.0)
    result: Floats = np.add.reduceat(terms, OFFSETS[:-1], axis=-1)
    return result


def nll_per_token(nats: ArrayLike, tokens: ArrayLike) -> Floats:
    """Negative log-likelihood per token from sums of -log p ``(...)`` and of tokens ``(...)``.

    To pool texts, sum both first: the ratio of the sums weighs every token alike, the mean of the
    texts' ratios does not. Raises ``ValueError`` where there are no tokens.
    """
    n = np.asarray(tokens, dtype=float)
    if np.any(n < 1):
        raise ValueError("nll_per_token needs at least one token")
    result: Floats = np.asarray(nats, dtype=float) / n
    return result
