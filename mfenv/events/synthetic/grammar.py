"""A grammar that writes a reaction for each label combination, and reads it back exactly.

A reaction has up to four parts in this order: a marker of sharing (behavior), an opening
(sentiment_state and sentiment_tendency), the core (belief, stance and rumor) and a closing
(subjectivity and intent). The phrases of all parts and labels are disjoint, so a text that the
grammar wrote has one reading. A repost without words is the empty text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mfenv.events.synthetic.topics import SUBJECTS
from mfenv.labels import DIMENSIONS, SILENT_REPOST, Labels

__all__ = ["N_TEXT_DRAWS", "VALID", "combinations", "parse", "write", "write_many"]

N_TEXT_DRAWS = 5
"""Uniforms that one text takes."""

SILENCE = 0.85
"""Probability that a reaction with the labels of a silent repost has no words."""

_SHARE = ("Sharing this:", "Passing it on:", "Look here:", "Reposting:", "Must see:", "Forwarding:")

# (sentiment_state, sentiment_tendency) by their codes.
_OPENINGS: dict[str, tuple[str, ...]] = {
    "an": ("This makes me furious!", "Outrageous!", "I am so angry!", "What a disgrace!",
           "My blood boils!"),
    "az": ("I am fuming here.", "Enough of this already.", "Oh, come on!", "Seriously now.",
           "Annoyed, as usual."),
    "cp": ("Fair enough, good.", "A sound development.", "Good to read.", "On balance, good.",
           "Nice and steady."),
    "cn": ("I checked, and it is not good.", "On reflection, not good.", "A sober look says bad.",
           "Not ideal.", "A poor state of affairs."),
    "cz": ("", "", "", "", "", "Well.", "I see.", "Noted.", "Okay."),
    "hp": ("This makes my day!", "So happy!", "Wonderful!", "Love it!", "What a joy!"),
    "hz": ("I have to smile.", "Ha!", "Cheerful as ever.", "This amuses me.", "Grinning here."),
    "sn": ("This breaks my heart.", "So sad.", "What a pity.", "I could cry.", "Heartbreaking."),
    "sz": ("Sigh.", "I feel low today.", "Quiet tears here.", "A heavy day.", "Feeling blue."),
    "fn": ("This scares me badly.", "I am terrified!", "How frightening!", "I fear the worst.",
           "Now I am afraid."),
    "fz": ("I feel uneasy.", "Nervous here.", "A bit on edge.", "My hands shake.",
           "Holding my breath."),
    "up": ("What a lovely surprise!", "Wow, great!", "Amazing!", "I did not expect this joy!",
           "Incredible, in a good way!"),
    "un": ("What a nasty shock!", "Shocking!", "I did not see this blow coming!",
           "Stunned, and not happily.", "Wow, awful!"),
    "uz": ("Wow.", "Really?!", "I did not expect that.", "Unexpected.", "Huh, look at that."),
}  # fmt: skip

# (belief, stance, rumor) by their codes; {x} is the topic's subject.
_CORES: dict[str, tuple[str, ...]] = {
    "bss": ("this is true and I back it", "I believe it and stand with them",
            "they are right about {x}", "it happened and I am all for it",
            "I support {x}, the story is true", "true, and I agree with it",
            "the news on {x} is right", "I am with {x} on this one",
            "it is real and I support it", "yes, exactly so"),
    "bos": ("it is true and I am against it", "it happened and it is wrong",
            "I believe it and I oppose it", "true, and nobody should accept it",
            "the story on {x} is real and wrong", "I am against {x}, it is all true",
            "it is real and must not stand", "so {x} did it, and I object",
            "this is true and unacceptable", "yes, and it must be stopped"),
    "bns": ("it seems to be true", "the story on {x} holds up", "this did happen",
            "so it is true about {x}", "it looks confirmed", "I take it as true",
            "apparently this is how it is", "{x} is really in the news",
            "that fits what we know of {x}", "this appears to be correct"),
    "bnc": ("likely true, but do not spread it yet", "probably so, still please wait with it",
            "it may be right, but hold it back", "true or not about {x}, stop passing it around",
            "I think it is so, but keep it quiet", "leave {x} alone, even if it is true"),
    "dsc": ("I wish it were true, but it is not", "a nice story, but made up",
            "I would welcome it, but it is false", "good for {x} if it were real, but no",
            "I like {x}, but this is invented", "I hoped for it, but it is a rumour"),
    "doc": ("this is false", "there is no truth in it", "this is a false claim",
            "I do not buy it", "stop this rumour about {x}", "the claim about {x} is wrong",
            "this is a hoax", "nobody should believe this", "it is a lie about {x}",
            "no, this is fake"),
    "dnc": ("I doubt it and will not repeat it", "there is no proof so far",
            "the claim about {x} lacks evidence", "better wait for the facts on {x}",
            "I am not convinced, let us wait", "this needs checking first",
            "it sounds doubtful to me", "do not repeat it without proof"),
    "dns": ("not sure it is true, but have a look", "I doubt it, still it is going round",
            "hard to believe of {x}, yet here it is", "true or not, everybody talks of it",
            "it may be wrong, but you should know", "could be false, but {x} is all over my feed"),
}  # fmt: skip

# (subjectivity, intent) by their codes.
_CLOSINGS: dict[str, tuple[str, ...]] = {
    "sq": ("Does anyone else feel this way?", "What do you all think?", "Am I alone with this?",
           "How would you feel?", "Who feels the same?"),
    "sp": ("Please tell everyone, I beg you!", "My friends, spread the word!",
           "I want all to hear this!", "Help me reach more people!", "Tell your loved ones!"),
    "so": ("", "", "", "", "That is how I feel.", "That is my opinion.", "Just my view.",
           "I mean it.", "That is what I think."),
    "oq": ("What is the source?", "When was this recorded?", "Where are the figures?",
           "Who reported it first?", "Is there a document?"),
    "op": ("Details in the link.", "Full report below.", "Copy the link.", "The page is public.",
           "Read and forward the report."),
    "oo": ("The record shows it.", "The numbers are public.", "That is on the record.",
           "Two reports cover it.", "The documents are public."),
}  # fmt: skip

_R, _E, _T, _V, _S, _B, _O, _I = range(8)
_CODES = [d.codes for d in DIMENSIONS]


def _valid() -> NDArray[np.bool_]:
    """Which label combinations the grammar can write; one axis per dimension."""
    emotion = np.zeros((6, 3), dtype=bool)
    for k in _OPENINGS:
        emotion[_CODES[_E].index(k[0]), _CODES[_T].index(k[1])] = True
    core = np.zeros((2, 3, 2), dtype=bool)
    for k in _CORES:
        core[_CODES[_B].index(k[0]), _CODES[_S].index(k[1]), _CODES[_R].index(k[2])] = True
    both = np.einsum("bsr,et->retsb", core, emotion)
    return np.broadcast_to(
        both[:, :, :, None, :, :, None, None], tuple(len(d.labels) for d in DIMENSIONS)
    )


VALID: NDArray[np.bool_] = _valid()
"""Shape ``(2, 6, 3, 2, 3, 2, 2, 3)``: the label combinations that have texts."""


def combinations() -> Labels:
    """All valid label combinations, shape ``(1344, 8)``."""
    return np.argwhere(VALID).astype(np.int8)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


# Tables by label index, so that writing is a few look-ups.
_CORE_TABLE = {
    (_CODES[_B].index(k[0]), _CODES[_S].index(k[1]), _CODES[_R].index(k[2])): v
    for k, v in _CORES.items()
}
_OPENING_TABLE = {(_CODES[_E].index(k[0]), _CODES[_T].index(k[1])): v for k, v in _OPENINGS.items()}
_CLOSING_TABLE = {(_CODES[_O].index(k[0]), _CODES[_I].index(k[1])): v for k, v in _CLOSINGS.items()}
_ENDS = (".", ".", "!")
_SILENT = tuple(SILENT_REPOST.tolist())


def write(labels: Labels | Sequence[int], subject: str, u: Sequence[float]) -> str:
    """Write one reaction with the given labels ``(8,)`` from ``N_TEXT_DRAWS`` uniforms.

    Raises ``ValueError`` for a combination that the grammar has no text for.
    """
    row = tuple(int(x) for x in labels)
    if row == _SILENT and u[4] < SILENCE:
        return ""
    r, e, t, v, s, b, o, i = row
    try:
        openings, cores = _OPENING_TABLE[e, t], _CORE_TABLE[b, s, r]
    except KeyError:
        named = {d.name: d.labels[x] for d, x in zip(DIMENSIONS, row, strict=True)}
        raise ValueError(f"the grammar has no text for the labels {named}") from None
    closings = _CLOSING_TABLE[o, i]
    core = cores[int(u[0] * len(cores))].replace("{x}", subject)
    end = int(u[0] * len(cores) * len(_ENDS)) % len(_ENDS)
    parts = [
        _SHARE[int(u[3] * len(_SHARE))] if v else "",
        openings[int(u[1] * len(openings))],
        _capital(core) + _ENDS[end],
        closings[int(u[2] * len(closings))],
    ]
    return " ".join(part for part in parts if part)


def write_many(labels: Labels, subjects: Sequence[str], u: NDArray[np.float64]) -> list[str]:
    """Write reactions: labels ``(n, 8)``, ``n`` subjects, uniforms ``(n, N_TEXT_DRAWS)``."""
    rows = np.asarray(labels).tolist()
    return [write(row, x, draws) for row, x, draws in zip(rows, subjects, u.tolist(), strict=True)]


def _inverse() -> dict[str, tuple[str, tuple[int, ...], str]]:
    """Sentence → (part, labels, subject or ""). Raises where two parts share a sentence."""
    result: dict[str, tuple[str, tuple[int, ...], str]] = {}

    def put(text: str, part: str, key: tuple[int, ...], subject: str = "") -> None:
        if result.setdefault(text, (part, key, subject))[:2] != (part, key):
            raise AssertionError(f"two parts of the grammar share {text!r}")

    for text in _SHARE:
        put(text, "share", ())
    for key, texts in _OPENING_TABLE.items():
        for text in filter(None, texts):
            put(text, "opening", key)
    for key, texts in _CLOSING_TABLE.items():
        for text in filter(None, texts):
            put(text, "closing", key)
    for labels, cores in _CORE_TABLE.items():
        for core in cores:
            for subject in SUBJECTS if "{x}" in core else ("",):
                for end in set(_ENDS):
                    put(_capital(core.replace("{x}", subject)) + end, "core", labels, subject)
    return result


_SENTENCES = _inverse()
_SPLIT = re.compile(r"(?<=[.!?:]) ")


def parse(text: str, topic: str | None = None) -> Labels | None:
    """Read the labels ``(8,)`` of a text, or ``None`` if the grammar could not have written it.

    With a ``topic`` (its text), a reaction that names another topic's subject is refused too.
    """
    text = text.strip()
    if not text:
        return SILENT_REPOST.copy()
    share, opening, core, closing = 0, None, None, None
    stage = 0
    for sentence in _SPLIT.split(text):
        found = _SENTENCES.get(sentence)
        if found is None:
            return None
        part, key, subject = found
        if part == "share" and stage < 1:
            share, stage = 1, 1
        elif part == "opening" and stage < 2:
            opening, stage = key, 2
        elif part == "core" and stage < 3:
            if topic is not None and subject and subject not in topic.lower():
                return None
            core, stage = key, 3
        elif part == "closing" and stage == 3:
            closing, stage = key, 4
        else:
            return None
    if core is None:
        return None
    e, t = opening if opening is not None else _EMPTY_OPENING
    o, i = closing if closing is not None else _EMPTY_CLOSING
    b, s, r = core
    return np.array([r, e, t, share, s, b, o, i], dtype=np.int8)


_EMPTY_OPENING = next(key for key, texts in _OPENING_TABLE.items() if "" in texts)
_EMPTY_CLOSING = next(key for key, texts in _CLOSING_TABLE.items() if "" in texts)
