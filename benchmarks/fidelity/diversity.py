"""How varied what was written is, beside what the real people wrote.

This needs the texts, which an entry of a private track does not carry; so it stands in a run's own
tables and in no entry's scores.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np

from benchmarks import metrics
from benchmarks.fidelity.cases import Case
from benchmarks.fidelity.conditions import CORE
from benchmarks.fidelity.entry import Entry, read_texts
from benchmarks.metrics.texts import Unit

__all__ = ["REAL", "diversity"]

REAL = "real"
"""The row of the real people's own reactions."""

_UNITS: dict[str, Unit] = {"zh": "character"}


def diversity(entry: Entry, cases: Sequence[Case], texts: Path) -> dict[str, dict[str, float]]:
    """Distinct-1, distinct-2 and self-BLEU of each method in the core condition, and of the real.

    Each is of the reactions of one run (a case's horizon under one seed), mean over runs that have
    texts enough for it; ``texts`` is the folder that holds the entry's ``texts/``.
    """
    facts = entry.manifest.conditions[CORE]
    units = {i: _UNITS.get(cases[i].event.language, "word") for i in facts.cases}
    rows = {}
    for method in facts.methods:
        written = read_texts(entry, texts, CORE, method)
        runs = groupby(written, key=lambda step: (step.case, step.seed))
        rows[method] = _mean(
            ([text for step in steps for text in step.actions], units[case])
            for (case, _), steps in runs
        )
    first, last = 1 + facts.warmup, 1 + facts.warmup + facts.horizon
    rows[REAL] = _mean(
        (list(cases[i].event.posts.texts[first:last]), units[i]) for i in facts.cases
    )
    return rows


def _mean(runs: Iterator[tuple[list[str], Unit]]) -> dict[str, float]:
    found = np.array(
        [
            [
                metrics.distinct_n(texts, 1, unit),
                metrics.distinct_n(texts, 2, unit),
                metrics.self_bleu(texts, unit),
            ]
            for texts, unit in runs
        ]
    )
    known = ~np.isnan(found)
    mean = np.where(known, found, 0.0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    names = ("distinct_1", "distinct_2", "self_bleu")
    return {
        name: round(float(x), 4)
        for name, x, some in zip(names, mean, known.any(axis=0), strict=True)
        if some
    }
