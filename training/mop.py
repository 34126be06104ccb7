"""Learn personas, exemplars and their gates for a frozen backbone: ``mfenv train mop``.

Mixture of Personas (Bui et al., arXiv 2504.05019; :mod:`agents.personas` has the formula). Some of
the events give the personas (k-means on the labels of reactions and on states; words by code) and
the exemplars (their real reactions). On the reactions of the *other* events the backbone scores
every reaction behind every exemplar once, and the gates maximise the log-likelihood of the mixture.
So a gate never learns to pick the reaction itself, or one of the same event.

Other than in the paper, personas are described without a language model, and the language model's
temperature is left at 1: a population wants the distribution as it is.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.feature_extraction.text import HashingVectorizer

from agents.backbones.base import Backbone
from agents.learned import PERSONAS, check_folder, describe_folder, write_card
from agents.personas import (
    N_FEATURES,
    Persona,
    PersonaPolicy,
    Personas,
    features,
    load,
    save,
)
from agents.policy import BackbonePolicy
from agents.prompts import REACTION_CHARACTERS, clip, label_words
from mfenv import states
from mfenv.cli import integer
from mfenv.dynamics.assemble import build_backbone
from mfenv.dynamics.journal import RunLock
from mfenv.errors import MfenvError
from mfenv.events.event import Event
from mfenv.labels import NAMES, Labels, one_hot
from mfenv.noise import uniform
from training.actions import (
    RealAction,
    actions_of,
    fingerprint,
    held_out,
    likelihoods,
    read_actions,
    read_events,
    told,
)
from training.folders import check_settings, in_one_move

__all__ = [
    "HELP",
    "MixtureSettings",
    "add_arguments",
    "fit_gates",
    "make_personas",
    "run",
    "train",
]

HELP = "learn personas, exemplars and mixture weights for a language model (Mixture of Personas)"

Floats = NDArray[np.float64]

_SPLIT = 9203  # stream of the noise that splits events
_EXEMPLAR_EVENTS, _STOPPING_EVENTS = 0.3, 0.2  # shares of the events
_CLUSTERED = 4000  # reactions that personas are made from at most
_BLOCK = 32  # actions that are scored together, and kept together
_TELLING = 0.1  # a label or phrase describes a persona if its share is so much above the average
_LABELS_SHOWN, _PHRASES_SHOWN = 4, 2  # of the labels and phrases of a persona
_STEPS, _PATIENCE, _RATE = 600, 40, 0.02  # of the gates' optimiser


@dataclass(frozen=True, slots=True)
class MixtureSettings:
    """How a mixture is learned."""

    personas: int = 6
    """Personas, K."""
    exemplars: int = 3
    """Real reactions of each, J at most; every one costs a score of every action."""
    actions: int = 1500
    """Actions that the gates learn from; a fifth or so of them decides when to stop."""
    penalty: float = 1e-3
    """Weight of the squared gate weights in the loss."""
    cap: int = 100
    """Reactions of one event at most."""
    seed: int = 0
    """Seed of the choice of events and actions and of the clusters."""


def train(
    backbone: Backbone, events: Sequence[Event], settings: MixtureSettings, out: Path
) -> Path:
    """Learn a mixture; scores are kept in ``out``, a repeated run goes on. Returns its folder.

    Raises ``MfenvError`` if there are fewer than three events with reactions.
    """
    if len(events) < 3:
        raise MfenvError(
            f"{len(events)} events with reactions are too few; at least 3 are needed: for "
            f"exemplars, for the gates, and to stop in time"
        )
    u = uniform(settings.seed, _SPLIT, np.arange(len(events)))
    order = np.argsort(u, kind="stable")
    few = max(1, round(_EXEMPLAR_EVENTS * len(events)))
    shown = [events[i] for i in np.sort(order[:few])]
    rest = [events[i] for i in np.sort(order[few:])]
    models = actions_of(shown, seed=settings.seed, cap=settings.cap, limit=_CLUSTERED)
    learned = actions_of(rest, seed=settings.seed, cap=settings.cap, limit=settings.actions)
    described = {
        **asdict(settings),
        "actions": fingerprint([*models, *learned]),
        "backbone": backbone.describe(),
    }
    check_settings(out, described)
    folder = out / PERSONAS.name
    if folder.exists():
        return folder
    personas = make_personas(models, _labels(shown, models), settings)
    log_p = _scores(backbone, personas, learned, out / "scores")
    stopping = _stopping(learned, settings.seed)
    fitted = fit_gates(
        personas, [(a.topic, a.state) for a in learned], log_p, stopping, settings.penalty
    )
    with in_one_move(folder) as part:
        save(fitted, part)
        describe_folder(part, PERSONAS, backbone, described)
    return folder


# -- personas and exemplars ------------------------------------------------------------------


def _labels(events: Sequence[Event], actions: Sequence[RealAction]) -> Labels:
    """Labels ``(n, 8)``: the events' own where they have them, else those of the classifier."""
    if all(e.labels is not None for e in events):
        rows = [labels[a.post] for a in actions if (labels := events[a.event].labels) is not None]
        return np.array(rows, dtype=np.int8)
    from agents.annotators.classifier import load as load_classifier

    return load_classifier().label(
        [a.topic for a in actions], [a.text for a in actions], [a.language for a in actions]
    )


