"""The annotator's teacher with a sentence encoder, on planted rules and a tiny random encoder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mfenv.errors import MfenvError
from mfenv.labels import DIMENSIONS, SLICES, dimension, encode, one_hot

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("sklearn")

import torch

from agents.annotators.classifier import softmax
from agents.annotators.features import featurise
from training import annotator_teacher
from training.annotator import Settings, kappa, train_language
from training.annotator_data import Annotated, Unlabelled
from training.annotator_teacher import Pseudo, SentenceEncoder, TeacherSettings, label_by_fold

_FILL = ["one", "two", "three", "four", "five", "six", "red", "green", "blue", "grey", "brown"]
_WORDS = [*_FILL, "phony", "not", "furious", "flood", "feast", "news", "of", "the", "a"]
_SETTINGS = TeacherSettings(
    trained_layers=2, epochs=12, rate=2e-3, layer_decay=1.0, head_rate=5e-3, topic_states=2
)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT with random weights and three layers, and a tokenizer of whole words."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("encoder")
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    words = {w: i for i, w in enumerate([*special, *_WORDS])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", model_max_length=64
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        initializer_range=0.2,
    )
    BertModel(config).save_pretrained(folder)
    return folder


def _planted(n: int, seed: int) -> tuple[list[str], list[str], np.ndarray]:
    """`phony` doubts unless `not` stands before it; `furious` is angry; a `flood` is sad news."""
    rng = np.random.default_rng(seed)
    topics, texts, labels = [], [], []
    for _ in range(n):
        words = list(rng.choice(_FILL, size=rng.integers(3, 7)))
        label = {
            "rumor": "spread",
            "sentiment_state": "calm",
            "sentiment_tendency": "neutral",
            "behavior": "comment",
            "stance": "neutral",
            "belief": "believe",
            "subjectivity": "subjective",
            "intent": "opinion",
        }
        at = int(rng.integers(len(words)))
        draw = rng.random()
        if draw < 0.3:
            words[at:at] = ["phony"]
            label |= {"rumor": "counter", "belief": "doubt"}
        elif draw < 0.6:
            words[at:at] = ["not", "phony"]
        if rng.random() < 0.4:
            words.append("furious")
            label |= {"sentiment_state": "angry"}
        flood = rng.random() < 0.5
        if flood:
            label |= {"sentiment_tendency": "negative"}
        topics.append(f"news of the {'flood' if flood else 'feast'} {rng.choice(_FILL)}")
        texts.append(" ".join(words))
        labels.append(encode(label))
    return topics, texts, np.array(labels)


def _data(seed: int = 0) -> tuple[Annotated, np.ndarray, Unlabelled, np.ndarray]:
    topics, texts, labels = _planted(900, seed)
    events = np.arange(900) // 3
    annotated = Annotated(topics, texts, labels, events, np.array(["train"] * 900))
    more_topics, more_texts, truth = _planted(300, seed + 1)
    nothing = np.full(300, -1)
    return annotated, events % 2, Unlabelled(more_topics, more_texts, nothing, nothing), truth


def _label(
    encoder: Path, work: Path, settings: TeacherSettings = _SETTINGS, *, only: str | None = None
) -> dict[str, Pseudo]:
    annotated, folds, unlabelled, _ = _data()
    return label_by_fold(
        encoder,
        {"en": annotated, "zh": annotated.part(np.arange(90))},
        {"en": folds, "zh": folds[:90]},
        {"en": unlabelled, "zh": unlabelled},
        {x: n for x, n in {"en": 300, "zh": 40}.items() if only in (None, x)},
        work,
        seed=0,
        settings=settings,
    )


@pytest.mark.slow
def test_teacher_recovers_planted_rules_and_resumes(
    encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    annotated, _, _, truth = _data()
    found = _label(encoder, tmp_path)
    assert found["en"].by_fold.shape == (2, 300, 23)
    assert found["zh"].by_fold.shape == (2, 40, 23)
    for name in ("rumor", "belief", "sentiment_state", "sentiment_tendency"):
        d, s = dimension(name), SLICES[name]
        held_out = found["en"].held_out[:, s].argmax(axis=1)
        assert kappa(annotated.labels[:, d], held_out) > 0.8, name
        for fold in (0, 1, None):
            more = found["en"].opinion(fold)[:, s].argmax(axis=1)
            assert kappa(truth[found["en"].places, d], more) > 0.8, (name, fold)

    # A run that was stopped after the first fold ends with the same numbers.
    (folder,) = tmp_path.iterdir()
    (folder / "fold-1.safetensors").unlink()
    for path in folder.glob("*.npy"):
        path.unlink()
    trained = []
    fit = annotator_teacher._fit
    monkeypatch.setattr(annotator_teacher, "_fit", lambda *a: trained.append(a[-1]) or fit(*a))
    again = _label(encoder, tmp_path)
    assert trained == [1]
    for language in ("en", "zh"):
        np.testing.assert_array_equal(found[language].by_fold, again[language].by_fold)
        np.testing.assert_array_equal(found[language].held_out, again[language].held_out)
    # With everything on disk nothing is trained; with other settings nothing is taken from there.
    # One language alone has the same teachers.
    alone = _label(encoder, tmp_path, only="zh")
    assert list(alone) == ["zh"]
    np.testing.assert_array_equal(alone["zh"].by_fold, found["zh"].by_fold)
    np.testing.assert_array_equal(alone["zh"].held_out, found["zh"].held_out)
    assert trained == [1]
    _label(encoder, tmp_path, replace(_SETTINGS, epochs=1))
    assert trained == [1, 0, 1]
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.slow
def test_students_learn_what_the_sentence_teacher_alone_knows() -> None:
    topics, texts, labels = _planted(300, 0)
    # The annotated reactions do not show what makes them angry; the other teacher knows.
    hidden = [t.replace("furious", "").strip() for t in texts]
    events, split = np.arange(300) // 3, np.array(["train"] * 300)
    annotated = Annotated(topics, hidden, labels, events, split)
    more_topics, more_texts, truth = _planted(3000, 1)
    nothing = np.full(3000, -1)
    unlabelled = Unlabelled(more_topics, more_texts, nothing, nothing)
    sure = (0.98 * one_hot(truth) + 0.005).astype(np.float32)
    pseudo = Pseudo(np.arange(3000), np.stack([sure, sure]), one_hot(labels))
    settings = Settings(
        bits=12,
        width=12,
        reader_bits=8,
        reader_width=16,
        pretrain=0,
        distil=3000,
        folds=2,
        epochs=12,
    )
    trained = train_language("en", annotated, unlabelled, settings, sentence=pseudo)

    test_topics, test_texts, test_truth = _planted(300, 2)
    s, d = SLICES["sentiment_state"], dimension("sentiment_state")
    angry = DIMENSIONS[d].index("angry")
    p = softmax(trained.network.logits(featurise(test_topics, test_texts, "en")))[
        :, s.start + angry
    ]
    is_angry = test_truth[:, d] == angry
    ahead = p[is_angry][:, None] > p[~is_angry][None, :]
    assert ahead.mean() > 0.95


def test_topic_summaries_do_not_depend_on_the_batch(encoder: Path) -> None:
    topics = ["flood", "news of the feast", "a b c d e f g", ""]
    together = SentenceEncoder(encoder, _SETTINGS).topics(topics)
    assert together.shape == (4, 2, 32)
    alone = SentenceEncoder(encoder, _SETTINGS)
    for i, topic in enumerate(topics):
        near = alone.topics([topic])[0].float().numpy()
        np.testing.assert_allclose(near, together[i].float().numpy(), atol=0.05)


def test_errors_say_what_to_give(encoder: Path, tmp_path: Path) -> None:
    with pytest.raises(MfenvError, match="--encoder names"):
        SentenceEncoder(tmp_path / "nothing", _SETTINGS)
    with pytest.raises(MfenvError, match="at least 9"):
        SentenceEncoder(encoder, replace(_SETTINGS, trained_layers=9))
