"""An entry: a folder from which every outcome can be computed again, and which claims none.

    entry.json       what was run: setting, events, planners, models, command
    lanes/NN.jsonl   one line an episode of planner NN: the actions it asked for, label counts

No text is in it. Events of files are named by a hash of their id. What a budget paid, harm, cost
and every score follow from the lines; see :mod:`benchmarks.intervention.scores`.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.planners.setting import Setting
from benchmarks.fidelity.cases import digest
from benchmarks.intervention.lineup import NOTHING
from benchmarks.intervention.runs import Episodes
from benchmarks.untrusted import (
    is_number,
    json_lines,
    only_known,
    parse_json,
    read_bytes,
    shown,
    strangers,
)
from mfenv.dynamics.journal import canonical
from mfenv.envs.objectives import make_objective
from mfenv.envs.social import TIERS, SocialEnv
from mfenv.errors import DataError, MfenvError
from mfenv.events.event import Event
from mfenv.interventions import N_ACTIONS
from mfenv.labels import DIMENSIONS, N_LABELS, OFFSETS

__all__ = ["FORMAT", "Entry", "EventFacts", "inspect_entry", "load_entry", "write_entry"]

FORMAT = "mfenv-intervention/1"
MAX_FACTS = 4 * 2**20
"""Bytes of ``entry.json``."""

_MOST = {
    "planners": 200,
    "events": 2000,
    "seeds": 200,
    "horizon": 1000,
    "warmup": 10**6,
    "batch": 10**12,
    # What takes memory and time to score, however it is split up.
    "runs of a planner": 4000,
    "steps of all episodes": 10**6,
}
_OPTIONAL = ("entry.json", "scores.json", "README.md")


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
    models: Mapping[str, Mapping[str, str]]
    """What identifies the simulator: its backbone or surrogate, name and revision at least."""
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
            "more": {
                # a folder of this disk
                k: Path(v).name if k == "surrogate" and isinstance(v, str) else v
                for k, v in setting.more.items()
            },
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
    entry, problems = inspect_entry(folder)
    if entry is None:
        raise problems[0]
    return entry


def inspect_entry(folder: Path) -> tuple[Entry | None, list[MfenvError]]:
    """Like :func:`load_entry`, but look at every file: the entry, or everything that is wrong."""
    try:
        facts = _read_facts(folder)
    except MfenvError as error:
        return None, [error]
    needed = [f"lanes/{p:02d}.jsonl" for p in range(len(facts["planners"]))]
    if strange := sorted({*facts["files"]} ^ {*needed}):
        word = "missing" if strange[0] in needed else "not part of an entry"
        where = str(folder / "entry.json")
        return None, [DataError(where, "(all)", "files", f"{shown(strange[0])} is {word}")]
    problems = strangers(folder, needed, _OPTIONAL)
    setting, seeds, steps = facts["setting"], facts["seeds"], facts.pop("steps")
    shape = (len(needed), seeds, len(steps), setting.horizon)
    wanted = np.zeros(shape, dtype=np.int64)
    counts = np.zeros((*shape, N_LABELS), dtype=np.int64)
    credibility = np.zeros((len(needed), seeds, len(steps)))
    files = facts.pop("files")
    for p, name in enumerate(needed):
        try:
            read = _lanes(folder / name, files[name], steps, seeds, setting)
            wanted[p], counts[p], credibility[p] = read
            if (credibility[p] != credibility[0]).any():
                problem = "is not that of the same episodes in lanes/00.jsonl"
                raise DataError(str(folder / name), "(all)", "credibility", problem)
        except MfenvError as error:
            problems.append(error)
    if problems:
        return None, problems
    episodes = Episodes(steps, wanted, counts, facts.pop("warmup"), credibility[0])
    return Entry(episodes=episodes, **facts), []


_KINDS: Mapping[str, Any] = {
    "format": str, "setting": dict, "events": list, "planners": list, "seeds": int,
    "models": dict, "package": str, "machine": str, "command": str, "files": dict,
}  # fmt: skip


def _read_facts(folder: Path) -> dict[str, Any]:
    """The values of ``entry.json`` by field of :class:`Entry`, with steps, warmup and files."""
    path = folder / "entry.json"
    if not path.is_file():
        raise MfenvError(f"{folder}: no entry: it has no entry.json")
    value = parse_json(path, read_bytes(path, MAX_FACTS), "(all)")

    def bad(name: str, problem: str) -> DataError:
        return DataError(str(path), "(all)", name, problem)

    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise bad("format", f"this is no entry of interventions ({FORMAT})")
    only_known(bad, "", value, _KINDS)
    if re.search("[\ud800-\udfff]", json.dumps(value, ensure_ascii=False)):
        raise bad("(all)", "holds half a character (a lone surrogate)")
    for name, kind in _KINDS.items():
        if type(value.get(name)) is not kind:
            raise bad(name, f"must be there and be of type {kind.__name__}")
    if not all(isinstance(x, str) for kv in value["files"].items() for x in kv):
        raise bad("files", "must map texts to texts")
    models = value["models"]
    if not {*models} <= {"backbone", "surrogate"} or not all(
        isinstance(m, dict) and all(isinstance(x, str) for kv in m.items() for x in kv)
        for m in models.values()
    ):
        raise bad("models", "must map backbone or surrogate to texts by name")
    setting = _setting(bad, value["setting"])
    events, steps, warmup = _events(bad, value["events"], setting)
    planners = _planners(bad, value["planners"])
    episodes = value["seeds"] * len(events)
    for name, found in (
        ("planners", len(planners)),
        ("events", len(events)),
        ("seeds", value["seeds"]),
        ("runs of a planner", episodes),
        ("steps of all episodes", episodes * len(planners) * setting.horizon),
    ):
        _within(bad, name, found)
    return {
        "setting": setting,
        "events": events,
        "planners": planners,
        "steps": steps,
        "warmup": warmup,
        **{k: value[k] for k in ("seeds", "models", "package", "machine", "command", "files")},
    }


def _within(bad: Any, name: str, found: int, least: int = 1) -> None:
    if not least <= found <= _MOST[name]:
        raise bad(name, f"{found} is not allowed; allowed: {least} to {_MOST[name]}")


_FREE = (  # further arguments of the environment; the others say how it is shown
    {*inspect.signature(SocialEnv).parameters}
    - {f.name for f in fields(Setting)}
    - {"observation", "action", "render_mode"}
)


def _setting(bad: Any, value: Mapping[str, Any]) -> Setting:
    """The setting, every field of which is there, of its type and in its range."""
    names = [f.name for f in fields(Setting)]
    only_known(bad, "setting.", value, names)
    for name in names:
        if name not in value:
            raise bad(f"setting.{name}", "is missing")
    for name in ("dynamics", "objective", "backbone", "method", "annotator"):
        if not isinstance(value[name], str):
            raise bad(f"setting.{name}", "must be a text")
    if value["dynamics"] not in TIERS:
        raise bad("setting.dynamics", f"unknown; allowed: {', '.join(TIERS)}")
    for name in ("events", "split"):
        if value[name] is not None and not isinstance(value[name], str):
            raise bad(f"setting.{name}", "must be a text or null")
    for name, least in (("horizon", 1), ("batch", 1), ("warmup", 0)):
        if type(value[name]) is not int:
            raise bad(f"setting.{name}", "must be a whole number")
        _within(bad, name, value[name], least)
    for name in ("budget", "cost_weight"):
        if not is_number(value[name]) or value[name] < 0:
            raise bad(f"setting.{name}", "must be a number of at least 0")
    ids = value["event_ids"]
    if not isinstance(ids, list) or not all(isinstance(i, str) for i in ids):
        raise bad("setting.event_ids", "must be a list of texts")
    more = value["more"]
    if not isinstance(more, dict):
        raise bad("setting.more", "must be an object")
    only_known(bad, "setting.more.", more, _FREE)
    if not all(x is None or isinstance(x, bool | str) or is_number(x) for x in more.values()):
        raise bad("setting.more", "must hold texts, numbers, true, false or null")
    try:
        make_objective(value["objective"], value["target"])
    except MfenvError as error:
        raise bad("setting.objective", str(error)) from None
    except (TypeError, ValueError) as error:
        raise bad("setting.target", f"must be shares: {error}") from None
    return Setting(**{**value, "event_ids": tuple(ids)})


def _events(
    bad: Any, value: Sequence[Any], setting: Setting
) -> tuple[tuple[EventFacts, ...], NDArray[np.int64], NDArray[np.float64]]:
    """The events, the steps ``(E,)`` of their episodes, and the shares ``(E, 23)`` before them."""
    _within(bad, "events", len(value))
    events = []
    for i, e in enumerate(value):

        def wrong(name: str, problem: str, i: int = i) -> DataError:
            error: DataError = bad(f"events.{i}.{name}", problem)
            return error

        if not isinstance(e, dict):
            raise wrong("(all)", "must be an object")
        only_known(wrong, "", e, {*EventFacts.__dataclass_fields__, "steps", "warmup"})
        if not isinstance(e.get("id"), str) or not isinstance(e.get("language"), str):
            raise wrong("id", "must be a text, as must language")
        if not isinstance(e.get("domain"), str | None) or not isinstance(
            e.get("truth"), bool | None
        ):
            raise wrong("truth", "must be true, false or null, and domain a text or null")
        if type(e.get("steps")) is not int or not 1 <= e["steps"] <= setting.horizon:
            raise wrong("steps", "must be from 1 to the horizon")
        shares = e.get("warmup")
        if (
            not isinstance(shares, list)
            or len(shares) != N_LABELS
            or not all(is_number(x) and 0 <= x <= 1 for x in shares)
        ):
            raise wrong("warmup", f"must be {N_LABELS} shares from 0 to 1")
        events.append(EventFacts(e["id"], e.get("truth"), e.get("domain"), e["language"]))
    ids = tuple(e.id for e in events)
    if setting.event_ids != ids:
        raise bad("events", "are not those of the setting")
    if len({*ids}) < len(ids):
        raise bad("events", "an event stands there twice")
    if make_objective(setting.objective, setting.target).needs_truth and any(
        e.truth is None for e in events
    ):
        raise bad("events", f"the objective {setting.objective!r} needs events of known truth")
    steps = np.array([e["steps"] for e in value], dtype=np.int64)
    return tuple(events), steps, np.array([e["warmup"] for e in value], dtype=float)


def _planners(bad: Any, value: Sequence[Any]) -> dict[str, dict[str, str]]:
    """The planners by label, none first."""
    _within(bad, "planners", len(value))
    known = ("label", "name", "revision")
    for i, p in enumerate(value):
        if not isinstance(p, dict) or {*p} != {*known}:
            raise bad(f"planners.{i}", f"must hold {', '.join(known)}, and nothing else")
        if not all(isinstance(p[k], str) for k in known) or not (p["label"] and p["name"]):
            raise bad(f"planners.{i}", "must hold texts, and a label and a name")
    if value[0]["label"] != NOTHING or value[0]["name"] != NOTHING:
        raise bad("planners", f"the first must be {NOTHING!r}, which uplift is measured against")
    planners = {p["label"]: {"name": p["name"], "revision": p["revision"]} for p in value}
    if len(planners) < len(value):
        raise bad("planners", "a label stands twice")
    return planners


def _lanes(
    path: Path, sha256: str, steps: NDArray[np.int64], seeds: int, setting: Setting
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """One planner's episodes as arrays, each there once and whole."""
    events = len(steps)
    wanted = np.zeros((seeds, events, setting.horizon), dtype=np.int64)
    counts = np.zeros((seeds, events, setting.horizon, N_LABELS), dtype=np.int64)
    credibility = np.full((seeds, events), np.nan)
    known = {"event", "seed", "credibility", "wanted", "counts"}
    for where, row in json_lines(path, sha256):

        def bad(name: str, problem: str, where: str = where) -> DataError:
            return DataError(str(path), where, name, problem)

        if {*row} != known:
            raise bad("(all)", f"must hold {', '.join(sorted(known))}, and nothing else")
        e, s, seen = row["event"], row["seed"], row["credibility"]
        if not (
            type(e) is type(s) is int
            and 0 <= e < events
            and 0 <= s < seeds
            and np.isnan(credibility[s, e])
        ):
            raise bad("event, seed", f"({shown(e)}, {shown(s)}) is unknown or stands twice")
        if not is_number(seen) or not 0 <= seen <= 1:
            raise bad("credibility", f"{shown(seen)} is not allowed; allowed: 0 to 1")
        asked, labels = _whole(row["wanted"]), _whole(row["counts"])
        if asked.shape != (steps[e],) or asked.min() < 0 or asked.max() >= N_ACTIONS:
            raise bad("wanted", f"must be {steps[e]} actions from 0 to {N_ACTIONS - 1}")
        if labels.shape != (steps[e], N_LABELS) or labels.min() < 0:
            raise bad("counts", f"must be {steps[e]} × {N_LABELS} counts")
        # Below the batch's size no sum can overflow.
        too_many = labels.max() > setting.batch
        sums = np.add.reduceat(labels, OFFSETS[:-1], axis=1)
        if too_many or (sums != sums[:, :1]).any() or sums.max() > setting.batch:
            most = f"at most {setting.batch}"
            raise bad("counts", f"must add up to the same in all {len(DIMENSIONS)}, {most}")
        wanted[s, e, : steps[e]], counts[s, e, : steps[e]] = asked, labels
        credibility[s, e] = seen
    if np.isnan(credibility).any():
        raise DataError(str(path), "(all)", "event, seed", "some episodes are missing")
    return wanted, counts, credibility


def _whole(value: Any) -> NDArray[np.int64]:
    """Whole numbers as an array; an empty one where they are none."""
    try:
        numbers = np.array(value)
    except ValueError:  # rows of different lengths
        return np.zeros(0, dtype=np.int64)
    if numbers.dtype != np.int64:
        return np.zeros(0, dtype=np.int64)
    return numbers
