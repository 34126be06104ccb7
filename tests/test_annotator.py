"""Rules, features and the shipped classifier."""

from __future__ import annotations

import random
import time

import numpy as np
import pytest

from agents.annotators.classifier import (
    WEIGHTS,
    ClassifierAnnotator,
    Head,
    Network,
    Reader,
    decide,
    load,
    softmax,
    unfold,
)
from agents.annotators.features import FORM_FEATURES, featurise
from agents.annotators.ngrams import READ, bags, encode_texts, tokens
from agents.annotators.rules import apply_rules, emoticons_alone, silent_reposts
from mfenv.dynamics.models import Annotator
from mfenv.errors import ModelError
from mfenv.labels import (
    DIMENSIONS,
    N_LABELS,
    SILENT_REPOST,
    SLICES,
    dimension,
    one_hot,
)

# --- rules -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "",
        "  \n",
        "转发微博",
        "轉發微博。",
        "转发",
        "转发!",
        "Repost",
        "RT @user: <url>",
        "@user @user",
        "回复@user:",
        "<url>",
        "//@user:这是别人的话",
        "转发微博//@user:真的吗？",
    ],
)
def test_silent_reposts(text: str) -> None:
    assert silent_reposts([text]).tolist() == [True]


@pytest.mark.parametrize(
    "text",
    ["转发是美德", "rtfm", "viable", "……", "...", "真的吗", "@user 你看", "[泪]", "?", "ok"],
)
def test_own_words_are_no_silent_reposts(text: str) -> None:
    assert silent_reposts([text]).tolist() == [False]


def test_silent_reposts_take_linear_time_on_hostile_texts() -> None:
    texts = ["转发" * 1_000_000 + "x", "@" * 1_000_000, "RT " * 500_000 + "!!", " " * 10**6 + "a"]
    assert silent_reposts(texts).tolist() == [False] * 4


def test_emoticons_alone_are_told_from_words() -> None:
    texts = ["[泪][泪]", "@user [怒]", "😂😂", "[泪] 难过", "", "[这不是一个表情符号]", "转发微博"]
    assert emoticons_alone(texts).tolist() == [True, True, True, False, False, False, False]


def test_rules_overrule_probabilities_and_leave_the_rest_alone() -> None:
    p = np.tile(
        np.concatenate([np.full(len(d.labels), 1 / len(d.labels)) for d in DIMENSIONS]), (3, 1)
    )
    before = p.copy()
    out = apply_rules(["转发微博", "[怒]", "真的吗"], p)
    np.testing.assert_array_equal(out[0], one_hot(SILENT_REPOST))
    np.testing.assert_array_equal(out[2], p[2])
    np.testing.assert_array_equal(
        out[1, SLICES["sentiment_state"]], p[1, SLICES["sentiment_state"]]
    )
    assert out[1, SLICES["behavior"]].tolist() == [1.0, 0.0]
    np.testing.assert_array_equal(p, before)


# --- features ----------------------------------------------------------------------------------


def test_ngrams_of_a_text_are_counted_exactly() -> None:
    bag = bags(["abab"], (2,))
    # ^a ab ba ab b$: four distinct bigrams, one of them twice
    assert len(bag.hashes) == 4
    assert sorted(bag.count.tolist()) == [1, 1, 1, 2]


def test_the_same_ngram_has_the_same_hash_wherever_it_stands() -> None:
    together = bags(["天", "今天", "晴天吗"], (1,))
    alone = bags(["天"], (1,)).hashes
    for row in range(3):
        mine = together.hashes[together.row == row]
        assert np.isin(alone[np.isin(alone, together.hashes[together.row == 0])], mine).sum() == 3


def test_normalisation_folds_width_case_digits_and_repetition() -> None:
    pairs = [("ＡＢＣ！", "abc!"), ("好好好好好好", "好好好"), ("2024", "1999"), ("a \t b", "A b")]
    for one, other in pairs:
        a, b = bags([one], (1, 2, 3)), bags([other], (1, 2, 3))
        np.testing.assert_array_equal(a.hashes, b.hashes)


def test_a_text_cannot_forge_the_symbols_of_the_encoding() -> None:
    codes = encode_texts(["a\x00b\ue010c\ue000", "d"])
    assert codes.n == 2
    assert np.bincount(codes.row).tolist() == [5, 3]  # marks included
    assert encode_texts(["\ud800"]).n == 1  # a lone surrogate stops nothing


