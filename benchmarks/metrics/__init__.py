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

__all__ = [
    "HALF_LIFE",
    "ORDER",
    "PERSISTENCE",
    "WINDOWS",
    "Interval",
    "block_bootstrap",
    "bootstrap",
    "draw_counts",
    "drift",
    "hierarchical_bootstrap",
    "iqm",
    "jensen_shannon",
    "kl",
    "noise_floor",
    "paired",
    "persistence",
    "probability_of_improvement",
    "probability_of_improvement_interval",
    "rotation",
    "smoothing",
    "squared_error",
    "stratified_bootstrap",
    "student",
    "total_variation",
    "wasserstein",
    "window_counts",
]
