"""The folder that all workers reach: a path, or a URL of any file system that fsspec knows.

Journals are files that grow, which object stores do not have. So a task on a URL works in a folder
of its own: it fetches what is there, goes on with it, and puts back what it has, however it ends.
"""

from __future__ import annotations

import os
import socket
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mfenv.dynamics.journal import owner
from mfenv.errors import MfenvError, MissingExtraError

__all__ = ["PlaceError", "Shared", "is_url", "opened", "shared_lock"]

_LOCK = "run.lock"


class PlaceError(MfenvError):
    """Files at a URL could not be read or written; another attempt may do better."""


def is_url(place: str) -> bool:
    """Whether a place is a URL and not a path."""
    return "://" in place


class Shared:
    """The files of a run at a URL. Raises ``MfenvError`` where its file system is not at hand."""

    def __init__(self, url: str) -> None:
        try:
            from fsspec.core import url_to_fs
        except ModuleNotFoundError:
            raise MissingExtraError("ray", f"{url}") from None
        self.url = url.rstrip("/")
        try:
            self._fs, self._root = url_to_fs(self.url)
        except (ImportError, ValueError) as error:  # its message names the package
            raise MfenvError(f"{url}: {' '.join(str(error).split())}") from None

    @property
    def own_memory(self) -> bool:
        """Whether nobody but this process can see it."""
        return "memory" in self._protocols()

    def fetch(self, files: Sequence[str], folder: Path) -> None:
        """Copy those of the files that are there into a folder."""
        with self._said():
            there = self._there()
            for name in files:
                if name in there:
                    path = folder / name
                    path.parent.mkdir(parents=True, exist_ok=True)
                    part = path.with_name(f"{path.name}.{os.getpid()}.part")
                    self._fs.get_file(f"{self._root}/{name}", str(part))
                    part.replace(path)

    def put(self, files: Sequence[str], folder: Path) -> None:
        """Copy those of the files that a folder has to the URL."""
        with self._said():
            for name in files:
                if (folder / name).exists():
                    path = f"{self._root}/{name}"
                    self._fs.makedirs(path.rpartition("/")[0], exist_ok=True)
                    self._fs.put_file(str(folder / name), path)

    def read(self, name: str) -> str | None:
        """A small file's text; ``None`` where there is none."""
        with self._said():
            try:
                self._fs.invalidate_cache()
                return str(self._fs.cat_file(f"{self._root}/{name}").decode("utf-8", "replace"))
            except FileNotFoundError:
                return None

    def write(self, name: str, text: str) -> None:
        """Write a small file."""
        with self._said():
            self._fs.makedirs(self._root, exist_ok=True)
            self._fs.pipe_file(f"{self._root}/{name}", text.encode())

    def remove(self, name: str) -> None:
        """Remove a file."""
        with self._said():
            self._fs.rm_file(f"{self._root}/{name}")

    def _there(self) -> set[str]:
        """The names of all files: one listing costs less than a question for each."""
        self._fs.invalidate_cache()
        root = str(self._fs._strip_protocol(self._root)).rstrip("/")
        try:
            found = self._fs.find(root)
        except FileNotFoundError:
            return set()
        return {path.removeprefix(root).lstrip("/") for path in found}

    def _protocols(self) -> tuple[str, ...]:
        protocol: Any = self._fs.protocol
        return (protocol,) if isinstance(protocol, str) else tuple(protocol)

    @contextmanager
    def _said(self) -> Iterator[None]:
        """Say at which URL something failed."""
        try:
            yield
        except MfenvError:
            raise
        except Exception as error:  # every file system has its own
            reason = " ".join(str(error).split())[:300]
            raise PlaceError(f"{self.url}: {type(error).__name__}: {reason}") from error


@contextmanager
def opened(place: str, files: Sequence[str]) -> Iterator[Path]:
    """A folder with a task's files, which are at ``place`` when this ends."""
    if not is_url(place):
        path = Path(place)
        path.mkdir(parents=True, exist_ok=True)
        yield path
        return
    shared = Shared(place)
    with tempfile.TemporaryDirectory(prefix="mfenv-") as name:
        shared.fetch(files, Path(name))
        try:
            yield Path(name)
        finally:
            shared.put(files, Path(name))


@contextmanager
def shared_lock(place: str) -> Iterator[None]:
    """One run at a time at a URL; a path has :class:`~mfenv.dynamics.journal.RunLock`.

    A file system of objects has no lock that a death releases, so the owner is noted there. The
    note of a process of this machine that is dead is taken over; one of another machine can only
    be believed. Raises ``MfenvError`` with the owner's pid, start time and machine.
    """
    if not is_url(place):
        yield
        return
    shared = Shared(place)
    found = shared.read(_LOCK)
    if found is not None and not _is_dead(found):
        raise MfenvError(
            f"{shared.url}: another run is at work here ({' '.join(found.split())}); wait for it, "
            f"stop it, or choose another place. If it is certain that it has ended, delete "
            f"{shared.url}/{_LOCK}"
        )
    mine = owner()
    shared.write(_LOCK, mine)
    try:
        yield
    finally:
        if shared.read(_LOCK) == mine:
            shared.remove(_LOCK)


def _is_dead(note: str) -> bool:
    """Whether a note's owner ran on this machine and is gone."""
    words = note.replace(",", " ").split()
    if len(words) < 2 or words[-1] != socket.gethostname() or not words[1].isdigit():
        return False
    try:
        os.kill(int(words[1]), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False
