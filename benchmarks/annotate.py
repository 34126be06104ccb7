"""``mfenv annotate``: label events with an annotator, or see how far annotators agree.

``mfenv annotate EVENTS --annotator NAME --out FILE.jsonl`` writes the events with labels.
``mfenv annotate --compare A,B`` labels reactions that were annotated (``--data``, a folder with
``annotations/annotations.parquet``) and prints Cohen's κ of each annotator with the annotation and
of each pair with one another; with EVENTS, of the pairs alone. The shipped classifier has learned
from the splits train and validation.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from benchmarks.annotator import agreement
from benchmarks.metrics import confusion
from mfenv.cli import Command, integer, script
from mfenv.dynamics.assemble import build_annotator, check_names
from mfenv.dynamics.models import Annotator
from mfenv.errors import MfenvError
from mfenv.events.jsonl import write_jsonl
from mfenv.events.load import load_events
from mfenv.labels import DIMENSIONS, Labels
from mfenv.noise import generator
from training.annotator_data import read_annotations
from training.corpus import label_events

__all__ = ["HELP", "add_arguments", "compare", "run"]

HELP = "label events with an annotator, or compare annotators"

_ANNOTATION = "annotation"
_SAMPLE_STREAM = 7007


@dataclass(frozen=True, slots=True)
class _Reactions:
    """What is labelled; ``labels`` ``(n, 8)`` where it has been annotated."""

    topics: list[str]
    texts: list[str]
    languages: list[str]
    labels: Labels | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add = parser.add_argument
    add("events", nargs="?", type=Path, metavar="EVENTS", help="events, in any format we read")
    add("--annotator", default="classifier", metavar="NAME", help="(%(default)s)")
    add("--out", type=Path, metavar="FILE", help=".jsonl file for the labelled events")
    add("--compare", metavar="NAME,…", help="annotators to compare instead")
    add("--data", type=Path, default=Path("../shared/data"), help="folder with annotations")
    add("--split", default="test", help="of the annotations (%(default)s)")
    add("--language", choices=("zh", "en"), help="of the annotations (all)")
    add("--limit", type=integer(1), metavar="N", help="compare on N reactions, drawn by --seed")
    add("--seed", type=integer(0), default=0)
    add("--json", action="store_true", help="print JSON only")


def run(args: argparse.Namespace) -> int:
    """Label or compare."""
    if args.compare is not None:
        return _compare(args)
    if args.events is None or args.out is None:
        raise MfenvError("needed: EVENTS and --out FILE to label them, or --compare NAME,…")
    annotator = _annotator(args.annotator)
    events = [replace(e, labels=None) for e in load_events(args.events)]
    labels = label_events(events, annotator)
    write_jsonl([replace(e, labels=y) for e, y in zip(events, labels, strict=True)], args.out)
    counts = {"events": len(events), "posts": sum(map(len, labels)), "annotator": annotator.name}
    if args.json:
        print(json.dumps(counts))
    else:
        print(f"{args.out}: {counts['posts']} posts of {counts['events']} events labelled")
    return 0


def _annotator(name: str) -> Annotator:
    check_names(backbone="embedded-en", method="mf", annotator=name)
    return build_annotator(name)


def _compare(args: argparse.Namespace) -> int:
    # A comma before a URL belongs to the list of a served model's replicas.
    names = [n for n in re.split(r",(?!https?://)", args.compare) if n]
    if args.events is not None and len(names) < 2:
        raise MfenvError("--compare needs two annotators where EVENTS have no annotation: A,B")
    reactions = _drawn(
        _of_events(args.events) if args.events else _annotated(args), args.limit, args.seed
    )
    labels = {name: _labels(_annotator(name), reactions) for name in dict.fromkeys(names)}
    if reactions.labels is not None:
        labels = {_ANNOTATION: reactions.labels, **labels}
    result = {"reactions": len(reactions.texts), "kappa": compare(labels)}
    print(json.dumps(result) if args.json else _markdown(result))
    return 0


def compare(labels: dict[str, Labels]) -> dict[str, dict[str, float]]:
    """Cohen's κ of each pair in each dimension, and their mean; labels are ``(n, 8)``."""
    result = {}
    for (a, x), (b, y) in combinations(labels.items(), 2):
        kappas = {
            dimension.name: float(agreement(table).kappa)
            for dimension, table in zip(DIMENSIONS, confusion(x, y), strict=True)
        }
        result[f"{a} | {b}"] = {**kappas, "mean": float(np.mean(list(kappas.values())))}
    return result


def _labels(annotator: Annotator, reactions: _Reactions) -> Labels:
    return np.asarray(annotator.label(reactions.topics, reactions.texts, reactions.languages))


def _of_events(path: Path) -> _Reactions:
    events = load_events(path)
    rows = [(e.topic, t, e.language) for e in events for t in e.posts.texts[1:] if t.strip()]
    if not rows:
        raise MfenvError(f"{path}: no reactions with words to compare on")
    topics, texts, languages = (list(column) for column in zip(*rows, strict=True))
    return _Reactions(topics, texts, languages, None)


def _annotated(args: argparse.Namespace) -> _Reactions:
    parts = {
        language: part.of(args.split)
        for language, part in read_annotations(args.data).items()
        if args.language in (None, language)
    }
    rows: NDArray[Any] = np.concatenate([part.labels for part in parts.values()])
    if not len(rows):
        raise MfenvError(
            f"--split {args.split!r} has no reactions; allowed: train, validation, test"
        )
    return _Reactions(
        [t for part in parts.values() for t in part.topics],
        [t for part in parts.values() for t in part.texts],
        [language for language, part in parts.items() for _ in part.texts],
        rows.astype(np.int8),
    )


def _drawn(reactions: _Reactions, limit: int | None, seed: int) -> _Reactions:
    n = len(reactions.texts)
    if limit is None or limit >= n:
        return reactions
    rows = np.sort(generator(seed, _SAMPLE_STREAM).choice(n, size=limit, replace=False))
    return _Reactions(
        [reactions.topics[i] for i in rows],
        [reactions.texts[i] for i in rows],
        [reactions.languages[i] for i in rows],
        None if reactions.labels is None else reactions.labels[rows],
    )


def _markdown(result: dict[str, Any]) -> str:
    pairs = result["kappa"]
    names: Sequence[str] = [d.name for d in DIMENSIONS]
    lines = [
        f"Cohen's κ on {result['reactions']} reactions (0: chance, 1: always equal).",
        "",
        "| pair | " + " | ".join([*names, "mean"]) + " |",
        "|---|" + "---|" * (len(names) + 1),
    ]
    for pair, kappas in pairs.items():
        cells = " | ".join(f"{kappas[n]:.2f}" for n in [*names, "mean"])
        lines.append(f"| {pair.replace('|', 'and')} | {cells} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(script(cast(Command, sys.modules[__name__]), "python -m benchmarks.annotate"))
