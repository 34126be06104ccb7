"""What is simulated: events that are chosen by a hash of their ids, or streams in segments."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from mfenv.errors import MfenvError
from mfenv.events.event import Event, Posts

__all__ = ["HALVES", "Case", "digest", "list_digest", "sample", "segments"]

HALVES = ("first", "second")
"""Halves of the events that are long enough, in the order of their hashes."""


@dataclass(frozen=True, slots=True)
class Case:
    """One stretch of an event; cases of one group are not independent."""

    group: str
    event: Event


def digest(text: str) -> str:
    """SHA-256 of an id: what stands for it wherever the id itself is not to be published."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def list_digest(cases: Sequence[Case]) -> str:
    """SHA-256 of the ids of a list of cases, in order."""
    return digest("\n".join(case.event.event_id for case in cases))


def sample(
    events: Sequence[Event], count: int, min_posts: int, half: str | None = None
) -> list[Case]:
    """``count`` events of at least ``min_posts`` posts: those whose id has the lowest hash.

    With ``half`` those of one half of the events, in the order of their hashes.
    """
    long = sorted(
        (e for e in events if len(e.posts) >= min_posts), key=lambda e: digest(e.event_id)
    )
    if half is not None:
        middle = (len(long) + 1) // 2
        long = long[:middle] if half == HALVES[0] else long[middle:]
    if len(long) < count:
        raise MfenvError(
            f"{len(long)} events{'' if half is None else f' of the {half} half'} have at least "
            f"{min_posts} posts, {count} are asked for; lower --events or --min-posts"
        )
    return [Case(e.event_id, e) for e in long[:count]]


def segments(event: Event, length: int) -> list[Case]:
    """Cut an event's reactions into whole stretches of ``length``, each with the same source.

    A parent outside its stretch becomes the source.
    """
    posts, cases = event.posts, []
    for k, start in enumerate(range(1, len(posts) - length + 1, length)):
        index = np.array([0, *range(start, start + length)])
        parents = np.searchsorted(index, posts.parents[index])
        known = (parents < len(index)) & (
            index[np.minimum(parents, len(index) - 1)] == posts.parents[index]
        )
        parents = np.where(known, parents, 0).astype(np.int32)
        parents[0] = -1
        cut = Posts(
            offsets=posts.offsets[index],
            authors=posts.authors[index],
            parents=parents,
            texts=[posts.texts[i] for i in index],
            kinds=None if posts.kinds is None else [posts.kinds[i] for i in index],
            stances=None if posts.stances is None else [posts.stances[i] for i in index],
            profiles=None if posts.profiles is None else [posts.profiles[i] for i in index],
        )
        labels = None if event.labels is None else event.labels[index]
        name = f"{event.event_id}+{k}"
        cases.append(
            Case(
                event.event_id,
                replace(event, event_id=name, posts=cut, labels=labels, meta={}),
            )
        )
    return cases
