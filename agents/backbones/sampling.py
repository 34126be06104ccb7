"""How tokens are drawn: sampling parameters, their presets, and noise that belongs to an agent."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import LogitsProcessor

from mfenv.errors import MfenvError
from mfenv.noise import NoiseKey, uniform

__all__ = ["PRESETS", "KeyedSampling", "Preset", "Sampling", "preset"]


@dataclass(frozen=True, slots=True)
class Sampling:
    """Parameters of token sampling. The default is ancestral: what the model believes."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0  # 0 is no truncation
    repetition_penalty: float = 1.0
    max_new_tokens: int = 64

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise MfenvError(f"temperature {self.temperature} is not allowed; it must be positive")
        if not 0 < self.top_p <= 1:
            raise MfenvError(f"top_p {self.top_p} is not allowed; it must be in (0, 1]")


@dataclass(frozen=True, slots=True)
class Preset:
    """Sampling of the two models of a process."""

    policy: Sampling
    mean_field: Sampling


PRESETS: dict[str, Preset] = {
    # Truncation is poison for a distribution, so actions are drawn ancestrally. A mean field is
    # one summary, not a sample of a population: cold, its shares track the real ones closer.
    "ancestral": Preset(Sampling(), Sampling(temperature=0.1, max_new_tokens=200)),
    # The settings of the paper's released code.
    "paper": Preset(
        Sampling(temperature=0.8, top_p=0.85, top_k=50, repetition_penalty=1.2, max_new_tokens=50),
        Sampling(temperature=0.1, max_new_tokens=200),
    ),
}


def preset(name: str) -> Preset:
    """Return a preset by name; ``MfenvError`` names the allowed ones."""
    if name not in PRESETS:
        raise MfenvError(f"unknown sampling {name!r}; allowed: {', '.join(PRESETS)}")
    return PRESETS[name]


class KeyedSampling(LogitsProcessor):  # type: ignore[misc]
    """Draws each row's next token by the inverse CDF at a uniform keyed by its agent.

    It comes last among the processors and leaves one token possible, so that greedy decoding
    takes it. Keys are (seed, agent, step, token): a row's draws do not depend on its place in the
    batch.
    """

    def __init__(self, keys: Sequence[NoiseKey], prompt_length: int) -> None:
        self._keys = np.asarray([tuple(k) for k in keys], dtype=np.int64)  # (B, 3)
        self._prompt_length = prompt_length

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Scores ``(B, V)`` → the same, -inf except at the drawn token."""
        token = input_ids.shape[1] - self._prompt_length
        u = uniform(self._keys[:, 0], self._keys[:, 1], self._keys[:, 2], token)
        cdf = scores.double().softmax(-1).cumsum(-1)
        target = torch.from_numpy(u).to(cdf.device)[:, None] * cdf[:, -1:]
        drawn = torch.searchsorted(cdf, target, right=True).clamp(max=cdf.shape[1] - 1)
        return torch.full_like(scores, -torch.inf).scatter_(1, drawn, 0.0)
