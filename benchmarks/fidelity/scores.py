"""The scores of an entry, computed from its journals and nothing else.

Every figure is a JSON value. Intervals draw whole groups (events, or streams of segments) where the
events are a sample of all events; the interquartile mean draws events and then seeds within them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import metrics
from benchmarks.compare import FLOOR, PERSISTENCE, Comparison, compare_labels, forecasts
from benchmarks.fidelity.conditions import CORE
from benchmarks.fidelity.entry import CaseFacts, Entry, Manifest, Played
from benchmarks.fidelity.judges import corrected, under_judges
from benchmarks.metrics import WINDOWS, Interval, block_bootstrap
from mfenv.distributions import normalise
from mfenv.labels import DIMENSIONS, SLICES, Labels, one_hot
from mfenv.noise import generator

__all__ = ["MIN_DOMAIN", "TURN_STEP", "TURN_SWING", "TURN_TOLERANCE", "score"]

Floats = NDArray[np.float64]

MIN_DOMAIN = 10
"""Events that a domain needs to have figures of its own."""

_BOOTSTRAP_STREAM = 7003
_TRAJECTORY = 16
"""Reactions of one point of a trajectory."""

TURN_STEP, TURN_SWING, TURN_TOLERANCE = 8, 0.2, 2
"""Turning points: reactions of a step, movement there and back, and steps that count as a hit."""

_TURNING = [
    SLICES[d.name].start + i
    for d in DIMENSIONS
    for i in range(len(d.labels) if len(d.labels) > 2 else 1)  # the second of two mirrors the first
]


def score(entry: Entry) -> dict[str, Any]:
    """All figures of an entry: those of the core condition, and of each study under ``studies``."""
    manifest = entry.manifest
    names = list(manifest.conditions)
    core = CORE if CORE in names else names[0]
    return {
        **_condition(entry.played[core], entry.cases, manifest, core),
        "studies": {
            name: _condition(entry.played[name], entry.cases, manifest, name)
            for name in names
            if name != core
        },
    }


def _condition(
    played: Played, facts: Sequence[CaseFacts], manifest: Manifest, name: str
) -> dict[str, Any]:
    """All figures of one condition."""
    seeds = manifest.seeds
    cases = [facts[i] for i in played.cases]
    groups = [case.group for case in cases]
    comparisons = [
        compare_labels(
            played.warmup[c],
            played.real[c],
            {m: list(x[:, c]) for m, x in played.simulated.items()},
            seeds,
        )
        for c in range(len(cases))
    ]
    summary = _divergences(comparisons, groups)
    per_seed = {
        m: np.stack([c.per_seed[m] for c in comparisons], axis=1)  # (seeds, cases)
        for m in comparisons[0].per_seed
    }
    labels = {**played.simulated, **_drawn(played, seeds)}
    independent = len(set(groups)) == len(groups)
    for method, values in per_seed.items():
        row = summary["kl"][method]
        row["iqm"] = _json(
            metrics.hierarchical_bootstrap(
                values, generator(_BOOTSTRAP_STREAM, 2), statistic=metrics.iqm
            )
            if independent
            # Segments of a stream are not independent; there is no interval for their IQM.
            else Interval(float(metrics.iqm(values)), math.nan, math.nan)
        )
        row.update(_shapes(played.real, labels[method], groups))
        row["turning_points"] = _turns(played, labels[method])
    best = summary["ranked"][0]
    summary["improvement"] = {
        f"{best} < {other}": _json(
            metrics.probability_of_improvement_interval(
                per_seed[best], per_seed[other], generator(_BOOTSTRAP_STREAM, 3)
            )
        )
        for other in summary["ranked"][1:]
    }
    summary["nll"] = _likelihood(played.likelihoods, groups, manifest.baseline)
    known = [x for x in played.likelihoods.values() if not np.isnan(x).any()]
    summary["tokens"] = int(known[0][:, 1].sum()) if known else None
    summary["baseline"] = manifest.baseline
    summary["per_domain"] = _domains(cases, comparisons)
    if not independent:
        summary["per_group"] = _groups(groups, comparisons)
    summary["corrected"] = corrected(
        manifest.annotator, [case.language for case in cases], played.real, labels
    )
    summary["judges"], summary["reversed"] = _judged(played, manifest, summary, groups)
    summary["cases"] = {"count": len(cases), "groups": len(set(groups))}
    summary["decisions"] = manifest.conditions[name].usage.decisions
    return summary


def _drawn(played: Played, seeds: Sequence[int]) -> dict[str, Labels]:
    """The forecasters' reactions, ``(S, C, H, 8)``; the same draws as in the comparison."""
    n = played.real.shape[1]
    each = [forecasts(warm, n, seeds) for warm in played.warmup]
    return {name: np.stack([x[name] for x in each], axis=1) for name in each[0]}


