"""What a planner achieves on held-out scenarios, and whether one is better than another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.planners.language_model import LanguageModelPlanner
from mfenv.envs.social_text import SocialTextEnv, step_together
from mfenv.noise import generator
from training.grpo.episodes import Lane, play, start

__all__ = ["Outcome", "compare", "nothing", "outcome", "told"]

_STREAM = 63  # of the random generator
_FIRST_SEED = 1_000_000  # of the validation's episodes
_RESAMPLES = 4000
_LANES = 256  # episodes that are played together


@dataclass(frozen=True, slots=True)
class Outcome:
    """Episodes on every scenario of an environment, with the same seeds for every planner."""

    returns: NDArray[np.float64]  # (scenarios, seeds)
    unreadable: float
    """Share of the answers."""
    cost: float
    """Mean cost of an episode's interventions."""


def outcome(planner: LanguageModelPlanner, env: SocialTextEnv, seeds: int) -> Outcome:
    """Play every scenario with ``seeds`` seeds."""
    lanes = _lanes(env, seeds)
    for first in range(0, len(lanes), _LANES):
        play(planner, lanes[first : first + _LANES])
    return _outcome(lanes, seeds)


def nothing(env: SocialTextEnv, seeds: int) -> Outcome:
    """The same episodes without any intervention."""
    lanes = _lanes(env, seeds)
    while active := [lane for lane in lanes if not lane.over]:
        results = step_together([lane.env for lane in active], ["none"] * len(active))
        for lane, (_, reward, _, over, _) in zip(active, results, strict=True):
            lane.total, lane.step, lane.over = lane.total + reward, lane.step + 1, over
    return _outcome(lanes, seeds)


def compare(after: Outcome, before: Outcome) -> dict[str, float]:
    """Mean paired difference of returns and its 95% bootstrap interval over scenarios."""
    difference = (after.returns - before.returns).mean(axis=1)
    rng = generator(_STREAM, 0)
    drawn = rng.integers(len(difference), size=(_RESAMPLES, len(difference)))
    low, high = np.quantile(difference[drawn].mean(axis=1), [0.025, 0.975])
    return {"mean": float(difference.mean()), "low": float(low), "high": float(high)}


def told(figures: Mapping[str, Any]) -> str:
    """The figures in words."""
    n, seeds = figures["scenarios"], figures["seeds"]
    lines = [f"{n} held-out scenarios × {seeds} seeds, return of an episode:"]
    for name, x in figures["planners"].items():
        lines.append(
            f"  {name:12} {x['return']:8.3f}  cost {x['cost']:5.2f}  "
            f"unreadable {100 * x['unreadable']:.1f}%"
        )
    for name, d in figures["differences"].items():
        lines.append(f"  {name}: {d['mean']:+.3f} (95% {d['low']:+.3f} to {d['high']:+.3f})")
    return "\n".join(lines)


def _lanes(env: SocialTextEnv, seeds: int) -> list[Lane]:
    return [
        start(env.twin(), scenario, _FIRST_SEED + k)
        for scenario in env.scenarios.ids
        for k in range(seeds)
    ]


def _outcome(lanes: list[Lane], seeds: int) -> Outcome:
    returns = np.array([lane.total for lane in lanes]).reshape(-1, seeds)
    answers = sum(lane.step for lane in lanes)
    return Outcome(
        returns,
        sum(lane.unreadable for lane in lanes) / answers,
        float(np.mean([lane.env.spent for lane in lanes])),
    )
