"""Mixture of Personas: agents react in the manner of a persona and of one real reaction.

After Bui et al., "Mixture-of-Personas Language Models for Population Simulation" (arXiv
2504.05019). With context x (topic and state), personas g_k and their exemplars e_kj,

    p(y | x) = Σ_k π_k(x) Σ_j ω_kj(x) p_LM(y | g_k, e_kj, x).

The language model is frozen. The gates π and ω are softmax models of hashed n-grams of x, learned
by :mod:`training.mop`; here they need NumPy alone.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from agents.annotators.ngrams import bags, encode_texts
from agents.backbones.base import Score
from agents.policy import BackbonePolicy
from mfenv.dynamics.models import ActionRequest, ActionResult
from mfenv.errors import MfenvError, ModelError
from mfenv.noise import NoiseKey, categorical, uniform

__all__ = [
    "N_FEATURES",
    "Context",
    "Persona",
    "PersonaPolicy",
    "Personas",
    "features",
    "load",
    "mixture",
    "save",
]

Floats = NDArray[np.float64]
Context = tuple[str, str]
"""What the gates see of an agent: topic and state."""

_BUCKETS = 1024
N_FEATURES = 2 * _BUCKETS
"""Features of a context: the first half of its topic, the second of its state."""

_PERSONA, _EXEMPLAR = -4, -5  # tokens of the noise keys; the process uses -1 to -3, a text 0 and on


@dataclass(frozen=True, slots=True)
class Persona:
    """A group of people: what they are like in words, and reactions of some of them."""

    text: str
    exemplars: tuple[str, ...]  # "" is a repost without words


@dataclass(frozen=True, eq=False)
class Personas:
    """K personas of up to J exemplars and their gates.

    ``weights`` ``(N_FEATURES, K + K·J)`` and ``bias`` ``(K + K·J,)`` make logits of a context: K
    of the personas, then J for each. Zeros are the uniform mixture.
    """

    personas: tuple[Persona, ...]
    language: str
    weights: Floats
    bias: Floats

    @property
    def shape(self) -> tuple[int, int]:
        """K and J."""
        return len(self.personas), max(len(p.exemplars) for p in self.personas)

    @property
    def held(self) -> NDArray[np.bool_]:
        """Which of the K × J exemplars there are ``(K, J)``: a persona may have fewer than J."""
        _, most = self.shape
        return np.array([np.arange(most) < len(p.exemplars) for p in self.personas])

    def log_gates(self, contexts: Sequence[Context]) -> tuple[Floats, Floats]:
        """log π ``(n, K)`` and log ω ``(n, K, J)`` of contexts; -inf where there is no exemplar.

        Equal contexts get equal bits, whoever else is asked for: each row is summed on its own.
        """
        k, j = self.shape
        row, bucket, value = features(contexts)
        logits = np.tile(self.bias, (len(contexts), 1))
        if len(row):
            starts = np.searchsorted(row, np.arange(len(contexts)))  # no row is empty
            logits += np.add.reduceat(self.weights[bucket] * value[:, None], starts, axis=0)
        of_exemplars = np.where(self.held, logits[:, k:].reshape(-1, k, j), -np.inf)
        return _log_softmax(logits[:, :k]), _log_softmax(of_exemplars)

    def draw(self, contexts: Sequence[Context], keys: Sequence[NoiseKey]) -> NDArray[np.intp]:
        """Persona and exemplar ``(n, 2)`` of each agent, by its own noise."""
        log_pi, log_omega = self.log_gates(contexts)
        key = np.asarray([tuple(x) for x in keys], dtype=np.int64).reshape(-1, 3).T
        persona = categorical(np.exp(log_pi), uniform(*key, _PERSONA))
        chances = np.exp(log_omega)[np.arange(len(persona)), persona]
        return np.stack([persona, categorical(chances, uniform(*key, _EXEMPLAR))], axis=1)


def features(
    contexts: Sequence[Context],
) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats]:
    """Hashed n-grams of contexts as (row, bucket, value), sorted by row; every row has some.

    The n-grams of the topic have length 1 together, and so have those of the state.
    """
    rows, buckets, values = [], [], []
    for part, texts in enumerate(zip(*contexts, strict=True)):
        found = bags(encode_texts(texts), (2, 3), (1,))
        size = np.bincount(found.row, minlength=found.n)
        rows.append(found.row)
        buckets.append((found.hashes % np.uint64(_BUCKETS)).astype(np.int64) + part * _BUCKETS)
        values.append(1 / np.sqrt(size[found.row]))
    if not rows:
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0)
    row = np.concatenate(rows)
    order = np.argsort(row, kind="stable")
    return row[order], np.concatenate(buckets)[order], np.concatenate(values)[order]


def mixture(log_pi: ArrayLike, log_omega: ArrayLike, log_p: ArrayLike) -> Floats:
    """log p(y | x) ``(n,)`` of log π ``(n, K)``, log ω and log p_LM ``(n, K, J)``."""
    total = np.asarray(log_pi)[:, :, None] + np.asarray(log_omega) + np.asarray(log_p)
    flat = total.reshape(len(total), -1)
    highest = flat.max(axis=1)
    return np.asarray(highest + np.log(np.exp(flat - highest[:, None]).sum(axis=1)))


@dataclass(frozen=True)
class PersonaPolicy:
    """Draws a persona and an exemplar for each agent and lets the backbone write by them."""

    writer: BackbonePolicy
    personas: Personas

    def act(self, requests: Sequence[ActionRequest]) -> list[ActionResult]:
        """Return actions in the order of the requests, all in one backbone call."""
        keys = [r.key for r in requests]
        drawn = self.personas.draw(self._contexts(requests), keys)
        prompts = [self.prompt(r, k, j) for r, (k, j) in zip(requests, drawn.tolist(), strict=True)]
        return self.writer.write(prompts, keys)

    def score(self, requests: Sequence[ActionRequest], texts: Sequence[str]) -> list[Score]:
        """Log-probabilities of real actions under the whole mixture."""
        log_p, tokens = self.score_each(requests, texts)
        log_pi, log_omega = self.personas.log_gates(self._contexts(requests))
        total = mixture(log_pi, log_omega, log_p)
        return [Score(float(p), int(n)) for p, n in zip(total, tokens, strict=True)]

    def score_each(
        self, requests: Sequence[ActionRequest], texts: Sequence[str]
    ) -> tuple[Floats, NDArray[np.int64]]:
        """log p_LM ``(n, K, J)`` of actions behind every exemplar, and their tokens ``(n,)``.

        0 where there is no exemplar: its weight is 0.
        """
        held = self.personas.held
        log_p = np.zeros((len(requests), *held.shape))
        places = [(i, int(k), int(j)) for i in range(len(requests)) for k, j in np.argwhere(held)]
        scored = self.writer.score_prompts(
            [self.prompt(requests[i], k, j) for i, k, j in places],
            [texts[i] for i, _, _ in places],
        )
        tokens = np.zeros(len(requests), dtype=np.int64)
        for place, score in zip(places, scored, strict=True):
            log_p[place] = score.log_probability
            tokens[place[0]] = score.tokens
        return log_p, tokens

    def prompt(self, request: ActionRequest, persona: int, exemplar: int) -> str:
        """What an agent of a persona is asked, with one exemplar of it."""
        chosen = self.personas.personas[persona]
        return self.writer.backbone.prompts.persona_prompt(
            request, chosen.text, chosen.exemplars[exemplar]
        )

    def _contexts(self, requests: Sequence[ActionRequest]) -> list[Context]:
        for r in requests:
            if r.language != self.personas.language:
                raise ModelError(
                    f"the personas are in language {self.personas.language!r} and the event in "
                    f"{r.language!r}; train personas on events of that language"
                )
        return [(r.topic, r.state) for r in requests]


def save(personas: Personas, folder: Path) -> None:
    """Write ``personas.json`` and ``gates.safetensors``."""
    described = {
        "language": personas.language,
        "personas": [{"text": p.text, "exemplars": p.exemplars} for p in personas.personas],
    }
    text = json.dumps(described, ensure_ascii=False, indent=1)
    (folder / "personas.json").write_text(text + "\n", encoding="utf-8", errors="replace")
    arrays = {"weights": personas.weights, "bias": personas.bias}
    save_file(
        {k: np.ascontiguousarray(v, dtype=np.float32) for k, v in arrays.items()},
        folder / "gates.safetensors",
    )


@lru_cache(maxsize=4)
def load(folder: Path, revision: str) -> Personas:
    """Read what :func:`save` wrote; equal arguments give the same object.

    Raises ``MfenvError`` if a file is damaged.
    """
    try:
        read = json.loads((folder / "personas.json").read_text(encoding="utf-8"))
        gates = load_file(folder / "gates.safetensors")
        personas = Personas(
            personas=tuple(
                Persona(str(p["text"]), tuple(str(x) for x in p["exemplars"]))
                for p in read["personas"]
            ),
            language=str(read["language"]),
            weights=gates["weights"].astype(np.float64),
            bias=gates["bias"].astype(np.float64),
        )
        k, j = personas.shape
        shapes, outputs = (personas.weights.shape, personas.bias.shape), k + k * j
        if shapes != ((N_FEATURES, outputs), (outputs,)) or not personas.held[:, 0].all():
            raise ValueError("personas and gates do not fit together")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise MfenvError(
            f"{folder}: the personas cannot be read ({type(error).__name__}: {error}); train them "
            f"again: mfenv train mop"
        ) from error
    return personas


def _log_softmax(logits: Floats) -> Floats:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))
