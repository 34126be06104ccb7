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

from agents.planners.base import build_planner
from agents.planners.play import Lane, play
from agents.planners.setting import Setting, surrogate_name
from benchmarks.executors import HERE, Task, Where
from mfenv.dynamics.assemble import backbone_identity, build_backbone
from mfenv.dynamics.journal import canonical
from mfenv.dynamics.surrogate.find import build_surrogate
from mfenv.errors import DataError
from mfenv.labels import N_LABELS

__all__ = [
    "LANES",
    "Episodes",
    "Part",
    "Piece",
    "Runs",
    "described",
    "identity",
    "on_disk",
    "plan_parts",
    "play_piece",
    "run_all",
]

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
    setting = asdict(runs.setting)
    if runs.setting.dynamics == "llm":
        setting["backbone"] = backbone_identity(runs.setting.backbone)
        models["backbone"] = build_backbone(runs.setting.backbone).describe()
    if runs.setting.dynamics == "surrogate":
        name = surrogate_name(runs.setting)
        revision = build_surrogate(name).revision
        models["surrogate"] = {"name": Path(name).name, "revision": revision}
    return {
        "setting": json.loads(canonical(setting)),
        "planners": {
            label: dict(zip(("name", "revision"), described(name), strict=True))
            for label, name in runs.planners.items()
        },
        "seeds": runs.seeds,
        **models,
    }


def described(name: str) -> tuple[str, str]:
    """How a planner is shown, without the folders of this disk, and a hash of files it reads.

    A planner that comes with a package has its own ``revision``, if it has learned anything.
    """
    planner, digest = build_planner(name), hashlib.sha256()
    shown, own = planner.name, str(getattr(planner, "revision", ""))
    read = False
    for piece in name.split("|"):
        while ":" in piece and not on_disk(piece):
            piece = piece.partition(":")[2]
            path = Path(piece)
            if not piece or not on_disk(piece):
                continue
            shown = shown.replace(piece, path.resolve().name)
            for file in [path] if path.is_file() else sorted(path.rglob("*")):
                if file.is_file():
                    digest.update(file.relative_to(path.parent).name.encode() + b"\0")
                    digest.update(hashlib.sha256(file.read_bytes()).digest())
                    read = True
    return shown, digest.hexdigest()[:16] if read else own


def on_disk(text: str) -> bool:
    """Whether a part of a planner's name is a path of this disk."""
    try:
        return Path(text).exists()
    except (OSError, ValueError):  # too long for a path, as schedules can be, or no path
        return False


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


def run_all(
    runs: Runs,
    folder: Path,
    facts: Mapping[str, Any] | None = None,
    where: Where = HERE,
) -> Episodes:
    """Play what is not there yet, and read everything."""
    parts = plan_parts(runs, facts)
    with where.alone(folder):
        where.fetch([_path(folder, part).name for part in parts], folder)
        for torn in folder.glob("*.part"):
            torn.unlink()
        left = [part for part in parts if not _path(folder, part).exists()]
        if where.direct:
            for part in left:
                begun = time.monotonic()
                _play(part, runs.setting, folder)
                _say(
                    f"part {parts.index(part) + 1} of {len(parts)}: {part.label}, "
                    f"{len(part.lanes)} episodes, {time.monotonic() - begun:.0f} s"
                )
        else:
            tasks = [
                Task(
                    name=f"{part.label}, part {parts.index(part) + 1} of {len(parts)}",
                    play=play_piece,
                    argument=Piece(part, runs.setting),
                    cost=float(len(part.lanes) * runs.setting.horizon * runs.setting.batch),
                    files=(_path(folder, part).name,),
                    place=where.place(folder),
                    here=str(Path.cwd()),
                )
                for part in left
            ]
            where.play(tasks, folder, _say)
        return _gather(runs, folder, parts)


@dataclass(frozen=True, slots=True)
class Piece:
    """A part and what it is played in."""

    part: Part
    setting: Setting


def play_piece(piece: Piece, folder: Path) -> None:
    """Play a part whose file is to be in a folder, unless it is there."""
    if not _path(folder, piece.part).exists():
        _play(piece.part, piece.setting, folder)


def _play(part: Part, setting: Setting, folder: Path) -> None:
    name = part.lanes[0].planner
    played = play(setting.arguments(), {name: build_planner(name)}, part.lanes)
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
    _write(_path(folder, part), [{"format": FORMAT, "part": part.key}, *rows])


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _path(folder: Path, part: Part) -> Path:
    return folder / f"{part.key[:16]}.jsonl"


def _write(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    temporary = path.with_suffix(f".{os.getpid()}.part")
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