def make_personas(
    actions: Sequence[RealAction], labels: Labels, settings: MixtureSettings
) -> Personas:
    """Cluster reactions by their labels ``(n, 8)`` and states; the gates are still uniform."""
    language = actions[0].language
    comma = states.join(["", ""], language)
    said = [set(a.state.split(comma)) for a in actions]
    phrases = [p for p in states.phrases(language) if p != states.UNKNOWN[language]]
    stated = np.array([[p in of_one for p in phrases] for of_one in said], dtype=float)
    shown = one_hot(labels)
    points = np.concatenate([shown, stated], axis=1)
    count = min(settings.personas, len(np.unique(points, axis=0)))
    clusters = KMeans(count, n_init=4, random_state=settings.seed).fit_predict(points)
    words = [*(label_words(language)[name] for name in NAMES), *phrases]
    personas = []
    for k in range(count):
        members = np.flatnonzero(clusters == k)
        lift = points[members].mean(axis=0) - points.mean(axis=0)
        texts = [clip(actions[int(i)].text, REACTION_CHARACTERS) for i in members]
        personas.append(
            Persona(
                states.join(_describe(lift, words, len(NAMES)), language),
                _exemplars(texts, settings),
            )
        )
    most = max(len(p.exemplars) for p in personas)
    outputs = count * (1 + most)
    return Personas(tuple(personas), language, np.zeros((N_FEATURES, outputs)), np.zeros(outputs))


def _describe(lift: Floats, words: Sequence[str], labels: int) -> list[str]:
    """The words whose shares are furthest above the average, labels first; at least one."""
    order = np.argsort(-lift, kind="stable")
    telling = [i for i in order if lift[i] > _TELLING] or [order[0]]
    chosen = [
        *[words[i] for i in telling if i < labels][:_LABELS_SHOWN],
        *[words[i] for i in telling if i >= labels][:_PHRASES_SHOWN],
    ]
    return list(dict.fromkeys(chosen))


def _exemplars(texts: Sequence[str], settings: MixtureSettings) -> tuple[str, ...]:
    """Up to J different reactions, each near the centre of a part of all of them.

    Parts are k-means clusters of hashed character n-grams; a repost without words is one point.
    """
    distinct, weight = np.unique(np.array(texts, dtype=object), return_counts=True)
    count = min(settings.exemplars, len(distinct))
    vectors = HashingVectorizer(
        analyzer="char", ngram_range=(1, 3), n_features=512, alternate_sign=False
    ).transform(list(distinct))
    points = vectors.toarray()
    model = KMeans(count, n_init=2, random_state=settings.seed).fit(points, sample_weight=weight)
    far = model.transform(points)  # (n, J) distances
    far[model.labels_[:, None] != np.arange(count)] = np.inf
    return tuple(str(distinct[i]) for i in dict.fromkeys(far.argmin(axis=0).tolist()))


# -- scores and gates ------------------------------------------------------------------------


def _scores(
    backbone: Backbone, personas: Personas, actions: Sequence[RealAction], cache: Path
) -> Floats:
    """log p_LM ``(n, K, J)`` of all actions, in blocks that are kept on disk."""
    cache.mkdir(parents=True, exist_ok=True)
    policy = PersonaPolicy(BackbonePolicy(backbone), personas)
    blocks = []
    for start in range(0, len(actions), _BLOCK):
        path = cache / f"{start:06}.npy"
        if not path.exists():
            block = actions[start : start + _BLOCK]
            log_p, _ = policy.score_each([a.request for a in block], [a.text for a in block])
            part = path.with_suffix(".part")
            with part.open("wb") as file:
                np.save(file, log_p)
            part.replace(path)
        blocks.append(np.load(path))
    return np.concatenate(blocks)


def _stopping(actions: Sequence[RealAction], seed: int) -> NDArray[np.bool_]:
    """Which actions ``(n,)`` only say when to stop: those of some events, at least one of two."""
    events = np.unique([a.event for a in actions])
    u = uniform(seed, _SPLIT + 1, events)
    order = events[np.argsort(u, kind="stable")]
    chosen = order[: max(1, round(_STOPPING_EVENTS * len(order)))]
    return np.isin([a.event for a in actions], chosen)


