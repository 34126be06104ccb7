"""Steps a second of the planner's environments beside CartPole's: ``mfenv bench environments``.

Rounds alternate between CartPole and ours, so that what else the machine does falls on both; the
ratio of each round's two speeds is what counts, and its median is reported, by the clock and by the
CPU time of all threads (on a busy machine the clock holds it against threads that they wait for one
another). Actions are drawn before the clock runs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import gymnasium
import numpy as np

import mfenv  # noqa: F401  (registers the environments)
from benchmarks.fidelity import machine
from mfenv.cli import Command, integer, script
from mfenv.envs.registration import SURROGATE

__all__ = ["HELP", "add_arguments", "run", "speeds"]

HELP = "steps a second of the environments beside CartPole's"

_SYNC, _NATIVE = 64, 4096  # environments side by side
_SEED = 0
_DRAWN = 16  # batches of actions that take turns
_WARMUP = 800  # steps
_KINDS = ("by the clock", "by CPU time")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add = parser.add_argument
    add("--surrogate", default="embedded-en", metavar="NAME", help="(%(default)s)")
    add("--rounds", type=integer(1), default=9, metavar="N", help="(%(default)s)")
    add(
        "--milliseconds",
        type=integer(1),
        default=400,
        metavar="N",
        help="of one measurement (%(default)s)",
    )
    add("--out", type=Path, default=Path("benchmarks/results"), metavar="DIR")


def _meter(
    envs: gymnasium.vector.VectorEnv[Any, Any, Any], seconds: float
) -> Callable[[], tuple[float, float]]:
    """A function that steps for about so many seconds.

    It returns steps of lanes in a second, and in a second of CPU time.
    """
    envs.action_space.seed(_SEED)
    actions = [envs.action_space.sample() for _ in range(_DRAWN)]
    envs.reset(seed=_SEED)
    for _ in range(_WARMUP):  # every part is compiled and every event is read
        envs.step(actions[0])
    number = 0

    def measure() -> tuple[float, float]:
        nonlocal number
        done, start, used = 0, time.perf_counter(), time.process_time()
        while (elapsed := time.perf_counter() - start) < seconds:
            envs.step(actions[number % _DRAWN])
            number, done = number + 1, done + 1
        used = time.process_time() - used
        return done * envs.num_envs / elapsed, done * envs.num_envs / used

    return measure


def speeds(
    names: dict[str, Callable[[], gymnasium.vector.VectorEnv[Any, Any, Any]]],
    rounds: int,
    seconds: float,
) -> dict[str, list[tuple[float, float]]]:
    """Steps a second of every environment in every round; rounds go through all in turn.

    Each by the clock, and by CPU time.
    """
    meters = {name: _meter(make(), seconds) for name, make in names.items()}
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for _ in range(rounds):
        for name, meter in meters.items():
            found[name].append(meter())
    return found


def _median(values: list[tuple[float, float]], by: int) -> float:
    return float(statistics.median(v[by] for v in values))


def _ratio(ours: list[tuple[float, float]], theirs: list[tuple[float, float]], by: int) -> float:
    return float(statistics.median(a[by] / b[by] for a, b in zip(ours, theirs, strict=True)))


def run(args: argparse.Namespace) -> int:
    """Measure, print, write ``environment-speed.md`` and ``.json``."""

    def ours(n: int, mode: str, **kwargs: Any) -> Callable[[], Any]:
        return lambda: gymnasium.make_vec(
            SURROGATE, num_envs=n, vectorization_mode=mode, surrogate=args.surrogate, **kwargs
        )

    def cartpole(n: int, mode: str) -> Callable[[], Any]:
        return lambda: gymnasium.make_vec("CartPole-v1", num_envs=n, vectorization_mode=mode)

    native = "vector_entry_point"
    seconds = args.milliseconds / 1000
    found = speeds(
        {
            "CartPole, SyncVectorEnv": cartpole(_SYNC, "sync"),
            "surrogate, SyncVectorEnv": ours(_SYNC, "sync"),
            "CartPole, native": cartpole(_NATIVE, native),
            "surrogate, native": ours(_NATIVE, native),
            "surrogate, native, 10^3 people": ours(_NATIVE, native, batch=10**3),
            "surrogate, native, 10^9 people": ours(_NATIVE, native, batch=10**9),
        },
        args.rounds,
        seconds,
    )
    figures: dict[str, Any] = {}
    for by, kind in enumerate(_KINDS):
        figures[kind] = {
            "steps a second": {name: round(_median(v, by)) for name, v in found.items()},
            "ratio to CartPole": {
                "SyncVectorEnv": _ratio(
                    found["surrogate, SyncVectorEnv"], found["CartPole, SyncVectorEnv"], by
                ),
                "native": _ratio(found["surrogate, native"], found["CartPole, native"], by),
            },
            "10^9 people over 10^3": _ratio(
                found["surrogate, native, 10^9 people"],
                found["surrogate, native, 10^3 people"],
                by,
            ),
        }
    figures |= {
        "surrogate": args.surrogate,
        "rounds": args.rounds,
        "numpy": np.__version__,
        "gymnasium": gymnasium.__version__,
        "compiled": _compiled(),
        "machine": str(machine()),
    }
    text = _markdown(figures, args)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "environment-speed.md").write_text(text, encoding="utf-8")
    (args.out / "environment-speed.json").write_text(
        json.dumps(figures, indent=1, sort_keys=True) + "\n", encoding="utf-8"
    )
    print(text, end="")
    return 0


def _compiled() -> str:
    try:
        import numba
    except ModuleNotFoundError:
        return "no (NumPy)"
    return f"numba {numba.__version__}, {numba.get_num_threads()} threads"


def _markdown(figures: dict[str, Any], args: argparse.Namespace) -> str:
    clock, cpu = (figures[kind] for kind in _KINDS)
    rows = [
        f"| {name} | {value:,} | {cpu['steps a second'][name]:,} |"
        for name, value in clock["steps a second"].items()
    ]
    ratios = [
        f"| {k} | {f['ratio to CartPole']['SyncVectorEnv']:.1%} | "
        f"{f['ratio to CartPole']['native']:.1%} | {f['10^9 people over 10^3']:.2f} |"
        for k, f in zip(_KINDS, (clock, cpu), strict=True)
    ]
    return "\n".join(
        [
            "# Speed of the environments beside CartPole",
            "",
            f"Steps of single environments a second: medians over {figures['rounds']} rounds of "
            f"{args.milliseconds} ms that go through all in turn; ratios are medians of each "
            f"round's. `SyncVectorEnv` steps {_SYNC} environments, the native ones {_NATIVE:,}.",
            "",
            f"- `MFLLM-Surrogate-v0` with the surrogate `{figures['surrogate']}`, its defaults, "
            "random actions, autoresets included",
            f"- compiled: {figures['compiled']}",
            f"- machine: {figures['machine']}",
            f"- command: `mfenv bench environments --surrogate {figures['surrogate']} --rounds "
            f"{figures['rounds']} --milliseconds {args.milliseconds}`",
            "",
            "| environment | steps a second | steps a second of CPU time |",
            "|---|---|---|",
            *rows,
            "",
            "| ratios | `SyncVectorEnv`: ours over CartPole's | native: ours over CartPole's | "
            "speed at 10^9 people a step over 10^3 |",
            "|---|---|---|---|",
            *ratios,
            "",
        ]
    )


if __name__ == "__main__":
    sys.exit(script(cast(Command, sys.modules[__name__]), "python -m benchmarks.environment_speed"))
