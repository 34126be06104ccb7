"""Parameters of token sampling and their presets; plain data, no torch needed."""

from __future__ import annotations

from dataclasses import dataclass

from mfenv.errors import MfenvError

__all__ = ["PRESETS", "Preset", "Sampling", "preset"]


@dataclass(frozen=True, slots=True)
class Sampling:
    """Parameters of token sampling. The default is ancestral: what the model believes."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0  # 0 is no truncation
    repetition_penalty: float = 1.0
    max_new_tokens: int = 64
    median_shares: bool = False
    """Write each share of a mean field, where a grammar holds it, as the median of what the model
    believes, instead of drawing it: no other choice is as close on average."""

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise MfenvError(f"temperature {self.temperature} is not allowed; it must be positive")
        if not 0 < self.top_p <= 1:
            raise MfenvError(f"top_p {self.top_p} is not allowed; it must be in (0, 1]")

    @property
    def greedy(self) -> bool:
        """Whether the likeliest token is taken each time, which is temperature 0."""
        return self.top_k == 1


@dataclass(frozen=True, slots=True)
class Preset:
    """Sampling of the two models of a process."""

    policy: Sampling
    mean_field: Sampling


PRESETS: dict[str, Preset] = {
    # Truncation is poison for a distribution, so actions are drawn ancestrally. A mean field is
    # one summary, not a sample of a population: its shares are those that are closest on average.
    "ancestral": Preset(
        Sampling(), Sampling(temperature=0.1, max_new_tokens=200, median_shares=True)
    ),
    # The settings of the paper's released code.
    "paper": Preset(
        Sampling(temperature=0.8, top_p=0.85, top_k=50, repetition_penalty=1.2, max_new_tokens=50),
        Sampling(temperature=0.1, max_new_tokens=200),
    ),
    # Temperature 0: the same text each time. For comparing servers, not for populations.
    "greedy": Preset(Sampling(top_k=1), Sampling(top_k=1, max_new_tokens=200)),
}


def preset(name: str) -> Preset:
    """Return a preset by name; ``MfenvError`` names the allowed ones."""
    if name not in PRESETS:
        raise MfenvError(f"unknown sampling {name!r}; allowed: {', '.join(PRESETS)}")
    return PRESETS[name]
