"""``mfenv train opinions``: how people's opinions move, learned from those who come back.

Whoever reacts more than once shows an opinion each time; each pair of successive ones, with the
distribution that was perceived before the second, is one observed transition of
:class:`mfenv.dynamics.opinions.OpinionModel`. First reactions are transitions from "new". The fit
is multinomial logistic regression, one for each opinion that is left, by maximum likelihood with
a normal prior around the regression that all of them share (so that a rare opinion borrows what
the others show), by Newton's method: the objective is strictly convex, so there is one optimum.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from mfenv.cli import Command, integer, script
from mfenv.dynamics.assemble import AUTO, build_annotator
from mfenv.dynamics.opinions import (
    N_OPINIONS,
    NEW,
    OPINIONS,
    OpinionModel,
    features,
    opinions_of,
)
from mfenv.dynamics.reach import INITIAL, perceive, perception_rate
from mfenv.errors import MfenvError
from mfenv.events.event import Event
from mfenv.events.load import load_events
from mfenv.events.synthetic.generator import SyntheticSociety
from mfenv.labels import N_LABELS, Labels
from training.corpus import label_events

__all__ = ["HELP", "Transitions", "add_arguments", "fit", "observed", "run"]

HELP = "learn how opinions move from people who react more than once"

Floats = NDArray[np.float64]

_SYNTHETIC = "synthetic"
_SOCIETY = 1_000_005  # a society that no environment and no benchmark uses
_POSTS, _PEOPLE = 3001, 300  # of a synthetic event
_STEPS, _TOLERANCE = 60, 1e-8  # of Newton's method
_BIAS_PRIOR = 0.05  # how little the constants are shrunk, as a part of the weights' shrinkage


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add = parser.add_argument
    add("--train", required=True, metavar="synthetic|FILE", help="events to learn from")
    add(
        "--leave-out",
        action="append",
        default=[],
        metavar="ID",
        help="an event of FILE that is not learned from but scored; can be repeated",
    )
    add("--events", type=integer(2), default=60, metavar="N", help="synthetic (%(default)s)")
    add("--batch", type=integer(1), default=16, metavar="n", help="people in a step (%(default)s)")
    add("--shrinkage", type=_positive, default=4.0, metavar="L", help="(%(default)s)")
    add(
        "--coupling",
        type=_part,
        default=1.0,
        metavar="C",
        help="weight of what people think, against what they write, in the perceived stance and "
        "belief: 0 to 1 (%(default)s)",
    )
    add("--annotator", default=AUTO, metavar="NAME", help="what labels reactions (%(default)s)")
    add("--out", type=Path, required=True, metavar="FILE", help=".safetensors; .json beside it")


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e9:
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed; allowed: a number above 0")
    return value


def _part(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed; allowed: 0 to 1")
    return value


@dataclass(frozen=True, slots=True)
class Transitions:
    """Observed transitions, all of length ``n``."""

    origin: NDArray[np.int8]  # (n,) the opinion before, NEW for a first reaction
    target: NDArray[np.int8]  # (n,)
    perceived: Floats  # (n, 23) before the reaction

    def __len__(self) -> int:
        return len(self.origin)

    @staticmethod
    def concatenate(parts: Sequence[Transitions]) -> Transitions:
        """Put transitions of several events together."""
        return Transitions(
            np.concatenate([p.origin for p in parts]),
            np.concatenate([p.target for p in parts]),
            np.concatenate([p.perceived for p in parts]),
        )


def observed(event: Event, labels: Labels, batch: int = 16) -> Transitions:
    """The transitions of an event with labels ``(n_posts, 8)``, as the process would see them."""
    authors = np.asarray(event.posts.authors)[1:]
    target = opinions_of(labels[1:])
    everybody = np.full(int(authors.max(initial=0)) + 1, NEW, dtype=np.int8)
    origin = np.empty_like(target)
    path = np.empty((len(target), N_LABELS))
    perceived = INITIAL
    for start in range(0, len(target), batch):
        now = slice(start, start + batch)
        people = authors[now]
        origin[now], path[now] = everybody[people], perceived
        everybody[people] = target[now]
        n = len(people)
        rate = perception_rate(start, n, batch)
        perceived = perceive(perceived, labels[1:][now], np.ones(n), rate=rate)
    return Transitions(origin, target, path)


def fit(data: Transitions, shrinkage: float = 4.0, *, mean_field: bool = True) -> OpinionModel:
    """Maximum a posteriori fit; ``mean_field=False`` leaves the dependence on z out.

    ``shrinkage`` is the precision of the normal prior on every weight.
    """
    x = np.concatenate([np.ones((len(data), 1)), features(data.perceived)], axis=1)
    if not mean_field:
        x[:, 1:] = 0.0
    precision = np.full((N_OPINIONS, x.shape[1]), shrinkage)
    precision[:, 0] *= _BIAS_PRIOR
    shared = _regress(x, data.target, np.zeros_like(precision), precision)
    rows = [
        _regress(x[mine], data.target[mine], shared, precision)
        for mine in (data.origin == k for k in (*range(N_OPINIONS), NEW))
    ]
    theta = np.stack(rows)  # (7, 6, 24)
    return OpinionModel(theta[:, :, 0].copy(), theta[:, :, 1:].copy())


def _regress(x: Floats, y: NDArray[np.int8], centre: Floats, precision: Floats) -> Floats:
    """Multinomial logistic regression by Newton's method with backtracking.

    Inputs ``(n, d)``, classes ``(n,)``, prior centre and precision ``(k, d)``; returns ``(k, d)``.
    """
    k, d = centre.shape
    hot = np.eye(k)[y]

    def objective(theta: Floats) -> tuple[float, Floats]:
        logits = x @ theta.T
        logits -= logits.max(axis=1, keepdims=True)
        norm = np.log(np.exp(logits).sum(axis=1))
        loss = float((norm - (logits * hot).sum(axis=1)).sum())
        loss += 0.5 * float((precision * (theta - centre) ** 2).sum())
        return loss, np.exp(logits - norm[:, None])

    theta = centre.copy()
    loss, p = objective(theta)
    for _ in range(_STEPS):
        gradient = (p - hot).T @ x + precision * (theta - centre)
        curvature = np.empty((k, d, k, d))
        for a in range(k):
            for b in range(a, k):
                weight = p[:, a] * ((a == b) - p[:, b])
                curvature[a, :, b] = (x * weight[:, None]).T @ x
                curvature[b, :, a] = curvature[a, :, b]
        flat = curvature.reshape(k * d, k * d)
        flat[np.diag_indices(k * d)] += precision.ravel()
        step = np.linalg.solve(flat, gradient.ravel()).reshape(k, d)
        size = 1.0
        while size > 1e-6:
            tried = theta - size * step
            moved, chances = objective(tried)
            if moved <= loss - 1e-4 * size * float((gradient * step).sum()):
                break
            size /= 2
        else:
            break  # rounding is all that is left
        done = loss - moved <= _TOLERANCE * (1.0 + abs(loss))
        theta, loss, p = tried, moved, chances
        if done:
            break
    return theta


def likelihood(model: OpinionModel, data: Transitions, block: int = 4096) -> Floats:
    """Negative log-likelihood ``(n,)`` of transitions, in nats."""
    parts = []
    for start in range(0, len(data), block):
        now = slice(start, start + block)
        index = np.asarray(data.origin[now], dtype=np.intp)
        x = features(data.perceived[now])
        logits = model.bias[index] + np.einsum("nkd,nd->nk", model.weights[index], x)
        logits -= logits.max(axis=1, keepdims=True)
        chosen = np.take_along_axis(logits, data.target[now].astype(np.intp)[:, None], 1)[:, 0]
        parts.append(np.log(np.exp(logits).sum(axis=1)) - chosen)
    return np.concatenate(parts)


def run(args: argparse.Namespace) -> int:
    """Fit, score on what was left out, save."""
    if args.out.suffix != ".safetensors":
        raise MfenvError(f"--out {args.out}: the name must end in .safetensors")
    train, test = _events(args)
    sets = []
    for events in (train, test):
        parts = []
        for event in events:
            annotator = build_annotator(args.annotator, event)
            parts.append(observed(event, label_events([event], annotator)[0], args.batch))
        sets.append(Transitions.concatenate(parts) if parts else None)
    data, held_out = sets
    assert data is not None
    back = int((data.origin != NEW).sum())
    if back < 100:
        raise MfenvError(
            f"{args.train}: {back} reactions are of people who had reacted before; 100 or more "
            f"are needed to learn how opinions move"
        )
    model = replace(fit(data, args.shrinkage), coupling=args.coupling)
    about: dict[str, Any] = {
        "trained on": {
            "data": args.train if args.train == _SYNTHETIC else Path(args.train).name,
            "events": len(train),
            "transitions": back,
            "first reactions": len(data) - back,
        },
        "batch": args.batch,
        "shrinkage": args.shrinkage,
        "annotator": build_annotator(args.annotator, train[0]).name,
    }
    if held_out is not None:
        returned = held_out.origin != NEW
        marginal = Transitions(np.full_like(data.origin, NEW), data.target, data.perceived)
        rivals = {
            "model": model,
            "without the mean field": fit(data, args.shrinkage, mean_field=False),
            "without the opinion before": fit(marginal, args.shrinkage),
        }
        forget = Transitions(
            np.full_like(held_out.origin, NEW), held_out.target, held_out.perceived
        )
        about["held out"] = {
            "events": len(test),
            "transitions": int(returned.sum()),
            "nats per transition": {
                name: round(
                    float(
                        likelihood(m, forget if "opinion" in name else held_out)[returned].mean()
                    ),
                    4,
                )
                for name, m in rivals.items()
            },
        }
    model.save(args.out, about)
    for key, value in about.items():
        print(f"{key}: {value}")
    print("what follows an opinion at equal shares of everything (rows: before, columns: after)")
    names = [f"{s}/{b}" for s, b in OPINIONS]
    for name, row in zip([*names, "new"], model.transition(INITIAL), strict=True):
        print(f"  {name:16} " + " ".join(f"{p:.3f}" for p in row))
    print(f"saved: {args.out}")
    return 0


def _events(args: argparse.Namespace) -> tuple[list[Event], list[Event]]:
    """Events to learn from, and those that are left out to score on."""
    if args.train == _SYNTHETIC:
        if args.leave_out:
            raise MfenvError("--leave-out names events of a file; synthetic leaves out a tenth")
        society = SyntheticSociety(_SOCIETY)
        events = [society.event(i, n_posts=_POSTS, people=_PEOPLE) for i in range(args.events)]
        held = max(1, args.events // 10)
        return events[held:], events[:held]
    events = load_events(args.train)
    known = [e.event_id for e in events]
    for name in args.leave_out:
        if name not in known:
            raise MfenvError(
                f"{args.train}: has no event {name!r}; it has {len(known)}, for example "
                f"{', '.join(known[:3])}"
            )
    train = [e for e in events if e.event_id not in args.leave_out and len(e.posts) > 1]
    if not train:
        raise MfenvError(f"{args.train}: no event is left to learn from")
    return train, [e for e in events if e.event_id in args.leave_out and len(e.posts) > 1]


if __name__ == "__main__":
    sys.exit(script(cast(Command, sys.modules[__name__]), "python -m training.opinions"))
