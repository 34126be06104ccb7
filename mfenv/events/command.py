"""``mfenv data``: describe, validate and convert event files of any format."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mfenv.errors import DataError, MfenvError
from mfenv.events.event import DOMAINS, Event
from mfenv.events.jsonl import write_jsonl
from mfenv.events.load import EventReader, iter_events
from mfenv.events.quarantine import Quarantine

__all__ = ["HELP", "Description", "add_arguments", "run"]

HELP = "describe, validate or convert event files"

_PATH_HELP = (
    ".parquet file (weibo, rumoureval, pheme), .jsonl file, .csv or .tsv table (a post a row), or "
    "folder in the rumdect layout"
)
_REPOST = frozenset(("转发微博", "轉發微博", "Repost"))  # what Weibo fills in for a bare repost
_MAX_LISTED = 100


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the sub-commands and their arguments."""
    commands = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    describe = commands.add_parser("describe", help="count events, posts, users, labels, ...")
    describe.add_argument("path", type=Path, help=_PATH_HELP)
    _add_skip_bad(describe)
    describe.add_argument("--json", action="store_true", help="print JSON")
    validate = commands.add_parser("validate", help="list all bad records; exit code 1 if any")
    validate.add_argument("path", type=Path, help=_PATH_HELP)
    validate.add_argument("--json", action="store_true", help="print JSON")
    validate.add_argument(
        "--max",
        type=_count,
        default=_MAX_LISTED,
        metavar="N",
        help=f"list at most N bad records, 0 for all (default {_MAX_LISTED})",
    )
    convert = commands.add_parser("convert", help="write the events as our own .jsonl")
    convert.add_argument("src", type=Path, help=_PATH_HELP)
    convert.add_argument("dst", type=Path, help=".jsonl file to write")
    _add_skip_bad(convert)


def _add_skip_bad(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--skip-bad",
        action="store_true",
        help="put bad records aside in PATH.quarantine.jsonl and go on",
    )
    parser.add_argument(
        "--quarantine",
        type=Path,
        metavar="FILE",
        help="put bad records aside in FILE and go on",
    )


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed; allowed: 0, 1, 2, ...")
    return int(text)


def run(args: argparse.Namespace) -> int:
    """Run the chosen action; 0, or 1 if a validation found bad records."""
    actions = {"describe": _describe, "validate": _validate, "convert": _convert}
    return actions[args.action](args)


@dataclass(slots=True)
class Description:
    """What a collection of events holds, counted one event at a time."""

    events: int = 0
    users: int = 0  # summed over events: authors are known within an event only
    reactions: int = 0  # posts that are no source
    silent: int = 0  # reactions without words of their own
    profiles: int = 0
    labels: Counter[str] = field(default_factory=Counter)
    domains: Counter[str] = field(default_factory=Counter)
    languages: Counter[str] = field(default_factory=Counter)
    sources: Counter[str] = field(default_factory=Counter)
    stances: Counter[str] = field(default_factory=Counter)
    sizes: list[int] = field(default_factory=list)
    durations: list[float] = field(default_factory=list)

    def add(self, event: Event) -> None:
        """Count one event."""
        posts = event.posts
        self.events += 1
        self.users += len(np.unique(posts.authors))
        for parent, text in zip(posts.parents.tolist(), posts.texts, strict=True):
            if parent >= 0:
                self.reactions += 1
                self.silent += _is_silent(text)
        if posts.profiles is not None:
            self.profiles += sum(p is not None for p in posts.profiles)
        self.labels[event.label or "unknown"] += 1
        self.domains[event.domain or "unknown"] += 1
        self.languages[event.language] += 1
        self.sources[event.source or "unknown"] += 1
        if posts.stances is not None:
            self.stances.update(s for s in posts.stances if s is not None)
        self.sizes.append(len(posts))
        self.durations.append(float(posts.offsets[-1]))

    def as_dict(self) -> dict[str, Any]:
        """The counts as JSON-able values; hours, and min with quartiles and max."""

        def quartiles(values: list[float] | list[int]) -> list[float]:
            if not values:
                return []
            return [round(float(q), 2) for q in np.percentile(values, [0, 25, 50, 75, 100])]

        posts = sum(self.sizes)
        return {
            "events": self.events,
            "posts": posts,
            "users": self.users,
            "labels": _ordered(self.labels),
            "domains": _ordered(self.domains, DOMAINS),
            "languages": _ordered(self.languages),
            "sources": _ordered(self.sources),
            "stances": _ordered(self.stances),
            "posts_per_event": quartiles(self.sizes),
            "hours": quartiles([d / 3600 for d in self.durations]),
            "silent_share": round(self.silent / self.reactions, 4) if self.reactions else None,
            "profile_share": round(self.profiles / posts, 4) if posts else None,
        }


