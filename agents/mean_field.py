"""The mean-field model μ: a backbone that rewrites the population's summary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agents.backbones.base import Backbone, Generation
from agents.backbones.sampling_parameters import PRESETS, Sampling
from mfenv.dynamics.models import SummaryRequest, SummaryResult
from mfenv.errors import MfenvError
from mfenv.noise import NoiseKey

__all__ = ["BackboneMeanField"]

SUMMARISER = -1  # the agent of a summary's noise key
DEFAULT = PRESETS["ancestral"].mean_field


@dataclass(frozen=True)
class BackboneMeanField:
    """Rewrites all mean fields in one backbone call; also writes them from the topic alone."""

    backbone: Backbone
    sampling: Sampling = DEFAULT

    def __post_init__(self) -> None:
        # A backbone that can only act says so, before a run has begun.
        if not getattr(self.backbone, "summarises", True):
            raise MfenvError(
                f"backbone {self.backbone.name!r} writes actions but no mean field; use a method "
                f"that has none written: mf-counted, state, recent or popular"
            )

    def summarise(self, requests: Sequence[SummaryRequest]) -> list[SummaryResult]:
        """Return m_{t+1} in the order of the requests."""
        prompts = [self.backbone.prompts.summary_prompt(r) for r in requests]
        return self._write(prompts, [r.key for r in requests], [r.language for r in requests])

    def prior(
        self, topics: Sequence[str], languages: Sequence[str], keys: Sequence[NoiseKey]
    ) -> list[SummaryResult]:
        """Draw mean fields from the topics alone: the prior r(m)."""
        prompts = [
            self.backbone.prompts.prior_prompt(t, x) for t, x in zip(topics, languages, strict=True)
        ]
        return self._write(prompts, keys, languages)

    def _write(
        self, prompts: Sequence[str], keys: Sequence[NoiseKey], languages: Sequence[str]
    ) -> list[SummaryResult]:
        grammars = [self.backbone.prompts.summary_grammar(x) for x in languages]
        written: dict[int, Generation] = {}
        for grammar in dict.fromkeys(grammars):  # one, unless a model writes in two languages
            rows = [i for i, g in enumerate(grammars) if g == grammar]
            texts = self.backbone.generate(
                [prompts[i] for i in rows], [keys[i] for i in rows], self.sampling, grammar=grammar
            )
            written.update(zip(rows, texts, strict=True))
        return [
            SummaryResult(g.text.strip("\n "), p, g.prompt_tokens, g.completion_tokens)
            for p, g in ((p, written[i]) for i, p in enumerate(prompts))
        ]
