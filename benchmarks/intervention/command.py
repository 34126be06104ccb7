"""``mfenv bench intervention``: what planners achieve against doing nothing, same noise."""

from __future__ import annotations

import argparse
import hashlib
import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import mfenv
from agents.planners.setting import add_setting_arguments, setting_of
from benchmarks.executors import add_executor_arguments, where_of
from benchmarks.fidelity import machine
from benchmarks.intervention.entry import Entry, load_entry, write_entry
from benchmarks.intervention.gate import fidelity_of
from benchmarks.intervention.lineup import chosen_planners, read_tuned, shipped_tuned
from benchmarks.intervention.runs import Runs, identity, run_all
from benchmarks.intervention.scores import score, transfer
from benchmarks.intervention.tables import markdown
from mfenv.cli import integer
from mfenv.dynamics.journal import canonical

__all__ = ["HELP", "add_arguments", "evaluate", "run"]

HELP = "measure what planners achieve, in pairs under the same noise"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add = parser.add_argument
    add("events", nargs="?", metavar="EVENTS", help="file of events (default: synthetic ones)")
    add("--split", metavar="NAME", help="of the synthetic events (test)")
    add("--limit-events", type=integer(1), metavar="N", help="play so many of the events only")
    add("--seeds", type=integer(1), default=5, metavar="K", help="runs an event (%(default)s)")
    add(
        "--planner",
        action="append",
        default=[],
        metavar="[LABEL=]NAME",
        help="can be repeated; always: with every action; tuned: all in --tuned (default: none, "
        "random, paper and tuned; in the society the oracle, too)",
    )
    add("--tuned", type=Path, metavar="FILE", help="of mfenv train heuristics (the shipped one)")
    add_setting_arguments(parser, "society")
    add("--lanes", type=integer(1), metavar="N", help="episodes that step together at most")
    add(
        "--fidelity",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="result of mfenv bench fidelity for this simulator (default: the shipped ones)",
    )
    add("--compare-with", type=Path, metavar="DIR", help="entry of a cheaper tier: what survives")
    add("--out", type=Path, metavar="DIR", help="runs and entry (default: runs/intervention-…)")
    add("--results", type=Path, default=Path("benchmarks/results"), metavar="DIR")
    add("--name", metavar="NAME", help="of the result's files (default: intervention-TIER)")
    add_executor_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Check that the fidelity is known, play, write the entry, score it, print the tables."""
    split = args.split or (None if args.events else "test")
    where = where_of(args)
    setting, events = setting_of(args, args.events, split).chosen(args.limit_events)
    path = args.tuned or shipped_tuned(setting.objective)
    tuned = {} if path is None else read_tuned(path)
    given = list(args.planner)
    if not given and setting.dynamics == "society":
        given = ["random", "paper", "tuned", "oracle"]
    planners = chosen_planners(given, tuned)
    runs = Runs(setting, planners, args.seeds, args.lanes or 0)
    facts = identity(runs)
    known = fidelity_of(setting, facts.get("backbone"), args.fidelity)
    cheaper = None if args.compare_with is None else _entry_of(args.compare_with)
    digest = hashlib.sha256(canonical(facts)).hexdigest()[:10]
    out = args.out or Path("runs") / f"intervention-{setting.dynamics}-{digest}"
    episodes = run_all(runs, out / "parts", facts, where)
    entry = Entry.of(
        setting,
        events,
        episodes,
        planners=facts["planners"],
        seeds=args.seeds,
        models={k: facts[k] for k in ("backbone", "surrogate") if k in facts},
        package=mfenv.__version__,
        machine=machine(),
        command=_command(sys.argv[1:], args.events),
    )
    write_entry(out / "entry", entry)
    result = evaluate(load_entry(out / "entry"), known.as_json(), cheaper)
    args.results.mkdir(parents=True, exist_ok=True)
    name = args.name or f"intervention-{setting.dynamics}"
    text = markdown(result)
    shown = json.dumps(result, indent=1, ensure_ascii=False) + "\n"
    (args.results / f"{name}.json").write_text(shown, encoding="utf-8")
    (args.results / f"{name}.md").write_text(text, encoding="utf-8")
    print(text, end="")
    return 0


def _entry_of(folder: Path) -> Entry:
    """The entry in a folder, or in the folder that a command ran in."""
    return load_entry(folder / "entry" if (folder / "entry").is_dir() else folder)


def evaluate(
    entry: Entry, fidelity: dict[str, Any], cheaper: Entry | None = None
) -> dict[str, Any]:
    """The result of an entry: scores beside the simulator's fidelity, and what was run."""
    return {
        **score(entry),
        "fidelity": fidelity,
        "transfer": None if cheaper is None else transfer(entry, cheaper),
        "setting": asdict(entry.setting),
        "models": dict(entry.models),
        "package": entry.package,
        "machine": entry.machine,
        "command": entry.command,
    }


def _command(argv: Sequence[str], events: str | None) -> str:
    """The command, but for where it writes and where on this disk files lie."""
    words, skip, path = ["mfenv", "bench", "intervention"], False, False
    writes, reads = ("--out", "--results"), ("--compare-with", "--fidelity", "--tuned")
    for word in argv[2:] if list(argv[:2]) == ["bench", "intervention"] else []:
        if not skip and not word.startswith(tuple(f"{w}=" for w in writes)) and word not in writes:
            words.append(Path(word).name if path or word == events else word)
        skip, path = word in writes, word in reads
    return shlex.join(words)
