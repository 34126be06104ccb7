"""``mfenv bench fuzz``: a million odd inputs to everything that reads what a stranger wrote.

Each target is a reader with a documented set of errors. Inputs are made from valid examples of the
project's own, each from (target, seed, index) alone, so that equal seeds give equal inputs in any
order, and a run that was stopped goes on where it was. Other engines are used where they are
installed: Hypothesis, which shrinks what it finds, and Atheris, which is led by coverage.

What is raised and is not documented, what hangs, and what breaks a promise is a finding. Its input
is kept in a file, and the command that reads it again is printed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.fidelity.machine import machine
from benchmarks.fuzz import answers, entries, events, journals, specifications
from benchmarks.fuzz.target import PATIENCE, Finding, Target, fault_of, seeded
from benchmarks.simulate import write_file
from mfenv.cli import integer
from mfenv.dynamics.journal import RunLock
from mfenv.errors import MfenvError, MissingExtraError

__all__ = ["ENGINES", "HELP", "TARGETS", "add_arguments", "replay", "run"]

HELP = "odd inputs to every reader: nothing but documented errors may come out"

TARGETS: Mapping[str, Target] = {
    target.name: target
    for module in (events, answers, journals, entries, specifications)
    for target in module.TARGETS
}
ENGINES = ("mutate", "hypothesis", "atheris")
_BLOCK = 500  # inputs between two notes of how far it is
_KEPT = 20  # findings of a target whose inputs are kept


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add = parser.add_argument
    add("--targets", default="all", metavar="NAMES", help=f"all, or of {', '.join(TARGETS)}")
    add("--engine", choices=ENGINES, default="mutate", help="what makes inputs (%(default)s)")
    add("--inputs", type=integer(1), default=1_000_000, metavar="N", help="over all targets "
        "together, cheap ones get more (%(default)s)")  # fmt: skip
    add("--each", type=integer(1), metavar="N", help="for each target, in place of --inputs")
    add("--seed", type=integer(0), default=0, metavar="S", help="(%(default)s)")
    add("--out", type=Path, default=Path("runs/fuzz"), metavar="DIR", help="progress and findings")
    add("--results", type=Path, default=Path("benchmarks/results"), metavar="DIR")
    add("--replay", type=Path, metavar="FILE", help="read an input that was kept, and nothing else")
    add("--report", action="store_true", help="only write the table of what was run")


def run(args: argparse.Namespace) -> int:
    """Run the targets and write the table; returns 1 where something was found."""
    with _quiet():
        return _run(args)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the readers' warnings: there would be millions of them."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _run(args: argparse.Namespace) -> int:
    if args.replay is not None:
        return _replayed(args.replay)
    names = list(TARGETS) if args.targets == "all" else args.targets.split(",")
    if unknown := [name for name in names if name not in TARGETS]:
        raise MfenvError(f"--targets: unknown {unknown[0]!r}; known: {', '.join(TARGETS)}")
    if not args.report:
        for name in names:
            target = TARGETS[name]
            wanted = args.each or max(1, round(args.inputs * target.share))
            place = args.out / args.engine / name
            with RunLock(place):
                {"mutate": _mutate, "hypothesis": _hypothesis, "atheris": _atheris}[args.engine](
                    target, wanted, args.seed, place
                )
    found = _results(args.out)
    _write(args.results, found)
    _print(found)
    return 1 if any(row["findings"] for row in found) else 0


# -- how far it is ---------------------------------------------------------------------------


def _state(place: Path, seed: int) -> dict[str, Any]:
    path = place / f"seed-{seed}.json"
    if path.is_file():
        state: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return state
    return {"seed": seed, "inputs": 0, "seconds": 0.0, "cpu_seconds": 0.0, "findings": {}}


def _keep(place: Path, state: dict[str, Any]) -> None:
    write_file(place / f"seed-{state['seed']}.json", json.dumps(state, indent=1) + "\n")


def _found(
    place: Path, target: Target, state: dict[str, Any], finding: Finding, data: bytes
) -> None:
    """Count a finding; the first input of each kind is kept."""
    known = state["findings"].get(finding.key)
    if known is not None:
        known["times"] += 1
        return
    name = hashlib.sha256(data).hexdigest()[:12]
    path = place / "findings" / f"{target.name}-{name}.bin"
    if len(state["findings"]) < _KEPT:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
    state["findings"][finding.key] = {**asdict(finding), "times": 1, "input": str(path)}
    again = shlex.join(["mfenv", "bench", "fuzz", "--replay", str(path)])
    print(f"{target.name}: {finding.key}: {finding.message[:200]!r}; again: {again}", flush=True)


def replay(path: Path) -> Finding | None:
    """Read an input that was kept (named by its target); the finding, if it is one still."""
    target = TARGETS.get(path.name.partition("-")[0])
    if target is None:
        raise MfenvError(f"{path}: its name does not begin with a target: {', '.join(TARGETS)}")
    if not path.is_file():
        raise MfenvError(f"{path}: no such file")
    with tempfile.TemporaryDirectory() as folder:
        return fault_of(target, path.read_bytes(), Path(folder))


def _replayed(path: Path) -> int:
    finding = replay(path)
    print("nothing found" if finding is None else f"{finding.key}: {finding.message}")
    return 0 if finding is None else 1


def _folder() -> tempfile.TemporaryDirectory[str]:
    memory = Path("/dev/shm")
    return tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None)


# -- engines ---------------------------------------------------------------------------------


def _mutate(target: Target, wanted: int, seed: int, place: Path) -> None:
    """The project's own: every input from its number."""
    state = _state(place, seed)
    with _folder() as folder:
        while state["inputs"] < wanted:
            begun, used = time.perf_counter(), time.process_time()
            first = state["inputs"]
            last = min(first + _BLOCK, wanted)
            for index in range(first, last):
                data = target.make(seeded(target.name, seed, index))
                finding = fault_of(target, data, Path(folder))
                if finding is not None:
                    _found(place, target, state, finding, data)
            state["inputs"] = last
            state["seconds"] += time.perf_counter() - begun
            state["cpu_seconds"] += time.process_time() - used
            _keep(place, state)