def test_tokens_are_words_emoticons_and_characters_in_order() -> None:
    text = tokens(encode_texts(["don't 你好[泪]!", "", "你"]))
    assert np.bincount(text.row).tolist() == [7, 2, 3]  # marks included
    own, pair, _ = text.hashes.T
    assert own[2] == own[-2]  # the same character, wherever it stands
    assert pair[2] != pair[-2]  # what stands before it differs
    assert len(set(own[:7].tolist())) == 7
    stems = tokens(encode_texts(["wonderful wonder"])).hashes[1:3]
    assert stems[0, 2] == stems[1, 2]
    assert stems[0, 0] != stems[1, 0]


def test_a_huge_text_is_cut_and_leaves_its_neighbours_alone() -> None:
    text = tokens(encode_texts(["长" + "啊哦" * 100_000, "你好"]))
    assert np.bincount(text.row).tolist() == [READ, 4]
    np.testing.assert_array_equal(text.hashes[READ:], tokens(encode_texts(["你好"])).hashes)


def test_the_reader_sees_order_and_quoted_words() -> None:
    texts = ["甲乙丙", "丙乙甲", "甲 乙丙"]
    f = featurise(["乙"] * 3, texts, "zh")
    topic = np.ones((3, 2))
    states = _reader().read(f.tokens, f.quoted, topic)
    assert states.shape == (3, 6)
    assert np.abs(states[0] - states[1]).max() > 1e-3
    np.testing.assert_allclose(states[0], states[2])
    unquoted = _reader().read(f.tokens, np.zeros_like(f.quoted), topic)
    assert np.abs(states[0] - unquoted[0]).max() > 1e-3
    elsewhere = _reader().read(f.tokens, f.quoted, -topic)
    assert np.abs(states[0] - elsewhere[0]).max() > 1e-3


def test_form_features_are_what_their_names_say() -> None:
    f = featurise(["雷锋精神万岁"] * 2, ["雷锋精神！！吗?", "嗯"], "zh")
    column = {name: f.form[:, i] for i, name in enumerate(FORM_FEATURES)}
    assert column["reaction: ?"].tolist() == [1, 0]
    assert column["reaction: ends with ?"].tolist() == [1, 0]
    assert column["reaction: many !"].tolist() == [1, 0]
    assert column["reaction: short"].tolist() == [0, 1]
    # ^雷 雷锋 锋精 精神 of eleven-character text "^雷锋精神!!吗?$": 4 of its 9 bigrams
    assert column["overlap"][0] == pytest.approx(4 / 9)
    assert column["overlap"][1] == 0
    assert f.topics.n == 1


# --- decisions and shares ----------------------------------------------------------------------


def test_decisions_follow_offsets() -> None:
    p = np.zeros((1, N_LABELS))
    for s in SLICES.values():
        p[:, s] = 1 / (s.stop - s.start)
    p[0, SLICES["rumor"]] = [0.7, 0.3]
    assert decide(p)[0, 0] == 0
    offsets = np.zeros(N_LABELS)
    offsets[1] = np.log(0.7 / 0.3) + 0.01
    assert decide(p, offsets)[0, 0] == 1


def test_unfolding_recovers_planted_shares() -> None:
    confusion = np.array([[0.8, 0.15, 0.05], [0.2, 0.7, 0.1], [0.3, 0.1, 0.6]])
    true = np.array([0.5, 0.1, 0.4])
    np.testing.assert_allclose(unfold(true @ confusion, confusion, 5000), true, atol=1e-4)
    edge = np.array([1.0, 0.0, 0.0])
    np.testing.assert_allclose(unfold(edge @ confusion, confusion, 5000), edge, atol=1e-3)


def _reader() -> Reader:
    """A reader with random weights: states of four numbers, two heads with three values each."""
    rng = np.random.default_rng(6)
    return Reader(
        table=rng.normal(size=(128, 4)).astype(np.float32),
        quoted=rng.normal(size=4),
        near=rng.normal(size=(2, 12, 4)),
        near_bias=rng.normal(size=(2, 4)),
        key=rng.normal(size=(4, 2 * 5)),
        value=rng.normal(size=(4, 2 * 3)),
        query=rng.normal(size=(2, 2 * 5)),
        query_bias=rng.normal(size=(2, 5)),
    )


