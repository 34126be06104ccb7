"""An n-gram model as a backbone: the simplest language model that a population can be made of.

It writes actions and scores them, on NumPy alone. It reads the topic, the notices, and of a mean
field the quotations and the share of reposts (:mod:`agents.backbones.ngram_mixture`). It reads
neither the state nor the other shares, and writes no mean field. ``mfenv train ngram`` makes one.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from agents.backbones.base import Generation, Score, Usage
from agents.backbones.kneser_ney import KneserNey
from agents.backbones.ngram_mixture import Mixture, Prompt, Reading, Walk, read
from agents.backbones.sampling_parameters import Sampling
from agents.backbones.vocabulary import END, Vocabulary
from agents.prompts import PromptFormat, TaggedPrompts, policy_parts
from mfenv.dynamics.mean_field_text import Grammar, parse_shares, quotations
from mfenv.errors import MfenvError
from mfenv.labels import NAMES
from mfenv.noise import NoiseKey, categorical, uniform

__all__ = [
    "ABOUT",
    "FORMAT",
    "NgramBackbone",
    "from_spec",
    "ngram_en",
    "ngram_weibo",
    "prompt_of",
    "walks",
    "warped",
]

Floats = NDArray[np.float64]
Ids = NDArray[np.int64]

_WEIGHTS = Path(__file__).resolve().parent.parent / "weights"
FORMAT = "mfenv-ngram-1"
ABOUT = "mfenv.json"
"""Says what a folder holds."""

_MODEL, _VOCABULARY = "model.safetensors", "vocabulary.json"
_CELLS = 2**20  # chances that are held at once: 8 MiB
_SCORED = 2048  # texts that are scored side by side
_REPOSTS = NAMES.index("behavior/share")


class NgramBackbone:
    """A mixture with an n-gram model behind the ``Backbone`` Protocol."""

    summarises = False
    """It cannot write a mean field (:class:`agents.mean_field.BackboneMeanField` asks)."""

    def __init__(
        self, model: Mixture, vocabulary: Vocabulary, *, name: str, revision: str = "unknown"
    ) -> None:
        """Wrap a model. Raises ``ValueError`` where it was made for another vocabulary."""
        if model.ngrams.vocabulary != len(vocabulary):
            raise ValueError(
                f"the model has {model.ngrams.vocabulary} tokens, the vocabulary {len(vocabulary)}"
            )
        self.name = name
        self.prompts: PromptFormat = TaggedPrompts()
        self.model, self.vocabulary = model, vocabulary
        self.usage = Usage()
        self._revision = revision

    @classmethod
    def load(cls, folder: Path, name: str) -> NgramBackbone:
        """Load what :meth:`save` wrote; ``MfenvError`` in one line where a folder holds no such."""
        try:
            about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
            if not isinstance(about, dict) or about.get("format") != FORMAT:
                raise ValueError(f"{ABOUT} does not say {FORMAT}")
            words, weights = ((folder / f).read_bytes() for f in (_VOCABULARY, _MODEL))
            tensors = load_tensors(weights)
            known = json.loads(words)
            if not isinstance(known, list):
                raise ValueError(f"{_VOCABULARY} is no list")
            vocabulary = Vocabulary(known)
            parts = [np.asarray(tensors[x], dtype=np.float64) for x in ("weights", "silence")]
            model = Mixture(KneserNey.from_arrays(tensors), *parts)
            revision = hashlib.sha256(hashlib.sha256(words).digest() + weights).hexdigest()[:16]
            return cls(model, vocabulary, name=name, revision=f"sha256:{revision}")
        except OSError as error:
            problem = f"{Path(error.filename or folder).name}: {error.strerror or error}"
        except KeyError as error:
            problem = f"{_MODEL} has no tensor {error}"
        except (ValueError, TypeError, SafetensorError) as error:
            problem = " ".join(str(error).split())[:200]
        kind = " (use hf:PATH for this model)" if os.path.isfile(folder / "config.json") else ""
        raise MfenvError(
            f"{folder}: no n-gram model can be read from it: {problem}{kind}; allowed: a folder "
            f"that mfenv train ngram wrote"
        )

    def save(self, folder: Path, about: Mapping[str, Any]) -> None:
        """Write the model, its vocabulary and what is known of it; the same bytes each time.

        Chances of n-grams are rounded (:meth:`agents.backbones.kneser_ney.KneserNey.arrays`).
        """
        folder.mkdir(parents=True, exist_ok=True)
        described = {
            **about,
            "format": FORMAT,
            "prompts": "tagged",
        }
        words = json.dumps(self.vocabulary.words, ensure_ascii=False, separators=(",", ":"))
        tensors = {
            **self.model.ngrams.arrays(),
            "weights": self.model.weights.astype(np.float32),
            "silence": self.model.silence.astype(np.float32),
        }
        for name, data in (
            (_VOCABULARY, words.encode()),
            (_MODEL, save_tensors({k: np.ascontiguousarray(x) for k, x in tensors.items()})),
            (ABOUT, (json.dumps(described, indent=1, sort_keys=True) + "\n").encode()),
        ):
            part = folder / f"{name}.part"
            part.write_bytes(data)
            part.replace(folder / name)

    def describe(self) -> dict[str, str]:
        """Name, revision (a hash of the weights and the vocabulary), size and order."""
        return {
            "name": self.name,
            "revision": self._revision,
            "parameters": str(self.model.ngrams.parameters),
            "order": str(self.model.ngrams.order),
            "vocabulary": str(len(self.vocabulary)),
            "prompts": type(self.prompts).__name__,
        }

    def generate(
        self,
        prompts: Sequence[str],
        keys: Sequence[NoiseKey],
        sampling: Sampling,
        never: Sequence[str] = (),
        grammar: Grammar | None = None,
    ) -> list[Generation]:
        """Write one action for each prompt, with the noise of its key.

        Raises ``MfenvError`` for what is no prompt of an action, or a grammar of a mean field.
        """
        if len(prompts) != len(keys):
            raise ValueError(f"{len(prompts)} prompts but {len(keys)} noise keys")
        if grammar is not None:
            raise self._writes_actions_only()
        if not prompts:
            return []
        begun = time.perf_counter()
        reading = self._read(prompts)
        noise = np.asarray([tuple(k) for k in keys], dtype=np.int64)
        forbidden = [self.vocabulary.ids[t] for t in never if t in self.vocabulary.ids]
        size = max(1, _CELLS // len(self.vocabulary))
        written: list[list[int]] = []
        for start in range(0, len(prompts), size):
            rows = np.arange(start, min(start + size, len(prompts)))
            written += self._write(reading, rows, noise, sampling, forbidden)
        cost = (reading.tokens >= 0).sum(axis=1)[reading.group].tolist()
        self.usage.prompt_tokens += sum(cost)
        self.usage.completion_tokens += sum(map(len, written))
        self.usage.model_seconds += time.perf_counter() - begun
        return [
            Generation(self.vocabulary.decode(tokens), n, len(tokens))
            for tokens, n in zip(written, cost, strict=True)
        ]

    def score(self, prompts: Sequence[str], completions: Sequence[str]) -> list[Score]:
        """Log-probability of each completion and of its end behind its prompt, in nats."""
        encoded = [[*self.vocabulary.encode(c), END] for c in completions]
        sums = np.zeros(len(encoded))
        if prompts:
            reading = self._read(prompts)
            for rows, walk, tokens in walks(self.model, encoded):
                sums[rows] += np.log(self.model.chances(reading, rows, walk, tokens))
        return [
            Score(float(total), len(tokens)) for total, tokens in zip(sums, encoded, strict=True)
        ]

    def _read(self, prompts: Sequence[str]) -> Reading:
        found = [prompt_of(text) for text in prompts]
        known = [prompt for prompt in found if prompt is not None]
        if len(known) < len(found):
            raise self._writes_actions_only()
        return read(known, self.vocabulary)

    def _write(
        self,
        reading: Reading,
        rows: Ids,
        noise: Ids,
        sampling: Sampling,
        forbidden: Sequence[int],
    ) -> list[list[int]]:
        """Write the texts ``(b,)`` of some rows, a token of all of them at a time."""
        written = np.zeros((len(rows), sampling.max_new_tokens), dtype=np.int64)
        length = np.full(len(rows), sampling.max_new_tokens)
        alive = np.arange(len(rows))
        walk = self.model.begin(len(rows))
        for t in range(sampling.max_new_tokens):
            p = self.model.probabilities(reading, rows[alive], walk)
            p[:, list(forbidden)] = 0.0
            p = warped(p, sampling, written[alive, :t])
            key = noise[rows[alive]]
            tokens = categorical(p, uniform(key[:, 0], key[:, 1], key[:, 2], t))
            written[alive, t] = tokens
            length[alive[tokens == END]] = t + 1
            goes_on = tokens != END
            walk = self.model.advance(walk, tokens, goes_on)
            alive = alive[goes_on]
            if not len(alive):
                break
        return [w[:n].tolist() for w, n in zip(written, length, strict=True)]

    def _writes_actions_only(self) -> MfenvError:
        return MfenvError(
            f"backbone {self.name!r} was asked for something else than an action; n-gram models "
            f"write nothing else: use the method mf-counted or state"
        )


@lru_cache(maxsize=4096)
def prompt_of(prompt: str) -> Prompt | None:
    """What an n-gram model reads of a policy prompt; ``None`` if it is none."""
    parts = policy_parts(prompt)
    if parts is None:
        return None
    shares = parse_shares(parts.mean_field)
    return Prompt(
        f"{parts.topic} {parts.notices}".strip(),
        tuple(quotations(parts.mean_field)),
        None if shares is None else float(shares[_REPOSTS]),
    )


def walks(model: Mixture, texts: Sequence[Sequence[int]]) -> Iterator[tuple[Ids, Walk, Ids]]:
    """Go through texts (token ids) side by side: rows ``(b,)``, where they are, the next tokens.

    Texts of similar length go together; every token of every text comes once.
    """
    order = np.argsort([-len(t) for t in texts], kind="stable")
    for start in range(0, len(texts), _SCORED):
        rows = order[start : start + _SCORED]
        lengths = np.array([len(texts[i]) for i in rows])
        tokens = np.zeros((len(rows), lengths.max(initial=0)), dtype=np.int64)
        for k, i in enumerate(rows):
            tokens[k, : lengths[k]] = texts[i]
        walk = model.begin(len(rows))
        for t in range(tokens.shape[1]):
            n = int((lengths > t).sum())
            yield rows[:n], walk, tokens[:n, t]
            walk = model.advance(walk, tokens[:n, t], lengths[:n] > t + 1)


def warped(p: Floats, sampling: Sampling, written: Ids) -> Floats:
    """Distributions ``(b, V)`` by sampling parameters, behind what was written ``(b, t)``.

    The order and the meaning are those of ``transformers``: repetition penalty on what was
    written, temperature, top-k, top-p.
    """
    if sampling.repetition_penalty == sampling.temperature == sampling.top_p == 1.0 and (
        not sampling.top_k
    ):
        return p
    with np.errstate(divide="ignore"):
        logits = np.log(p / p.sum(axis=1, keepdims=True))
    if sampling.repetition_penalty != 1.0 and written.shape[1]:
        row = np.arange(len(p))[:, None]
        logits[row, written] = logits[row, written] * sampling.repetition_penalty
    logits /= sampling.temperature
    if sampling.top_k:
        k = min(sampling.top_k, logits.shape[1])
        least = np.partition(logits, -k, axis=1)[:, -k, None]
        logits = np.where(logits < least, -np.inf, logits)
    result = np.exp(logits - logits.max(axis=1, keepdims=True))
    result /= result.sum(axis=1, keepdims=True)
    if sampling.top_p < 1.0:
        order = np.argsort(result, axis=1, kind="stable")
        tail = np.cumsum(np.take_along_axis(result, order, axis=1), axis=1) <= 1 - sampling.top_p
        tail[:, -1] = False
        drop = np.zeros_like(tail)
        np.put_along_axis(drop, order, tail, axis=1)
        result[drop] = 0.0
    return np.asarray(result)


def from_spec(spec: str = "") -> NgramBackbone:
    """The n-gram model in a folder (written ``ngram:FOLDER`` in the CLI)."""
    if not spec:
        raise MfenvError(
            "backbone 'ngram' needs a folder: ngram:FOLDER; make one: mfenv train ngram --train "
            "EVENTS --out FOLDER; or use ngram-en, ngram-weibo"
        )
    folder = Path(spec)
    return NgramBackbone.load(folder, f"ngram:{folder.name}")


def ngram_en() -> NgramBackbone:
    """English, counted in the synthetic society."""
    return NgramBackbone.load(_WEIGHTS / "ngram-en", "ngram-en")


def ngram_weibo() -> NgramBackbone:
    """Chinese, counted in real Weibo reactions (train split)."""
    return NgramBackbone.load(_WEIGHTS / "ngram-weibo", "ngram-weibo")
