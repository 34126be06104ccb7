"""Decisions a second: ``python -m benchmarks.throughput --backbone NAME``.

Worlds run in lockstep, so more of them in flight make larger batches; the society tier stands
beside the language models.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any, cast

import numpy as np

from benchmarks.fidelity import machine
from benchmarks.simulate import build_methods
from mfenv.cli import Command, integer, script
from mfenv.dynamics.assemble import AUTO, build_annotator, build_backbone, check_names
from mfenv.dynamics.process import MeanFieldProcess, ProcessSettings, advance, warm_up
from mfenv.dynamics.society import initial_state, society_step, worlds_of
from mfenv.events.synthetic.generator import SyntheticSociety
from mfenv.interventions import N_ACTIONS

__all__ = ["HELP", "add_arguments", "language_model", "run", "society"]

HELP = "measure decisions a second"

_SOCIETY = 9  # of no shipped model's training


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add = parser.add_argument
    add("--backbone", default="embedded-en", metavar="NAME", help="(%(default)s)")
    add("--method", default="mf", metavar="NAME", help="(%(default)s)")
    add("--annotator", default=AUTO, metavar="NAME", help="(%(default)s)")
    add("--worlds", type=_counts, default="1,4,16", metavar="K,…", help="in flight (%(default)s)")
    add("--steps", type=integer(1), default=4, metavar="T", help="measured (%(default)s)")
    add("--batch", type=integer(1), default=16, metavar="n", help="(%(default)s)")
    add("--results", type=Path, default=Path("benchmarks/results"), metavar="DIR")


def _counts(text: str) -> list[int]:
    return [integer(1)(part) for part in text.split(",")]


def language_model(
    backbone: str, method: str, annotator: str, worlds: int, steps: int, batch: int
) -> dict[str, Any]:
    """Time ``steps`` rollout steps of ``worlds`` events in lockstep; one more warms up."""
    settings = ProcessSettings(batch * (steps + 2), batch, batch)
    pair = build_methods([method], backbone, "ancestral")[method]
    events = SyntheticSociety(_SOCIETY).events(worlds, n_posts=settings.agents + 1)
    judge = build_annotator(annotator, events[0])
    processes = [MeanFieldProcess(pair.policy, pair.mean_field, judge, settings) for _ in events]
    for k, (process, event) in enumerate(zip(processes, events, strict=True)):
        process.begin(event, k)
    warm_up(processes)
    advance(processes)
    phases: dict[str, float] = {}
    start = time.perf_counter()
    records = [r for _ in range(steps) for r in advance(processes, timings=phases)]
    seconds = time.perf_counter() - start
    decisions = sum(len(r.agents) for r in records)
    return {
        "tier": backbone,
        "method": method,
        "worlds": worlds,
        "decisions": decisions,
        "seconds": round(seconds, 3),
        "decisions_per_second": round(decisions / seconds, 1),
        "completion_tokens_per_second": round(sum(r.completion_tokens for r in records) / seconds),
        "share_of_time": {k: round(v / seconds, 3) for k, v in phases.items()},
    }


def society(worlds: int, steps: int, batch: int) -> dict[str, Any]:
    """Time the synthetic society itself under random interventions."""
    events = SyntheticSociety(_SOCIETY).events(worlds, n_posts=batch * 2 + 1)
    fixed = worlds_of(events, range(worlds), warmup=batch, batch=batch)
    state = initial_state(fixed, events)
    actions = np.random.default_rng(0).integers(N_ACTIONS, size=(steps + 1, worlds))
    state, _ = society_step(fixed, state, actions[0])
    start = time.perf_counter()
    for each in actions[1:]:
        state, _ = society_step(fixed, state, each)
    seconds = time.perf_counter() - start
    decisions = worlds * steps * batch
    return {
        "tier": "society",
        "method": "",
        "worlds": worlds,
        "decisions": decisions,
        "seconds": round(seconds, 3),
        "decisions_per_second": round(decisions / seconds, 1),
    }


def run(args: argparse.Namespace) -> int:
    """Measure, write the results, print them."""
    check_names(backbone=args.backbone, method=args.method, annotator=args.annotator)
    worlds: list[int] = args.worlds
    rows = [
        language_model(args.backbone, args.method, args.annotator, k, args.steps, args.batch)
        for k in worlds
    ]
    rows += [society(k, 50, args.batch) for k in worlds]
    result = {
        "backbone": build_backbone(args.backbone).describe(),
        "batch": args.batch,
        "rows": rows,
        "machine": machine(),
        "command": f"python -m benchmarks.throughput --backbone {args.backbone} "
        f"--method {args.method} --worlds {','.join(map(str, worlds))} --steps {args.steps} "
        f"--batch {args.batch}",
    }
    text = _markdown(result)
    args.results.mkdir(parents=True, exist_ok=True)
    stem = f"throughput-{args.backbone.replace('/', '-').replace(':', '-')}"
    (args.results / f"{stem}.json").write_text(json.dumps(result, indent=1) + "\n")
    (args.results / f"{stem}.md").write_text(text, encoding="utf-8")
    print(text)
    return 0


def _markdown(result: dict[str, Any]) -> str:
    backbone = ", ".join(f"{k} {v}" for k, v in sorted(result["backbone"].items()))
    lines = [
        "# Throughput",
        "",
        f"Decisions a second, {result['batch']} agents a step, all worlds in lockstep, labels and "
        f"mean fields included. Backbone: {backbone}. Measured on {result['machine']}.",
        "",
        "| tier | method | worlds | decisions | decisions/s | act / label / summarise |",
        "|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        shares = " / ".join(f"{100 * v:.0f}%" for v in row.get("share_of_time", {}).values())
        lines.append(
            f"| {row['tier']} | {row['method']} | {row['worlds']} | {row['decisions']:,} | "
            f"{row['decisions_per_second']:,.1f} | {shares} |"
        )
    return "\n".join([*lines, "", "```", result["command"], "```", ""])


if __name__ == "__main__":
    sys.exit(script(cast(Command, sys.modules[__name__]), "python -m benchmarks.throughput"))
