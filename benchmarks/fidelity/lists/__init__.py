"""The official lists of events, one file for each track and split, as hashes.

Two results can be ranked against one another only if they are on the same events. A list says in
public which those are, without an id, a text or anything else that names them: SHA-256 digests of
the ids of all events that are long enough, in the order in which they are taken; and, of those that
the core grid plays, the hashes of their groups and of the labels of their real people. Lists are
made by ``python -m benchmarks.fidelity.lists``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files

from benchmarks.fidelity.cases import digest
from mfenv.labels import Labels, decode_code

__all__ = ["FORMAT", "CoreCase", "OfficialList", "label_digest", "name_of", "official"]

FORMAT = "mfenv-list/1"


@dataclass(frozen=True, slots=True)
class CoreCase:
    """A case of the core grid; what an entry must say of it."""

    event: str  # SHA-256 of its id
    group: str  # SHA-256 of the group's id
    domain: str | None
    language: str
    real: str  # digest of the labels of its first warm-up + horizon reactions


@dataclass(frozen=True, slots=True)
class OfficialList:
    """Which events a track's split has, and how they are played."""

    track: str
    split: str
    data: Mapping[str, str]
    """File name and SHA-256 of the events."""
    min_posts: int
    warmup: int
    horizon: int
    annotator: str
    """What labelled the real people."""
    events: Sequence[str]
    """SHA-256 of the ids of all cases that are long enough, in order."""
    core: Sequence[CoreCase]
    """The first of them, which the core grid plays."""
    prefixes: Sequence[str]
    """Hash of the list of the first 1, 2, … cases of the core grid; the last is its own."""


def label_digest(labels: Labels) -> str:
    """Digest of labels ``(n, 8)``, by their codes."""
    return digest(" ".join(decode_code(row) for row in labels))


def name_of(track: str, split: str) -> str:
    """File of a list."""
    return f"{track}-{split}.json"


@lru_cache(maxsize=16)
def official(track: str, split: str) -> OfficialList | None:
    """The list of a track's split; ``None`` where there is none."""
    path = files(__name__) / name_of(track, split)
    if not path.is_file():
        return None
    value = json.loads(path.read_text(encoding="utf-8"))
    assert value.pop("format") == FORMAT
    core = [CoreCase(**case) for case in value.pop("core")]
    return OfficialList(**value, core=core)
