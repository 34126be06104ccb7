"""Topics, posts and profiles are data: clipped, delimited, and unable to steer a model."""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ["REACTION_CHARACTERS", "TOPIC_CHARACTERS", "clip", "neutralise", "quote", "unquoted"]

TOPIC_CHARACTERS = 160
REACTION_CHARACTERS = 140

# What the chat formats of today write around turns: <|im_end|>, </s>, <start_of_turn>, <think>,
# [INST], <<SYS>>, and DeepSeek's full-width bars.
_CONTROL = re.compile(r"<(?=[|/｜]?[A-Za-z_|｜][^<>\n]{0,40}>)|\[(?=/?[A-Z_]{3,20}\])")


def clip(text: str, characters: int) -> str:
    """Fold white space, break up anything that looks like a tag, and cut to a length."""
    text = unquoted(" ".join(text.split()))
    return text if len(text) <= characters else text[: characters - 1] + "…"


def unquoted(text: str) -> str:
    """The same lines, with what looks like a tag of our own broken up."""
    return text.replace("<|", "< |").replace("|>", "| >")


def quote(text: str, characters: int, *, fold: bool = True) -> str:
    """Data between ``<<<`` and ``>>>``, which it cannot close, and without control tokens."""
    text = text.replace("<<<", "< < <").replace(">>>", "> > >")
    text = clip(text, characters) if fold else unquoted(text)[:characters]
    return f"<<<{_CONTROL.sub(lambda m: m[0] + ' ', text)}>>>"


def neutralise(text: str, tokens: Iterable[str]) -> str:
    """Break up every one of ``tokens`` in a text, the longest first.

    For the special tokens of a model's own tokenizer, which would otherwise be read as control
    tokens wherever they stand.
    """
    wanted = sorted({t for t in tokens if len(t) > 1 and not t.isspace()}, key=len, reverse=True)
    if not wanted:
        return text
    pattern = re.compile("|".join(map(re.escape, wanted)))
    while pattern.search(text):
        text = pattern.sub(lambda m: m[0][0] + " " + m[0][1:], text)
    return text
