"""A teacher for the annotator that knows language: a pretrained sentence encoder, fine-tuned.

The lower layers of the encoder stay as they are: reaction and topic go through them apart, and
once. The upper layers read the states of the reaction and a few summaries of the topic, and are
trained on annotated reactions of all languages together, with a head for each of the eight
dimensions. One teacher is trained for every fold, without the events of that fold, and all of them
label the unlabelled reactions. What is done is kept on disk, so that a run that was stopped
resumes.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from agents.annotators.classifier import softmax
from agents.annotators.features import TOPIC_LENGTH
from agents.annotators.ngrams import own_words
from mfenv.errors import MfenvError, MissingExtraError
from mfenv.labels import N_LABELS, SLICES, one_hot
from training.annotator_data import Annotated, Unlabelled

__all__ = ["Pseudo", "SentenceEncoder", "TeacherSettings", "label_by_fold"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class TeacherSettings:
    """What is trained of the encoder, and how. Lengths are in tokens."""

    trained_layers: int = 6
    reaction_length: int = 64
    topic_length: int = 96
    topic_states: int = 4
    epochs: int = 3
    batch: int = 32
    rate: float = 2e-4
    layer_decay: float = 0.85  # of the rate, from one layer to the one below
    head_rate: float = 1e-3
    decay: float = 0.01
    dropout: float = 0.1


@dataclass(frozen=True, slots=True)
class Pseudo:
    """What the teachers of all folds say of one language.

    ``places`` ``(m,)`` are the unlabelled reactions that were labelled, ``by_fold`` ``(folds, m,
    23)`` their probabilities by the teacher that did not see a fold, ``held_out`` ``(n, 23)`` those
    of the annotated reactions, each by the teacher that did not see its event (0 where none is).
    """

    places: Ints
    by_fold: NDArray[np.float32]
    held_out: Floats

    def opinion(self, fold: int | None) -> Floats:
        """Probabilities ``(m, 23)`` by the teacher without a fold, or by all of them together."""
        some = self.by_fold if fold is None else self.by_fold[fold : fold + 1]
        return softmax(np.log(np.maximum(some.astype(np.float64), 1e-9)).mean(axis=0))


@dataclass(frozen=True, slots=True)
class _States:
    """States of texts: text ``i`` has ``flat[offsets[i]:offsets[i + 1]]``, ``(tokens, d)``."""

    flat: torch.Tensor
    offsets: Ints

    def take(self, rows: Ints) -> tuple[torch.Tensor, torch.Tensor]:
        """Padded states ``(b, l, d)`` of ``rows`` and where they are real, ``(b, l)``."""
        size = self.offsets[rows + 1] - self.offsets[rows]
        step = np.arange(size.max())
        real = step[None, :] < size[:, None]
        at = np.where(
            real, self.offsets[rows][:, None] + step[None, :], self.offsets[rows][:, None]
        )
        return self.flat[torch.from_numpy(at)], torch.from_numpy(real)


class SentenceEncoder:
    """The frozen part of a BERT-like encoder: tokenizer, embeddings and lower layers.

    ``name`` is a folder in the format of Hugging Face or the name of a model of its hub; code that
    comes with a model is not run.
    """

    def __init__(self, name: str | Path, settings: TeacherSettings) -> None:
        try:
            from transformers import AutoConfig, AutoModel, AutoTokenizer
        except ModuleNotFoundError as error:
            raise MissingExtraError("training", "a sentence encoder as the teacher") from error
        try:
            config = AutoConfig.from_pretrained(name)
            if hasattr(config, "attention_probs_dropout_prob"):
                config.attention_probs_dropout_prob = 0.0
            model = AutoModel.from_pretrained(
                name,
                config=config,
                attn_implementation="sdpa",
                add_pooling_layer=False,
                dtype=torch.float32,
            )
            self.tokenizer: Any = AutoTokenizer.from_pretrained(name)
        except (OSError, ValueError, TypeError) as error:
            raise MfenvError(
                f"no sentence encoder could be read from {str(name)!r} ({error}); --encoder names "
                "a folder with config.json, weights and tokenizer, or a model of the hub"
            ) from error
        stack = getattr(getattr(model, "encoder", None), "layer", None)
        if stack is None or len(stack) < settings.trained_layers:
            raise MfenvError(
                f"{str(name)!r} is no BERT-like encoder with at least {settings.trained_layers} "
                "layers; take one such as intfloat/multilingual-e5-small"
            )
        self.settings = settings
        self.width = int(config.hidden_size)
        cut = len(stack) - settings.trained_layers
        self.upper = torch.nn.ModuleList(copy.deepcopy(layer) for layer in stack[cut:])
        model.encoder.layer = stack[:cut]
        digest = hashlib.sha256()
        for tensor in [*model.state_dict().values(), *self.upper.state_dict().values()]:
            digest.update(tensor.numpy().tobytes())
        self.digest = digest.hexdigest()
        self.lower: Any = model.to(torch.bfloat16).eval()
        self._known: dict[str, torch.Tensor] = {}

    @torch.no_grad()
    def _run(self, texts: Sequence[str], length: int) -> _States:
        ids: list[list[int]] = []
        for start in range(0, len(texts), 8192):
            part = list(texts[start : start + 8192])
            ids += self.tokenizer(part, truncation=True, max_length=length)["input_ids"]
        size = np.array([len(x) for x in ids], dtype=np.int64)
        offsets = np.concatenate([[0], np.cumsum(size)]).astype(np.int64)
        flat = torch.empty((int(offsets[-1]), self.width), dtype=torch.bfloat16)
        order = np.argsort(size, kind="stable")
        for start in range(0, len(order), 64):
            rows = order[start : start + 64]
            token = np.zeros((len(rows), size[rows].max()), dtype=np.int64)
            for i, row in enumerate(rows):
                token[i, : size[row]] = ids[row]
            real = torch.from_numpy(np.arange(token.shape[1]) < size[rows][:, None])
            out = self.lower(input_ids=torch.from_numpy(token), attention_mask=real.long())
            for i, row in enumerate(rows):
                flat[offsets[row] : offsets[row + 1]] = out.last_hidden_state[i, : size[row]]
        return _States(flat, offsets)

    def reactions(self, texts: Sequence[str]) -> _States:
        """States of the writers' own words."""
        return self._run([own_words(t) for t in texts], self.settings.reaction_length)

    def topics(self, topics: Sequence[str]) -> torch.Tensor:
        """Summaries of topics, ``(m, topic_states, d)``: means over stretches of each."""
        read = [t[:TOPIC_LENGTH] for t in topics]
        new = [t for t in dict.fromkeys(read) if t not in self._known]
        states = self._run(new, self.settings.topic_length)
        k = self.settings.topic_states
        for i, topic in enumerate(new):
            own = states.flat[states.offsets[i] : states.offsets[i + 1]].float()
            edge = np.linspace(0, len(own), k + 1)
            starts = [min(int(x), len(own) - 1) for x in edge[:-1]]
            stops = [int(np.ceil(x)) for x in edge[1:]]
            means = [own[a : max(a + 1, b)].mean(0) for a, b in zip(starts, stops, strict=True)]
            self._known[topic] = torch.stack(means).to(torch.bfloat16)
        return torch.stack([self._known[t] for t in read])


