"""The models behind the shipped annotator: cue encoder, teacher and student.

The *encoder* learns, from unlabelled reactions, n-gram embeddings that tell which cue (an
emoticon, a laugh, a curse, a word of doubt, a question mark) was taken out of a text. The *teacher*
averages two families of logistic regressions, on n-grams and on the encoder. The *student*, which
is shipped, is a small network over hashed n-grams and over tokens in their order; it imitates the
teacher on unlabelled reactions and learns the annotated ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from agents.annotators.classifier import Network, Reader, softmax
from agents.annotators.features import FORM_FEATURES, LANGUAGES, Features, featurise
from agents.annotators.ngrams import Bags, Tokens, bags, encode_texts, own_words, tokens
from mfenv.labels import DIMENSIONS, N_LABELS, SLICES, Labels, one_hot
from training.annotator_data import Cues

__all__ = [
    "Encoder",
    "StudentSettings",
    "Teacher",
    "fit_encoder",
    "fit_student",
    "fit_teacher",
    "pretrain_reader",
    "quantise",
    "scale_heads",
]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def _top_bits(hashes: NDArray[np.uint64], bits: int) -> Ints:
    return (hashes >> np.uint64(64 - bits)).astype(np.int64)


@dataclass(frozen=True, slots=True)
class _Ragged:
    """Bags as one flat array: bag ``i`` is ``flat[offsets[i]:offsets[i + 1]]``."""

    flat: Ints
    weight: NDArray[np.float32]
    offsets: Ints

    def take(self, rows: Ints) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The bags of ``rows`` as (indices, weights, starts) for ``torch.nn.EmbeddingBag``."""
        size = self.offsets[rows + 1] - self.offsets[rows]
        starts = np.concatenate([[0], np.cumsum(size)])
        places = np.repeat(self.offsets[rows] - starts[:-1], size) + np.arange(starts[-1])
        return (
            torch.from_numpy(self.flat[places]),
            torch.from_numpy(self.weight[places]),
            torch.from_numpy(starts[:-1]),
        )


def _ragged(index: Ints, weight: NDArray[Any], row: Ints, n: int) -> _Ragged:
    size = np.bincount(row, minlength=n)
    weight = weight / np.sqrt(np.maximum(size, 1))[row]
    offsets = np.concatenate([[0], np.cumsum(size)]).astype(np.int64)
    return _Ragged(index, weight.astype(np.float32), offsets)


# --- encoder -----------------------------------------------------------------------------------

_ENCODER_BITS, _SHARPNESS = 20, 4.0


