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

from benchmarks.leaderboard.rerun import Agreement, Share
from benchmarks.untrusted import read_json
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
    """How much of a rerun must agree. Shares leave out what is silent on both sides."""

    texts: float = 0.7
    """Actions with the same text and actions with the same eight labels, in every run that is
    rerun step by step."""
    calibrated: float = 0.4
    """The same for calibrated methods: reactions are chosen jointly, so that one token that fell
    otherwise changes many."""
    free_labels: float = 0.6
    """Actions with the same eight labels, over all runs that are rerun freely."""
    free_worst: float = 0.2
    """The same in every one of them."""
    slack: int = 6
    """Actions of a run that may differ in any case: some runs have few that are not silent."""
    relabelled: float = 0.99
    """Recorded texts that get the recorded labels, and real reactions that do."""
    likelihood: float = 0.001
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


def failures(
    agreement: Agreement, likelihood: float | None, *, calibrated: bool, rule: Rule = RULE
) -> list[str]:
    """Why a method's runs are not those of the entry; nothing where they are.

    Every single run has to agree, so that a few forged ones are not hidden among many.
    """
    found = []
    if agreement.texts is not None:
        least = rule.calibrated if calibrated else rule.texts
        found += _runs("texts", agreement.texts, least, rule)
        found += _runs("labels", agreement.labels, least, rule)
    elif calibrated:
        found.append("calibrated runs can only be rerun step by step: give --texts")
    else:
        found += _runs("labels", agreement.labels, rule.free_labels, rule, rule.free_worst)
    if agreement.relabelled is not None and agreement.relabelled.total < rule.relabelled:
        found.append(
            f"the annotator gives {agreement.relabelled.total:.1%} of the recorded texts their "
            f"labels, {rule.relabelled:.0%} needed"
        )
    was, now = agreement.tokens
    if abs(now - was) > rule.tokens * max(was, 1):
        found.append(f"{now:,} tokens in the rerun, {was:,} in the entry")
    if likelihood is not None and not likelihood <= rule.likelihood:
        found.append(
            f"a case's likelihood differs by {likelihood:.2%}, {rule.likelihood:.1%} allowed"
        )
    return found


def _runs(
    name: str, share: Share, least: float, rule: Rule, worst: float | None = None
) -> list[str]:
    """What of a share is too low: over all runs ``least``, in each ``worst`` (the same)."""
    worst = least if worst is None else worst
    found = []
    if share.total < least:
        found.append(f"{share.total:.0%} of the actions have the same {name}, {least:.0%} needed")
    wrong = share.compared - share.same
    bad = int((wrong > np.maximum(rule.slack, (1 - worst) * share.compared)).sum())
    if bad:
        found.append(
            f"{bad} of {share.same.size} runs have too few of the same {name}: {share.worst:.0%} "
            f"in the worst, {worst:.0%} needed"
        )
    return found


def in_words(agreement: Agreement, likelihood: float | None) -> str:
    """What was found of one method, in one line."""
    shares = {
        "labels": agreement.labels,
        "texts": agreement.texts,
        "whole steps": agreement.steps,
        "labels of recorded texts": agreement.relabelled,
    }
    mode = "freely" if agreement.texts is None else "step by step"
    parts = [f"{agreement.labels.same.size} runs {mode}; the same"] + [
        f"{name} {share.same.sum():,} of {share.compared.sum():,}"
        for name, share in shares.items()
        if share is not None
    ]
    if likelihood is not None:
        parts.append(f"likelihood within {likelihood:.1e}")
    return ", ".join(parts).replace("; the same,", "; the same:")


def as_json(agreement: Agreement, likelihood: float | None) -> dict[str, Any]:
    """An agreement as JSON values: two numbers for each run."""
    shares = {
        name: None
        if (share := getattr(agreement, name)) is None
        else {"compared": share.compared.tolist(), "same": share.same.tolist()}
        for name in ("labels", "texts", "steps", "relabelled")
    }
    return {
        **shares,
        "tokens": list(agreement.tokens),
        "likelihood": likelihood if likelihood is None or np.isfinite(likelihood) else "other",
    }