def _is_silent(text: str) -> bool:
    """Whether a reaction has no words of its own: the quoted chain and the default do not count."""
    own = text.partition("//@")[0].strip()
    return not own or own.rstrip("。") in _REPOST


def _ordered(counts: Counter[str], first: tuple[str, ...] = ()) -> dict[str, int]:
    names = [n for n in first if n in counts] + sorted(n for n in counts if n not in first)
    return {name: counts[name] for name in names}


def _target(args: argparse.Namespace) -> Path | bool:
    return args.quarantine if args.quarantine is not None else bool(args.skip_bad)


def _describe(args: argparse.Namespace) -> int:
    reader = iter_events(args.path, skip_bad=_target(args))
    description = Description()
    for event in reader:
        description.add(event)
    out = description.as_dict()
    report = reader.report
    out["quarantined"], out["reparented"] = report.quarantined, report.reparented
    if args.json:
        print(json.dumps(out, ensure_ascii=False))
        return 0

    def counts(values: dict[str, int]) -> str:
        return ", ".join(f"{name} {n:,}" for name, n in values.items()) or "none"

    def spread(values: list[float]) -> str:
        return " / ".join(f"{v:,.10g}" for v in values) or "none"

    def share(value: float | None) -> str:
        return "none" if value is None else f"{value:.1%}"

    rows = [
        ("events", f"{out['events']:,}"),
        ("posts", f"{out['posts']:,}"),
        ("users (summed over events)", f"{out['users']:,}"),
        ("labels", counts(out["labels"])),
        ("domains", counts(out["domains"])),
        ("languages", counts(out["languages"])),
        ("sources", counts(out["sources"])),
        ("stances (human)", counts(out["stances"])),
        ("posts per event (min / quartiles / max)", spread(out["posts_per_event"])),
        ("hours (min / quartiles / max)", spread(out["hours"])),
        ("reactions without words of their own", share(out["silent_share"])),
        ("posts with a profile", share(out["profile_share"])),
    ]
    if report.quarantined:
        rows.append(("bad records put aside", f"{report.quarantined:,} in {report.quarantine}"))
        rows.append(("replies moved to their source", f"{report.reparented:,}"))
    _print_table(str(args.path), rows)
    return 0


def _print_table(title: str, rows: list[tuple[str, str]]) -> None:
    """Print two columns: a table on a terminal, plain aligned text elsewhere."""
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(title=Text(title), show_header=False)
        for name, value in rows:
            table.add_row(Text(name), Text(value))
        Console().print(table)
        return
    width = max(len(name) for name, _ in rows)
    print(title)
    for name, value in rows:
        print(f"  {name:<{width}}  {value}")


def _validate(args: argparse.Namespace) -> int:
    found = Quarantine(keep_going=True)
    reader = EventReader(args.path, errors=found)
    try:
        for _ in reader:
            pass
    except DataError as error:  # the file as a whole cannot be read
        found.errors.append(error)
    report, errors = reader.report, found.errors
    listed = errors[: args.max] if args.max else errors
    if args.json:
        out = {
            "path": str(args.path),
            "events": report.events,
            "posts": report.posts,
            "bad": len(errors),
            "errors": [
                {"file": e.file, "record": e.record, "field": e.field, "problem": e.problem}
                for e in listed
            ],
        }
        print(json.dumps(out, ensure_ascii=False))
        return 1 if errors else 0
    for bad in listed:
        print(bad)
    if len(errors) > len(listed):
        print(f"... and {len(errors) - len(listed):,} more (--max 0 lists all)")
    verdict = f"{len(errors):,} bad records" if errors else "no bad records"
    print(f"{args.path}: {report.events:,} good events, {report.posts:,} good posts, {verdict}")
    return 1 if errors else 0


def _convert(args: argparse.Namespace) -> int:
    if args.dst.suffix != ".jsonl":
        raise MfenvError(f"{args.dst}: cannot convert to {args.dst.suffix!r}; allowed: .jsonl")
    if args.dst.exists() and args.src.exists() and args.dst.samefile(args.src):
        raise MfenvError(f"{args.dst}: source and destination are the same file")
    reader = iter_events(args.src, skip_bad=_target(args))
    write_jsonl(reader, args.dst)
    print(f"{args.dst}: {reader.report}")
    return 0
