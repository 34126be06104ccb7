"""Hashed n-grams of many texts at once, without a Python loop over characters.

The texts of a batch are joined into one array of code points. With ``S_i = Σ_{j<i} x_j B^j``
(modulo 2^64, ``B`` odd) the hash of any span is ``(S_end − S_start) · B^(−start)``: one
subtraction and one multiplication for each n-gram, word or emoticon of the whole batch.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Bags", "TextCodes", "Tokens", "bags", "encode_texts", "own_words", "tokens"]

UInts = NDArray[np.uint64]

_BASE = 0x9E3779B97F4A7C15  # odd, so that it has an inverse modulo 2^64
_INVERSE = pow(_BASE, -1, 1 << 64)
_MIX1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX2 = np.uint64(0x94D049BB133111EB)

# Private-use characters stand for what is one symbol to a reader. They are removed from the
# input first, so a text cannot forge them.
_START, _END, _MENTION, _LINK = "\ue010", "\ue011", "\ue000", "\ue001"
_PRIVATE = re.compile("[\x00\ue000\ue001\ue010\ue011]")
_REPEATED = re.compile(r"([^\x00])\1{3,}", re.DOTALL)
_SPACES = re.compile(r"[^\S\x00]+")
_DIGITS = str.maketrans("123456789", "000000000")


def own_words(text: str) -> str:
    """The writer's own words: what stands before a quoted chain ``//@user:…``."""
    cut = text.find("//@")
    return text if cut < 0 else text[:cut]


def _mix(z: UInts) -> UInts:
    """The SplitMix64 finaliser."""
    z = (z ^ (z >> np.uint64(30))) * _MIX1
    z = (z ^ (z >> np.uint64(27))) * _MIX2
    return z ^ (z >> np.uint64(31))


def _powers(base: int, n: int) -> UInts:
    """``base^0 … base^(n-1)`` modulo 2^64."""
    out = np.full(n, base, dtype=np.uint64)
    out[:1] = 1
    return np.cumprod(out, dtype=np.uint64)


@dataclass(frozen=True, slots=True)
class TextCodes:
    """A batch of normalised texts as code points.

    ``codes`` ``(m,)`` are the code points of all texts, each between a start and an end mark;
    ``row`` ``(m,)`` says whose they are; ``sums`` ``(m + 1,)`` and ``inverse`` ``(m + 1,)`` give
    span hashes; ``end`` ``(m,)`` is the position after the last code point of the same text.
    """

    n: int
    codes: NDArray[np.uint32]
    row: NDArray[np.int64]
    end: NDArray[np.int64]
    sums: UInts
    inverse: UInts

    def spans(self, start: NDArray[np.int64], stop: NDArray[np.int64], kind: int) -> UInts:
        """Hashes of the spans ``[start, stop)``; ``kind`` keeps families of features apart."""
        raw = (self.sums[stop] - self.sums[start]) * self.inverse[start]
        length = (stop - start).astype(np.uint64)
        return _mix(raw + (length + np.uint64(64 * kind + 1)) * np.uint64(_INVERSE))


def encode_texts(texts: Sequence[str]) -> TextCodes:
    """Normalise texts and encode them.

    Width and compatibility forms are folded (NFKC), case is dropped, digits become ``0``, a
    character repeated more than three times is kept three times, mentions and links are one
    symbol each.
    """
    clean = (f"{_START}{_PRIVATE.sub('', t)}{_END}" for t in texts)
    joined = unicodedata.normalize("NFKC", "\x00".join(clean)).lower().translate(_DIGITS)
    joined = joined.replace("@user", _MENTION).replace("<url>", _LINK)
    joined = _SPACES.sub(" ", _REPEATED.sub(r"\1\1\1", joined))
    # Lone surrogates are legal in a Python string; they must not stop a batch.
    every = np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), dtype="<u4")
    separators = every == 0
    keep = ~separators
    codes = every[keep].astype(np.uint32)
    row = np.cumsum(separators)[keep].astype(np.int64)
    n = len(texts)
    last = np.cumsum(np.bincount(row, minlength=n)).astype(np.int64)
    symbols = _mix(codes.astype(np.uint64) + np.uint64(1))
    sums = np.zeros(len(codes) + 1, dtype=np.uint64)
    np.cumsum(symbols * _powers(_BASE, len(codes)), out=sums[1:])
    return TextCodes(n, codes, row, last[row], sums, _powers(_INVERSE, len(codes) + 1))


