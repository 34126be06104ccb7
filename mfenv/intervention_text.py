"""Interventions as text, read strictly: what is not exactly one of them is none of them."""

from __future__ import annotations

import re

from mfenv.interventions import INTENSITIES, KINDS, NONE, Intervention, Kind

__all__ = ["MESSAGE_CHARACTERS", "WORDED", "intervention_text", "parse_intervention"]

MESSAGE_CHARACTERS = 200
"""Most characters of a message."""

WORDED: tuple[Kind, ...] = (Kind.STATEMENT, Kind.SEED)
"""Kinds that take a message: the statement's wording, or what planted reactions say."""

_NONE = "none"
_FORM = re.compile(rf"({'|'.join(KINDS)})/({'|'.join(INTENSITIES)})(?:: (\S.*))?")


def parse_intervention(text: str) -> Intervention | None:
    """Read ``none``, ``KIND/INTENSITY`` or ``KIND/INTENSITY: MESSAGE``; ``None`` for all else.

    White space around the whole is not looked at; everything else counts, case included. Only a
    statement and seeding take a message: one line of at most ``MESSAGE_CHARACTERS`` printable
    characters. Raises nothing and guesses nothing: an answer with an explanation before or behind
    it is not read.
    """
    text = text.strip()
    if text == _NONE:
        return NONE
    found = _FORM.fullmatch(text)
    if found is None:
        return None
    kind, message = Kind(KINDS.index(found[1])), found[3]
    if message is not None and not (
        kind in WORDED and len(message) <= MESSAGE_CHARACTERS and message.isprintable()
    ):
        return None
    return Intervention(kind, INTENSITIES.index(found[2]), message)


def intervention_text(intervention: Intervention) -> str:
    """Write an intervention so that :func:`parse_intervention` reads the same one back."""
    if intervention.kind is None:
        return _NONE
    text = f"{KINDS[intervention.kind]}/{INTENSITIES[intervention.intensity]}"
    return text if intervention.message is None else f"{text}: {intervention.message}"
