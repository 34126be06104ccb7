"""Latent opinions: what each person thinks, kept for the whole run and moved by the mean field.

An opinion is a stance and a belief, one of :data:`N_OPINIONS` classes. A person who acts again
moves on from their last opinion by a Markov transition that depends on the perceived distribution
z; somebody new draws a first opinion that depends on z. The opinion is told to the policy model,
and kept until the person acts again. What real people do (warm-up, actions from outside) *is* their
opinion. This is the micro state of MF-MDP (arXiv 2604.05516) for text:

    P(o' | o, z) = softmax over o' of  b[o, o'] + W[o, o'] · (z - uniform)

Micro states and distribution move each other. In the stance and belief of z, ``coupling`` weighs
what people think against what the policy model made them write. At 1 the chain carries both, as
it was learned, and a mean field that counts z tells of it: a model that writes with a slant cannot
talk the population into it step by step. At 0 opinions only follow what is written.

Pure NumPy on arrays; ``mfenv train opinions`` fits b and W.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mfenv.distributions import UNIFORM
from mfenv.errors import DataError
from mfenv.labels import DIMENSIONS, N_LABELS, Labels, dimension
from mfenv.noise import categorical, uniform

__all__ = [
    "NEW",
    "N_OPINIONS",
    "OPINIONS",
    "OpinionModel",
    "features",
    "load_opinions",
    "opinion_uniforms",
    "opinions_of",
    "with_opinions",
]

Floats = NDArray[np.float64]
Opinions = NDArray[np.int8]

_STANCE, _BELIEF = dimension("stance"), dimension("belief")
OPINIONS: tuple[tuple[str, str], ...] = tuple(
    (stance, belief)
    for stance in DIMENSIONS[_STANCE].labels
    for belief in DIMENSIONS[_BELIEF].labels
)
"""Stance and belief of each class, in the order of the arrays."""

N_OPINIONS = len(OPINIONS)

NEW = -1
"""Opinion of somebody who has not acted yet. As an index it is the last row of the parameters."""

FORMAT = "mfenv-opinions-1"
_TOKEN = -3  # of the noise key; -1 and -2 are friction's and the planted texts'


def opinions_of(labels: Labels) -> Opinions:
    """The opinions that reactions show: labels ``(..., 8)`` give classes ``(...)``."""
    labels = np.asarray(labels)
    size = len(DIMENSIONS[_BELIEF].labels)
    return np.asarray(labels[..., _STANCE] * size + labels[..., _BELIEF], dtype=np.int8)


def with_opinions(labels: Labels, opinions: Opinions) -> Labels:
    """Labels ``(n, 8)`` with the stance and belief of opinions ``(n,)``."""
    result = np.array(labels, dtype=np.int8)
    size = len(DIMENSIONS[_BELIEF].labels)
    result[:, _STANCE], result[:, _BELIEF] = np.divmod(np.asarray(opinions), size)
    return result


def features(perceived: ArrayLike) -> Floats:
    """What a transition sees of perceived distributions ``(..., 23)``; same shape."""
    return np.asarray(perceived, dtype=float) - UNIFORM


def opinion_uniforms(seed: int, agents: NDArray[np.int64], step: int) -> Floats:
    """The uniforms ``(n,)`` that move the opinions of agents ``(n,)``."""
    return uniform(seed, agents, step, _TOKEN)


@dataclass(frozen=True)
class OpinionModel:
    """The transition: ``bias`` ``(7, 6)`` and ``weights`` ``(7, 6, 23)``.

    A row for each opinion that is left, and the last one for people who are new.
    """

    bias: Floats
    weights: Floats
    coupling: float = 1.0  # weight of what people think in the perceived stance and belief

    def __post_init__(self) -> None:
        rows = N_OPINIONS + 1
        for name, shape in (
            ("bias", (rows, N_OPINIONS)),
            ("weights", (rows, N_OPINIONS, N_LABELS)),
        ):
            value = getattr(self, name)
            if np.shape(value) != shape or not np.isfinite(value).all():
                raise ValueError(f"{name} must be finite and of shape {shape}")
        if not 0 <= self.coupling <= 1:
            raise ValueError(f"coupling {self.coupling!r} is not allowed; allowed: 0 to 1")

    @cached_property
    def revision(self) -> str:
        """A hash of the parameters."""
        digest = hashlib.sha256()
        for value in (self.bias, self.weights, np.array(self.coupling)):
            digest.update(np.ascontiguousarray(value, dtype="<f8").tobytes())
        return digest.hexdigest()[:16]

    def transition(self, perceived: ArrayLike) -> Floats:
        """Chances of the next opinion: perceived ``(23,)`` give ``(7, 6)``, rows summing to one."""
        logits = self.bias + self.weights @ features(perceived)
        chances = np.exp(logits - logits.max(axis=-1, keepdims=True))
        return np.asarray(chances / chances.sum(axis=-1, keepdims=True))

    def move(self, opinions: Opinions, perceived: ArrayLike, u: ArrayLike) -> Opinions:
        """Next opinions of people who act: opinions, :data:`NEW` among them, and uniforms ``(n,)``.

        Every draw hangs on its own uniform alone, so it does not depend on who acts beside it.
        """
        rows = self.transition(perceived)[np.asarray(opinions)]
        return np.asarray(categorical(rows, u), dtype=np.int8)

    def save(self, path: Path | str, about: dict[str, Any] | None = None) -> None:
        """Write the parameters as safetensors, and what is known of them as JSON beside it."""
        from safetensors.numpy import save_file

        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        meta = {
            "format": FORMAT,
            "opinions": [list(x) for x in OPINIONS],
            "coupling": self.coupling,
        }
        tensors = {"bias": self.bias, "weights": self.weights}
        save_file(
            {name: np.ascontiguousarray(x, dtype=np.float64) for name, x in tensors.items()},
            path,
            metadata={"mfenv": json.dumps(meta, sort_keys=True)},
        )
        text = json.dumps({**meta, "revision": self.revision, **(about or {})}, indent=1)
        path.with_suffix(".json").write_text(text + "\n", encoding="utf-8")


def load_opinions(path: Path | str) -> OpinionModel:
    """Read what :meth:`OpinionModel.save` wrote; ``DataError`` where it is something else."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as stored:
            meta = json.loads((stored.metadata() or {}).get("mfenv", "{}"))
            if meta.get("format") != FORMAT or meta.get("opinions") != [list(x) for x in OPINIONS]:
                raise ValueError(f"this is no {FORMAT}")
            bias, weights = (np.array(stored.get_tensor(x), float) for x in ("bias", "weights"))
        return OpinionModel(bias, weights, float(meta["coupling"]))
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            str(path),
            "(all)",
            "opinions",
            f"not readable as an opinion model ({error}); mfenv train opinions makes one",
        ) from None