def _tiny() -> ClassifierAnnotator:
    """An annotator with random weights and heads that match a planted confusion of `rumor`."""
    rng = np.random.default_rng(5)
    k = 4 + 2 * 2 + len(FORM_FEATURES) + 2 * 3
    network = Network(
        table=rng.normal(size=(256, 4)).astype(np.float32),
        topic_table=rng.normal(size=(64, 2)).astype(np.float32),
        reader=_reader(),
        hidden=rng.normal(size=(k, 3)),
        hidden_bias=rng.normal(size=3),
        output=rng.normal(size=(3, N_LABELS)),
        skip=rng.normal(size=(k, N_LABELS)),
        bias=rng.normal(size=N_LABELS),
    )
    confusion = np.eye(N_LABELS)
    confusion[:2, :2] = [[0.9, 0.1], [0.4, 0.6]]
    head = Head(np.zeros(N_LABELS), np.full(N_LABELS, 0.5), confusion, confusion)
    return ClassifierAnnotator({"zh": network}, {"zh": head})


def test_corrected_shares_recover_planted_shares_and_keep_what_a_rule_decided() -> None:
    annotator = _tiny()
    rng = np.random.default_rng(0)
    n, true = 40_000, 0.25
    counter = rng.random(n) < true
    seen = np.where(counter, rng.random(n) < 0.6, rng.random(n) < 0.1)
    # An annotator's probabilities that always decide as `seen` says, never with certainty.
    p = np.full((n, N_LABELS), 0.0)
    for s in SLICES.values():
        p[:, s.start] = 0.9
        p[:, s.start + 1] = 0.1
    p[seen, 0], p[seen, 1] = 0.1, 0.9
    counted = annotator.corrected_shares(p, "zh", "counted")[1]
    corrected = annotator.corrected_shares(p, "zh", "hard")[1]
    assert counted == pytest.approx(0.25 * 0.6 + 0.75 * 0.1, abs=0.01)
    assert corrected == pytest.approx(true, abs=0.015)
    # Silent reposts beside them are known: half of the population, all of them `spread`.
    both = np.concatenate([p, np.tile(one_hot(SILENT_REPOST), (n, 1))])
    assert annotator.corrected_shares(both, "zh", "hard")[1] == pytest.approx(true / 2, abs=0.01)
    for method in ("counted", "mean", "prior", "hard", "soft"):
        shares = annotator.corrected_shares(both, "zh", method)
        assert [shares[s].sum() for s in SLICES.values()] == pytest.approx([1.0] * 8)


def test_a_prior_shift_is_undone_when_probabilities_are_calibrated() -> None:
    annotator = _tiny()
    rng = np.random.default_rng(1)
    true = 0.8
    label = rng.random(20_000) < true  # the annotator was calibrated where the share was 0.5
    score = rng.normal(np.where(label, 1.0, -1.0), 1.0)
    posterior = 1 / (1 + np.exp(-2 * score))  # exact under equal shares
    p = np.zeros((len(label), N_LABELS))
    for s in SLICES.values():
        p[:, s.start] = 0.6
        p[:, s.start + 1] = 0.4
    p[:, 0], p[:, 1] = 1 - posterior, posterior
    assert abs(annotator.corrected_shares(p, "zh", "mean")[1] - true) > 0.05
    assert annotator.corrected_shares(p, "zh", "prior")[1] == pytest.approx(true, abs=0.01)


def test_errors_name_what_is_allowed() -> None:
    annotator = _tiny()
    with pytest.raises(ValueError, match=r"'fr'; allowed: 'zh'"):
        annotator.probabilities(["t"], ["x"], ["fr"])
    with pytest.raises(ValueError, match="must be equal"):
        annotator.probabilities(["t"], ["x", "y"], ["zh", "zh"])
    p = annotator.probabilities(["t"], ["x"], ["zh"])
    with pytest.raises(ValueError, match="counted, mean"):
        annotator.corrected_shares(p, "zh", "magic")  # type: ignore[arg-type]


# --- the shipped weights -----------------------------------------------------------------------

