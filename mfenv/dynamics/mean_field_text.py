"""The mean field as text: the shares of five dimensions, and the most telling reactions.

The shares come last, so that they stand close to the action that follows them in a prompt, and
every share is written as one fixed phrase (label and percentage on a coarse grid), so that the
tokenizer of a small model can hold it in one token.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mfenv.distributions import UNIFORM, normalise
from mfenv.dynamics.models import Reaction
from mfenv.labels import DIMENSIONS, OFFSETS, SILENT_REPOST, dimension

__all__ = [
    "GRID",
    "QUOTES",
    "SHOWN",
    "Grammar",
    "exposed",
    "grammar",
    "parse_shares",
    "phrases",
    "quotations",
    "render",
    "telling",
    "with_shares",
]

GRID: tuple[int, ...] = (0, 2, *range(5, 96, 5), 98, 100)
"""Percentages that a written share is rounded to."""

QUOTES = (" «", "»")
"""Marks around a telling reaction."""

SHOWN: tuple[str, ...] = ("stance", "sentiment_state", "behavior", "belief", "intent")
"""Dimensions whose shares are written, in this order."""

_HEADS = {
    "en": ("\nStance:", "\nEmotion:", "\nBehaviour:", "\nBelief:", "\nIntent:"),
    "zh": ("\n立场：", "\n情绪：", "\n行为：", "\n信任：", "\n意图："),
}
_TELLING = {"en": "Reactions:", "zh": "反应："}
_ZH = {
    "support": "支持",
    "oppose": "反对",
    "neutral": "中立",
    "angry": "愤怒",
    "calm": "平静",
    "happy": "高兴",
    "sad": "悲伤",
    "fear": "恐惧",
    "surprise": "惊讶",
    "comment": "评论",
    "share": "转发",
    "believe": "相信",
    "doubt": "怀疑",
    "question": "提问",
    "promotion": "扩散",
    "opinion": "观点",
}
_MAX_TELLING, _MAX_CHARACTERS = 3, 40


def _language(language: str) -> str:
    return "zh" if language == "zh" else "en"


def _label(label: str, language: str) -> str:
    return _ZH[label] if language == "zh" else f" {label} "


@dataclass(frozen=True, slots=True)
class Grammar:
    """What :func:`render` can write, where shares are given: for holding a model to it."""

    telling: str
    """Stands before the telling reactions, if there are any."""
    quotes: tuple[str, str]
    """Stand around each of them."""
    quotations: int
    """So many at most."""
    characters: int
    """Characters of one at most."""
    lines: tuple[tuple[str, tuple[tuple[str, ...], ...]], ...]
    """For each dimension its head, and for each label the phrases of which one is written, from the
    smallest share to the largest."""


def grammar(language: str) -> Grammar:
    """The form of a rendered mean field in a language."""
    language = _language(language)
    lines = tuple(
        (
            head,
            tuple(
                tuple(f"{_label(label, language)}{p}%" for p in GRID)
                for label in DIMENSIONS[dimension(name)].labels
            ),
        )
        for name, head in zip(SHOWN, _HEADS[language], strict=True)
    )
    return Grammar(_TELLING[language], QUOTES, _MAX_TELLING, _MAX_CHARACTERS, lines)


def phrases(language: str) -> list[str]:
    """Every fixed phrase of the format in a language: marks, heads, labels with percentages."""
    language = _language(language)
    shares = [p for _, slots in grammar(language).lines for slot in slots for p in slot]
    return [*QUOTES, *_HEADS[language], *dict.fromkeys(shares)]


def render(
    distribution: NDArray[np.float64] | None, reactions: Sequence[str], language: str
) -> str:
    """Write a mean field from a distribution ``(23,)`` and telling reactions.

    Either part may be absent (``None``, or no reactions). Without both the result is ``""``, the
    mean field before anything happened.
    """
    language = _language(language)
    parts = []
    if reactions:
        parts.append(_TELLING[language] + "".join(f" «{_clip(t)}»" for t in reactions))
    if distribution is not None:
        grid = np.asarray(GRID)
        for name, head in zip(SHOWN, _HEADS[language], strict=True):
            d = dimension(name)
            p = 100 * np.asarray(distribution)[OFFSETS[d] : OFFSETS[d + 1]]
            nearest = grid[np.abs(p[:, None] - grid).argmin(axis=1)]
            parts.append(
                head
                + "".join(
                    f"{_label(label, language)}{q}%"
                    for label, q in zip(DIMENSIONS[d].labels, nearest, strict=True)
                )
            )
    return "".join(parts)


def with_shares(text: str, distribution: NDArray[np.float64], language: str) -> str:
    """A mean field with the shares of a distribution ``(23,)`` in place of those it states."""
    shares = render(distribution, [], language)
    head = _HEADS[_language(language)][0]
    return ("\n" + text).split(head)[0].removeprefix("\n").rstrip("\n") + shares


def parse_shares(text: str) -> NDArray[np.float64] | None:
    """Read the shares of a rendered mean field back as ``(23,)``; ``None`` if there are none.

    Dimensions that the text does not write are uniform. Shares are renormalised, since they
    were rounded.
    """
    for language, heads in _HEADS.items():
        found = False
        result = UNIFORM.copy()
        for name, head in zip(SHOWN, heads, strict=True):
            d = dimension(name)
            line = re.search(re.escape(head) + r"([^\n]*)", "\n" + text)
            if line is None:
                continue
            values = [
                re.search(re.escape(_label(label, language).strip()) + r" ?(\d{1,3})%", line[1])
                for label in DIMENSIONS[d].labels
            ]
            if all(v is None for v in values):
                continue
            found = True
            result[OFFSETS[d] : OFFSETS[d + 1]] = [
                0.0 if v is None else float(v[1]) for v in values
            ]
        if found:
            return normalise(result)
    return None


def quotations(text: str) -> list[str]:
    """The telling reactions that a rendered mean field quotes, in order."""
    return re.findall(f"{QUOTES[0].strip()}([^{QUOTES[1]}\n]*){QUOTES[1]}", text)


def telling(reactions: Sequence[Reaction]) -> list[str]:
    """The most telling reactions: for each stance, most common first, the one nearest the mean.

    Silent reposts (by their labels: mentions and links alone say nothing) and repeated texts are
    passed over; at most three are returned.
    """
    spoken = [r for r in reactions if r.text.strip() and (r.labels != SILENT_REPOST).any()]
    if not spoken:
        return []
    labels = np.stack([r.labels for r in spoken])
    weights = np.array([r.weight for r in spoken])
    stance = labels[:, dimension("stance")]
    agreement = (labels[:, None, :] == labels[None, :, :]).sum(-1) @ weights
    mass = np.bincount(stance, weights=weights, minlength=3)
    chosen: list[str] = []
    for s in np.argsort(-mass, kind="stable"):
        for i in sorted(np.flatnonzero(stance == s), key=lambda i: -agreement[i]):
            text = _clip(spoken[i].text)
            if text not in chosen:
                chosen.append(text)
                break
    return chosen[:_MAX_TELLING]


def exposed(reactions: Sequence[Reaction]) -> list[Reaction]:
    """As many reactions as given, each as often as its weight asks: what a language model reads.

    Systematic resampling in the given order: an amplified reaction may come several times, and
    crowds others out. With equal weights the result is ``reactions`` itself.
    """
    n = len(reactions)
    reach = np.cumsum([r.weight for r in reactions])
    if n == 0 or reach[-1] <= 0:
        return list(reactions)
    slots = (np.arange(n) + 0.5) / n * reach[-1]
    return [reactions[int(i)] for i in np.searchsorted(reach, slots, side="right")]


def _clip(text: str) -> str:
    text = " ".join(text.split()).replace("«", "‹").replace("»", "›")
    return text if len(text) <= _MAX_CHARACTERS else text[: _MAX_CHARACTERS - 1] + "…"
