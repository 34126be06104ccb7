"""A population in which one quiet fact predicts what people do next, and a loud one does not.

In the first step of an event one of four people says which weather it is (``sun`` or ``rain``) and
three shout about the music (``drum`` or ``horn``). In the second step people answer ``yes`` where
it is sunny and ``no`` where it rains, nine times in ten; the music says nothing of it. A tiny model
has been taught to answer by the weather, where the mean field states it, and to write one of the
two facts into the mean field: the loud one four times in five.
"""

from __future__ import annotations

import numpy as np
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from agents.backbones.hugging_face import HuggingFaceBackbone
from agents.methods import mf
from agents.prompts import TaggedPrompts
from agents.prompts.tagged import END, PAD, SPECIAL_TOKENS
from mfenv.events.event import Event, Posts
from mfenv.events.synthetic.annotator import ExactAnnotator
from mfenv.labels import encode_code
from mfenv.states import UNKNOWN
from training.datasets import mean_field_histories, teacher_forced

WEATHER, MUSIC, ANSWERS = ("sun", "rain"), ("drum", "horn"), ("yes", "no")
LOUD = 0.8  # of the mean fields state the music
FAITHFUL = 0.9
TOPIC = "news"
STATE = UNKNOWN["en"]
BATCH = 4


class Prompts(TaggedPrompts):
    """Tags, and free text for a mean field."""

    def summary_grammar(self, language):
        return None


def tokenizer():
    words = [*SPECIAL_TOKENS, TOPIC, *WEATHER, *MUSIC, *ANSWERS, "[UNK]", *STATE.split()]
    inner = Tokenizer(
        WordLevel({w: i for i, w in enumerate(dict.fromkeys(words))}, unk_token="[UNK]")
    )
    inner.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token=PAD, eos_token=END, unk_token="[UNK]",
        additional_special_tokens=list(SPECIAL_TOKENS), padding_side="left",
    )  # fmt: skip


def facts(rng):
    """Weather, music, and what four people say of it."""
    weather, music = int(rng.integers(2)), int(rng.integers(2))
    said = [" ".join([MUSIC[music]] * 3)] * BATCH
    said[int(rng.integers(BATCH))] = WEATHER[weather]
    return weather, music, said


def answer(weather, rng):
    return ANSWERS[weather if rng.random() < FAITHFUL else 1 - weather]


def events(count, seed):
    rng = np.random.default_rng(seed)
    made = []
    for i in range(count):
        weather, _, said = facts(rng)
        texts = [TOPIC, *said, *(answer(weather, rng) for _ in range(BATCH))]
        n = len(texts)
        made.append(
            Event(
                event_id=f"weather-{seed}-{i}",
                topic=TOPIC,
                posts=Posts(
                    offsets=np.arange(n, dtype=float),
                    authors=np.arange(n, dtype=np.int32),
                    parents=np.array([-1, *[0] * (n - 1)], dtype=np.int32),
                    texts=texts,
                ),
                language="en",
                labels=np.array([encode_code("scpcsbso")] * n, dtype=np.int8),
            )
        )
    return made


def _examples(count, rng):
    """Prompts and completions of the three jobs, as the model was taught them."""
    prompts = Prompts()
    rows = []
    for k in range(count):
        weather, music, said = facts(rng)
        stated = MUSIC[music] if rng.random() < LOUD else WEATHER[weather]
        if k % 4 == 0:
            rows.append((prompts.prior_prompt(TOPIC, "en"), stated))
        elif k % 4 == 1:
            rows.append((prompts.summary_parts(TOPIC, "", said), stated))
        else:
            shown = (stated, "", WEATHER[weather])[int(rng.integers(3))]
            prefix = prompts.policy_prefix(TOPIC, (), shown, "en")
            told = answer(weather, rng) if shown in WEATHER else ANSWERS[int(rng.integers(2))]
            rows.append((prefix + prompts.policy_suffix(STATE, "en"), told))
    return rows


def taught(steps=350, rows=96, seed=0):
    """The backbone, taught from nothing in some seconds."""
    made = tokenizer()
    config = Qwen2Config(
        vocab_size=len(made), hidden_size=48, intermediate_size=96, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=False,
        eos_token_id=made.eos_token_id, pad_token_id=made.pad_token_id,
        max_position_embeddings=128,
    )  # fmt: skip
    rng = np.random.default_rng(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Qwen2ForCausalLM(config)
    optimiser = torch.optim.AdamW(model.parameters(), lr=4e-3)
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = 4e-3 * (1 - step / steps)
        batch = _examples(rows, rng)
        ids = [made(p, add_special_tokens=False).input_ids for p, _ in batch]
        end = made.eos_token_id
        after = [[*made(c, add_special_tokens=False).input_ids, end] for _, c in batch]
        width = max(len(a) + len(b) for a, b in zip(ids, after, strict=True))
        tokens = torch.full((rows, width), made.pad_token_id)
        labels = torch.full((rows, width), -100)
        for k, (a, b) in enumerate(zip(ids, after, strict=True)):
            tokens[k, : len(a) + len(b)] = torch.tensor(a + b)
            labels[k, len(a) : len(a) + len(b)] = torch.tensor(b)
        loss = model(
            input_ids=tokens, attention_mask=(tokens != made.pad_token_id).long(), labels=labels
        ).loss
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    return HuggingFaceBackbone(model, made, name="weather", prompts=Prompts())


def histories(backbone, count, seed):
    """One history for each of some events, through the process as it is used."""
    steps = teacher_forced(
        events(count, seed), mf(backbone), ExactAnnotator(), agents=2 * BATCH, batch=BATCH,
        seed=seed,
    )  # fmt: skip
    return mean_field_histories(steps, backbone.prompts, seed=seed)
