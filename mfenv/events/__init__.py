"""Events: what a population read and wrote, and how they are loaded, checked and stored."""

from mfenv.events.event import DOMAINS, Event, EventHead, Post, Posts, Profile
from mfenv.events.jsonl import write_jsonl
from mfenv.events.load import EventReader, iter_events, iter_heads, load_events
from mfenv.events.quarantine import LoadReport

__all__ = [
    "DOMAINS",
    "Event",
    "EventHead",
    "EventReader",
    "LoadReport",
    "Post",
    "Posts",
    "Profile",
    "iter_events",
    "iter_heads",
    "load_events",
    "write_jsonl",
]
