"""Fine-tune a backbone on real actions given topic and state: ``mfenv train sft``.

The SFT baseline of the MF-LLM paper (arXiv 2504.21582): no mean field. TRL's ``SFTTrainer`` trains
a PEFT LoRA adapter on exactly the prompts that the method ``state`` gives at run time, with the
loss on the action and its end. Killed and repeated, it goes on from the last checkpoint to the
same bytes.
"""

from __future__ import annotations

import argparse
import json
import math
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import datasets
from peft import LoraConfig, PeftModel
from transformers import set_seed
from trl import SFTConfig, SFTTrainer

from agents.backbones.adapters import adapted, local, same_weights
from agents.backbones.hugging_face import HuggingFaceBackbone
from agents.learned import ADAPTER, describe_folder
from agents.policy import BackbonePolicy
from agents.prompts import REACTION_CHARACTERS, clip
from mfenv.cli import integer
from mfenv.dynamics.assemble import build_backbone
from mfenv.dynamics.journal import RunLock
from mfenv.errors import MfenvError
from training.actions import (
    RealAction,
    actions_of,
    fingerprint,
    held_out,
    likelihoods,
    read_events,
    told,
)
from training.backbone import last_checkpoint
from training.folders import check_settings, in_one_move
from training.packing import IGNORED

__all__ = ["HELP", "SFTSettings", "add_arguments", "run", "train"]

HELP = "fine-tune a language model on real reactions given topic and state (a PEFT adapter)"


@dataclass(frozen=True, slots=True)
class SFTSettings:
    """How an adapter is trained."""

    r: int = 64
    """Rank of LoRA."""
    alpha: int = 64
    """LoRA's scale: the update is multiplied by alpha / r."""
    steps: int = 400
    """Optimiser steps."""
    batch: int = 16
    """Actions an optimiser step."""
    learning_rate: float = 3e-4
    """Peak learning rate; 5% warm-up, then a cosine to 0."""
    cap: int = 200
    """Reactions of one event at most."""
    seed: int = 0
    """Seed of the adapter's first weights, and of the choice and the order of the actions."""
    save_steps: int = 50
    """Steps between checkpoints."""


class _Trainer(SFTTrainer):  # type: ignore[misc]
    """TRL's trainer without a model card in each checkpoint: it would say nothing."""

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        return


def train(
    backbone: HuggingFaceBackbone, actions: Sequence[RealAction], settings: SFTSettings, out: Path
) -> Path:
    """Train, or go on from the last checkpoint in ``out``; returns the folder of the adapter."""
    size = settings.steps * settings.batch
    described = {
        **asdict(settings),
        "actions": fingerprint(actions[:size]),
        "backbone": backbone.describe(),
    }
    check_settings(out, described)
    folder = out / ADAPTER.name
    if folder.exists():
        return folder
    set_seed(settings.seed)
    on_gpu = backbone.model.device.type != "cpu"
    # transformers warns of an argument that TRL sets.
    warnings.filterwarnings("ignore", ".*gradient_checkpointing", FutureWarning)
    trainer = _Trainer(
        model=same_weights(backbone.model),
        args=SFTConfig(
            output_dir=str(out / "checkpoints"),
            max_steps=settings.steps,
            per_device_train_batch_size=settings.batch,
            learning_rate=settings.learning_rate,
            lr_scheduler_type="cosine",
            warmup_steps=math.ceil(settings.steps / 20),
            max_length=None,
            completion_only_loss=True,
            dataset_kwargs={"skip_prepare_dataset": True},
            train_sampling_strategy="sequential",
            gradient_checkpointing=on_gpu,
            bf16=on_gpu,
            use_cpu=not on_gpu,
            dataloader_pin_memory=on_gpu,
            save_steps=settings.save_steps,
            save_total_limit=1,
            logging_steps=20,
            report_to="none",
            seed=settings.seed,
            data_seed=settings.seed,
            disable_tqdm=True,
        ),
        train_dataset=_dataset(backbone, actions, size),
        processing_class=backbone.tokenizer,
        peft_config=LoraConfig(
            r=settings.r,
            lora_alpha=settings.alpha,
            target_modules="all-linear",
            task_type="CAUSAL_LM",
        ),
    )
    trainer.train(resume_from_checkpoint=last_checkpoint(out / "checkpoints"))
    with in_one_move(folder) as part:
        _export(trainer.model, part)
        describe_folder(part, ADAPTER, backbone, described)
    return folder


