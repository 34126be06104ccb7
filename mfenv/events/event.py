"""One event: a topic with its posts in order of time, stored by column.

A column store keeps a million posts small and fast to load; ``event.posts[i]`` gives one post as
a typed record.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mfenv.labels import Labels

__all__ = ["DOMAINS", "Event", "EventHead", "Post", "Posts", "Profile"]

DOMAINS: tuple[str, ...] = (
    "Crime",
    "Culture",
    "Health",
    "News",
    "Politics",
    "Sports",
    "Technology",
)


@dataclass(frozen=True, slots=True)
class Profile:
    """What is known of an author. ``None`` means unknown; counts are non-negative."""

    location: str | None = None
    description: str | None = None
    gender: str | None = None  # "m" or "f"
    friends: int | None = None  # accounts followed
    followers: int | None = None
    mutual: int | None = None  # mutual followers
    verified: bool | None = None
    verified_type: int | None = None
    reposts: int | None = None  # of the post the profile came with
    comments: int | None = None
    likes: int | None = None


@dataclass(frozen=True, slots=True)
class Post:
    """One post. ``author`` and ``parent`` are indices within the event."""

    offset: float  # seconds since the source post
    author: int
    parent: int | None  # None for a source post
    text: str  # "" is a repost without words of its own
    kind: str | None = None  # "source", "repost", "comment", or None where not known
    stance: str | None = None  # human label where there is one
    profile: Profile | None = None


@dataclass(frozen=True, slots=True)
class Posts(Sequence[Post]):
    """The posts of an event by column, all of length ``n``, in order of time.

    ``parents`` uses -1 for a source post. ``profiles`` has one entry per post; the columns
    ``kinds``, ``stances`` and ``profiles`` are ``None`` where the whole event lacks them.
    """

    offsets: NDArray[np.float64]
    authors: NDArray[np.int32]
    parents: NDArray[np.int32]
    texts: Sequence[str]
    kinds: Sequence[str | None] | None = None
    stances: Sequence[str | None] | None = None
    profiles: Sequence[Profile | None] | None = None

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        i = range(len(self))[index]
        parent = int(self.parents[i])
        return Post(
            offset=float(self.offsets[i]),
            author=int(self.authors[i]),
            parent=None if parent < 0 else parent,
            text=self.texts[i],
            kind=None if self.kinds is None else self.kinds[i],
            stance=None if self.stances is None else self.stances[i],
            profile=None if self.profiles is None else self.profiles[i],
        )

    def __iter__(self) -> Iterator[Post]:
        return (self[i] for i in range(len(self)))


@dataclass(frozen=True, slots=True)
class Event:
    """A topic and its posts. ``posts[0]`` is the source; the agents are the authors of the rest."""

    event_id: str
    topic: str
    posts: Posts
    language: str  # "en" or "zh"
    domain: str | None = None  # one of DOMAINS, or None where unknown
    label: str | None = None  # "rumor", "non-rumor", "true", "false", "unverified", or None
    source: str = ""  # the corpus
    labels: Labels | None = None  # exact labels (n, 8), where known (synthetic events)
    meta: Mapping[str, Any] = field(default_factory=dict)  # JSON-able extras

    @property
    def truth(self) -> bool | None:
        """Whether the topic is true: ``True``, ``False`` or not known."""
        return {"true": True, "non-rumor": True, "false": False, "rumor": False}.get(
            self.label or ""
        )

    @property
    def head(self) -> EventHead:
        """Enough to choose the event by."""
        return EventHead(self.event_id, self.language, len(self.posts))


@dataclass(frozen=True, slots=True)
class EventHead:
    """What events are chosen by, before their posts are read."""

    event_id: str
    language: str
    posts: int
    """Number of posts, the source included."""
