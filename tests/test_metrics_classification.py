"""F1 and confusion counts against scikit-learn, and by hand."""

import math

import numpy as np
import pytest
import sklearn.metrics

from benchmarks import metrics
from mfenv.labels import DIMENSIONS, N_DIMENSIONS, SLICES


def drawn(seed, n, absent=False):
    """Labels (n, 8); with ``absent`` only the first two labels of each dimension occur."""
    generator = np.random.default_rng(seed)
    columns = [generator.integers(2 if absent else len(d.labels), size=n) for d in DIMENSIONS]
    return np.stack(columns, axis=1).astype(np.int8)


def test_f1_by_hand():
    reference = np.zeros((6, N_DIMENSIONS), dtype=np.int8)
    predicted = reference.copy()
    reference[:, 4], predicted[:, 4] = [0, 0, 0, 1, 1, 1], [0, 0, 1, 1, 0, 0]
    score = metrics.f1(reference, predicted)
    # support: 2 hits of 3 and 4; oppose: 1 hit of 3 and 2; neutral: absent.
    np.testing.assert_allclose(score.labels[SLICES["stance"]], [4 / 7, 2 / 5, math.nan])
    assert score.macro[4] == pytest.approx((4 / 7 + 2 / 5) / 2)
    assert score.micro[4] == 0.5
    assert score.mean_micro == pytest.approx((7 + 0.5) / 8)
    counted = metrics.f1(reference, predicted, zero_division=0)
    assert counted.macro[4] == pytest.approx((4 / 7 + 2 / 5) / 3)


@pytest.mark.parametrize("absent", [False, True])
@pytest.mark.parametrize("zero_division", [0.0, 1.0, math.nan])
def test_f1_agrees_with_scikit_learn(absent, zero_division):
    reference, predicted = drawn(1, 40, absent), drawn(2, 40, absent)
    predicted[:, 7] = 2  # a label that only the prediction has
    score = metrics.f1(reference, predicted, zero_division)
    for d, dimension in enumerate(DIMENSIONS):
        every = list(range(len(dimension.labels)))
        x, y = reference[:, d], predicted[:, d]

        def theirs(average, labels=every, x=x, y=y):
            return sklearn.metrics.f1_score(
                x, y, labels=labels, average=average, zero_division=zero_division
            )

        np.testing.assert_allclose(score.labels[SLICES[dimension.name]], theirs(None))
        assert score.macro[d] == pytest.approx(theirs("macro"))
        assert score.micro[d] == pytest.approx(theirs("micro"))
        if math.isnan(zero_division):  # scikit-learn's default is the labels that occur
            assert score.macro[d] == pytest.approx(theirs("macro", labels=None))
    assert score.mean_macro == pytest.approx(score.macro.mean())


def test_confusion_agrees_with_scikit_learn_and_refuses_other_labels():
    reference, predicted = drawn(3, 60), drawn(4, 60)
    for d, table in enumerate(metrics.confusion(reference, predicted)):
        labels = range(len(DIMENSIONS[d].labels))
        expected = sklearn.metrics.confusion_matrix(reference[:, d], predicted[:, d], labels=labels)
        np.testing.assert_array_equal(table, expected)
    with pytest.raises(ValueError, match="got"):
        metrics.confusion(reference, predicted[:5])
    predicted[0, 2] = 3
    with pytest.raises(ValueError, match="sentiment_tendency: labels must be from 0 to 2"):
        metrics.confusion(reference, predicted)
    with pytest.raises(ValueError, match="at least one reaction"):
        metrics.f1(reference[:0], predicted[:0])
