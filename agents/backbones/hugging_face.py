"""Any Hugging Face causal language model, from a local folder or a hub id, as a backbone.

Prompts are padded on the left and masked, generation draws with keyed noise, and scoring is one
vectorised forward pass a batch. Weights are read from safetensors only; remote code stays off.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedTokenizerFast,
)
from transformers.utils import cached_file

from agents.backbones.base import Generation, Score, Usage
from agents.backbones.decoding import (
    KeptPrefixes,
    batches,
    decode,
    open_prefixes,
    read,
    read_completions,
    read_packed,
    shares_prefixes,
)
from agents.backbones.prefixes import PrefixGroup, shared_prefixes
from agents.backbones.sampling import KeyedSampling, Sampling
from agents.backbones.token_grammar import TokenGrammar
from agents.prompts import ChatPrompts, PromptFormat, TaggedPrompts, neutralise
from mfenv.dynamics.mean_field_text import Grammar
from mfenv.errors import MfenvError, ModelError
from mfenv.noise import NoiseKey

__all__ = ["HuggingFaceBackbone", "from_spec"]

_BATCH_TOKENS = 98_304  # tokens whose keys and values are held at once, padding included
_BATCH_ROWS = 256  # rows of a batch
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
        reuse_prefixes: bool = True,
    ) -> None:
        """Wrap a loaded model. Without ``prompts`` the natural-language format is used.

        ``reuse_prefixes=False`` reads every prompt whole: the plain path to compare with.
        """
        self.reuse_prefixes = reuse_prefixes
        self.usage = Usage()
        self._kept = KeptPrefixes()
        self._packing: bool | None = None  # not tried yet
        self._grammars: dict[Grammar, TokenGrammar | None] = {}
        self._control = [
            token.content
            for token in tokenizer.added_tokens_decoder.values()
            if token.special or token.content[:1] in "<["
        ]
        self.name = name
        self.prompts: PromptFormat = prompts or ChatPrompts()
        self.model = model.eval()
        self.tokenizer = tokenizer
        self._revision = revision
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        self._pad = int(tokenizer.pad_token_id)
        configured = getattr(model, "generation_config", None)
        ends = getattr(configured, "eos_token_id", None) or tokenizer.eos_token_id
        self.ends: list[int] = [ends] if isinstance(ends, int) else list(ends or [])
        if not self.ends:
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
        """Name, revision (content hash of local weights, or commit of the hub), size, precision."""
        parameters = sum(p.numel() for p in self.model.parameters())
        return {
            "name": self.name,
            "revision": self._revision,
            "parameters": str(parameters),
            "precision": str(self.model.dtype).removeprefix("torch."),
            "prompts": type(self.prompts).__name__,
        }

    @torch.inference_mode()
    def generate(
        self,
        prompts: Sequence[str],
        keys: Sequence[NoiseKey],
        sampling: Sampling,
        never: Sequence[str] = (),
        grammar: Grammar | None = None,
    ) -> list[Generation]:
        """Write one text for each prompt, without the tokens ``never``, in the form of a grammar.

        A grammar holds where each of its phrases is one token of the model.
        """
        if len(prompts) != len(keys):
            raise ValueError(f"{len(prompts)} prompts but {len(keys)} noise keys")
        encoded = self._all_prompt_ids(prompts)
        draw = self.sampler(sampling, keys, never, grammar)
        results = []
        written = self.write(encoded, keys, draw, sampling.max_new_tokens)
        for ids, tokens in zip(encoded, written, strict=True):
            results.append(Generation(self.text_of(tokens), len(ids), len(tokens)))
        return results

    def text_of(self, tokens: Sequence[int]) -> str:
        """The text of tokens that were written, without their end."""
        kept = tokens[:-1] if tokens[-1] in self.ends else tokens
        text: str = self.tokenizer.decode(kept, skip_special_tokens=True)
        return text.replace("\ufffd", "")  # bytes that spell no character

    @torch.inference_mode()
    def write(
        self,
        prompts: Sequence[Sequence[int]],
        keys: Sequence[NoiseKey],
        draw: KeyedSampling,
        limit: int,
    ) -> list[list[int]]:
        """Write up to ``limit`` tokens behind each prompt (token ids), its end included.

        A call goes on from prefixes that the call before it has read for the same seed and step:
        a mean field is rewritten behind the topic and the old one, which its agents have just read.
        """
        owners = [(key.seed, key.step) for key in keys]
        known, self._kept = self._kept, KeptPrefixes()
        picks = known.match(prompts, owners)
        groups = self._groups(prompts, max(map(len, prompts), default=0) + limit)
        goes_on = sum(p.length for p in picks) > sum((len(g.rows) - 1) * g.length for g in groups)
        if goes_on:
            groups = [PrefixGroup((i,), pick.length) for i, pick in enumerate(picks)]
        results: list[list[int]] = [[] for _ in prompts]
        for batch in self._batches(groups, prompts, limit):
            firsts = [g.rows[0] for g in batch]
            with self._counted(prompts, batch, goes_on):
                if goes_on:
                    opened = known.open(self.model, [picks[i] for i in firsts], limit)
                else:
                    opened = open_prefixes(self.model, prompts, batch, self._pad, limit)
                    now = [prompts[i][: g.length] for i, g in zip(firsts, batch, strict=True)]
                    self._kept.add(opened, now, [owners[i] for i in firsts])
                reading = read(self.model, prompts, batch, self._pad, room=limit, opened=opened)
                written = decode(self.model, reading, draw, ends=self.ends, limit=limit)
            for i, tokens in zip(reading.rows, written, strict=True):
                results[i] = tokens
        self.usage.completion_tokens += sum(map(len, results))
        return results

    def sampler(
        self,
        sampling: Sampling,
        keys: Sequence[NoiseKey],
        never: Sequence[str] = (),
        grammar: Grammar | None = None,
    ) -> KeyedSampling:
        """What draws the tokens of :meth:`generate`: one use, since it follows the texts."""
        vocabulary = self.tokenizer.get_vocab() if never else {}
        suppressed = [vocabulary[t] for t in never if t in vocabulary]
        form = None if grammar is None else self.token_grammar(grammar)
        return KeyedSampling(sampling, keys, suppressed, form)

    def token_grammar(self, grammar: Grammar) -> TokenGrammar | None:
        """A grammar for this model's tokens; ``None`` if a phrase of it is not one token."""
        if grammar not in self._grammars:
            size = int(self.model.config.vocab_size)
            self._grammars[grammar] = TokenGrammar.compile(grammar, self.tokenizer, self.ends, size)
        return self._grammars[grammar]

    @torch.inference_mode()
    def score(self, prompts: Sequence[str], completions: Sequence[str]) -> list[Score]:
        """Log-probability of each completion and of its end behind its prompt, in nats."""
        before = self._all_prompt_ids(prompts)
        after = [self.completion_ids(c) for c in completions]
        whole = [a + b for a, b in zip(before, after, strict=True)]
        results: list[Score | None] = [None] * len(whole)
        longest = max(map(len, after), default=1)
        rows = max(1, _BATCH_LOGITS // (longest * int(self.model.config.vocab_size)))
        groups = self._groups(before, max(map(len, whole), default=0))
        for batch in self._batches(groups, whole, rows=min(rows, _BATCH_ROWS)):
            with self._counted(whole, batch):
                read_all = read_packed if self._packs(batch) else read_completions
                parts = list(read_all(self.model, before, after, batch, self._pad))
            for of, logits in parts:
                target = torch.tensor([t for i in of for t in after[i]], device=logits.device)
                chosen = logits.float().log_softmax(-1).gather(1, target[:, None])[:, 0]
                sizes = torch.tensor([len(after[i]) for i in of])
                row = torch.arange(len(of)).repeat_interleave(sizes)
                sums = torch.zeros(len(of), dtype=torch.double)
                sums.index_add_(0, row, chosen.double().cpu())
                for k, i in enumerate(of):
                    results[i] = Score(float(sums[k]), len(after[i]))
        if any(r is None or math.isnan(r.log_probability) for r in results):
            raise ModelError(f"backbone {self.name!r} gave a log-probability that is no number")
        return [r for r in results if r is not None]

    def packed_logits(
        self, prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[int]]
    ) -> Iterator[tuple[list[int], torch.Tensor]] | None:
        """Logits at completions (token ids) for training, each shared prompt read once.

        Gives parts as :func:`agents.backbones.decoding.read_packed`, with gradients; ``None`` if
        nothing is shared or the model does not take what that needs.
        """
        whole = [[*p, *c] for p, c in zip(prompts, completions, strict=True)]
        groups = self._groups(prompts, max(map(len, whole), default=0))
        if not self._packs(groups):
            return None
        return read_packed(self.model, prompts, completions, groups, self._pad)

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False).input_ids)

    def completion_ids(self, text: str) -> list[int]:
        """Token ids of a completion and its end."""
        return [*self._ids(text), self.ends[0]]

    def _all_prompt_ids(self, prompts: Sequence[str]) -> list[list[int]]:
        """:meth:`prompt_ids` of each; plain prompts go to the tokenizer together."""
        if self.prompts.chat or not prompts:
            return [self.prompt_ids(p) for p in prompts]
        ids: list[list[int]] = self.tokenizer(list(prompts), add_special_tokens=False).input_ids
        return ids

    def prompt_ids(self, prompt: str) -> list[int]:
        """Token ids of a prompt, in the chat template if the format is a chat."""
        if not self.prompts.chat:
            return self._ids(prompt)
        prompt = neutralise(prompt, self._control)  # the template's own tokens come after this
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

    def _packs(self, groups: Sequence[PrefixGroup]) -> bool:
        """Whether these rows are packed for scoring: they share prefixes, and the model can."""
        if not any(g.length for g in groups):
            return False
        if self._packing is None:
            self._packing = self._try_packing()
        return self._packing

    @torch.inference_mode()
    def _try_packing(self) -> bool:
        """Score a few tokens both ways: not every model takes any mask and any positions."""
        prefix = list(range(1, 13))
        prompts = [[*prefix, 5], [*prefix, 7]]
        completions = [[3, 4], [6, 2, 8]]
        group = PrefixGroup((0, 1), len(prefix))
        found = []
        try:
            for way in (read_completions, read_packed):
                rows: list[int] = []
                parts: list[torch.Tensor] = []
                for of, logits in way(self.model, prompts, completions, [group], self._pad):
                    rows += of
                    parts += torch.split(logits, [len(completions[i]) for i in of])
                found.append(torch.cat([parts[rows.index(i)] for i in range(2)]))
        except (RuntimeError, ValueError, TypeError):
            return False
        one, other = (x.float().log_softmax(-1) for x in found)
        close = 1e-3 if self.model.dtype == torch.float32 else 0.25
        return bool((one - other).abs().max() < close)

    def _groups(self, prompts: Sequence[Sequence[int]], longest: int) -> list[PrefixGroup]:
        """Rows grouped by what they share, if this model (at that length) can read it once."""
        if self.reuse_prefixes and shares_prefixes(self.model, longest):
            return shared_prefixes(prompts)
        return [PrefixGroup((i,), 0) for i in range(len(prompts))]

    def _batches(
        self,
        groups: Sequence[PrefixGroup],
        whole: Sequence[Sequence[int]],
        new: int = 0,
        rows: int = _BATCH_ROWS,
    ) -> Iterator[list[PrefixGroup]]:
        """Groups in batches that fit memory; a pure function of its arguments.

        ``whole`` are all tokens of each row to be read, ``new`` more will be written behind each.
        """
        lengths = [len(w) for w in whole]
        return batches(groups, lengths, new, tokens=_BATCH_TOKENS, rows=rows)

    @contextmanager
    def _counted(
        self,
        prompts: Sequence[Sequence[int]],
        groups: Sequence[PrefixGroup],
        goes_on: bool = False,
    ) -> Iterator[None]:
        """Count a batch and the time that it takes."""
        begun = time.perf_counter()
        yield
        self.usage.model_seconds += time.perf_counter() - begun
        self.usage.prompt_tokens += sum(len(prompts[i]) for g in groups for i in g.rows)
        self.usage.reused_tokens += sum((len(g.rows) - (not goes_on)) * g.length for g in groups)


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
    if os.path.isdir(spec):
        return HuggingFaceBackbone.load(spec, name=f"hf:{Path(spec).name}")
    identifier, _, revision = spec.partition("@")
    return HuggingFaceBackbone.load(identifier, name=f"hf:{spec}", revision=revision or None)
