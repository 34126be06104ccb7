"""Fuzz targets: the leaderboard's validator, and the reader of entries of interventions."""

from __future__ import annotations

import functools
import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from agents.planners.setting import Setting
from benchmarks.fidelity.entry import CaseFacts, ConditionFacts, Manifest, Usage, Verdict
from benchmarks.fidelity.entry import write_entry as write_fidelity
from benchmarks.fidelity.lists import official
from benchmarks.fuzz.mutate import changed_bytes, changed_value, dump, rounds
from benchmarks.fuzz.target import Target, pack, pick, unpack
from benchmarks.intervention.entry import Entry, EventFacts, load_entry, write_entry
from benchmarks.intervention.runs import Episodes
from benchmarks.leaderboard.check import check
from benchmarks.leaderboard.validate import facts_of
from benchmarks.simulate import sampling_parameters
from mfenv.dynamics.records import StepRecord
from mfenv.interventions import NONE
from mfenv.labels import DIMENSIONS, N_LABELS, OFFSETS, Labels

__all__ = ["TARGETS"]

_STREAM = 7051
_WARMUP, _HORIZON, _BATCH, _SEEDS = 4, 8, 4, 2
_SIZES = [len(d.labels) for d in DIMENSIONS]


# -- examples --------------------------------------------------------------------------------


def _labels(rng: np.random.Generator, n: int) -> Labels:
    return rng.integers(0, _SIZES, size=(n, len(DIMENSIONS))).astype(np.int8)


def _record(step: int, first: int, labels: Labels) -> StepRecord:
    n = len(labels)
    return StepRecord(
        step=step,
        warmup=False,
        agents=np.arange(first, first + n),
        texts=("words",) * n,
        labels=labels,
        planted=np.zeros(n, dtype=bool),
        distribution=np.zeros(N_LABELS),
        perceived=np.zeros(N_LABELS),
        mean_field="",
        activity=np.zeros(6),
        intervention=NONE,
        prompt_tokens=10,
    )


