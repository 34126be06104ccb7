"""Where an environment's episodes come from: the synthetic society, or a file of events."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Protocol

from mfenv.errors import MfenvError
from mfenv.events.event import Event
from mfenv.events.load import load_events
from mfenv.events.synthetic.generator import SyntheticSociety

__all__ = ["SPLITS", "SYNTHETIC", "Scenarios", "make_scenarios"]

SYNTHETIC = "synthetic"

SPLITS: dict[str, tuple[int, int]] = {
    "train": (0, 560),
    "validation": (1, 28),
    "test": (2, 28),
    "confirmation": (3, 84),
}
"""Synthetic events by split: the society's seed and how many events (indices from 0).

Every 14 events have each of the seven domains once with a false and once with a true claim.
``confirmation`` is for a difference that the test events leave open: nothing is chosen or tuned on
these.
"""


class Scenarios(Protocol):
    """A set of events to draw episodes from."""

    @property
    def ids(self) -> tuple[str, ...]:
        """The ids of the events, in a fixed order."""
        ...

    def event(self, event_id: str) -> Event:
        """One event of the set."""
        ...


def make_scenarios(
    events: str | None, split: str | None, event_ids: Sequence[str] | None, n_replies: int
) -> Scenarios:
    """The events of ``events=``, ``split=`` and ``event_ids=``.

    ``None`` and ``"synthetic"`` stand for the synthetic events of a split (default ``"train"``),
    each with ``n_replies`` replies; else a path that :func:`mfenv.events.load.load_events` reads,
    or a folder with ``<split>.parquet`` or ``<split>.jsonl``. Events of a file with fewer than
    ``n_replies`` replies are left out unless ``event_ids`` names them. Raises ``MfenvError``.
    """
    if isinstance(event_ids, str):
        event_ids = [event_ids]
    if event_ids is not None and not event_ids:
        raise MfenvError("event_ids is empty; allowed: None for all events, or at least one id")
    wanted = None if event_ids is None else tuple(str(i) for i in event_ids)
    if events is None or events == SYNTHETIC:
        return _Synthetic(split or "train", wanted, n_replies)
    return _FromFile(_path(Path(events), split), wanted, n_replies)


class _Synthetic:
    def __init__(self, split: str, wanted: tuple[str, ...] | None, n_replies: int) -> None:
        if split not in SPLITS:
            raise MfenvError(f"unknown split {split!r}; allowed: {', '.join(SPLITS)}")
        self._seed, n = SPLITS[split]
        every = tuple(f"{SYNTHETIC}-{self._seed}-{i}" for i in range(n))
        for event_id in wanted or ():
            if event_id not in every:
                raise MfenvError(
                    f"unknown event {event_id!r} in the split {split!r}; "
                    f"allowed: {every[0]} to {every[-1]}"
                )
        self.ids = wanted or every
        self._n_posts = n_replies + 1

    def event(self, event_id: str) -> Event:
        return _synthetic_event(self._seed, int(event_id.rpartition("-")[2]), self._n_posts)


@lru_cache(maxsize=2048)  # every split whole
def _synthetic_event(seed: int, index: int, n_posts: int) -> Event:
    return SyntheticSociety(seed).event(index, n_posts)


class _FromFile:
    """Events of a path; read when the first of them is asked for."""

    def __init__(self, path: Path, wanted: tuple[str, ...] | None, n_replies: int) -> None:
        self._path, self._wanted, self._n_replies = path, wanted, n_replies

    @property
    def ids(self) -> tuple[str, ...]:
        if self._wanted is not None:
            return self._wanted
        long_enough = tuple(i for i, e in self._events().items() if len(e.posts) > self._n_replies)
        if not long_enough:
            longest = max((len(e.posts) - 1 for e in self._events().values()), default=0)
            raise MfenvError(
                f"{self._path}: no event has the {self._n_replies} replies that the warm-up and "
                f"one step need (the longest has {longest}); use a smaller warmup= or batch="
            )
        return long_enough

    def event(self, event_id: str) -> Event:
        return self._events()[event_id]

    def _events(self) -> dict[str, Event]:
        return _load(str(self._path), self._path.stat().st_mtime_ns, self._wanted)


@lru_cache(maxsize=2)
def _load(path: str, modified: int, wanted: tuple[str, ...] | None) -> dict[str, Event]:
    return {e.event_id: e for e in load_events(path, event_ids=wanted)}


def _path(path: Path, split: str | None) -> Path:
    if not path.exists():
        raise MfenvError(
            f"events: {path} does not exist; allowed: {SYNTHETIC!r} or the path of events"
        )
    name = split or "train"
    found = [path / f"{name}{suffix}" for suffix in (".parquet", ".jsonl")]
    for candidate in found if path.is_dir() else ():
        if candidate.is_file():
            return candidate
    if split is not None:
        raise MfenvError(
            f"split {split!r} does not apply to {path}; it chooses among synthetic events, or in a "
            f"folder with {found[0].name} or {found[1].name}"
        )
    return path
