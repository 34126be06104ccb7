"""How far a simulated population is from the real one: pure functions on arrays.

Shapes: label arrays end in ``(n, 8)``, counts and shares in ``(23,)``, results for each dimension
in ``(8,)``; leading axes (events, seeds, windows) broadcast. Divergences are in nats. ``rng`` is
always explicit.
"""

from benchmarks.metrics.aggregate import (
    Interval,
    block_bootstrap,
    bootstrap,
    hierarchical_bootstrap,
    iqm,
    paired,
    probability_of_improvement,
    probability_of_improvement_interval,
    stratified_bootstrap,
    student,
)
from benchmarks.metrics.classification import F1, confusion, f1, label_f1, macro_f1
from benchmarks.metrics.divergences import (
    ORDER,
    WINDOWS,
    draw_counts,
    jensen_shannon,
    kl,
    noise_floor,
    squared_error,
    total_variation,
    wasserstein,
    window_counts,
)
from benchmarks.metrics.forecasters import (
    HALF_LIFE,
    PERSISTENCE,
    drift,
    persistence,
    rotation,
    smoothing,
)
from benchmarks.metrics.judge import (
    CorrectedKL,
    corrected_counts,
    corrected_kl,
    corrected_kl_intervals,
    corrected_shares,
    draw_confusion,
    expected_confusion,
    rank_reversals,
)
from benchmarks.metrics.texts import (
    distinct_n,
    label_entropy,
    nll_per_token,
    self_bleu,
)
from benchmarks.metrics.trajectories import (
    SWING,
    WIDTH,
    Reversals,
    TurningPoint,
    dtw,
    reversals,
    turning_points,
)

__all__ = [
    "F1",
    "HALF_LIFE",
    "ORDER",
    "PERSISTENCE",
    "SWING",
    "WIDTH",
    "WINDOWS",
    "CorrectedKL",
    "Interval",
    "Reversals",
    "TurningPoint",
    "block_bootstrap",
    "bootstrap",
    "confusion",
    "corrected_counts",
    "corrected_kl",
    "corrected_kl_intervals",
    "corrected_shares",
    "distinct_n",
    "draw_confusion",
    "draw_counts",
    "drift",
    "dtw",
    "expected_confusion",
    "f1",
    "hierarchical_bootstrap",
    "iqm",
    "jensen_shannon",
    "kl",
    "label_entropy",
    "label_f1",
    "macro_f1",
    "nll_per_token",
    "noise_floor",
    "paired",
    "persistence",
    "probability_of_improvement",
    "probability_of_improvement_interval",
    "rank_reversals",
    "reversals",
    "rotation",
    "self_bleu",
    "smoothing",
    "squared_error",
    "stratified_bootstrap",
    "student",
    "total_variation",
    "turning_points",
    "wasserstein",
    "window_counts",
]
