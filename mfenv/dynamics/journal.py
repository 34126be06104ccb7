"""Runs that survive a kill: an append-only journal of step records for each process.

A journal is a JSONL file: a header (format, settings and their hash), then one line a step in
canonical JSON, each on disk before the next step begins. Steps are read from the file whenever
they are asked for, so that a long run takes no more memory than a short one. Timings stand in a
file beside it, so that the journal of a run that was killed and continued has the bytes of an
undisturbed one. To continue, the recorded steps are replayed without any model call and compared
with their lines.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import logging
import math
import os
import socket
import time
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any, Self, overload

import numpy as np

from mfenv.dynamics.process import MeanFieldProcess, advance, replay
from mfenv.dynamics.records import StepRecord
from mfenv.errors import DataError, MfenvError
from mfenv.events.quarantine import describe_os_error
from mfenv.interventions import INTENSITIES, KINDS, NONE, Intervention, Kind
from mfenv.labels import N_LABELS, decode_code, encode_code

__all__ = [
    "FORMAT",
    "Journal",
    "Recorded",
    "RunLock",
    "Schedule",
    "canonical",
    "owner",
    "read_journal",
    "record_from_json",
    "record_to_json",
    "run",
    "timings_path",
]

_log = logging.getLogger(__name__)

FORMAT = "mfenv-journal/1"

Schedule = Callable[[int, MeanFieldProcess], Intervention]
"""Chooses the intervention of a rollout step: (index of the process, process) → intervention."""


_KEPT = {"opinions": np.int8, "candidates": np.int64}
"""Arrays of a record that are only there where they are kept."""

_SHOWN = 200  # characters of a damaged file in a message

_PATIENCE = 10.0
"""Seconds to wait for a journal's last writer: one whose run was killed may be about to end."""

# -- records as JSON -----------------------------------------------------------------------


def canonical(value: Any) -> bytes:
    """One line of canonical JSON: sorted keys, no spaces, floats that read back exactly."""

    def dump(ensure_ascii: bool) -> bytes:
        text = json.dumps(
            value,
            ensure_ascii=ensure_ascii,
            sort_keys=True,
            separators=(",", ":"),
            allow_nan=False,
        )
        return text.encode("utf-8") + b"\n"

    try:
        return dump(False)
    except UnicodeEncodeError:  # a lone surrogate in somebody's text; escapes can hold it
        return dump(True)


def record_to_json(record: StepRecord) -> dict[str, Any]:
    """A step record as JSON values. Prompts are stored once up to where they part."""
    prefix = _common_prefix([p for p in record.prompts if p])
    kept = {name: getattr(record, name) for name in _KEPT if getattr(record, name) is not None}
    return {
        **{name: value.tolist() for name, value in kept.items()},
        "step": record.step,
        "warmup": record.warmup,
        "agents": record.agents.tolist(),
        "actions": list(record.texts),
        "labels": [decode_code(row) for row in record.labels],
        "planted": np.flatnonzero(record.planted).tolist(),
        "distribution": record.distribution.tolist(),
        "perceived": record.perceived.tolist(),
        "mean_field": record.mean_field,
        "activity": record.activity.tolist(),
        "intervention": _intervention_to_json(record.intervention),
        "tokens": [record.prompt_tokens, record.completion_tokens],
        "prompt_prefix": prefix,
        "prompts": [p[len(prefix) :] if p else None for p in record.prompts],
        "summary_prompt": record.summary_prompt,
    }


