"""Metrics: values worked out by hand, moved and worked out again; SciPy as a second opinion."""

import math
from itertools import pairwise

import numpy as np
import pytest
import scipy.stats
from scipy.spatial.distance import jensenshannon

from benchmarks import metrics
from mfenv import distributions
from mfenv.labels import DIMENSIONS, N_DIMENSIONS, OFFSETS

SEED = 7


def rng():
    return np.random.default_rng(SEED)


def random_labels(generator, n):
    return np.stack([generator.integers(len(d.labels), size=n) for d in DIMENSIONS], axis=1).astype(
        np.int8
    )


def blocks(p):
    return [np.asarray(p)[a:b] for a, b in pairwise(OFFSETS)]


def two(first, second):
    """Counts (23,): every dimension has ``first`` and ``second`` of its first two labels."""
    count = np.zeros(OFFSETS[-1])
    for a in OFFSETS[:-1]:
        count[a], count[a + 1] = first, second
    return count


def test_kl_by_hand():
    # Two labels, smoothing 0.5: (3.5, 1.5)/5 against (1.5, 3.5)/5, so 0.4 ln(7/3).
    result = metrics.kl(two(3, 1), two(1, 3))
    assert result[0] == pytest.approx(0.4 * math.log(7 / 3))
    # Six labels: (3.5, 1.5, .5, .5, .5, .5)/7 against (1.5, 3.5, ...)/7: (2/7) ln(7/3).
    assert result[1] == pytest.approx(2 / 7 * math.log(7 / 3))
    # One reaction moved on the simulated side: (3.5, 1.5)/5 against (2.5, 2.5)/5.
    moved = metrics.kl(two(3, 1), two(2, 2))
    assert moved[0] == pytest.approx(0.7 * math.log(1.4) + 0.3 * math.log(0.6))
    assert metrics.kl(two(3, 1), two(3, 1)) == pytest.approx(np.zeros(N_DIMENSIONS))


def test_divergences_agree_with_scipy():
    counts = rng().integers(0, 20, size=(2, OFFSETS[-1])) + 1
    p, q = distributions.normalise(counts)
    smooth = distributions.normalise(counts, 0.5)
    expected = [scipy.stats.entropy(a, b) for a, b in zip(*map(blocks, smooth), strict=True)]
    np.testing.assert_allclose(metrics.kl(*counts), expected)
    expected = [jensenshannon(a, b) ** 2 for a, b in zip(blocks(p), blocks(q), strict=True)]
    np.testing.assert_allclose(metrics.jensen_shannon(p, q), expected)


def test_bounded_distances_by_hand():
    apart = two(1, 0), two(0, 1)
    np.testing.assert_allclose(metrics.jensen_shannon(*apart), math.log(2))
    np.testing.assert_allclose(metrics.total_variation(*apart), 1)
    np.testing.assert_allclose(metrics.total_variation(two(0.75, 0.25), two(0.5, 0.5)), 0.25)
    np.testing.assert_allclose(metrics.total_variation(two(0.75, 0.25), two(0.65, 0.35)), 0.1)


def test_windows_are_thirds_and_lose_nothing():
    labels = random_labels(rng(), 8)
    count = metrics.window_counts(labels)
    assert count.shape == (3, OFFSETS[-1])
    np.testing.assert_array_equal(count[:, :2].sum(-1), [3, 3, 2])  # i -> 3 i // 8
    np.testing.assert_array_equal(count.sum(0), distributions.counts(labels))
    np.testing.assert_array_equal(count[1], distributions.counts(labels[3:6]))
    keep = np.array([1, 0, 1, 1, 1, 1, 1, 1], dtype=bool)
    kept = metrics.window_counts(np.stack([labels, labels]), np.stack([keep, ~keep]))
    np.testing.assert_array_equal(kept[0, 0], distributions.counts(labels[[0, 2]]))
    np.testing.assert_array_equal(kept[1], [distributions.counts(labels[[1]]), *np.zeros((2, 23))])
    with pytest.raises(ValueError, match="2 reactions are too few"):
        metrics.window_counts(labels[:2])


