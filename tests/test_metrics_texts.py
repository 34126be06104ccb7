"""Diversity of texts and labels by hand, and against the definition written plainly."""

import math
from collections import Counter

import numpy as np
import pytest
import scipy.stats

from benchmarks import metrics
from mfenv.distributions import UNIFORM
from mfenv.labels import DIMENSIONS, N_LABELS, OFFSETS


def test_distinct_n_by_hand():
    texts = ["a b a", "b a", "c"]
    assert metrics.distinct_n(texts, 1, "word") == 3 / 6
    assert metrics.distinct_n(texts, 2, "word") == 2 / 3  # (a b), (b a), (b a)
    assert math.isnan(metrics.distinct_n(texts, 4, "word"))
    # Characters: 真的 真 的吗, without the space.
    assert metrics.distinct_n(["真的 真", "的吗"], 1, "character") == 3 / 5
    assert metrics.distinct_n(["真的 真", "的吗"], 2, "character") == 3 / 3
    assert metrics.distinct_n(["真的 真", "的吗"], 1, "word") == 1
    with pytest.raises(ValueError, match="allowed: character, word"):
        metrics.distinct_n(texts, 1, "token")
    with pytest.raises(ValueError, match="at least 1"):
        metrics.distinct_n(texts, 0, "word")


def test_self_bleu_by_hand():
    # "a b c" against "a b d": precisions 2/3, 1/2, 0.1/1; the same the other way round.
    expected = (2 / 3 * 1 / 2 * 0.1) ** (1 / 3)
    assert metrics.self_bleu(["a b c", "a b d"], "word", order=3) == pytest.approx(expected)
    assert metrics.self_bleu(["abc", "ab d"], "character", order=3) == pytest.approx(expected)
    # Orders that a text is too short for do not count; nothing shared is 0, the same is 1.
    assert metrics.self_bleu(["a b c", "a b d"], "word") == pytest.approx(expected)
    assert metrics.self_bleu(["a b", "c d"], "word") == 0
    assert metrics.self_bleu(["a b", "a b", "a b"], "word") == 1
    # "a a": one of two is clipped, no pair, and not shorter than "a". "a": brevity exp(1 - 2).
    expected = (math.sqrt(1 / 2 * 0.1) + math.exp(-1)) / 2
    assert metrics.self_bleu(["a a", "a"], "word") == pytest.approx(expected)
    assert math.isnan(metrics.self_bleu(["a", " "], "word"))
    assert metrics.self_bleu(["a b", " ", "a b"], "word") == 1  # a silent repost is no text


def plain_bleu(text, others, order):
    """BLEU of one list of words as the papers define it."""
    logs = []
    for n in range(1, min(order, len(text)) + 1):
        grams = [
            Counter(tuple(t[i : i + n]) for i in range(len(t) - n + 1)) for t in (text, *others)
        ]
        hits = sum(min(c, max(g[w] for g in grams[1:])) for w, c in grams[0].items())
        if n == 1 and not hits:
            return 0.0
        logs.append(math.log((hits or 0.1) / grams[0].total()))
    nearest = min((abs(len(o) - len(text)), len(o)) for o in others)[1]
    penalty = 1.0 if len(text) > nearest else math.exp(1 - nearest / len(text))
    return penalty * math.exp(sum(logs) / len(logs))


def test_self_bleu_agrees_with_the_plain_definition():
    generator = np.random.default_rng(1)
    for words, order in ((3, 4), (12, 2), (40, 4)):
        cut = [
            [f"w{x}" for x in generator.integers(words, size=generator.integers(1, 12))]
            for _ in range(30)
        ]
        expected = np.mean(
            [plain_bleu(t, cut[:i] + cut[i + 1 :], order) for i, t in enumerate(cut)]
        )
        texts = [" ".join(t) for t in cut]
        assert metrics.self_bleu(texts, "word", order) == pytest.approx(expected)


def test_a_repeating_population_scores_worse():
    generator = np.random.default_rng(2)
    varied = ["".join(chr(0x4E00 + x) for x in generator.integers(500, size=10)) for _ in range(60)]
    stuck = [varied[i] for i in generator.integers(6, size=60)]
    assert metrics.self_bleu(stuck, "character") > 0.9 > metrics.self_bleu(varied, "character")
    assert metrics.distinct_n(stuck, 2, "character") < metrics.distinct_n(varied, 2, "character")


def test_label_entropy_agrees_with_scipy():
    np.testing.assert_allclose(
        metrics.label_entropy(UNIFORM), [np.log(len(d.labels)) for d in DIMENSIONS]
    )
    count = np.random.default_rng(3).integers(0, 4, size=(3, N_LABELS)) + np.eye(N_LABELS)[:3]
    count[:, list(OFFSETS[:-1])] += 1
    for row, result in zip(count, metrics.label_entropy(count), strict=True):
        parts = np.split(row, OFFSETS[1:-1])
        np.testing.assert_allclose(result, [scipy.stats.entropy(x) for x in parts], atol=1e-12)


def test_nll_per_token_is_a_ratio_of_sums():
    np.testing.assert_allclose(metrics.nll_per_token([10, 9], [4, 3]), [2.5, 3])
    with pytest.raises(ValueError, match="at least one token"):
        metrics.nll_per_token([1.0, 0.0], [3, 0])
