"""From a backbone to a planner: a supervised start, then GRPO, then held-out scenarios."""

from __future__ import annotations

import copy
import json
import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from peft import get_peft_model
from transformers import PrinterCallback, TrainerCallback, set_seed
from trl import GRPOConfig

from agents.backbones.adapters import adapted, same_weights
from agents.backbones.hugging_face import HuggingFaceBackbone
from agents.backbones.sampling import Sampling
from agents.learned import PLANNER, describe_folder
from agents.planners.language_model import LanguageModelPlanner, answer_tokens, planner_prompt
from training.backbone import last_checkpoint
from training.folders import check_settings, in_one_move
from training.grpo.demonstrations import demonstrations
from training.grpo.settings import GRPOSettings, World
from training.grpo.trainer import PlannerTrainer, starts
from training.grpo.validation import Outcome, compare, nothing, outcome
from training.sft import begin_with, export_adapter, fit_adapter, lora, sft_trainer

__all__ = ["planner_backbone", "train", "validate"]


def train(
    backbone: HuggingFaceBackbone, world: World, settings: GRPOSettings, out: Path
) -> tuple[Path, Path]:
    """Train, or go on from the last checkpoint; the folders of before and after GRPO.

    Raises ``MfenvError`` if ``out`` holds another run.
    """
    described = {
        **{k: v for k, v in asdict(settings).items() if k not in _NOT_RESULTS},
        "world": asdict(world),
        "backbone": backbone.describe(),
    }
    check_settings(out, described)
    first = _supervised(backbone, world, settings, out / "sft")
    return first, _grpo(backbone, world, settings, first, out, described)


_NOT_RESULTS = ("report_to", "validation_seeds")


def _supervised(
    backbone: HuggingFaceBackbone, world: World, settings: GRPOSettings, out: Path
) -> Path:
    sft = replace(settings.sft, r=settings.r, alpha=settings.alpha, seed=settings.seed)
    folder = out / PLANNER.name
    if folder.exists():
        return folder
    shown = demonstrations(world, sft.steps * sft.batch, settings.seed)
    pairs = [(planner_prompt(backbone.prompts, text), answer) for text, answer in shown]
    described = {**asdict(sft), "method": "demonstrations", "backbone": backbone.describe()}
    if settings.r:
        return fit_adapter(backbone, pairs, sft, out, kind=PLANNER, described=described)
    check_settings(out, described)
    set_seed(sft.seed)
    whole = copy.deepcopy(backbone.model).requires_grad_(True)
    trainer = sft_trainer(backbone, pairs, sft, out, model=whole, peft_config=None)
    trainer.train(resume_from_checkpoint=last_checkpoint(out / "checkpoints"))
    with in_one_move(folder) as part:
        _export(trainer, backbone, part, described)
    return folder


def _grpo(
    backbone: HuggingFaceBackbone,
    world: World,
    settings: GRPOSettings,
    first: Path,
    out: Path,
    described: Mapping[str, Any],
) -> Path:
    folder = out / PLANNER.name
    if folder.exists():
        return folder
    env = world.env("train")
    set_seed(settings.seed)
    # transformers warns of an argument that TRL sets, TRL of the function that it calls.
    warnings.filterwarnings("ignore", ".*gradient_checkpointing", FutureWarning)
    warnings.filterwarnings("ignore", ".*rollout_func", UserWarning)
    if settings.r:
        model = get_peft_model(same_weights(backbone.model), lora(settings.r, settings.alpha))
        begin_with(model, first)
    else:
        model = HuggingFaceBackbone.load(first).model
    on_gpu = backbone.model.device.type != "cpu"
    trainer = PlannerTrainer(
        backbone,
        env,
        model=model,
        args=step_arguments(
            settings,
            out / "checkpoints",
            tokens=answer_tokens(backbone.prompts),
            on_gpu=on_gpu,
        ),
        train_dataset=starts(env, settings.steps * settings.groups, settings.seed),
    )
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(_Progress)
    trainer.train(resume_from_checkpoint=last_checkpoint(out / "checkpoints"))
    with in_one_move(folder) as part:
        _export(trainer, backbone, part, described)
        (part / "curves.json").write_text(json.dumps(trainer.state.log_history, indent=1) + "\n")
    return folder


