"""What the classifier sees of a reaction and its topic, as arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agents.annotators.ngrams import (
    Bags,
    TextCodes,
    Tokens,
    bags,
    encode_texts,
    own_words,
    tokens,
)

__all__ = ["FORM_FEATURES", "LANGUAGES", "Features", "NGrams", "featurise"]

TOPIC_LENGTH = 120
"""Characters of the topic that are read: the annotators saw no more."""


@dataclass(frozen=True, slots=True)
class NGrams:
    """Which n-grams a language uses: of characters, of words, with gaps."""

    orders: tuple[int, ...]
    word_orders: tuple[int, ...]


LANGUAGES: dict[str, NGrams] = {
    "zh": NGrams(orders=(1, 2, 3, 4), word_orders=()),
    "en": NGrams(orders=(2, 3, 4, 5), word_orders=(1, 2, 3)),
}

_MARKS = {"?": "?", "!": "!", "[": "[", "mention": "\ue000", "link": "\ue001", "#": "#【"}

_OF_ONE = (*_MARKS, "many !", "pause", "ends with ?", "short", "brief", "long", "log length")

FORM_FEATURES: tuple[str, ...] = (
    *(f"reaction: {name}" for name in _OF_ONE),
    *(f"topic: {name}" for name in _OF_ONE),
    "overlap",
    "some overlap",
    "much overlap",
)
"""Names of the columns of :attr:`Features.form`."""


@dataclass(frozen=True, slots=True)
class Features:
    """Features of ``n`` reactions to ``m`` distinct topics.

    ``reactions`` and ``topics`` are bags of hashed n-grams, ``topic_of`` ``(n,)`` says which topic
    a reaction is about, ``form`` ``(n, len(FORM_FEATURES))`` are length, punctuation, and the
    overlap of reaction and topic, all between 0 and about 1. ``tokens`` are the reactions once
    more, in order; ``quoted`` ``(m,)`` is 1 where a token stands in the topic too.
    """

    reactions: Bags
    topics: Bags
    topic_of: NDArray[np.int64]
    form: NDArray[np.float32]
    tokens: Tokens
    quoted: NDArray[np.float32]


def _form(text: TextCodes) -> NDArray[np.float32]:
    c, n = text.codes, text.n
    length = np.bincount(text.row, minlength=n) - 2.0  # without the marks

    def count(where: NDArray[np.bool_]) -> NDArray[np.float64]:
        return np.bincount(text.row[where], minlength=n).astype(float)

    columns = [count(np.isin(c, [ord(x) for x in marks])) > 0 for marks in _MARKS.values()]
    same = np.zeros(len(c), dtype=bool)
    same[:-1] = (c[:-1] == c[1:]) & np.isin(c[:-1], [ord("."), ord("。")])
    final = np.zeros(n, dtype=bool)
    last = np.unique(text.end) - 2  # the character before the end mark
    final[text.row[last]] = c[last] == ord("?")
    columns += [count(c == ord("!")) > 1, count(same) > 0, final]
    columns += [length < 6, length < 12, length > 40, np.log1p(length) / 5]
    return np.stack(columns, axis=1).astype(np.float32)


def _shared(
    hashes: NDArray[np.uint64],
    topic: NDArray[np.int64],
    topic_hashes: NDArray[np.uint64],
    topic_row: NDArray[np.int64],
) -> NDArray[np.bool_]:
    """Say which ``hashes`` ``(m,)`` the topics numbered ``topic`` ``(m,)`` have too, ``(m,)``."""
    salt = np.uint64(0x9E3779B97F4A7C15)
    return np.isin(
        hashes ^ (topic.astype(np.uint64) * salt),
        topic_hashes ^ (topic_row.astype(np.uint64) * salt),
    )


def _overlap(reactions: Bags, topics: Bags, topic_of: NDArray[np.int64]) -> NDArray[np.float64]:
    """Share of a reaction's bigrams that its topic has too, shape ``(n,)``."""
    hit = _shared(reactions.hashes, topic_of[reactions.row], topics.hashes, topics.row)
    total = np.bincount(reactions.row, minlength=reactions.n)
    return np.bincount(reactions.row, weights=hit, minlength=reactions.n) / np.maximum(total, 1)


def featurise(topics: Sequence[str], texts: Sequence[str], language: str) -> Features:
    """Compute the features of reactions ``texts`` to ``topics`` (same length) in one language."""
    ngrams = LANGUAGES[language]
    places: dict[str, int] = {}
    topic_of = np.array(
        [places.setdefault(t[:TOPIC_LENGTH], len(places)) for t in topics], dtype=np.int64
    )
    reaction = encode_texts([own_words(t) for t in texts])
    topic = encode_texts(list(places))
    overlap = _overlap(bags(reaction, (2,)), bags(topic, (2,)), topic_of)
    sequence, of_topic = tokens(reaction), tokens(topic)
    quoted = _shared(
        sequence.hashes[:, 0], topic_of[sequence.row], of_topic.hashes[:, 0], of_topic.row
    )
    shared = np.stack([overlap, overlap > 0.3, overlap > 0.6], axis=1)
    return Features(
        reactions=bags(reaction, ngrams.orders, ngrams.word_orders),
        topics=bags(topic, (2,), (1,) if ngrams.word_orders else ()),
        topic_of=topic_of,
        form=np.concatenate([_form(reaction), _form(topic)[topic_of], shared], axis=1).astype(
            np.float32
        ),
        tokens=sequence,
        quoted=quoted.astype(np.float32),
    )
