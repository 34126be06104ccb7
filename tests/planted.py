"""Populations with a planted rule: which of two things somebody writes follows from who they are,
or from the topic."""

from __future__ import annotations

import numpy as np

from mfenv.events.event import Event, Posts, Profile
from mfenv.labels import encode_code

WORDS = ("This is true and I agree.", "Who says so? I doubt it.")
LABELS = (encode_code("scpcsbso"), encode_code("cancodsq"))
TOPICS = ("The mayor opens a new bridge", "A star buys a football club")


def planted_events(count: int, *, by: str, posts: int = 25, seed: int = 0) -> list[Event]:
    """Events in which verified people (``by="state"``), or everybody on one kind of topic
    (``by="topic"``), write ``WORDS[1]`` and the others ``WORDS[0]``."""
    rng = np.random.default_rng([seed, count])
    events = []
    for i in range(count):
        kind = i % 2
        who = rng.random(posts) < 0.5
        said = who.astype(int) if by == "state" else np.full(posts, kind)
        events.append(
            Event(
                event_id=f"planted-{seed}-{i}",
                topic=f"{TOPICS[kind]}, part {seed} {i}",
                posts=Posts(
                    offsets=np.arange(posts, dtype=float),
                    authors=np.arange(posts, dtype=np.int32),
                    parents=np.array([-1, *[0] * (posts - 1)], dtype=np.int32),
                    texts=[WORDS[s] for s in said],
                    profiles=[Profile(gender="f", verified=bool(v)) for v in who],
                ),
                language="en",
                labels=np.array([LABELS[s] for s in said], dtype=np.int8),
            )
        )
    return events
