"""``mfenv bench faults``: does it hold when something goes wrong? A row for each fault.

Each row makes the fault happen to real runs of ``mfenv`` in processes of their own, and compares
them with an undisturbed one.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.faults import clock, disk, load, lock, memory, torn
from benchmarks.faults.row import Outcome, Row, Trial
from benchmarks.fidelity.machine import machine
from benchmarks.simulate import write_file
from mfenv.cli import integer
from mfenv.errors import MfenvError

__all__ = ["HELP", "ROWS", "add_arguments", "run"]

HELP = "what holds when disks fill, servers die, clocks jump: a row for each fault"

ROWS: Mapping[str, Row] = {
    row.name: row for row in (m.ROW for m in (disk, torn, clock, lock, load, memory))
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add = parser.add_argument
    add("--row", action="append", metavar="NAME", help=f"all, or of {', '.join(ROWS)}")
    add("--minutes", type=float, default=10.0, metavar="M", help="of load (%(default)s)")
    add(
        "--interactions",
        type=integer(1000),
        default=40_000,
        metavar="N",
        help="of memory (%(default)s)",
    )
    add("--backbone", default="ngram-en", metavar="NAME", help="of memory (%(default)s)")
    add("--out", type=Path, default=Path("runs/faults"), metavar="DIR", help="(%(default)s)")
    add("--results", type=Path, default=Path("benchmarks/results"), metavar="DIR")


def run(args: argparse.Namespace) -> int:
    """Run rows, print pass or fail with a figure, write the table; 1 where one failed."""
    names = args.row or ["all"]
    names = list(ROWS) if "all" in names else names
    if unknown := [name for name in names if name not in ROWS]:
        raise MfenvError(f"--row: unknown {unknown[0]!r}; known: {', '.join(ROWS)}")
    if not args.minutes > 0:
        raise MfenvError(f"--minutes {args.minutes} is not allowed; allowed: more than 0")
    options = {k: getattr(args, k) for k in ("minutes", "interactions", "backbone")}
    failed = False
    for name in names:
        folder = (args.out / name).resolve()
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        begun = time.monotonic()
        outcome = ROWS[name].run(Trial(folder, options))
        failed |= not outcome.passed
        _keep(args.out, name, outcome, time.monotonic() - begun)
        print(f"{'pass' if outcome.passed else 'FAIL'}  {name}: {outcome.figure}", flush=True)
    found = _results(args.out)
    _write(args.results, found)
    _print(found)
    return 1 if failed else 0


def _keep(out: Path, name: str, outcome: Outcome, seconds: float) -> None:
    value = {"passed": outcome.passed, "figure": outcome.figure, "seconds": round(seconds, 1)}
    write_file(out / f"{name}.json", json.dumps(value) + "\n")


def _results(out: Path) -> dict[str, dict[str, Any]]:
    """What the latest run of each row gave."""
    return {
        name: json.loads((out / f"{name}.json").read_text(encoding="utf-8"))
        for name in ROWS
        if (out / f"{name}.json").is_file()
    }


def _write(results: Path, found: Mapping[str, Mapping[str, Any]]) -> None:
    lines = [
        "# Faults",
        "",
        f"Each row is a command: `mfenv bench faults --row NAME`. {machine()}.",
        "",
        "| row | fault | what must hold | | figure |",
        "|---|---|---|---|---|",
        *(
            f"| {name} | {ROWS[name].fault} | {ROWS[name].holds} | "
            f"{'pass' if x['passed'] else '**fail**'} | {x['figure'].replace('|', '/')} |"
            for name, x in found.items()
        ),
    ]
    results.mkdir(parents=True, exist_ok=True)
    write_file(results / "faults.md", "\n".join(lines) + "\n")


def _print(found: Mapping[str, Mapping[str, Any]]) -> None:
    table = Table("row", "", "figure", "s", box=box.SIMPLE_HEAD, pad_edge=False)
    for name, x in found.items():
        seconds = f"{x['seconds']:.0f}"
        table.add_row(name, "pass" if x["passed"] else "FAIL", x["figure"], seconds)
    Console(width=None if sys.stdout.isatty() else 110, highlight=False).print(table)
