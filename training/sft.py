"""Fine-tune a backbone on real actions: ``mfenv train sft``.

With ``--method state`` the SFT baseline of the MF-LLM paper (arXiv 2504.21582): no mean field. With
``--method mf`` the mean field is there too, as the backbone writes it where everybody does what
the real people did. TRL's ``SFTTrainer`` trains a PEFT LoRA adapter on exactly the prompts that
the method gives at run time, with the loss on the action and its end. Killed and repeated, it goes
on from the last checkpoint to the same bytes.
"""

from __future__ import annotations

import argparse
import json
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import datasets
from peft import LoraConfig, PeftModel, set_peft_model_state_dict
from safetensors.torch import load_file
from transformers import Trainer, set_seed
from trl import SFTConfig, SFTTrainer

from agents.backbones.adapters import adapted, local, same_weights
from agents.backbones.hugging_face import HuggingFaceBackbone
from agents.learned import ADAPTER, Kind, describe_folder, write_card
from agents.methods import mf
from agents.policy import BackbonePolicy
from agents.prompts import REACTION_CHARACTERS, clip
from mfenv.cli import integer
from mfenv.dynamics.assemble import AUTO, build_annotator, build_backbone
from mfenv.errors import MfenvError
from training.actions import (
    RealAction,
    fingerprint,
    held_out,
    likelihoods,
    read_actions,
    stream_events,
    told,
)
from training.backbone import last_checkpoint
from training.datasets import policy_examples, teacher_forced
from training.folders import check_settings, in_one_move, one_run
from training.packing import IGNORED

__all__ = [
    "HELP",
    "SFTSettings",
    "add_arguments",
    "begin_with",
    "export_adapter",
    "fit_adapter",
    "lora",
    "pairs",
    "run",
    "sft_trainer",
    "train",
]

HELP = "fine-tune a language model on real reactions (a PEFT adapter)"


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


Pair = tuple[str, str]
"""A prompt and its completion."""


def train(
    backbone: HuggingFaceBackbone,
    actions: Sequence[RealAction],
    settings: SFTSettings,
    out: Path,
    *,
    method: str = "state",
    initial: Path | None = None,
) -> Path:
    """Train on real actions; returns the folder of the adapter, which ``sft:DIR`` takes.

    ``method`` is ``"mf"`` where the actions have mean fields.
    """
    size = settings.steps * settings.batch
    described = {
        **asdict(settings),
        "method": method,
        "actions": fingerprint(actions[:size]),
        "backbone": backbone.describe(),
    }
    return fit_adapter(
        backbone,
        pairs(backbone, actions[:size]),
        settings,
        out,
        kind=ADAPTER,
        described=described,
        initial=initial,
    )


def pairs(backbone: HuggingFaceBackbone, actions: Sequence[RealAction]) -> list[Pair]:
    """The policy model's prompt for each action, and the action."""
    prompts = backbone.prompts
    return [(prompts.policy_prompt(a.request), clip(a.text, REACTION_CHARACTERS)) for a in actions]


def fit_adapter(
    backbone: HuggingFaceBackbone,
    examples: Sequence[Pair],
    settings: SFTSettings,
    out: Path,
    *,
    kind: Kind,
    described: Mapping[str, Any],
    initial: Path | None = None,
) -> Path:
    """Train an adapter on completions, or go on from the last checkpoint in ``out``.

    ``initial`` is the folder of the adapter to begin with. Returns ``out``'s folder of the result,
    which appears in one move. Raises ``MfenvError`` if ``out`` holds another run.
    """
    check_settings(out, described)
    folder = out / kind.name
    if folder.exists():
        return folder
    set_seed(settings.seed)
    trainer = sft_trainer(
        backbone,
        examples,
        settings,
        out,
        model=same_weights(backbone.model),
        peft_config=lora(settings.r, settings.alpha),
    )
    if initial is not None:
        begin_with(trainer.model, initial)
    trainer.train(resume_from_checkpoint=last_checkpoint(out / "checkpoints"))
    with in_one_move(folder) as part:
        export_adapter(trainer, part)
        describe_folder(part, kind, backbone, described)
    return folder


def sft_trainer(
    backbone: HuggingFaceBackbone,
    examples: Sequence[Pair],
    settings: SFTSettings,
    out: Path,
    *,
    model: Any,
    peft_config: LoraConfig | None,
) -> SFTTrainer:
    """TRL's trainer of a model on completions, with checkpoints in ``out``.

    Without ``peft_config`` all weights are trained.
    """
    on_gpu = backbone.model.device.type != "cpu"
    # transformers warns of an argument that TRL sets.
    warnings.filterwarnings("ignore", ".*gradient_checkpointing", FutureWarning)
    return _Trainer(
        model=model,
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
        train_dataset=_dataset(backbone, examples, settings.steps * settings.batch),
        processing_class=backbone.tokenizer,
        peft_config=peft_config,
    )


