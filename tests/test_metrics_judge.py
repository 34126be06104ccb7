"""Correction of an erring judge: planted populations behind known confusions, other solvers."""

import math
from itertools import pairwise

import numpy as np
import pytest
import scipy.optimize
import scipy.special

from agents.annotators.classifier import unfold
from benchmarks import metrics
from mfenv.distributions import normalise
from mfenv.labels import DIMENSIONS, N_LABELS, OFFSETS, one_hot

RANGES = list(pairwise(OFFSETS))


def rng(seed=7):
    return np.random.default_rng(seed)


def shares(generator, *shape, concentration=2.0):
    return normalise(generator.gamma(concentration, size=(*shape, N_LABELS)))


def judge(generator, accuracy):
    """Rows of eight confusions: right with a probability, else as it happens."""
    return [
        accuracy * np.eye(len(d.labels))
        + (1 - accuracy) * generator.dirichlet(np.ones(len(d.labels)), size=len(d.labels))
        for d in DIMENSIONS
    ]


def judged(p, rows):
    """Expected shares (..., 23) of a judge's labels."""
    return np.concatenate([p[..., a:b] @ c for c, (a, b) in zip(rows, RANGES, strict=True)], -1)


def reference(generator, rows, n):
    """Confusion counts from n reactions of every label."""
    return [np.stack([generator.multinomial(n, row) for row in c]) for c in rows]


def likelihood(observed, p, rows):
    """Mean log-likelihood (..., 8) of observed shares."""
    terms = scipy.special.xlogy(observed, judged(p, rows))
    return np.add.reduceat(terms, OFFSETS[:-1], axis=-1)


def test_corrected_shares_by_hand():
    rows = [np.eye(len(d.labels)) for d in DIMENSIONS]
    rows[5] = np.array([[0.9, 0.1], [0.2, 0.8]])
    observed = normalise(np.ones(N_LABELS))
    a, b = RANGES[5]
    observed[a:b] = 0.62, 0.38  # .6 believe: .6 * .9 + .4 * .2
    corrected = metrics.corrected_shares(observed, rows)
    np.testing.assert_allclose(corrected[a:b], [0.6, 0.4])
    np.testing.assert_allclose(np.delete(corrected, [a, a + 1]), np.delete(observed, [a, a + 1]))
    observed[a:b] = 0.95, 0.05  # more than this judge says even if all believe
    np.testing.assert_allclose(metrics.corrected_shares(observed, rows)[a:b], [1, 0])
    count = metrics.corrected_counts(30 * normalise(np.ones(N_LABELS)), rows)
    np.testing.assert_allclose(np.add.reduceat(count, OFFSETS[:-1]), 30)


def test_a_planted_distribution_is_recovered():
    generator = rng(1)
    rows, p = judge(generator, 0.7), shares(generator, 4, 1)
    p[0, 0, 2:8] = [1, 0, 0, 0, 0, 0]
    np.testing.assert_allclose(metrics.corrected_shares(judged(p, rows), rows), p, atol=2e-4)
    seen = metrics.draw_counts(judged(p, rows), 200_000, generator)
    table = [c * 50_000 for c in rows]  # counts do as well as rows
    corrected = metrics.corrected_shares(seen, table)
    assert corrected.shape == p.shape
    assert np.abs(normalise(seen) - p).max() > 0.1
    np.testing.assert_allclose(corrected, p, atol=0.02)
    # Leading axes of the confusions broadcast.
    both = [np.stack([c, np.eye(len(c))]) for c in rows]
    corrected = metrics.corrected_shares(normalise(seen), both)  # (4, 1, 23), (2, k, k)
    assert corrected.shape == (4, 2, N_LABELS)
    np.testing.assert_allclose(corrected[:, 1], normalise(seen)[:, 0])


