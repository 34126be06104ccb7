"""``mfenv train annotator``: train the classifier that labels reactions, and write its weights.

For each language: an encoder learns from unlabelled reactions, a teacher from annotated ones and
the encoder, a student (what is shipped) imitates the teacher on unlabelled reactions. Calibration,
decisions and confusion are measured by cross-fitting over events, with a teacher and a student for
each fold, on the splits train and validation. The test split is not used.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from agents.annotators.classifier import FORMAT, WEIGHTS, Head, Network, decide, softmax
from agents.annotators.features import FORM_FEATURES, LANGUAGES, featurise
from mfenv.errors import MfenvError, MissingExtraError
from mfenv.labels import DIMENSIONS, N_LABELS, SLICES, Labels, one_hot
from training.annotator_data import (
    Annotated,
    Unlabelled,
    hide_cues,
    read_annotations,
    read_unlabelled,
)

if TYPE_CHECKING:
    from training.annotator_model import Encoder, StudentSettings

__all__ = [
    "HELP",
    "Settings",
    "Trained",
    "add_arguments",
    "kappa",
    "run",
    "save",
    "train_language",
    "tune_offsets",
]

HELP = "train the classifier that labels reactions (Chinese and English)"

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Settings:
    """How one language is trained. Counts are of unlabelled reactions."""

    bits: int = 16
    width: int = 20
    pretrain: int = 450_000  # for the encoder; 0: the teacher has n-grams alone
    rare: int = 25
    distil: int = 300_000  # for the student that is shipped
    distil_fold: int = 120_000  # for each student of the cross-fitting
    folds: int = 3
    epochs: int = 4
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Trained:
    """A network, its head, and cross-fitted probabilities ``(n, 23)`` of train and validation."""

    network: Network
    head: Head
    out_of_fold: Floats


def kappa(truth: ArrayLike, predicted: ArrayLike) -> float:
    """Cohen's κ of two label columns ``(n,)``; 0 where chance explains all agreement."""
    truth, predicted = np.asarray(truth, dtype=np.int64), np.asarray(predicted, dtype=np.int64)
    k = int(max(truth.max(), predicted.max())) + 1
    table = np.bincount(truth * k + predicted, minlength=k * k).reshape(k, k) / len(truth)
    chance = float(table.sum(axis=0) @ table.sum(axis=1))
    return 0.0 if chance >= 1 else (float(np.trace(table)) - chance) / (1 - chance)


def tune_offsets(probabilities: Floats, labels: Labels, reach: float = 2.5) -> Floats:
    """Shifts of the log-probabilities ``(23,)`` whose decisions have the highest κ.

    One label after the other (the first of a dimension stays at 0), three rounds over a grid; κ is
    smoothed along the grid, so that the middle of a good range is taken and not a lucky point.
    """
    grid = np.linspace(-reach, reach, 51)
    out = np.zeros(N_LABELS)
    for d, s in enumerate(SLICES.values()):
        log = np.log(np.maximum(probabilities[:, s], 1e-9))
        shift = np.zeros(log.shape[1])
        for _ in range(3):
            for j in range(1, len(shift)):
                scores = []
                for value in grid:
                    shift[j] = value
                    scores.append(kappa(labels[:, d], (log + shift).argmax(axis=1)))
                smooth = np.convolve(np.pad(scores, 3, "edge"), np.ones(7) / 7, "valid")
                shift[j] = grid[int(smooth.argmax())]
        out[s] = shift
    return out


def _confusion(predicted: Floats, labels: Labels) -> Floats:
    """Mean prediction given the true label, ``(23, 23)`` in blocks; half a pseudo-count each."""
    truth = one_hot(labels)
    out = np.zeros((N_LABELS, N_LABELS))
    for s in SLICES.values():
        block = truth[:, s].T @ predicted[:, s] + 0.5 * predicted[:, s].mean(axis=0)
        out[s, s] = block / block.sum(axis=1, keepdims=True)
    return out


def _folds(events: NDArray[np.int64], k: int, seed: int) -> NDArray[np.int64]:
    """A fold for each reaction, whole events together; ``(n,)``."""
    distinct, place = np.unique(events, return_inverse=True)
    order = np.random.default_rng(seed).permutation(len(distinct))
    return np.asarray(order[place] % k, dtype=np.int64)