def _interval(values: Floats, groups: Sequence[str]) -> Interval:
    """Bootstrap over groups; the same draws for every figure."""
    return block_bootstrap(values, groups, generator(_BOOTSTRAP_STREAM, 0))


def _json(x: Interval) -> dict[str, float | None]:
    return {
        key: None if math.isnan(v) else round(v, 6)
        for key, v in (("mean", x.mean), ("low", x.low), ("high", x.high))
    }


def _scores(comparisons: Sequence[Comparison]) -> dict[str, list[Any]]:
    return {
        name: [next(s for s in (*c.scores, c.floor) if s.name == name) for c in comparisons]
        for name in (*(s.name for s in comparisons[0].scores), FLOOR)
    }


def _divergences(comparisons: Sequence[Comparison], groups: Sequence[str]) -> dict[str, Any]:
    scores = _scores(comparisons)
    mean = {name: np.array([s.kl.mean for s in each]) for name, each in scores.items()}
    rows = {
        name: {
            **_json(_interval(mean[name], groups)),
            "excess": _json(_interval(np.array([s.excess for s in each]), groups)),
            "squared_error": _json(_interval(np.array([s.squared_error for s in each]), groups)),
            "per_window": dict(zip(WINDOWS, _means([s.per_window for s in each]), strict=True)),
            "per_dimension": {
                d.name: _json(_interval(np.array([s.per_dimension[k] for s in each]), groups))
                for k, d in enumerate(DIMENSIONS)
            },
        }
        for name, each in scores.items()
    }
    ranked = sorted((n for n in rows if n != FLOOR), key=lambda n: float(mean[n].mean()))
    return {
        "kl": rows,
        "ranked": ranked,
        "paired": {
            f"{a} - {b}": _json(_interval(mean[a] - mean[b], groups))
            for a, b in combinations(ranked, 2)
        },
        "below_persistence": _below(scores),
    }


def _below(scores: Mapping[str, Sequence[Any]]) -> dict[str, int]:
    """In how many dimensions the mean KL of each method is below that of persistence."""
    per = {name: np.mean([s.per_dimension for s in each], axis=0) for name, each in scores.items()}
    if PERSISTENCE not in per:
        return {}
    return {
        name: int((x < per[PERSISTENCE]).sum())
        for name, x in per.items()
        if name not in (PERSISTENCE, FLOOR)
    }


def _means(rows: Sequence[Floats]) -> list[float]:
    return [round(float(x), 6) for x in np.mean(rows, axis=0)]


def _shapes(real: Labels, simulated: Labels, groups: Sequence[str]) -> dict[str, Any]:
    """What KL does not say: other distances, single labels, trajectories, and how varied it is."""
    p = normalise(metrics.window_counts(real))  # (C, 3, 23)
    q = normalise(metrics.window_counts(simulated))  # (S, C, 3, 23)

    def mean(values: Floats) -> dict[str, float | None]:
        return _json(_interval(values, groups))

    over = (0, 2, 3)  # seeds, windows, dimensions
    path, paths = _trajectory(real), _trajectory(simulated)  # (C, T, 23), (S, C, T, 23)
    f1 = [
        [metrics.f1(real[c], run[c]) for c in range(real.shape[0])] for run in simulated
    ]  # of each person's own labels
    return {
        "jensen_shannon": mean(metrics.jensen_shannon(p, q).mean(axis=over)),
        "total_variation": mean(metrics.total_variation(p, q).mean(axis=over)),
        "wasserstein": mean(metrics.wasserstein(p, q).mean(axis=over)),
        "dtw": mean(metrics.dtw(np.broadcast_to(path, paths.shape), paths).mean(axis=0)),
        "f1_macro": mean(np.mean([[x.mean_macro for x in row] for row in f1], axis=0)),
        "f1_micro": mean(np.mean([[x.mean_micro for x in row] for row in f1], axis=0)),
        "entropy": mean(metrics.label_entropy(one_hot(simulated).sum(axis=-2)).mean(axis=(0, 2))),
    }


