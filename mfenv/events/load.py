"""Load events from any format that the package reads."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Collection, Iterator
from pathlib import Path

from mfenv.errors import MfenvError
from mfenv.events.checks import Intake
from mfenv.events.event import Event, EventHead
from mfenv.events.quarantine import LoadReport, Quarantine

__all__ = ["EventReader", "default_quarantine", "iter_events", "iter_heads", "load_events"]

_log = logging.getLogger(__name__)
_FORMATS = (
    "a .parquet file, a .jsonl file, a .csv or .tsv table with one post a row, or a folder with "
    "one JSON list of posts per event"
)


def default_quarantine(path: Path) -> Path:
    """Where bad records of ``path`` go by default: beside it."""
    return path.with_name(path.name + ".quarantine.jsonl")


def load_events(
    path: Path | str,
    *,
    skip_bad: Path | str | bool | None = None,
    event_ids: Collection[str] | None = None,
) -> list[Event]:
    """Load the events of ``path``, in the order of the file.

    Args:
        path: a ``.parquet`` file (weibo, rumoureval, pheme), a ``.jsonl`` file of our own schema,
            a ``.csv`` or ``.tsv`` table with one post a row (:mod:`mfenv.events.table`), or a
            folder in the original rumdect layout.
        skip_bad: put bad records aside in this file (``True``: ``<path>.quarantine.jsonl``) and
            go on; how many there were is logged as a warning. Default: the first one raises.
        event_ids: load these events only; nothing else is checked.

    Raises:
        DataError: a record is malformed (file, record, field, what is allowed).
        MfenvError: the path cannot be read, or an event in ``event_ids`` is not there.
    """
    reader = iter_events(path, skip_bad=skip_bad, event_ids=event_ids)
    events = list(reader)
    if reader.report.quarantined:
        _log.warning("%s: %s", path, reader.report)
    return events


def iter_events(
    path: Path | str,
    *,
    skip_bad: Path | str | bool | None = None,
    event_ids: Collection[str] | None = None,
) -> EventReader:
    """Like :func:`load_events`, one event at a time; ``.report`` counts what was put aside."""
    path = Path(path)
    target: Path | None
    if skip_bad is None or isinstance(skip_bad, bool):
        target = default_quarantine(path) if skip_bad else None
    else:
        target = Path(skip_bad)
    return EventReader(path, target, event_ids)


def iter_heads(path: Path | str) -> Iterator[EventHead]:
    """Ids, languages and numbers of posts, in the order of the file, to choose events by.

    One event is held at a time. Of a ``.parquet`` file only the ids and one narrow column of the
    posts are decoded; what is malformed in the others shows once the events are loaded. Other
    formats are read and checked whole.

    Raises:
        DataError: a record is malformed.
        MfenvError: the path cannot be read.
    """
    path = Path(path)
    if path.suffix == ".parquet" and path.is_file():
        from mfenv.events.parquet import iter_parquet_heads

        with Quarantine() as quarantine:
            yield from iter_parquet_heads(path, Intake(quarantine, LoadReport()))
    else:
        for event in iter_events(path):
            yield event.head


class EventReader:
    """Iterates over the events of a path; each iteration reads anew.

    ``report`` belongs to the latest iteration and is complete once that has ended.
    """

    def __init__(
        self,
        path: Path,
        quarantine: Path | None = None,
        event_ids: Collection[str] | None = None,
        *,
        errors: Quarantine | None = None,
    ) -> None:
        if isinstance(event_ids, str):
            event_ids = [event_ids]
        self.path = path
        self.report = LoadReport()
        self._event_ids = None if event_ids is None else frozenset(event_ids)
        self._target = quarantine
        self._errors = errors  # takes the records instead, for a validation
        if quarantine is not None and (quarantine.is_dir() or quarantine == path):
            raise MfenvError(f"{quarantine}: must be a new file for the bad records")

    def __iter__(self) -> Iterator[Event]:
        self.report = LoadReport(quarantine=self._target)
        with self._errors or Quarantine(self._target) as quarantine:
            intake = Intake(quarantine, self.report)
            found = set()
            for event in self._read(intake):
                found.add(event.event_id)
                yield event
        if self._event_ids is not None:
            self._check_found(self._event_ids - found)

    def _read(self, intake: Intake) -> Iterator[Event]:
        path = self.path
        if path.is_dir():
            from mfenv.events.rumdect import iter_rumdect

            return iter_rumdect(path, intake, self._event_ids)
        if not path.exists():
            raise MfenvError(f"{path}: no such file or folder; allowed: {_FORMATS}")
        if path.suffix == ".parquet":
            from mfenv.events.parquet import iter_parquet

            return iter_parquet(path, intake, self._event_ids)
        if path.suffix == ".jsonl":
            from mfenv.events.jsonl import iter_jsonl

            return iter_jsonl(path, intake, self._event_ids)
        if path.suffix in (".csv", ".tsv"):
            from mfenv.events.table import iter_table

            return iter_table(path, intake, self._event_ids)
        raise MfenvError(f"{path}: unknown format {path.suffix!r}; allowed: {_FORMATS}")

    def _check_found(self, missing: frozenset[str]) -> None:
        if not missing:
            return
        wanted = sorted(missing)[0]
        if self.report.quarantined:
            raise MfenvError(
                f"{self.path}: event {wanted!r} is not there or was put aside as malformed"
                f" (see {self._target})"
            )
        ids = [e.event_id for e in EventReader(self.path, errors=Quarantine(keep_going=True))]
        near = difflib.get_close_matches(wanted, ids, 3, 0.5) or ids[:3]
        hint = f"; it has {len(ids)}, for example {', '.join(near)}" if near else ""
        raise MfenvError(f"{self.path}: has no event {wanted!r}{hint}")
