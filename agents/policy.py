"""The policy model π: a backbone that writes actions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agents.backbones.base import Backbone, Score
from agents.backbones.sampling_parameters import Sampling
from agents.prompts import REACTION_CHARACTERS, clip
from mfenv.dynamics.models import ActionRequest, ActionResult
from mfenv.noise import NoiseKey

__all__ = ["BackbonePolicy"]

DEFAULT = Sampling()


@dataclass(frozen=True)
class BackbonePolicy:
    """Writes one action for each request, all in one backbone call.

    Policies of one backbone and equal sampling are equal, so that processes of different methods
    share that call.
    """

    backbone: Backbone
    sampling: Sampling = DEFAULT

    def act(self, requests: Sequence[ActionRequest]) -> list[ActionResult]:
        """Return actions in the order of the requests."""
        prompts = [self.backbone.prompts.policy_prompt(r) for r in requests]
        return self.write(prompts, [r.key for r in requests])

    def score(self, requests: Sequence[ActionRequest], texts: Sequence[str]) -> list[Score]:
        """Log-probabilities of real actions, the end of the text included."""
        return self.score_prompts([self.backbone.prompts.policy_prompt(r) for r in requests], texts)

    def write(self, prompts: Sequence[str], keys: Sequence[NoiseKey]) -> list[ActionResult]:
        """Write one action behind each prompt."""
        written = self.backbone.generate(
            prompts, keys, self.sampling, never=self.backbone.prompts.never_in_actions
        )
        return [
            ActionResult(self._action(g.text), p, g.prompt_tokens, g.completion_tokens)
            for p, g in zip(prompts, written, strict=True)
        ]

    def score_prompts(self, prompts: Sequence[str], texts: Sequence[str]) -> list[Score]:
        """Log-probability of each real action behind its prompt."""
        return self.backbone.score(prompts, [clip(t, REACTION_CHARACTERS) for t in texts])

    def _action(self, text: str) -> str:
        if self.backbone.prompts.chat:
            # A chat model may wrap its one line in quotes or go on explaining.
            lines = [line for line in text.strip().splitlines() if line.strip()]
            text = lines[0].strip().strip("\"“”'") if lines else ""
        return clip(text, REACTION_CHARACTERS)
