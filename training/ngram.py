"""Count an n-gram model: ``mfenv train ngram``.

Reactions are counted and smoothed (:mod:`training.kneser_ney`); words, characters and n-grams that
fewer than ``min_events`` events hold are left out, so that nobody's text is kept. The weights by
which the model mixes its own words with those it reads are learned on events that were not counted,
with the mean fields that stood there, by expectation maximisation; then those events are counted
too.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from agents.backbones.kneser_ney import KneserNey
from agents.backbones.ngram import ABOUT, FORMAT, NgramBackbone, prompt_of, walks
from agents.backbones.ngram_mixture import SOURCES, Mixture, Prompt, log_odds, read
from agents.backbones.vocabulary import END, Vocabulary, pieces
from agents.prompts import REACTION_CHARACTERS, TaggedPrompts, clip
from mfenv.cli import Command, integer, script
from mfenv.dynamics.assemble import AUTO, build_annotator
from mfenv.errors import MfenvError
from mfenv.noise import uniform
from mfenv.states import UNKNOWN
from training.actions import read_events
from training.corpus import EventCorpus, StepCorpus, StepExample, label_events
from training.kneser_ney import estimate

__all__ = [
    "HELP",
    "NgramConfig",
    "add_arguments",
    "expectation_maximisation",
    "learn_vocabulary",
    "run",
    "silence",
    "train",
]

HELP = "count an n-gram model, the simplest language model that a population can be made of"

Floats = NDArray[np.float64]
Ids = NDArray[np.int64]

_SYNTHETIC = "synthetic"
_SPLIT = 9311  # stream of the noise that chooses the events that weights are learned on
_HELD_OUT, _MOST_HELD_OUT = 0.1, 200  # of the events; events at most
_MOST_TOKENS = 60_000  # of a vocabulary: token ids are stored in 16 bits
_ROUNDS = 200  # of expectation maximisation and of Newton's method
_FEW = 20  # reactions, with or without words, that silence is learned from at least


@dataclass(frozen=True, slots=True)
class NgramConfig:
    """How an n-gram model is made."""

    order: int = 5
    """Tokens of the longest n-grams."""
    min_events: int = 20
    """Words, characters and n-grams that occur in fewer events are left out."""
    vocabulary: int = 8000
    """Words and characters at most, the ones of most events."""
    steps: int = 16_384
    """Synthetic: steps that are counted, each of 16 reactions and an event of its own."""
    held_out: int = 1000
    """Steps that the weights are learned on."""
    seed: int = 0
    """Seed of the synthetic society, and of the choice of held-out events and steps."""


def learn_vocabulary(events: Sequence[Sequence[str]], *, min_events: int, limit: int) -> Vocabulary:
    """The words and characters that occur in at least ``min_events`` events, ``limit`` at most."""
    used: Counter[str] = Counter()
    for texts in events:
        here = {piece for text in texts for piece in pieces(text)}
        used.update(here | {c for piece in here for c in piece})
    known = [(p, n) for p, n in used.items() if n >= min_events and _encodes(p)]
    # Characters first: a word can be spelled.
    known.sort(key=lambda x: (len(x[0]) > 1, -x[1], x[0]))
    return Vocabulary([p for p, _ in known[:limit]])


def _encodes(piece: str) -> bool:
    return not any("\ud800" <= c <= "\udfff" for c in piece)


def train(
    events: Sequence[Sequence[str]],
    held_out: Sequence[int],
    steps: Sequence[StepExample],
    config: NgramConfig,
) -> tuple[NgramBackbone, dict[str, float]]:
    """Make a model from the reactions of events; also nats per action on the held-out steps.

    ``held_out`` are the indices of the events that ``steps`` are from, if they are among them.
    Raises ``MfenvError`` where there are too few events for any n-gram to be kept.
    """
    if len(events) - len(held_out) < config.min_events:
        raise MfenvError(
            f"{len(events)} events are too few: an n-gram must occur in {config.min_events} of "
            f"those that no weights are learned on; lower --min-events or give more events"
        )
    clipped = [[clip(t, REACTION_CHARACTERS) for t in texts] for texts in events]
    vocabulary = learn_vocabulary(clipped, min_events=config.min_events, limit=config.vocabulary)
    encoded = [vocabulary.encode(t) for texts in clipped for t in texts]
    owner = np.repeat(np.arange(len(events)), [len(texts) for texts in events])

    def count(rows: Sequence[int]) -> KneserNey:
        return estimate(
            [encoded[i] for i in rows],
            owner[rows].tolist(),
            vocabulary=len(vocabulary),
            order=config.order,
            min_events=config.min_events,
        )

    rest = np.flatnonzero(~np.isin(owner, held_out))
    model, figures = learn_weights(count(rest.tolist()), vocabulary, steps)
    if held_out:
        model = Mixture(count(range(len(encoded))), model.weights, model.silence)
    return NgramBackbone(model, vocabulary, name="ngram"), figures


def learn_weights(
    ngrams: KneserNey, vocabulary: Vocabulary, steps: Sequence[StepExample]
) -> tuple[Mixture, dict[str, float]]:
    """The mixture for an n-gram model, from steps that it was not counted on.

    Every action is used three times: behind the whole mean field, behind its quotations, and behind
    the topic alone. Also returns nats per action, for the n-grams alone and each kind of prompt.
    """
    alone = np.eye(len(SOURCES))[[0, 0]]
    plain = Mixture(ngrams, alone, np.full(2, np.nan))
    asked: list[tuple[str, Prompt, list[int]]] = []
    for step in steps:
        for name, field in (
            ("whole mean field", step.mean_field),
            ("quotations", step.reactions_only),
            ("topic", ""),
        ):
            prompt = _prompt(step, field)
            for action in step.actions:
                text = vocabulary.encode(clip(action, REACTION_CHARACTERS))
                asked.append((name, prompt, [*text, END]))
    reading = read([prompt for _, prompt, _ in asked], vocabulary)
    texts = [text for _, _, text in asked]
    said: tuple[list[Floats], list[Floats]] = ([], [])
    for rows, walk, tokens in walks(plain, texts):
        word = tokens != END
        chances = plain.sources(reading, rows[word], walk.some(word), tokens[word])
        later = walk.last[word, 1] != ngrams.start
        for k in (0, 1):
            said[k].append(chances[later == k])
    weights = np.stack([expectation_maximisation(np.concatenate(x)) for x in said])
    stated = reading.reposts[reading.group]
    told = ~np.isnan(stated)
    model = Mixture(
        ngrams, weights, silence(stated[told], np.array([len(t) == 1 for t in texts])[told])
    )
    nats = {"n-grams alone": np.zeros(len(texts)), "": np.zeros(len(texts))}
    for mixture, sums in zip((plain, model), nats.values(), strict=True):
        for rows, walk, tokens in walks(mixture, texts):
            sums[rows] -= np.log(mixture.chances(reading, rows, walk, tokens))
    names = np.array([name for name, _, _ in asked])
    figures = {"n-grams alone": float(nats["n-grams alone"][names == "topic"].mean())}
    figures |= {name: float(nats[""][names == name].mean()) for name in dict.fromkeys(names)}
    return model, figures


def _prompt(step: StepExample, mean_field: str) -> Prompt:
    form = TaggedPrompts()
    prefix = form.policy_prefix(step.topic, step.notices, mean_field, step.language)
    prompt = prompt_of(prefix + form.policy_suffix(UNKNOWN["en"], step.language))
    assert prompt is not None
    return prompt


def expectation_maximisation(chances: Floats) -> Floats:
    """Weights ``(k,)`` of a linear mixture that make what was seen likeliest (Jelinek and Mercer).

    ``chances`` ``(n, k)`` are what each source says of what was seen. The first source is counted
    once more than was seen, so that it is left where nothing was.
    """
    weights = np.full(chances.shape[1], 1 / chances.shape[1])
    for _ in range(_ROUNDS):
        joint = chances * weights
        share = joint / np.maximum(joint.sum(axis=1, keepdims=True), np.finfo(float).tiny)
        expected = share.sum(axis=0)
        expected[0] += 1.0
        fresh = expected / expected.sum()
        done = np.abs(fresh - weights).max() < 1e-6
        weights = fresh
        if done:
            break
    # A source that was never there says what the first one says, so its weight could be anything.
    absent = (chances == chances[:, :1]).all(axis=0)
    absent[0] = False
    weights[0] += weights[absent].sum()
    weights[absent] = 0.0
    return np.asarray(weights)


def silence(stated: Floats, silent: NDArray[np.bool_]) -> Floats:
    """Logistic regression ``(2,)`` of who writes nothing on the stated share of reposts: a and b.

    ``stated`` and ``silent`` are ``(n,)``. NaN where there is too little to learn it from. A weak
    normal prior (precision 0.1) keeps it finite.
    """
    if min(silent.sum(), (~silent).sum()) < _FEW:
        return np.full(2, np.nan)
    x = np.stack([np.ones(len(stated)), log_odds(stated)], axis=1)
    theta = np.zeros(2)
    for _ in range(_ROUNDS):
        p = 1 / (1 + np.exp(-(x @ theta)))
        gradient = x.T @ (p - silent) + 0.1 * theta
        curvature = (x * (p * (1 - p))[:, None]).T @ x + 0.1 * np.eye(2)
        step = np.linalg.solve(curvature, gradient)
        theta = theta - step
        if np.abs(step).max() < 1e-10:
            break
    return np.asarray(theta)


def _synthetic(config: NgramConfig) -> tuple[list[list[str]], list[int], StepCorpus]:
    from training.synthetic_corpus import SyntheticCorpus

    corpus = SyntheticCorpus(config.seed)
    texts = [list(corpus.example(i).actions) for i in range(config.steps)]
    return texts, [], SyntheticCorpus(config.seed + 1)


def _real(
    path: Path, config: NgramConfig, annotator: str
) -> tuple[list[list[str]], list[int], StepCorpus]:
    events = read_events(path)
    u = uniform(config.seed, _SPLIT, np.arange(len(events)))
    count = min(_MOST_HELD_OUT, max(1, round(_HELD_OUT * len(events))))
    held_out = sorted(np.argsort(u, kind="stable")[:count].tolist())
    long = [i for i in held_out if len(events[i].posts) > 16]
    if not long:
        raise MfenvError(
            f"{path}: none of the {len(held_out)} events that the weights would be learned on has "
            f"16 reactions or more; give more or longer events, or another --seed"
        )
    shown = [events[i] for i in long]
    labels = label_events(shown, build_annotator(annotator, shown[0]))
    texts = [list(e.posts.texts[1:]) for e in events]
    return texts, held_out, EventCorpus(shown, labels, seed=config.seed)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add = parser.add_argument
    default = NgramConfig()
    add("--train", required=True, metavar="synthetic|EVENTS", help="events to count")
    add("--out", type=Path, required=True, metavar="FOLDER", help="for --backbone ngram:FOLDER")
    add("--order", type=integer(2, 8), default=default.order, help="(%(default)s)")
    add(
        "--min-events",
        type=integer(1),
        default=default.min_events,
        metavar="N",
        help="leave out what occurs in fewer events (%(default)s)",
    )
    add(
        "--vocabulary",
        type=integer(1, _MOST_TOKENS),
        default=default.vocabulary,
        metavar="N",
        help="words and characters at most (%(default)s)",
    )
    add(
        "--steps",
        type=integer(1),
        default=default.steps,
        metavar="N",
        help="synthetic: steps of 16 reactions (%(default)s)",
    )
    add(
        "--held-out",
        type=integer(1),
        default=default.held_out,
        metavar="N",
        help="steps that the weights are learned on (%(default)s)",
    )
    add("--annotator", default=AUTO, metavar="NAME", help="what labels reactions (%(default)s)")
    add("--seed", type=integer(0), default=default.seed, help="(%(default)s)")


def run(args: argparse.Namespace) -> int:
    """Count, learn the weights, save."""
    _check_folder(args.out)
    config = NgramConfig(
        args.order, args.min_events, args.vocabulary, args.steps, args.held_out, args.seed
    )
    texts, held_out, corpus = (
        _synthetic(config)
        if args.train == _SYNTHETIC
        else _real(Path(args.train), config, args.annotator)
    )
    steps = [corpus.example(i) for i in range(config.held_out)]
    backbone, figures = train(texts, held_out, steps, config)
    rounded = {name: round(value, 3) for name, value in figures.items()}
    about: dict[str, Any] = {
        "language": corpus.language,
        "training": {
            **asdict(config),
            "data": args.train if args.train == _SYNTHETIC else Path(args.train).name,
            "events": len(texts),
            "reactions": sum(map(len, texts)),
            "nats per action on held-out steps": rounded,
        },
    }
    backbone.save(args.out, about)
    made = NgramBackbone.load(args.out, f"ngram:{args.out.name}")
    print(f"{about['training']['reactions']:,} reactions of {len(texts):,} events")
    print(
        f"{len(made.vocabulary):,} tokens; n-grams of 2 to {config.order} tokens: "
        + ", ".join(f"{len(level.tokens):,}" for level in made.model.ngrams.levels)
    )
    print("nats per action on held-out steps, given what it reads (weights were learned there):")
    for name, value in rounded.items():
        print(f"  {name}: {value:.3f}")
    print("weights of the first token, and of the others:")
    for source, row in zip(SOURCES, made.model.weights.T, strict=True):
        print(f"  {source}: " + ", ".join(f"{w:.3f}" for w in row))
    print(f"saved: {args.out} ({made.describe()['revision']})")
    return 0


def _check_folder(out: Path) -> None:
    """Refuse to write beside another model's files."""
    if out.exists() and not out.is_dir():
        raise MfenvError(f"--out {out} is a file; allowed: a new folder")
    try:
        ours = json.loads((out / ABOUT).read_text(encoding="utf-8")).get("format") == FORMAT
    except (OSError, ValueError, AttributeError):
        ours = not (out / ABOUT).exists() and not (out / "config.json").exists()
    if not ours:
        raise MfenvError(f"--out {out} holds another model; allowed: a new folder")


if __name__ == "__main__":
    sys.exit(script(cast(Command, sys.modules[__name__]), "python -m training.ngram"))
