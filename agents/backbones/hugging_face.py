"""Any Hugging Face causal language model, from a local folder or a hub id, as a backbone.

Prompts are padded on the left and masked, generation draws with keyed noise, and scoring is one
vectorised forward pass a batch. Weights are read from safetensors only; remote code stays off.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LogitsProcessorList,
    PreTrainedTokenizerFast,
    RepetitionPenaltyLogitsProcessor,
    SuppressTokensLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)
from transformers.utils import cached_file

from agents.backbones.base import Generation, Score
from agents.backbones.sampling import KeyedSampling, Sampling
from agents.prompts import ChatPrompts, PromptFormat, TaggedPrompts
from mfenv.errors import MfenvError, ModelError
from mfenv.noise import NoiseKey

__all__ = ["HuggingFaceBackbone", "from_spec"]

_BATCH_TOKENS = 24_576  # prompt tokens in one forward pass, padding included
_BATCH_LOGITS = 2**28  # logits in one scoring pass: 1 GiB of float32
_FORMATS: dict[str, type[TaggedPrompts] | type[ChatPrompts]] = {
    "tagged": TaggedPrompts,
    "chat": ChatPrompts,
}


class HuggingFaceBackbone:
    """A causal language model of ``transformers`` behind the ``Backbone`` Protocol."""

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        name: str,
        revision: str = "unknown",
        prompts: PromptFormat | None = None,
    ) -> None:
        """Wrap a loaded model. Without ``prompts`` the natural-language format is used."""
        self.name = name
        self.prompts: PromptFormat = prompts or ChatPrompts()
        self.model = model.eval()
        self.tokenizer = tokenizer
        self._revision = revision
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        configured = getattr(model, "generation_config", None)
        ends = getattr(configured, "eos_token_id", None) or tokenizer.eos_token_id
        self._ends: list[int] = [ends] if isinstance(ends, int) else list(ends or [])
        if not self._ends:
            raise MfenvError(f"backbone {name!r} has no end-of-text token in its configuration")

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        name: str | None = None,
        revision: str | None = None,
        device: str | None = None,
    ) -> HuggingFaceBackbone:
        """Load from a local folder or a hub id.

        Raises ``MfenvError`` if there is no such model, or its weights are not safetensors.
        """
        where = str(path)
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        dtype = torch.bfloat16 if device != "cpu" else torch.float32
        try:
            settings = cached_file(
                where,
                "mfenv.json",
                revision=revision,
                _raise_exceptions_for_missing_entries=False,
                _raise_exceptions_for_connection_errors=False,
            )
            # With a config.json of a known architecture beside it, AutoTokenizer takes that
            # architecture's own tokenizer class, which would ignore what ours does.
            loader = AutoTokenizer if settings is None else PreTrainedTokenizerFast
            tokenizer = loader.from_pretrained(where, revision=revision, padding_side="left")
            model = AutoModelForCausalLM.from_pretrained(
                where, revision=revision, dtype=dtype, use_safetensors=True
            )
        except (OSError, ValueError) as error:
            reason = " ".join(str(error).split())[:300]
            raise MfenvError(
                f"backbone {where!r} could not be loaded: {reason}. Allowed: a folder with "
                f"config.json, tokenizer.json and *.safetensors, or a Hugging Face model id"
            ) from error
        prompts: PromptFormat = ChatPrompts()
        if settings is not None:
            chosen = json.loads(Path(settings).read_text()).get("prompts")
            if chosen not in _FORMATS:
                allowed = ", ".join(_FORMATS)
                raise MfenvError(f"{settings}: prompts {chosen!r} is unknown; allowed: {allowed}")
            prompts = _FORMATS[chosen]()
        return cls(
            model.to(device),
            tokenizer,
            name=name or where,
            revision=_revision(where, model),
            prompts=prompts,
        )

    def describe(self) -> dict[str, str]:
        """Name, revision (content hash of local weights, or commit of the hub), size."""
        parameters = sum(p.numel() for p in self.model.parameters())
        return {
            "name": self.name,
            "revision": self._revision,
            "parameters": str(parameters),
            "prompts": type(self.prompts).__name__,
        }

    @torch.inference_mode()
    def generate(
        self,
        prompts: Sequence[str],
        keys: Sequence[NoiseKey],
        sampling: Sampling,
        never: Sequence[str] = (),
    ) -> list[Generation]:
        """Write one text for each prompt, without the tokens ``never``."""
        if len(prompts) != len(keys):
            raise ValueError(f"{len(prompts)} prompts but {len(keys)} noise keys")
        encoded = [self._prompt_ids(p) for p in prompts]
        vocabulary = self.tokenizer.get_vocab() if never else {}
        suppressed = [vocabulary[t] for t in never if t in vocabulary]
        results: list[Generation | None] = [None] * len(prompts)
        for rows in _batches([len(e) for e in encoded], _BATCH_TOKENS):
            ids, mask = self._pad([encoded[i] for i in rows], left=True)
            processors = LogitsProcessorList()
            if suppressed:
                processors.append(
                    SuppressTokensLogitsProcessor(suppressed, device=str(self.model.device))
                )
            if sampling.repetition_penalty != 1.0:
                processors.append(
                    RepetitionPenaltyLogitsProcessor(
                        sampling.repetition_penalty, prompt_ignore_length=ids.shape[1]
                    )
                )
            if sampling.temperature != 1.0:
                processors.append(TemperatureLogitsWarper(sampling.temperature))
            if sampling.top_k:
                processors.append(TopKLogitsWarper(sampling.top_k))
            if sampling.top_p < 1.0:
                processors.append(TopPLogitsWarper(sampling.top_p))
            processors.append(KeyedSampling([keys[i] for i in rows], ids.shape[1]))
            output = self.model.generate(
                input_ids=ids,
                attention_mask=mask,
                logits_processor=processors,
                generation_config=GenerationConfig(
                    do_sample=False,
                    max_new_tokens=sampling.max_new_tokens,
                    eos_token_id=self._ends,
                    pad_token_id=self.tokenizer.pad_token_id,
                ),
            )[:, ids.shape[1] :].tolist()
            for i, tokens in zip(rows, output, strict=True):
                end = next((k for k, t in enumerate(tokens) if t in self._ends), len(tokens))
                text = self.tokenizer.decode(tokens[:end], skip_special_tokens=True)
                text = text.replace("\ufffd", "")  # bytes that spell no character
                spent = min(end + 1, len(tokens))
                results[i] = Generation(text, len(encoded[i]), spent)
        return [r for r in results if r is not None]

    @torch.inference_mode()
    def score(self, prompts: Sequence[str], completions: Sequence[str]) -> list[Score]:
        """Log-probability of each completion and of its end behind its prompt, in nats."""
        before = [self._prompt_ids(p) for p in prompts]
        after = [[*self._ids(c), self._ends[0]] for c in completions]
        whole = [a + b for a, b in zip(before, after, strict=True)]
        results: list[Score | None] = [None] * len(whole)
        budget = min(_BATCH_TOKENS, _BATCH_LOGITS // int(self.model.config.vocab_size))
        for rows in _batches([len(w) for w in whole], budget):
            ids, mask = self._pad([whole[i] for i in rows], left=False)
            length = torch.tensor([len(whole[i]) for i in rows])
            start = torch.tensor([len(before[i]) for i in rows])
            place = torch.arange(1, ids.shape[1])
            scored = (place >= start[:, None]) & (place < length[:, None])  # (B, L-1)
            output = self.model(input_ids=ids, attention_mask=mask, use_cache=False)
            logits = output.logits[:, :-1][scored.to(ids.device)].float()
            target = ids[:, 1:][scored.to(ids.device)]
            gathered = logits.log_softmax(-1).gather(1, target[:, None])[:, 0].double().cpu()
            row = scored.nonzero()[:, 0]
            sums = torch.zeros(len(rows), dtype=torch.double).index_add_(0, row, gathered)
            for k, i in enumerate(rows):
                results[i] = Score(float(sums[k]), len(after[i]))
        if any(r is None or math.isnan(r.log_probability) for r in results):
            raise ModelError(f"backbone {self.name!r} gave a log-probability that is no number")
        return [r for r in results if r is not None]

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False).input_ids)

    def _prompt_ids(self, prompt: str) -> list[int]:
        if not self.prompts.chat:
            return self._ids(prompt)
        if self.tokenizer.chat_template is None:
            return list(self.tokenizer(prompt + "\n").input_ids)
        return self._ids(
            self.tokenizer.apply_chat_template(
                [{"role": "user", "content": prompt}],
                tokenize=False,
                add_generation_prompt=True,
                enable_thinking=False,
            )
        )

    def _pad(self, rows: list[list[int]], *, left: bool) -> tuple[torch.Tensor, torch.Tensor]:
        length = max(map(len, rows))
        ids = torch.full((len(rows), length), int(self.tokenizer.pad_token_id))
        mask = torch.zeros(len(rows), length, dtype=torch.long)
        for k, row in enumerate(rows):
            place = slice(length - len(row), length) if left else slice(0, len(row))
            ids[k, place] = torch.tensor(row)
            mask[k, place] = 1
        device = self.model.device
        return ids.to(device), mask.to(device)


def _batches(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Split rows into batches of similar length that fit memory; a pure function of the lengths."""
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    start = 0
    while start < len(order):
        size = max(1, budget // max(1, lengths[order[start]]))
        yield order[start : start + size]
        start += size


def _revision(where: str, model: Any) -> str:
    folder = Path(where)
    if not folder.is_dir():
        return str(getattr(model.config, "_commit_hash", None) or "unknown")
    digest = hashlib.sha256()
    for file in sorted(folder.glob("*.safetensors")):
        digest.update(file.read_bytes())
    return "sha256:" + digest.hexdigest()[:16]


def from_spec(spec: str) -> HuggingFaceBackbone:
    """``PATH`` or ``ORGANISATION/MODEL[@REVISION]`` → a backbone (written ``hf:…`` in the CLI)."""
    if Path(spec).is_dir():
        return HuggingFaceBackbone.load(spec, name=f"hf:{Path(spec).name}")
    identifier, _, revision = spec.partition("@")
    return HuggingFaceBackbone.load(identifier, name=f"hf:{spec}", revision=revision or None)
