"""``mfenv train annotator``: train the classifier that labels reactions, and write its weights.

For each language: an encoder learns from unlabelled reactions, a teacher from annotated ones and
the encoder, a student (what is shipped) imitates the teacher on unlabelled reactions. With
``--encoder`` a pretrained sentence encoder, fine-tuned on all languages together, is a second
teacher. Calibration, decisions and confusion are measured by cross-fitting over events, with
teachers and a student for each fold, on the splits train and validation. The test split is not
used.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from agents.annotators.classifier import (
    FORMAT,
    READER_PARTS,
    WEIGHTS,
    Head,
    Network,
    decide,
    softmax,
)
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
    import torch

    from training.annotator_model import Encoder
    from training.annotator_teacher import Pseudo

__all__ = [
    "HELP",
    "Settings",
    "Trained",
    "add_arguments",
    "kappa",
    "known_folds",
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

    bits: int = 15
    width: int = 16
    reader_bits: int = 14
    reader_width: int = 64  # 0: no reader
    hidden: int = 128
    pretrain: int = 450_000  # for the encoder and the reader; 0: both do without
    rare: int = 25
    distil: int = 327_680  # for each student; those that both teachers label count twice
    sentence: int = 163_840  # labelled by the sentence encoder too, if there is one
    folds: int = 3
    held: int = 2  # folds that are left out in turn to measure calibration
    epochs: int = 3
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Trained:
    """A network, its head, and probabilities ``(n, 23)`` of the reactions that were held out."""

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


# Powers of the two teachers in the product of their probabilities; together near one, so that the
# product is about as sure as it is right.
_NGRAMS, _SENTENCE = 0.55, 0.45


def _product(ngrams: ArrayLike, sentence: ArrayLike) -> Floats:
    """What the two teachers say together; all of the shape ``(n, 23)``."""
    logs = (np.log(np.maximum(np.asarray(p, dtype=np.float64), 1e-9)) for p in (ngrams, sentence))
    return softmax(sum(w * x for w, x in zip((_NGRAMS, _SENTENCE), logs, strict=True)))


def known_folds(annotated: Annotated, settings: Settings) -> tuple[Annotated, NDArray[np.int64]]:
    """The reactions to learn from (splits train and validation) and their folds ``(n,)``."""
    known = annotated.of("train", "validation")
    return known, _folds(known.events, settings.folds, settings.seed)


def train_language(
    language: str,
    annotated: Annotated,
    unlabelled: Unlabelled,
    settings: Settings,
    log: bool = False,
    sentence: Pseudo | None = None,
) -> Trained:
    """Train one language's network and head; only the splits train and validation are used.

    ``sentence`` is what teachers with a sentence encoder say, for the folds of
    :func:`known_folds`.
    """
    from training.annotator_model import (
        StudentSettings,
        fit_encoder,
        fit_student,
        fit_teacher,
        pretrain_reader,
        scale_heads,
    )

    begun = time.monotonic()

    def say(text: str) -> None:
        if log:
            print(
                f"{language} {time.monotonic() - begun:6.0f} s  {text}", file=sys.stderr, flush=True
            )

    known, fold = known_folds(annotated, settings)
    if not known.texts or not unlabelled.texts:
        raise MfenvError(f"no annotated or no unlabelled training reactions in {language!r}")
    rng = np.random.default_rng(settings.seed)
    encoder: Encoder | None = None
    reader: dict[str, torch.Tensor] | None = None
    shape = StudentSettings(
        bits=settings.bits,
        width=settings.width,
        reader_bits=settings.reader_bits,
        reader_width=settings.reader_width,
        hidden=settings.hidden,
        epochs=settings.epochs,
    )
    if settings.pretrain:
        some = rng.permutation(len(unlabelled.texts))[: settings.pretrain]
        cues = hide_cues(unlabelled.part(np.sort(some)), language, rng)
        encoder = fit_encoder(cues, language, seed=settings.seed, rare=settings.rare)
        say(f"encoder: {len(cues.texts)} reactions, {len(encoder.table)} n-grams")
        if shape.reader_width:
            reader = pretrain_reader(cues, shape, seed=settings.seed)
            say("reader")
    chosen = np.random.default_rng(settings.seed).permutation(len(unlabelled.texts))
    often = np.ones(len(chosen), dtype=np.int64)
    if sentence is not None:
        # Those that both teachers label come first, and count twice.
        chosen = np.concatenate([sentence.places, chosen[~np.isin(chosen, sentence.places)]])
        often[: len(sentence.places)] = 2
    few = np.cumsum(often) <= settings.distil
    pool, often = unlabelled.part(chosen[few]), often[few]
    seen = featurise(pool.topics, pool.texts, language)

    def network(fold_out: int | None, seed: int) -> Network:
        part = known if fold_out is None else known.part(fold != fold_out)
        teacher = fit_teacher(part.topics, part.texts, part.labels, language, encoder)
        if fold_out is not None:
            held = known.part(fold == fold_out)
            taught[fold == fold_out] = teacher.probabilities(held.topics, held.texts)
        target = teacher.probabilities(pool.topics, pool.texts).astype(np.float32)
        if sentence is not None:
            opinion = sentence.opinion(fold_out)[: len(target)]
            target[: len(opinion)] = _product(target[: len(opinion)], opinion)
        say(f"teacher of {len(part.texts)} annotated reactions labelled {len(pool.texts)} more")
        return fit_student(
            (seen, target, often),
            (featurise(part.topics, part.texts, language), part.labels),
            shape,
            seed=seed,
            reader=reader,
        )

    taught = np.zeros((len(known.texts), N_LABELS))
    logits = np.zeros((len(known.texts), N_LABELS))
    for k in range(settings.held):
        fitted = network(k, settings.seed + 1 + k)
        held = known.part(fold == k)
        logits[fold == k] = fitted.logits(featurise(held.topics, held.texts, language))
        say(f"fold {k + 1} of {settings.held}")
    if sentence is not None:
        taught = _product(taught, sentence.held_out)
    final = network(None, settings.seed)
    measured = fold < settings.held
    known, logits, taught = known.part(measured), logits[measured], taught[measured]
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
    by = {"student": decide(p, offsets), "teacher": decide(taught, tune_offsets(taught, labels))}
    for name in ("train", "validation", "both"):
        rows = np.ones(len(labels), dtype=bool) if name == "both" else known.splits == name
        for who, decided in by.items():
            if rows.any():
                of = [kappa(labels[rows, d], decided[rows, d]) for d in range(len(DIMENSIONS))]
                each = " ".join(f"{x:.3f}" for x in of)
                say(f"cross-fitted κ of the {who} on {name}: {each}, mean {np.mean(of):.3f}")
    return Trained(final, head, p)


def save(trained: Trained, language: str, folder: Path) -> Path:
    """Write ``folder/LANGUAGE.safetensors``; the same input gives the same bytes."""
    from safetensors.numpy import save as serialise

    from training.annotator_model import quantise

    network, head = trained.network, trained.head
    tensors: dict[str, NDArray[np.generic]] = {}
    tables = {"table": network.table, "topic_table": network.topic_table}
    parts: list[tuple[object, tuple[str, ...], type[np.floating[Any]]]] = [
        (network, ("hidden",), np.float16),
        (network, ("hidden_bias", "output", "skip", "bias"), np.float32),
        (head, ("offsets", "prior", "hard", "soft"), np.float32),
    ]
    if network.reader is not None:
        tables["reader_table"] = network.reader.table
        parts.append((network.reader, READER_PARTS, np.float16))
    for name, table in tables.items():
        tensors[name], tensors[f"{name}_scale"] = quantise(table)
    for part, names, precision in parts:
        for name in names:
            tensors[name] = np.ascontiguousarray(getattr(part, name), dtype=precision)
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
    "en": Settings(
        bits=15,
        width=24,
        reader_width=0,
        hidden=64,
        rare=8,
        epochs=8,
        distil=75_000,
        sentence=12_288,
    ),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``mfenv train annotator``."""
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="data folder")
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="folder for the weights")
    parser.add_argument(
        "--languages", nargs="+", choices=sorted(LANGUAGES), default=sorted(LANGUAGES)
    )
    parser.add_argument(
        "--encoder",
        help="a pretrained sentence encoder for a second teacher: a folder in the format of "
        "Hugging Face or a model of its hub, such as intfloat/multilingual-e5-small "
        "(default: n-grams alone)",
    )
    parser.add_argument(
        "--work",
        type=Path,
        default=Path("runs/annotator-teacher"),
        help="folder where that teacher keeps what is done, so that a stopped run resumes",
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
    settings = {x: replace(_LANGUAGE_SETTINGS[x], seed=args.seed) for x in args.languages}
    unlabelled = {x: read_unlabelled(args.data, x) for x in args.languages}
    sentence: dict[str, Pseudo] = {}
    if args.encoder:
        sentence = _sentence_teacher(args, annotated, unlabelled, settings)
    for language in args.languages:
        trained = train_language(
            language,
            annotated[language],
            unlabelled[language],
            settings[language],
            log=True,
            sentence=sentence.get(language),
        )
        path = save(trained, language, args.out)
        print(f"{path}: {path.stat().st_size / 1e6:.2f} MB")
    return 0


def _sentence_teacher(
    args: argparse.Namespace,
    annotated: Mapping[str, Annotated],
    unlabelled: Mapping[str, Unlabelled],
    settings: Mapping[str, Settings],
) -> dict[str, Pseudo]:
    from training.annotator_teacher import label_by_fold

    begun = time.monotonic()
    # It learns from all languages, so that training one alone has the same teachers.
    known = {
        x: known_folds(annotated[x], replace(s, seed=args.seed))
        for x, s in _LANGUAGE_SETTINGS.items()
    }
    return label_by_fold(
        args.encoder,
        {x: part for x, (part, _) in known.items()},
        {x: fold for x, (_, fold) in known.items()},
        unlabelled,
        {x: s.sentence for x, s in settings.items()},
        args.work,
        seed=args.seed,
        held=max(s.held for s in _LANGUAGE_SETTINGS.values()),
        say=lambda text: print(
            f"{time.monotonic() - begun:6.0f} s  {text}", file=sys.stderr, flush=True
        ),
    )