@dataclass(frozen=True, slots=True)
class _Inputs:
    """Reactions as the upper layers read them; ``topic_of`` and ``language`` ``(n,)``."""

    reactions: _States
    topics: torch.Tensor
    topic_of: Ints
    language: Ints

    def take(self, rows: Ints) -> tuple[torch.Tensor, ...]:
        states, real = self.reactions.take(rows)
        topic = self.topics[torch.from_numpy(self.topic_of[rows])]
        return states, real, topic, torch.from_numpy(self.language[rows])


def _inputs(
    encoder: SentenceEncoder, topics: Sequence[str], texts: Sequence[str], language: Ints
) -> _Inputs:
    distinct = list(dict.fromkeys(t[:TOPIC_LENGTH] for t in topics))
    place = {t: i for i, t in enumerate(distinct)}
    return _Inputs(
        encoder.reactions(texts),
        encoder.topics(distinct),
        np.array([place[t[:TOPIC_LENGTH]] for t in topics], dtype=np.int64),
        language,
    )


class _Upper(torch.nn.Module):
    """The trained layers and eight heads; the heads have a bias of their own for each language."""

    def __init__(self, encoder: SentenceEncoder, prior: Floats) -> None:
        super().__init__()
        s = encoder.settings
        self.layers = copy.deepcopy(encoder.upper)
        self.mark = torch.nn.Parameter(torch.zeros(s.topic_states, encoder.width))
        self.drop = torch.nn.Dropout(s.dropout)
        self.head = torch.nn.Linear(2 * encoder.width, N_LABELS, bias=False)
        torch.nn.init.normal_(self.head.weight, 0, 0.02)
        self.bias = torch.nn.Parameter(torch.from_numpy(np.log(prior).astype(np.float32)))

    def forward(
        self,
        states: torch.Tensor,
        real: torch.Tensor,
        topic: torch.Tensor,
        language: torch.Tensor,
    ) -> torch.Tensor:
        """Logits ``(b, 23)``."""
        dtype = next(self.layers.parameters()).dtype
        x = torch.cat([states.to(dtype), topic.to(dtype) + self.mark], dim=1)
        seen = torch.cat([real, real.new_ones(topic.shape[:2])], dim=1)[:, None, None, :]
        for layer in self.layers:
            out = layer(x, attention_mask=seen)
            x = out[0] if isinstance(out, tuple) else out
        own = x[:, : real.shape[1]].float() * real[:, :, None]
        pooled = torch.cat([own[:, 0], own.sum(1) / real.sum(1, keepdim=True)], dim=1)
        with torch.autocast("cpu", enabled=False):
            logits: torch.Tensor = F.linear(self.drop(pooled), self.head.weight.float())
            return logits + self.bias.float()[language]


