"""Train a small backbone from scratch: ``mfenv train backbone``.

A Qwen2-shaped causal language model and its tokenizer learn the three jobs of
:mod:`training.jobs` from a corpus of steps. The Hugging Face ``Trainer`` runs the loop, writes
checkpoints and resumes from the last one after a kill; the same command runs on CPU and GPU, and
a larger model is one flag away. What is shipped is fp16 safetensors, a tokenizer and a card.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from mfenv.dynamics import mean_field_text, notices
from mfenv.errors import MfenvError
from training.corpus import EventCorpus, StepCorpus, label_events
from training.jobs import JobDataset, acting
from training.packing import IGNORED, Packed, collate
from training.tokenizer import train_tokenizer

__all__ = ["HELP", "BackboneConfig", "add_arguments", "evaluate", "run", "train"]

HELP = "train a small backbone (tokenizer and language model) from scratch"


_PARTS = 4  # parts of a batch that are padded separately


@dataclass(frozen=True, slots=True)
class BackboneConfig:
    """How a small backbone is built and trained."""

    name: str = "weibo-s"
    vocabulary: int = 6000
    """Learned pieces of the tokenizer, bytes and fixed phrases not counted."""
    hidden: int = 192
    """Width of the model."""
    layers: int = 5
    """Number of transformer layers."""
    heads: int = 3
    """Attention heads; a third of them hold keys and values (wide heads: less softmax on a CPU)."""
    intermediate: int = 512
    """Width of the feed-forward part."""
    steps: int = 3000
    """Optimiser steps."""
    batch: int = 16
    """Packed sequences an optimiser step; each holds up to 16 actions."""
    learning_rate: float = 2.5e-3
    """Peak learning rate; 2% warm-up, stable, then a decay over the last quarter."""
    weight_decay: float = 0.05
    """AdamW weight decay."""
    seed: int = 0
    """Seed of the weights, the order and the draws of the data."""
    save_steps: int = 200
    """Steps between checkpoints."""
    eval_steps: int = 500
    """Steps between evaluations on validation steps."""
    summarising: float = 0.12
    """Share of the training sequences that rewrite a mean field."""
    share_weight: float = 4.0
    """Weight of a token that states a share in a mean field; other tokens have 1."""
    initial: str = ""
    """Folder of a model to go on from, with its tokenizer; empty: from scratch."""
    min_events: int = 20
    """A tokenizer piece must occur in this many events."""


def new_model(config: BackboneConfig, tokenizer: PreTrainedTokenizerBase) -> Qwen2ForCausalLM:
    """A randomly initialised Qwen2-shaped model with tied embeddings."""
    return Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(tokenizer),
            hidden_size=config.hidden,
            intermediate_size=config.intermediate,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=max(1, config.heads // 3),
            max_position_embeddings=2048,
            rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def token_losses(model: Any, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Cross-entropy of every target token, and the row each belongs to.

    Logits are computed at the places of targets only: the vocabulary is the larger half of a
    small model's work.
    """
    hidden = model.model(
        input_ids=inputs["input_ids"],
        position_ids=inputs["position_ids"],
        attention_mask=inputs["attention_mask"],
        use_cache=False,
    ).last_hidden_state
    rows, places = (inputs["targets"] != IGNORED).nonzero(as_tuple=True)
    logits = model.lm_head(hidden[rows, places])
    losses = nn.functional.cross_entropy(
        logits.float(), inputs["targets"][rows, places], reduction="none"
    )
    return losses, rows


def by_length(inputs: dict[str, Tensor], parts: int) -> list[dict[str, Tensor]]:
    """Split a padded batch into parts of rows of similar length, each trimmed to its longest row.

    Attention is quadratic in the padded length, so this saves more than half of a step's work.
    """
    length = inputs["lengths"]
    order = length.argsort()
    result = []
    for rows in order.tensor_split(min(parts, len(order))):
        longest = int(length[rows].max())
        result.append(
            {
                "input_ids": inputs["input_ids"][rows, :longest],
                "position_ids": inputs["position_ids"][rows, :longest],
                "attention_mask": inputs["attention_mask"][rows, :, :longest, :longest],
                "targets": inputs["targets"][rows, :longest],
            }
        )
    return result


class _Trainer(Trainer):  # type: ignore[misc]
    """The Hugging Face trainer, with packed targets and the data in its own order."""

    def __init__(self, *args: Any, weights: Tensor, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._weights = weights

    def _get_train_sampler(self, train_dataset: Any = None) -> torch.utils.data.Sampler[int]:
        return torch.utils.data.SequentialSampler(self.train_dataset)

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Tensor], *args: Any, **kwargs: Any
    ) -> Tensor:
        parts = by_length(inputs, _PARTS)
        losses = torch.cat([token_losses(model, part)[0] for part in parts])
        targets = torch.cat([part["targets"][part["targets"] != IGNORED] for part in parts])
        weights = self._weights.to(losses.device)[targets]
        return (weights * losses).sum() / weights.sum()


