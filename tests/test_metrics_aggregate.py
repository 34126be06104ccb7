"""Interquartile mean, probability of improvement and the hierarchical bootstrap."""

import math

import numpy as np
import pytest
import scipy.stats

from benchmarks import metrics


def rng(seed=7):
    return np.random.default_rng(seed)


@pytest.mark.parametrize(("runs", "tasks"), [(1, 1), (3, 1), (5, 7), (10, 26)])
def test_iqm_agrees_with_scipy(runs, tasks):
    scores = rng().standard_t(2, size=(4, runs, tasks))
    expected = [scipy.stats.trim_mean(x, 0.25, axis=None) for x in scores]
    np.testing.assert_allclose(metrics.iqm(scores), expected)
    assert metrics.iqm(scores[0]) == pytest.approx(expected[0])


def test_iqm_by_hand_and_in_a_bootstrap():
    # Of eight scores the lowest two and the highest two are left out.
    assert metrics.iqm([[0, 1, 2, 3], [4, 5, 6, 1000]]) == 3.5
    scores = rng().normal(size=(10, 6))
    scores[0, 0] = 1e6
    for bootstrap in (metrics.stratified_bootstrap, metrics.hierarchical_bootstrap):
        interval = bootstrap(scores, rng(), metrics.iqm)
        assert interval.mean == pytest.approx(scipy.stats.trim_mean(scores, 0.25, axis=None))
        assert -1 < interval.low < interval.mean < interval.high < 1


def test_probability_of_improvement_by_hand():
    x, y = [[1.0, 5.0], [2.0, 5.0]], [[2.0, 1.0], [3.0, 5.0], [0.0, 9.0]]
    # Task 1: 1 < 2, 1 < 3, 2 = 2, 2 < 3: 3.5 of 6. Task 2: 5 = 5 and 5 < 9, twice: 3 of 6.
    assert metrics.probability_of_improvement(x, y) == pytest.approx((3.5 / 6 + 3 / 6) / 2)
    assert metrics.probability_of_improvement(y, x) == pytest.approx((2.5 / 6 + 3 / 6) / 2)
    with pytest.raises(ValueError, match="1 and 2 tasks"):
        metrics.probability_of_improvement(np.ones((2, 1)), y)


def test_probability_of_improvement_agrees_with_mann_whitney():
    x, y = rng(1).integers(6, size=(3, 8, 5)), rng(2).integers(1, 7, size=(3, 11, 5))
    # U counts the pairs in which x is larger, ties half.
    u = scipy.stats.mannwhitneyu(x, y, axis=1).statistic
    np.testing.assert_allclose(metrics.probability_of_improvement(x, y), (1 - u / 88).mean(axis=-1))


def test_interval_of_the_probability_of_improvement():
    x, y = rng(3).normal(size=(6, 4)), rng(4).normal(0.8, size=(5, 4))
    interval = metrics.probability_of_improvement_interval(x, y, rng(), draws=3000)
    assert interval.mean == pytest.approx(metrics.probability_of_improvement(x, y))
    # The same bootstrap, run by run.
    generator, columns = rng(5), np.arange(4)
    replicates = metrics.probability_of_improvement(
        x[generator.integers(6, size=(3000, 6, 4)), columns],
        y[generator.integers(5, size=(3000, 5, 4)), columns],
    )
    expected = tuple(np.quantile(replicates, [0.025, 0.975]))
    assert (interval.low, interval.high) == pytest.approx(expected, abs=0.02)
    sure = metrics.probability_of_improvement_interval(x, x + 100, rng())
    assert (sure.mean, sure.low, sure.high) == (1, 1, 1)
    assert math.isnan(metrics.probability_of_improvement_interval(x[:1], y, rng()).low)


def test_hierarchical_bootstrap_draws_events_then_seeds():
    events = rng().normal(size=12)
    # Seeds that agree: the bootstrap over events.
    same = metrics.hierarchical_bootstrap(np.tile(events, (3, 1)), rng(), draws=20000)
    plain = metrics.bootstrap(events, rng(), draws=20000)
    assert same.mean == pytest.approx(plain.mean)
    assert (same.low, same.high) == pytest.approx((plain.low, plain.high), abs=0.02)
    # Events that agree in the mean, seeds that do not: their noise is seen, too.
    noisy = np.tile([[-1.0], [1.0]], (1, 50))
    interval = metrics.hierarchical_bootstrap(noisy, rng())
    assert interval.mean == 0
    assert (interval.high - interval.low) / 2 == pytest.approx(1.96 / math.sqrt(100), rel=0.15)
    assert math.isnan(metrics.hierarchical_bootstrap(noisy[:, :1], rng()).low)
    assert interval == metrics.hierarchical_bootstrap(noisy, rng())
    top = metrics.hierarchical_bootstrap(noisy, rng(), lambda s: s.max(axis=(1, 2)))
    assert top.mean == 1


def test_coverage_for_new_events():
    """The mean of all events is 0: events that are draws show it, fixed events do not."""
    generator = rng(11)
    covered = {metrics.hierarchical_bootstrap: 0, metrics.stratified_bootstrap: 0}
    trials = 300
    for _ in range(trials):
        scores = generator.normal(size=(1, 25)) + 0.7 * generator.normal(size=(3, 25))
        for bootstrap in covered:
            interval = bootstrap(scores, generator, draws=300)
            covered[bootstrap] += interval.low <= 0 <= interval.high
    hierarchical, stratified = (n / trials for n in covered.values())
    assert 0.92 < hierarchical < 0.99
    assert stratified < 0.6
