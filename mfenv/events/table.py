"""Events from a table, one post a row: ``.csv`` (commas, or semicolons) and ``.tsv`` (tabs), UTF-8.

The first line names the columns. Required are

- ``event``: the id of the event that a post belongs to;
- ``author``: any text; authors of the same name within an event are one person;
- ``time``: a number of seconds (since anything), or a date and time as ISO 8601 has them, such as
  ``2026-03-01 18:05:00`` or ``2026-03-01T18:05:00+01:00``; one of these kinds within an event;
- ``text``: empty for a repost without words.

Allowed of a post: ``id`` and ``parent`` (the id of the earlier post that it answers; without one
it answers the source), ``kind``, ``stance``, ``labels`` (eight letters), and of its author the
fields of :class:`~mfenv.events.event.Profile` (``followers``, ``gender``, ``verified``, …). Of an
event, the same in all its rows or empty: ``topic`` (without it the text of the source),
``language`` (without it ``zh`` where at least half of all letters are Chinese, else ``en``),
``domain``, ``label``. What is in columns ``meta.NAME`` is kept as text in ``meta["posts"]``; a
column of any other name is an error.

Rows may stand in any order. An event's posts are put in order of time (ties as listed), and the
earliest is its source. The whole table is held in memory.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mfenv.errors import DataError, MfenvError
from mfenv.events.event import Event, Profile
from mfenv.events.quarantine import describe_os_error
from mfenv.labels import N_DIMENSIONS, encode_code

if TYPE_CHECKING:
    from mfenv.events.checks import Draft, Fault, Intake

__all__ = ["iter_table"]

_REQUIRED = ("event", "author", "time", "text")
_OF_POST = ("id", "parent", "kind", "stance", "labels")
_OF_EVENT = ("topic", "language", "domain", "label")
_PROFILE = tuple(f.name for f in fields(Profile))
_COLUMNS = (*_REQUIRED, *_OF_POST, *_OF_EVENT, *_PROFILE)
_WORDS = ("location", "description", "gender")  # of a profile; the others are numbers or yes/no
_YES_NO = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_META = "meta."


@dataclass(frozen=True)
class _Row:
    """One row: where it begins in the file, and its cells by column."""

    line: int
    cells: dict[str, str]

    @property
    def dated(self) -> bool:
        """Whether it has a time."""
        return math.isfinite(self.time[1])

    def get(self, name: str) -> str | None:
        """A cell without the space around it; ``None`` where it is empty or no such column."""
        return self.cells.get(name, "").strip() or None

    @cached_property
    def time(self) -> tuple[str, float]:
        """The kind of time (or what is wrong) and its seconds (not finite where wrong)."""
        text = self.get("time")
        if text is None:
            return "missing", math.nan
        try:
            seconds = float(text)
            return ("a number of seconds" if math.isfinite(seconds) else "no time"), seconds
        except ValueError:
            pass
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            return "no time", math.nan
        if moment.tzinfo is None:
            return "a date without a time zone", moment.replace(tzinfo=UTC).timestamp()
        return "a date with a time zone", moment.timestamp()


def iter_table(path: Path, intake: Intake, event_ids: frozenset[str] | None) -> Iterator[Event]:
    """Yield the events of a table, in the order in which they first appear.

    Raises ``MfenvError`` if the file cannot be read, ``DataError`` if it is no table (its header,
    quotes or encoding are wrong) and for a row that is malformed.
    """
    by_event: dict[str, list[_Row]] = {}
    for row in _rows(path, intake):
        if (event_id := row.get("event")) is None:
            fault = ("event", "missing; every post belongs to an event")
            intake.reject(str(path), f"line {row.line}", fault, lambda row=row: row.cells)  # type: ignore[misc]
        elif event_ids is None or event_id in event_ids:
            by_event.setdefault(event_id, []).append(row)
    for event_id, rows in by_event.items():
        event = intake.accept(_draft(str(path), event_id, rows))
        if event is not None:
            yield event


def _rows(path: Path, intake: Intake) -> Iterator[_Row]:
    reader = None
    try:
        with open(path, encoding="utf-8-sig", newline="") as stream:
            head = stream.readline()
            stream.seek(0)
            reader = csv.reader(stream, delimiter=_delimiter(path, head), strict=True)
            columns = [name.strip() for name in next(reader, [])]
            _check_header(str(path), columns)
            while True:
                line = reader.line_num + 1
                cells = next(reader, None)
                if cells is None:
                    return
                if not any(cell.strip() for cell in cells):
                    continue  # an empty line
                if len(cells) != len(columns):
                    problem = (
                        f"has {len(cells)} cells where the header has {len(columns)}; a text with "
                        "the separator or a line break in it stands in double quotes"
                    )
                    intake.reject(str(path), f"line {line}", ("row", problem), lambda c=cells: c)  # type: ignore[misc]
                    continue
                yield _Row(line, dict(zip(columns, cells, strict=True)))
    except csv.Error as e:
        record = f"line {reader.line_num if reader else 1}"
        problem = (
            f"is no table ({e}); a text with the separator, a line break or a double quote in it "
            "stands in double quotes, and a double quote within is written twice"
        )
        raise DataError(str(path), record, "CSV", problem) from e
    except UnicodeDecodeError as e:
        raise DataError(
            str(path), "file", "encoding", "is not UTF-8; save or convert the file as UTF-8"
        ) from e
    except OSError as e:
        raise MfenvError(f"{path}: cannot read ({describe_os_error(e)})") from e


def _delimiter(path: Path, head: str) -> str:
    if path.suffix == ".tsv":
        return "\t"
    return ";" if ";" in head and "," not in head else ","


def _check_header(file: str, columns: list[str]) -> None:
    from mfenv.events.checks import show

    problem = None
    unknown = [c for c in columns if c not in _COLUMNS and not c.startswith(_META)]
    missing = [c for c in _REQUIRED if c not in columns]
    if missing:
        found = ", ".join(show(c) for c in columns) or "nothing"
        problem = (
            f"has no column {', '.join(missing)} (required: {', '.join(_REQUIRED)}); "
            f"the first line names {found}"
        )
    elif unknown:
        problem = (
            f"unknown column {show(unknown[0])}; allowed: {', '.join(_COLUMNS)}, and meta.NAME for "
            "what is only to be kept"
        )
    elif len(set(columns)) < len(columns):
        twice = next(c for c in columns if columns.count(c) > 1)
        problem = f"names the column {show(twice)} twice"
    elif "parent" in columns and "id" not in columns:
        problem = "has a column parent but no column id, which parents are found by"
    if problem is not None:
        raise DataError(file, "line 1", "header", problem)


def _draft(file: str, event_id: str, rows: list[_Row]) -> Draft:
    from mfenv.events.checks import Draft, show

    kind = next((row.time[0] for row in rows if row.dated), "")
    rows, at = _in_order(rows, kind)
    start = at[0] if at[0] is not None else 0.0

    n = len(rows)
    faults: dict[int, Fault] = {}
    authors = np.zeros(n, dtype=np.int64)
    parents = np.full(n, -1, dtype=np.int64)
    labels = np.zeros((n, N_DIMENSIONS), dtype=np.int8)
    labelled = any(row.get("labels") for row in rows)
    profiles: list[Profile | None] = [None] * n
    people: dict[str, int] = {}
    position: dict[str, int] = {}  # of each id in the order of time
    for i, row in enumerate(rows):
        parents[i] = 0 if i else -1
        name, parent = row.get("id"), row.get("parent")
        if name is not None and name in position:
            faults[i] = ("id", f"duplicate id {show(name)}")
        elif name is not None:
            position[name] = i
        if i in faults:
            pass
        elif at[i] is None:
            faults[i] = ("time", _time_problem(row, kind))
        elif (author := row.get("author")) is None:
            faults[i] = ("author", "missing; any name or number that tells people apart")
        elif parent is not None and position.get(parent, i) == i:
            faults[i] = ("parent", f"unknown parent {show(parent)}; no earlier post has this id")
        else:
            authors[i] = people.setdefault(author, len(people))
            parents[i] = parents[i] if parent is None else position[parent]
            profiles[i], fault = _profile(row)
            fault = fault or _label(row, labels[i], labelled)
            if fault is not None:
                faults[i] = fault
    texts = [row.cells["text"] for row in rows]
    head, of_event = _of_event(rows)
    given = rows[0].cells
    return Draft(
        file=file,
        record=f"event {show(event_id)}",
        event_id=event_id,
        topic=of_event["topic"],
        topic_is_source=of_event["topic"] is None,
        language=of_event["language"] or _language(texts),
        domain=of_event["domain"],
        label=of_event["label"],
        source="table",
        offsets=np.array([0.0 if t is None else t - start for t in at], dtype=np.float64),
        authors=authors,
        parents=parents,
        texts=texts,
        kinds=[row.get("kind") for row in rows] if "kind" in given else None,
        stances=[row.get("stance") for row in rows] if "stance" in given else None,
        profiles=profiles,
        labels=labels if labelled else None,
        post_meta={
            name.removeprefix(_META): [row.cells[name] for row in rows]
            for name in given
            if name.startswith(_META)
        },
        fault=head,
        faults=faults,
        time_field="time",
        author_field="author",
        post_name=lambda i: f"line {rows[i].line}",
        raw_event=lambda: [row.cells for row in rows],
        raw_post=lambda i: rows[i].cells,
    )


def _in_order(rows: list[_Row], kind: str) -> tuple[list[_Row], list[float | None]]:
    """The rows in order of time, and their times; ``None`` where it is not of that kind.

    A row without a time stays beside the row before it, but is never the first.
    """
    at = [row.time[1] if row.dated and row.time[0] == kind else None for row in rows]
    place = min((t for t in at if t is not None), default=0.0)
    places = []
    for t in at:
        place = place if t is None else t
        places.append(place)
    order = sorted(range(len(rows)), key=lambda i: (places[i], at[i] is None, i))
    return [rows[i] for i in order], [at[i] for i in order]


def _time_problem(row: _Row, kind: str) -> str:
    from mfenv.events.checks import show

    text = row.get("time")
    allowed = "a number of seconds, or a date and time such as 2026-03-01 18:05:00"
    if text is None:
        return f"missing; allowed: {allowed}"
    if not row.dated:
        return f"{show(text)} is no time; allowed: {allowed}"
    return f"{show(text)} is {row.time[0]}, the event's first one {kind}; one kind an event"


def _of_event(rows: list[_Row]) -> tuple[Fault | None, dict[str, str | None]]:
    """What the rows say of their event, and a fault where they contradict each other."""
    from mfenv.events.checks import show

    fault, values = None, {}
    for name in _OF_EVENT:
        said = dict.fromkeys(value for row in rows if (value := row.get(name)) is not None)
        if len(said) > 1 and fault is None:
            found = ", ".join(show(value) for value in list(said)[:3])
            fault = (name, f"differs between the event's rows ({found}); one value, or empty")
        values[name] = next(iter(said), None)
    return fault, values


def _profile(row: _Row) -> tuple[Profile | None, Fault | None]:
    from mfenv.events.checks import profile_fault, show

    values: dict[str, Any] = {}
    for name in _PROFILE:
        text = row.get(name)
        if text is None:
            continue
        if name in _WORDS:
            values[name] = text
        elif name == "verified":
            if text.lower() not in _YES_NO:
                return None, (name, f"{show(text)} is not allowed; allowed: {', '.join(_YES_NO)}")
            values[name] = _YES_NO[text.lower()]
        else:
            try:
                values[name] = int(text)
            except ValueError:
                return None, (name, f"must be a whole number, is {show(text)}")
    fault = profile_fault(values)
    return (Profile(**values) if values and fault is None else None), fault


def _label(row: _Row, into: NDArray[np.int8], labelled: bool) -> Fault | None:
    code = row.get("labels")
    if not labelled:
        return None
    if code is None:
        return ("labels", "missing; all posts of an event have labels, or none")
    try:
        into[:] = encode_code(code)
    except ValueError as e:
        return ("labels", str(e))
    return None


def _language(texts: list[str]) -> str:
    letters = [c for text in texts for c in text if c.isalpha()]
    chinese = sum("一" <= c <= "鿿" for c in letters)
    return "zh" if letters and 2 * chinese >= len(letters) else "en"
