"""The runs of a benchmark, in parts on disk: a part is one vector environment's episodes.

The plan of the parts is a pure function of what is asked for. A part is written whole or not at
all, so a run that was killed goes on with the part it was in.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.planners.base import build_planner
from agents.planners.play import Lane, play
from agents.planners.setting import Setting
from mfenv.dynamics.assemble import build_backbone
from mfenv.dynamics.journal import RunLock, canonical
from mfenv.errors import DataError, MfenvError
from mfenv.labels import N_LABELS

__all__ = ["LANES", "Episodes", "Runs", "identity", "plan_parts", "run_all"]

FORMAT = "mfenv-intervention-part/1"

LANES: Mapping[str, int] = {"llm": 64}
"""Episodes that step together at most, by tier; 1024 elsewhere."""

_OTHERS = 1024


@dataclass(frozen=True, slots=True)
class Runs:
    """Everything that is to be played."""

    setting: Setting
    planners: Mapping[str, str]  # label → name
    seeds: int
    lanes: int = 0
    """Episodes of a part at most; 0 for the tier's own number."""


@dataclass(frozen=True, slots=True)
class Episodes:
    """What was played: P planners, S seeds, E events, T steps; entries behind an end are 0."""

    steps: NDArray[np.int64]  # (E,)
    wanted: NDArray[np.int64]  # (P, S, E, T) flat actions
    counts: NDArray[np.int64]  # (P, S, E, T, 23) labels of the population's own reactions
    warmup: NDArray[np.float64]  # (E, 23) shares that episodes start from
    credibility: NDArray[np.float64]  # (S, E)


def identity(runs: Runs) -> dict[str, Any]:
    """What the numbers hang on, as JSON values."""
    models = {}
    if runs.setting.dynamics == "llm":
        models["backbone"] = build_backbone(runs.setting.backbone).describe()
    built = {label: build_planner(name) for label, name in runs.planners.items()}
    return {
        "setting": json.loads(canonical(asdict(runs.setting))),
        "planners": {
            label: {"name": planner.name, "revision": str(getattr(planner, "revision", ""))}
            for label, planner in built.items()
        },
        "seeds": runs.seeds,
        "parts": [len(part) for part in plan_parts(runs)],
        **models,
    }


def plan_parts(runs: Runs) -> list[list[Lane]]:
    """The episodes of each part: all planners of an event and seed are in the same one."""
    most = runs.lanes or LANES.get(runs.setting.dynamics, _OTHERS)
    size = max(1, most // len(runs.planners))
    pairs = [(e, s) for e in runs.setting.event_ids for s in range(runs.seeds)]
    return [
        [Lane(p, e, s) for p in runs.planners for e, s in pairs[first : first + size]]
        for first in range(0, len(pairs), size)
    ]


def run_all(runs: Runs, folder: Path) -> Episodes:
    """Play what is not there yet, and read everything.

    Raises ``MfenvError`` where the folder holds parts of another run.
    """
    parts = plan_parts(runs)
    digest = hashlib.sha256(canonical(identity(runs))).hexdigest()
    planners = {label: build_planner(name) for label, name in runs.planners.items()}
    arguments = runs.setting.arguments()
    with RunLock(folder):
        for number, lanes in enumerate(parts):
            path = folder / f"part-{number:04d}.jsonl"
            if path.exists():
                _check_header(path, digest)
                continue
            begun = time.monotonic()
            played = play(arguments, planners, lanes)
            rows = [
                {
                    "planner": lane.planner,
                    "event": lane.event_id,
                    "seed": lane.seed,
                    "steps": int(played.steps[i]),
                    "wanted": played.wanted[i].tolist(),
                    "counts": played.counts[i].tolist(),
                    "warmup": played.warmup[i].tolist(),
                    "credibility": float(played.credibility[i]),
                }
                for i, lane in enumerate(lanes)
            ]
            _write(path, [{"format": FORMAT, "run": digest}, *rows])
            print(
                f"part {number + 1} of {len(parts)}: {len(lanes)} episodes, "
                f"{time.monotonic() - begun:.0f} s",
                file=sys.stderr,
                flush=True,
            )
        return _gather(runs, folder, len(parts))


def _write(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    temporary = path.with_suffix(".part")
    with temporary.open("wb") as file:
        file.writelines(canonical(row) for row in rows)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _read(path: Path) -> Iterator[dict[str, Any]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                yield json.loads(line)
            except ValueError as error:
                raise DataError(str(path), f"line {number}", "(all)", f"damaged: {error}") from None


def _check_header(path: Path, digest: str) -> None:
    header = next(_read(path), {})
    if header.get("format") != FORMAT or header.get("run") != digest:
        raise MfenvError(f"{path}: belongs to another run; choose another --out")


def _gather(runs: Runs, folder: Path, parts: int) -> Episodes:
    labels = {label: i for i, label in enumerate(runs.planners)}
    events = {event: i for i, event in enumerate(runs.setting.event_ids)}
    shape = (len(labels), runs.seeds, len(events), runs.setting.horizon)
    wanted = np.zeros(shape, dtype=np.int64)
    counts = np.zeros((*shape, N_LABELS), dtype=np.int64)
    steps = np.zeros(len(events), dtype=np.int64)
    warmup = np.zeros((len(events), N_LABELS))
    credibility = np.zeros((runs.seeds, len(events)))
    for number in range(parts):
        path = folder / f"part-{number:04d}.jsonl"
        for row in list(_read(path))[1:]:
            p, s, e = labels[row["planner"]], int(row["seed"]), events[row["event"]]
            wanted[p, s, e], counts[p, s, e] = row["wanted"], row["counts"]
            steps[e], warmup[e], credibility[s, e] = row["steps"], row["warmup"], row["credibility"]
    return Episodes(steps, wanted, counts, warmup, credibility)
