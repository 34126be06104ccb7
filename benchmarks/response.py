"""Does the model react to each intervention as the society does? ``python -m benchmarks.response``.

Every event is rolled out with and without each intervention (repeated at every step) under the
same noise, once by the language model and once by the synthetic society itself. A row compares
the mean change of the agents' own reactions in the two tiers.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from benchmarks.fidelity import machine
from mfenv.cli import Command, integer, script
from mfenv.dynamics.assemble import AUTO, build_annotator, build_backbone, build_process
from mfenv.dynamics.process import MeanFieldProcess, ProcessSettings, advance, warm_up
from mfenv.events.event import Event
from mfenv.events.synthetic.effects import intervention_effects
from mfenv.events.synthetic.generator import SyntheticSociety
from mfenv.interventions import N_ACTIONS, action_name, decode_action
from mfenv.labels import NAMES

__all__ = ["HELP", "Response", "add_arguments", "model_effects", "run", "table"]

HELP = "compare a model's response to interventions with the synthetic society's"
MEASURED = ("belief/believe", "behavior/share", "stance/oppose")
_SOCIETY_SEED = 2  # the test split of the synthetic events
_WARMUP, _BATCH = 50, 16

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Response:
    """Change of label shares under each flat action: ``(19, 23)``, with 95% half-widths."""

    mean: Floats
    half_width: Floats


def model_effects(
    events: list[Event], *, method: str, backbone: str, steps: int = 6, seed: int = 0
) -> tuple[Response, float]:
    """The language-model tier's effects, and the share of its texts that the grammar wrote.

    All events and interventions step together: one backbone call a phase.
    """
    settings = ProcessSettings(agents=_WARMUP + steps * _BATCH, batch=_BATCH, warmup=_WARMUP)
    started: list[MeanFieldProcess] = []
    for number, event in enumerate(events):
        process = build_process(method, backbone, AUTO, event, settings)
        process.begin(event, seed + number)
        started.append(process)
    warm_up(started)
    branches = [[p.fork() for p in started] for _ in range(N_ACTIONS)]
    flat = [p for branch in branches for p in branch]
    actions = [decode_action(a) for a, branch in enumerate(branches) for _ in branch]
    shares: list[Floats] = []
    texts: list[str] = []
    for _ in range(steps):
        records = advance(flat, actions)
        shares.append(np.stack([r.distribution for r in records]))
        texts += [
            t for r in records for t, planted in zip(r.texts, r.planted, strict=True) if not planted
        ]
    path = np.mean(shares, axis=0).reshape(N_ACTIONS, len(events), -1)
    difference = path - path[0]
    half_width = 1.96 * difference.std(axis=1, ddof=1) / np.sqrt(len(events))
    annotator = build_annotator("exact", events[0])
    _, exact = annotator.label_with_coverage(  # type: ignore[attr-defined]
        [events[0].topic] * len(texts), texts, ["en"] * len(texts)
    )
    return Response(difference.mean(axis=1), half_width), float(exact.mean())


def table(model: Response, society: Response) -> list[str]:
    """Markdown rows: each intervention, the model's response beside the society's."""
    index = [NAMES.index(name) for name in MEASURED]
    head = " | ".join(f"{name}: model | society" for name in MEASURED)
    rows = [f"| intervention | {head} |", "|---" * (1 + 2 * len(MEASURED)) + "|"]
    for action in range(1, N_ACTIONS):
        cells = [
            f"{r.mean[action, i]:+.3f} ± {r.half_width[action, i]:.3f}"
            for i in index
            for r in (model, society)
        ]
        rows.append(f"| {action_name(action)} | " + " | ".join(cells) + " |")
    return rows


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the comparison."""
    parser.add_argument("--backbone", default="embedded-en")
    parser.add_argument("--method", default="mf-counted")
    parser.add_argument("--events", type=integer(2), default=14)
    parser.add_argument("--steps", type=integer(1), default=6)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))


def run(args: argparse.Namespace) -> int:
    """Measure both tiers, print the table, write it to ``--out``."""
    events = SyntheticSociety(_SOCIETY_SEED).events(args.events)
    model, exact = model_effects(
        events, method=args.method, backbone=args.backbone, steps=args.steps
    )
    exact_tier = intervention_effects(events, steps=args.steps)
    society = Response(exact_tier.mean, exact_tier.half_width)
    index = [NAMES.index(name) for name in MEASURED]
    a, b = model.mean[1:, index].ravel(), society.mean[1:, index].ravel()
    slope = float(a @ b / (b @ b))
    described = json.dumps(build_backbone(args.backbone).describe(), sort_keys=True)
    lines = [
        f"# Response to interventions: {args.backbone} ({args.method}) beside the society",
        "",
        f"Change of a label's share among the agents' own reactions, each intervention repeated at "
        f"{args.steps} steps of {_BATCH} after a warm-up of {_WARMUP}; mean over {args.events} "
        f"synthetic events (test split) ± 95%, the same noise with and without.",
        "",
        f"- backbone: {described}",
        f"- over the cells below: correlation {np.corrcoef(a, b)[0, 1]:.3f}, slope of the model's "
        f"response on the society's {slope:.2f}, "
        f"mean absolute difference {np.abs(a - b).mean():.3f}",
        f"- {exact:.1%} of the model's texts could have been written by the grammar (exact "
        "labels); the rest is labelled by the classifier",
        f"- machine: {machine()}",
        f"- command: `mfenv bench response --backbone {args.backbone} --method "
        f"{args.method} --events {args.events} --steps {args.steps}`",
        "",
        *table(model, society),
    ]
    text = "\n".join(lines) + "\n"
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / f"response-{args.backbone.replace(':', '-').replace('/', '-')}.md").write_text(text)
    print(text, end="")
    return 0


if __name__ == "__main__":
    sys.exit(script(cast(Command, sys.modules[__name__]), "benchmarks.response"))
