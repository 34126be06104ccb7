"""``mfenv leaderboard verify``: play a random part of an entry again, and keep what was found.

For whoever keeps a board. What is drawn depends on the seed and on the entry's own hash, so its
author can neither know nor choose it, as long as the seed is chosen after the entry was handed in.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import mfenv
from benchmarks.fidelity.entry import text_folder
from benchmarks.fidelity.machine import machine
from benchmarks.fidelity.tracks import TRACKS
from benchmarks.leaderboard import replay
from benchmarks.leaderboard.check import check
from benchmarks.leaderboard.outcomes import check_outcomes, is_outcomes
from benchmarks.leaderboard.rerun import draw, plans_of, real_agreement, rerun, rescore
from benchmarks.leaderboard.verification import (
    FORMAT,
    RULE,
    as_json,
    failures,
    in_words,
    verification_path,
)
from mfenv.cli import integer
from mfenv.dynamics.assemble import AUTO
from mfenv.errors import MfenvError

__all__ = ["HELP", "add_arguments", "run"]

HELP = "play a random part of an entry again and compare it with the journals"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add = parser.add_argument
    add("entry", type=Path, metavar="ENTRY", help="folder of the entry")
    add(
        "--fraction",
        type=_fraction,
        default=0.1,
        metavar="SHARE",
        help="of the runs of each method; five at least (%(default)s)",
    )
    add("--data", type=Path, metavar="PATH", help="the track's events, as for mfenv bench fidelity")
    add(
        "--texts",
        type=Path,
        metavar="FOLDER",
        help="what was written, where it is not in the entry (ENTRY.private, if it is there)",
    )
    add(
        "--seed",
        type=integer(0),
        default=0,
        metavar="N",
        help="of the draw; choose one after the entry was handed in (%(default)s)",
    )
    add("--backbone", metavar="NAME", help="what plays (the entry's, where it is a shipped one)")
    add(
        "--methods",
        metavar="NAMES",
        help="only these, by commas; those that have learned need their folder, sft:DIR (all)",
    )
    add("--annotator", default=AUTO, metavar="NAME", help="what labels reactions (%(default)s)")
    add("--surrogate", metavar="NAME", help="the surrogate of an entry of planners (its own name)")
    add(
        "--planner",
        action="append",
        default=[],
        metavar="LABEL=NAME",
        help="a planner that has learned something and is not installed; can be repeated",
    )
    add("--json", action="store_true", help="print JSON only")


def _fraction(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed; allowed: above 0, to 1")
    return value


def run(args: argparse.Namespace) -> int:
    """Rerun, print, write the finding; returns 2 where the entry was not reproduced."""
    if not args.entry.is_dir():
        raise MfenvError(f"{args.entry}: no such folder; give the folder of an entry")
    again = _planners if is_outcomes(args.entry) else _fidelity
    digest, wrong, lines, found, texts = again(args)
    value = {
        "format": FORMAT,
        "entry": digest,
        "methods": {name: not problems for name, problems in wrong.items()},
        "lines": lines,
        "seed": args.seed,
        "fraction": args.fraction,
        "texts": texts,
        "rule": asdict(RULE),
        "package": mfenv.__version__,
        "machine": machine(),
        "found": found,
    }
    path = verification_path(args.entry)
    path.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    _tell(args, value, wrong, path)
    return 0 if not any(wrong.values()) else 2


_Found = tuple[str, dict[str, list[str]], list[str], list[dict[str, Any]], bool]
"""The entry's hash; problems by method; the finding in words, and in figures; texts at hand."""


