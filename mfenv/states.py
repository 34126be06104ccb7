"""An agent's state: what is known of its profile, as one line of text.

The fields and their bins are those of the MF-LLM paper (arXiv 2504.21582). Every bin is a fixed
phrase, so that a small tokenizer can hold it in few tokens; free text comes last.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from functools import lru_cache

from mfenv.events.event import Profile

__all__ = ["MAX_DESCRIPTION", "UNKNOWN", "join", "opinion_text", "phrases", "state_text"]

UNKNOWN: dict[str, str] = {"en": "unknown person", "zh": "未知用户"}
"""State of an agent of whom nothing is known, by language."""

MAX_DESCRIPTION = 60
"""Characters that are kept of a self-description."""

_MAX_LOCATION = 24
# Inclusive upper edges; the paper writes "< 10" where ours says "≤ 9".
_FRIENDS_EDGES = (9, 30, 1000, 3000)
_FOLLOWERS_EDGES = (100, 500, 1000, 10_000)
_ACTIVITY_EDGES = (9, 100)
_GENDER = {"en": {"m": "man", "f": "woman"}, "zh": {"m": "男", "f": "女"}}
_FRIENDS = {
    "en": tuple(f"follows {x}" for x in ("very few", "few", "some", "many", "very many")),
    "zh": ("关注极少", "关注较少", "关注适中", "关注较多", "关注很多"),
}
_INFLUENCE = {
    "en": tuple(
        f"{x} influence" for x in ("very small", "small", "moderate", "large", "very large")
    ),
    "zh": ("影响力很小", "影响力较小", "影响力中等", "影响力较大", "影响力很大"),
}
_ACTIVITY = {"en": ("inactive", "active", "very active"), "zh": ("不活跃", "活跃", "非常活跃")}
_VERIFIED = {"en": ("not verified", "verified"), "zh": ("未认证", "已认证")}
_JOIN = {"en": ", ", "zh": "，"}
_ABOUT = {"en": "about: ", "zh": "简介："}


# Stance and belief in the order of mfenv.dynamics.opinions.OPINIONS.
_OPINIONS = {
    "en": tuple(
        f"{stance}, {belief}"
        for stance in ("for it", "against it", "neither for nor against it")
        for belief in ("believes it", "doubts it")
    ),
    "zh": tuple(
        f"{stance}，{belief}" for stance in ("支持", "反对", "中立") for belief in ("相信", "怀疑")
    ),
}


def opinion_text(opinion: int, language: str) -> str:
    """The fixed phrase of an opinion, a class of :mod:`mfenv.dynamics.opinions`.

    It stands behind the state in a prompt, so that a model reads who somebody is and then what
    they think of the topic so far.
    """
    return _OPINIONS[_language(language)][opinion]


def phrases(language: str) -> list[str]:
    """Every fixed phrase of the state texts in a language, for a tokenizer to know."""
    language = _language(language)
    return [
        UNKNOWN[language],
        *_GENDER[language].values(),
        *_FRIENDS[language],
        *_INFLUENCE[language],
        *_ACTIVITY[language],
        *_VERIFIED[language],
        _ABOUT[language],
    ]


@lru_cache(maxsize=65_536)
def state_text(profile: Profile | None, language: str) -> str:
    """Write a profile as one line: gender, location, levels, verification, self-description.

    Unknown fields are left out; a profile without any known field gives ``UNKNOWN``. A language
    other than ``"zh"`` is written in English. Free text is untrusted: its whitespace (line breaks
    included) is folded, control characters are dropped, and it is clipped.
    """
    language = _language(language)
    if profile is None:
        return UNKNOWN[language]
    parts: list[str] = []
    if profile.gender in _GENDER[language]:
        parts.append(_GENDER[language][profile.gender])
    if location := _fold(profile.location, _MAX_LOCATION):
        parts.append(location)
    counts = (profile.reposts, profile.comments, profile.likes)
    known = [c for c in counts if c is not None]
    for value, edges, names in (
        (profile.friends, _FRIENDS_EDGES, _FRIENDS),
        (profile.followers, _FOLLOWERS_EDGES, _INFLUENCE),
        (sum(known) if known else None, _ACTIVITY_EDGES, _ACTIVITY),
    ):
        if value is not None:
            parts.append(names[language][bisect_left(edges, value)])
    if profile.verified is not None:
        parts.append(_VERIFIED[language][bool(profile.verified)])
    if description := _fold(profile.description, MAX_DESCRIPTION):
        parts.append(_ABOUT[language] + description)
    return join(parts, language) or UNKNOWN[language]


def join(parts: Sequence[str], language: str) -> str:
    """Several phrases about a person as one line."""
    return _JOIN[_language(language)].join(parts)


def _language(language: str) -> str:
    return "zh" if language == "zh" else "en"


def _fold(text: str | None, limit: int) -> str:
    """One line of printable text of at most ``limit`` characters."""
    if not text:
        return ""
    line = "".join(c if c.isprintable() else " " for c in text)
    line = " ".join(line.split())
    return line if len(line) <= limit else line[: limit - 1].rstrip() + "…"