def fit_gates(
    personas: Personas,
    contexts: Sequence[tuple[str, str]],
    log_p: Floats,
    stopping: NDArray[np.bool_],
    penalty: float = 1e-3,
) -> Personas:
    """The personas with the gates that maximise the mean log-likelihood of ``contexts`` ``(n,)``.

    ``log_p`` ``(n, K, J)`` are the language model's, ``stopping`` ``(n,)`` the actions that are
    not learned from but decide when to stop. From the uniform mixture on, the gates that were best
    on those are kept, so what is learned is never worse on them than the uniform mixture.
    """
    k, j = personas.shape
    held = torch.from_numpy(personas.held)
    row, bucket, value = features(contexts)
    x = torch.zeros(len(contexts), N_FEATURES, dtype=torch.float32)
    x.index_put_(
        (torch.from_numpy(row), torch.from_numpy(bucket)),
        torch.from_numpy(value).float(),
        accumulate=True,
    )
    target = torch.from_numpy(log_p).float()
    weights = torch.zeros(N_FEATURES, k + k * j, requires_grad=True)
    bias = torch.zeros(k + k * j, requires_grad=True)
    optimiser = torch.optim.Adam([weights, bias], lr=_RATE)
    stop = torch.from_numpy(stopping)

    def likelihood(rows: torch.Tensor) -> torch.Tensor:
        logits = x[rows] @ weights + bias
        log_pi = logits[:, :k].log_softmax(-1)
        of_exemplars = logits[:, k:].view(-1, k, j).masked_fill(~held, -1e9)
        total = log_pi[:, :, None] + of_exemplars.log_softmax(-1) + target[rows]
        return total.flatten(1).logsumexp(-1).mean()

    def snapshot() -> tuple[float, Floats, Floats]:
        with torch.no_grad():
            now = float(likelihood(stop))
        return now, weights.detach().double().numpy().copy(), bias.detach().double().numpy().copy()

    best, since = snapshot(), 0
    for _ in range(_STEPS):
        loss = penalty * weights.square().sum() - likelihood(~stop)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        current = snapshot()
        best, since = (current, 0) if current[0] > best[0] else (best, since + 1)
        if since >= _PATIENCE:
            break
    return Personas(personas.personas, personas.language, best[1], best[2])


# -- the command -----------------------------------------------------------------------------


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``mfenv train mop``."""
    add, defaults = parser.add_argument, MixtureSettings()
    add("--backbone", required=True, metavar="NAME", help="a language model that can score")
    add("--train", type=Path, required=True, metavar="EVENTS", help="events to learn from")
    add("--validation", type=Path, metavar="EVENTS", help="events to measure the NLL on")
    add("--out", type=Path, required=True, metavar="DIR", help="scores, and the personas")
    add("--personas", type=integer(1), default=defaults.personas, help="(%(default)s)")
    add("--exemplars", type=integer(1), default=defaults.exemplars, help="each (%(default)s)")
    add("--actions", type=integer(2), default=defaults.actions, help="scored (%(default)s)")
    add("--cap", type=integer(1), default=defaults.cap, help="reactions an event (%(default)s)")
    add("--seed", type=integer(0), default=defaults.seed, help="(%(default)s)")
    add(
        "--validation-actions",
        type=integer(1),
        default=500,
        metavar="N",
        help="held-out actions that are scored (%(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """Learn, then compare the likelihood of held-out actions under the mixture and without."""
    settings = MixtureSettings(
        personas=args.personas,
        exemplars=args.exemplars,
        actions=args.actions,
        cap=args.cap,
        seed=args.seed,
    )
    events = read_events(args.train)
    held = None
    if args.validation is not None:
        held = read_actions(
            args.validation, seed=args.seed, cap=args.cap, limit=args.validation_actions
        )
    backbone = build_backbone(args.backbone)
    words = ""
    with RunLock(args.out):
        folder = train(backbone, events, settings, args.out)
        if held is not None:
            plain = BackbonePolicy(backbone)
            learned = load(*check_folder(str(folder), PERSONAS, backbone))
            uniform_gates = Personas(
                learned.personas,
                learned.language,
                np.zeros_like(learned.weights),
                np.zeros_like(learned.bias),
            )
            figures = held_out(
                {
                    "state": likelihoods(plain, held),
                    "mop, uniform weights": likelihoods(PersonaPolicy(plain, uniform_gates), held),
                    "mop": likelihoods(PersonaPolicy(plain, learned), held),
                },
                held,
            )
            (args.out / "validation.json").write_text(json.dumps(figures, indent=1) + "\n")
            words = told(figures, len(held))
            print(words)
        write_card(
            folder, "Personas, gates and exemplars, which are texts of events", PERSONAS, words
        )
    print(f"trained: {folder}; use it: --backbone {args.backbone} --method mop:{folder}")
    return 0
