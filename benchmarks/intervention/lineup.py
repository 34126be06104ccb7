"""The planners that are compared, by label."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from agents.planners.base import build_planner
from mfenv.errors import DataError, MfenvError
from mfenv.interventions import INTENSITIES, KINDS

__all__ = ["NOTHING", "REFERENCES", "chosen_planners", "read_tuned", "shipped_tuned"]

NOTHING = "none"
"""The label of the planner that uplift is measured against."""

REFERENCES: tuple[str, ...] = (NOTHING, "random", "paper")
"""Planners that have nothing to be tuned."""

_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ,+./-]{0,59}")
_ALWAYS = tuple(f"always:{kind}/{intensity}" for kind in KINDS for intensity in INTENSITIES)
_TUNED = Path(__file__).parent / "tuned"


def chosen_planners(given: Sequence[str], tuned: Mapping[str, str]) -> dict[str, str]:
    """Planners by label, none first: what was given, or the references and the tuned ones.

    A planner is written ``NAME`` or ``LABEL=NAME``; ``always`` without an action stands for it with
    every kind and intensity, ``tuned`` for all that were tuned. Raises ``MfenvError`` for one that
    is unknown or a label that is used twice.
    """
    planners: dict[str, str] = {NOTHING: NOTHING}

    def add(label: str, name: str) -> None:
        if planners.get(label, name) != name:
            raise MfenvError(f"the label {label!r} stands for two planners: choose another")
        planners[label] = name

    for text in given or (*REFERENCES, "tuned"):
        head, equals, rest = text.partition("=")
        if text == "tuned":
            for label, name in tuned.items():
                add(label, name)
        elif text == "always":
            for name in _ALWAYS:
                add(name, name)
        elif equals and _LABEL.fullmatch(head):
            add(head, rest)
        else:
            add(text, text)
    for name in planners.values():
        build_planner(name)
    return planners


def shipped_tuned(objective: str) -> Path | None:
    """The planners that were tuned for an objective and come with the package."""
    path = _TUNED / f"society-{objective}.json"
    return path if path.is_file() else None


def read_tuned(path: Path) -> dict[str, str]:
    """Planners by label, from what ``mfenv train heuristics`` wrote."""
    try:
        planners: dict[str, str] = json.loads(path.read_text("utf-8"))["planners"]
    except (ValueError, KeyError, TypeError) as error:
        problem = f"no tuned planners (mfenv train heuristics writes them): {error}"
        raise DataError(str(path), "(all)", "planners", problem) from None
    good = isinstance(planners, dict) and all(
        isinstance(name, str) and _LABEL.fullmatch(label) for label, name in planners.items()
    )
    if not good:
        raise DataError(str(path), "(all)", "planners", "must be an object of labels and names")
    return planners
