"""How well the shipped annotator agrees with the annotation, on the test split.

    python -m benchmarks.annotator [--data ../shared/data] [--out benchmarks/results/annotator.md]

Beside it stand the n-gram baseline of the data card, trained here on the same data, the majority
class, and the labels' own consistency (from the card). Intervals are paired bootstraps over events.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from agents.annotators.classifier import WEIGHTS, ClassifierAnnotator, SharesMethod, decide
from benchmarks.metrics import macro_f1
from mfenv.errors import MissingExtraError
from mfenv.labels import DIMENSIONS, N_DIMENSIONS, SLICES, Labels, one_hot
from training.annotator_data import Annotated, read_annotations

__all__ = ["Agreement", "agreement", "baseline", "main", "resample", "share_errors"]

Floats = NDArray[np.float64]

CONSISTENCY: dict[str, tuple[float | None, ...]] = {
    "zh": (1.00, 0.93, 0.91, 0.85, 0.87, 1.00, 0.85, 0.97),
    "en": (0.91, 0.93, 0.91, None, 0.82, 0.91, 0.63, 0.69),
}
"""Krippendorff's α between passes of the annotator, from the data card."""

METHODS: tuple[SharesMethod, ...] = ("counted", "mean", "prior", "hard", "soft")
_RESAMPLES = 2000


@dataclass(frozen=True, slots=True)
class Agreement:
    """Accuracy, macro-F1 and Cohen's κ, each of the shape of the leading axes of the tables."""

    accuracy: Floats
    macro_f1: Floats
    kappa: Floats


def agreement(table: NDArray[np.float64]) -> Agreement:
    """Agreement from tables ``(..., k, k)`` of counts, true label by predicted label.

    Macro-F1 is over the labels that occur in truth or prediction; κ is 0 where chance explains all.
    """
    table = np.asarray(table, dtype=np.float64)
    total = table.sum(axis=(-2, -1))
    hit = np.einsum("...ii->...i", table)
    true, predicted = table.sum(axis=-1), table.sum(axis=-2)
    accuracy = hit.sum(axis=-1) / total
    chance = (true * predicted).sum(axis=-1) / total**2
    sure = chance >= 1 - 1e-12
    kappa = np.where(sure, 0.0, (accuracy - chance) / np.where(sure, 1.0, 1 - chance))
    return Agreement(accuracy, macro_f1(table), kappa)


def _tables(truth: Labels, predicted: Labels, events: NDArray[np.int64], d: int) -> Floats:
    """Confusion counts of each event, ``(events, k, k)``."""
    k = len(DIMENSIONS[d].labels)
    distinct, place = np.unique(events, return_inverse=True)
    out = np.zeros((len(distinct), k, k))
    np.add.at(out, (place, truth[:, d].astype(int), predicted[:, d].astype(int)), 1)
    return out


def resample(n: int, resamples: int = _RESAMPLES, seed: int = 0) -> Floats:
    """How often each of ``n`` events is drawn in each bootstrap sample, ``(resamples, n)``."""
    return np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), resamples).astype(float)


def baseline(train: Annotated, texts: Sequence[str]) -> Labels:
    """The data card's baseline: hashed character 1–4-grams of the text, balanced regressions."""
    try:
        from sklearn.feature_extraction.text import HashingVectorizer
        from sklearn.linear_model import LogisticRegression
    except ModuleNotFoundError as error:
        raise MissingExtraError("training", "the n-gram baseline") from error
    hashing = HashingVectorizer(analyzer="char", ngram_range=(1, 4), n_features=2**18)
    x, y = hashing.transform(train.texts), hashing.transform(texts)
    columns = []
    for d in range(N_DIMENSIONS):
        model = LogisticRegression(class_weight="balanced", max_iter=300)
        columns.append(model.fit(x, train.labels[:, d]).predict(y))
    return np.stack(columns, axis=1).astype(np.int8)


def _interval(values: Floats) -> tuple[float, float]:
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def _signed(low: float, high: float) -> str:
    star = " \\*" if low > 0 or high < 0 else ""
    return f"[{low:+.2f}, {high:+.2f}]{star}"


def agreement_table(
    test: Annotated, ours: Labels, theirs: Labels, train: Annotated, language: str
) -> list[str]:
    """Markdown rows: one for each dimension, then the mean."""
    rows = [
        "| dimension | accuracy | macro-F1 | κ | κ of the baseline | difference of κ | "
        "accuracy of the majority class | consistency α |",
        "|---|---|---|---|---|---|---|---|",
    ]
    draws = resample(len(np.unique(test.events)))
    gains, totals, points = [], [], []
    for d, dimension in enumerate(DIMENSIONS):
        mine = _tables(test.labels, ours, test.events, d)
        other = _tables(test.labels, theirs, test.events, d)
        a, b = agreement(mine.sum(axis=0)), agreement(other.sum(axis=0))
        drawn = np.einsum("be,eij->bij", draws, mine), np.einsum("be,eij->bij", draws, other)
        gain = agreement(drawn[0]).kappa - agreement(drawn[1]).kappa
        gains.append(gain)
        totals.append((float(a.accuracy), float(a.macro_f1), float(a.kappa), float(b.kappa)))
        majority = np.bincount(train.labels[:, d]).argmax()
        share = float((test.labels[:, d] == majority).mean())
        points.append(share)
        alpha = CONSISTENCY[language][d]
        rows.append(
            f"| {dimension.name} | {a.accuracy:.3f} | {a.macro_f1:.3f} | {a.kappa:.3f} | "
            f"{b.kappa:.3f} | {a.kappa - b.kappa:+.3f} {_signed(*_interval(gain))} | {share:.3f} | "
            f"{'–' if alpha is None else f'{alpha:.2f}'} |"
        )
    mean = np.mean(totals, axis=0)
    rows.append(
        f"| **mean** | {mean[0]:.3f} | {mean[1]:.3f} | {mean[2]:.3f} | {mean[3]:.3f} | "
        f"{mean[2] - mean[3]:+.3f} {_signed(*_interval(np.mean(gains, axis=0)))} | "
        f"{np.mean(points):.3f} | |"
    )
    return rows


