"""``mfenv simulate`` on several events: each is a task, and a folder inside the run's."""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks import metrics
from benchmarks.executors import Task, Where
from benchmarks.simulate import (
    LEAST,
    Simulation,
    chosen_event,
    command_of,
    files_of,
    folder_name,
    one_line,
    settings_of,
    simulate_and_report,
    simulation_of,
    write_file,
)
from mfenv.dynamics.assemble import method_names
from mfenv.dynamics.journal import canonical
from mfenv.errors import MfenvError
from mfenv.events.event import Event
from mfenv.events.load import load_events
from mfenv.noise import generator

__all__ = ["Piece", "play_elsewhere", "play_piece", "run"]

_STREAM = 7051  # of the intervals over events
RESULTS = "results.json"


@dataclass(frozen=True, slots=True)
class Piece:
    """One event: all its methods and seeds step together, wherever that is."""

    simulation: Simulation
    command: str
    """That repeats it, for the report."""
    folder: str
    """Inside the run's."""

    @property
    def files(self) -> tuple[str, ...]:
        """What is written, inside the run's folder."""
        return tuple((Path(self.folder) / name).as_posix() for name in files_of(self.simulation))

    @property
    def decisions(self) -> float:
        """Expected cost: reactions after the warm-up, of all methods and seeds."""
        s = self.simulation
        people = min(len(s.event.posts) - 1, s.process.agents) - s.process.warmup
        return float(people * len(s.methods) * len(s.seeds) * (2 if s.schedule else 1))


def play_piece(piece: Piece, folder: Path) -> None:
    """Simulate an event with its journals, result and report in a folder of the run's."""
    simulate_and_report(piece.simulation, folder / piece.folder, piece.command)


def play_elsewhere(pieces: Sequence[Piece], out: Path, where: Where) -> None:
    """Play what has no result yet as tasks; all files are in the run's folder afterwards."""
    where.fetch([name for piece in pieces for name in piece.files], out)
    tasks = [
        Task(
            name=f"event {one_line(piece.simulation.event.event_id)}",
            play=play_piece,
            argument=piece,
            cost=piece.decisions,
            files=piece.files,
            place=where.place(out),
            here=str(Path.cwd()),
        )
        for piece in pieces
        if not (out / piece.folder / "result.json").exists()
    ]
    where.play(tasks, out, lambda text: print(text, file=sys.stderr, flush=True))


def run(args: argparse.Namespace, where: Where) -> int:
    """Simulate each event, then print how close the methods came over all of them."""
    events, short = _events(args)
    pieces = []
    for event in events:
        simulation = simulation_of(args, event)
        one = argparse.Namespace(**{**vars(args), "event": event.event_id})
        name = folder_name(event, settings_of(simulation))
        pieces.append(Piece(simulation, command_of(one), name))
    names = sorted(piece.folder for piece in pieces)
    if len(set(names)) < len(names):
        raise MfenvError("an event is chosen twice; give each --event once")
    key = hashlib.sha256(canonical(names)).hexdigest()[:10]
    out: Path = args.out or Path("runs") / f"simulate-{len(pieces)}-events-{key}"
    with where.alone(out):
        play_elsewhere(pieces, out, where)
        results = [json.loads((out / p.folder / "result.json").read_text("utf-8")) for p in pieces]
        summary = _summary(pieces, results, short)
        write_file(out / RESULTS, json.dumps(summary, indent=2) + "\n")
    if args.json:
        print(json.dumps(summary))
    else:
        _print(pieces, summary, out)
    return 0


def _events(args: argparse.Namespace) -> tuple[list[Event], list[str]]:
    """The events that are asked for, and the ids of those that are too short for it."""
    if args.events is None:
        if args.all_events:
            raise MfenvError("--all-events is for a file of events; name synthetic ones by --event")
        one = [argparse.Namespace(**{**vars(args), "event": name}) for name in args.event]
        return [chosen_event(each, args.agents, args.people) for each in one], []
    if args.people is not None:
        raise MfenvError("--people is for synthetic events; the people of a file are its authors")
    if args.all_events and args.event:
        raise MfenvError("--all-events and --event exclude each other")
    skip_bad: Path | bool | None = None
    if args.skip_bad:
        skip_bad = True if args.out is None else args.out / "quarantine.jsonl"
    events = load_events(args.events, skip_bad=skip_bad, event_ids=args.event)
    if not args.all_events:
        return events, []
    fit: list[Event] = []
    short: list[str] = []
    for event in events:
        if min(len(event.posts) - 1, args.agents) - args.warmup >= LEAST:
            fit.append(event)
        else:
            short.append(event.event_id)
    if not fit:
        raise MfenvError(
            f"{args.events}: none of {len(events)} events has {args.warmup + LEAST} reactions; "
            f"see --warmup"
        )
    return fit, short


def _summary(
    pieces: Sequence[Piece], results: Sequence[dict[str, Any]], short: Sequence[str]
) -> dict[str, Any]:
    """Means over events with intervals that draw events, and every event's own result."""
    names = list(results[0]["kl"])
    kl = {}
    for name in names:
        found = [r["kl"][name]["mean"] for r in results]
        interval = metrics.bootstrap(found, generator(_STREAM, len(found)))
        kl[name] = {
            key: None if value != value else round(value, 6)
            for key, value in (("mean", interval.mean), ("low", interval.low),
                               ("high", interval.high))
        }  # fmt: skip
    s = pieces[0].simulation
    return {
        "events": len(pieces),
        "too_short": list(short),
        "backbone": s.backbone,
        "method": ",".join(method_names(s.methods)),
        "seeds": len(s.seeds),
        "kl": kl,
        "per_event": {p.folder: r for p, r in zip(pieces, results, strict=True)},
    }


def _print(pieces: Sequence[Piece], summary: dict[str, Any], out: Path) -> None:
    console = Console(width=None if sys.stdout.isatty() else 110, highlight=False)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("KL(real ‖ simulated), nats")
    table.add_column("mean", justify="right")
    table.add_column("95% interval over events", justify="right")
    for name, row in sorted(summary["kl"].items(), key=lambda item: item[1]["mean"]):
        span = "–" if row["low"] is None else f"{row['low']:.3f} to {row['high']:.3f}"
        table.add_row(name, f"{row['mean']:.4f}", span)
    console.print(
        f"{len(pieces)} events, backbone {summary['backbone']}, {summary['seeds']} seeds",
        markup=False,
    )
    console.print(table)
    if summary["too_short"]:
        console.print(f"Left out, too few reactions: {len(summary['too_short'])} events")
    console.print(f"A report and the journals of each event: {out}", markup=False, soft_wrap=True)