def token_weights(tokenizer: PreTrainedTokenizerBase, language: str, share_weight: float) -> Tensor:
    """Weight of each token ``(V,)`` in the loss: those that state a share count more than words."""
    weights = torch.ones(len(tokenizer))
    known = tokenizer.get_vocab()
    stated = [known[p] for p in mean_field_text.phrases(language) if p in known and "%" in p]
    weights[stated] = share_weight
    return weights


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    corpus: StepCorpus,
    *,
    steps: int = 96,
    batch: int = 8,
) -> dict[str, float]:
    """Validation NLL per action token with and without the mean field, paired by step.

    Returns ``nll_mf``, ``nll_state``, their mean difference and its 95% half-width (bootstrap-free
    normal interval over steps), and tokens per action.
    """
    device = next(model.parameters()).device
    was_training = model.training
    model.eval()
    drawn = [corpus.example(i) for i in range(steps)]

    def nll(packed: Sequence[Packed]) -> tuple[np.ndarray, np.ndarray]:
        total, count = np.zeros(len(packed)), np.zeros(len(packed))
        for start in range(0, len(packed), batch):
            part = packed[start : start + batch]
            inputs = collate(part, int(tokenizer.pad_token_id))
            losses, rows = token_losses(model, {k: v.to(device) for k, v in inputs.items()})
            total[start : start + len(part)] = np.bincount(
                rows.cpu().numpy(), losses.double().cpu().numpy(), minlength=len(part)
            )
            count[start : start + len(part)] = np.bincount(rows.cpu().numpy(), minlength=len(part))
        return total, count

    with_field, count = nll([acting(tokenizer, s, s.mean_field) for s in drawn])
    without, _ = nll([acting(tokenizer, s, "") for s in drawn])
    model.train(was_training)
    difference = (with_field - without) / count
    return {
        "nll_mf": float(with_field.sum() / count.sum()),
        "nll_state": float(without.sum() / count.sum()),
        "difference": float((with_field - without).sum() / count.sum()),
        "half_width": float(1.96 * difference.std(ddof=1) / math.sqrt(steps)),
        "tokens": float(count.sum()),
        "actions": float(sum(len(s.actions) for s in drawn)),
    }


class _Validation(TrainerCallback):  # type: ignore[misc]
    """Evaluates every ``eval_steps`` and appends the result to ``validation.jsonl``."""

    def __init__(self, out: Path, corpus: StepCorpus, tokenizer: Any, every: int) -> None:
        self._file, self._corpus = out / "validation.jsonl", corpus
        self._tokenizer, self._every = tokenizer, every

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step % self._every and state.global_step != state.max_steps:
            return
        figures = evaluate(kwargs["model"], self._tokenizer, self._corpus)
        with self._file.open("a") as file:
            file.write(json.dumps({"step": state.global_step, **figures}) + "\n")