def _write_fidelity(folder: Path) -> None:
    """An entry of two cases of the official list, with a second annotator."""
    rng = np.random.Generator(np.random.Philox(_STREAM))
    known = official("synthetic", "validation")
    assert known is not None
    cases = [
        CaseFacts(c.event, c.group, c.domain, c.language, _labels(rng, _WARMUP + _HORIZON))
        for c in known.core[:2]
    ]
    methods = ("mf", "state")
    runs: dict[tuple[str, str], list[tuple[int, int, Sequence[StepRecord]]]] = {}
    offset = -(-_WARMUP // _BATCH)
    for method in methods:
        runs["core", method] = [
            (
                case,
                seed,
                [
                    _record(offset + k, first, _labels(rng, _BATCH))
                    for k, first in enumerate(range(_WARMUP, _WARMUP + _HORIZON, _BATCH))
                ],
            )
            for case in range(len(cases))
            for seed in range(_SEEDS)
        ]
    steps = [r for each in runs.values() for _, _, run in each for r in run]
    usage = Usage(sum(len(r.agents) for r in steps), 1.0, sum(r.prompt_tokens for r in steps), 0)
    manifest = Manifest(
        track="synthetic",
        split="validation",
        data=dict(known.data),
        events=known.prefixes[1],
        n_cases=2,
        backbone=[{"name": "made-up", "revision": "r"}],
        annotator=known.annotator,
        prompts="0" * 64,
        seeds=list(range(_SEEDS)),
        baseline="state",
        conditions={
            "core": ConditionFacts(
                _WARMUP, _HORIZON, _BATCH, sampling_parameters("ancestral"),
                {m: m for m in methods}, [0, 1], usage,
            )
        },
        package="0",
        machine="2 CPU cores (x86_64), Python 3.11.7",
        command="mfenv bench fidelity",
        cost={"USD": 0.5},
    )  # fmt: skip

    def judged(method: str) -> Iterator[tuple[int, int, int, Labels]]:
        for case, seed, run in runs["core", method]:
            for r in run:
                yield case, seed, r.step, r.labels

    verdict = Verdict("other", [c.real for c in cases], {("core", m): judged(m) for m in methods})
    sums = np.tile(np.array([80.0, 16.0, float(_HORIZON)]), (2, 1))
    write_fidelity(
        folder,
        manifest,
        cases,
        {key: iter(each) for key, each in runs.items()},
        dict.fromkeys(runs, sums),
        open_text=True,
        judges={"judge": verdict},
    )


def _write_intervention(folder: Path) -> None:
    """An entry of three planners on two events."""
    p, s, e, t, batch = 3, 2, 2, 3, 4
    counts = np.zeros((p, s, e, t, N_LABELS), dtype=np.int64)
    counts[..., list(OFFSETS[:-1])] = batch
    ids = tuple(f"e{i}" for i in range(e))
    wanted = np.zeros((p, s, e, t), dtype=np.int64)
    wanted[1] = 5
    write_entry(
        folder,
        Entry(
            setting=Setting(event_ids=ids, horizon=t, budget=2.0, batch=batch),
            events=tuple(EventFacts(i, False, None, "en") for i in ids),
            planners={x: {"name": x, "revision": ""} for x in ("none", "paper", "oracle")},
            seeds=s,
            models={},
            package="0",
            machine="a machine",
            command="a command",
            episodes=Episodes(
                np.full(e, t), wanted, counts, np.zeros((e, N_LABELS)), np.full((s, e), 0.3)
            ),
        ),
    )


@functools.cache
def examples(kind: str) -> dict[str, bytes]:
    """The files of an entry that is valid."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "entry"
        (_write_fidelity if kind == "fidelity" else _write_intervention)(place)
        return {
            path.relative_to(place).as_posix(): path.read_bytes()
            for path in sorted(place.rglob("*"))
            if path.is_file()
        }


# -- inputs ----------------------------------------------------------------------------------


def _changed(random: Random, files: dict[str, bytes]) -> dict[str, bytes]:
    """Files with one of them changed; most often its hash fits again."""
    name = "entry.json" if random.random() < 0.4 else pick(random, list(files))
    data = files[name]
    if random.random() < 0.85:
        whole = name == "entry.json"
        parts = [data] if whole else data.splitlines()
        at = int(random.random() * len(parts))
        value = json.loads(parts[at])
        for _ in range(rounds(random)):
            value = changed_value(random, value)
        parts[at] = dump(random, value)
        data = parts[0] if whole else b"\n".join(parts) + b"\n"
    if random.random() < 0.2:
        for _ in range(rounds(random)):
            data = changed_bytes(random, data)
    changed = {**files, name: data}
    if name != "entry.json" and random.random() < 0.9:
        value = json.loads(files["entry.json"])
        value["files"][name] = hashlib.sha256(data).hexdigest()
        if random.random() < 0.1:
            value = changed_value(random, value)
        changed["entry.json"] = dump(random, value)
    if random.random() < 0.02:
        changed.pop(pick(random, list(files)))
    if random.random() < 0.02:
        changed["scores.json"] = dump(random, changed_value(random, {"core": [1.0, None]}))
    return changed


def _make(kind: str, random: Random) -> bytes:
    files = examples(kind)
    new = _changed(random, files)
    # Only what differs is kept: a name without contents is a file that is not there.
    return pack({n: new.get(n, b"\x00") for n in {**files, **new} if new.get(n) != files.get(n)})


def make_fidelity(random: Random) -> bytes:
    """An entry of the fidelity leaderboard, changed."""
    return _make("fidelity", random)


def make_intervention(random: Random) -> bytes:
    """An entry of interventions, changed."""
    return _make("intervention", random)


# -- readers ---------------------------------------------------------------------------------


def _placed(kind: str, data: bytes, folder: Path) -> tuple[Path, dict[str, bytes]]:
    """An example entry with an input's files in it."""
    place = folder / kind
    if not place.is_dir():
        for name, content in examples(kind).items():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).write_bytes(content)
    files = unpack(data)
    for name, content in files.items():
        if content == b"\x00":
            (place / name).unlink(missing_ok=True)
        else:
            (place / name).write_bytes(content)
    return place, files


def _restore(kind: str, place: Path, files: dict[str, bytes]) -> None:
    for name in files:
        if name in examples(kind):
            (place / name).write_bytes(examples(kind)[name])
        else:
            (place / name).unlink(missing_ok=True)


def read_fidelity(data: bytes, folder: Path) -> None:
    """The whole check; it raises nothing, and each problem is one short line."""
    place, files = _placed("fidelity", data, folder)
    try:
        checked = check(place)
        for problem in checked.problems:
            short = problem.isprintable() and 0 < len(problem) <= 400
            assert short, "a problem is no short line"
        json.dumps(facts_of(checked)).encode()
        assert checked.valid or checked.problems
        if checked.valid:
            assert checked.entry is not None
            assert checked.scores is not None
            json.dumps(checked.scores, allow_nan=False)
    except Exception:
        shutil.rmtree(place, ignore_errors=True)
        raise
    _restore("fidelity", place, files)


def read_intervention(data: bytes, folder: Path) -> None:
    """The reader; an entry that it takes can be shown."""
    place, files = _placed("intervention", data, folder)
    try:
        entry = load_entry(place)
        episodes = entry.episodes
        assert episodes.wanted.shape[:3] == (len(entry.planners), entry.seeds, len(entry.events))
        assert all(isinstance(x, str) for x in (entry.package, entry.machine, entry.command))
        values: dict[str, Any] = {"setting": entry.setting.dynamics, "models": dict(entry.models)}
        json.dumps(values)
    finally:
        _restore("intervention", place, files)


TARGETS = (
    Target(
        "leaderboard",
        "entries of the leaderboard",
        make_fidelity,
        read_fidelity,
        0.0025,
        packed=True,
    ),
    Target(
        "lanes", "entries of interventions", make_intervention, read_intervention, 0.02, packed=True
    ),
)
