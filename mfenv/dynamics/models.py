"""What the mean-field process needs of models, as Protocols. The models live in ``agents``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from mfenv.labels import Labels
from mfenv.noise import NoiseKey

__all__ = [
    "ActionRequest",
    "ActionResult",
    "Annotator",
    "MeanFieldModel",
    "PolicyModel",
    "Reaction",
    "SummaryRequest",
    "SummaryResult",
]


@dataclass(frozen=True, slots=True)
class ActionRequest:
    """One agent is asked to act. Requests of one step share topic, notices and mean field."""

    topic: str
    language: str
    mean_field: str  # m_t
    notices: tuple[str, ...]  # what running interventions show to every agent
    state: str  # s_i
    key: NoiseKey
    opinion: str = ""  # what this person thinks so far, where that is kept


@dataclass(frozen=True, slots=True)
class ActionResult:
    """An action and what it cost. ``prompt`` is the exact text the model was given."""

    text: str
    prompt: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Reaction:
    """A reaction as the mean-field model sees it. ``weight`` is 1 unless it is amplified."""

    text: str
    state: str
    labels: Labels  # (8,)
    weight: float = 1.0
    popularity: float = 0.0  # replies and likes, where known


@dataclass(frozen=True, slots=True)
class SummaryRequest:
    """The mean-field model is asked for m_{t+1}.

    ``perceived`` is the population distribution ``(23,)`` as an exponential moving average over
    the reactions that reached the mean field, the latest batch included: what a light,
    counting mean-field model writes down. A language model sees only the texts.
    """

    topic: str
    language: str
    mean_field: str  # m_t
    reactions: tuple[Reaction, ...]  # the latest batch, after interventions
    history: tuple[Reaction, ...]  # at most the last 30 reactions before this batch
    perceived: NDArray[np.float64]
    key: NoiseKey


@dataclass(frozen=True, slots=True)
class SummaryResult:
    """A new mean field and what it cost."""

    text: str
    prompt: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0


@runtime_checkable
class PolicyModel(Protocol):
    """π: writes actions. One call takes the requests of all worlds that are in flight."""

    def act(self, requests: Sequence[ActionRequest]) -> list[ActionResult]:
        """Return one action for each request, in order. Raise ``ModelError`` on failure."""
        ...


@runtime_checkable
class MeanFieldModel(Protocol):
    """μ: rewrites the summaries. One call takes the requests of all worlds in flight."""

    def summarise(self, requests: Sequence[SummaryRequest]) -> list[SummaryResult]:
        """Return one mean field for each request, in order. Raise ``ModelError`` on failure."""
        ...


@runtime_checkable
class Annotator(Protocol):
    """Maps reactions to labels in the eight dimensions."""

    name: str

    def probabilities(
        self, topics: Sequence[str], texts: Sequence[str], languages: Sequence[str]
    ) -> NDArray[np.float64]:
        """Label probabilities ``(n, 23)``, summing to one in every dimension."""
        ...

    def label(
        self, topics: Sequence[str], texts: Sequence[str], languages: Sequence[str]
    ) -> Labels:
        """Labels ``(n, 8)`` of reactions to their topics."""
        ...