def train(
    config: BackboneConfig, corpus: StepCorpus, validation: StepCorpus, out: Path
) -> Qwen2ForCausalLM:
    """Train from scratch, or go on from the last checkpoint in ``out``; export to ``out/model``."""
    out.mkdir(parents=True, exist_ok=True)
    settings = out / "config.json"
    text = json.dumps(asdict(config), indent=1, sort_keys=True)
    if settings.exists() and settings.read_text() != text:
        raise MfenvError(f"{settings} holds other settings; use another --out or delete the folder")
    settings.write_text(text)

    tokenizer_path = Path(config.initial) if config.initial else out / "tokenizer"
    if not (tokenizer_path / "tokenizer.json").exists():
        from mfenv.states import phrases as state_phrases

        language = corpus.language
        train_tokenizer(
            corpus.texts_by_event(),
            vocabulary=config.vocabulary,
            phrases=[
                *mean_field_text.phrases(language),
                *state_phrases(language),
                *notices.all_notices(language),
            ],
            min_events=config.min_events,
        ).save_pretrained(tokenizer_path)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tokenizer_path)

    set_seed(config.seed)
    model = (
        Qwen2ForCausalLM.from_pretrained(config.initial, dtype=torch.float32)
        if config.initial
        else new_model(config, tokenizer)
    )
    arguments = TrainingArguments(
        output_dir=str(out / "checkpoints"),
        max_steps=config.steps,
        per_device_train_batch_size=config.batch,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        adam_beta2=0.98,
        max_grad_norm=1.0,
        lr_scheduler_type="warmup_stable_decay",
        warmup_steps=max(1, config.steps // 50),
        lr_scheduler_kwargs={"num_decay_steps": config.steps // 4, "min_lr_ratio": 0.02},
        bf16=True,
        use_cpu=not torch.cuda.is_available(),
        optim="adamw_torch_fused",
        save_steps=config.save_steps,
        save_total_limit=1,
        logging_steps=20,
        report_to=["tensorboard"],
        seed=config.seed,
        data_seed=config.seed,
        remove_unused_columns=False,
        dataloader_num_workers=0,
        disable_tqdm=True,
    )
    trainer = _Trainer(
        model=model,
        args=arguments,
        weights=token_weights(tokenizer, corpus.language, config.share_weight),
        train_dataset=JobDataset(
            corpus,
            tokenizer,
            size=config.steps * config.batch,
            seed=config.seed,
            summarising=config.summarising,
        ),
        data_collator=partial(collate, pad=int(tokenizer.pad_token_id)),
        callbacks=[_Validation(out, validation, tokenizer, config.eval_steps)],
    )
    trainer.train(resume_from_checkpoint=last_checkpoint(Path(arguments.output_dir)))
    export(model, tokenizer, out / "model", config, corpus.language)
    return model


def last_checkpoint(folder: Path) -> str | None:
    """The newest whole checkpoint. One that a kill left unfinished is deleted."""
    found = sorted(folder.glob("checkpoint-*"), key=lambda p: -int(p.name.rpartition("-")[2]))
    for path in found:
        try:  # the trainer writes its state last
            json.loads((path / "trainer_state.json").read_text())
        except (OSError, ValueError):
            shutil.rmtree(path)
        else:
            return str(path)
    return None


def export(
    model: Qwen2ForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    path: Path,
    config: BackboneConfig,
    language: str,
) -> None:
    """Write fp16 safetensors, the tokenizer, and ``mfenv.json`` (prompt format and language)."""
    model.half().save_pretrained(path, safe_serialization=True)
    tokenizer.save_pretrained(path)
    described = {"prompts": "tagged", "language": language, "training": asdict(config)}
    (path / "mfenv.json").write_text(json.dumps(described, indent=1, sort_keys=True) + "\n")
    AutoModelForCausalLM.from_pretrained(path)  # what was written can be read


def event_corpus(path: Path, cache: Path, seed: int) -> EventCorpus:
    """Load events and label them with the shipped classifier; labels are cached in ``cache``."""
    from mfenv.events.load import load_events

    events = load_events(path)
    stored = cache / f"labels-{path.stem}.npy"
    if stored.exists():
        flat = np.load(stored)
        labels = np.split(flat, np.cumsum([len(e.posts) for e in events])[:-1])
    else:
        from agents.annotators.classifier import load

        labels = label_events(events, load())
        cache.mkdir(parents=True, exist_ok=True)
        np.save(stored, np.concatenate(labels))
    return EventCorpus(events, labels, seed=seed)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``mfenv train backbone``."""
    parser.add_argument("name", help="name of the backbone, for example weibo-s")
    parser.add_argument("--train", type=Path, help="events to train on; none: synthetic society")
    parser.add_argument("--validation", type=Path, help="events to validate on")
    parser.add_argument("--out", type=Path, default=None, help="folder (runs/backbone-NAME)")
    defaults = BackboneConfig()
    for field in (
        "vocabulary",
        "hidden",
        "layers",
        "heads",
        "intermediate",
        "steps",
        "batch",
        "seed",
    ):
        parser.add_argument(f"--{field}", type=int, default=getattr(defaults, field))
    parser.add_argument("--learning-rate", type=float, default=defaults.learning_rate)
    parser.add_argument("--summarising", type=float, default=defaults.summarising)
    parser.add_argument("--share-weight", type=float, default=defaults.share_weight)
    parser.add_argument("--initial", default="", help="folder of a model to go on from")


def run(args: argparse.Namespace) -> int:
    """Train and export."""
    config = BackboneConfig(
        name=args.name,
        vocabulary=args.vocabulary,
        hidden=args.hidden,
        layers=args.layers,
        heads=args.heads,
        intermediate=args.intermediate,
        steps=args.steps,
        batch=args.batch,
        seed=args.seed,
        learning_rate=args.learning_rate,
        summarising=args.summarising,
        share_weight=args.share_weight,
        initial=args.initial,
    )
    out = args.out or Path("runs") / f"backbone-{args.name}"
    corpus: StepCorpus
    validation: StepCorpus
    if args.train is None:
        from training.synthetic_corpus import SyntheticCorpus

        corpus, validation = SyntheticCorpus(seed=args.seed), SyntheticCorpus(seed=args.seed + 1)
    else:
        if args.validation is None:
            raise MfenvError("--train needs --validation: events that are not trained on")
        corpus = event_corpus(args.train, out, args.seed)
        validation = event_corpus(args.validation, out, args.seed + 1)
    train(config, corpus, validation, out)
    print(f"trained {args.name}: {out / 'model'}")
    return 0
