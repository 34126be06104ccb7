"""``mfenv train planner``: learn which intervention to choose when, with Stable-Baselines3."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from mfenv.cli import integer
from mfenv.envs.objectives import OBJECTIVES
from mfenv.errors import MfenvError
from training.folders import one_run
from training.planners.settings import (
    ALGORITHMS,
    PlannerSettings,
    environment_arguments,
    read_hyperparameters,
    validation_arguments,
)
from training.planners.spread import Spread

__all__ = ["HELP", "add_arguments", "run"]

HELP = "learn to choose interventions with PPO, MaskablePPO or RecurrentPPO (Stable-Baselines3)"

_DEFAULTS = PlannerSettings("", {}, 1, 1)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of ``mfenv train planner``."""
    add = parser.add_argument
    add("--algo", choices=ALGORITHMS, default="maskable-ppo", help="(%(default)s)")
    add("--dynamics", metavar="TIER", default="society", help="tier to train in (%(default)s)")
    add("--surrogate", metavar="NAME", help="surrogate to train in, or the folder of one")
    add("--objective", choices=OBJECTIVES, help="what is to be small (the environment's)")
    add("--budget", type=float, metavar="B", help="what an episode may cost (the environment's)")
    add("--horizon", type=integer(1), metavar="T", help="steps of an episode (the environment's)")
    add(
        "--env",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="any other argument of the environment, VALUE as JSON or text; may be repeated",
    )
    add(
        "--validate",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an argument that the validation environment has in place of the training's",
    )
    add("--timesteps", type=_steps, metavar="N", help="such as 1e6 (as the hyper-parameters say)")
    add("--num-envs", type=integer(1), metavar="K", help="lanes (as the hyper-parameters say)")
    add("--config", type=Path, metavar="FILE", help="hyper-parameters in rl-zoo3's YAML (shipped)")
    add(
        "--running-means",
        action=argparse.BooleanOptionalAction,
        default=_DEFAULTS.running_means,
        help="also show the planner the means of an episode's shares so far (%(default)s)",
    )
    add("--seed", type=integer(0), default=0, help="(%(default)s)")
    add(
        "--evaluate-every",
        type=_steps,
        default=_DEFAULTS.evaluate_every,
        metavar="N",
        help="steps between evaluations and checkpoints (%(default)s)",
    )
    add(
        "--episodes",
        type=integer(1),
        default=_DEFAULTS.episodes,
        metavar="N",
        help="episodes of an evaluation (%(default)s)",
    )
    add(
        "--executor",
        choices=("local", "ray"),
        default="local",
        help="where rollouts are played: processes of this machine or actors of a Ray cluster "
        "(%(default)s)",
    )
    add(
        "--workers",
        type=integer(1),
        default=1,
        metavar="N",
        help="how many play rollouts (%(default)s: this process); the result is the same",
    )
    add("--threads", type=integer(1), default=1, metavar="T", help="of each (%(default)s)")
    add("--ray-address", metavar="ADDRESS", help="of a Ray cluster (RAY_ADDRESS; else one here)")
    add(
        "--worker-gpus",
        type=float,
        default=0.0,
        metavar="G",
        help="GPUs that Ray gives each worker (%(default)s)",
    )
    add("--out", type=Path, required=True, metavar="DIR", help="checkpoints, logs, the planner")


def run(args: argparse.Namespace) -> int:
    """Train, or go on where the same command was stopped."""
    from training.planners.train import train

    given = _pairs("--env", args.env)
    for name in ("dynamics", "surrogate", "objective", "budget", "horizon"):
        if getattr(args, name) is not None:
            given[name] = getattr(args, name)
    environment = environment_arguments(given)
    read = read_hyperparameters(args.algo, environment["dynamics"], args.config)
    settings = PlannerSettings(
        algo=args.algo,
        hyperparameters=read.sb3,
        timesteps=read.timesteps if args.timesteps is None else args.timesteps,
        num_envs=read.num_envs if args.num_envs is None else args.num_envs,
        environment=environment,
        validation=validation_arguments(environment, _pairs("--validate", args.validate)),
        evaluate_every=args.evaluate_every,
        episodes=args.episodes,
        running_means=args.running_means,
        seed=args.seed,
    )
    if args.executor != "ray" and (args.ray_address or args.worker_gpus):
        raise MfenvError("--ray-address and --worker-gpus are for --executor ray")
    if args.worker_gpus < 0:
        raise MfenvError("--worker-gpus below 0 is not allowed; allowed: 0 or more")
    spread = Spread(args.executor, args.workers, args.threads, args.ray_address, args.worker_gpus)
    args.out.mkdir(parents=True, exist_ok=True)
    with one_run(args.out):
        folder = train(settings, args.out, say=lambda text: print(text, flush=True), spread=spread)
    print(f"trained: {folder}; use it: sb3:{folder}")
    return 0


def _pairs(option: str, given: list[str]) -> dict[str, Any]:
    """``NAME=VALUE`` as a mapping; a value that is no JSON is a text."""
    pairs: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise MfenvError(f"{option} {text!r} is not allowed; allowed: NAME=VALUE")
        try:
            pairs[name.replace("-", "_")] = json.loads(value)
        except ValueError:
            pairs[name.replace("-", "_")] = value
    return pairs


def _steps(text: str) -> int:
    """A whole number that may be written ``1e6``."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 1 <= value < 1e15 or value != int(value):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not allowed; allowed: a whole number of at least 1, such as 1e6"
        )
    return int(value)