def record_from_json(value: Mapping[str, Any]) -> StepRecord:
    """The inverse of :func:`record_to_json`.

    ``KeyError``, ``TypeError``, ``ValueError``, ``IndexError`` or ``OverflowError`` if a field is
    absent or malformed.
    """
    n = len(value["agents"])
    planted = np.zeros(n, dtype=bool)
    planted[np.array(value["planted"], dtype=np.intp)] = True
    labels = np.array([encode_code(code) for code in value["labels"]], dtype=np.int8)
    kept: dict[str, Any] = {n: np.array(value[n], dtype=t) for n, t in _KEPT.items() if n in value}
    record = StepRecord(
        step=int(value["step"]),
        warmup=bool(value["warmup"]),
        agents=np.array(value["agents"], dtype=np.int64),
        texts=tuple(value["actions"]),
        labels=labels.reshape(-1, 8),
        planted=planted,
        distribution=np.array(value["distribution"], dtype=float),
        perceived=np.array(value["perceived"], dtype=float),
        mean_field=value["mean_field"],
        activity=np.array(value["activity"], dtype=float),
        intervention=_intervention_from_json(value["intervention"]),
        prompt_tokens=int(value["tokens"][0]),
        completion_tokens=int(value["tokens"][1]),
        prompts=tuple("" if p is None else value["prompt_prefix"] + p for p in value["prompts"]),
        summary_prompt=value["summary_prompt"],
        **kept,
    )
    if not n == len(record.texts) == len(record.labels):
        raise ValueError(f"{n} agents, {len(record.texts)} actions, {len(record.labels)} labels")
    if record.agents.shape != (n,):
        raise ValueError("agents must be whole numbers")
    if record.distribution.shape != (N_LABELS,) or record.perceived.shape != (N_LABELS,):
        raise ValueError(f"a distribution needs {N_LABELS} entries")
    if record.activity.shape != (len(KINDS),):
        raise ValueError(f"activity needs {len(KINDS)} entries")
    floats = (record.distribution, record.perceived, record.activity)
    if not all(np.isfinite(x).all() for x in floats):
        raise ValueError("a number is not finite")
    texts = (*record.texts, *record.prompts, record.mean_field, record.summary_prompt)
    if not all(isinstance(text, str) for text in texts):
        raise TypeError("actions, prompts and mean_field must be texts")
    return record


def _common_prefix(texts: Sequence[str]) -> str:
    if len(texts) < 2:
        return ""
    # What the first and the last in order have in common, all between them have too.
    first, last = min(texts), max(texts)
    same = (i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b)
    return first[: next(same, len(first))]


def _intervention_to_json(u: Intervention) -> dict[str, Any] | None:
    if u.kind is None:
        return None
    return {"kind": KINDS[u.kind], "intensity": INTENSITIES[u.intensity], "message": u.message}


def _intervention_from_json(value: Mapping[str, Any] | None) -> Intervention:
    if value is None:
        return NONE
    kind, intensity = KINDS.index(value["kind"]), INTENSITIES.index(value["intensity"])
    return Intervention(Kind(kind), intensity, value["message"])


# -- one journal ---------------------------------------------------------------------------


def timings_path(path: Path) -> Path:
    """Where the timings of a journal stand: ``run.jsonl`` → ``run.timings.jsonl``."""
    return path.with_name(path.name.removesuffix(".jsonl") + ".timings.jsonl")


class Recorded(Sequence[StepRecord]):
    """The steps of a journal, each read from its file whenever it is asked for."""

    def __init__(self, path: Path, ends: array[int]) -> None:
        """``ends`` are byte offsets behind the header and behind each step."""
        self._path, self._ends = path, ends

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> StepRecord: ...
    @overload
    def __getitem__(self, index: slice) -> list[StepRecord]: ...
    def __getitem__(self, index: int | slice) -> StepRecord | list[StepRecord]:
        if isinstance(index, slice):
            return list(self._read(range(*index.indices(len(self)))))
        return next(self._read([range(len(self))[index]]))

    def __iter__(self) -> Iterator[StepRecord]:
        return self._read(range(len(self)))

    def _read(self, steps: Sequence[int]) -> Iterator[StepRecord]:
        with self._path.open("rb") as file:
            for i in steps:
                file.seek(self._ends[i])
                line = file.read(self._ends[i + 1] - self._ends[i])
                yield record_from_json(json.loads(line))


def read_journal(path: Path | str) -> tuple[dict[str, Any], Sequence[StepRecord]]:
    """Read a journal's settings and steps. A torn last line is passed over.

    Every step is checked here, and read again from the file whenever it is asked for. Raises
    ``DataError`` naming file, line and problem where the journal is damaged.
    """
    contents = _read(Path(path))
    if contents is None:
        raise MfenvError(f"{path}: no journal: the file has no complete header")
    settings, ends = contents
    return settings, Recorded(Path(path), ends)


