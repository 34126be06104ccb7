"""The tracks of the benchmark: which events are played, in which split, and what may be shown.

A split's list of events is fixed by a rule on ids (the lowest hashes among those that are long
enough), and the hash of the list stands in every result, so that two results on one list can be
told from two results on two. The lists of real data hold no id in the open, only hashes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.fidelity.cases import Case, sample, segments
from mfenv.errors import MfenvError
from mfenv.events.event import Event
from mfenv.events.load import load_events
from mfenv.events.synthetic.generator import SyntheticSociety

__all__ = ["SPLITS", "TRACKS", "Chosen", "Pool", "Track", "choose", "read_pool"]

SPLITS = ("validation", "test")
"""Settings are chosen on the first; the second is for final figures."""

HORIZON = 96
"""Reactions after the warm-up that are compared, in three windows."""

_SOCIETY = {"validation": 8, "test": 9}
"""Seeds of the societies whose events the synthetic track plays; no model was trained on them."""

_SYNTHETIC_POSTS, _SYNTHETIC_EVENTS = 300, 60


@dataclass(frozen=True, slots=True)
class Track:
    """A population that simulators are compared on."""

    name: str
    what: str
    backbone: str
    """What plays where no backbone is named; ``{event}`` stands for the stream that is left out."""
    open_text: bool
    """Whether the texts that are written may be published with an entry."""
    streams: bool = False
    """Long streams, cut into segments; intervals then draw whole streams."""
    files: Mapping[str, str] | None = None
    """Split → file inside a data folder; ``None`` where the events are generated."""
    events: int = 30
    """Events of the core grid; all that are long enough where those are fewer."""
    min_posts: int = 150
    """Events with fewer posts are left out."""
    warmup: int = 50
    horizon: int = HORIZON
    batch: int = 16


TRACKS: dict[str, Track] = {
    t.name: t
    for t in (
        Track(
            "synthetic",
            "events of the synthetic society, with exact labels; generated, so it runs anywhere",
            backbone="embedded-en",
            open_text=True,
        ),
        Track(
            "weibo",
            "Chinese microblog events (rumdect, CED), de-identified",
            backbone="weibo-s",
            open_text=False,
            files={"validation": "validation.parquet", "test": "test.parquet"},
        ),
        Track(
            "pheme",
            "English streams of breaking news, whole events in segments",
            backbone="embedded-en",
            open_text=False,
            streams=True,
            files={"validation": "streams.parquet", "test": "streams_rnr.parquet"},
        ),
        Track(
            "rumoureval",
            "English rumour threads (Twitter, Reddit), the few with 32 reactions: a short horizon "
            "and wide intervals",
            backbone="embedded-en",
            open_text=False,
            files={"validation": "validation.parquet", "test": "test.parquet"},
            min_posts=33,
            # Half of the threads have fewer than 20 posts, and none of the test split 200.
            warmup=8,
            horizon=24,
            batch=8,
        ),
    )
}
"""All tracks by name."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """The cases of a run, and where they came from."""

    cases: list[Case]
    file: str
    sha256: str
    """Of the data file; of the settings where the events are generated."""
    left_out: int
    """Streams that are too short for a segment."""
    min_posts: int


def choose(
    track: Track,
    split: str,
    data: Path | None,
    *,
    reactions: int,
    events: int | None = None,
    min_posts: int | None = None,
    half: str | None = None,
) -> Chosen:
    """The cases of a track's split, each with at least ``reactions`` reactions.

    ``data`` is a file of events in any format that is read, or the folder that holds the track's
    files; the synthetic track takes none, or a file in place of its own events. Raises
    ``MfenvError`` where there are too few events.
    """
    least = max(track.min_posts, reactions + 1) if min_posts is None else min_posts
    if least <= reactions:
        raise MfenvError(
            f"--min-posts {least} is not allowed; allowed: more than the {reactions} reactions of "
            f"the warm-up and the horizon"
        )
    pool = read_pool(track, split, data, least=least, events=events)
    if track.streams:
        if half is not None:
            raise MfenvError(f"--half is not for {track.name}; its streams are all measured")
        cases = pool.cases(track, reactions)[:events]
    else:
        long = sum(len(e.posts) >= least for e in pool.events)
        count = min(track.events, long // (1 if half is None else 2)) if events is None else events
        cases = sample(pool.events, count, least, half)
    groups = {case.group for case in cases}
    if len(groups) < 2:
        raise MfenvError(f"{pool.source}: too few events are long enough for an interval")
    left_out = len({e.event_id for e in pool.events} - groups) if track.streams else 0
    return Chosen(cases, pool.source, pool.sha256, left_out, least)


@dataclass(frozen=True, slots=True)
class Pool:
    """All events of a split."""

    events: list[Event]
    source: str
    sha256: str
    """Of the data file; of the settings where the events are generated."""

    def cases(self, track: Track, reactions: int) -> list[Case]:
        """Every case that could be played, however short."""
        if track.streams:
            return [case for event in self.events for case in segments(event, reactions)]
        return [Case(event.event_id, event) for event in self.events]


def read_pool(
    track: Track, split: str, data: Path | None, *, least: int, events: int | None = None
) -> Pool:
    """Read or generate the events of a split; those that are generated have ``least`` posts."""
    if data is not None:
        path = _file(track, split, data)
        return Pool(load_events(path), path.name, _file_hash(path))
    if track.files is not None:
        raise MfenvError(
            f"track {track.name} needs its data: give --data FILE or the folder that holds "
            f"{' and '.join(track.files.values())}"
        )
    society = SyntheticSociety(_SOCIETY[split])
    n_posts = max(_SYNTHETIC_POSTS, least)
    number = max(_SYNTHETIC_EVENTS, 2 * (track.events if events is None else events))
    source = f"synthetic society {society.seed}, {number} events of {n_posts} posts"
    sha256 = hashlib.sha256(source.encode()).hexdigest()
    return Pool(society.events(number, n_posts=n_posts), source, sha256)


def _file(track: Track, split: str, data: Path) -> Path:
    """The file of a split: ``data`` itself, or the track's file inside it."""
    if data.is_dir() and track.files is not None and (data / track.files[split]).is_file():
        return data / track.files[split]
    return data


def _file_hash(path: Path) -> str:
    if not path.is_file():
        return "a folder"
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