def test_noise_floor_follows_the_known_bias_and_matches_exact_enumeration():
    # E KL of two binomial samples, summed exactly over every pair of counts.
    n, m, p = 12, 8, 0.7
    i, j = np.arange(n + 1), np.arange(m + 1)
    weight = np.outer(scipy.stats.binom.pmf(i, n, p), scipy.stats.binom.pmf(j, m, p))
    a, b = (i[:, None] + 0.5) / (n + 1), (j[None] + 0.5) / (m + 1)
    exact = (weight * (a * np.log(a / b) + (1 - a) * np.log((1 - a) / (1 - b)))).sum()
    real = two(70, 30)
    floor = metrics.noise_floor(real, n, m, rng(), draws=20000)
    assert floor[0] == pytest.approx(exact, rel=0.03)
    # (labels - 1)/2 (1/n + 1/m) for large samples; a quarter of it at four times the size.
    uniform = 100 * np.ones(OFFSETS[-1])
    large = metrics.noise_floor(uniform, 400, 400, rng(), draws=4000)
    sizes = np.diff(OFFSETS)
    np.testing.assert_allclose(large, (sizes - 1) / 2 * (2 / 400), rtol=0.08)
    both = metrics.noise_floor(np.stack([uniform, uniform]), [400, 1600], [400, 1600], rng(), 4000)
    np.testing.assert_allclose(both[0] / both[1], 4, rtol=0.12)


def test_a_perfect_simulator_has_no_excess_kl():
    p = distributions.normalise(rng().integers(5, 30, size=OFFSETS[-1]))
    excess = []
    for _ in range(300):
        generator = np.random.default_rng(len(excess))
        real, simulated = (
            np.concatenate([generator.multinomial(k, x / x.sum()) for x in blocks(p)])
            for k in (48, 32)
        )
        floor = metrics.noise_floor(real, 48, 32, generator, draws=100)
        excess.append((metrics.kl(real, simulated) - floor).mean())
    interval = metrics.bootstrap(excess, rng())
    assert abs(interval.mean) < 0.004  # the KL itself is about 0.03
    assert interval.low < 0.002


def test_squared_error_by_hand_and_unbiased():
    # (3/4 - 1/4)^2 * 2 = .5; variance terms (1 - 10/16)/3 on either side: .25.
    assert metrics.squared_error(two(3, 1), two(1, 3))[0] == pytest.approx(0.25)
    assert metrics.squared_error(two(3, 1), two(2, 2))[0] == pytest.approx(
        2 / 16 - (6 / 16) / 3 - (1 / 2) / 3
    )
    draws = rng().binomial(10, 0.6, size=(2, 40000))
    sides = [np.zeros((40000, OFFSETS[-1])) for _ in range(2)]
    for side, x in zip(sides, draws, strict=True):
        for a in OFFSETS[:-1]:
            side[:, a], side[:, a + 1] = x, 10 - x
    assert metrics.squared_error(*sides)[:, 0].mean() == pytest.approx(0, abs=0.002)
    with pytest.raises(ValueError, match="two reactions"):
        metrics.squared_error(two(1, 0), two(3, 1))


def test_rotation_takes_the_last_reactions_in_turn():
    labels = np.zeros((60, 8), dtype=np.int8)
    labels[12:, 1] = np.arange(48) % 6
    taken = metrics.rotation(labels, 96, rng())
    assert (np.bincount(taken[:, 1]) == 16).all()  # each of the last 48 twice
    assert (np.bincount(taken[:48, 1]) == 8).all()
    assert (taken[:48, 1] != labels[12:, 1]).any()
    assert len(metrics.rotation(labels, 5, rng())) == 5
    with pytest.raises(ValueError, match="needs a warm-up"):
        metrics.rotation(labels[:0], 3, rng())


def test_smoothing_forgets_by_halves():
    labels = random_labels(rng(), 72)
    labels[:, 0] = 0
    labels[-1 - 24, 0] = labels[-1, 0] = 1  # one half-life apart
    mark = labels[:, 1].copy()
    mark[-1], mark[-25] = 0, 5
    labels[:, 1] = mark
    drawn = metrics.smoothing(labels, 60000, rng(), half_life=24)
    told = drawn[drawn[:, 0] == 1]
    assert (told[:, 1] == 0).sum() / (told[:, 1] == 5).sum() == pytest.approx(2, rel=0.1)
    with pytest.raises(ValueError, match="at least one"):
        metrics.smoothing(labels[:0], 3, rng())


