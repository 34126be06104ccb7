"""The Wasserstein distance by hand and against SciPy; drawn counts."""

from itertools import pairwise

import numpy as np
import pytest
import scipy.stats

from benchmarks import metrics
from mfenv.distributions import UNIFORM, normalise
from mfenv.labels import DIMENSIONS, N_LABELS, OFFSETS, SLICES, dimension


def with_shares(name, values):
    p = UNIFORM.copy()
    p[SLICES[name]] = values
    return p


def test_wasserstein_by_hand():
    d = dimension("stance")  # support, oppose, neutral
    support = with_shares("stance", [1, 0, 0])
    # All of the mass from one end to the middle, to the other end, and a fifth of it.
    assert metrics.wasserstein(support, with_shares("stance", [0, 0, 1]))[d] == 0.5
    assert metrics.wasserstein(support, with_shares("stance", [0, 1, 0]))[d] == 1
    moved = with_shares("stance", [0.8, 0.2, 0])
    assert metrics.wasserstein(support, moved)[d] == pytest.approx(0.2)
    # Where labels have no order, how far a label is from another does not depend on which.
    calm = with_shares("sentiment_state", [0, 1, 0, 0, 0, 0])
    for other in (0, 2, 5):
        far = with_shares("sentiment_state", np.eye(6)[other])
        assert metrics.wasserstein(calm, far)[dimension("sentiment_state")] == 1
    assert not metrics.wasserstein(support, support).any()


def test_wasserstein_agrees_with_scipy_on_every_dimension():
    generator = np.random.default_rng(3)
    p, q = (normalise(generator.gamma(0.5, size=(4, 5, N_LABELS)) + 1e-6) for _ in range(2))
    result = metrics.wasserstein(p, q)
    assert result.shape == (4, 5, 8)
    lines = {"sentiment_tendency": (0, 1, 0.5), "stance": (0, 1, 0.5)}  # in the order of the labels
    for i, j in np.ndindex(4, 5):
        for d, (a, b) in enumerate(pairwise(OFFSETS)):
            first, second, k = p[i, j, a:b], q[i, j, a:b], b - a
            if DIMENSIONS[d].name in lines or k == 2:
                at = lines.get(DIMENSIONS[d].name, (0, 1))
                expected = scipy.stats.wasserstein_distance(at, at, first, second)
            else:  # corners of a simplex, whose distances are all 1
                corners = np.eye(k) / np.sqrt(2)
                expected = scipy.stats.wasserstein_distance_nd(corners, corners, first, second)
            assert result[i, j, d] == pytest.approx(expected, abs=1e-7)
    np.testing.assert_allclose(metrics.wasserstein(p[0], q), metrics.wasserstein(p[:1], q))


def test_drawn_counts_have_their_sizes_and_shares():
    shares = normalise(np.random.default_rng(4).gamma(1.0, size=(2, N_LABELS)))
    count = metrics.draw_counts(shares, [4000, 10], np.random.default_rng(5), draws=30)
    assert count.shape == (30, 2, N_LABELS)
    totals = np.add.reduceat(count, OFFSETS[:-1], axis=-1)
    np.testing.assert_array_equal(totals, np.broadcast_to([[4000.0], [10.0]], totals.shape))
    np.testing.assert_allclose(count[:, 0].mean(axis=0) / 4000, shares[0], atol=0.01)
    assert metrics.draw_counts(shares, 7, np.random.default_rng(5)).shape == (2, N_LABELS)
