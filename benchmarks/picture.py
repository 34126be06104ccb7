"""The README's picture: ``python -m benchmarks.picture docs/population.png``.

One false claim, and a planner that labels it as disputed half-way: the environment's own rendering.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import cast

import gymnasium
import numpy as np

from mfenv.cli import Command, script
from mfenv.errors import MissingExtraError
from mfenv.interventions import Intervention, Kind, encode_action

__all__ = ["HELP", "add_arguments", "run"]

HELP = "write a picture of one episode"
_FIRST, _HIGH = 5, 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where to, and which tier."""
    parser.add_argument("file", type=Path)
    parser.add_argument("--id", default="MFLLM-Social-v0", help="environment")
    parser.add_argument("--event", default="synthetic-0-1")
    parser.add_argument("--seed", type=int, default=0)


def run(args: argparse.Namespace) -> int:
    """Play the episode and save its last frame."""
    try:
        from matplotlib.image import imsave
    except ModuleNotFoundError as error:
        raise MissingExtraError("reports", "a picture") from error
    env = gymnasium.make(f"mfenv:{args.id}", render_mode="rgb_array")
    _, info = env.reset(seed=args.seed, options={"event_id": args.event})
    label = encode_action(Intervention(Kind.FACT_CHECK, _HIGH))
    truncated = False
    while not truncated:
        _, _, _, truncated, info = env.step(label if info["step"] in (_FIRST, _FIRST + 4) else 0)
    args.file.parent.mkdir(parents=True, exist_ok=True)
    imsave(args.file, np.asarray(env.render()))
    env.close()
    print(args.file)
    return 0


if __name__ == "__main__":
    sys.exit(script(cast(Command, sys.modules[__name__]), "python -m benchmarks.picture"))