def _dataset(
    backbone: HuggingFaceBackbone, actions: Sequence[RealAction], size: int
) -> datasets.Dataset:
    """``size`` actions in order, again from the first after the last, as tokens and labels."""
    rows = []
    for a in actions[:size]:
        prompt = backbone.prompt_ids(backbone.prompts.policy_prompt(a.request))
        completion = backbone.completion_ids(clip(a.text, REACTION_CHARACTERS))
        rows.append((prompt + completion, [IGNORED] * len(prompt) + completion))
    order = [rows[i % len(rows)] for i in range(size)]
    return datasets.Dataset.from_dict(
        {"input_ids": [ids for ids, _ in order], "labels": [labels for _, labels in order]}
    )


def _export(model: PeftModel, folder: Path) -> None:
    """Write the adapter in PEFT's format, the same bytes each time."""
    model.save_pretrained(folder, safe_serialization=True)
    (folder / "README.md").unlink(missing_ok=True)  # a template that nobody has filled in
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text())
    config["target_modules"] = sorted(config["target_modules"])  # PEFT holds a set
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``mfenv train sft``."""
    add, defaults = parser.add_argument, SFTSettings()
    add("--backbone", required=True, metavar="NAME", help="a local one: weibo-s, hf:PATH, …")
    add("--train", type=Path, required=True, metavar="EVENTS", help="events to train on")
    add("--validation", type=Path, metavar="EVENTS", help="events to measure the NLL on")
    add("--out", type=Path, required=True, metavar="DIR", help="checkpoints, and the adapter")
    add("--r", type=integer(1), default=defaults.r, help="rank of LoRA (%(default)s)")
    add("--alpha", type=integer(1), default=defaults.alpha, help="LoRA's scale (%(default)s)")
    add("--steps", type=integer(1), default=defaults.steps, help="(%(default)s)")
    add("--batch", type=integer(1), default=defaults.batch, help="actions a step (%(default)s)")
    add("--learning-rate", type=float, default=defaults.learning_rate, help="(%(default)s)")
    add("--cap", type=integer(1), default=defaults.cap, help="reactions an event (%(default)s)")
    add("--seed", type=integer(0), default=defaults.seed, help="(%(default)s)")
    add("--save-steps", type=integer(1), default=defaults.save_steps, help="(%(default)s)")
    add(
        "--validation-actions",
        type=integer(1),
        default=1000,
        metavar="N",
        help="held-out actions that are scored (%(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """Train, then compare the likelihood of held-out actions with and without the adapter."""
    if not args.learning_rate > 0:
        raise MfenvError(f"--learning-rate {args.learning_rate} is not allowed; allowed: above 0")
    settings = SFTSettings(
        r=args.r,
        alpha=args.alpha,
        steps=args.steps,
        batch=args.batch,
        learning_rate=args.learning_rate,
        cap=args.cap,
        seed=args.seed,
        save_steps=args.save_steps,
    )
    actions = actions_of(read_events(args.train), seed=args.seed, cap=args.cap)
    held = None
    if args.validation is not None:
        unseen, limit = read_events(args.validation), args.validation_actions
        held = actions_of(unseen, seed=args.seed, cap=args.cap, limit=limit)
    backbone = local(build_backbone(args.backbone))
    with RunLock(args.out):
        folder = train(backbone, actions, settings, args.out)
        if held is not None:
            tuned, _ = adapted(backbone, str(folder))
            figures = held_out(
                {
                    "state": likelihoods(BackbonePolicy(backbone), held),
                    "sft": likelihoods(BackbonePolicy(tuned), held),
                },
                held,
            )
            (args.out / "validation.json").write_text(json.dumps(figures, indent=1) + "\n")
            print(told(figures, len(held)))
    print(f"trained: {folder}; use it: --backbone {args.backbone} --method sft:{folder}")
    return 0