def _export(
    trainer: Any, backbone: HuggingFaceBackbone, part: Path, described: Mapping[str, Any]
) -> None:
    """Write an adapter, or a whole model that ``hf:DIR`` loads; safetensors either way."""
    if described["r"]:
        export_adapter(trainer, part)
        describe_folder(part, PLANNER, backbone, described)
        return
    state = trainer.accelerator.get_state_dict(trainer.model)
    if not trainer.is_world_process_zero():
        return
    model = trainer.accelerator.unwrap_model(trainer.model)
    model.save_pretrained(part, state_dict=state, safe_serialization=True)
    backbone.tokenizer.save_pretrained(part)
    if not backbone.prompts.chat:
        found = {"prompts": "tagged", "planner": dict(described)}
        text = json.dumps(found, indent=1, sort_keys=True)
        (part / "mfenv.json").write_text(text + "\n", encoding="utf-8")


def planner_backbone(backbone: HuggingFaceBackbone, folder: Path) -> HuggingFaceBackbone:
    """The model of a folder that :func:`train` returned: whole, or an adapter on the backbone."""
    if (folder / "adapter_config.json").exists():
        return adapted(backbone, str(folder), PLANNER)[0]
    return HuggingFaceBackbone.load(folder, name=f"hf:{folder.name}")


def step_arguments(
    settings: GRPOSettings, checkpoints: Path, *, tokens: int, on_gpu: bool
) -> GRPOConfig:
    """The trainer's arguments."""
    return GRPOConfig(
        output_dir=str(checkpoints),
        max_steps=settings.steps,
        num_generations=settings.group,
        per_device_train_batch_size=settings.group * settings.groups,
        max_completion_length=tokens,
        temperature=1.0,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=math.ceil(settings.steps / 20),
        beta=settings.beta,
        # Most decisions of an episode change little: a group's own scale would make noise of them
        # as loud as those that matter.
        scale_rewards="batch",
        shuffle_dataset=False,
        gradient_checkpointing=on_gpu,
        bf16=on_gpu,
        use_cpu=not on_gpu,
        dataloader_pin_memory=on_gpu,
        save_steps=settings.save_steps,
        save_total_limit=1,
        logging_steps=5,
        report_to=settings.report_to,
        seed=settings.seed,
        data_seed=settings.seed,
        disable_tqdm=True,
    )


def validate(
    backbone: HuggingFaceBackbone,
    world: World,
    folders: Mapping[str, Path],
    *,
    seeds: int,
    split: str = "validation",
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Returns of planners (folders by name) on a split, sampled as in training and greedily.

    All play the same scenarios with the same noise. Differences are of each from the first, in
    the same way of sampling, and from doing nothing.
    """
    env = world.env(split)
    outcomes: dict[str, Outcome] = {"nothing": nothing(env, seeds)}
    ways = {"": 0, ", greedy": 1}
    for way, top_k in ways.items():
        for name, folder in folders.items():
            say(f"validation: {name}{way}")
            tuned = planner_backbone(backbone, folder)
            sampling = Sampling(top_k=top_k, max_new_tokens=answer_tokens(backbone.prompts))
            planner = LanguageModelPlanner(tuned, sampling=sampling)
            outcomes[name + way] = outcome(planner, env, seeds)
    names = list(folders)
    pairs = [
        (after + way, before + way) for way in ways for before in names[:1] for after in names[1:]
    ]
    pairs += [(name, "nothing") for name in names]
    return {
        "split": split,
        "scenarios": len(env.scenarios.ids),
        "seeds": seeds,
        "planners": {
            name: {
                "return": float(x.returns.mean()),
                "cost": x.cost,
                "unreadable": x.unreadable,
                "returns": x.returns.tolist(),
            }
            for name, x in outcomes.items()
        },
        "differences": {f"{a} − {b}": compare(outcomes[a], outcomes[b]) for a, b in pairs},
    }


class _Progress(TrainerCallback):  # type: ignore[misc]
    """One line where TRL logs."""

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if logs and "reward" in logs and state.is_world_process_zero:
            print(
                f"step {state.global_step}/{state.max_steps}: return {logs['reward']:.3f}, "
                f"spread {logs['reward_std']:.3f}, unreadable {100 * logs['unreadable']:.1f}%, "
                f"entropy {logs.get('entropy', float('nan')):.2f}",
                flush=True,
            )