def _read(path: Path) -> tuple[dict[str, Any], array[int]] | None:
    """Check what is complete: the settings, and the byte offsets behind the header and each step.

    ``None`` where not even the header is complete.
    """
    with path.open("rb") as file:
        first = file.readline()
        if not first.endswith(b"\n"):
            if first and not first.startswith(b"{"):
                raise DataError(str(path), "line 1", "header", f"this is no journal ({FORMAT})")
            return None
        settings = _header(path, first)
        ends = array("q", [len(first)])
        for number, line in enumerate(file, start=2):
            if not line.endswith(b"\n"):
                break  # torn
            where = f"line {number}"
            try:
                value = json.loads(line)
            except (ValueError, RecursionError) as error:
                if not file.readline().endswith(b"\n"):
                    break  # a page of the last line that never reached the disk
                raise DataError(str(path), where, "(all)", f"damaged: {error}") from None
            try:
                record = record_from_json(value)
            except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
                problem = f"{type(error).__name__}: {error}"[:_SHOWN]
                raise DataError(str(path), where, "(all)", f"no step record: {problem}") from None
            if record.step != len(ends) - 1:
                raise DataError(
                    str(path), where, "step", f"{record.step} found, {len(ends) - 1} expected"
                )
            ends.append(ends[-1] + len(line))
    return settings, ends