def _hypothesis(target: Target, wanted: int, seed: int, place: Path) -> None:
    """Hypothesis steers the chance behind the inputs, and shrinks what it finds."""
    try:
        import hypothesis
        from hypothesis import strategies
    except ModuleNotFoundError:
        raise MissingExtraError("dev", "--engine hypothesis") from None
    state = _state(place, seed)
    smallest: dict[str, tuple[Finding, bytes]] = {}
    begun, used = time.perf_counter(), time.process_time()

    with _folder() as folder:

        @hypothesis.seed(seed + state["inputs"])
        @hypothesis.settings(
            max_examples=max(1, wanted - state["inputs"]),
            deadline=None,
            database=None,
            suppress_health_check=list(hypothesis.HealthCheck),
            report_multiple_bugs=False,
        )
        @hypothesis.given(strategies.randoms(use_true_random=False))
        def body(random: Any) -> None:
            data = target.make(random)
            state["inputs"] += 1
            finding = fault_of(target, data, Path(folder))
            if finding is not None:
                smallest["found"] = finding, data
                raise AssertionError(finding.key)

        if state["inputs"] < wanted:
            try:
                body()
            except AssertionError:
                _found(place, target, state, *smallest["found"])
    state["seconds"] += time.perf_counter() - begun
    state["cpu_seconds"] += time.process_time() - used
    _keep(place, state)


def _atheris(target: Target, wanted: int, seed: int, place: Path) -> None:
    """Atheris in a process of its own: it instruments what it imports, and ends its process."""
    try:
        import atheris
    except ModuleNotFoundError:
        raise MfenvError(
            "--engine atheris needs the package atheris: pip install atheris; the other engines do "
            "without"
        ) from None
    assert atheris is not None
    state = _state(place, seed)
    if state["inputs"] >= wanted:
        return
    report = place / "report.json"
    report.unlink(missing_ok=True)
    command = [sys.executable, "-m", "benchmarks.fuzz.coverage", target.name]
    command += [str(wanted - state["inputs"]), str(seed + state["inputs"]), str(report)]
    begun = time.perf_counter()
    before = os.times()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    after = os.times()
    if not report.is_file():
        raise MfenvError(f"atheris ended without a report: {done.stderr[-400:]}")
    said = json.loads(report.read_text(encoding="utf-8"))
    for found in said["findings"]:
        data = bytes.fromhex(found.pop("data"))
        times = found.pop("times")
        _found(place, target, state, Finding(**found), data)
        state["findings"][Finding(**found).key]["times"] += times - 1
    state["inputs"] += said["inputs"]
    state["seconds"] += time.perf_counter() - begun
    state["cpu_seconds"] += (
        after.children_user + after.children_system - before.children_user - before.children_system
    )
    report.unlink()
    _keep(place, state)


# -- the table -------------------------------------------------------------------------------


def _results(out: Path) -> list[dict[str, Any]]:
    """A row for each engine and target that was run, seeds together."""
    rows = []
    for engine in ENGINES:
        for name, target in TARGETS.items():
            states = [
                json.loads(path.read_text(encoding="utf-8"))
                for path in sorted((out / engine / name).glob("seed-*.json"))
            ]
            if states:
                rows.append(
                    {
                        "target": name,
                        "what": target.what,
                        "engine": engine,
                        "inputs": sum(s["inputs"] for s in states),
                        "seconds": sum(s["cpu_seconds"] for s in states),
                        "findings": [f for s in states for f in s["findings"].values()],
                    }
                )
    return rows


def _cells(rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    cells = [
        [r["target"], r["what"], r["engine"], f"{r['inputs']:,}", f"{r['seconds']:,.0f}",
         str(len(r["findings"]))]
        for r in rows
    ]  # fmt: skip
    total = sum(r["inputs"] for r in rows), sum(r["seconds"] for r in rows)
    n = sum(len(r["findings"]) for r in rows)
    return [*cells, ["all", "", "", f"{total[0]:,}", f"{total[1]:,.0f}", str(n)]]


_HEADS = ("target", "what is read", "engine", "inputs", "CPU seconds", "findings")


def _write(results: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    lines = [
        "# Fuzzing",
        "",
        "Odd inputs to everything that reads what a stranger wrote: `mfenv bench fuzz`. A finding "
        "is anything but a documented error: another exception, a promise that is broken, no end "
        f"within {PATIENCE} s of computing, a message that cannot be read. {machine()}.",
        "",
        "| " + " | ".join(_HEADS) + " |",
        "|---|---|---|---:|---:|---:|",
        *("| " + " | ".join(row) + " |" for row in _cells(rows)),
    ]
    found = [(r["target"], f) for r in rows for f in r["findings"]]
    if found:
        lines += ["", "| target | finding | times |", "|---|---|---:|"]
        lines += [f"| {name} | {f['kind']} at {f['where']} | {f['times']} |" for name, f in found]
    results.mkdir(parents=True, exist_ok=True)
    write_file(results / "fuzz.md", "\n".join(lines) + "\n")


def _print(rows: Sequence[Mapping[str, Any]]) -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for i, head in enumerate(_HEADS):
        table.add_column(head, justify="right" if i > 2 else "left")
    for row in _cells(rows):
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 110, highlight=False).print(table)