@dataclass(frozen=True, slots=True)
class Encoder:
    """Embeddings of n-grams, ``table`` ``(v, d)``, and heads that guess cues, ``heads`` ``(d, c)``.

    ``index`` ``(2^20,)`` maps a hash to its row in ``table`` (-1: too rare), ``weight`` ``(v,)`` is
    its inverse document frequency.
    """

    language: str
    index: NDArray[np.int32]
    weight: NDArray[np.float32]
    table: NDArray[np.float32]
    heads: NDArray[np.float32]

    def features(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embeddings and guesses ``(n, d + c)`` of texts."""
        ngrams = LANGUAGES[self.language]
        out = []
        for start in range(0, len(texts), 8192):
            part = [own_words(t) for t in texts[start : start + 8192]]
            bag = _known(bags(part, ngrams.orders, ngrams.word_orders), self.index, self.weight)
            matrix = sp.csr_matrix(
                (bag.weight, bag.flat, bag.offsets), shape=(len(part), len(self.table))
            )
            embedding = np.tanh(_SHARPNESS * (matrix @ self.table))
            out.append(np.concatenate([embedding, embedding @ self.heads], axis=1))
        return np.concatenate(out).astype(np.float32)


def _known(bag: Bags, index: NDArray[np.int32], weight: NDArray[np.float32]) -> _Ragged:
    row = index[_top_bits(bag.hashes, _ENCODER_BITS)]
    known = row >= 0
    flat = row[known].astype(np.int64)
    return _ragged(flat, weight[flat], bag.row[known], bag.n)


def fit_encoder(
    cues: Cues, language: str, *, seed: int, width: int = 64, epochs: int = 2, rare: int = 25
) -> Encoder:
    """Learn an :class:`Encoder` from texts with hidden cues.

    N-grams found in fewer than ``rare`` texts are left out.
    """
    ngrams = LANGUAGES[language]
    parts = [
        bags(cues.texts[i : i + 30000], ngrams.orders, ngrams.word_orders)
        for i in range(0, len(cues.texts), 30000)
    ]
    n = len(cues.texts)
    frequency = np.zeros(1 << _ENCODER_BITS, dtype=np.int64)
    for bag in parts:
        frequency += np.bincount(_top_bits(bag.hashes, _ENCODER_BITS), minlength=len(frequency))
    kept = np.flatnonzero(frequency >= rare)
    index = np.full(len(frequency), -1, dtype=np.int32)
    index[kept] = np.arange(len(kept))
    weight = (np.log(n / frequency[kept]) / 8).clip(0.02).astype(np.float32)
    shifted = [replace(b, row=b.row + 30000 * i, n=n) for i, b in enumerate(parts)]
    whole = Bags(
        n,
        np.concatenate([b.row for b in shifted]),
        np.concatenate([b.hashes for b in shifted]),
        np.concatenate([b.count for b in shifted]),
    )
    text = _known(whole, index, weight)

    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    table = torch.nn.EmbeddingBag(len(kept), width, mode="sum", sparse=True)
    torch.nn.init.normal_(table.weight, 0, 0.02)
    head = torch.nn.Linear(width, cues.n_families + cues.present.shape[1])
    sparse = torch.optim.SparseAdam(list(table.parameters()), lr=6e-3)
    dense = torch.optim.Adam(head.parameters(), lr=6e-3)
    present = torch.from_numpy(cues.present.astype(np.float32))
    family = torch.from_numpy(cues.family)
    size = min(1024, n)
    steps, step = epochs * (n // size), 0
    for _ in range(epochs):
        order = rng.permutation(n)
        for start in range(0, n - size + 1, size):
            rows = order[start : start + size].astype(np.int64)
            flat, w, starts = text.take(rows)
            # Dropping half of the n-grams keeps rare ones from being learned by heart.
            w = w * (torch.rand(len(w)) > 0.5)
            guess = head(torch.tanh(table(flat, starts, per_sample_weights=w) * _SHARPNESS))
            loss = _cue_loss(guess, present[rows], family[rows])
            for optimiser in (sparse, dense):
                for group in optimiser.param_groups:
                    group["lr"] = 6e-3 * (1 - step / steps) + 1e-4
                optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            sparse.step()  # type: ignore[no-untyped-call]
            dense.step()
            step += 1
    return Encoder(
        language,
        index,
        weight,
        table.weight.detach().numpy(),
        head.weight.detach().numpy().T.copy(),
    )


# --- teacher -----------------------------------------------------------------------------------

_TEACHER_BITS = 18
_SPARSE_C, _DENSE_C = 5.0, 0.01
_POWER = 0.6  # of each family in the product of the two


@dataclass(frozen=True, slots=True)
class Teacher:
    """Two families of logistic regressions; make one with :func:`fit_teacher`."""

    language: str
    encoder: Encoder | None
    columns: Ints
    idf: NDArray[np.float32]
    centre: NDArray[np.float32]
    spread: NDArray[np.float32]
    families: tuple[tuple[Any, ...], ...]

    def probabilities(self, topics: Sequence[str], texts: Sequence[str]) -> Floats:
        """Label probabilities ``(n, 23)``."""
        out = np.empty((len(texts), N_LABELS))
        for start in range(0, len(texts), 8192):
            part = slice(start, start + 8192)
            out[part] = self._batch(topics[part], texts[part])
        return out

    def _batch(self, topics: Sequence[str], texts: Sequence[str]) -> Floats:
        features = featurise(topics, texts, self.language)
        inputs = [_sparse_input(features, self.columns, self.idf)]
        if self.encoder is not None:
            x = _dense_input(self.encoder, features, topics, texts)
            inputs.append((x - self.centre) / self.spread)
        power = _POWER if len(inputs) > 1 else 1.0
        logits = np.zeros((len(texts), N_LABELS))
        for models, x in zip(self.families, inputs, strict=True):
            for s, model in zip(SLICES.values(), models, strict=True):
                p = np.full((len(texts), s.stop - s.start), 1e-4)
                p[:, model.classes_.astype(int)] = np.maximum(model.predict_proba(x), 1e-6)
                logits[:, s] += power * np.log(p)
        return softmax(logits)


def _matrix(bag: Bags, bits: int) -> Any:
    values = (1 + np.log(bag.count)).astype(np.float32)
    shape = (bag.n, 1 << bits)
    x = sp.csr_matrix((values, (bag.row, _top_bits(bag.hashes, bits))), shape=shape)
    x.sum_duplicates()
    return x


def _unit(x: Any) -> Any:
    length = np.sqrt(np.asarray(x.multiply(x).sum(axis=1)).ravel())
    return sp.diags(1 / np.maximum(length, 1e-9)).astype(np.float32) @ x


def _sparse_input(f: Features, columns: Ints, idf: NDArray[np.float32]) -> Any:
    own = _unit(_matrix(f.reactions, _TEACHER_BITS)[:, columns] @ sp.diags(idf))
    topic = _unit(_matrix(f.topics, 14))[f.topic_of]
    return sp.hstack([own, 0.4 * f.form, 0.4 * topic]).tocsr()


def _dense_input(
    encoder: Encoder, f: Features, topics: Sequence[str], texts: Sequence[str]
) -> NDArray[np.float32]:
    distinct = list(dict.fromkeys(topics))
    place = {t: i for i, t in enumerate(distinct)}
    topic = encoder.features(distinct)[[place[t] for t in topics]]
    return np.concatenate([encoder.features(texts), 0.5 * topic, f.form], axis=1)


def fit_teacher(
    topics: Sequence[str],
    texts: Sequence[str],
    labels: Labels,
    language: str,
    encoder: Encoder | None,
) -> Teacher:
    """Fit a :class:`Teacher` to labels ``(n, 8)``; without an encoder it has the n-grams alone."""
    from sklearn.linear_model import LogisticRegression

    features = featurise(topics, texts, language)
    counts = np.asarray((_matrix(features.reactions, _TEACHER_BITS) > 0).sum(axis=0)).ravel()
    columns = np.flatnonzero(counts >= 2).astype(np.int64)
    idf = (np.log((len(texts) + 1) / (counts[columns] + 1)) + 1).astype(np.float32)
    inputs = [(_sparse_input(features, columns, idf), _SPARSE_C)]
    centre = spread = np.zeros(0, dtype=np.float32)
    if encoder is not None:
        x = _dense_input(encoder, features, topics, texts)
        centre = x.mean(axis=0)
        spread = x.std(axis=0) + 1e-6
        # Columns of the topic count half: topics are few, and easily learned by heart.
        width = encoder.table.shape[1] + encoder.heads.shape[1]
        spread[width : 2 * width] *= 2.0
        inputs.append(((x - centre) / spread, _DENSE_C))

    def fit(x: Any, strength: float, d: int) -> Any:
        y = labels[:, d]
        if len(set(y.tolist())) == 1:
            return _Constant(int(y[0]))
        return LogisticRegression(C=strength, max_iter=200, tol=3e-3).fit(x, y)

    families = tuple(
        tuple(fit(x, strength, d) for d in range(len(DIMENSIONS))) for x, strength in inputs
    )
    return Teacher(language, encoder, columns, idf, centre, spread, families)


@dataclass(frozen=True, slots=True)
class _Constant:
    """Stands in for a regression where the data have one class only."""

    label: int

    @property
    def classes_(self) -> Ints:
        return np.array([self.label])

    def predict_proba(self, x: Any) -> Floats:
        return np.ones((x.shape[0], 1))


# --- student -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StudentSettings:
    """Size and training of a student."""

    bits: int = 15
    width: int = 16
    topic_bits: int = 13
    topic_width: int = 12
    reader_bits: int = 14
    reader_width: int = 64  # 0: no reader
    layers: int = 3
    heads: int = 4
    key: int = 8
    value: int = 24
    hidden: int = 128
    epochs: int = 4
    batch: int = 512
    annotated_batch: int = 64
    annotated_weight: float = 0.3
    drop: float = 0.2
    reader_drop: float = 0.1
    rate: float = 4e-3
    decay: float = 1e-5


class _Reader(torch.nn.Module):
    """The part that reads in order; see :class:`agents.annotators.classifier.Reader`."""

    def __init__(self, s: StudentSettings) -> None:
        super().__init__()
        d = s.reader_width
        self.heads, self.drop = s.heads, s.reader_drop
        self.table = torch.nn.EmbeddingBag(1 << s.reader_bits, d, mode="sum")
        torch.nn.init.normal_(self.table.weight, 0, 0.3)
        self.quoted = torch.nn.Parameter(torch.zeros(d))
        self.near = torch.nn.ModuleList(torch.nn.Linear(3 * d, d) for _ in range(s.layers))
        self.key = torch.nn.Linear(d, s.heads * s.key, bias=False)
        self.value = torch.nn.Linear(d, s.heads * s.value, bias=False)
        self.query = torch.nn.Linear(s.topic_width, s.heads * s.key)
        torch.nn.init.normal_(self.query.bias, 0, 0.5)

    def forward(
        self, index: torch.Tensor, quoted: torch.Tensor, size: torch.Tensor, topic: torch.Tensor
    ) -> torch.Tensor:
        """Pooled states ``(n, heads * value)``.

        ``index`` ``(m, 3)`` and ``quoted`` ``(m,)`` are of tokens, ``size`` ``(n,)`` and ``topic``
        ``(n, t)`` of reactions.
        """
        n = len(size)
        row = torch.repeat_interleave(torch.arange(n), size)
        x = self.table(index) + quoted[:, None] * self.quoted
        if self.training:
            x = x * ((torch.rand(len(x), 1) > self.drop) / (1 - self.drop))
        for layer, near in enumerate(self.near):
            step = 1 << layer
            same = (row[step:] == row[:-step])[:, None]
            side = x.new_zeros(min(step, len(x)), x.shape[1])
            left = torch.cat([side, x[:-step] * same])
            right = torch.cat([x[step:] * same, side])
            x = x + torch.relu(near(torch.cat([left, x, right], dim=1)))
        keys = self.key(x).view(len(x), self.heads, -1)
        query = self.query(topic).view(n, self.heads, -1)[row]
        weight = torch.exp(8 * torch.tanh((keys * query).sum(2) / 8))
        total = weight.new_zeros(n, self.heads).index_add(0, row, weight)
        values = (weight[:, :, None] * self.value(x).view(len(x), self.heads, -1)).flatten(1)
        mean = values.new_zeros(n, values.shape[1]).index_add(0, row, values)
        out: torch.Tensor = (mean.view(n, self.heads, -1) / total[:, :, None]).flatten(1)
        return out


class _Student(torch.nn.Module):
    def __init__(self, s: StudentSettings) -> None:
        super().__init__()
        self.table = torch.nn.EmbeddingBag(1 << s.bits, s.width, mode="sum")
        self.topic_table = torch.nn.EmbeddingBag(1 << s.topic_bits, s.topic_width, mode="sum")
        for table in (self.table, self.topic_table):
            torch.nn.init.normal_(table.weight, 0, 0.05)
        self.reader = _Reader(s) if s.reader_width else None
        inputs = s.width + 2 * s.topic_width + len(FORM_FEATURES)
        inputs += s.heads * s.value if s.reader_width else 0
        self.hidden = torch.nn.Linear(inputs, s.hidden)
        self.output = torch.nn.Linear(s.hidden, N_LABELS, bias=False)
        self.skip = torch.nn.Linear(inputs, N_LABELS)

    def forward(
        self,
        reaction: tuple[torch.Tensor, ...],
        topic: tuple[torch.Tensor, ...],
        form: torch.Tensor,
        sequence: tuple[torch.Tensor, ...],
    ) -> torch.Tensor:
        r = self.table(reaction[0], reaction[2], per_sample_weights=reaction[1])
        t = self.topic_table(topic[0], topic[2], per_sample_weights=topic[1])
        parts = [r, t, r[:, : t.shape[1]] * t, form]
        if self.reader is not None:
            parts.append(self.reader(*sequence, t))
        x = torch.cat(parts, dim=1)
        out: torch.Tensor = self.output(torch.relu(self.hidden(x))) + self.skip(x)
        return out


@dataclass(frozen=True, slots=True)
class _Sequences:
    """Tokens of texts: text ``i`` has ``index[offsets[i]:offsets[i + 1]]``."""

    index: NDArray[np.int32]
    quoted: NDArray[np.float32]
    offsets: Ints

    def take(self, rows: Ints) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        size = self.offsets[rows + 1] - self.offsets[rows]
        starts = np.cumsum(size) - size
        places = np.repeat(self.offsets[rows] - starts, size) + np.arange(size.sum())
        return (
            torch.from_numpy(self.index[places]),
            torch.from_numpy(self.quoted[places]),
            torch.from_numpy(size),
        )


def _sequences(tokens: Tokens, quoted: NDArray[np.float32], bits: int) -> _Sequences:
    size = np.bincount(tokens.row, minlength=tokens.n)
    offsets = np.concatenate([[0], np.cumsum(size)]).astype(np.int64)
    return _Sequences(_top_bits(tokens.hashes, bits).astype(np.int32), quoted, offsets)


@dataclass(frozen=True, slots=True)
class _Examples:
    reactions: _Ragged
    topics: _Ragged
    topic_of: Ints
    form: torch.Tensor
    sequences: _Sequences
    target: torch.Tensor

    def inputs(self, rows: Ints) -> tuple[Any, Any, torch.Tensor, Any]:
        return (
            self.reactions.take(rows),
            self.topics.take(self.topic_of[rows]),
            self.form[torch.from_numpy(rows)],
            self.sequences.take(rows),
        )


def _examples(f: Features, target: NDArray[Any], s: StudentSettings) -> _Examples:
    def ragged(bag: Bags, bits: int) -> _Ragged:
        weight = (1 + np.log(bag.count)).astype(np.float32)
        return _ragged(_top_bits(bag.hashes, bits), weight, bag.row, bag.n)

    return _Examples(
        ragged(f.reactions, s.bits),
        ragged(f.topics, s.topic_bits),
        f.topic_of,
        torch.from_numpy(f.form),
        _sequences(f.tokens, f.quoted, s.reader_bits),
        torch.from_numpy(target.astype(np.float32)),
    )


def _cross_entropy(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    total = torch.zeros(())
    for s in SLICES.values():
        total = total - (target[:, s] * F.log_softmax(logits[:, s], dim=1)).sum(1).mean()
    return total


def _cue_loss(guess: torch.Tensor, present: torch.Tensor, family: torch.Tensor) -> torch.Tensor:
    """``guess`` ``(b, families + c)``, the first columns for the family; see :class:`Cues`."""
    n_families = guess.shape[1] - present.shape[1]
    loss = F.binary_cross_entropy_with_logits(
        guess[:, n_families:], present.clamp(min=0), reduction="none"
    )
    loss = (loss * (present >= 0)).sum(1).mean()
    if bool((family >= 0).any()):
        loss = loss + F.cross_entropy(guess[family >= 0, :n_families], family[family >= 0])
    return loss


def pretrain_reader(
    cues: Cues, settings: StudentSettings, *, seed: int, epochs: int = 1
) -> dict[str, torch.Tensor]:
    """Weights of a reader that tells which cues were hidden, for :func:`fit_student`."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    n, step_size = len(cues.texts), 30_000
    parts = [
        tokens(encode_texts([own_words(t) for t in cues.texts[i : i + step_size]]))
        for i in range(0, n, step_size)
    ]
    row = np.concatenate([p.row + i * step_size for i, p in enumerate(parts)])
    whole = Tokens(n, row, np.concatenate([p.hashes for p in parts]))
    text = _sequences(whole, np.zeros(len(row), dtype=np.float32), settings.reader_bits)
    reader = _Reader(settings).train()
    head = torch.nn.Linear(settings.heads * settings.value, cues.n_families + cues.present.shape[1])
    parameters = [*reader.parameters(), *head.parameters()]
    optimiser = torch.optim.Adam(parameters, lr=settings.rate)
    present = torch.from_numpy(cues.present.astype(np.float32))
    family = torch.from_numpy(cues.family)
    size = min(settings.batch, n)
    steps, step = epochs * (n // size), 0
    topic = torch.zeros(size, settings.topic_width)
    for _ in range(epochs):
        order = rng.permutation(n)
        for start in range(0, n - size + 1, size):
            rows = order[start : start + size].astype(np.int64)
            guess = head(reader(*text.take(rows), topic))
            loss = _cue_loss(guess, present[rows], family[rows])
            for group in optimiser.param_groups:
                group["lr"] = settings.rate * min(1.0, (step + 1) / 100) * (1 - step / steps)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimiser.step()
            step += 1
    return reader.state_dict()


def fit_student(
    pseudo: tuple[Features, NDArray[np.float32], Ints],
    annotated: tuple[Features, Labels],
    settings: StudentSettings,
    *,
    seed: int,
    reader: Mapping[str, torch.Tensor] | None = None,
) -> Network:
    """Train a student on a teacher's probabilities ``(n, 23)`` and annotated labels ``(m, 8)``.

    The last of ``pseudo``, ``(n,)``, says how often each of its reactions counts. ``reader`` are
    weights that the student's reader starts from; see :func:`pretrain_reader`.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    soft = _examples(pseudo[0], pseudo[1], settings)
    hard = _examples(annotated[0], one_hot(annotated[1]), settings)
    model = _Student(settings).train()
    if reader is not None and model.reader is not None:
        model.reader.load_state_dict(dict(reader))
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=settings.rate, weight_decay=settings.decay / settings.rate
    )
    every = np.repeat(np.arange(len(soft.target)), pseudo[2])
    n, m = len(every), len(hard.target)
    size = min(settings.batch, n)
    steps, step = settings.epochs * (n // size), 0
    for _ in range(settings.epochs):
        order = rng.permutation(every)
        for start in range(0, n - size + 1, size):
            loss = torch.zeros(())
            few = rng.choice(m, size=min(settings.annotated_batch, m), replace=False)
            for part, rows, share in (
                (soft, order[start : start + size], 1 - settings.annotated_weight),
                (hard, few, settings.annotated_weight),
            ):
                rows = rows.astype(np.int64)
                reaction, topic, form, sequence = part.inputs(rows)
                kept = (torch.rand(len(reaction[1])) > settings.drop) / (1 - settings.drop)
                reaction = (reaction[0], reaction[1] * kept, reaction[2])
                logits = model(reaction, topic, form, sequence)
                loss = loss + share * _cross_entropy(logits, part.target[torch.from_numpy(rows)])
            for group in optimiser.param_groups:
                group["lr"] = settings.rate * min(1.0, (step + 1) / 50) * (1 - step / steps)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            step += 1

    return _network(model)


def _network(model: _Student) -> Network:
    weights: dict[str, NDArray[np.float32]] = {k: v.numpy() for k, v in model.state_dict().items()}

    def vector(name: str) -> Floats:
        return weights[name].astype(np.float64)

    def matrix(name: str) -> Floats:
        return vector(f"{name}.weight").T

    reader = None
    if model.reader is not None:
        near = [f"reader.near.{i}" for i in range(len(model.reader.near))]
        reader = Reader(
            table=weights["reader.table.weight"],
            quoted=vector("reader.quoted"),
            near=np.stack([matrix(name) for name in near]),
            near_bias=np.stack([vector(f"{name}.bias") for name in near]),
            key=matrix("reader.key"),
            value=matrix("reader.value"),
            query=matrix("reader.query"),
            query_bias=vector("reader.query.bias").reshape(model.reader.heads, -1),
        )
    return Network(
        table=weights["table.weight"],
        topic_table=weights["topic_table.weight"],
        reader=reader,
        hidden=matrix("hidden"),
        hidden_bias=vector("hidden.bias"),
        output=matrix("output"),
        skip=matrix("skip"),
        bias=vector("skip.bias"),
    )


def quantise(table: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float16]]:
    """Store rows ``(v, d)`` as ``int8`` with one ``float16`` scale a row."""
    scale = (np.abs(table).max(axis=1) / 127).clip(1e-7).astype(np.float16)
    scale = np.maximum(scale, np.float16(6e-8))
    whole = np.rint(table / scale.astype(np.float32)[:, None]).clip(-127, 127)
    return whole.astype(np.int8), scale


def scale_heads(logits: Floats, labels: Labels) -> tuple[Floats, Floats]:
    """Vector scaling: one factor a dimension and one shift a label that minimise the NLL of labels.

    Returns factors and shifts, both ``(23,)``, the factor repeated within its dimension.
    """
    x = torch.from_numpy(logits)
    target = torch.from_numpy(one_hot(labels))
    factor = torch.zeros(len(SLICES), dtype=torch.float64, requires_grad=True)
    shift = torch.zeros(N_LABELS, dtype=torch.float64, requires_grad=True)
    sizes = torch.tensor([s.stop - s.start for s in SLICES.values()])
    optimiser = torch.optim.LBFGS([factor, shift], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        scaled = x * torch.repeat_interleave(factor.exp(), sizes) + shift
        # A little decay keeps a label that hardly occurs from being driven to certainty.
        loss = _cross_entropy(scaled, target) + 1e-4 * (
            factor.square().sum() + shift.square().sum()
        )
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    factors = torch.repeat_interleave(factor.exp(), sizes)
    return factors.detach().numpy(), shift.detach().numpy()
