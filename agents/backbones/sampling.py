"""How tokens are drawn: by sampling parameters, with noise that belongs to an agent."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from transformers import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from agents.backbones.sampling_parameters import PRESETS, Preset, Sampling, preset
from agents.backbones.token_grammar import TokenGrammar
from mfenv.noise import NoiseKey, uniform

__all__ = ["PRESETS", "KeyedSampling", "Preset", "Sampling", "inverse_cdf", "preset"]

_BLOCK = 64  # tokens that are summed together


class KeyedSampling:
    """Draws each row's next token by the inverse CDF at a uniform keyed by its agent.

    Keys are (seed, agent, step, token): a row's draws do not depend on its place in the batch or
    on who else is in it. ``never`` are token ids that are not drawn; a ``grammar`` says what may
    follow what (then a sampler is good for one text a row, from its first token on).
    """

    def __init__(
        self,
        sampling: Sampling,
        keys: Sequence[NoiseKey],
        never: Sequence[int] = (),
        grammar: TokenGrammar | None = None,
    ) -> None:
        self._grammar, self._median = grammar, sampling.median_shares
        self._states = None if grammar is None else grammar.start(len(keys))
        self._keys = np.asarray([tuple(k) for k in keys], dtype=np.int64).reshape(-1, 3)
        self._never = torch.tensor(list(never), dtype=torch.long)
        self._warpers = LogitsProcessorList()
        if sampling.repetition_penalty != 1.0:
            self._warpers.append(RepetitionPenaltyLogitsProcessor(sampling.repetition_penalty))
        if sampling.temperature != 1.0:
            self._warpers.append(TemperatureLogitsWarper(sampling.temperature))
        if sampling.top_k:
            self._warpers.append(TopKLogitsWarper(sampling.top_k))
        if sampling.top_p < 1.0:
            self._warpers.append(TopPLogitsWarper(sampling.top_p))

    def __call__(
        self, logits: torch.Tensor, rows: torch.Tensor, written: torch.Tensor
    ) -> torch.Tensor:
        """Logits ``(b, V)`` of rows ``(b,)`` that wrote ``(b, t)`` so far → tokens ``(b,)``."""
        logits = logits.float()
        if len(self._never):
            logits = logits.index_fill(1, self._never.to(logits.device), -torch.inf)
        if self._grammar is not None and self._states is not None:
            at = rows.cpu()
            if written.shape[1]:
                self._states[at] = self._grammar.advance(self._states[at], written[:, -1].cpu())
            logits = self._grammar.forbid(logits, self._states[at])
        believed = logits
        if self._warpers:
            logits = self._warpers(written, logits)
        keys = self._keys[rows.cpu().numpy()]
        u = torch.from_numpy(uniform(keys[:, 0], keys[:, 1], keys[:, 2], written.shape[1]))
        u = u.to(logits.device)
        if self._grammar is not None and self._states is not None and self._median:
            ordered = self._grammar.ordered(self._states[at]).to(logits.device)
            logits = torch.where(ordered[:, None], believed, logits)
            u = torch.where(ordered, 0.5, u)
        return inverse_cdf(logits.softmax(-1), u)


def inverse_cdf(p: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """The least token whose cumulative probability exceeds ``u``.

    Probabilities ``(b, V)`` (they need not sum to exactly 1) and uniforms ``(b,)`` in [0, 1) give
    ``(b,)``; a token of probability 0 is never drawn. The vocabulary is summed in blocks, in
    double precision, and only the block that ``u`` falls into is accumulated token by token.
    """
    b, v = p.shape
    blocks = -(-v // _BLOCK)
    p = torch.nn.functional.pad(p, (0, blocks * _BLOCK - v)).view(b, blocks, _BLOCK)
    upto = p.sum(-1, dtype=torch.double).cumsum(-1)
    target = u[:, None] * upto[:, -1:]
    block = torch.searchsorted(upto, target, right=True).clamp(max=blocks - 1)  # (b, 1)
    before = torch.where(block > 0, upto.gather(1, (block - 1).clamp(min=0)), 0.0)
    inside = p.gather(1, block[:, :, None].expand(-1, -1, _BLOCK))[:, 0].double()
    cdf = before + inside.cumsum(-1)
    place = torch.searchsorted(cdf, target, right=True)
    # Rounding may leave the target beyond the block's end: its last possible token then.
    last = _BLOCK - 1 - (inside > 0).flip(1).to(torch.int8).argmax(1, keepdim=True)
    return (block * _BLOCK + torch.minimum(place, last))[:, 0]
