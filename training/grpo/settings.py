"""How a language model is trained as a planner."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from mfenv.envs.social_text import SocialTextEnv
from training.sft import SFTSettings

__all__ = ["GRPOSettings", "World", "first_settings"]


def first_settings() -> SFTSettings:
    """Of the supervised start: long enough to learn the grammar, not more."""
    return SFTSettings(steps=300, batch=16, learning_rate=2e-3, save_steps=50)


@dataclass(frozen=True, slots=True)
class World:
    """What is planned in."""

    dynamics: str = "society"
    """The tier: ``"society"``, or ``"llm"`` with the two below."""
    population: str = "embedded-en"
    """The backbone that plays the people in the tier of language models."""
    method: str = "mf"
    """How that tier makes its mean field."""
    objective: str = "misbelief"
    """What is harmful."""
    horizon: int = 16
    """Steps of an episode."""

    def env(self, split: str) -> SocialTextEnv:
        """An environment over the scenarios of a split."""
        kwargs: dict[str, Any] = {}
        if self.dynamics == "llm":
            kwargs = {"backbone": self.population, "method": self.method}
        return SocialTextEnv(
            self.dynamics, split=split, objective=self.objective, horizon=self.horizon, **kwargs
        )


@dataclass(frozen=True, slots=True)
class GRPOSettings:
    """How a planner is trained."""

    steps: int = 150
    """Optimiser steps of GRPO."""
    groups: int = 8
    """Decisions an optimiser step, each with a group of answers."""
    group: int = 8
    """Answers to one decision that are compared; 2 or more."""
    learning_rate: float = 3e-4
    """Of GRPO; constant after 5% of warm-up."""
    beta: float = 0.0
    """Weight of the KL divergence from the supervised start; 0 is off."""
    r: int = 0
    """Rank of LoRA; 0 trains all weights, which is right for the small backbones: they have never
    seen some of the tokens of an answer, and their embeddings have to learn them."""
    alpha: int = 64
    """LoRA's scale."""
    seed: int = 0
    """Seed of everything random."""
    save_steps: int = 25
    """Steps between checkpoints."""
    validation_seeds: int = 2
    """Episodes of each held-out scenario."""
    report_to: str = "tensorboard"
    """Where the curves go, as ``transformers`` names it."""
    sft: SFTSettings = field(default_factory=first_settings)
    """The supervised start; its r, alpha and seed are those above."""
