"""Answers of servers, kept on disk, so that nothing is asked (and paid for) twice.

One SQLite file, safe for several processes. It holds hashes, texts and token counts: no prompts,
no addresses, no keys.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from agents.backbones.base import Generation
from mfenv.errors import MfenvError

__all__ = ["ResponseCache"]

_BUSY = 30.0  # s to wait for another process that writes
_MANY = 500  # keys in one query
_SCHEMA = """
CREATE TABLE IF NOT EXISTS responses (
    key TEXT PRIMARY KEY,
    text TEXT NOT NULL,
    prompt_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL
) WITHOUT ROWID
"""


class ResponseCache:
    """A map from the hash of a request to its answer. The file is made when it is first used."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._pid = 0

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> ResponseCache | None:
        """The cache that ``MFENV_CACHE`` names: ``off``, or a file or folder.

        Without it ``responses.sqlite`` in the user's cache folder (``XDG_CACHE_HOME``, else
        ``~/.cache``).
        """
        where = environ.get("MFENV_CACHE", "")
        if where.strip().lower() == "off":
            return None
        if where:
            path = Path(where).expanduser()
            return cls(path / "responses.sqlite" if path.is_dir() else path)
        home = environ.get("XDG_CACHE_HOME", "")
        folder = Path(home) if home else Path("~/.cache").expanduser()
        return cls(folder / "mfenv" / "responses.sqlite")

    @staticmethod
    def key(request: Mapping[str, Any]) -> str:
        """Hash of a request of JSON values: everything that its answer depends on."""
        text = json.dumps(request, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def get_many(self, keys: Iterable[str]) -> dict[str, Generation]:
        """The answers that are known. Raises ``MfenvError`` if the file cannot be used."""
        wanted = list(dict.fromkeys(keys))
        found: dict[str, Generation] = {}
        try:
            with self._lock:
                connection = self._open()
                for i in range(0, len(wanted), _MANY):
                    some = wanted[i : i + _MANY]
                    marks = ",".join("?" * len(some))
                    rows = connection.execute(
                        "SELECT key, text, prompt_tokens, completion_tokens FROM responses "
                        f"WHERE key IN ({marks})",
                        some,
                    )
                    found.update({k: Generation(json.loads(t), p, c) for k, t, p, c in rows})
        except (sqlite3.Error, OSError, ValueError) as error:
            raise self._unusable(error) from error
        return found

    def put(self, key: str, answer: Generation) -> None:
        """Keep an answer; the first one of a key stays. Raises ``MfenvError`` as above."""
        # As JSON: a text may hold what UTF-8 cannot say (half of a surrogate pair).
        row = (key, json.dumps(answer.text), answer.prompt_tokens, answer.completion_tokens)
        try:
            with self._lock:
                self._open().execute("INSERT OR IGNORE INTO responses VALUES (?, ?, ?, ?)", row)
        except (sqlite3.Error, OSError) as error:
            raise self._unusable(error) from error

    def close(self) -> None:
        """Close the file; it is opened again when it is used again."""
        with self._lock:
            if self._connection is not None and self._pid == os.getpid():
                self._connection.close()
            self._connection = None

    def _open(self) -> sqlite3.Connection:
        # A connection must not cross a fork.
        if self._connection is None or self._pid != os.getpid():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(
                self.path, timeout=_BUSY, isolation_level=None, check_same_thread=False
            )
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")
            connection.execute(_SCHEMA)
            self._connection, self._pid = connection, os.getpid()
        return self._connection

    def _unusable(self, error: Exception) -> MfenvError:
        return MfenvError(
            f"{self.path}: this file cannot be used as the cache of answers ({error}); move it "
            f"away, name another one by MFENV_CACHE, or switch it off: MFENV_CACHE=off"
        )
