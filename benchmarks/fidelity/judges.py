"""What a result owes to its judge: an annotator's measured errors, and a second annotator.

``confusion.json`` holds how often the shipped annotator gave which label where the reference had
which, on the annotated test part (counts alone; ``python -m benchmarks.annotator`` writes it).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import metrics
from benchmarks.fidelity.measure import Plan, Task, played
from mfenv.dynamics.engine import label_rows
from mfenv.dynamics.models import Annotator
from mfenv.dynamics.records import StepRecord
from mfenv.labels import SILENT_REPOST, Labels
from mfenv.noise import generator

__all__ = ["confusion_of", "corrected", "relabelled", "under_judges"]

Floats = NDArray[np.float64]

_STREAM = 7011
_DRAWS = 200


@cache
def _measured() -> Mapping[str, Any]:
    path = files("benchmarks.fidelity") / "confusion.json"
    measured: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return measured


def confusion_of(annotator: str, language: str) -> list[Floats] | None:
    """An annotator's confusion counts ``(k, k)`` for the eight dimensions, if they were measured.

    Row: the reference label. Of reactions with words of their own; the others are read by rule.
    """
    tables = _measured().get(annotator, {}).get(language)
    return None if tables is None else [np.array(t, dtype=float) for t in tables]


def corrected(
    annotator: str, languages: Sequence[str], real: Labels, simulated: Mapping[str, Labels]
) -> dict[str, Any] | None:
    """Corrected excess KL of each method with the annotator's own errors in the interval.

    ``real`` ``(C, H, 8)``, ``simulated`` ``{method: (S, C, H, 8)}``. Silent reposts are read by a
    rule, without error: as many of them as the real reactions have are added to the confusion's
    diagonal. ``None`` where the annotator's confusion is not known, or the languages differ.
    """
    tables = confusion_of(annotator, languages[0]) if len(set(languages)) == 1 else None
    if tables is None:
        return None
    silent = (real == SILENT_REPOST).all(axis=-1).mean()
    sure = silent / max(1 - silent, 1e-9)
    tables = [table.copy() for table in tables]
    for table, label in zip(tables, SILENT_REPOST, strict=True):
        table[label, label] += table.sum() * sure
    found = metrics.corrected_kl_intervals(
        metrics.window_counts(real),
        {m: metrics.window_counts(x) for m, x in simulated.items()},
        tables,
        generator(_STREAM, 0),
        draws=_DRAWS,
    )
    ranked = sorted(found.kl, key=lambda m: found.kl[m].mean)
    return {
        "silent": round(float(silent), 4),
        "kl": {m: _json(x) for m, x in found.kl.items()},
        "ranked": ranked,
        "paired": {
            f"{a} - {b}": _json(_difference(found.differences, a, b))
            for i, a in enumerate(ranked)
            for b in ranked[i + 1 :]
        },
    }


def _difference(
    differences: Mapping[tuple[str, str], metrics.Interval], a: str, b: str
) -> metrics.Interval:
    if (a, b) in differences:
        return differences[a, b]
    x = differences[b, a]
    return metrics.Interval(-x.mean, -x.high, -x.low)


def _json(x: metrics.Interval) -> dict[str, float]:
    return {"mean": round(x.mean, 6), "low": round(x.low, 6), "high": round(x.high, 6)}


def under_judges(scores: Mapping[str, Mapping[str, float]]) -> list[dict[str, Any]]:
    """Pairs of methods that a second judge orders otherwise: ``{judge: {method: mean KL}}``.

    The first judge is what the others are compared with.
    """
    first, *others = scores
    return [
        {"judge": judge, "pairs": [list(pair) for pair in pairs]}
        for judge in others
        if (pairs := metrics.rank_reversals(scores[first], scores[judge]))
    ]


def relabelled(
    plan: Plan, method: str, judge: Annotator
) -> Iterator[tuple[Task, StepRecord, Labels]]:
    """What a second annotator says of a method's reactions, step by step."""
    for task, steps in played(plan, method):
        event = plan.cases[task.case].event
        rows = [(event.topic, text, event.language) for r in steps for text in r.texts]
        labels = iter(label_rows(judge, rows))
        for record in steps:
            yield task, record, np.stack([next(labels) for _ in record.texts])
