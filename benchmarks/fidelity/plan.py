"""``mfenv bench plan``: what a grid will take, before anything runs: decisions, tokens, hours.

A part of the grid is played for a moment, and what that took is scaled up. Nothing of it is kept.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.executors.schedule import duration
from benchmarks.fidelity.command import declare_grid, prepare
from benchmarks.fidelity.measure import Plan, blocks, process_of, score_block
from benchmarks.throughput.prices import Prices, add_prices
from mfenv.cli import integer
from mfenv.dynamics.process import advance, warm_up

__all__ = ["HELP", "Estimate", "add_arguments", "estimate", "run"]

HELP = "what a fidelity grid will take: decisions, tokens, hours"

_SCORED = 2  # cases whose likelihoods the probe computes


@dataclass(frozen=True, slots=True)
class Estimate:
    """What one condition will take."""

    runs: int
    decisions: int
    """Actions of the rollouts; the candidates of a calibration not counted."""
    prompt_tokens: int
    completion_tokens: int
    seconds: float
    """On this machine, as busy as it is now."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of ``mfenv bench plan``."""
    declare_grid(parser)
    add = parser.add_argument
    add(
        "--probe",
        type=integer(1),
        default=64,
        metavar="RUNS",
        help="so many runs are played for two steps to see how long they take (%(default)s)",
    )
    add_prices(parser)
    add("--json", action="store_true", help="print JSON only")


def estimate(plan: Plan, probe: int, likelihood: bool) -> Estimate:
    """Play ``probe`` runs of a condition for two steps and scale up."""
    tasks = [task for block in blocks(plan) for task in block]
    # Spread over cases, methods and seeds as the whole grid is.
    count = min(probe, len(tasks))
    chosen = [tasks[i * len(tasks) // count] for i in range(count)]
    processes = [process_of(plan, task) for task in chosen]
    started = time.perf_counter()
    warm_up(processes)
    warm = time.perf_counter() - started
    steps = processes[0].total_steps - processes[0].step_index
    taken = min(2, steps)
    started = time.perf_counter()
    records = [r for _ in range(taken) for r in advance(processes)]
    rolled = (time.perf_counter() - started) / taken * steps
    scale = len(tasks) / len(chosen)
    tokens = [
        round(sum(getattr(r, name) for r in records) / taken * steps * scale)
        for name in ("prompt_tokens", "completion_tokens")
    ]
    seconds = (warm + rolled) * scale
    if likelihood:
        cases = range(min(_SCORED, len(plan.cases)))
        started = time.perf_counter()
        score_block(plan, cases)
        seconds += (time.perf_counter() - started) / len(cases) * len(plan.cases)
    horizon = plan.condition.horizon
    return Estimate(len(tasks), len(tasks) * horizon, tokens[0], tokens[1], seconds)


def run(args: argparse.Namespace) -> int:
    """Probe every condition and print what it will take."""
    prices = Prices.of(args)
    prepared = prepare(args)
    found = {
        plan.condition.name: estimate(plan, args.probe, prepared.likelihood)
        for plan in prepared.plans
    }
    keys = list(Estimate.__dataclass_fields__)
    total = Estimate(*(sum(getattr(e, key) for e in found.values()) for key in keys))
    cost = prices.cost(total.prompt_tokens, total.completion_tokens)
    if args.json:
        rows = {
            name: {k: getattr(e, k) for k in keys} for name, e in {**found, "total": total}.items()
        }
        print(json.dumps({**rows, "cost": cost}, indent=1))
        return 0
    table = Table(box=box.SIMPLE, title=f"{len(prepared.chosen.cases)} cases of {args.track}")
    for name in ("condition", "runs", "decisions", "prompt tokens", "written tokens", "time"):
        table.add_column(name, justify="left" if name == "condition" else "right")
    for name, e in {**found, "total": total}.items():
        table.add_row(
            name,
            f"{e.runs:,}",
            f"{e.decisions:,}",
            f"{e.prompt_tokens:,}",
            f"{e.completion_tokens:,}",
            duration(e.seconds),
        )
    console = Console()
    console.print(table)
    if cost is not None:
        console.print(f"cost of the tokens: {cost:,.2f}")
    return 0
