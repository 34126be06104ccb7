"""Packed training sequences, the tokenizer, and a training run that is killed and resumed."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from agents.prompts import END
from mfenv.dynamics import mean_field_text
from mfenv.dynamics.mean_field_text import parse_shares
from mfenv.events.synthetic.generator import SyntheticSociety
from mfenv.labels import one_hot
from tests.tiny_models import TINY, tiny_tokenizer
from training.backbone import by_length, evaluate, new_model, token_losses, token_weights
from training.corpus import EventCorpus
from training.jobs import JobDataset, acting, prior, summarising
from training.packing import IGNORED, collate, pack
from training.tokenizer import train_tokenizer


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer()


@pytest.fixture(scope="module")
def corpus():
    events = SyntheticSociety(78).events(6, n_posts=80)
    return EventCorpus(events, [e.labels for e in events], seed=4)


def test_a_packed_action_is_scored_as_if_it_stood_alone(tokenizer, corpus):
    torch.manual_seed(0)
    model = new_model(TINY, tokenizer).eval()
    step = corpus.example(3)
    packed = acting(tokenizer, step, step.mean_field)
    others = [acting(tokenizer, corpus.example(i), "") for i in (5, 6)]
    inputs = collate([packed, *others], int(tokenizer.pad_token_id))
    with torch.inference_mode():
        losses, rows = token_losses(model, inputs)
    together = losses[rows == 0]
    n, alone = int(packed.segments.max()), []
    assert n == 16
    for s in range(1, n + 1):
        keep = np.isin(packed.segments, (0, s))
        ids = torch.tensor(packed.ids[keep])
        target = packed.targets[keep]
        with torch.inference_mode():
            log_p = model(ids[None]).logits[0].log_softmax(-1)
        alone += [-float(log_p[i, t]) for i, t in enumerate(target) if t != IGNORED]
    np.testing.assert_allclose(together.numpy(), alone, atol=1e-4)


def test_only_completions_are_targets(tokenizer, corpus):
    step = corpus.example(9)
    packed = acting(tokenizer, step, step.mean_field)
    read = tokenizer.decode(packed.targets[packed.targets != IGNORED])
    assert read == "".join(a + END for a in step.actions)
    whole = summarising(tokenizer, step)
    assert tokenizer.decode(whole.targets[whole.targets != IGNORED]) == step.next_mean_field + END
    bare = prior(tokenizer, step)
    assert step.topic in tokenizer.decode(bare.ids)
    assert bare.positions.tolist() == list(range(len(bare.ids)))


def test_splitting_a_batch_by_length_changes_no_loss(tokenizer, corpus):
    torch.manual_seed(0)
    model = new_model(TINY, tokenizer).eval()
    data = JobDataset(corpus, tokenizer, size=8, seed=0)
    inputs = collate([data[i] for i in range(8)], int(tokenizer.pad_token_id))
    with torch.inference_mode():
        whole = token_losses(model, inputs)[0]
        parts = torch.cat([token_losses(model, p)[0] for p in by_length(inputs, 3)])
    np.testing.assert_allclose(np.sort(whole), np.sort(parts), atol=1e-4)


def test_pack_refuses_what_it_cannot_lay_out():
    with pytest.raises(ValueError, match="empty prompt"):
        pack([1], [[], []], [[2], [3]])


def test_examples_are_a_function_of_their_index(corpus):
    assert corpus.example(11) == corpus.example(11)
    assert corpus.example(11) != corpus.example(12)


def test_the_mean_field_of_an_example_says_what_came_before(corpus):
    # With a stride of one batch from the start, the first mean field is the first batch's shares.
    events = SyntheticSociety(78).events(6, n_posts=80)
    by_topic = {e.topic: e for e in events}
    found = 0
    for i in range(200):
        step = corpus.example(i)
        event = by_topic[step.topic]
        at = next(
            k
            for k in range(1, len(event.posts))
            if tuple(event.posts.texts[k : k + 16]) == step.actions
        )
        if at == 17:
            believe = round(100 * one_hot(event.labels[1:17])[:, 16].mean() / 5) * 5
            assert f"believe {believe}%" in step.mean_field
            found += 1
        if at == 1:
            assert step.mean_field == ""
    assert found


def test_rewriting_goes_on_from_what_the_old_mean_field_says(corpus):
    carried, sizes, moved, first = [], [], 0, 0
    for i in range(1600):
        plain, step = corpus.example(i), corpus.rewriting(i)
        assert step.topic == plain.topic
        assert step.observed == step.actions == plain.actions[: len(step.actions)]
        sizes.append(len(step.observed))
        old, new = parse_shares(step.mean_field), parse_shares(step.next_mean_field)
        if old is None:
            first += 1
            if plain.mean_field == "" and sizes[-1] == 16:
                assert plain == step
            continue
        if step.mean_field == plain.mean_field:
            if sizes[-1] == 16:
                assert plain.next_mean_field == step.next_mean_field
            continue
        moved += 1
        off = old[16] - parse_shares(plain.mean_field)[16]
        if abs(off) > 0.2 and sizes[-1] == 16:
            carried.append((new[16] - parse_shares(plain.next_mean_field)[16]) / off)
    assert 380 < moved < 560
    assert 320 < first < 640
    assert set(sizes) == {1, 2, 4, 8, 16}
    assert 0.4 < np.mean(np.array(sizes) == 16) < 0.6
    # Of an error in the old one, one minus the batch's weight (a third to a half) stays.
    assert len(carried) > 10
    assert min(carried) > 0.3
    assert max(carried) < 0.9
    assert 0.5 < np.mean(carried) < 0.7


def test_what_one_reaction_says_is_written_whole(corpus):
    alone = [s for s in map(corpus.rewriting, range(200)) if len(s.observed) == 1]
    fresh = [s for s in alone if not s.mean_field]
    assert fresh
    for step in fresh:
        assert set(re.findall(r"(\d+)%", step.next_mean_field)) == {"0", "100"}


def test_stated_shares_weigh_more_in_the_loss(tokenizer):
    weights = token_weights(tokenizer, "en", 4.0)
    known = tokenizer.get_vocab()
    assert weights[known[" believe 5%"]] == 4
    assert weights[known["\nStance:"]] == weights[known[END]] == 1
    assert int((weights == 4).sum()) == sum("%" in p for p in mean_field_text.phrases("en"))


def test_rare_pieces_are_dropped_and_fall_back_to_characters():
    events = [["the common words stand here", "so common words"] for _ in range(30)]
    events[0].append("zyzzyva")
    made = train_tokenizer(events, vocabulary=100, phrases=[" 5%"], min_events=20)
    assert "zyzzyva" not in made.get_vocab()
    assert "z" not in made.get_vocab()
    ids = made("zyzzyva common 5%").input_ids
    assert made.decode(ids) == "zyzzyva common 5%"
    assert "▁common" in made.get_vocab()


SCRIPT = """
import sys
from pathlib import Path
from training.backbone import train
from training.corpus import EventCorpus
from mfenv.events.synthetic.generator import SyntheticSociety
from dataclasses import replace
from tests.tiny_models import TINY
events = SyntheticSociety(78).events(4, n_posts=60)
corpus = EventCorpus(events, [e.labels for e in events], seed=4)
config = replace(TINY, steps=int(sys.argv[2]), save_steps=4, eval_steps=10, min_events=2)
train(config, corpus, corpus, Path(sys.argv[1]))
"""


@pytest.mark.slow
def test_a_killed_training_resumes_to_the_same_weights(tmp_path):
    root = Path(__file__).parent.parent
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}

    def start(out: Path) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(out), "24"],
            cwd=root,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    quiet = start(tmp_path / "quiet")
    assert quiet.wait(240) == 0, quiet.stderr.read()
    killed = start(tmp_path / "killed")
    deadline = time.monotonic() + 200
    while not (tmp_path / "killed/checkpoints/checkpoint-8").exists():
        assert time.monotonic() < deadline
        assert killed.poll() is None
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    again = start(tmp_path / "killed")
    assert again.wait(240) == 0, again.stderr.read()
    for name in ("model/model.safetensors", "model/tokenizer.json", "tokenizer/tokenizer.json"):
        assert (tmp_path / "quiet" / name).read_bytes() == (tmp_path / "killed" / name).read_bytes()
    steps = [
        json.loads(line)["step"]
        for line in (tmp_path / "killed/validation.jsonl").read_text().splitlines()
    ]
    assert steps[-1] == 24


def test_training_lowers_the_loss_and_evaluation_is_paired(tokenizer, corpus):
    torch.manual_seed(0)
    model = new_model(TINY, tokenizer)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    data = JobDataset(corpus, tokenizer, size=200, seed=0)
    seen = []
    for k in range(12):
        inputs = collate([data[4 * k + i] for i in range(4)], int(tokenizer.pad_token_id))
        loss = token_losses(model, inputs)[0].mean()
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        seen.append(float(loss.detach()))
    assert np.mean(seen[-3:]) < np.mean(seen[:3]) - 0.3
    figures = evaluate(model, tokenizer, corpus, steps=6)
    gap = figures["nll_mf"] - figures["nll_state"]
    assert figures["difference"] == pytest.approx(gap)
    assert figures["tokens"] > figures["actions"] == 96