def share_errors(
    annotator: ClassifierAnnotator,
    probabilities: Floats,
    labels: Labels,
    events: NDArray[np.int64],
    language: str,
    populations: Floats,
) -> dict[str, Floats]:
    """Total variation of estimated and true label shares, mean over dimensions.

    ``populations`` ``(b, events)`` says how often each event belongs to each population. Returns
    for each method an array ``(b,)``; ``"argmax"`` counts the most probable labels.
    """
    place = np.unique(events, return_inverse=True)[1]
    truth = one_hot(labels)
    out: dict[str, list[float]] = {m: [] for m in ("argmax", *METHODS)}
    for weights in populations:
        rows = np.repeat(np.arange(len(labels)), weights[place].astype(int))
        true = truth[rows].mean(axis=0)
        p = probabilities[rows]
        estimates: dict[str, Floats] = {
            m: annotator.corrected_shares(p, language, m) for m in METHODS
        }
        estimates["argmax"] = one_hot(decide(p)).mean(axis=0)
        for method, estimate in estimates.items():
            gap = np.abs(estimate - true)
            out[method].append(float(np.mean([gap[s].sum() / 2 for s in SLICES.values()])))
    return {method: np.array(values) for method, values in out.items()}


_METHOD_NAMES = {
    "argmax": "counted: most probable labels",
    "counted": "counted: decisions tuned for κ",
    "mean": "mean of the calibrated probabilities",
    "prior": "prior shift (EM of Saerens et al.) on the probabilities",
    "hard": "confusion-corrected decisions (adjusted count, maximum likelihood)",
    "soft": "confusion-corrected probabilities (probabilistic adjusted count)",
}


def _shares_section(
    annotator: ClassifierAnnotator, p: Floats, test: Annotated, language: str
) -> list[str]:
    n = len(np.unique(test.events))
    rng = np.random.default_rng(1)
    whole = share_errors(annotator, p, test.labels, test.events, language, np.ones((1, n)))
    drawn = share_errors(
        annotator, p, test.labels, test.events, language, resample(n, resamples=400, seed=1)
    )
    size = max(2, n // 5)
    few = np.zeros((400, n))
    for row in few:
        row[rng.choice(n, size=size, replace=False)] = 1
    small = share_errors(annotator, p, test.labels, test.events, language, few)
    rows = [
        f"| shares by | whole test part | events resampled | minus argmax counts | {size} events |",
        "|---|---|---|---|---|",
    ]
    for method, name in _METHOD_NAMES.items():
        gap = "–"
        if method != "argmax":
            low, high = _interval(drawn[method] - drawn["argmax"])
            star = " \\*" if low > 0 or high < 0 else ""
            gap = f"[{low:+.3f}, {high:+.3f}]{star}"
        rows.append(
            f"| {name} | {whole[method][0]:.3f} | {drawn[method].mean():.3f} | {gap} | "
            f"{small[method].mean():.3f} |"
        )
    best = min(METHODS, key=lambda m: float(drawn[m].mean()))
    rows += ["", f"Lowest error with resampled events: {_METHOD_NAMES[best]}."]
    return rows


def _speed(annotator: ClassifierAnnotator, test: Annotated, language: str) -> float:
    """Reactions labelled in a minute of processor time, which a busy machine does not change."""
    times = max(1, 12_000 // len(test.texts))
    topics, texts = test.topics * times, test.texts * times
    annotator.label(topics[:100], texts[:100], [language] * 100)
    begun = time.process_time()
    annotator.label(topics, texts, [language] * len(texts))
    return 60 * len(texts) / (time.process_time() - begun)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print and write the report."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.annotator", description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/annotator.md"))
    args = parser.parse_args(argv)
    annotator = ClassifierAnnotator.load(args.weights)
    every = read_annotations(args.data)
    lines = [
        "# Annotator: agreement with the annotation on the test part",
        "",
        "Made by `python -m benchmarks.annotator`. Labels are those of a large language model (see "
        "the data card), so this is agreement with that model, not truth. Brackets: 95% paired "
        f"bootstrap over events ({_RESAMPLES} resamples); \\* marks an interval that excludes 0. "
        "The baseline is the data card's (hashed character 1–4-grams of the reaction, balanced "
        "logistic regression), trained here on the same splits, train and validation. "
        "Always answering the majority class has κ = 0. The consistency is the data card's "
        "Krippendorff α between passes.",
        "",
    ]
    for language in ("zh", "en"):
        if language not in every or language not in annotator.languages:
            continue
        train, test = every[language].of("train", "validation"), every[language].of("test")
        names = [language] * len(test.texts)
        p = annotator.probabilities(test.topics, test.texts, names)
        ours = annotator.decide(p, names)
        n = len(np.unique(test.events))
        lines += [f"## {language}: {len(test.texts)} reactions to {n} events", ""]
        lines += agreement_table(test, ours, baseline(train, test.texts), train, language)
        lines += [
            "",
            "Population shares: total variation to the true ones, mean over the dimensions.",
            "",
        ]
        lines += _shares_section(annotator, p, test, language)
        speed = f"{_speed(annotator, test, language):,.0f} reactions a minute of processor time"
        lines += ["", f"Speed: {speed}.", ""]
    text = "\n".join(lines)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(text, encoding="utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
