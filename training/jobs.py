"""The three jobs of a small backbone, as packed training sequences.

Acting (topic, mean field, state → action), rewriting the mean field (old one and the latest
actions → new one), and writing a mean field from the topic alone (the prior of IB-Tune).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from torch.utils.data import Dataset

from agents.prompts import END, REACTION_CHARACTERS, TaggedPrompts, clip
from mfenv.noise import generator
from training.corpus import StepCorpus, StepExample
from training.packing import Packed, pack

__all__ = ["ACTING", "JOBS", "PRIOR", "SUMMARISING", "JobDataset", "acting", "prior", "summarising"]

ACTING, SUMMARISING, PRIOR = 0, 1, 2
JOBS = ("acting", "summarising", "prior")
PRIOR_SHARE = 0.04  # of the sequences
_WITHOUT, _REACTIONS_ONLY = 0.22, 0.06  # of the acting sequences: no mean field; no shares in it
_LIMIT = 448  # tokens of an acting sequence
_FORMAT = TaggedPrompts()


def _ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False).input_ids)


def acting(
    tokenizer: Any, step: StepExample, mean_field: str, *, limit: int | None = None
) -> Packed:
    """The actions of a step behind one prefix with the given mean field.

    With ``limit``, the first agents that fit into so many tokens (at least one): attention is
    quadratic in the length of a sequence.
    """
    prefix = _FORMAT.policy_prefix(step.topic, step.notices, mean_field, step.language)
    prompts = [_FORMAT.policy_suffix(s, step.language) for s in step.states]
    completions = [clip(a, REACTION_CHARACTERS) + END for a in step.actions]
    encoded = tokenizer([prefix, *prompts, *completions], add_special_tokens=False).input_ids
    n = len(prompts)
    before, after = encoded[1 : n + 1], encoded[n + 1 :]
    if limit is not None:
        lengths = len(encoded[0]) + np.cumsum(
            [len(b) + len(a) for b, a in zip(before, after, strict=True)]
        )
        n = max(1, int(np.searchsorted(lengths, limit, side="right")))
    return pack(encoded[0], before[:n], after[:n], ACTING)


def summarising(tokenizer: Any, step: StepExample) -> Packed:
    """Rewrite the mean field after a step."""
    prompt = _FORMAT.summary_parts(step.topic, step.mean_field, step.observed)
    return pack(
        _ids(tokenizer, prompt), [[]], [_ids(tokenizer, step.next_mean_field + END)], SUMMARISING
    )


def prior(tokenizer: Any, step: StepExample) -> Packed:
    """Write a mean field from the topic alone."""
    prompt = _FORMAT.prior_prompt(step.topic, step.language)
    return pack(_ids(tokenizer, prompt), [[]], [_ids(tokenizer, step.next_mean_field + END)], PRIOR)


class JobDataset(Dataset[Packed]):
    """``size`` packed sequences; sequence ``i`` is a pure function of (seed, i)."""

    def __init__(
        self,
        corpus: StepCorpus,
        tokenizer: Any,
        *,
        size: int,
        seed: int,
        summarising: float = 0.12,
    ) -> None:
        """``summarising`` is the share of sequences that rewrite a mean field."""
        self._corpus, self._tokenizer, self._size, self._seed = corpus, tokenizer, size, seed
        self._jobs = np.cumsum([1 - summarising - PRIOR_SHARE, summarising, PRIOR_SHARE])

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, index: int) -> Packed:
        """Draw the job, then the step."""
        rng = generator(self._seed, index, 1)
        job = int(np.searchsorted(self._jobs, rng.random(), side="right"))
        if job == PRIOR:
            return prior(self._tokenizer, self._corpus.unplanned(index))
        if job == SUMMARISING:
            return summarising(self._tokenizer, self._corpus.rewriting(index))
        step = self._corpus.example(index)
        draw = rng.random()
        if draw < _WITHOUT:
            field = ""
        elif draw < _WITHOUT + _REACTIONS_ONLY:
            field = step.reactions_only
        else:
            field = step.mean_field
        return acting(self._tokenizer, step, field, limit=_LIMIT)
