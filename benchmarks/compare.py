"""Step records against the real steps: scores, baselines and intervention effects."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks import metrics
from benchmarks.metrics import Interval
from mfenv.distributions import counts, normalise
from mfenv.dynamics.records import StepRecord
from mfenv.errors import MfenvError
from mfenv.labels import NAMES, Labels
from mfenv.noise import generator

__all__ = [
    "FLOOR",
    "FORECASTERS",
    "PERSISTENCE",
    "Comparison",
    "Difference",
    "Score",
    "compare",
    "compare_labels",
    "difference",
    "forecasts",
]

Floats = NDArray[np.float64]
Run = Sequence[StepRecord]

PERSISTENCE, FLOOR = "persistence", "noise floor"

# Streams of the generators that are keyed by seed here.
_FLOOR_STREAM = 7002
FORECASTERS: dict[str, tuple[Callable[[Labels, int, np.random.Generator], Labels], int]] = {
    PERSISTENCE: (metrics.persistence, 7001),
    "rotation": (metrics.rotation, 7007),
    "smoothing": (metrics.smoothing, 7005),
    "drift": (metrics.drift, 7006),
}
"""Baselines without any model, by name: what continues the warm-up, and its generator's stream."""


@dataclass(frozen=True, slots=True)
class Score:
    """How far one method is from the real population; all KL in nats."""

    name: str
    kl: Interval  # mean over seeds, windows and dimensions; the interval is over seeds
    per_dimension: Floats  # (8,) mean over seeds and windows
    per_window: Floats  # (3,) mean over seeds and dimensions
    excess: float  # KL minus its matched noise floor
    squared_error: float  # of the expected shares (all seeds pooled), mean over the rest


@dataclass(frozen=True, slots=True)
class Comparison:
    """The scores of all methods, forecasters among them, and the floor they share."""

    scores: tuple[Score, ...]
    floor: Score
    per_seed: Mapping[str, Floats]  # name → mean KL of each seed, (seeds,)


@dataclass(frozen=True, slots=True)
class Difference:
    """What an intervention changed: shares of all 23 labels, from its step to the end."""

    without: Floats  # (23,) mean over seeds
    with_it: Floats  # (23,)
    intervals: tuple[Interval, ...]  # 23, of with minus without, paired by seed


def _rollout(run: Run) -> Labels:
    """Labels ``(H, 8)`` of the reactions after the warm-up."""
    parts = [r.labels for r in run if not r.warmup]
    return np.concatenate(parts) if parts else np.zeros((0, 8), dtype=np.int8)


def compare(real: Run, runs: Mapping[str, Sequence[Run]], seeds: Sequence[int]) -> Comparison:
    """Score runs without interventions, ``{method: one run for each seed}``, against real steps.

    The forecasters without a model (persistence among them) are added, with one draw for each seed
    and as many reactions as the methods have.
    Raises ``MfenvError`` where the rollout is too short to have three windows.
    """
    horizon = _rollout(real)
    warm = np.concatenate([r.labels for r in real if r.warmup] or [horizon[:0]])
    labels = {name: [_rollout(run) for run in each] for name, each in runs.items()}
    return compare_labels(warm, horizon, labels, seeds)


def forecasts(warm: Labels, n: int, seeds: Sequence[int]) -> dict[str, Labels]:
    """The baselines without a model: name → ``(seeds, n, 8)``; none where ``warm`` is empty."""
    if not len(warm):
        return {}
    return {
        name: np.stack([forecast(warm, n, generator(stream, s)) for s in seeds])
        for name, (forecast, stream) in FORECASTERS.items()
    }


def compare_labels(
    warm: Labels, horizon: Labels, simulated: Mapping[str, Sequence[Labels]], seeds: Sequence[int]
) -> Comparison:
    """Like :func:`compare`, from labels: real ones of the warm-up ``(w, 8)`` and the horizon
    ``(n, 8)``, simulated ones ``{method: (seeds, n, 8)}``."""
    if len(horizon) < len(metrics.WINDOWS):
        raise MfenvError(
            f"{len(horizon)} reactions after the warm-up are too few to compare (3 or more are "
            f"needed): raise the number of agents, shorten the warm-up, or choose a longer event"
        )
    true = metrics.window_counts(horizon)
    sizes = metrics.window_counts(horizon)[:, :2].sum(axis=-1)  # two labels: all reactions
    labels = {name: np.stack(list(each)) for name, each in simulated.items()}
    labels.update(forecasts(warm, len(horizon), seeds))
    floor = metrics.noise_floor(true, sizes, sizes, generator(_FLOOR_STREAM, 0))
    scores, per_seed = [], {}
    for name, each in labels.items():
        count = metrics.window_counts(each)  # (seeds, 3, 23)
        kl = metrics.kl(true, count)  # (seeds, 3, 8)
        per_seed[name] = kl.mean(axis=(1, 2))
        interval = metrics.student(per_seed[name])
        scores.append(
            Score(
                name=name,
                # A KL is not negative, whatever Student's t says of three seeds.
                kl=Interval(interval.mean, max(interval.low, 0.0), interval.high),
                per_dimension=kl.mean(axis=(0, 1)),
                per_window=kl.mean(axis=(0, 2)),
                excess=float(kl.mean() - floor.mean()),
                squared_error=_squared_error(true, count.sum(axis=0)),
            )
        )
    return Comparison(
        tuple(scores),
        Score(
            name=FLOOR,
            kl=Interval(float(floor.mean()), math.nan, math.nan),
            per_dimension=floor.mean(axis=0),
            per_window=floor.mean(axis=1),
            excess=0.0,
            squared_error=0.0,
        ),
        per_seed,
    )


def _squared_error(true: Floats, pooled: Floats) -> float:
    """NaN where a window has fewer than the two reactions that its correction needs."""
    if min(true[:, :2].sum(axis=-1).min(), pooled[:, :2].sum(axis=-1).min()) < 2:
        return math.nan
    return float(metrics.squared_error(true, pooled).mean())


def difference(without: Sequence[Run], with_it: Sequence[Run], first: int) -> Difference:
    """Compare runs that are paired by seed and noise, from step ``first`` (warm-up included) on.

    The agents whose reaction a planner replaced are left out on both sides, so that the same
    people are compared.
    """
    shares = []
    for plain, changed in zip(without, with_it, strict=True):
        own = np.concatenate([~r.planted for r in changed[first:]])
        shares.append(
            [
                normalise(counts(np.concatenate([r.labels for r in run[first:]])[own]))
                for run in (plain, changed)
            ]
        )
    pairs = np.array(shares)  # (seeds, 2, 23)
    gap = pairs[:, 1] - pairs[:, 0]
    return Difference(
        without=pairs[:, 0].mean(axis=0),
        with_it=pairs[:, 1].mean(axis=0),
        intervals=tuple(metrics.student(gap[:, i]) for i in range(len(NAMES))),
    )
