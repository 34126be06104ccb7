"""A small real population for the tests: it reads the mean field, and writes label names.

The text of a reaction is its label code, so its labels can be read back exactly. Agents follow
the stance and behaviour that the mean field reports, doubt more under a statement, and otherwise
keep to their own taste: enough for every part of the process to leave a trace.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mfenv.distributions import UNIFORM
from mfenv.dynamics.mean_field_text import parse_shares, render, telling
from mfenv.dynamics.models import ActionRequest, ActionResult, SummaryRequest, SummaryResult
from mfenv.events.event import Event, Posts, Profile
from mfenv.labels import (
    DIMENSIONS,
    OFFSETS,
    SILENT_REPOST,
    SLICES,
    Labels,
    decode_code,
    encode_code,
    one_hot,
)
from mfenv.noise import categorical, uniform

N_DIMENSIONS = len(DIMENSIONS)


class Followers:
    """A policy model that samples labels from the shares in the mean field it reads."""

    def __init__(self) -> None:
        self.calls: list[int] = []  # requests of each call

    def act(self, requests: Sequence[ActionRequest]) -> list[ActionResult]:
        self.calls.append(len(requests))
        return [self._one(r) for r in requests]

    def _one(self, request: ActionRequest) -> ActionResult:
        read = parse_shares(request.mean_field)
        p = UNIFORM + (0 if read is None else 2 * read)
        if request.notices:
            p[SLICES["belief"]] += [0.0, 3.0 * len(request.notices)]
        u = uniform(*request.key, np.arange(N_DIMENSIONS))
        labels = np.array(
            [categorical(p[OFFSETS[d] : OFFSETS[d + 1]], u[d]) for d in range(N_DIMENSIONS)]
        )
        prompt = "\n".join([request.topic, *request.notices, request.mean_field, request.state])
        return ActionResult(decode_code(labels), prompt, len(prompt), N_DIMENSIONS)


class Summaries:
    """A mean-field model that writes the shares and a keyed remark."""

    def __init__(self) -> None:
        self.calls: list[int] = []
        self.requests: list[SummaryRequest] = []

    def summarise(self, requests: Sequence[SummaryRequest]) -> list[SummaryResult]:
        self.calls.append(len(requests))
        self.requests += requests
        return [
            SummaryResult(
                f"[{uniform(*r.key, 0):.6f}] "
                + render(r.perceived, telling(r.reactions), r.language),
                f"{r.mean_field} {len(r.history)} {len(r.reactions)}",
                len(r.reactions),
                1,
            )
            for r in requests
        ]


class Codes:
    """An annotator that reads label codes; other texts are silent reposts."""

    name = "codes"

    def __init__(self) -> None:
        self.calls: list[int] = []

    def label(
        self, topics: Sequence[str], texts: Sequence[str], languages: Sequence[str]
    ) -> Labels:
        self.calls.append(len(texts))
        return np.stack([_read(text) for text in texts])

    def probabilities(
        self, topics: Sequence[str], texts: Sequence[str], languages: Sequence[str]
    ) -> NDArray[np.float64]:
        return one_hot(self.label(topics, texts, languages))


def _read(text: str) -> Labels:
    try:
        return encode_code(text)
    except ValueError:
        return SILENT_REPOST


def make_event(n_agents: int = 30, event_id: str = "e1", known_labels: bool = False) -> Event:
    """An event of ``n_agents`` replies whose texts are keyed label codes."""
    rng = np.random.default_rng([n_agents, sum(map(ord, event_id))])
    sizes = [len(d.labels) for d in DIMENSIONS]
    labels = rng.integers(0, sizes, size=(n_agents + 1, N_DIMENSIONS)).astype(np.int8)
    parents = np.array([-1, *(int(rng.integers(0, i)) for i in range(1, n_agents + 1))])
    profiles = [Profile(followers=int(x)) for x in rng.integers(0, 20_000, n_agents + 1)]
    return Event(
        event_id=event_id,
        topic=f"topic of {event_id}",
        posts=Posts(
            offsets=np.arange(n_agents + 1, dtype=float),
            authors=np.arange(n_agents + 1, dtype=np.int32),
            parents=parents.astype(np.int32),
            texts=["source", *(decode_code(x) for x in labels[1:])],
            profiles=profiles,
        ),
        language="en",
        labels=labels if known_labels else None,
    )