def _words(text: TextCodes) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Starts and stops of maximal runs of letters a–z, digits and apostrophes."""
    c = text.codes
    inside = ((c >= 97) & (c <= 122)) | (c == 48) | (c == 39) | (c == 0x2019)
    edge = np.diff(np.concatenate([[False], inside, [False]]).astype(np.int8))
    return np.flatnonzero(edge == 1).astype(np.int64), np.flatnonzero(edge == -1).astype(np.int64)


def _emoticons(text: TextCodes) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Starts and stops of ``[name]``: at most 8 characters between the brackets."""
    opening = np.flatnonzero(text.codes == ord("[")).astype(np.int64)
    closing = np.flatnonzero(text.codes == ord("]")).astype(np.int64)
    if not len(opening) or not len(closing):
        return opening[:0], opening[:0]
    at = np.searchsorted(closing, opening)
    found = at < len(closing)
    opening, stop = opening[found], closing[at[found]] + 1
    good = (stop - opening <= 10) & (stop <= text.end[opening])
    return opening[good], stop[good]


@dataclass(frozen=True, slots=True)
class Bags:
    """Bags of hashed features: ``hashes`` ``(m,)`` of all texts, sorted by ``row`` ``(m,)``, each
    hash at most once a text, with its ``count`` ``(m,)``."""

    n: int
    row: NDArray[np.int64]
    hashes: UInts
    count: NDArray[np.int64]


def bags(
    texts: Sequence[str] | TextCodes,
    orders: Sequence[int],
    word_orders: Sequence[int] = (),
    skips: bool = False,
) -> Bags:
    """Hash the n-grams of ``texts``.

    ``orders``: lengths of character n-grams (start and end marks included); ``word_orders``:
    lengths of word n-grams (Latin words); ``skips``: pairs of characters with one or two between
    them. Emoticons ``[name]`` are always features.
    """
    text = texts if isinstance(texts, TextCodes) else encode_texts(texts)
    position = np.arange(len(text.codes), dtype=np.int64)
    rows: list[NDArray[np.int64]] = []
    hashes: list[UInts] = []

    def add(row: NDArray[np.int64], values: UInts) -> None:
        rows.append(row)
        hashes.append(values)

    for n in orders:
        start = position[position + n <= text.end]
        add(text.row[start], text.spans(start, start + n, 0))
    if skips:
        for gap in (2, 3):
            start = position[position + gap < text.end]
            first = text.spans(start, start + 1, 3 + gap)
            second = text.spans(start + gap, start + gap + 1, 0)
            add(text.row[start], _mix(first * np.uint64(3) + second))
    begin, stop = _words(text)
    if word_orders and len(begin):
        # A word n-gram is hashed from the hashes of its words: what stands between them is not in
        # it.
        single = text.spans(begin, stop, 1)
        chain = single
        for n in range(1, max(word_orders) + 1):
            if n > 1:
                chain = _mix(chain[:-1] * np.uint64(5) + single[n - 1 :])
            same = text.row[begin[: len(chain)]] == text.row[begin[n - 1 : n - 1 + len(chain)]]
            if n in word_orders:
                add(text.row[begin[: len(chain)]][same], chain[same])
    begin, stop = _emoticons(text)
    add(text.row[begin], text.spans(begin, stop, 2))

    row, value = np.concatenate(rows), np.concatenate(hashes)
    order = np.lexsort((value, row))
    row, value = row[order], value[order]
    new = np.ones(len(row), dtype=bool)
    new[1:] = (row[1:] != row[:-1]) | (value[1:] != value[:-1])
    first_at = np.flatnonzero(new)
    count = np.diff(np.append(first_at, len(row)))
    return Bags(text.n, row[new], value[new], count.astype(np.int64))


READ = 320
"""Characters of a text that are cut into tokens, so that a huge text cannot fill the memory."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """Texts as sequences: ``hashes`` ``(m, 3)`` of all tokens in order, ``row`` ``(m,)`` whose.

    A token is a Latin word, an emoticon ``[name]`` or any other character but a space, the marks
    of start and end included, among the first :data:`READ` characters of a text. It is hashed by
    itself, together with the token before it, and by its first four characters.
    """

    n: int
    row: NDArray[np.int64]
    hashes: UInts


def tokens(text: TextCodes) -> Tokens:
    """Cut texts into tokens."""
    joined = np.zeros(len(text.codes) + 1, dtype=np.int64)  # > 0: belongs to the token before it
    for begin, stop in (_words(text), _emoticons(text)):
        np.add.at(joined, begin + 1, 1)
        np.add.at(joined, stop, -1)
    edges = np.flatnonzero(np.cumsum(joined)[:-1] == 0)
    ends = np.append(edges[1:], len(text.codes))
    size = np.bincount(text.row, minlength=text.n)
    place = edges - (np.cumsum(size) - size)[text.row[edges]]
    visible = (text.codes[edges] != ord(" ")) & (place < READ)
    first, stop = edges[visible].astype(np.int64), ends[visible].astype(np.int64)
    row = text.row[first]
    own = text.spans(first, stop, 3)
    before = np.zeros_like(own)
    before[1:] = np.where(row[1:] == row[:-1], own[:-1], np.uint64(0))
    pair = _mix(before * np.uint64(7) + own)
    stem = text.spans(first, np.minimum(stop, first + 4), 4)
    return Tokens(text.n, row, np.stack([own, pair, stem], axis=1))
