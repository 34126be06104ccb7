"""Warping distance and turning points: by hand, against a plain recursion, and under noise."""

from functools import cache
from itertools import pairwise

import numpy as np
import pytest

from benchmarks import metrics
from benchmarks.metrics import TurningPoint


def naive_dtw(a, b):
    """The recursion as it is written in textbooks."""

    @cache
    def least(i, j):
        apart = float(np.linalg.norm(a[i] - b[j]))
        if i == j == 0:
            return apart
        before = []
        if i:
            before.append(least(i - 1, j))
        if j:
            before.append(least(i, j - 1))
        if i and j:
            before.append(least(i - 1, j - 1))
        return apart + min(before)

    return least(len(a) - 1, len(b) - 1)


def test_dtw_by_hand():
    a = np.array([[0.0], [0.0], [1.0]])
    late = np.array([[0.0], [0.0], [0.0], [1.0]])
    assert metrics.dtw(a, late) == 0  # a delay is warped away
    # 0-0, 1-0.5, 1-1: one half, over three steps.
    b, c = np.array([[0.0], [1.0], [1.0]]), np.array([[0.0], [0.5], [1.0]])
    assert metrics.dtw(b, c, normalised=False) == pytest.approx(0.5)
    assert metrics.dtw(b, c) == pytest.approx(0.5 / 3)
    # One step against many: every step is paired with it.
    assert metrics.dtw(a[:1], c, normalised=False) == pytest.approx(1.5)
    # Two shares: a distance in the plane.
    assert metrics.dtw(np.array([[0.0, 0.0]]), np.array([[3.0, 4.0]])) == pytest.approx(5)
    with pytest.raises(ValueError, match="2 and 1 shares"):
        metrics.dtw(np.zeros((3, 2)), np.zeros((3, 1)))
    with pytest.raises(ValueError, match="at least one step"):
        metrics.dtw(np.zeros((0, 2)), np.zeros((3, 2)))


def test_dtw_agrees_with_the_plain_recursion_and_broadcasts():
    generator = np.random.default_rng(1)
    a, b = generator.random((3, 1, 9, 4)), generator.random((2, 13, 4))
    result = metrics.dtw(a, b, normalised=False)
    assert result.shape == (3, 2)
    for i, j in np.ndindex(3, 2):
        assert result[i, j] == pytest.approx(naive_dtw(a[i, 0], b[j]))
    np.testing.assert_allclose(metrics.dtw(a, b), result / 13)
    np.testing.assert_allclose(metrics.dtw(b, a), metrics.dtw(a, b))
    assert not metrics.dtw(a, a).any()
    pointwise = np.linalg.norm(a[:, 0] - b[0, :9], axis=-1).mean(axis=-1)
    assert (metrics.dtw(a[:, 0], b[0, :9]) <= pointwise + 1e-12).all()


def test_turning_points_by_hand():
    # Up by .6 to step 6, down by .4 to step 10, up by .1: the last swing is too small.
    x = np.concatenate([np.arange(7) * 0.1, 0.6 - np.arange(1, 5) * 0.1, [0.25, 0.3]])
    assert metrics.turning_points(x, width=1, swing=0.2) == [TurningPoint(6, -1)]
    assert metrics.turning_points(x, width=1, swing=0.1) == [
        TurningPoint(6, -1),
        TurningPoint(10, 1),
    ]
    # Smoothed over three steps the peak is lower by .2/3 and the trough is (.3 + .2 + .25)/3.
    assert metrics.turning_points(x, width=3, swing=0.28) == [TurningPoint(6, -1)]
    assert metrics.turning_points(x, width=3, swing=0.29) == []  # .533 - .25
    # A straight line, a level one and a single rise and stop have no turn.
    assert metrics.turning_points(np.linspace(0, 1, 20), swing=0.01) == []
    assert metrics.turning_points(np.ones(20), swing=0.01) == []
    assert metrics.turning_points(np.repeat([0.0, 1.0], 10), swing=0.01) == []
    # A plateau turns where it begins. An early bump below the swing is no turn.
    plateau = [0.0, 0.5, 0.5, 0.5, 0.0]
    assert metrics.turning_points(plateau, width=1) == [TurningPoint(1, -1)]
    assert metrics.turning_points([0.5, 0.55, 0.1, 0.5], width=1) == [TurningPoint(2, 1)]
    assert metrics.turning_points([0.0, 1.0, 0.0], width=5) == []