_TEXTS = [
    ("某地发生地震", "真的假的？求证实", "zh"),
    ("某地发生地震", "太可怕了[泪]", "zh"),
    ("某地发生地震", "转发微博", "zh"),
    ("Police: suspect in custody", "This is fake, where is the proof?", "en"),
    ("Police: suspect in custody", "so sad, praying for everyone", "en"),
    ("", "", "en"),
    ("x", "\ud800 \x00 [", "zh"),
]


def test_the_shipped_annotator_gives_probabilities() -> None:
    annotator = load()
    assert isinstance(annotator, Annotator)
    assert annotator.languages == ("en", "zh")
    topics, texts, languages = map(list, zip(*_TEXTS, strict=True))
    p = annotator.probabilities(topics, texts, languages)
    assert p.shape == (len(_TEXTS), N_LABELS)
    assert p.min() >= 0
    for s in SLICES.values():
        np.testing.assert_allclose(p[:, s].sum(axis=1), 1.0, atol=1e-9)
    labels = annotator.label(topics, texts, languages)
    assert labels.dtype == np.int8
    np.testing.assert_array_equal(labels[2], SILENT_REPOST)
    counter, fear = dimension("rumor"), SLICES["sentiment_state"].start + 4
    assert labels[0, counter] == 1
    assert labels[3, counter] == 1
    assert labels[1, counter] == 0
    assert p[1, fear] > p[0, fear]
    assert annotator.probabilities([], [], []).shape == (0, N_LABELS)
    assert annotator.label([], [], []).shape == (0, 8)


def test_a_result_does_not_depend_on_the_batch_and_is_repeated_exactly() -> None:
    annotator = load()
    rows = [(f"{a} {i}", b, c) for i in range(40) for a, b, c in _TEXTS]
    random.Random(3).shuffle(rows)
    topics, texts, languages = map(list, zip(*rows, strict=True))
    whole = annotator.probabilities(topics, texts, languages)
    single = [annotator.probabilities([a], [b], [c])[0] for a, b, c in rows]
    np.testing.assert_allclose(whole, single, atol=1e-9)
    again = ClassifierAnnotator.load().probabilities(topics, texts, languages)
    np.testing.assert_array_equal(whole, again)


def test_the_topic_is_seen() -> None:
    annotator = load()
    p = annotator.probabilities(["某地发生地震", "新歌发布"], ["支持支持支持"] * 2, ["zh", "zh"])
    assert np.abs(p[0] - p[1]).max() > 1e-3


def test_the_weights_keep_their_budget() -> None:
    assert sum(f.stat().st_size for f in WEIGHTS.rglob("*") if f.is_file()) <= 3_000_000


def test_missing_and_damaged_weights_are_named(tmp_path) -> None:
    with pytest.raises(ModelError, match="mfenv train annotator"):
        ClassifierAnnotator.load(tmp_path)
    (tmp_path / "zh.safetensors").write_bytes(b"not weights")
    with pytest.raises(ModelError, match=r"zh\.safetensors"):
        ClassifierAnnotator.load(tmp_path)


def test_weights_of_an_older_format_are_refused(tmp_path) -> None:
    safetensors = pytest.importorskip("safetensors.numpy")
    meta = {"mfenv": '{"format": "mfenv-annotator-1", "language": "zh"}'}
    tensors = {"table": np.zeros((2, 2), dtype=np.int8)}
    safetensors.save_file(tensors, tmp_path / "zh.safetensors", metadata=meta)
    with pytest.raises(ModelError, match=r"'mfenv-annotator-1'.*needed 'mfenv-annotator-2'"):
        ClassifierAnnotator.load(tmp_path)


def test_labelling_is_fast_enough_for_a_simulation() -> None:
    annotator = load()
    texts = [f"{text} {i}" for i in range(300) for _, text, _ in _TEXTS]
    annotator.label(texts[:8], texts[:8], ["zh"] * 8)
    begun = time.process_time()
    annotator.label(["某地发生地震"] * len(texts), texts, ["zh"] * len(texts))
    assert 60 * len(texts) / (time.process_time() - begun) > 20_000


def test_softmax_is_one_in_every_dimension_even_for_huge_logits() -> None:
    p = softmax(np.random.default_rng(0).normal(size=(5, N_LABELS)) * 1e4)
    for s in SLICES.values():
        np.testing.assert_allclose(p[:, s].sum(axis=1), 1.0)