def _planners(args: argparse.Namespace) -> _Found:
    """Replay an entry of planners."""
    checked = check_outcomes(args.entry)
    if checked.entry is None or not checked.valid:
        raise MfenvError(f"the entry is invalid: {checked.problems[0]}")
    entry, given = checked.entry, {}
    for text in args.planner:
        label, equals, name = text.partition("=")
        if not equals:
            raise MfenvError(f"--planner {text!r} is not allowed; allowed: --planner LABEL=NAME")
        given[label] = name
    ready = replay.make_ready(
        entry,
        args.data,
        backbone=args.backbone,
        surrogate=args.surrogate,
        method=args.methods,
        planners=given,
    )
    wrong: dict[str, list[str]] = {}
    lines, found = [], []
    for label, episodes in replay.draw_episodes(
        entry, checked.digest, args.fraction, args.seed
    ).items():
        made = replay.replay(entry, ready, label, episodes)
        problems = replay.replay_failures(made, entry.setting.dynamics)
        lines.append(f"{label}: {replay.words(made)}")
        print(lines[-1], file=sys.stderr, flush=True)
        lines += [f"{label}: {problem}" for problem in problems]
        if label in ready.absent:
            lines.append(f"{label}: the planner was not rerun: {ready.absent[label]}")
        if problems or label not in ready.absent:
            wrong[label] = problems
        runs = {"planner": label, "episodes": episodes}
        found.append({**runs, **replay.as_json(made), "wrong": problems})
    return checked.digest, wrong, lines, found, False


def _fidelity(args: argparse.Namespace) -> _Found:
    """Rerun an entry on fidelity."""
    checked = check(args.entry)
    if checked.entry is None or not checked.valid:
        raise MfenvError(f"the entry is invalid: {checked.problems[0]}")
    entry = checked.entry
    texts = _text_part(args, entry.manifest.track)
    methods = [m.strip() for m in args.methods.split(",") if m.strip()] if args.methods else None
    plans = plans_of(
        entry, args.data, backbone=args.backbone, methods=methods, annotator=args.annotator
    )
    names = list(dict.fromkeys(m for plan in plans.values() for m in plan.condition.methods))
    choices = draw(entry, checked.digest, args.fraction, args.seed, names)
    total, same = real_agreement(entry, plans)
    wrong = {name: [] for name in names} if same >= RULE.relabelled * total else {
        name: [f"the annotator gives {same} of {total} real reactions their labels"]
        for name in names
    }  # fmt: skip
    lines = [f"real reactions with their labels: {same:,} of {total:,}"]
    found: list[dict[str, Any]] = []
    for condition, plan in plans.items():
        mine = [c for c in choices if c.condition == condition]
        scored = rescore(entry, plan, mine)
        for choice in mine:
            likelihood = scored.get(choice.method)
            agreement = rerun(entry, plan, choice, texts)
            pair = plan.models[plan.cases[0].group][choice.method]
            problems = failures(agreement, likelihood, calibrated=pair.calibration is not None)
            wrong[choice.method] += problems
            lines.append(f"{condition}, {choice.method}: {in_words(agreement, likelihood)}")
            lines += [f"{condition}, {choice.method}: {problem}" for problem in problems]
            found.append({**asdict(choice), **as_json(agreement, likelihood), "wrong": problems})
            print(lines[-1 - len(problems)], file=sys.stderr, flush=True)
    return checked.digest, wrong, lines, found, texts is not None


def _text_part(args: argparse.Namespace, track: str) -> Path | None:
    """The folder that holds the texts, if one does."""
    if args.texts is not None:
        if not (args.texts / "texts").is_dir():
            raise MfenvError(f"--texts {args.texts}: has no folder 'texts'")
        return Path(args.texts)
    if TRACKS[track].open_text:
        return Path(args.entry)
    beside = text_folder(args.entry)
    return beside if (beside / "texts").is_dir() else None


def _tell(
    args: argparse.Namespace, value: dict[str, Any], wrong: dict[str, list[str]], path: Path
) -> None:
    if args.json:
        print(json.dumps(value, indent=1, sort_keys=True))
        return
    print("\n".join(value["lines"]))
    good = [name for name, problems in wrong.items() if not problems]
    if good:
        print(f"verified: {', '.join(good)}")
    for name, problems in wrong.items():
        for problem in problems:
            print(f"mfenv: error: {name} is not reproduced: {problem}", file=sys.stderr)
    print(f"kept in {path}", file=sys.stderr)