def test_turning_points_mirror_and_reverse():
    generator = np.random.default_rng(2)
    found = 0
    for _ in range(50):
        x = np.clip(0.5 + np.cumsum(generator.normal(scale=0.1, size=40)), 0, 1)
        points = metrics.turning_points(x, width=3, swing=0.15)
        found += len(points)
        mirrored = metrics.turning_points(1 - x, width=3, swing=0.15)
        assert mirrored == [TurningPoint(t, -d) for t, d in points]
        assert all(a.direction != b.direction for a, b in pairwise(points))
        smooth = np.convolve(x, np.ones(3) / 3, mode="valid")
        at = [0, *(p.step - 1 for p in points), len(smooth) - 1]
        for point, before, here, after in zip(points, at, at[1:], at[2:], strict=False):
            # No step of either leg goes beyond the extreme, and both legs have the swing.
            legs = point.direction * (smooth[before : after + 1] - smooth[here])
            assert legs.min() >= -1e-8
            assert legs[: here - before].max() >= 0.15 - 1e-8
            assert legs[here - before :].max() >= 0.15 - 1e-8
    assert found > 50


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"width": 4}, "odd number"),
        ({"swing": 0}, "above 0"),
        ({"trajectory": np.zeros((4, 2))}, r"\(4, 2\)"),
        ({"trajectory": [0.0, np.nan]}, "every step"),
    ],
)
def test_turning_points_refuse_what_they_cannot_judge(given, message):
    with pytest.raises(ValueError, match=message):
        metrics.turning_points(**{"trajectory": np.zeros(9), **given})


def test_noise_alone_rarely_turns_and_a_planted_turn_is_found_on_time():
    generator = np.random.default_rng(3)
    noise = generator.binomial(16, 0.5, size=(500, 16)) / 16
    assert sum(bool(metrics.turning_points(x)) for x in noise) <= 10  # 0.3% on average
    p = np.concatenate([np.linspace(0.1, 0.9, 15), np.linspace(0.85, 0.1, 15)])
    real = np.repeat(p[:, None], 200, axis=1)
    made = generator.binomial(16, p[:, None], size=(30, 200)) / 16
    score = metrics.reversals(real, made, tolerance=4).total()
    assert score.hits >= 185
    assert score.misses == 200 - score.hits
    assert score.false_alarms <= 30
    assert abs(score.delay) < 0.7


def bumps(steps, length=40):
    """A share that turns at the given steps, by straight lines between 0 and 1."""
    at = [0, *steps, length - 1]
    return np.interp(np.arange(length), at, np.arange(len(at)) % 2)


def test_reversals_by_hand():
    real = bumps([10, 20, 30])
    made = bumps([12, 23])
    score = metrics.reversals(real[:, None], made[:, None], tolerance=3, width=1)
    assert [int(x[0]) for x in (score.hits, score.misses, score.false_alarms)] == [2, 1, 0]
    assert score.delay[0] == pytest.approx(2.5)
    early = metrics.reversals(made[:, None], real[:, None], tolerance=2, width=1)
    assert [int(x[0]) for x in (early.hits, early.misses, early.false_alarms)] == [1, 1, 2]
    assert early.delay[0] == -2
    # A trough is not a peak, however near.
    other = metrics.reversals(real[:, None], 1 - real[:, None], tolerance=5, width=1)
    assert [int(x[0]) for x in (other.hits, other.misses, other.false_alarms)] == [0, 3, 3]
    assert np.isnan(other.delay[0])
    assert np.isnan(other.total().delay)
    with pytest.raises(ValueError, match="tolerance"):
        metrics.reversals(real[:, None], made[:, None], tolerance=-1)


def test_reversals_pair_as_many_as_they_can_and_broadcast():
    # The simulated peak at 12 is nearer to 14, but then the real one at 10 would have none.
    real, made = bumps([10, 12, 14]), bumps([12, 14, 16])
    score = metrics.reversals(real[:, None], made[:, None], tolerance=2, width=1)
    assert (int(score.hits[0]), float(score.delay[0])) == (3, 2.0)
    seeds = np.stack([real, made, bumps([])])[:, :, None]  # (3, T, 1)
    score = metrics.reversals(real[:, None], seeds, tolerance=2, width=1)
    assert score.hits.shape == (3, 1)
    assert score.hits[:, 0].tolist() == [3, 3, 0]
    assert score.misses[:, 0].tolist() == [0, 0, 3]
    total = score.total()
    assert (int(total.hits), int(total.misses), int(total.false_alarms)) == (6, 3, 0)
    assert total.delay == 1  # three hits on time, three late by 2
