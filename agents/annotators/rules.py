"""Reactions without words of their own are labelled by rule, not by a classifier.

A *silent repost* is empty, the client's default text, or nothing but mentions, links and quoted
words of others; it gets :data:`mfenv.labels.SILENT_REPOST`. A reaction of *emoticons alone* has a
feeling but no statement: what it feels is left to the classifier, the rest is fixed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from agents.annotators.ngrams import own_words
from mfenv.labels import DIMENSIONS, SILENT_REPOST, SLICES, one_hot

__all__ = ["apply_rules", "emoticons_alone", "silent_reposts"]

# Possessive repetition: the alternatives never backtrack, so a long text takes linear time.
_MENTIONS = r"@[\w\-]+|<url>|https?://\S+|//|回复|[\s:：,，、\u200b\ufe0f]"
_DEFAULTS = r"(?:转发|轉發)(?:微博|了)?|转|轉|(?:repost(?:ing)?|retweet|rt|via)(?![a-z])"
# A mark may follow a default; dots alone are a comment of their own (speechlessness).
_SILENT = re.compile(rf"(?:{_MENTIONS}|(?:{_DEFAULTS})[.。!！~～]?)*+[.。]?", re.IGNORECASE)
_EMOJI = (
    "\U0001f1e6-\U0001f1ff\U0001f300-\U0001faff\u2600-\u27bf\u2190-\u21ff\u2b00-\u2bff\u200d\ufe0f"
)
_EMOTICON = rf"\[[^\[\]\s]{{1,8}}\]|[{_EMOJI}]"
_ALONE = re.compile(rf"(?:{_MENTIONS}|{_EMOTICON})*+", re.IGNORECASE)
_SOME = re.compile(_EMOTICON)

_FIXED = {
    "rumor": "spread",
    "behavior": "comment",
    "belief": "believe",
    "subjectivity": "subjective",
    "intent": "opinion",
}


def silent_reposts(texts: Sequence[str]) -> NDArray[np.bool_]:
    """Say which texts have no words of their own, shape ``(n,)``."""
    own = (own_words(t) for t in texts)
    return np.fromiter((_SILENT.fullmatch(t) is not None for t in own), bool, len(texts))


def emoticons_alone(texts: Sequence[str]) -> NDArray[np.bool_]:
    """Say which texts are emoticons ``[name]`` or emoji and nothing else, shape ``(n,)``."""

    def alone(text: str) -> bool:
        own = own_words(text)
        return _ALONE.fullmatch(own) is not None and _SOME.search(own) is not None

    return np.fromiter((alone(t) for t in texts), bool, len(texts))


def apply_rules(texts: Sequence[str], probabilities: ArrayLike) -> NDArray[np.float64]:
    """Overrule label probabilities ``(n, 23)`` where a rule decides; returns a new array."""
    out = np.array(probabilities, dtype=np.float64)
    out[silent_reposts(texts)] = one_hot(SILENT_REPOST)
    alone = np.flatnonzero(emoticons_alone(texts))
    for d in DIMENSIONS:
        if d.name in _FIXED:
            block = np.zeros(len(d.labels))
            block[d.index(_FIXED[d.name])] = 1.0
            out[alone, SLICES[d.name]] = block
    return out
