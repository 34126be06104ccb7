"""Which events a folder holds, by the loaders that every command uses."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mfenv.errors import MfenvError
from mfenv.events.load import iter_heads

__all__ = ["DataFile", "read_data"]

_NO_EVENTS = "Parquet without a column of posts"


@dataclass(frozen=True, slots=True)
class DataFile:
    """A file or folder of events."""

    path: str
    kind: str
    events: int = 0
    posts: int = 0
    problem: str | None = None


def read_data(path: Path) -> list[DataFile]:
    """The events at ``path``: one file, or a folder and the folders in it.

    Parquet files are read by their ids and numbers of posts only (``mfenv data validate`` reads
    everything), others whole. A path that holds nothing is one entry with the problem.
    """
    found = [_read(p) for p in _places(path)]
    if found:
        return found
    problem = "no such file or folder" if not path.exists() else "no events in it"
    return [DataFile(str(path), "", problem=f"{problem}; see mfenv data describe --help")]


def _places(path: Path) -> Iterator[Path]:
    """Files of events, and folders in the rumdect layout (JSON files and nothing else of ours)."""
    if path.is_file():
        yield path
    if not path.is_dir():
        return
    for folder in (path, *sorted(p for p in path.iterdir() if p.is_dir())):
        names = sorted(p for p in folder.iterdir() if p.is_file())
        files = [
            p
            for p in names
            if p.suffix in (".parquet", ".jsonl") and not p.name.endswith(".quarantine.jsonl")
        ]
        yield from files
        if not files and any(p.suffix == ".json" for p in names):
            yield folder


def _read(path: Path) -> DataFile:
    kind = {".parquet": "Parquet", ".jsonl": "JSON Lines"}.get(path.suffix, "rumdect folder")
    events = posts = 0
    try:
        if path.suffix == ".parquet" and path.is_file():
            from mfenv.events.parquet import parquet_kind

            schema = parquet_kind(path)
            if schema is None:
                return DataFile(str(path), _NO_EVENTS)
            kind = f"Parquet, {schema}"
        for head in iter_heads(path):
            events += 1
            posts += head.posts
    except MfenvError as error:
        return DataFile(str(path), kind, events, posts, str(error))
    except OSError as error:
        return DataFile(str(path), kind, events, posts, error.strerror or str(error))
    return DataFile(str(path), kind, events, posts, None if events else "no event in it")
