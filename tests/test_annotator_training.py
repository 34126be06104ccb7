"""Training the annotator on planted rules, its measurements, and what it reaches on real data."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from benchmarks.annotator import agreement, resample
from mfenv.labels import DIMENSIONS, N_DIMENSIONS, N_LABELS, SLICES, dimension, encode, one_hot
from training.annotator import Settings, kappa, tune_offsets

# --- measures ----------------------------------------------------------------------------------


def test_agreement_matches_a_worked_example() -> None:
    # Cohen (1960)'s kind of table: 20 and 15 agreements, 5 and 10 disagreements.
    a = agreement(np.array([[20.0, 5.0], [10.0, 15.0]]))
    assert a.accuracy == pytest.approx(0.7)
    assert a.kappa == pytest.approx(0.4)
    assert a.macro_f1 == pytest.approx((2 * 20 / 55 + 2 * 15 / 45) / 2)
    truth = np.repeat([0, 0, 1, 1], [20, 5, 10, 15])
    predicted = np.repeat([0, 1, 0, 1], [20, 5, 10, 15])
    assert kappa(truth, predicted) == pytest.approx(0.4)
    assert kappa(truth, np.zeros(50, dtype=int)) == 0.0


def test_bootstrap_draws_keep_the_number_of_events() -> None:
    draws = resample(7, resamples=20, seed=3)
    assert draws.shape == (20, 7)
    assert set(draws.sum(axis=1)) == {7.0}
    np.testing.assert_array_equal(draws, resample(7, resamples=20, seed=3))


def test_offsets_find_the_decision_that_agrees_best() -> None:
    rng = np.random.default_rng(0)
    labels = np.zeros((4000, N_DIMENSIONS), dtype=np.int8)
    labels[:, 0] = rng.random(4000) < 0.1
    p = np.zeros((4000, N_LABELS))
    for s in SLICES.values():
        p[:, s.start] = 1.0
    # A rare label whose probability never reaches one half: argmax never chooses it.
    score = np.clip(rng.normal(np.where(labels[:, 0] == 1, 0.4, 0.1), 0.05), 0.001, 0.49)
    p[:, 0], p[:, 1] = 1 - score, score
    offsets = tune_offsets(p, labels)
    with np.errstate(divide="ignore"):
        decided = (np.log(p[:, :2]) + offsets[:2]).argmax(axis=1)
    assert kappa(labels[:, 0], p[:, :2].argmax(axis=1)) == 0.0
    assert kappa(labels[:, 0], decided) > 0.9


# --- training ----------------------------------------------------------------------------------

_BASE = {
    "rumor": "spread",
    "sentiment_state": "calm",
    "sentiment_tendency": "neutral",
    "behavior": "comment",
    "stance": "neutral",
    "belief": "believe",
    "subjectivity": "subjective",
    "intent": "opinion",
}
_FILL = [
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "red",
    "green",
    "blue",
    "grey",
    "brown",
    "pink",
]


def _planted(n: int, seed: int) -> tuple[list[str], list[str], np.ndarray]:
    """Texts whose words decide: `phony` counters and doubts, `furious` is angry and negative."""
    rng = np.random.default_rng(seed)
    topics, texts, labels = [], [], []
    for _ in range(n):
        words = list(rng.choice(_FILL, size=6))
        label = dict(_BASE)
        if rng.random() < 0.3:
            words[rng.integers(6)] = "phony"
            label |= {"rumor": "counter", "belief": "doubt", "stance": "oppose"}
        if rng.random() < 0.4:
            words[rng.integers(6)] = "furious"
            label |= {"sentiment_state": "angry", "sentiment_tendency": "negative"}
        topics.append(f"topic {rng.integers(30)}")
        texts.append(" ".join(words))
        labels.append(encode(label))
    return topics, texts, np.array(labels)


@pytest.mark.slow
def test_training_learns_a_planted_rule_and_writes_the_same_bytes_twice(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("sklearn")
    from agents.annotators.classifier import ClassifierAnnotator
    from training.annotator import save, train_language
    from training.annotator_data import Annotated, Unlabelled

    topics, texts, labels = _planted(700, 0)
    split = np.array(["train"] * 500 + ["validation"] * 100 + ["test"] * 100)
    annotated = Annotated(topics, texts, labels, np.arange(700) // 4, split)
    more_topics, more_texts, _ = _planted(4000, 1)
    nothing = np.full(4000, -1)
    unlabelled = Unlabelled(more_topics, more_texts, nothing, nothing)
    settings = Settings(
        bits=12,
        width=12,
        reader_bits=8,
        reader_width=16,
        pretrain=4000,
        rare=3,
        distil=4000,
        folds=2,
        held=1,
        epochs=20,
    )
    paths = [
        save(train_language("en", annotated, unlabelled, settings), "en", tmp_path / str(i))
        for i in range(2)
    ]
    assert paths[0].read_bytes() == paths[1].read_bytes()

    test = annotated.of("test")
    annotator = ClassifierAnnotator.load(tmp_path / "0")
    names = ["en"] * len(test.texts)
    found = annotator.label(test.topics, test.texts, names)
    for name in ("rumor", "belief", "stance", "sentiment_state", "sentiment_tendency"):
        d = dimension(name)
        assert kappa(test.labels[:, d], found[:, d]) > 0.8, name
    p = annotator.probabilities(test.topics, test.texts, names)
    doubtful = SLICES["belief"].start + 1
    share = (test.labels[:, dimension("belief")] == 1).mean()
    assert annotator.corrected_shares(p, "en", "mean")[doubtful] == pytest.approx(share, abs=0.05)


@pytest.mark.parametrize("width", [8, 0])
def test_what_is_shipped_computes_what_was_trained(width: int, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from agents.annotators.classifier import ClassifierAnnotator, Head
    from agents.annotators.features import featurise
    from training import annotator_model as model
    from training.annotator import Trained, save

    settings = model.StudentSettings(bits=8, topic_bits=6, reader_bits=7, reader_width=width)
    torch.manual_seed(0)
    student = model._Student(settings).eval()
    if width:
        torch.nn.init.normal_(student.reader.quoted)
    torch.nn.init.normal_(student.topic_table.weight)
    topics, texts, _ = _planted(40, 0)
    features = featurise([*topics, "x"], [*texts, ""], "en")
    examples = model._examples(features, one_hot(np.zeros((41, N_DIMENSIONS), int)), settings)
    rows = np.random.default_rng(0).permutation(41)
    with torch.no_grad():
        expected = student(*examples.inputs(rows)).numpy()
    network = model._network(student)
    np.testing.assert_allclose(network.logits(features)[rows], expected, atol=1e-4)
    # A text of no words has fewer tokens than the farthest layer looks away.
    alone = network.logits(featurise(["x"], [""], "en"))
    np.testing.assert_allclose(alone[0], expected[rows == 40][0], atol=1e-4)
    flat, square = np.zeros(N_LABELS), np.zeros((N_LABELS, N_LABELS))
    save(Trained(network, Head(flat, flat, square, square), square), "en", tmp_path)
    stored = ClassifierAnnotator.load(tmp_path).networks["en"]
    assert (stored.reader is None) == (width == 0)
    # Tables are rounded to 8 bits a number, the reader's other weights and the widest matrix to 16.
    np.testing.assert_allclose(stored.logits(features)[rows], expected, atol=0.05)


def test_hidden_cues_are_gone_from_the_text_and_asked_for() -> None:
    pytest.importorskip("torch")
    from training.annotator_data import Unlabelled, hide_cues

    texts = ["真的吗？[泪]", "谣言！"] * 200
    n = len(texts)
    unlabelled = Unlabelled(["t"] * n, texts, np.full(n, -1), np.full(n, 1))
    cues = hide_cues(unlabelled, "zh", np.random.default_rng(0))
    asked = cues.present[:, 0] == 1  # question marks
    assert 50 < asked.sum() < 150
    for i in np.flatnonzero(asked):
        assert "？" not in cues.texts[i]
    for i in np.flatnonzero(cues.present[:, 0] == -1):
        assert "？" in cues.texts[i]
    assert set(cues.present[:, -1].tolist()) == {1}
    assert all("[泪]" not in cues.texts[i] for i in np.flatnonzero(cues.family >= 0))


# --- real data ---------------------------------------------------------------------------------


def _data() -> Path:
    default = Path(__file__).resolve().parents[1].parent / "shared" / "data"
    return Path(os.environ.get("MFENV_DATA", default))


def _reported(language: str) -> list[float]:
    """Cohen's κ of the eight dimensions in the report that stands beside the benchmark."""
    report = Path(__file__).resolve().parents[1] / "benchmarks" / "results" / "annotator.md"
    section = report.read_text(encoding="utf-8").split(f"## {language}:")[1].split("\n## ")[0]
    rows = [row.split("|") for row in section.splitlines() if row.startswith("| ")]
    cells = {row[1].strip(): row for row in rows}
    return [float(cells[d.name][4]) for d in DIMENSIONS]


@pytest.mark.realdata
@pytest.mark.parametrize("language", ["zh", "en"])
def test_kappa_on_the_test_part_is_what_the_report_says(language: str) -> None:
    if not (_data() / "annotations" / "annotations.parquet").is_file():
        pytest.skip("no annotations: set MFENV_DATA to a folder that has annotations/")
    from agents.annotators.classifier import load
    from training.annotator_data import read_annotations

    test = read_annotations(_data())[language].of("test")
    found = load().label(test.topics, test.texts, [language] * len(test.texts))
    scores = [kappa(test.labels[:, d], found[:, d]) for d in range(N_DIMENSIONS)]
    np.testing.assert_allclose(scores, _reported(language), atol=0.01)
