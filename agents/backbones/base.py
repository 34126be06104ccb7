"""What a backbone is: a causal language model that writes and scores text in batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from mfenv.errors import ModelError
from mfenv.noise import NoiseKey

if TYPE_CHECKING:
    from agents.backbones.sampling_parameters import Sampling
    from agents.prompts import PromptFormat
    from mfenv.dynamics.mean_field_text import Grammar

__all__ = [
    "Backbone",
    "Generation",
    "JsonBackbone",
    "Message",
    "Score",
    "UnusableAnswersError",
]

Message = Mapping[str, str]
"""A message of a conversation: ``role`` (system, user or assistant) and ``content``."""


@dataclass(frozen=True, slots=True)
class Generation:
    """A written text and what it cost."""

    text: str
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Score:
    """Log-probability (nats) of a completion behind its prompt, and its number of tokens."""

    log_probability: float
    tokens: int


@dataclass(slots=True)
class Usage:
    """What a backbone has done so far; counters that only grow."""

    prompt_tokens: int = 0
    reused_tokens: int = 0
    """Prompt tokens that were not read again, since another prompt begins with them too."""
    completion_tokens: int = 0
    model_seconds: float = 0.0
    """Time spent reading prompts and writing tokens, sampling included."""


@runtime_checkable
class Backbone(Protocol):
    """A language model. One call takes all the prompts of a phase."""

    name: str
    prompts: PromptFormat

    def generate(
        self,
        prompts: Sequence[str],
        keys: Sequence[NoiseKey],
        sampling: Sampling,
        never: Sequence[str] = (),
        grammar: Grammar | None = None,
    ) -> list[Generation]:
        """Write one text for each prompt, with the noise of its key.

        ``never`` are tokens that must not be written; what is no token of the model is ignored.
        A backbone that can hold its text to a ``grammar`` does.
        """
        ...

    def score(self, prompts: Sequence[str], completions: Sequence[str]) -> list[Score]:
        """Log-probabilities of given completions."""
        ...

    def describe(self) -> dict[str, str]:
        """Name, revision and what else identifies the model, for reports and journals."""
        ...


class UnusableAnswersError(ModelError):
    """A model answered, several times, but with nothing that can be used.

    ``indices`` are the requests that are meant; the others were answered.
    """

    def __init__(self, message: str, indices: Sequence[int]) -> None:
        super().__init__(message)
        self.indices = tuple(indices)


@runtime_checkable
class JsonBackbone(Protocol):
    """A language model that can be asked for JSON of a schema."""

    name: str

    def complete_json(
        self,
        conversations: Sequence[Sequence[Message]],
        schema: Mapping[str, Any],
        keys: Sequence[NoiseKey],
    ) -> list[dict[str, Any]]:
        """Answer each conversation with one JSON object that matches a JSON schema.

        Raises ``UnusableAnswersError`` for those whose answers would not match.
        """
        ...

    def describe(self) -> dict[str, str]:
        """Name, revision and what else identifies the model, for reports and journals."""
        ...
