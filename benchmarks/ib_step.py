"""What an IB-Tune step costs beside a plain TRL step: ``python -m benchmarks.ib_step``.

Three trainers take the same steps in turn on the same histories, with the same noise and a learning
rate of next to nothing, so that all of them write the same candidates at every step: IB-Tune; TRL's
RLOO with our generation, with a reward that costs nothing and TRL's own two log-probabilities; and
TRL's RLOO as it is, ``model.generate`` included. Medians over rounds of the rounds' own ratios.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
from trl import RLOOTrainer

from agents.backbones.adapters import local
from agents.policy import BackbonePolicy
from benchmarks.fidelity import machine
from mfenv.cli import Command, integer, script
from mfenv.dynamics.assemble import AUTO, build_annotator, build_backbone, make_method
from mfenv.errors import MfenvError
from mfenv.events.load import load_events
from mfenv.events.synthetic.generator import SyntheticSociety
from training.datasets import mean_field_histories, teacher_forced
from training.ib_tune.trainer import IBTuneConfig, IBTuneTrainer
from training.sft import lora

__all__ = ["HELP", "add_arguments", "run"]

HELP = "measure what an IB-Tune step costs beside a plain TRL step"

_SOCIETY = 9  # of no shipped model's training
_NOTHING = 1e-12  # learning rate


class _SameGenerations(IBTuneTrainer):
    """TRL's step around our generation."""

    _generate_and_score_completions = RLOOTrainer._generate_and_score_completions
    _get_per_token_logps_and_entropies = RLOOTrainer._get_per_token_logps_and_entropies


class _Plain(_SameGenerations):
    """TRL's step, its generation too."""

    _generate_single_turn = RLOOTrainer._generate_single_turn


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add = parser.add_argument
    add("--backbone", default="embedded-en", metavar="NAME", help="a local one (%(default)s)")
    add("--data", type=Path, metavar="FILE", help="events; none: the synthetic society")
    add("--group", type=integer(2), default=8, help="candidates a history (%(default)s)")
    add("--histories", type=integer(1), default=4, help="a step (%(default)s)")
    add("--rounds", type=integer(2), default=8, metavar="R", help="(%(default)s)")
    add("--out", type=Path, default=Path("benchmarks/results"), metavar="DIR")


def run(args: argparse.Namespace) -> int:
    """Measure, write the results, print them."""
    result = measure(args)
    text = _markdown(result)
    args.out.mkdir(parents=True, exist_ok=True)
    stem = f"ib-step-{args.backbone.replace('/', '-').replace(':', '-')}"
    (args.out / f"{stem}.json").write_text(json.dumps(result, indent=1) + "\n")
    (args.out / f"{stem}.md").write_text(text, encoding="utf-8")
    print(text)
    return 0


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Seconds of each trainer's steps, and their ratios."""
    backbone = local(build_backbone(args.backbone))
    if args.data is None:
        events = list(SyntheticSociety(_SOCIETY).events(args.histories, n_posts=97))
    else:
        events = [e for e in load_events(args.data) if len(e.posts) > 96][: args.histories]
    if not events:
        raise MfenvError(f"{args.data}: no event has 97 posts")
    histories = mean_field_histories(
        teacher_forced(
            events,
            make_method("mf", backbone),
            build_annotator(AUTO, events[0]),
            agents=96,
            seed=0,
        ),
        backbone.prompts,
        seed=0,
    )
    histories = histories.add_column("bare", [0.0] * len(histories))
    with tempfile.TemporaryDirectory() as folder:

        def made(kind: type[IBTuneTrainer]) -> tuple[Callable[[], float], list[float]]:
            trainer = kind(
                backbone,
                policy=BackbonePolicy(backbone),
                args=IBTuneConfig(
                    output_dir=folder,
                    max_steps=args.rounds + 1,
                    num_generations=args.group,
                    per_device_train_batch_size=args.group * args.histories,
                    learning_rate=_NOTHING,
                    lr_scheduler_type="constant",
                    gradient_checkpointing=backbone.model.device.type != "cpu",
                    use_cpu=backbone.model.device.type == "cpu",
                    bf16=backbone.model.device.type != "cpu",
                    dataloader_pin_memory=False,
                    report_to="none",
                    save_strategy="no",
                    logging_strategy="no",
                    disable_tqdm=True,
                ),
                train_dataset=histories,
                peft_config=lora(64, 64),
            )
            if kind is not IBTuneTrainer:
                trainer.reward_funcs = [_free]
                trainer.reward_func_names = ["free"]
            return _steps(trainer)

        ways = {"ib-tune": IBTuneTrainer, "same generations": _SameGenerations, "plain": _Plain}
        steps = {name: made(kind) for name, kind in ways.items()}
        for _ in range(args.rounds + 1):
            for step, _ in steps.values():
                step()
    # The first step of each warms up.
    seconds = {name: np.array(times[1:]) for name, (_, times) in steps.items()}
    return {
        "seconds": {name: float(np.median(s)) for name, s in seconds.items()},
        "ratio": {
            name: {
                "median": float(np.median(seconds["ib-tune"] / s)),
                "low": float(np.min(seconds["ib-tune"] / s)),
                "high": float(np.max(seconds["ib-tune"] / s)),
            }
            for name, s in seconds.items()
            if name != "ib-tune"
        },
        "rounds": args.rounds,
        "histories": args.histories,
        "group": args.group,
        "backbone": backbone.describe(),
        "machine": machine(),
        "command": f"python -m benchmarks.ib_step --backbone {args.backbone}"
        + ("" if args.data is None else " --data FILE")
        + f" --group {args.group} --histories {args.histories} --rounds {args.rounds}",
    }