def _header(path: Path, line: bytes) -> dict[str, Any]:
    try:
        header = json.loads(line)
        kind, settings, digest = header["format"], header["settings"], header["sha256"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise DataError(str(path), "line 1", "header", f"this is no journal ({FORMAT})") from None
    if kind != FORMAT:
        found = repr(kind)[:_SHOWN]
        raise DataError(str(path), "line 1", "format", f"{found} found, {FORMAT!r} expected")
    if not isinstance(settings, dict) or digest != _digest(settings):
        raise DataError(str(path), "line 1", "sha256", "the settings are not those of the hash")
    return settings


def _digest(settings: Mapping[str, Any]) -> str | None:
    """The hash of settings; ``None`` where they hold what no journal can."""
    try:
        return hashlib.sha256(canonical(settings)).hexdigest()
    except (ValueError, RecursionError):
        return None


class Journal:
    """The journal of one process, open for continuing.

    Opening checks the complete steps (``records``, which are read from the file) and cuts a torn
    last line. Raises ``MfenvError`` naming the setting that differs where the journal is of
    another run or where another process goes on writing it, and ``DataError`` where it is damaged.
    """

    def __init__(self, path: Path | str, settings: Mapping[str, Any]) -> None:
        self.path = Path(path)
        self.settings = json.loads(canonical(dict(settings)))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file: FileIO = _open_alone(self.path)
        try:
            self._begin()
        except BaseException:
            self._file.close()
            raise
        self.records = Recorded(self.path, self._ends)
        self._timings = self._open_timings()

    def _begin(self) -> None:
        contents = _read(self.path)
        size = self.path.stat().st_size
        if contents is not None:
            found, self._ends = contents
            _check_settings(self.path, found, self.settings)
            if torn := size - self._ends[-1]:
                _log.warning(
                    "%s: its last record was torn; %d bytes are cut off, %d whole steps stay",
                    self.path,
                    torn,
                    len(self._ends) - 1,
                )
            self._file.truncate(self._ends[-1])
            self._file.seek(0, os.SEEK_END)
        else:
            if size:
                _log.warning("%s: not even its header is whole; it is written anew", self.path)
            self._file.truncate(0)
            header = {
                "format": FORMAT, "settings": self.settings, "sha256": _digest(self.settings),
            }  # fmt: skip
            self._ends = array("q", [0])
            self._ends[0] = self._write(canonical(header))
            _sync_folder(self.path.parent)

    def append(self, record: StepRecord, timings: Mapping[str, float] | None = None) -> None:
        """Write a step; it is on disk when this returns."""
        if record.step != len(self.records):
            raise ValueError(f"step {record.step} cannot follow {len(self.records)} steps")
        self._ends.append(self._ends[-1] + self._write(canonical(record_to_json(record))))
        seconds = {k: round(v, 6) for k, v in (timings or {}).items()}
        try:
            _write_all(self._timings, canonical({"step": record.step, "seconds": seconds}))
        except OSError as error:
            raise self._unwritten(timings_path(self.path), error) from error

    def cut(self, steps: int) -> None:
        """Keep the first ``steps`` steps only."""
        if steps >= len(self.records):
            return
        del self._ends[steps + 1 :]
        self._file.truncate(self._ends[-1])
        self._file.seek(0, os.SEEK_END)
        os.fsync(self._file.fileno())
        self._timings.close()
        self._timings = self._open_timings()

    def close(self) -> None:
        """Close the files."""
        self._file.close()
        self._timings.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _open_timings(self) -> FileIO:
        path = timings_path(self.path)
        _keep_timings(path, len(self.records))
        return path.open("ab", buffering=0)

    def _write(self, line: bytes) -> int:
        """Put a line on disk whole, or leave the file as it was and say why."""
        try:
            _write_all(self._file, line)
            os.fsync(self._file.fileno())
        except OSError as error:
            with suppress(OSError):  # else a torn line is left, which the next run cuts off
                self._file.truncate(self._ends[-1])
            raise self._unwritten(self.path, error) from error
        return len(line)

    def _unwritten(self, path: Path, error: OSError) -> MfenvError:
        return MfenvError(
            f"{path}: cannot write ({describe_os_error(error)}); the {len(self._ends) - 1} steps "
            f"before are safe. Make room, then run the same command again"
        )


def _write_all(file: FileIO, data: bytes) -> None:
    """Write to a file without a buffer, which may take less than it is given."""
    left = memoryview(data)
    while left:
        left = left[file.write(left) :]


def _check_settings(path: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    def show(settings: dict[str, Any], name: str) -> str:
        if name not in settings:
            return "(absent)"
        return json.dumps(settings[name], ensure_ascii=False)

    different = [
        f"{name} is {show(found, name)} there and {show(wanted, name)} now"
        for name in sorted(found.keys() | wanted.keys())
        if show(found, name) != show(wanted, name)
    ]
    if different:
        raise MfenvError(
            f"{path}: this journal is of a run with other settings: {'; '.join(different)}. "
            f"Choose another folder, or delete this one to start anew"
        )


def _keep_timings(path: Path, steps: int) -> None:
    """Drop the timings of steps that are to be taken again, and a torn line."""
    if not path.exists():
        return
    lines = path.read_bytes().split(b"\n")[:-1]
    kept = b"".join(x + b"\n" for x in lines if _step_of(x) < steps)
    part = path.with_name(path.name + ".part")
    part.write_bytes(kept)
    part.replace(path)  # in one move: on a full disk the old ones stay


def _step_of(timing: bytes) -> float:
    """The step of a line of timings; none of its own where the line is damaged."""
    try:
        return int(json.loads(timing)["step"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return math.inf


def _open_alone(path: Path) -> FileIO:
    """Open for writing, with a lock that the kernel lets go of when its owner dies."""
    file = FileIO(os.open(path, os.O_RDWR | os.O_CREAT, 0o644), "r+")
    until = time.monotonic() + _PATIENCE
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return file
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES) or time.monotonic() > until:
                file.close()
                if error.errno not in (errno.EAGAIN, errno.EACCES):
                    raise OSError(error.errno, error.strerror, str(path)) from None
                raise MfenvError(
                    f"{path}: another process writes this journal; wait for its run, stop it, or "
                    f"choose another folder"
                ) from None
            time.sleep(0.05)


def _sync_folder(folder: Path) -> None:
    """Make a new file's name durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# -- a run ---------------------------------------------------------------------------------


def run(
    processes: Sequence[MeanFieldProcess],
    journals: Sequence[Journal],
    schedule: Schedule | None = None,
    on_step: Callable[[int, StepRecord], None] | None = None,
) -> list[Recorded]:
    """Play processes to their ends in lockstep, each with a journal; returns every one's steps.

    The steps stay on disk: the longest run takes the memory of one step.

    The processes have just begun (:meth:`MeanFieldProcess.begin`). What the journals hold is
    replayed without model calls, up to the smallest number of steps that every process has, so
    that each later call has the batch of an undisturbed run. ``schedule`` chooses the
    interventions of the rollout (default: none); it is asked during a replay too, so one that
    keeps a memory catches up, and must give what it gave before. ``on_step`` is told of each
    step, replayed or new, as (index of the process, record).

    Raises ``ModelError`` where a model fails: the journals then end at the last whole step.
    """
    if len(processes) != len(journals):
        raise ValueError(f"{len(processes)} processes and {len(journals)} journals")
    for process in processes:
        if process.step_index:
            raise ValueError("run() needs processes at the start of their event: call begin()")
    # A process that is done does not hold the others back.
    level = min(
        (
            len(j.records)
            for p, j in zip(processes, journals, strict=True)
            if len(j.records) < p.total_steps
        ),
        default=max((p.total_steps for p in processes), default=0),
    )
    for process, journal in zip(processes, journals, strict=True):
        if len(journal.records) > process.total_steps:
            raise MfenvError(
                f"{journal.path}: {len(journal.records)} steps, but the event has only "
                f"{process.total_steps}"
            )
        journal.cut(min(level, process.total_steps))

    def tell(i: int, record: StepRecord) -> None:
        if on_step is not None:
            on_step(i, record)

    def choose(i: int) -> Intervention:
        process = processes[i]
        return NONE if schedule is None or process.in_warmup else schedule(i, process)

    while left := [i for i, p in enumerate(processes) if not p.done]:
        chosen = [choose(i) for i in left]
        # All that are left stand at the same step, so either all of it is recorded or nothing.
        if processes[left[0]].step_index < level:
            for i, u in zip(left, chosen, strict=True):
                tell(i, _replay(processes[i], journals[i], u))
            continue
        timings: dict[str, float] = {}
        made = advance([processes[i] for i in left], chosen, timings=timings)
        for i, record in zip(left, made, strict=True):
            journals[i].append(record, timings)
            tell(i, record)
    return [journal.records for journal in journals]


def _replay(process: MeanFieldProcess, journal: Journal, chosen: Intervention) -> StepRecord:
    recorded = journal.records[process.step_index]
    line = f"line {recorded.step + 2}"
    if recorded.intervention != chosen:
        raise DataError(
            str(journal.path),
            line,
            "intervention",
            f"{recorded.intervention} was recorded, the schedule now gives {chosen}",
        )
    made = record_to_json(replay(process, recorded))
    for name, value in record_to_json(recorded).items():
        if made[name] != value:
            raise DataError(str(journal.path), line, name, "does not follow from the record")
    return recorded


# -- one run at a time in a folder -----------------------------------------------------------


def owner() -> str:
    """Who runs here, from now on: pid, start time (UTC) and machine."""
    started = datetime.now(UTC).isoformat(timespec="seconds")
    return f"pid {os.getpid()}, started {started}, on {socket.gethostname()}"


class RunLock:
    """A context manager that lets one process at a time run in a folder.

    The kernel lets go of the lock when its owner dies, however it dies; the file only says whose
    it is. Raises ``MfenvError`` with the owner's pid, start time and machine where somebody else
    runs.
    """

    def __init__(self, folder: Path | str) -> None:
        self.path = Path(folder) / "run.lock"
        self._handle: int | None = None

    def __enter__(self) -> Self:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        while self._handle is None:
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                found = os.read(handle, 4096).decode("utf-8", "replace").strip()
                os.close(handle)
                if error.errno not in (errno.EAGAIN, errno.EACCES):
                    raise OSError(error.errno, error.strerror, str(self.path)) from None
                raise MfenvError(
                    f"{self.path.parent}: another run is at work here "
                    f"({found or 'it has just started'}); wait for it, stop it, or choose "
                    f"another folder"
                ) from None
            if _same_file(handle, self.path):
                self._handle = handle
            else:  # its owner removed the file between our two calls
                os.close(handle)
        os.ftruncate(self._handle, 0)
        with suppress(OSError):  # on a full disk the lock holds all the same, without a name
            os.write(self._handle, f"{owner()}\n".encode())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._handle is not None:
            self.path.unlink(missing_ok=True)
            os.close(self._handle)
            self._handle = None


def _same_file(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False