def _turns(played: Played, simulated: Labels) -> dict[str, float | None]:
    """Turning points after the warm-up: how many of the real ones are hit, and how late.

    ``hit`` of the real ones, ``true`` of the simulated ones, ``delay`` of the hits in steps of
    ``TURN_STEP`` reactions; ``real`` of them in a run, over all labels.
    """
    warm = played.warmup[:, len(played.warmup[0]) % TURN_STEP :]  # whole steps, up to the horizon
    true = _trajectory(np.concatenate([warm, played.real], axis=1), TURN_STEP)
    past = np.broadcast_to(warm, (len(simulated), *warm.shape))
    made = _trajectory(np.concatenate([past, simulated], axis=2), TURN_STEP)
    found = metrics.reversals(
        true[..., _TURNING],
        made[..., _TURNING],
        TURN_TOLERANCE,
        swing=TURN_SWING,
        start=warm.shape[1] // TURN_STEP,
    ).total()
    hits, misses, alarms = (int(x) for x in (found.hits, found.misses, found.false_alarms))
    runs = len(simulated) * len(played.real)
    return {
        "hit": round(hits / (hits + misses), 4) if hits + misses else None,
        "true": round(hits / (hits + alarms), 4) if hits + alarms else None,
        "delay": round(float(found.delay), 4) if hits else None,
        "real": round((hits + misses) / runs, 4),
    }


def _trajectory(labels: Labels, reactions: int = _TRAJECTORY) -> Floats:
    """Shares ``(…, T, 23)`` of labels ``(…, H, 8)``: a point for each step, 3 at least."""
    width = min(reactions, labels.shape[-2] // len(WINDOWS))
    n = labels.shape[-2] // width
    hot = one_hot(labels[..., : n * width, :])
    shares: Floats = hot.reshape(*labels.shape[:-2], n, width, hot.shape[-1]).mean(axis=-2)
    return shares


def _likelihood(
    likelihoods: Mapping[str, Floats], groups: Sequence[str], baseline: str
) -> dict[str, Any]:
    """Nats a token and an action, and paired differences; none for what cannot be scored."""
    known = {m: x for m, x in likelihoods.items() if not np.isnan(x).any()}
    per_token = {m: x[:, 0] / x[:, 1] for m, x in known.items()}
    per_action = {m: x[:, 0] / x[:, 2] for m, x in known.items()}
    result = {}
    for m in known:
        row = {
            "per_token": _json(_interval(per_token[m], groups)),
            "per_action": _json(_interval(per_action[m], groups)),
        }
        if baseline in known:
            row["minus_baseline_per_token"] = _json(
                _interval(per_token[m] - per_token[baseline], groups)
            )
            row["minus_baseline_per_action"] = _json(
                _interval(per_action[m] - per_action[baseline], groups)
            )
        result[m] = row
    return result


def _judged(
    played: Played, manifest: Manifest, summary: Mapping[str, Any], groups: Sequence[str]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Mean KL under each second annotator, and the pairs that it orders otherwise."""
    found: dict[str, Any] = {}
    plain = {manifest.annotator: {m: summary["kl"][m]["mean"] for m in played.simulated}}
    for judge, (real, simulated) in played.judged.items():
        true = metrics.window_counts(real)
        each = {
            m: metrics.kl(true, metrics.window_counts(x)).mean(axis=(0, 2, 3))
            for m, x in simulated.items()
        }
        found[judge] = {
            "annotator": manifest.judges[judge],
            "kl": {m: _json(_interval(x, groups)) for m, x in each.items()},
        }
        plain[manifest.judges[judge]] = {m: float(x.mean()) for m, x in each.items()}
    return found, under_judges(plain)


def _domains(cases: Sequence[CaseFacts], comparisons: Sequence[Comparison]) -> dict[str, Any]:
    """Mean KL by domain, of those with enough events."""
    result = {}
    scores = _scores(comparisons)
    for domain in sorted({case.domain for case in cases if case.domain}):
        inside = np.array([case.domain == domain for case in cases])
        groups = [case.group for case, k in zip(cases, inside, strict=True) if k]
        if len(set(groups)) < MIN_DOMAIN:
            continue
        result[domain] = {
            "cases": int(inside.sum()),
            **{
                name: _json(_interval(np.array([s.kl.mean for s in each])[inside], groups))
                for name, each in scores.items()
            },
        }
    return result


def _groups(groups: Sequence[str], comparisons: Sequence[Comparison]) -> dict[str, Any]:
    """Mean KL by stream; within one, its own segments are the blocks."""
    scores = _scores(comparisons)
    return {
        group: {
            "cases": groups.count(group),
            **{
                name: _json(
                    block_bootstrap(
                        np.array([s.kl.mean for s in each])[[g == group for g in groups]],
                        np.arange(groups.count(group)),
                        generator(_BOOTSTRAP_STREAM, 1),
                    )
                )
                for name, each in scores.items()
            },
        }
        for group in dict.fromkeys(groups)
    }