def _optimiser(model: _Upper, s: TeacherSettings) -> torch.optim.AdamW:
    depth = len(model.layers)
    groups: list[dict[str, Any]] = []
    for i, layer in enumerate(model.layers):
        rate = s.rate * s.layer_decay ** (depth - 1 - i)
        groups.append({"params": list(layer.parameters()), "lr": rate})
    groups.append({"params": [model.mark, model.bias, model.head.weight], "lr": s.head_rate})
    return torch.optim.AdamW(groups, weight_decay=s.decay)


def _batches(size: Ints, batch: int, rng: np.random.Generator) -> list[Ints]:
    """Random batches of texts of about the same length."""
    order = rng.permutation(len(size))
    out: list[Ints] = []
    for start in range(0, len(order), 16 * batch):
        few = order[start : start + 16 * batch]
        few = few[np.argsort(size[few], kind="stable")]
        out += [few[i : i + batch] for i in range(0, len(few), batch)]
    return [out[i] for i in rng.permutation(len(out))]


def _fit(
    encoder: SentenceEncoder, inputs: _Inputs, rows: Ints, target: Floats, seed: int
) -> _Upper:
    """Train on ``rows`` of ``inputs``, whose labels are ``target`` ``(n, 23)``."""
    s = encoder.settings
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    n_languages = int(inputs.language.max()) + 1
    prior = np.stack(
        [target[rows][inputs.language[rows] == i].sum(axis=0) + 0.5 for i in range(n_languages)]
    )
    for block in SLICES.values():
        prior[:, block] /= prior[:, block].sum(axis=1, keepdims=True)
    model = _Upper(encoder, prior).train()
    optimiser = _optimiser(model, s)
    rates = [float(group["lr"]) for group in optimiser.param_groups]
    size = np.diff(inputs.reactions.offsets)[rows]
    plan = [b for _ in range(s.epochs) for b in _batches(size, s.batch, rng)]
    warm = max(1, len(plan) // 10)
    for step, few in enumerate(plan):
        share = min((step + 1) / warm, (len(plan) - step) / (len(plan) - warm + 1))
        for group, rate in zip(optimiser.param_groups, rates, strict=True):
            group["lr"] = rate * share
        truth = torch.from_numpy(target[rows[few]].astype(np.float32))
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(*inputs.take(rows[few]))
        loss = torch.zeros(())
        for block in SLICES.values():
            loss = loss - (truth[:, block] * F.log_softmax(logits[:, block], dim=1)).sum(1).mean()
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
    return model.eval()


@torch.no_grad()
def _probabilities(models: Sequence[_Upper], inputs: _Inputs, rows: Ints) -> NDArray[np.float32]:
    """Probabilities ``(models, len(rows), 23)``."""
    out = np.empty((len(models), len(rows), N_LABELS), dtype=np.float32)
    order = np.argsort(np.diff(inputs.reactions.offsets)[rows], kind="stable")
    for start in range(0, len(order), 64):
        few = order[start : start + 64]
        batch = inputs.take(rows[few])
        for i, model in enumerate(models):
            logits = model(*batch)
            for block in SLICES.values():
                out[i, few, block] = F.softmax(logits[:, block], dim=1).numpy()
    return out


_CHUNK = 8192  # reactions that are labelled between two writes to disk


def label_by_fold(
    encoder_name: str | Path,
    annotated: Mapping[str, Annotated],
    folds: Mapping[str, Ints],
    unlabelled: Mapping[str, Unlabelled],
    counts: Mapping[str, int],
    work: Path,
    *,
    seed: int,
    held: int | None = None,
    settings: TeacherSettings | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Pseudo]:
    """Train a teacher for each fold, and label ``counts`` unlabelled reactions of each language.

    ``annotated`` are the reactions to learn from, ``folds`` ``(n,)`` their folds, of which the
    first ``held`` (default: all) are left out in turn. The teachers learn all of them, whichever
    languages ``counts`` names. What is done is kept in a folder in ``work`` whose name depends on
    the annotated data, the encoder and the settings, so the same call resumes. Returns what the
    teachers say, by the languages of ``counts``.
    """
    from safetensors.torch import load_file, save_file

    settings = settings or TeacherSettings()
    encoder = SentenceEncoder(encoder_name, settings)
    names = sorted(annotated)
    digest = hashlib.sha256(f"{encoder.digest} {astuple(settings)} {seed}".encode())
    for name in names:
        part = annotated[name]
        digest.update("\x00".join([name, *part.topics, *part.texts]).encode("utf-8", "replace"))
        digest.update(np.ascontiguousarray(part.labels).tobytes() + folds[name].tobytes())
    work = work / digest.hexdigest()[:16]
    work.mkdir(parents=True, exist_ok=True)

    topics = [t for name in names for t in annotated[name].topics]
    texts = [t for name in names for t in annotated[name].texts]
    language = np.repeat(np.arange(len(names)), [len(annotated[name].texts) for name in names])
    fold = np.concatenate([folds[name] for name in names])
    target = np.concatenate([one_hot(annotated[name].labels) for name in names])

    @cache
    def inputs() -> _Inputs:  # what it holds is large, and a run that resumes may do without
        read = _inputs(encoder, topics, texts, language)
        say(f"sentence encoder: {len(texts)} annotated reactions read; work is kept in {work}")
        return read

    models: list[_Upper] = []
    held_out = np.zeros((len(texts), N_LABELS))
    for k in range(held or int(fold.max()) + 1):
        path, said = work / f"fold-{k}.safetensors", work / f"held-{k}.npy"
        if path.is_file():
            model = _Upper(encoder, np.ones((len(names), N_LABELS)))
            model.load_state_dict(load_file(path))
            model.eval()
        else:
            model = _fit(encoder, inputs(), np.flatnonzero(fold != k), target, seed + k)
            save_file(model.state_dict(), work / "unfinished")
            (work / "unfinished").replace(path)
        model = model.to(torch.bfloat16)
        rows = np.flatnonzero(fold == k)
        if not said.is_file():
            np.save(work / "unfinished.npy", _probabilities([model], inputs(), rows)[0])
            (work / "unfinished.npy").replace(said)
        held_out[rows] = np.load(said)
        say(f"sentence teacher of fold {k + 1}")
        models.append(model)

    out = {}
    for name in sorted(counts):
        i, pool = names.index(name), unlabelled[name]
        places = np.random.default_rng(seed).permutation(len(pool.texts))[: counts[name]]
        parts = []
        for start in range(0, len(places), _CHUNK):
            few = places[start : start + _CHUNK]
            some = pool.part(few)
            key = hashlib.sha256("\x00".join(some.topics + some.texts).encode("utf-8", "replace"))
            path = work / f"{name}-{len(models)}-{key.hexdigest()[:16]}.npy"
            if not path.is_file():
                read = _inputs(encoder, some.topics, some.texts, np.full(len(few), i))
                np.save(work / "unfinished.npy", _probabilities(models, read, np.arange(len(few))))
                (work / "unfinished.npy").replace(path)
            parts.append(np.load(path))
            say(f"{name}: {start + len(few)} of {len(places)} reactions labelled")
        by_fold = np.concatenate(parts, axis=1)
        out[name] = Pseudo(places.astype(np.int64), by_fold, held_out[language == i])
    return out
