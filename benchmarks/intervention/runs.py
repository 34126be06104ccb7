"""The runs of a benchmark, in parts on disk: a part is one vector environment's episodes.

A part is the episodes of one planner, so that all planners meet the same batches, and one that is
added later costs its own episodes only. Its file is named by a hash of everything its numbers hang
on. It is written whole or not at all, so a run that was killed goes on with the part it was in.
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

from agents.planners.base import Planner, build_planner
from agents.planners.play import Lane, play
from agents.planners.setting import Setting
from mfenv.dynamics.assemble import build_backbone
from mfenv.dynamics.journal import RunLock, canonical
from mfenv.errors import DataError
from mfenv.labels import N_LABELS

__all__ = ["LANES", "Episodes", "Part", "Runs", "identity", "plan_parts", "run_all"]

FORMAT = "mfenv-intervention-part/2"

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
    return {
        "setting": json.loads(canonical(asdict(runs.setting))),
        "planners": {
            label: dict(zip(("name", "revision"), _described(name), strict=True))
            for label, name in runs.planners.items()
        },
        "seeds": runs.seeds,
        **models,
    }


def _described(name: str) -> tuple[str, str]:
    """How a planner is shown, without the folders of this disk, and a hash of files it reads.

    A planner that comes with a package has its own ``revision``, if it has learned anything.
    """
    planner, digest = build_planner(name), hashlib.sha256()
    shown, own = planner.name, str(getattr(planner, "revision", ""))
    read = False
    for piece in name.split("|"):
        while ":" in piece and not os.path.exists(piece):
            piece = piece.partition(":")[2]
            path = Path(piece)
            if not piece or not os.path.exists(path):
                continue
            shown = shown.replace(piece, path.resolve().name)
            for file in [path] if path.is_file() else sorted(path.rglob("*")):
                if file.is_file():
                    digest.update(file.relative_to(path.parent).name.encode() + b"\0")
                    digest.update(hashlib.sha256(file.read_bytes()).digest())
                    read = True
    return shown, digest.hexdigest()[:16] if read else own


@dataclass(frozen=True, slots=True)
class Part:
    """Episodes that step together."""

    label: str
    lanes: Sequence[Lane]
    key: str
    """Hash of the planner, the setting, the models and the episodes."""


def plan_parts(runs: Runs, facts: Mapping[str, Any] | None = None) -> list[Part]:
    """The parts, planner by planner; a pure function of what is asked for.

    ``facts`` is :func:`identity`, if it is at hand.
    """
    facts = identity(runs) if facts is None else facts
    most = runs.lanes or LANES.get(runs.setting.dynamics, _OTHERS)
    pairs = [(e, s) for s in range(runs.seeds) for e in runs.setting.event_ids]
    # Which other events are played changes nothing for an episode.
    setting = {k: v for k, v in facts["setting"].items() if k != "event_ids"}
    shared = {k: v for k, v in facts.items() if k not in ("setting", "planners", "seeds")}
    parts = []
    for label, planner in facts["planners"].items():
        for first in range(0, len(pairs), most):
            chosen = pairs[first : first + most]
            lanes = [Lane(runs.planners[label], e, s) for e, s in chosen]
            value = {
                **shared, "format": FORMAT, "setting": setting, "planner": planner,
                "episodes": chosen,
            }  # fmt: skip
            parts.append(Part(label, lanes, hashlib.sha256(canonical(value)).hexdigest()))
    return parts


def run_all(runs: Runs, folder: Path, facts: Mapping[str, Any] | None = None) -> Episodes:
    """Play what is not there yet, and read everything."""
    parts = plan_parts(runs, facts)
    arguments = runs.setting.arguments()
    built: dict[str, Planner] = {}
    with RunLock(folder):
        for number, part in enumerate(parts, start=1):
            path = _path(folder, part)
            if path.exists():
                continue
            begun = time.monotonic()
            name = part.lanes[0].planner
            built.setdefault(name, build_planner(name))
            played = play(arguments, built, part.lanes)
            rows = [
                {
                    "event": lane.event_id,
                    "seed": lane.seed,
                    "steps": int(played.steps[i]),
                    "wanted": played.wanted[i].tolist(),
                    "counts": played.counts[i].tolist(),
                    "warmup": played.warmup[i].tolist(),
                    "credibility": float(played.credibility[i]),
                }
                for i, lane in enumerate(part.lanes)
            ]
            _write(path, [{"format": FORMAT, "part": part.key}, *rows])
            print(
                f"part {number} of {len(parts)}: {part.label}, {len(part.lanes)} episodes, "
                f"{time.monotonic() - begun:.0f} s",
                file=sys.stderr,
                flush=True,
            )
        return _gather(runs, folder, parts)


def _path(folder: Path, part: Part) -> Path:
    return folder / f"{part.key[:16]}.jsonl"


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


def _gather(runs: Runs, folder: Path, parts: Sequence[Part]) -> Episodes:
    labels = {label: i for i, label in enumerate(runs.planners)}
    events = {event: i for i, event in enumerate(runs.setting.event_ids)}
    shape = (len(labels), runs.seeds, len(events), runs.setting.horizon)
    wanted = np.zeros(shape, dtype=np.int64)
    counts = np.zeros((*shape, N_LABELS), dtype=np.int64)
    steps = np.zeros(len(events), dtype=np.int64)
    warmup = np.zeros((len(events), N_LABELS))
    credibility = np.zeros((runs.seeds, len(events)))
    for part in parts:
        path, p = _path(folder, part), labels[part.label]
        header, *rows = _read(path)
        if header.get("format") != FORMAT or header.get("part") != part.key:
            raise DataError(str(path), "line 1", "part", "is not the part that its name says")
        for row, lane in zip(rows, part.lanes, strict=True):
            s, e = lane.seed, events[lane.event_id]
            wanted[p, s, e], counts[p, s, e] = row["wanted"], row["counts"]
            steps[e], warmup[e], credibility[s, e] = row["steps"], row["warmup"], row["credibility"]
    return Episodes(steps, wanted, counts, warmup, credibility)
