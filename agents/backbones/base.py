"""What a backbone is: a causal language model that writes and scores text in batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from mfenv.noise import NoiseKey

if TYPE_CHECKING:
    from agents.backbones.sampling import Sampling
    from agents.prompts import PromptFormat

__all__ = ["Backbone", "Generation", "Score"]


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
    ) -> list[Generation]:
        """Write one text for each prompt, with the noise of its key.

        ``never`` are tokens that must not be written; what is no token of the model is ignored.
        """
        ...

    def score(self, prompts: Sequence[str], completions: Sequence[str]) -> list[Score]:
        """Log-probabilities of given completions."""
        ...

    def describe(self) -> dict[str, str]:
        """Name, revision and what else identifies the model, for reports and journals."""
        ...
