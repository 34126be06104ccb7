"""How well a model rewrites the mean field: ``python -m benchmarks.summaries``.

Real populations act, and after each batch the model rewrites the mean field. *One step*: it is
given the counted mean field before the batch. *Closed loop*: it is given what it wrote itself. The
shares that it writes are compared with the counted ones, beside two trivial answers: keeping the
old mean field, and writing the right one (what rounding to the grid alone costs).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from agents.light_mean_field import CountedMeanField
from benchmarks.fidelity import machine, sample
from benchmarks.metrics import Interval, bootstrap
from mfenv.cli import Command, integer, script
from mfenv.dynamics.assemble import AUTO, build_annotator, build_backbone, build_method
from mfenv.dynamics.mean_field_text import SHOWN, parse_shares
from mfenv.dynamics.models import MeanFieldModel, SummaryRequest, SummaryResult
from mfenv.dynamics.process import MeanFieldProcess, ProcessSettings, advance
from mfenv.events.event import Event
from mfenv.events.load import load_events
from mfenv.events.synthetic.generator import SyntheticSociety
from mfenv.labels import N_LABELS, SLICES
from mfenv.noise import generator

__all__ = ["HELP", "add_arguments", "errors", "run"]

HELP = "measure how well a model rewrites the mean field"
_SOCIETY_SEED = 1  # the validation split of the synthetic events
_BOOTSTRAP_STREAM = 7004
_WRITTEN = np.concatenate([np.arange(N_LABELS)[SLICES[name]] for name in SHOWN])

Floats = NDArray[np.float64]


@dataclass
class _Asked:
    """A mean-field model that asks another, keeps its answers, and goes on with the counted one."""

    model: MeanFieldModel
    answers: dict[tuple[int, int], SummaryResult] = field(default_factory=dict)

    def summarise(self, requests: Sequence[SummaryRequest]) -> list[SummaryResult]:
        """Counted mean fields."""
        for request, answer in zip(requests, self.model.summarise(requests), strict=True):
            self.answers[request.key.seed, request.key.step] = answer
        return CountedMeanField().summarise(requests)

    __hash__ = object.__hash__


def _error(text: str, wanted: Floats) -> float:
    """Mean absolute error of the written shares; nan where none can be read."""
    shares = parse_shares(text)
    return float("nan") if shares is None else float(np.abs(shares - wanted)[_WRITTEN].mean())


def errors(
    events: Sequence[Event], backbone: str, annotator: str, steps: int, batch: int
) -> dict[str, Floats]:
    """Errors ``(events, steps)`` of each answer; nan where no share can be read."""
    judge = build_annotator(annotator, events[0])
    model = build_method("mf", backbone).mean_field
    asked = _Asked(model)
    n = batch * (steps + 1)
    settings = ProcessSettings(agents=n, batch=batch, warmup=n)
    processes: dict[str, list[MeanFieldProcess]] = {}
    for name, writer in (("asked", asked), ("closed", model)):
        policy = build_method("mf", backbone).policy
        processes[name] = [MeanFieldProcess(policy, writer, judge, settings) for _ in events]
        for number, (process, event) in enumerate(zip(processes[name], events, strict=True)):
            process.begin(event, number)
    names = ("keeping the old one", "one step", "closed loop", "the right one, rounded")
    result = {name: np.full((len(events), steps), np.nan) for name in names}
    # The first mean field is the counted one for both: the model has nothing to rewrite yet.
    advance(processes["asked"])
    for first, second in zip(processes["asked"], processes["closed"], strict=True):
        second.restore(first.snapshot())
    for t in range(steps):
        old = [p.mean_field for p in processes["asked"]]
        advance([*processes["asked"], *processes["closed"]])
        for k, (first, second) in enumerate(
            zip(processes["asked"], processes["closed"], strict=True)
        ):
            answer = asked.answers[k, t + 1]
            texts = (old[k], answer.text, second.mean_field, first.mean_field)
            for name, text in zip(names, texts, strict=True):
                result[name][k, t] = _error(text, first.perceived)
    return result


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add = parser.add_argument
    add("--backbone", default="embedded-en", metavar="NAME", help="(%(default)s)")
    add("--data", type=Path, metavar="FILE", help="events; none: the synthetic society")
    add("--annotator", default=AUTO, metavar="NAME", help="(%(default)s)")
    add("--events", type=integer(2), default=24, metavar="K", help="(%(default)s)")
    add("--steps", type=integer(1), default=6, metavar="T", help="(%(default)s)")
    add("--batch", type=integer(1), default=16, metavar="n", help="(%(default)s)")
    add("--out", type=Path, default=Path("benchmarks/results"), metavar="DIR")


def run(args: argparse.Namespace) -> int:
    """Measure, print the table, write it to ``--out``."""
    posts = args.batch * (args.steps + 1) + 1
    if args.data is None:
        events = SyntheticSociety(_SOCIETY_SEED).events(args.events, n_posts=posts)
    else:
        events = [c.event for c in sample(load_events(args.data), args.events, posts)]
    measured = errors(events, args.backbone, args.annotator, args.steps, args.batch)
    rng = generator(0, _BOOTSTRAP_STREAM)
    rows = []
    for name, values in measured.items():
        unread = np.isnan(values)
        # An event without any readable answer cannot be averaged; the share says how many.
        known = values[~unread.all(axis=1)]
        cell = "–"
        if len(known) > 1:
            cell = _interval(bootstrap(np.nanmean(known, axis=1), rng))
        rows.append(f"| {name} | {cell} | {unread.mean():.1%} |")
    described = json.dumps(build_backbone(args.backbone).describe(), sort_keys=True)
    source = "" if args.data is None else " --data FILE"
    lines = [
        f"# Rewriting the mean field: {args.backbone}",
        "",
        f"Mean absolute error of the written shares ({', '.join(SHOWN)}) against the counted ones, "
        f"{args.steps} steps of {args.batch} real reactions in each of {len(events)} events; "
        "brackets: 95% bootstrap over events.",
        "",
        "| answer | error | not readable |",
        "|---|---|---|",
        *rows,
        "",
        f"- backbone: {described}",
        f"- machine: {machine()}",
        f"- command: `mfenv bench summaries --backbone {args.backbone}{source} "
        f"--events {args.events} --steps {args.steps} --batch {args.batch}`",
    ]
    text = "\n".join(lines) + "\n"
    args.out.mkdir(parents=True, exist_ok=True)
    stem = args.backbone.replace(":", "-").replace("/", "-")
    (args.out / f"summaries-{stem}.md").write_text(text, encoding="utf-8")
    print(text, end="")
    return 0


def _interval(value: Interval) -> str:
    return f"{value.mean:.3f} [{value.low:.3f}, {value.high:.3f}]"


if __name__ == "__main__":
    sys.exit(script(cast(Command, sys.modules[__name__]), "python -m benchmarks.summaries"))
