"""The rule that says whether a rerun is the same run, and the file that keeps its finding.

A rerun with another batch plan has other last bits, so now and then a token falls on the other side
of the inverse CDF. What that does, and what a forged journal looks like, was measured; the rule
stands between (``docs/leaderboard.md`` has the figures).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.fidelity.entry import read_json
from benchmarks.leaderboard.rerun import Agreement
from mfenv.errors import MfenvError

__all__ = [
    "FORMAT",
    "RULE",
    "Rule",
    "Verification",
    "as_json",
    "failures",
    "in_words",
    "read_verification",
    "verification_path",
]

FORMAT = "mfenv-verified/1"


@dataclass(frozen=True, slots=True)
class Rule:
    """How much of a rerun must agree."""

    texts: float = 0.8
    """Actions with the same text and actions with the same eight labels, in every run that is
    rerun step by step."""
    free_labels: float = 0.8
    """Actions with the same eight labels, in every run that is rerun freely."""
    relabelled: float = 0.99
    """Recorded texts that get the recorded labels, and real reactions that do."""
    likelihood: float = 0.01
    """Largest relative difference of a case's likelihood."""
    tokens: float = 0.05
    """Largest relative difference of the tokens of all runs."""


RULE = Rule()


@dataclass(frozen=True, slots=True)
class Verification:
    """What was found when a part of an entry was played again."""

    entry: str
    """SHA-256 of its ``entry.json``."""
    methods: Mapping[str, bool]
    """Method → whether its runs were reproduced; those that were not rerun are not there."""
    lines: Sequence[str]
    """The finding in words."""


def verification_path(folder: Path) -> Path:
    """Where the finding on an entry is: beside it, since it is not its author's."""
    return folder.with_name(folder.name + ".verified.json")


def read_verification(path: Path) -> Verification:
    """Read a finding. Raises ``MfenvError`` where the file is none."""
    value = read_json(path)
    if (
        not isinstance(value, dict)
        or value.get("format") != FORMAT
        or not isinstance(value.get("entry"), str)
        or not isinstance(value.get("methods"), dict)
        or not all(isinstance(ok, bool) for ok in value["methods"].values())
        or not isinstance(value.get("lines"), list)
        or not all(isinstance(line, str) for line in value["lines"])
    ):
        raise MfenvError(f"{path}: this is no finding of mfenv leaderboard verify ({FORMAT})")
    return Verification(value["entry"], value["methods"], value["lines"])


def failures(agreement: Agreement, likelihood: float | None, rule: Rule = RULE) -> list[str]:
    """Why a method's runs are not those of the entry; nothing where they are.

    Every single run has to agree, so that a few forged ones are not hidden among many.
    """
    found = []
    shares = {"labels": agreement.same_labels / agreement.actions}
    least = rule.free_labels
    if agreement.same_texts is not None:
        shares["texts"] = agreement.same_texts / agreement.actions
        least = rule.texts
    for name, share in shares.items():
        if (bad := np.flatnonzero(share < least)).size:
            found.append(
                f"{bad.size} of {share.size} runs have too few of the same {name}: "
                f"{share.min():.1%} in the worst, {least:.0%} needed"
            )
    if agreement.relabelled is not None:
        share = agreement.relabelled.sum() / agreement.actions.sum()
        if share < rule.relabelled:
            found.append(
                f"the annotator gives {share:.1%} of the recorded texts their labels, "
                f"{rule.relabelled:.0%} needed"
            )
    was, now = agreement.tokens
    if abs(now - was) > rule.tokens * max(was, 1):
        found.append(f"{now:,} tokens in the rerun, {was:,} in the entry")
    if likelihood is not None and not likelihood <= rule.likelihood:
        found.append(
            f"a case's likelihood differs by {likelihood:.2%}, {rule.likelihood:.0%} allowed"
        )
    return found


def in_words(agreement: Agreement, likelihood: float | None) -> str:
    """What was found of one method, in one line."""
    total = int(agreement.actions.sum())
    parts = [
        f"{agreement.actions.size} runs {'step by step' if agreement.step_by_step else 'freely'}",
        f"same labels {agreement.same_labels.sum():,} of {total:,} actions",
    ]
    if agreement.same_texts is not None and agreement.relabelled is not None:
        parts.append(f"same texts {agreement.same_texts.sum():,}")
        parts.append(f"recorded texts with their labels {agreement.relabelled.sum():,}")
    parts.append(f"whole steps {agreement.same_steps.sum():,} of {agreement.steps.sum():,}")
    if likelihood is not None:
        parts.append(f"likelihood within {likelihood:.1e}")
    return ", ".join(parts)


def as_json(agreement: Agreement, likelihood: float | None) -> dict[str, Any]:
    """An agreement as JSON values: a number for each run."""
    arrays = {
        name: None if (x := getattr(agreement, name)) is None else x.tolist()
        for name in ("actions", "same_labels", "same_texts", "steps", "same_steps", "relabelled")
    }
    return {
        "step_by_step": agreement.step_by_step,
        **arrays,
        "tokens": list(agreement.tokens),
        "likelihood": likelihood if likelihood is None or np.isfinite(likelihood) else "other",
    }
