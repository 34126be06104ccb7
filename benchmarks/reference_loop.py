"""The reference of the throughput benchmark: simulation as released research code does it.

One event after the other; a batch of 16 prompts is padded and handed to ``model.generate`` whole,
nothing is read once for several prompts, every row is carried until the longest has ended; each
summary is a call of its own. The model, its precision, the prompts and the noise are the engine's,
so the texts (and with them all lengths) are the same.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from agents.backbones.base import Generation
from agents.backbones.hugging_face import HuggingFaceBackbone
from agents.backbones.sampling import KeyedSampling, Sampling
from mfenv.dynamics.mean_field_text import Grammar
from mfenv.noise import NoiseKey

__all__ = ["BATCH", "ReferenceBackbone"]

BATCH = 16


class ReferenceBackbone(HuggingFaceBackbone):
    """Generates batch after batch of 16 with nothing but ``model.generate``."""

    def generate(
        self,
        prompts: Sequence[str],
        keys: Sequence[NoiseKey],
        sampling: Sampling,
        never: Sequence[str] = (),
        grammar: Grammar | None = None,
    ) -> list[Generation]:
        """Write one text for each prompt."""
        result = []
        for start in range(0, len(prompts), BATCH):
            encoded = self.tokenizer(
                list(prompts[start : start + BATCH]),
                return_tensors="pt",
                padding=True,
                padding_side="left",
                add_special_tokens=False,
            ).to(self.model.device)
            length = encoded.input_ids.shape[1]
            draw = self.sampler(sampling, keys[start : start + BATCH], never, grammar)
            with torch.inference_mode():
                output = self.model.generate(
                    input_ids=encoded.input_ids,
                    attention_mask=encoded.attention_mask,
                    logits_processor=LogitsProcessorList([_Chosen(draw, length)]),
                    generation_config=GenerationConfig(
                        do_sample=False,
                        max_new_tokens=sampling.max_new_tokens,
                        eos_token_id=self.ends,
                        pad_token_id=self.tokenizer.pad_token_id,
                    ),
                )
            for row, mask in zip(output[:, length:], encoded.attention_mask, strict=True):
                tokens = row.tolist()
                end = next((k for k, t in enumerate(tokens) if t in self.ends), len(tokens))
                text = self.tokenizer.decode(tokens[:end], skip_special_tokens=True)
                spent = min(end + 1, len(tokens))
                result.append(Generation(text.replace("\ufffd", ""), int(mask.sum()), spent))
        return result


class _Chosen(LogitsProcessor):  # type: ignore[misc]
    """Leaves only the token that the sampler draws, so that greedy decoding takes it."""

    def __init__(self, draw: KeyedSampling, prompt_length: int) -> None:
        self._draw, self._prompt_length = draw, prompt_length

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        rows = torch.arange(len(scores), device=scores.device)
        tokens = self._draw(scores, rows, input_ids[:, self._prompt_length :])
        return torch.full_like(scores, -torch.inf).scatter_(1, tokens[:, None], 0.0)
