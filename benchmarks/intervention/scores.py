"""Outcomes from episodes: uplift, harm avoided per unit of cost, timing, regret, transfer.

Everything is computed from an entry's lines. Arrays are ``(P, S, E, T)``: planners, seeds, events,
steps; steps behind an episode's end are NaN.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.planners.base import COST_OF_ACTION
from agents.planners.play import budgeted
from benchmarks.intervention.entry import Entry
from benchmarks.metrics import Interval, hierarchical_bootstrap, iqm, ratio
from mfenv.distributions import normalise
from mfenv.envs.objectives import harms, make_objective
from mfenv.errors import MfenvError
from mfenv.labels import NAMES
from mfenv.noise import generator

__all__ = [
    "ORACLE",
    "SAME",
    "Outcomes",
    "interval_json",
    "outcomes",
    "score",
    "smooth",
    "surviving",
    "transfer",
]

Floats = NDArray[np.float64]

ORACLE = "oracle"
"""The label that regret is measured against, where it was run."""

SAME: tuple[str, ...] = (
    "objective", "target", "horizon", "budget", "cost_weight", "batch", "warmup"
)  # fmt: skip
"""Fields of the setting in which two tiers must agree to be compared."""

WIDTH = 3
"""Steps that peak and time to half average over."""

_BOOTSTRAP_STREAM = 7041
_LAST = 4  # part of the horizon (a quarter) that the final distribution is read from


@dataclass(frozen=True, slots=True)
class Outcomes:
    """What happened, step by step."""

    harm: Floats  # (P, S, E, T)
    cost: Floats  # (P, S, E, T)
    refused: NDArray[np.bool_]  # (P, S, E, T) asked for, and not paid by the budget
    shares: Floats  # (P, S, E, T, 23)
    mean_harm: Floats  # (P, S, E) over the episode
    loss: Floats  # (P, S, E) harm plus weighted cost, mean over the episode

    @property
    def uplift(self) -> Floats:
        """Harm without intervention minus harm with the planner ``(P, S, E)``."""
        return self.mean_harm[:1] - self.mean_harm

    @property
    def net(self) -> Floats:
        """The same with the weighted cost of interventions: what the reward counts."""
        return self.loss[:1] - self.loss


def outcomes(entry: Entry) -> Outcomes:
    """Harm and cost of every step, from what was asked for and the label counts."""
    setting, played = entry.setting, entry.episodes
    objective = make_objective(setting.objective, setting.target)
    over = np.arange(setting.horizon) >= played.steps[:, None]  # (E, T)
    truth = np.array([bool(e.truth) for e in entry.events])
    if objective.needs_truth and any(e.truth is None for e in entry.events):
        raise MfenvError(f"the objective {objective.name!r} needs events whose truth is known")
    shares = normalise(played.counts)
    own = played.counts[..., :2].sum(axis=-1)
    harm = np.where(over, np.nan, harms(objective, shares, own, truth[:, None]))
    done, refused = budgeted(played.wanted, setting.budget)
    cost = np.where(over, np.nan, COST_OF_ACTION[done])
    return Outcomes(
        harm=harm,
        cost=cost,
        refused=refused,
        shares=shares,
        mean_harm=np.nanmean(harm, axis=-1),
        loss=np.nanmean(harm + setting.cost_weight * cost, axis=-1),
    )


def smooth(values: Floats) -> Floats:
    """Centred mean of ``WIDTH`` steps over the last axis, shorter at the ends; NaN stay out."""
    padded = np.full((*values.shape[:-1], values.shape[-1] + WIDTH - 1), np.nan)
    half = WIDTH // 2
    padded[..., half : half + values.shape[-1]] = values
    windows = np.lib.stride_tricks.sliding_window_view(padded, WIDTH, axis=-1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # nothing but NaN behind an end
        return np.where(np.isnan(values), np.nan, np.nanmean(windows, axis=-1))


def time_to_half(harm: Floats) -> Floats:
    """Steps (from 1) until an event's harm is half of that without intervention: ``(P, E)``.

    From harms ``(P, S, E, T)``, averaged over seeds and ``WIDTH`` steps; infinite where it never
    is, or where there is no harm to halve.
    """
    curves = smooth(harm.mean(axis=1))  # (P, E, T)
    reached = (curves <= 0.5 * curves[:1]) & (curves[:1] > 0)
    first = reached.argmax(axis=-1) + 1.0
    return np.where(reached.any(axis=-1), first, np.inf)


def score(entry: Entry) -> dict[str, Any]:
    """All outcomes of an entry, by planner, as JSON values.

    Intervals are 95% bootstrap intervals over events, and seeds within events. ``net`` is the
    uplift of the reward, which counts cost; planners are ranked by it.
    """
    o = outcomes(entry)
    labels = list(entry.planners)
    halves, peaks = time_to_half(o.harm), np.nanmax(smooth(o.harm), axis=-1)
    truth = np.array([e.truth for e in entry.events], dtype=object)
    rows: dict[str, Any] = {}
    for p, label in enumerate(labels):
        spent = np.nansum(o.cost[p], axis=-1)  # (S, E)
        avoided = np.nansum(o.harm[0] - o.harm[p], axis=-1)
        per_cost = ratio(avoided, spent, _rng(2)) if spent.sum() > 0 else None
        rows[label] = {
            "name": entry.planners[label]["name"],
            "harm": float(o.mean_harm[p].mean()),
            "uplift": _interval(o.uplift[p]),
            "uplift_iqm": _interval(o.uplift[p], True),
            "net": _interval(o.net[p]),
            "net_iqm": _interval(o.net[p], True),
            "spent": float(spent.mean()),
            "avoided_per_cost": None if per_cost is None else interval_json(per_cost),
            "avoided_per_budget": _interval(avoided / entry.setting.budget)
            if entry.setting.budget
            else None,
            "refused": float(o.refused[p].sum(axis=-1).mean()),
            "peak": float(peaks[p].mean()),
            "half": {
                "reached": float(np.isfinite(halves[p]).mean()),
                "median": float(np.median(halves[p]))
                if np.isfinite(np.median(halves[p]))
                else None,
            },
            "by_truth": {
                name: _interval(o.net[p][:, truth == value])
                for name, value in (("false", False), ("true", True))
                if (truth == value).any()
            },
            "final": dict(zip(NAMES, _final(o.shares[p], entry).tolist(), strict=True)),
            "curve": _curve(o.harm[p]),
        }
    ranked = sorted(labels, key=lambda k: -rows[k]["net"]["mean"])
    compared = {}
    # The best that reads only what an environment shows; insiders are bounds.
    open_ones = [k for k in ranked if not entry.planners[k]["name"].startswith("oracle")]
    best = open_ones[0]
    for label in labels:
        if label != best:
            gap = o.net[labels.index(best)] - o.net[labels.index(label)]
            compared[label] = _interval(gap)
    return {
        "planners": rows,
        "ranked": ranked,
        "best": best,
        "best_minus": compared,
        "oracle": _against_oracle(entry, o),
        "events": len(entry.events),
        "seeds": entry.seeds,
    }


def _against_oracle(entry: Entry, o: Outcomes) -> dict[str, Any] | None:
    """Regret to the oracle, and the share of its net uplift, by planner."""
    labels = list(entry.planners)
    if ORACLE not in labels or entry.planners[ORACLE]["name"] != ORACLE:
        return None
    bound = o.net[labels.index(ORACLE)]
    clear = hierarchical_bootstrap(bound, _rng(0)).low > 0
    return {
        label: {
            "regret": _interval(bound - o.net[p]),
            "share": interval_json(ratio(o.net[p], bound, _rng(2))) if clear else None,
        }
        for p, label in enumerate(labels)
        if label != ORACLE
    }


def transfer(entry: Entry, other: Entry) -> dict[str, Any]:
    """How much of each planner's uplift in ``other`` (a cheaper tier) is left in ``entry``.

    Both have the same events, matched by id, objective, horizon and budget. The share is the ratio
    of mean net uplifts, its interval a paired bootstrap over the events; there is none where the
    uplift in ``other`` is not clearly above 0. Raises ``MfenvError`` where they cannot be compared.
    """
    for name in SAME:
        ours, theirs = getattr(entry.setting, name), getattr(other.setting, name)
        if ours != theirs:
            raise MfenvError(f"the tiers differ in {name}: {ours!r} and {theirs!r}")
    places = {e.id: i for i, e in enumerate(other.events)}
    missing = [e.id for e in entry.events if e.id not in places]
    if missing:
        raise MfenvError(
            f"the other tier lacks {len(missing)} of the events, such as {missing[0]}; run it on "
            "the same events"
        )
    index = [places[e.id] for e in entry.events]
    a, b = outcomes(entry), outcomes(other)
    ours, theirs = list(entry.planners), list(other.planners)
    rows = {}
    for label in ours[1:]:
        if label not in theirs:
            continue
        if dict(entry.planners[label]) != dict(other.planners[label]):
            raise MfenvError(f"planner {label!r} is another one in the other tier")
        p, q = ours.index(label), theirs.index(label)
        rows[label] = {
            "uplift": surviving(a.uplift[p], b.uplift[q][:, index]),
            "net": surviving(a.net[p], b.net[q][:, index]),
        }
    if not rows:
        raise MfenvError(
            f"the tiers share no planner but none; this one has {', '.join(ours[1:])}, the other "
            f"{', '.join(theirs[1:])}"
        )
    return {"tiers": [entry.setting.dynamics, other.setting.dynamics], "planners": rows}


def surviving(here: Floats, there: Floats) -> dict[str, Any]:
    """How much of what a planner gains ``there`` ``(S', E)`` is left ``here`` ``(S, E)``."""
    base = hierarchical_bootstrap(there, _rng(0))
    share = ratio(here, there, _rng(2)) if base.low > 0 else None
    return {
        "here": _interval(here),
        "there": interval_json(base),
        "share": None if share is None else interval_json(share),
    }


def _rng(purpose: int) -> np.random.Generator:
    return generator(_BOOTSTRAP_STREAM, purpose)


def _interval(values: Floats, middle: bool = False) -> dict[str, float | None]:
    """Mean (or interquartile mean) of ``(S, E)`` with its interval over events and seeds."""
    statistic = iqm if middle else None
    return interval_json(hierarchical_bootstrap(values, _rng(1 if middle else 0), statistic))


def interval_json(x: Interval) -> dict[str, float | None]:
    """An interval as JSON values, rounded; no bounds are null."""
    return {
        "mean": round(x.mean, 6),
        "low": None if math.isnan(x.low) else round(x.low, 6),
        "high": None if math.isnan(x.high) else round(x.high, 6),
    }


def _final(shares: Floats, entry: Entry) -> Floats:
    """Shares ``(23,)`` in the last quarter of the episodes, mean over seeds and events."""
    parts = []
    for e, steps in enumerate(entry.episodes.steps.tolist()):
        last = max(1, steps // _LAST)
        parts.append(shares[:, e, steps - last : steps].mean(axis=(0, 1)))
    return np.asarray(np.round(np.mean(parts, axis=0), 6))


def _curve(harm: Floats) -> list[float]:
    """Mean harm by step."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        means: Mapping[int, float] = dict(enumerate(np.nanmean(harm, axis=(0, 1)).tolist()))
    return [round(v, 6) for v in means.values() if not math.isnan(v)]
