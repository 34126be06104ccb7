"""Reading folders that a stranger made: sizes, links, JSON and hashes are checked before use."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from mfenv.errors import DataError, MfenvError

__all__ = [
    "MAX_BYTES",
    "MAX_LINE",
    "MAX_NUMBER",
    "is_number",
    "json_lines",
    "only_known",
    "parse_json",
    "read_bytes",
    "read_json",
    "shown",
    "strangers",
]

MAX_BYTES = 64 * 2**20
"""Of one file; a larger one is refused unread."""

MAX_LINE = 2**20
"""Bytes of one line."""

MAX_NUMBER = 2**53
"""Up to which a float counts every whole number."""

_STRANGERS = 20  # files that are no part of an entry are named up to here


def read_bytes(path: Path, most: int = MAX_BYTES) -> bytes:
    """A file's bytes; one that is too large is refused before it is read."""
    if path.is_symlink() or not path.is_file():
        raise MfenvError(f"{path}: is missing, or no plain file")
    size = path.stat().st_size
    if size > most:
        raise MfenvError(f"{path}: {size:,} bytes; allowed: at most {most:,}")
    return path.read_bytes()


def read_json(path: Path, most: int = MAX_BYTES) -> Any:
    """A JSON file: not too large, no NaN, no name twice in an object."""
    return parse_json(path, read_bytes(path, most), "(all)")


def parse_json(path: Path, data: bytes, where: str) -> Any:
    """JSON of a file or of one of its lines. Raises ``DataError`` that says where."""
    try:
        return json.loads(
            data.decode("utf-8"), parse_constant=_refuse, object_pairs_hook=_each_once
        )
    except (ValueError, RecursionError) as error:
        raise DataError(str(path), where, "(all)", f"no JSON: {error}") from None


def _refuse(name: str) -> float:
    raise ValueError(f"{name} is not allowed")


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        raise ValueError("a name is there twice in one object")
    return value


def json_lines(path: Path, sha256: str | None) -> Iterator[tuple[str, dict[str, Any]]]:
    """(line, object) of a file, after its hash was compared with the one that was entered."""
    data = read_bytes(path)
    if hashlib.sha256(data).hexdigest() != sha256:
        raise DataError(str(path), "(all)", "sha256", "the file is not the one that was entered")
    if data and not data.endswith(b"\n"):
        raise DataError(str(path), "last line", "(all)", "cut off")
    for number, line in enumerate(data.splitlines(), start=1):
        if len(line) > MAX_LINE:
            raise DataError(str(path), f"line {number}", "(all)", f"longer than {MAX_LINE:,} bytes")
        value = parse_json(path, line, f"line {number}")
        if not isinstance(value, dict):
            raise DataError(str(path), f"line {number}", "(all)", "must be an object")
        yield f"line {number}", value


def only_known(bad: Any, where: str, value: Mapping[str, Any], known: Collection[str]) -> None:
    """Refuse fields that a format does not know: nothing unseen travels in an entry.

    ``bad(name, problem)`` makes the error.
    """
    if strange := sorted(set(value) - {*known}):
        raise bad(where + shown(strange[0]), f"is not known; known: {', '.join(sorted(known))}")


def is_number(x: Any) -> bool:
    """Whether this is a number, and neither NaN nor too large for a float to count."""
    return type(x) in (int, float) and abs(x) <= MAX_NUMBER  # which NaN is not


def shown(x: Any) -> str:
    """What was found, for a message: of a stranger's making, so it is cut."""
    text = repr(x)
    return text if len(text) <= 80 else f"{text[:79]}…"


def strangers(folder: Path, needed: Collection[str], optional: Collection[str]) -> list[MfenvError]:
    """Links, special files, and files and folders that are no part of an entry.

    ``needed`` and ``optional`` are relative paths of files.
    """
    allowed = {*needed, *optional}
    folders = {parent.as_posix() for name in needed for parent in PurePosixPath(name).parents}
    problems: list[MfenvError] = []
    for root, inside, files in os.walk(folder):
        for path in (Path(root, name) for name in sorted([*inside, *files])):
            name = path.relative_to(folder).as_posix()
            if path.is_symlink():
                problem = "is a link; an entry holds plain files only"
            elif name in folders if path.is_dir() else name in allowed and path.is_file():
                continue
            else:
                problem = "is no part of an entry; take it out"
            problems.append(MfenvError(f"{folder}: {shown(name)} {problem}"))
        inside.sort()
        if len(problems) >= _STRANGERS:
            return problems[:_STRANGERS]
    return problems