def lora(r: int, alpha: int) -> LoraConfig:
    """LoRA on all linear layers, with the paper's r = α = 64 as a user's default."""
    return LoraConfig(r=r, lora_alpha=alpha, target_modules="all-linear", task_type="CAUSAL_LM")


def begin_with(model: PeftModel, folder: Path) -> None:
    """Load an adapter of the same shape into a model that is about to be trained."""
    set_peft_model_state_dict(model, load_file(folder / "adapter_model.safetensors"))


def _dataset(
    backbone: HuggingFaceBackbone, examples: Sequence[Pair], size: int
) -> datasets.Dataset:
    """``size`` examples in order, again from the first after the last, as tokens and labels."""
    rows = []
    for before, after in examples[:size]:
        prompt, completion = backbone.prompt_ids(before), backbone.completion_ids(after)
        rows.append((prompt + completion, [IGNORED] * len(prompt) + completion))
    order = [rows[i % len(rows)] for i in range(size)]
    return datasets.Dataset.from_dict(
        {"input_ids": [ids for ids, _ in order], "labels": [labels for _, labels in order]}
    )


def export_adapter(trainer: Trainer, folder: Path) -> None:
    """Write a trainer's adapter in PEFT's format, the same bytes each time."""
    state = trainer.accelerator.get_state_dict(trainer.model)  # whole, where it was split
    if not trainer.is_world_process_zero():
        return
    model = trainer.accelerator.unwrap_model(trainer.model)
    model.save_pretrained(folder, state_dict=state, safe_serialization=True)
    (folder / "README.md").unlink(missing_ok=True)  # a template that nobody has filled in
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text())
    config["target_modules"] = sorted(config["target_modules"])  # PEFT holds a set
    base = config["base_model_name_or_path"]
    if base and Path(base).is_dir():  # somebody's disk is no business of whoever gets the adapter
        config["base_model_name_or_path"] = Path(base).name
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``mfenv train sft``."""
    add, defaults = parser.add_argument, SFTSettings()
    add("--backbone", required=True, metavar="NAME", help="a local one: weibo-s, hf:PATH, …")
    add("--train", type=Path, required=True, metavar="EVENTS", help="events to train on")
    add("--validation", type=Path, metavar="EVENTS", help="events to measure the NLL on")
    add("--out", type=Path, required=True, metavar="DIR", help="checkpoints, and the adapter")
    add(
        "--method",
        choices=("state", "mf"),
        default="state",
        help="what agents know: topic and state, or a mean field too (%(default)s)",
    )
    add(
        "--agents",
        type=integer(1),
        default=160,
        metavar="N",
        help="mf: reactions an event that are played, in batches of 16 (%(default)s)",
    )
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
    size = settings.steps * settings.batch
    # Both files are read, or checked where the events are played, before anything is computed.
    chosen = _actions(args, args.train, size)
    unseen = None
    if args.validation is not None:
        unseen = _actions(args, args.validation, args.validation_actions)
    backbone = local(build_backbone(args.backbone))
    words = ""
    with one_run(args.out):
        folder = train(backbone, chosen(backbone), settings, args.out, method=args.method)
        if unseen is not None:
            held = unseen(backbone)
            tuned, _ = adapted(backbone, str(folder))
            scored = {
                args.method: likelihoods(BackbonePolicy(backbone), held),
                "sft": likelihoods(BackbonePolicy(tuned), held),
            }
            figures = held_out(scored, held)
            (args.out / "validation.json").write_text(json.dumps(figures, indent=1) + "\n")
            words = told(figures, len(held))
            print(words)
        write_card(folder, "A PEFT LoRA adapter of a policy model", ADAPTER, words)
    print(f"trained: {folder}; use it: --backbone {args.backbone} --method sft:{folder}")
    return 0


def _actions(
    args: argparse.Namespace, path: Path, limit: int
) -> Callable[[HuggingFaceBackbone], list[RealAction]]:
    """Real actions with what the agents of the method know, for the backbone that plays them."""
    if args.method == "state":
        actions = read_actions(path, seed=args.seed, cap=args.cap, limit=limit)
        return lambda _: actions
    events = stream_events(path)

    def played(backbone: HuggingFaceBackbone) -> list[RealAction]:
        first = next(events)
        steps = teacher_forced(
            chain([first], events),
            mf(backbone),
            build_annotator(AUTO, first),
            agents=args.agents,
            seed=args.seed,
        )
        return policy_examples(steps, seed=args.seed, limit=limit)

    return played