def _free(completions: list[str], **_: Any) -> list[float]:
    """A reward that costs nothing and is not the same for all."""
    return [float(len(c)) for c in completions]


def _steps(trainer: IBTuneTrainer) -> tuple[Callable[[], float], list[float]]:
    """What takes one whole optimiser step of a trainer, and the seconds of those taken."""
    trainer.create_optimizer_and_scheduler(num_training_steps=trainer.args.max_steps)
    batches = iter(trainer.get_train_dataloader())
    trainer.current_gradient_accumulation_steps = 1
    taken: list[float] = []

    def step() -> float:
        rows = next(batches)
        begun = time.perf_counter()
        trainer.model.train()
        trainer.training_step(trainer.model, rows, None)
        trainer.optimizer.step()
        trainer.optimizer.zero_grad()
        taken.append(time.perf_counter() - begun)
        trainer.state.global_step += 1
        return taken[-1]

    return step, taken


def _markdown(result: dict[str, Any]) -> str:
    backbone = ", ".join(f"{k} {v}" for k, v in sorted(result["backbone"].items()))
    names = {
        "same generations": "TRL's RLOO step with the same generations",
        "plain": "TRL's RLOO step with `model.generate`",
    }
    lines = [
        "# An IB-Tune step beside a plain TRL step",
        "",
        f"{result['histories']} histories with {result['group']} candidates each, LoRA r 64. "
        f"Backbone: {backbone}. {result['rounds']} rounds, the three timed in turn in each. "
        f"Machine: {result['machine']}.",
        "",
        "| | seconds a step (median) | IB-Tune's step is … times that (median, [least, most]) |",
        "|---|---|---|",
        f"| IB-Tune | {result['seconds']['ib-tune']:.2f} | |",
    ]
    for name, title in names.items():
        r = result["ratio"][name]
        lines.append(
            f"| {title} | {result['seconds'][name]:.2f} | "
            f"{r['median']:.2f} [{r['low']:.2f}, {r['high']:.2f}] |"
        )
    lines += [
        "",
        "IB-Tune's step holds what a plain one does not: scoring the real actions behind every "
        "candidate, and the prior's prompts. It reads the prompt that a group shares once.",
        "",
        "```",
        result["command"],
        "```",
    ]
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    sys.exit(script(cast(Command, sys.modules[__name__]), "python -m benchmarks.ib_step"))