def train_language(
    language: str,
    annotated: Annotated,
    unlabelled: Unlabelled,
    settings: Settings,
    log: bool = False,
) -> Trained:
    """Train one language's network and head; only the splits train and validation are used."""
    from training.annotator_model import (
        StudentSettings,
        fit_encoder,
        fit_student,
        fit_teacher,
        scale_heads,
    )

    begun = time.monotonic()

    def say(text: str) -> None:
        if log:
            print(
                f"{language} {time.monotonic() - begun:6.0f} s  {text}", file=sys.stderr, flush=True
            )

    known = annotated.of("train", "validation")
    if not known.texts or not unlabelled.texts:
        raise MfenvError(f"no annotated or no unlabelled training reactions in {language!r}")
    rng = np.random.default_rng(settings.seed)
    encoder: Encoder | None = None
    if settings.pretrain:
        some = rng.permutation(len(unlabelled.texts))[: settings.pretrain]
        cues = hide_cues(unlabelled.part(np.sort(some)), language, rng)
        encoder = fit_encoder(cues, language, seed=settings.seed, rare=settings.rare)
        say(f"encoder: {len(cues.texts)} reactions, {len(encoder.table)} n-grams")
    shape = StudentSettings(bits=settings.bits, width=settings.width, epochs=settings.epochs)

    def network(part: Annotated, distil: int, seed: int, shape: StudentSettings) -> Network:
        teacher = fit_teacher(part.topics, part.texts, part.labels, language, encoder)
        chosen = np.random.default_rng(seed).permutation(len(unlabelled.texts))[:distil]
        pool = unlabelled.part(chosen)
        target = teacher.probabilities(pool.topics, pool.texts)
        say(f"teacher of {len(part.texts)} annotated reactions labelled {len(pool.texts)} more")
        return fit_student(
            (featurise(pool.topics, pool.texts, language), target),
            (featurise(part.topics, part.texts, language), part.labels),
            shape,
            seed=seed,
        )

    fold = _folds(known.events, settings.folds, settings.seed)
    logits = np.zeros((len(known.texts), N_LABELS))
    for k in range(settings.folds):
        held = known.part(fold == k)
        fitted = network(known.part(fold != k), settings.distil_fold, settings.seed + 1 + k, shape)
        logits[fold == k] = fitted.logits(featurise(held.topics, held.texts, language))
        say(f"fold {k + 1} of {settings.folds}")
    final = network(known, settings.distil, settings.seed, shape)
    labels = known.labels
    factor, shift = scale_heads(logits, labels)
    final = replace(
        final,
        output=final.output * factor,
        skip=final.skip * factor,
        bias=final.bias * factor + shift,
    )
    p = softmax(logits * factor + shift)
    offsets = tune_offsets(p, labels)
    head = Head(
        offsets=offsets,
        prior=one_hot(labels).mean(axis=0),
        hard=_confusion(one_hot(decide(p, offsets)), labels),
        soft=_confusion(p, labels),
    )
    decided = decide(p, offsets)
    for name in ("train", "validation"):
        rows = known.splits == name
        if rows.any():
            of = [kappa(labels[rows, d], decided[rows, d]) for d in range(len(DIMENSIONS))]
            say(f"cross-fitted κ on {name}: {' '.join(f'{x:.2f}' for x in of)}, {np.mean(of):.3f}")
    return Trained(final, head, p)


def save(trained: Trained, language: str, folder: Path) -> Path:
    """Write ``folder/LANGUAGE.safetensors``; the same input gives the same bytes."""
    from safetensors.numpy import save as serialise

    from training.annotator_model import quantise

    network, head = trained.network, trained.head
    tensors: dict[str, NDArray[np.generic]] = {}
    for name in ("table", "topic_table"):
        tensors[name], tensors[f"{name}_scale"] = quantise(getattr(network, name))
    for name in ("hidden", "hidden_bias", "output", "skip", "bias"):
        tensors[name] = np.ascontiguousarray(getattr(network, name), dtype=np.float32)
    for name in ("offsets", "prior", "hard", "soft"):
        tensors[name] = np.ascontiguousarray(getattr(head, name), dtype=np.float32)
    meta = {
        "format": FORMAT,
        "language": language,
        "labels": [list(d.labels) for d in DIMENSIONS],
        "form": list(FORM_FEATURES),
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{language}.safetensors"
    path.write_bytes(serialise(tensors, metadata={"mfenv": json.dumps(meta)}))
    return path


_LANGUAGE_SETTINGS = {
    "zh": Settings(),
    "en": Settings(bits=15, width=24, rare=8, epochs=8, distil=70_000, distil_fold=70_000),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``mfenv train annotator``."""
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="data folder")
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="folder for the weights")
    parser.add_argument(
        "--languages", nargs="+", choices=sorted(LANGUAGES), default=sorted(LANGUAGES)
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="threads for torch (default 1)")


def run(args: argparse.Namespace) -> int:
    """Train the chosen languages and write their weights; returns the exit status."""
    try:
        import sklearn  # noqa: F401
        import torch
    except ModuleNotFoundError as error:
        raise MissingExtraError("training", "training an annotator") from error
    torch.set_num_threads(args.threads)
    annotated = read_annotations(args.data)
    for language in args.languages:
        settings = replace(_LANGUAGE_SETTINGS[language], seed=args.seed)
        unlabelled = read_unlabelled(args.data, language)
        trained = train_language(language, annotated[language], unlabelled, settings, log=True)
        path = save(trained, language, args.out)
        print(f"{path}: {path.stat().st_size / 1e6:.2f} MB")
    return 0
