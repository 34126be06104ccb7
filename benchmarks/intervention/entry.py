"""An entry: a folder from which every outcome can be computed again, and which claims none.

    entry.json       what was run: setting, events, planners, models, command
    lanes/NN.jsonl   one line an episode of planner NN: the actions it asked for, label counts

No text is in it. Events of files are named by a hash of their id. What a budget paid, harm, cost
and every score follow from the lines; see :mod:`benchmarks.intervention.scores`.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.planners.setting import Setting
from benchmarks.fidelity.cases import digest
from benchmarks.fidelity.entry import read_json
from benchmarks.intervention.lineup import NOTHING
from benchmarks.intervention.runs import Episodes
from mfenv.dynamics.journal import canonical
from mfenv.errors import DataError, MfenvError
from mfenv.events.event import Event
from mfenv.interventions import N_ACTIONS
from mfenv.labels import DIMENSIONS, N_LABELS, OFFSETS

__all__ = ["FORMAT", "Entry", "EventFacts", "load_entry", "write_entry"]

FORMAT = "mfenv-intervention/1"
_MAX_BYTES = 64 * 2**20  # of one file; a larger one is refused unread
_SHOWN = 300  # characters of a stranger's in a message
_SETTING = {
    **dict.fromkeys(("dynamics", "objective", "backbone", "method", "annotator"), (str,)),
    **dict.fromkeys(("horizon", "batch", "warmup"), (int,)),
    **dict.fromkeys(("budget", "cost_weight"), (int, float)),
    **{name: (str, type(None)) for name in ("events", "split")},
    "more": (dict,),
}
_MOST = {"planners": 200, "events": 2000, "seeds": 200, "horizon": 1000}
_MOST_STEPS = 2**23  # of all episodes together; each is 23 counts


@dataclass(frozen=True, slots=True)
class EventFacts:
    """An event without anything that names real people."""

    id: str  # of a synthetic event, else a SHA-256
    truth: bool | None
    domain: str | None
    language: str


@dataclass(frozen=True, slots=True)
class Entry:
    """What was run, and what happened."""

    setting: Setting
    events: tuple[EventFacts, ...]
    planners: Mapping[str, Mapping[str, str]]
    """Label → name and revision, none first."""
    seeds: int
    models: Mapping[str, Any]
    package: str
    machine: str
    command: str
    episodes: Episodes

    @classmethod
    def of(cls, setting: Setting, events: list[Event], episodes: Episodes, **facts: Any) -> Entry:
        """An entry of what was played; ids of real events are hashed."""
        shown = tuple(
            EventFacts(
                e.event_id if e.source == "synthetic" else digest(e.event_id),
                e.truth,
                e.domain,
                e.language,
            )
            for e in events
        )
        values = asdict(setting) | {
            "event_ids": tuple(e.id for e in shown),
            "events": None if setting.events is None else Path(setting.events).name,
        }
        return cls(setting=Setting(**values), events=shown, episodes=episodes, **facts)


def write_entry(folder: Path, entry: Entry) -> None:
    """Write an entry in one move; the same entry gives the same bytes."""
    if folder.exists() and any(folder.iterdir()) and not (folder / "entry.json").is_file():
        raise MfenvError(f"{folder}: exists and is no entry; choose another --out")
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    (part / "lanes").mkdir(parents=True)
    played, files = entry.episodes, {}
    for p in range(len(entry.planners)):
        data = b"".join(
            canonical(
                {
                    "event": e,
                    "seed": s,
                    "credibility": float(played.credibility[s, e]),
                    "wanted": played.wanted[p, s, e, : played.steps[e]].tolist(),
                    "counts": played.counts[p, s, e, : played.steps[e]].tolist(),
                }
            )
            for e in range(len(entry.events))
            for s in range(entry.seeds)
        )
        path = f"lanes/{p:02d}.jsonl"
        (part / path).write_bytes(data)
        files[path] = hashlib.sha256(data).hexdigest()
    value = {
        "format": FORMAT,
        "setting": asdict(entry.setting),
        "events": [
            asdict(e) | {"steps": int(played.steps[i]), "warmup": played.warmup[i].tolist()}
            for i, e in enumerate(entry.events)
        ],
        "planners": [{"label": k, **v} for k, v in entry.planners.items()],
        "seeds": entry.seeds,
        "models": entry.models,
        "package": entry.package,
        "machine": entry.machine,
        "command": entry.command,
        "files": files,
    }
    text = json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    (part / "entry.json").write_text(text, encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    part.replace(folder)


def load_entry(folder: Path) -> Entry:
    """Read an entry and check it. Raises ``DataError`` that names file, record and field."""
    path = folder / "entry.json"
    if not path.is_file():
        raise MfenvError(f"{folder}: no entry: it has no entry.json")

    def bad(name: str, problem: str) -> DataError:
        return DataError(str(path), "(all)", name, problem)

    value = read_json(path)
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise bad("format", f"this is no entry of interventions ({FORMAT})")
    try:
        given = value["setting"] | {"event_ids": tuple(value["setting"]["event_ids"])}
        setting = Setting(**given)
        events = tuple(
            EventFacts(e["id"], e["truth"], e["domain"], e["language"]) for e in value["events"]
        )
        steps = np.array([e["steps"] for e in value["events"]], dtype=np.int64)
        warmup = np.array([e["warmup"] for e in value["events"]], dtype=float)
        planners = {
            p["label"]: {"name": str(p["name"]), "revision": str(p["revision"])}
            for p in value["planners"]
        }
        seeds, files = int(value["seeds"]), dict(value["files"])
        models = dict(value.get("models") or {})
        facts = {k: str(value[k]) for k in ("package", "machine", "command")}
        labels = len(value["planners"])
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise bad("(all)", f"{type(error).__name__}: {error}"[:_SHOWN]) from None
    for name, kinds in _SETTING.items():
        found = getattr(setting, name)
        if type(found) not in kinds:  # a boolean is no number here
            raise bad(f"setting.{name}", f"must be {' or '.join(k.__name__ for k in kinds)}")
    sizes = {
        "planners": len(planners),
        "events": len(events),
        "seeds": seeds,
        "horizon": setting.horizon,
    }
    for name, most in _MOST.items():
        if not 1 <= sizes[name] <= most:
            raise bad(name, f"{sizes[name]} is not allowed; allowed: 1 to {most}"[:_SHOWN])
    if (cells := math.prod(sizes.values())) > _MOST_STEPS:
        raise bad("(all)", f"{cells:,} steps in all; allowed: at most {_MOST_STEPS:,}")
    if next(iter(planners)) != NOTHING or planners[NOTHING]["name"] != NOTHING:
        raise bad("planners", f"the first must be {NOTHING!r}, which uplift is measured against")
    if len(planners) != labels:
        raise bad("planners", "a label stands twice")
    if setting.event_ids != tuple(e.id for e in events):
        raise bad("events", "are not those of the setting")
    if warmup.shape != (len(events), N_LABELS) or not np.isfinite(warmup).all():
        raise bad("events", f"warmup must be {N_LABELS} shares")
    if steps.min() < 1 or steps.max() > setting.horizon:
        raise bad("events", "steps must be from 1 to the horizon")
    shape = (len(planners), seeds, len(events), setting.horizon)
    wanted = np.zeros(shape, dtype=np.int64)
    counts = np.zeros((*shape, N_LABELS), dtype=np.int64)
    credibility = np.zeros((seeds, len(events)))
    for p in range(len(planners)):
        name = f"lanes/{p:02d}.jsonl"
        data = _bytes(folder / name)
        if hashlib.sha256(data).hexdigest() != files.get(name):
            raise bad("files", f"{name} is not the file that was written")
        read = _lanes(folder / name, data, steps, seeds, setting)
        wanted[p], counts[p], credibility = read
    episodes = Episodes(steps, wanted, counts, warmup, credibility)
    return Entry(
        setting=setting,
        events=events,
        planners=planners,
        seeds=seeds,
        models=models,
        episodes=episodes,
        **facts,
    )


def _bytes(path: Path) -> bytes:
    if not path.is_file():
        raise MfenvError(f"{path}: is missing")
    if path.stat().st_size > _MAX_BYTES:
        raise MfenvError(f"{path}: is larger than {_MAX_BYTES // 2**20} MB")
    return path.read_bytes()


def _lanes(
    path: Path, data: bytes, steps: NDArray[np.int64], seeds: int, setting: Setting
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """One planner's episodes as arrays, each there once and whole."""
    events = len(steps)
    wanted = np.zeros((seeds, events, setting.horizon), dtype=np.int64)
    counts = np.zeros((seeds, events, setting.horizon, N_LABELS), dtype=np.int64)
    credibility = np.full((seeds, events), np.nan)
    for number, line in enumerate(data.splitlines(), start=1):

        def bad(name: str, problem: str, number: int = number) -> DataError:
            return DataError(str(path), f"line {number}", name, problem)

        try:
            row = json.loads(line)
            e, s, seen = int(row["event"]), int(row["seed"]), float(row["credibility"])
            asked = np.array(row["wanted"], dtype=np.int64)
            labels = np.array(row["counts"], dtype=np.int64)
        except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
            raise bad("(all)", f"{type(error).__name__}: {error}"[:_SHOWN]) from None
        if not (0 <= e < events and 0 <= s < seeds and np.isnan(credibility[s, e])):
            raise bad("event, seed", f"({e}, {s}) is unknown or stands twice")
        if not 0 <= seen <= 1:
            raise bad("credibility", f"{seen} is not allowed; allowed: 0 to 1")
        if asked.shape != (steps[e],) or asked.min() < 0 or asked.max() >= N_ACTIONS:
            raise bad("wanted", f"must be {steps[e]} actions from 0 to {N_ACTIONS - 1}")
        if labels.shape != (steps[e], N_LABELS) or labels.min() < 0:
            raise bad("counts", f"must be {steps[e]} × {N_LABELS} counts")
        sums = np.add.reduceat(labels, OFFSETS[:-1], axis=1)
        if (sums != sums[:, :1]).any() or sums.max() > setting.batch:
            most = f"at most {setting.batch}"
            raise bad("counts", f"must add up to the same in all {len(DIMENSIONS)}, {most}")
        wanted[s, e, : steps[e]], counts[s, e, : steps[e]] = asked, labels
        credibility[s, e] = seen
    if np.isnan(credibility).any():
        raise DataError(str(path), "(all)", "event, seed", "some episodes are missing")
    return wanted, counts, credibility