def test_drift_follows_the_line_and_stops_at_its_ends():
    # The share of label 1 rises from about 0 to about 1/2 in the warm-up: it reaches 1, and stays.
    u, p = rng().random(4000), np.linspace(0, 0.5, 4000)
    labels = random_labels(rng(), 4000)
    labels[:, 0] = u < p
    drawn = metrics.drift(labels, 8000, rng())
    assert drawn.shape == (8000, N_DIMENSIONS)
    for a in (0, 2000, 6000):
        wanted = min(1.0, 0.5 + (a + 250) * 0.5 / 4000)
        assert drawn[a : a + 500, 0].mean() == pytest.approx(wanted, abs=0.07)
    assert metrics.drift(labels[:1], 5, rng()).tolist() == [labels[0].tolist()] * 5
    with pytest.raises(ValueError, match="at least one"):
        metrics.drift(labels[:0], 3, rng())


def test_persistence_continues_the_last_warmup_reactions_only():
    labels = random_labels(rng(), 60)
    labels[:12, 0], labels[12:, 0] = 1, 0
    drawn = metrics.persistence(labels, 5000, rng())
    assert drawn.shape == (5000, N_DIMENSIONS)
    assert (drawn[:, 0] == 0).all()
    known = {tuple(x) for x in labels[12:]}
    assert {tuple(x) for x in drawn} == known
    expected = distributions.shares(labels[12:])
    np.testing.assert_allclose(distributions.shares(drawn), expected, atol=0.03)
    np.testing.assert_array_equal(drawn, metrics.persistence(labels, 5000, rng()))
    with pytest.raises(ValueError, match="at least one"):
        metrics.persistence(labels[:0], 3, rng())


def test_student_interval_agrees_with_scipy():
    for k in (2, 3, 4, 11, 30):
        x = np.random.default_rng(k).normal(size=k)
        low, high = scipy.stats.t.interval(0.95, k - 1, x.mean(), scipy.stats.sem(x))
        interval = metrics.student(x)
        assert (interval.low, interval.high) == pytest.approx((low, high))
    alone = metrics.student([3.0])
    assert alone.mean == 3
    assert math.isnan(alone.low)


def test_bootstrap_agrees_with_scipy_and_pairs():
    generator = rng()
    a = generator.normal(size=40)
    b = a + 0.3 + 0.1 * generator.normal(size=40)
    expected = scipy.stats.bootstrap(
        (a,), np.mean, method="percentile", n_resamples=20000, rng=rng()
    ).confidence_interval
    interval = metrics.bootstrap(a, rng(), draws=20000)
    assert (interval.low, interval.high) == pytest.approx(tuple(expected), abs=0.02)
    assert metrics.paired(a, b, rng()).excludes_zero
    assert metrics.paired(a, b, rng()).mean == pytest.approx((a - b).mean())
    independent = metrics.bootstrap(a, rng()), metrics.bootstrap(b, rng())
    assert independent[0].high > independent[1].low  # unpaired, the difference would not show
    assert metrics.bootstrap(a, rng()) == metrics.bootstrap(a, rng())


def test_blocks_are_drawn_whole():
    values = np.repeat([0.0, 1.0, 0.0, 1.0], 25)
    each = metrics.bootstrap(values, rng())
    whole = metrics.block_bootstrap(values, np.repeat(["a", "b", "c", "d"], 25), rng())
    assert each.mean == whole.mean == 0.5
    assert (whole.low, whole.high) == (0.0, 1.0)  # four blocks: all of one kind 1 time in 16
    assert each.high - each.low < 0.25
    assert math.isnan(metrics.block_bootstrap(values, np.zeros(100), rng()).low)


def test_stratified_bootstrap_keeps_the_tasks_fixed():
    # Tasks differ by far, runs not at all: the tasks' spread must not enter the interval.
    scores = np.array([[0.0, 10.0, 20.0]] * 5)
    interval = metrics.stratified_bootstrap(scores, rng())
    assert (interval.mean, interval.low, interval.high) == (10, 10, 10)
    noisy = scores + rng().normal(size=scores.shape)
    interval = metrics.stratified_bootstrap(noisy, rng())
    assert interval.low < noisy.mean() < interval.high
    # Its width is that of the mean of 15 draws within strata.
    half = 1.96 * math.sqrt(noisy.var(axis=0).mean() / noisy.size)
    assert (interval.high - interval.low) / 2 == pytest.approx(half, rel=0.1)
    top = metrics.stratified_bootstrap(noisy, rng(), lambda s: s.max(axis=(1, 2)))
    assert top.mean == noisy.max()
