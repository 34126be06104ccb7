"""Make the official lists: ``python -m benchmarks.fidelity.lists --data FOLDER``.

FOLDER holds one folder for each track of real data. For whoever keeps the benchmark: a list that
changes makes all earlier entries unranked.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import cast

from benchmarks.fidelity.cases import digest, list_digest, sample
from benchmarks.fidelity.conditions import CORE, Condition
from benchmarks.fidelity.lists import FORMAT, CoreCase, OfficialList, label_digest, name_of
from benchmarks.fidelity.measure import real_labels
from benchmarks.fidelity.tracks import SPLITS, TRACKS, Track, choose, read_pool
from mfenv.cli import Command, script
from mfenv.dynamics.assemble import AUTO, build_annotator

__all__ = ["HELP", "add_arguments", "make_list", "run"]

HELP = "make the official lists of events"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add = parser.add_argument
    add("--data", type=Path, required=True, metavar="FOLDER", help="with a folder for each track")
    add("--track", choices=TRACKS, nargs="+", default=[*TRACKS], help="(all)")
    add("--out", type=Path, default=Path(__file__).parent, metavar="DIR", help="(%(default)s)")


def make_list(track: Track, split: str, data: Path | None) -> OfficialList:
    """The list that a track's rule gives on the data."""
    condition = Condition(CORE, (), track.warmup, track.horizon, track.batch)
    reactions = track.warmup + track.horizon
    chosen = choose(track, split, data, reactions=reactions)
    cases = chosen.cases
    long = cases
    if not track.streams:
        pool = read_pool(track, split, data, least=chosen.min_posts).events
        long = sample(pool, sum(len(e.posts) >= chosen.min_posts for e in pool), chosen.min_posts)
    annotator = build_annotator(AUTO, cases[0].event)
    return OfficialList(
        track=track.name,
        split=split,
        data={"file": chosen.file, "sha256": chosen.sha256},
        min_posts=chosen.min_posts,
        warmup=track.warmup,
        horizon=track.horizon,
        annotator=annotator.name,
        events=[digest(case.event.event_id) for case in long],
        core=[
            CoreCase(
                event=digest(case.event.event_id),
                group=digest(case.group),
                domain=case.event.domain,
                language=case.event.language,
                real=label_digest(real_labels(case, annotator, condition)),
            )
            for case in cases
        ],
        prefixes=[list_digest(cases[: k + 1]) for k in range(len(cases))],
    )


def run(args: argparse.Namespace) -> int:
    """Write one file for each track and split."""
    for name in args.track:
        track = TRACKS[name]
        for split in SPLITS:
            made = make_list(track, split, args.data / name if track.files else None)
            path = args.out / name_of(name, split)
            text = json.dumps({"format": FORMAT, **asdict(made)}, indent=1, sort_keys=True)
            path.write_text(text + "\n", encoding="utf-8")
            print(f"{path}: {len(made.core)} of {len(made.events)}, list {made.prefixes[-1]}")
    return 0


if __name__ == "__main__":
    sys.exit(script(cast(Command, sys.modules[__name__]), "python -m benchmarks.fidelity.lists"))
