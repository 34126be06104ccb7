"""``mfenv train planner-text``: a language model learns to plan interventions."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from agents.backbones.adapters import local
from mfenv.cli import integer
from mfenv.dynamics.assemble import build_backbone
from mfenv.envs.objectives import OBJECTIVES
from mfenv.errors import MfenvError
from training.configs import ConfigOption, known
from training.folders import one_run
from training.grpo.settings import GRPOSettings, World, first_settings
from training.grpo.train import train, validate
from training.grpo.validation import told
from training.sft import SFTSettings

__all__ = ["HELP", "add_arguments", "run"]

HELP = "train a language model as planner: it reads the mean field and writes interventions (GRPO)"

_TIERS = ("society", "llm")  # those whose mean field is a text


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``mfenv train planner-text``."""
    add, d, sft, world = parser.add_argument, GRPOSettings(), first_settings(), World()
    add("--backbone", required=True, metavar="NAME", help="the planner: embedded-en, hf:PATH, …")
    add("--out", type=Path, required=True, metavar="DIR", help="checkpoints, planners, report")
    add(
        "--config",
        action=ConfigOption,
        metavar="FILE",
        help=f"settings in TOML, or one of {', '.join(known())}; options behind it count more",
    )
    add("--dynamics", choices=_TIERS, default=world.dynamics, help="the tier (%(default)s)")
    add(
        "--population",
        metavar="NAME",
        default=world.population,
        help="llm: the backbone that plays the people (%(default)s)",
    )
    add("--method", default=world.method, help="llm: how the mean field is made (%(default)s)")
    add(
        "--objective",
        choices=[x for x in OBJECTIVES if x != "target"],
        default=world.objective,
        help="what is harmful (%(default)s)",
    )
    add("--horizon", type=integer(1), default=world.horizon, help="steps (%(default)s)")
    add(
        "--sft-steps",
        type=integer(1),
        default=sft.steps,
        help="of the supervised start (%(default)s)",
    )
    add("--sft-batch", type=integer(1), default=sft.batch, help="answers a step (%(default)s)")
    add("--sft-learning-rate", type=float, default=sft.learning_rate, help="(%(default)s)")
    add("--steps", type=integer(1), default=d.steps, help="optimiser steps of GRPO (%(default)s)")
    add("--groups", type=integer(1), default=d.groups, help="decisions a step (%(default)s)")
    add("--group", type=integer(2), default=d.group, help="answers a decision (%(default)s)")
    add("--learning-rate", type=float, default=d.learning_rate, help="of GRPO (%(default)s)")
    add("--beta", type=float, default=d.beta, help="KL from the supervised start (%(default)s)")
    add("--r", type=integer(0), default=d.r, help="rank of LoRA; 0: all weights (%(default)s)")
    add("--alpha", type=integer(1), default=d.alpha, help="LoRA's scale (%(default)s)")
    add("--seed", type=integer(0), default=d.seed, help="(%(default)s)")
    add("--save-steps", type=integer(1), default=d.save_steps, help="(%(default)s)")
    add(
        "--validation-seeds",
        type=integer(1),
        default=d.validation_seeds,
        metavar="N",
        help="episodes of each held-out scenario (%(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """Train, compare the planner before and after GRPO on held-out scenarios, and say so."""
    for name, value in (
        ("learning-rate", args.learning_rate),
        ("sft-learning-rate", args.sft_learning_rate),
    ):
        if not value > 0:
            raise MfenvError(f"--{name} {value} is not allowed; allowed: above 0")
    if not args.beta >= 0:
        raise MfenvError(f"--beta {args.beta} is not allowed; allowed: 0 or more")
    settings, world = _settings(args), _world(args)
    world.env("train")  # what is wrong with it is said before anything is computed
    backbone = local(build_backbone(args.backbone))
    with one_run(args.out):
        first, last = train(backbone, world, settings, args.out)
        path = args.out / "validation.json"
        figures: dict[str, Any] = validate(
            backbone,
            world,
            {"sft": first, "grpo": last},
            seeds=settings.validation_seeds,
            say=lambda text: print(text, flush=True),
        )
        path.write_text(json.dumps(figures, indent=1, ensure_ascii=False) + "\n", "utf-8")
        words = told(figures)
        (last / "README.md").write_text(_card(args, words), "utf-8")
    print(words)
    print(f"trained: {last}")
    return 0


def _settings(args: argparse.Namespace) -> GRPOSettings:
    return GRPOSettings(
        steps=args.steps,
        groups=args.groups,
        group=args.group,
        learning_rate=args.learning_rate,
        beta=args.beta,
        r=args.r,
        alpha=args.alpha,
        seed=args.seed,
        save_steps=args.save_steps,
        validation_seeds=args.validation_seeds,
        sft=SFTSettings(
            steps=args.sft_steps,
            batch=args.sft_batch,
            learning_rate=args.sft_learning_rate,
            save_steps=args.save_steps,
        ),
    )


def _world(args: argparse.Namespace) -> World:
    return World(
        dynamics=args.dynamics,
        population=args.population,
        method=args.method,
        objective=args.objective,
        horizon=args.horizon,
    )


def _card(args: argparse.Namespace, words: str) -> str:
    what = "An adapter" if args.r else "The weights"
    return (
        f"# Planner on {args.backbone}\n\n"
        f"{what} of a language model that plans interventions, made by "
        f"`mfenv train planner-text` in the tier `{args.dynamics}` under the objective "
        f"`{args.objective}`. `mfenv.json` has its settings.\n\n"
        f"## What was measured\n\n```\n{words}\n```\n\n"
        "## Limits\n\nGood for the environment that it was trained in, as far as the figures go. "
        "Licence: that of the backbone.\n"
    )