@pytest.mark.parametrize("accuracy", [0.9, 0.5])
def test_corrected_shares_agree_with_em_and_no_other_shares_are_likelier(accuracy):
    generator = rng(2)
    rows = judge(generator, accuracy)
    count = metrics.draw_counts(shares(generator, 4, concentration=0.3), 30, generator)
    observed = normalise(count)
    corrected = metrics.corrected_shares(count, rows)
    assert (corrected >= 0).all()
    np.testing.assert_allclose(np.add.reduceat(corrected, OFFSETS[:-1], axis=-1), 1)
    inverse = np.concatenate([observed[:, a:b] @ np.linalg.inv(c) for c, (a, b) in zip(
        rows, RANGES, strict=True)], axis=-1)  # fmt: skip
    assert (inverse.min(axis=-1) < -0.01).all()  # the inverse alone would leave the simplex
    best = likelihood(observed, corrected, rows)
    slow = np.stack([
        np.concatenate([unfold(row[a:b], c, 2000) for c, (a, b) in zip(rows, RANGES, strict=True)])
        for row in observed
    ])  # fmt: skip
    assert (best >= likelihood(observed, slow, rows) - 1e-8).all()
    np.testing.assert_allclose(best, likelihood(observed, slow, rows), atol=1e-5)
    np.testing.assert_allclose(corrected, slow, atol=0.02)
    for d, (c, (a, b)) in enumerate(zip(rows, RANGES, strict=True)):
        for row, value in zip(observed[:, a:b], best[:, d], strict=True):
            other = scipy.optimize.minimize(
                lambda p, row=row, c=c: -scipy.special.xlogy(row, np.maximum(p @ c, 1e-12)).sum(),
                np.full(b - a, 1 / (b - a)),
                bounds=[(0, 1)] * (b - a),
                constraints={"type": "eq", "fun": lambda p: p.sum() - 1},
                method="SLSQP",
            )
            assert value >= -other.fun - 1e-6


def test_a_judge_that_sees_nothing_and_one_that_never_errs():
    observed = shares(rng(3))
    blind = metrics.corrected_shares(observed, [np.ones((b - a, b - a)) for a, b in RANGES])
    assert np.isfinite(blind).all()
    perfect = [1000 * np.eye(b - a) for a, b in RANGES]
    np.testing.assert_allclose(metrics.corrected_shares(observed, perfect), observed)
    real, made = metrics.draw_counts(shares(rng(4), 2), 40, rng(5))
    np.testing.assert_allclose(metrics.corrected_kl(real, made, perfect), metrics.kl(real, made))


def test_what_the_reference_does_not_tell():
    labels = np.zeros((9, 8), dtype=np.int8)
    table = metrics.confusion(labels, labels)
    observed = one_hot(labels).sum(axis=0)
    with pytest.raises(ValueError, match="rumor: the reference has no reaction that is 'counter'"):
        metrics.corrected_shares(observed, table)
    never = [np.eye(len(c)) for c in table]
    never[4] = np.array([[1.0, 0, 0], [0, 1, 0], [0, 1, 0]])
    with pytest.raises(ValueError, match=r"stance: the confusion says .* never says 'neutral'"):
        metrics.corrected_shares(normalise(np.ones(N_LABELS)), never)
    with pytest.raises(ValueError, match="7 confusion tables given, 8 needed"):
        metrics.corrected_shares(observed, table[:7])
    with pytest.raises(ValueError, match="rumor: a confusion is"):
        metrics.corrected_shares(observed, table[::-1])
    # With a prior: 9 + 1/2 of 10, and no opinion on what was not seen.
    rows = metrics.expected_confusion(table)
    np.testing.assert_allclose(rows[0], [[0.95, 0.05], [0.5, 0.5]])
    assert metrics.corrected_shares(observed, rows)[0] == 1


def test_drawn_confusions_are_dirichlet():
    table = [np.full((b - a, b - a), 2.0) + 8 * np.eye(b - a) for a, b in RANGES]
    drawn = metrics.draw_confusion(table, rng(), 20_000)
    for c, rows, mean in zip(table, drawn, metrics.expected_confusion(table), strict=True):
        np.testing.assert_allclose(rows.sum(axis=-1), 1)
        np.testing.assert_allclose(rows.mean(axis=0), mean, atol=0.005)
        variance = mean * (1 - mean) / (c.sum(axis=-1, keepdims=True) + 1 + 1)
        np.testing.assert_allclose(rows.var(axis=0), variance, rtol=0.06)


