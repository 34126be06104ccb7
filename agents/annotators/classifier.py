"""A trained annotator for Chinese and English that needs NumPy alone.

One small network a language: the sum of hashed n-gram embeddings of the reaction, that of its
topic, their product, features of form, and what a :class:`Reader` makes of the reaction's tokens in
their order go through one hidden layer to eight softmax heads. The heads are calibrated: a
probability is the share of such reactions that have the label.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from safetensors import SafetensorError, safe_open

from agents.annotators.features import FORM_FEATURES, LANGUAGES, Features, featurise
from agents.annotators.ngrams import Bags, Tokens
from agents.annotators.rules import apply_rules
from mfenv.errors import ModelError
from mfenv.labels import DIMENSIONS, N_DIMENSIONS, N_LABELS, SLICES, Labels, one_hot

__all__ = [
    "READER_PARTS",
    "WEIGHTS",
    "ClassifierAnnotator",
    "Head",
    "Network",
    "Reader",
    "SharesMethod",
    "decide",
    "load",
    "softmax",
    "unfold",
]

Floats = NDArray[np.float64]
SharesMethod = Literal["counted", "mean", "prior", "hard", "soft"]

WEIGHTS = Path(__file__).resolve().parent.parent / "weights" / "annotator"
FORMAT = "mfenv-annotator-2"
_BATCH = 1024  # reactions whose tokens are held in memory at once


def softmax(logits: ArrayLike) -> Floats:
    """Turn logits ``(n, 23)`` into probabilities that sum to one in every dimension."""
    logits = np.asarray(logits, dtype=np.float64)
    out = np.empty_like(logits)
    for block in SLICES.values():
        part = np.exp(logits[:, block] - logits[:, block].max(axis=1, keepdims=True))
        out[:, block] = part / part.sum(axis=1, keepdims=True)
    return out


def decide(probabilities: ArrayLike, offsets: ArrayLike | None = None) -> Labels:
    """Choose labels ``(n, 8)``: the largest log-probability plus ``offsets`` ``(23,)``.

    With no offsets that is the most probable label. Ties go to the label that stands first.
    """
    with np.errstate(divide="ignore"):
        scores = np.log(np.asarray(probabilities, dtype=np.float64))
    if offsets is not None:
        scores = scores + np.asarray(offsets, dtype=np.float64)
    return np.stack([scores[:, s].argmax(axis=1) for s in SLICES.values()], axis=1).astype(np.int8)


def unfold(observed: ArrayLike, confusion: ArrayLike, iterations: int = 200) -> Floats:
    """Undo a confusion by maximum likelihood: the true shares behind observed ones.

    ``observed`` ``(k,)`` are shares of predictions, ``confusion`` ``(k, k)`` has the distribution
    of predictions given the true label in each row. Returns ``(k,)`` on the simplex (the fixed
    point of the EM steps q_i ← q_i Σ_j C_ij o_j / (qC)_j, started at the observed shares).
    """
    observed = np.asarray(observed, dtype=np.float64)
    confusion = np.asarray(confusion, dtype=np.float64)
    shares = observed + 1e-6
    shares = shares / shares.sum()
    for _ in range(iterations):
        expected = np.maximum(shares @ confusion, 1e-12)
        shares = shares * (confusion @ (observed / expected))
        shares = shares / shares.sum()
    return np.asarray(shares)


def _prior_shift(probabilities: Floats, prior: Floats, iterations: int = 50) -> Floats:
    """EM of Saerens, Latinne and Decaestecker (2002) for one dimension; returns ``(k,)``."""
    shares = probabilities.mean(axis=0)
    for _ in range(iterations):
        weighted = probabilities * (shares / np.maximum(prior, 1e-9))
        shares = (weighted / weighted.sum(axis=1, keepdims=True)).mean(axis=0)
    return np.asarray(shares)


@dataclass(frozen=True, slots=True)
class Head:
    """How probabilities become labels and shares, measured on reactions not trained on.

    ``offsets`` ``(23,)`` shift the log-probabilities of a decision (for Cohen's κ); ``prior``
    ``(23,)`` are the label shares of the annotated sample; ``hard`` and ``soft`` ``(23, 23)`` hold,
    in a block for each dimension, the mean decision and the mean probabilities given the true label
    (rows).
    """

    offsets: Floats
    prior: Floats
    hard: Floats
    soft: Floats


READER_PARTS = ("quoted", "near", "near_bias", "key", "value", "query", "query_bias")
"""Arrays of a reader beside its table, as they are stored."""


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads the tokens of a reaction in order: convolutions, then attention that asks for a topic.

    ``table`` ``(2^reader_bits, d)`` embeds the hashes of tokens, ``quoted`` ``(d,)`` is added where
    one stands in the topic too; ``near`` ``(layers, 3d, d)`` with ``near_bias`` sees a token and
    those ``2^layer`` before and after it; ``key`` ``(d, heads * q)`` is compared with the topic's
    ``query`` ``(t, heads * q)`` plus ``query_bias`` ``(heads, q)``, and ``value`` ``(d, heads *
    v)`` is averaged accordingly.
    """

    table: NDArray[np.float32]
    quoted: Floats
    near: Floats
    near_bias: Floats
    key: Floats
    value: Floats
    query: Floats
    query_bias: Floats

    def read(self, tokens: Tokens, quoted: NDArray[np.float32], topic: Floats) -> Floats:
        """Return states ``(n, heads * v)``, one mean for each head; ``topic`` ``(n, t)``."""
        x = quoted[:, None] * self.quoted
        for hashes in tokens.hashes.T:
            x += _rows(hashes, self.table)
        row = tokens.row
        for layer, (near, bias) in enumerate(zip(self.near, self.near_bias, strict=True)):
            step = 1 << layer
            same = (row[step:] == row[:-step])[:, None]
            left, right = np.zeros_like(x), np.zeros_like(x)
            np.multiply(x[:-step], same, out=left[step:])
            np.multiply(x[step:], same, out=right[:-step])
            x = x + np.maximum(np.concatenate([left, x, right], axis=1) @ near + bias, 0.0)
        heads = self.query_bias.shape
        query = (topic @ self.query).reshape(tokens.n, *heads) + self.query_bias
        match = ((x @ self.key).reshape(len(x), *heads) * query[row]).sum(axis=2)
        weight = np.exp(8 * np.tanh(match / 8))  # bounded, so that the exponential is
        # Every text has its marks, so none is empty and reduceat starts one sum for each.
        size = np.bincount(row, minlength=tokens.n)
        start = np.cumsum(size) - size
        total = np.add.reduceat(weight, start, axis=0)
        values = weight[:, :, None] * (x @ self.value).reshape(len(x), heads[0], -1)
        mean = np.add.reduceat(values, start, axis=0) / total[:, :, None]
        return np.asarray(mean.reshape(tokens.n, -1))


@dataclass(frozen=True, slots=True)
class Network:
    """The weights of one language.

    ``table`` ``(2^bits, d)`` and ``topic_table`` ``(2^topic_bits, t)``, ``t <= d``, embed hashed
    n-grams; ``reader`` gives ``r`` states (``None``: r = 0); ``hidden`` ``(k, h)`` with
    ``hidden_bias``, ``output`` ``(h, 23)``, ``skip`` ``(k, 23)`` and ``bias`` make logits of the
    ``k = d + 2t + len(FORM_FEATURES) + r`` inputs.
    """

    table: NDArray[np.float32]
    topic_table: NDArray[np.float32]
    reader: Reader | None
    hidden: Floats
    hidden_bias: Floats
    output: Floats
    skip: Floats
    bias: Floats

    def logits(self, features: Features) -> Floats:
        """Return logits ``(n, 23)``."""
        reaction = _embed(features.reactions, self.table)
        topic = _embed(features.topics, self.topic_table)[features.topic_of]
        product = reaction[:, : topic.shape[1]] * topic
        parts: list[NDArray[Any]] = [reaction, topic, product, features.form]
        if self.reader is not None:
            parts.append(self.reader.read(features.tokens, features.quoted, topic))
        x = np.concatenate(parts, axis=1)
        hidden = np.maximum(x @ self.hidden + self.hidden_bias, 0.0)
        return np.asarray(hidden @ self.output + x @ self.skip + self.bias)


def _rows(hashes: NDArray[np.uint64], table: NDArray[np.float32]) -> NDArray[np.float32]:
    """The rows of ``table`` that ``hashes`` fall on, by their highest bits."""
    return table[(hashes >> np.uint64(65 - len(table).bit_length())).astype(np.intp)]


def _embed(bag: Bags, table: NDArray[np.float32]) -> Floats:
    """Sum the embeddings of each bag, weighted by 1 + log count, over the root of its size."""
    rows = _rows(bag.hashes, table).astype(np.float64)
    rows *= (1.0 + np.log(bag.count))[:, None]
    size = np.bincount(bag.row, minlength=bag.n)
    # Every text has its marks, so no bag is empty and reduceat starts one sum for each text.
    total = np.add.reduceat(rows, np.concatenate([[0], np.cumsum(size)[:-1]]), axis=0)
    return np.asarray(total / np.sqrt(size)[:, None])


class ClassifierAnnotator:
    """Labels reactions in Chinese and English; see :meth:`load`.

    Every reaction is labelled for itself: its result does not depend on the rest of the batch.
    """

    def __init__(
        self, networks: Mapping[str, Network], heads: Mapping[str, Head], revision: str = "unsaved"
    ) -> None:
        """``revision`` tells weights apart: runs that other weights labelled are not continued."""
        self.name = f"classifier@{revision}"
        self.networks = dict(networks)
        self.heads = dict(heads)

    @classmethod
    def load(cls, path: str | Path | None = None) -> ClassifierAnnotator:
        """Load the weights of every language in the folder ``path`` (default: the shipped ones).

        Raises ``ModelError`` where the folder has none or a file is damaged.
        """
        folder = Path(path) if path is not None else WEIGHTS
        files = sorted(folder.glob("*.safetensors")) if os.path.isdir(folder) else []
        if not files:
            raise ModelError(
                f"{folder} has no annotator weights (*.safetensors); "
                "mfenv train annotator makes them"
            )
        networks: dict[str, Network] = {}
        heads: dict[str, Head] = {}
        digest = hashlib.sha256()
        for file in files:
            language, networks[language], heads[language] = _read(file)
            digest.update(file.read_bytes())
        return cls(networks, heads, digest.hexdigest()[:12])

    @property
    def languages(self) -> tuple[str, ...]:
        """The languages whose reactions can be labelled."""
        return tuple(sorted(self.networks))

    def probabilities(
        self, topics: Sequence[str], texts: Sequence[str], languages: Sequence[str]
    ) -> Floats:
        """Label probabilities ``(n, 23)`` of ``n`` reactions; a rule's decisions are exact ones.

        Raises ``ValueError`` for lengths that differ and for a language without weights.
        """
        if not len(topics) == len(texts) == len(languages):
            raise ValueError(
                f"{len(topics)} topics, {len(texts)} texts and {len(languages)} languages: "
                "their numbers must be equal"
            )
        self._check(languages)
        out = np.empty((len(texts), N_LABELS))
        by_language = np.asarray(languages, dtype=object)
        for language, network in self.networks.items():
            places = np.flatnonzero(by_language == language)
            for start in range(0, len(places), _BATCH):
                batch = places[start : start + _BATCH]
                features = featurise(
                    [topics[i] for i in batch], [texts[i] for i in batch], language
                )
                out[batch] = softmax(network.logits(features))
        return apply_rules(texts, out)

    def label(
        self, topics: Sequence[str], texts: Sequence[str], languages: Sequence[str]
    ) -> Labels:
        """Labels ``(n, 8)`` of ``n`` reactions: decisions that agree best with the annotation."""
        return self.decide(self.probabilities(topics, texts, languages), languages)

    def decide(self, probabilities: ArrayLike, languages: Sequence[str]) -> Labels:
        """Choose labels ``(n, 8)`` for probabilities ``(n, 23)`` that this annotator gave."""
        self._check(languages)
        offsets = np.array([self.heads[x].offsets for x in languages]).reshape(-1, N_LABELS)
        return decide(probabilities, offsets)

    def corrected_shares(
        self,
        probabilities: ArrayLike,
        languages: Sequence[str] | str,
        method: SharesMethod = "mean",
    ) -> Floats:
        """Population shares ``(23,)`` from this annotator's probabilities ``(n, 23)``.

        ``method``: ``"counted"`` counts decisions; ``"mean"`` averages the calibrated
        probabilities; ``"prior"`` also adapts them to the population's own shares (EM of Saerens et
        al.); ``"hard"`` and ``"soft"`` undo the confusion of decisions and of probabilities
        (adjusted count, by maximum likelihood). Reactions that a rule decided are known and are
        not corrected.
        """
        p = np.asarray(probabilities, dtype=np.float64)
        if p.ndim != 2 or p.shape[1] != N_LABELS or not len(p):
            raise ValueError(
                f"probabilities must have the shape (n >= 1, {N_LABELS}), got {p.shape}"
            )
        names = [languages] * len(p) if isinstance(languages, str) else list(languages)
        self._check(names)
        ruled = np.isclose(p, 1.0, atol=1e-12).sum(axis=1) == N_DIMENSIONS
        total = p[ruled].sum(axis=0)
        for language in self.networks:
            mine = ~ruled & (np.asarray(names, dtype=object) == language)
            if mine.any():
                total += mine.sum() * _shares(p[mine], self.heads[language], method)
        return np.asarray(total / len(p))

    def _check(self, languages: Sequence[str]) -> None:
        unknown = sorted(set(languages) - set(self.networks))
        if unknown:
            allowed = ", ".join(map(repr, self.languages))
            raise ValueError(f"no annotator for the language {unknown[0]!r}; allowed: {allowed}")


def _shares(p: Floats, head: Head, method: SharesMethod) -> Floats:
    if method == "mean":
        return np.asarray(p.mean(axis=0))
    hard = one_hot(decide(p, head.offsets)).mean(axis=0)
    if method == "counted":
        return np.asarray(hard)
    out = np.empty(N_LABELS)
    for s in SLICES.values():
        if method == "prior":
            out[s] = _prior_shift(p[:, s], head.prior[s])
        elif method == "hard":
            out[s] = unfold(hard[s], head.hard[s, s])
        elif method == "soft":
            out[s] = unfold(p[:, s].mean(axis=0), head.soft[s, s])
        else:
            allowed = "counted, mean, prior, hard, soft"
            raise ValueError(f"unknown method {method!r}; allowed: {allowed}")
    return out


def _read(file: Path) -> tuple[str, Network, Head]:
    try:
        with safe_open(file, framework="numpy") as stored:
            meta = json.loads((stored.metadata() or {}).get("mfenv", "{}"))
            t = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, json.JSONDecodeError) as error:
        raise ModelError(f"{file}: not readable annotator weights ({error})") from error
    if meta.get("format") != FORMAT or meta.get("language") not in LANGUAGES:
        raise ModelError(
            f"{file}: format {meta.get('format')!r} for language {meta.get('language')!r}; "
            f"needed {FORMAT!r} for one of {', '.join(LANGUAGES)}"
        )
    if meta.get("labels") != [list(d.labels) for d in DIMENSIONS] or meta.get("form") != list(
        FORM_FEATURES
    ):
        raise ModelError(f"{file}: made for other labels or features; train it again")

    def floats(name: str) -> Floats:
        return np.asarray(t[name], dtype=np.float64)

    def table(name: str) -> NDArray[np.float32]:
        return np.asarray(t[name] * t[f"{name}_scale"].astype(np.float32)[:, None], np.float32)

    try:
        network = Network(
            table("table"),
            table("topic_table"),
            Reader(table("reader_table"), *(floats(x) for x in READER_PARTS))
            if "reader_table" in t
            else None,
            *(floats(x) for x in ("hidden", "hidden_bias", "output", "skip", "bias")),
        )
        head = Head(*(floats(x) for x in ("offsets", "prior", "hard", "soft")))
    except KeyError as error:
        raise ModelError(f"{file}: tensor {error} is missing") from error
    return str(meta["language"]), network, head


@cache
def _shipped() -> ClassifierAnnotator:
    return ClassifierAnnotator.load()


def load(path: str | Path | None = None) -> ClassifierAnnotator:
    """Load the annotator (entry point ``classifier``); the shipped one is read once a process."""
    return _shipped() if path is None else ClassifierAnnotator.load(path)
