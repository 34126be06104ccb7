"""Real actions one by one, with what the agent knew: topic, state, and a mean field if any."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from agents.backbones.base import Score
from mfenv.dynamics.models import ActionRequest
from mfenv.errors import MfenvError
from mfenv.events.event import Event, EventHead
from mfenv.events.load import iter_events, iter_heads, load_events
from mfenv.noise import NoiseKey, uniform
from mfenv.states import state_text

__all__ = [
    "RealAction",
    "actions_of",
    "fingerprint",
    "held_out",
    "likelihoods",
    "read_actions",
    "read_events",
    "read_heads",
    "stream_events",
    "told",
]

_CHOICE = 7411  # stream of the noise that chooses and orders actions


@dataclass(frozen=True, slots=True)
class RealAction:
    """What one person wrote, and to what."""

    event: int
    post: int
    topic: str
    language: str
    state: str
    text: str
    mean_field: str = ""

    @property
    def request(self) -> ActionRequest:
        """What a policy model is asked for this action."""
        return ActionRequest(
            self.topic, self.language, self.mean_field, (), self.state, NoiseKey(0, 0, 0)
        )


class Scorer(Protocol):
    """A policy model that scores real actions."""

    def score(self, requests: Sequence[ActionRequest], texts: Sequence[str]) -> list[Score]:
        """Log-probabilities of the texts."""
        ...


def read_events(path: Path) -> list[Event]:
    """Load events, all of one language and with reactions; ``MfenvError`` otherwise."""
    events = [e for e in load_events(path) if len(e.posts) > 1]
    _with_reactions(path, (e.head for e in events))
    return events


def read_heads(path: Path) -> list[EventHead]:
    """What :func:`read_events` would load, without its posts (:func:`iter_heads`)."""
    return _with_reactions(path, iter_heads(path))


def stream_events(path: Path) -> Iterator[Event]:
    """The events of :func:`read_events` one at a time; all are checked before the first."""
    _with_reactions(path, (e.head for e in iter_events(path)))
    return (e for e in iter_events(path) if len(e.posts) > 1)


def _with_reactions(path: Path, heads: Iterable[EventHead]) -> list[EventHead]:
    kept = [h for h in heads if h.posts > 1]
    if not kept:
        raise MfenvError(f"{path}: no event has a reaction; nothing can be learned from it")
    languages = sorted({h.language for h in kept})
    if len(languages) > 1:
        raise MfenvError(
            f"{path}: events in several languages ({', '.join(languages)}); train on one at a time"
        )
    return kept


def actions_of(
    events: Sequence[Event], *, seed: int, cap: int, limit: int | None = None
) -> list[RealAction]:
    """At most ``cap`` reactions of each event, and ``limit`` in all, in an order by ``seed``.

    Which ones, and their order, is a pure function of the events and the seed.
    """
    places = _places([len(e.posts) for e in events], seed, cap, limit)
    return [_action(events[i], i, post) for i, post in places]


def read_actions(path: Path, *, seed: int, cap: int, limit: int | None = None) -> list[RealAction]:
    """:func:`actions_of` the events of :func:`read_events`, of which one is held at a time.

    They are chosen by the numbers of posts alone; events with none of them are not read.
    """
    heads = read_heads(path)
    places = _places([h.posts for h in heads], seed, cap, limit)
    posts: dict[str, list[tuple[int, int]]] = {}
    for i, post in places:
        posts.setdefault(heads[i].event_id, []).append((i, post))
    found = {
        (i, post): _action(event, i, post)
        for event in iter_events(path, event_ids=posts)
        for i, post in posts[event.event_id]
    }
    return [found[place] for place in places]


def _places(sizes: Sequence[int], seed: int, cap: int, limit: int | None) -> list[tuple[int, int]]:
    """Event and post of each action of :func:`actions_of`, for events of so many posts."""
    chosen: list[tuple[int, int]] = []
    for i, size in enumerate(sizes):
        posts = np.arange(1, size)
        u = uniform(seed, _CHOICE, i, posts)
        chosen += [(i, int(posts[k])) for k in np.argsort(u, kind="stable")[:cap]]
    if len(sizes) > 1:  # a stretch of the order has people of many events
        order = uniform(seed, _CHOICE + 1, [c[0] for c in chosen], [c[1] for c in chosen])
        chosen = [chosen[k] for k in np.argsort(order, kind="stable")]
    return chosen[:limit]


def _action(event: Event, i: int, post: int) -> RealAction:
    profile = None if event.posts.profiles is None else event.posts.profiles[post]
    state = state_text(profile, event.language)
    return RealAction(i, post, event.topic, event.language, state, event.posts.texts[post])


def fingerprint(actions: Sequence[RealAction]) -> str:
    """A hash of the actions and their order."""
    digest = hashlib.sha256()
    for a in actions:
        for part in (a.topic, a.language, a.state, a.text, a.mean_field):
            data = part.encode("utf-8", "surrogatepass")
            digest.update(len(data).to_bytes(8, "little") + data)
    return "sha256:" + digest.hexdigest()[:16]


def likelihoods(policy: Scorer, actions: Sequence[RealAction]) -> NDArray[np.float64]:
    """-log p (nats) and tokens of each action: ``(n, 2)``."""
    scores = policy.score([a.request for a in actions], [a.text for a in actions])
    return np.array([(-s.log_probability, s.tokens) for s in scores]).reshape(-1, 2)


def held_out(
    scored: Mapping[str, NDArray[np.float64]], actions: Sequence[RealAction]
) -> dict[str, dict[str, float]]:
    """Mean NLL by policy, and the paired difference from the first one with a 95% half-width.

    ``scored`` are :func:`likelihoods`. The half-width is that of the mean per action, with whole
    events as the independent parts (a normal interval of the ratio estimator).
    """
    event = np.array([a.event for a in actions])
    first = next(iter(scored.values()))
    result = {}
    for name, rows in scored.items():
        gap = rows[:, 0] - first[:, 0]
        sums = np.bincount(event, gap - gap.mean())[np.unique(event)]
        n = len(sums)
        spread = math.sqrt(n / max(n - 1, 1) * float(sums @ sums))  # of the sum over all events
        result[name] = {
            "per_token": round(float(rows[:, 0].sum() / rows[:, 1].sum()), 5),
            "per_action": round(float(rows[:, 0].mean()), 5),
            "difference_per_token": round(float(gap.sum() / rows[:, 1].sum()), 5),
            "difference_per_action": round(float(gap.mean()), 5),
            "half_width_per_action": round(1.96 * spread / len(rows), 5),
        }
    return result


def told(figures: Mapping[str, Mapping[str, float]], count: int) -> str:
    """The figures of :func:`held_out` in words."""
    lines = [f"NLL of {count} held-out actions, nats a token (a whole action):"]
    lines += [
        f"  {name}: {row['per_token']:.4f} ({row['per_action']:.3f}; difference "
        f"{row['difference_per_action']:+.3f} ± {row['half_width_per_action']:.3f})"
        for name, row in figures.items()
    ]
    return "\n".join(lines)
