"""Where malformed records go: raised at once, or put aside in a file so that loading goes on.

A quarantine file is JSON Lines in ASCII, one record a line::

    {"file": ..., "record": ..., "field": ..., "reason": ..., "raw": ...}

``raw`` is the record as it was read. What JSON cannot hold is wrapped: bytes that are no UTF-8 as
``{"$base64": ...}``, a number that is not finite as ``{"$float": "nan"}``. The file is replaced in
one move, and the same input gives the same bytes.
"""

from __future__ import annotations

import base64
import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from mfenv.errors import DataError, MfenvError

__all__ = ["LoadReport", "Quarantine", "atomic_path", "describe_os_error", "jsonable"]


@dataclass(slots=True)
class LoadReport:
    """What a load gave and what it put aside; complete once the iteration has ended."""

    events: int = 0
    posts: int = 0
    quarantined: int = 0  # records put aside: posts, and events that cannot stand
    reparented: int = 0  # kept posts whose parent was put aside
    quarantine: Path | None = None  # the file that holds the records put aside

    def __str__(self) -> str:
        out = f"{self.events} events, {self.posts} posts"
        if self.quarantined:
            out += f"; {self.quarantined} bad records put aside in {self.quarantine}"
        if self.reparented:
            out += f"; {self.reparented} replies to them now hang on their source"
        return out


def jsonable(value: Any) -> Any:
    """Return ``value`` in a form that strict JSON can hold; see the module's docstring."""
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return {"$base64": base64.b64encode(value).decode("ascii")}
    if isinstance(value, float) and not math.isfinite(value):
        return {"$float": str(value)}
    if isinstance(value, Mapping):
        return {str(k): jsonable(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(v) for v in value]
    if value is None or isinstance(value, str | int | float):
        return value
    return str(value)


def describe_os_error(error: OSError) -> str:
    """Say in words what the operating system refused."""
    return (error.strerror or str(error)).lower()


def atomic_path(path: Path) -> Path:
    """Return the name under which ``path`` is written before it is moved into place."""
    return path.with_name(f".{path.name}.{os.getpid()}.part")


class Quarantine:
    """Takes bad records. ``path`` is where they go; without one the first is raised.

    With ``keep_going`` and no path the records are only listed in ``errors``, which is what a
    validation needs. Use as a context manager: leaving it puts the file in place (also when the
    reader stops early), leaving it by an exception drops it. A file of an earlier run is emptied
    where nothing is bad any more.
    """

    def __init__(self, path: Path | None = None, *, keep_going: bool = False) -> None:
        self.path = path
        self.strict = path is None and not keep_going
        self.count = 0
        self.errors: list[DataError] = []
        self._stream: IO[str] | None = None

    def add(self, file: str, record: str, field: str, problem: str, raw: Callable[[], Any]) -> None:
        """Put one record aside; ``raw`` gives it as it was read. Raise ``DataError`` if strict."""
        error = DataError(file, record, field, problem)
        if self.strict:
            raise error
        self.count += 1
        if self.path is None:
            self.errors.append(error)
            return
        line = {
            "file": file,
            "record": record,
            "field": field,
            "reason": problem,
            "raw": jsonable(raw()),
        }
        try:
            if self._stream is None:
                self._stream = atomic_path(self.path).open("w", encoding="ascii", newline="\n")
            self._stream.write(json.dumps(line) + "\n")
        except OSError as e:
            raise self._cannot_write(e) from e

    def _cannot_write(self, error: OSError) -> MfenvError:
        return MfenvError(
            f"{self.path}: cannot write the quarantine file ({describe_os_error(error)}); "
            "choose another place for it"
        )

    def __enter__(self) -> Quarantine:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self.path is None:
            return
        keep = kind is None or issubclass(kind, GeneratorExit)
        try:
            if self._stream is not None:
                self._stream.close()
                part = atomic_path(self.path)
                if keep:
                    os.replace(part, self.path)
                else:
                    part.unlink()
                self._stream = None
            elif keep and self.path.exists():
                self.path.write_bytes(b"")
        except OSError as e:
            raise self._cannot_write(e) from e