def test_the_interval_finds_the_kl_that_the_judge_hides():
    generator = rng(10)
    rows, p = judge(generator, 0.75), shares(generator)
    q = normalise(p * generator.gamma(5.0, size=N_LABELS))
    truth = float(np.mean([scipy.special.rel_entr(p[a:b], q[a:b]).sum() for a, b in RANGES]))
    n, seeds, trials = 300, 2, 20
    means, inside, clear, same, raw = [], 0, 0, 0, []
    for _ in range(trials):
        real = metrics.draw_counts(judged(p, rows), n, generator)[None]
        off, right = (
            metrics.draw_counts(np.tile(judged(x, rows), (seeds, 1, 1)), n, generator)
            for x in (q, p)
        )
        result = metrics.corrected_kl_intervals(
            real, {"off": off, "right": right}, reference(generator, rows, 100), generator, draws=50
        )
        raw.append((metrics.kl(real, off) - metrics.noise_floor(real, n, n, generator, 50)).mean())
        means.append(result.kl["off"].mean)
        inside += result.kl["off"].low <= truth <= result.kl["off"].high
        same += result.kl["right"].low <= 0 <= result.kl["right"].high
        gap = result.differences["off", "right"]
        clear += gap.low > 0
        assert gap.low < gap.mean < gap.high
    assert np.mean(raw) < 0.6 * truth
    assert np.mean(means) == pytest.approx(truth, rel=0.2)
    assert inside >= 17  # 95% of 20 are 19
    assert same >= 17
    assert clear >= 10


def small(generator, *, events=3, seeds=2, n=60):
    rows = judge(generator, 0.8)
    p = shares(generator, events, 2)
    real = metrics.draw_counts(judged(p, rows), n, generator)
    q = normalise(p * generator.gamma(4.0, size=p.shape))
    made = metrics.draw_counts(np.tile(judged(q, rows), (seeds, 1, 1, 1)), n, generator)
    return rows, real, made


def width(interval):
    return interval.high - interval.low


def test_what_makes_the_interval_wider():
    generator = rng(9)
    rows, real, made = small(generator)

    def interval(table, draws=150, **given):
        call = {"real": real, "simulated": {"a": made}, **given}
        return metrics.corrected_kl_intervals(
            call["real"], call["simulated"], table, rng(), draws
        ).kl["a"]

    few, many = ([np.round(n * c) for c in rows] for n in (15, 100_000))
    assert width(interval(few)) > 1.2 * width(interval(many))
    # Events are draws: with the same three events alone there is less to be unsure of.
    apart = made.copy()
    apart[:, 0] = real[0]
    spread = interval(many, simulated={"a": apart})
    alone = [interval(many, real=real[i], simulated={"a": apart[:, i]}) for i in range(3)]
    assert width(spread) > 1.1 * math.sqrt(sum(width(x) ** 2 for x in alone)) / 3
    assert interval(few) == interval(few)


def test_paired_draws_tell_two_methods_apart_that_share_a_judge():
    generator = rng(12)
    rows, p, n = judge(generator, 0.75), shares(generator, 2), 1000
    far = generator.gamma(5.0, size=N_LABELS)
    real, *made = (
        metrics.draw_counts(np.tile(judged(normalise(p * x), rows), (3, 1, 1)), n, generator)
        for x in (np.ones(N_LABELS), far, far**1.5)
    )
    result = metrics.corrected_kl_intervals(
        real[0], dict(zip("ab", made, strict=True)), reference(generator, rows, 40), rng(), 150
    )
    gap = result.differences["a", "b"]
    assert list(result.differences) == [("a", "b")]
    assert gap.mean == pytest.approx(result.kl["a"].mean - result.kl["b"].mean)
    assert gap.high < 0
    # Interval by interval the difference would not show.
    assert result.kl["a"].high > result.kl["b"].low
    assert width(gap) < 0.8 * math.hypot(width(result.kl["a"]), width(result.kl["b"]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda real, made: (real, made[:, :1]), "a: counts of the shape"),
        (lambda real, made: (real, made[0, 0]), "a: counts of the shape"),
        (lambda real, made: (real / 3, made), "real: needed are label counts"),
        (lambda real, made: (real[..., :5], made), "real: needed are label counts"),
        (lambda real, made: (real, 0 * made), "a: a window has no reactions"),
        (lambda real, made: (real, made), "must be counts"),
    ],
)
def test_counts_that_cannot_be_compared_are_refused(change, message):
    rows, real, made = small(rng(11))
    real, made = change(real, made)
    with pytest.raises(ValueError, match=message):
        metrics.corrected_kl_intervals(real, {"a": made}, rows, rng(), 2)


def test_rank_reversals():
    one = {"mf": 0.03, "state": 0.05, "sft": 0.06, "recent": 0.06}
    two = {"state": 0.02, "mf": 0.04, "recent": 0.05, "sft": 0.07}
    assert metrics.rank_reversals(one, two) == [("mf", "state")]
    assert metrics.rank_reversals(two, one) == [("state", "mf")]
    assert metrics.rank_reversals(one, one) == []
    with pytest.raises(ValueError, match="different methods: sft"):
        metrics.rank_reversals(one, {k: v for k, v in two.items() if k != "sft"})
