"""IB-Tune: what it learns, what its two log-probabilities are, and what a kill costs."""

from __future__ import annotations

import argparse
import hashlib
import html
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import Qwen2Config, Qwen2ForCausalLM

import training.configs
from agents.backbones.embedded import WEIGHTS
from agents.backbones.hugging_face import HuggingFaceBackbone
from agents.backbones.sampling import Sampling
from agents.learned import training_of
from agents.mean_field import BackboneMeanField
from agents.policy import BackbonePolicy
from mfenv.cli import main
from mfenv.distributions import shares
from mfenv.dynamics.assemble import build_annotator, make_method
from mfenv.dynamics.mean_field_text import parse_shares, render, with_shares
from mfenv.errors import DataError, MfenvError
from mfenv.events import load_events
from mfenv.events.jsonl import write_jsonl
from mfenv.events.synthetic.generator import SyntheticSociety
from mfenv.noise import NoiseKey
from tests import planted_facts
from tests.planted_facts import MUSIC, TOPIC, WEATHER
from tests.test_events_bad import weibo_event, write_parquet
from tests.test_events_good import assert_same
from tests.tiny_models import write_tiny
from training.configs import known
from training.datasets import mean_field_histories, policy_examples, teacher_forced
from training.ib_tune.command import add_arguments, chosen_events
from training.ib_tune.relevance import Relevance, action_log_probabilities
from training.ib_tune.report import write_report
from training.ib_tune.rounds import IBTuneSettings, step_arguments, tune
from training.ib_tune.trainer import IBTuneConfig, IBTuneTrainer
from training.ib_tune.validation import Validation
from training.sft import SFTSettings, lora

COLUMNS = ("topic", "language", "states", "actions")


def with_bare(histories, backbone):
    nats = action_log_probabilities(
        BackbonePolicy(backbone), [""] * len(histories), **{k: histories[k] for k in COLUMNS}
    )
    return histories.add_column("bare", [float(x) for x in nats])


def config(out, **other):
    settings = {
        "output_dir": str(out),
        "max_steps": 60,
        "per_device_train_batch_size": 64,
        "num_generations": 8,
        "learning_rate": 5e-3,
        "lr_scheduler_type": "constant",
        "max_completion_length": 6,
        "report_to": "none",
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "save_strategy": "no",
        "logging_steps": 1,
        "disable_tqdm": True,
    }
    return IBTuneConfig(**{**settings, **other})


def trainer(backbone, histories, args, **other):
    return IBTuneTrainer(
        backbone, policy=BackbonePolicy(backbone), args=args, train_dataset=histories,
        peft_config=LoraConfig(
            r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM"
        ),
        **other,
    )  # fmt: skip


# -- it learns what it should ------------------------------------------------------------------


@pytest.fixture(scope="module")
def weather():
    return planted_facts.taught()


@pytest.fixture(scope="module")
def unseen(weather):
    return planted_facts.histories(weather, 200, seed=99)


class Cut(Relevance):
    """The relevance term as the paper's released code has it: the action loss is taken with a mean
    field of another, frozen model, so it is the same for every candidate."""

    def __init__(self, policy, weight, schedule, backbone):
        super().__init__(policy, weight, schedule)
        self.backbone = backbone

    def __call__(self, completions, prompts, **columns):
        keys = [NoiseKey(0, 0, 0) for _ in prompts]
        written = self.backbone.generate(prompts, keys, Sampling(max_new_tokens=6))
        return super().__call__([g.text for g in written], **columns)


def stated(backbone, histories):
    """Shares of the mean fields that state the weather, and the music."""
    written = backbone.generate(
        histories["prompt"],
        [NoiseKey(5, i, 0) for i in range(len(histories))],
        Sampling(max_new_tokens=6),
    )
    texts = [g.text.strip() for g in written]
    found = Counter("weather" if t in WEATHER else "music" if t in MUSIC else "" for t in texts)
    return found["weather"] / len(texts), found["music"] / len(texts), texts


def nll(policy, histories, texts):
    return -action_log_probabilities(
        policy, texts, **{k: histories[k] for k in COLUMNS}
    ).mean()  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_it_states_what_predicts_and_not_what_is_loud(weather, unseen, tmp_path, seed):
    policy = BackbonePolicy(weather)
    weather_before, music_before, texts_before = stated(weather, unseen)
    assert weather_before < 0.3
    assert music_before > 0.7
    histories = with_bare(planted_facts.histories(weather, 200, seed=seed), weather)

    def tuned(beta, cut=False):
        made = trainer(
            weather, histories, config(tmp_path / "out", seed=seed, relevance_weight=beta)
        )
        if cut:
            made.reward_funcs[0] = Cut(policy, beta, lambda _: 1.0, weather)
        made.train()
        share, loud, texts = stated(made.tuned, unseen)
        return share, loud, nll(policy, unseen, texts)

    before = nll(policy, unseen, texts_before)
    share, loud, after = tuned(10.0)
    assert share > 2.5 * weather_before
    assert loud < music_before
    assert after < before - 0.1
    for beta, cut in ((0.0, False), (10.0, True)):
        share, _, after = tuned(beta, cut)
        assert share < 1.5 * weather_before, (beta, cut)
        assert after > before - 0.04, (beta, cut)


def test_its_gradient_moves_the_mean_field_model_only(weather, tmp_path):
    histories = with_bare(planted_facts.histories(weather, 16, seed=4), weather)
    before = {k: v.clone() for k, v in weather.model.state_dict().items()}
    made = trainer(weather, histories, config(tmp_path, max_steps=2, relevance_weight=10.0))
    made.train()
    moved = [n for n, p in made.model.named_parameters() if p.requires_grad and "lora_B" in n]
    assert moved
    assert all(made.model.get_parameter(n).abs().sum() > 0 for n in moved)
    after = weather.model.state_dict()
    assert all(torch.equal(after[k], v) for k, v in before.items())


# -- the two log-probabilities -----------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return HuggingFaceBackbone.load(
        write_tiny(tmp_path_factory.mktemp("tiny") / "tiny", spread=3.0), name="tiny"
    )


@pytest.fixture(scope="module")
def society_histories(tiny):
    """Histories for a backbone that is held to the grammar of a mean field."""
    events = SyntheticSociety(3).events(4, n_posts=17)
    return with_bare(
        mean_field_histories(
            teacher_forced(
                events, make_method("mf", tiny), build_annotator("auto", events[0]), agents=16,
                batch=8, seed=0,
            ),
            tiny.prompts,
            seed=0,
        ),
        tiny,
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["free text", "grammar"])
def test_the_first_kl_is_zero_where_prior_and_prompt_are_the_same(
    weather, tiny, society_histories, tmp_path, kind
):
    backbone, histories = weather, None
    if kind == "grammar":
        backbone, histories = tiny, society_histories
    else:
        histories = with_bare(planted_facts.histories(weather, 16, seed=4), weather)
    same = histories.remove_columns("prior_prompt").add_column("prior_prompt", histories["prompt"])
    args = config(
        tmp_path, max_steps=1, max_completion_length=90, per_device_train_batch_size=8,
        num_generations=4,
    )  # fmt: skip
    made = trainer(backbone, same, args)
    made.train()
    (first,) = [row["kl"] for row in made.state.log_history if "kl" in row]
    assert abs(first) < 1e-6
    other = trainer(backbone, histories, args)
    other.train()
    (real,) = [row["kl"] for row in other.state.log_history if "kl" in row]
    assert abs(real) > 1e-3


def test_q_is_the_distribution_that_candidates_are_drawn_from(tiny, society_histories, tmp_path):
    args = config(
        tmp_path, max_completion_length=90, per_device_train_batch_size=8, num_generations=4,
        temperature=0.8,
    )  # fmt: skip
    made = trainer(tiny, society_histories, args)
    rows = [society_histories[i] for i in range(2) for _ in range(4)]
    ids = [tiny.prompt_ids(r["prompt"]) for r in rows]
    written = made._generate_single_turn(ids, None, {})
    form = tiny.token_grammar(tiny.prompts.summary_grammar("en"))
    width, length = max(map(len, ids)), max(map(len, written))
    tokens = torch.full((8, width + length), tiny.tokenizer.pad_token_id)
    mask = torch.zeros_like(tokens)
    for k, (before, after) in enumerate(zip(ids, written, strict=True)):
        row = torch.tensor([*before, *after])
        tokens[k, width - len(before) : width + len(after)] = row
        mask[k, width - len(before) : width + len(after)] = 1
    with torch.no_grad():
        got, entropy, _ = made._get_per_token_logps_and_entropies(
            made.model, tokens, mask, length, compute_entropy=True
        )
        for k, (before, after) in enumerate(zip(ids, written, strict=True)):
            state, seen = form.start(1), list(before)
            for t, token in enumerate(after):
                logits = tiny.model(torch.tensor([seen])).logits[:, -1].float() / 0.8
                p = form.forbid(logits, state).softmax(-1)[0]
                assert got[k, t] == pytest.approx(float(p[token].log()), abs=2e-4)
                assert entropy[k, t] == pytest.approx(float(torch.special.entr(p).sum()), abs=2e-3)
                state = form.advance(state, torch.tensor([token]))
                seen.append(token)
            assert (got[k, len(after) :] == 0).all()


def test_what_is_shared_is_read_once_and_the_gradient_is_the_same(
    tiny, society_histories, tmp_path, monkeypatch
):
    args = config(
        tmp_path, max_steps=1, max_completion_length=90, per_device_train_batch_size=8,
        num_generations=4, relevance_weight=5.0,
    )  # fmt: skip
    gradients = []
    for packed in (True, False):
        made = trainer(tiny, society_histories, args)
        if not packed:
            monkeypatch.setattr(HuggingFaceBackbone, "packed_logits", lambda *_: None)
        made.train()
        row = next(r for r in made.state.log_history if "grad_norm" in r)
        weights = torch.cat([p.flatten() for p in made.model.parameters() if p.requires_grad])
        gradients.append((float(row["grad_norm"]), float(row["kl"]), weights.detach()))
    (norm, kl, weights), (other_norm, other_kl, other_weights) = gradients
    assert norm > 0
    assert norm == pytest.approx(other_norm, rel=1e-3)
    assert kl == pytest.approx(other_kl, abs=1e-4)
    assert (weights - other_weights).abs().max() < 2 * args.learning_rate  # Adam's sign step
    assert (weights - other_weights).abs().mean() < 0.02 * args.learning_rate


def test_the_auxiliary_loss_teaches_what_comes_next(tiny, society_histories, tmp_path):
    """After it the mean fields that state the next distributions are likelier, also with no reward,
    and each row's text states the shares of one of the next steps."""
    (row,) = society_histories.select([0])
    assert all(parse_shares(text) is not None for text in row["future"])
    args = config(
        tmp_path, max_steps=40, max_completion_length=90, per_device_train_batch_size=8,
        num_generations=4, relevance_weight=0.0, beta=0.0, learning_rate=1e-2, future_weight=1.0,
    )  # fmt: skip
    made = trainer(tiny, society_histories, args)
    made.train()
    curve = [row["future"] for row in made.state.log_history if "future" in row]
    assert len(curve) == 40
    assert np.mean(curve[-3:]) < 0.8 * np.mean(curve[:3])
    off = trainer(tiny, society_histories, config(tmp_path, max_steps=1, max_completion_length=90,
                  per_device_train_batch_size=8, num_generations=4))  # fmt: skip
    off.train()
    assert not any("future" in row for row in off.state.log_history)


# -- data sets ---------------------------------------------------------------------------------


def test_data_sets_are_what_the_process_would_read(tiny):
    events = SyntheticSociety(3).events(3, n_posts=25)
    judge = build_annotator("auto", events[0])
    models = make_method("mf", tiny)

    def played():
        return list(teacher_forced(events, models, judge, agents=24, batch=8, seed=1))

    steps = played()
    histories = mean_field_histories(steps, tiny.prompts, seed=1, horizon=2)
    assert histories.to_list() == mean_field_histories(
        played(), tiny.prompts, seed=1, horizon=2
    ).to_list()  # fmt: skip
    assert len(histories) == 3 * 2
    for row in histories:
        event = events[row["event"]]
        for k, text in enumerate(row["future"]):
            start = 1 + 8 * (row["step"] + 1 + k)
            real = shares(event.labels[start : start + 8])
            assert text == with_shares(row["mean_field"], real, "en")
            assert text.endswith(render(real, [], "en"))
        after = 1 + 8 * (row["step"] + 1)
        assert row["actions"] == list(event.posts.texts[after : after + 16])
        assert row["topic"] == event.topic
        # The prompt holds the batch before, and what the model writes behind it is what those who
        # act next read.
        for text in event.posts.texts[after - 8 : after]:
            assert text[:40] in row["prompt"]
        written = BackboneMeanField(tiny)._write([row["prompt"]], [NoiseKey(1, -1, row["step"])],
                                                 ["en"])  # fmt: skip
        assert written[0].text == row["mean_field"]
    actions = policy_examples(steps, seed=1)
    assert Counter(a.text for a in actions) == Counter(
        t for e in events for t in e.posts.texts[1:25]
    )
    assert policy_examples(steps, seed=1, limit=5) == actions[:5]
    fields = {(r["event"], r["step"] + 1): r["mean_field"] for r in histories}
    for a in actions:
        step = (a.post - 1) // 8
        assert a.mean_field == ("" if step == 0 else fields[a.event, step])


def test_an_event_of_one_step_is_no_history(tiny):
    events = SyntheticSociety(3).events(2, n_posts=9)
    steps = teacher_forced(
        events, make_method("mf", tiny), build_annotator("auto", events[0]), agents=8, batch=8,
        seed=1,
    )  # fmt: skip
    with pytest.raises(MfenvError, match="no event is long enough for a history"):
        mean_field_histories(steps, tiny.prompts, seed=1)


# -- the choice of the events --------------------------------------------------------------


def many_events(path):
    """Sixty events of three to eight posts, two in a row group."""
    rows = []
    for i in range(60):
        row = weibo_event(f"e{i}")
        row["posts"] += [row["posts"][-1] | {"t_offset": 20.0 + k} for k in range(i % 5)]
        rows.append(row)
    return rows, write_parquet(path, rows)


def test_events_are_chosen_by_their_hashes_and_no_others_are_decoded(tmp_path):
    rows, path = many_events(tmp_path / "a.parquet")
    whole = [e for e in load_events(path) if len(e.posts) >= 6]
    whole.sort(key=lambda e: hashlib.sha256(e.event_id.encode()).hexdigest())
    chosen = chosen_events(path, 4, 6)
    assert len(chosen) == 4
    for a, b in zip(chosen, whole[:4], strict=True):
        assert_same(a, b)
    assert len(chosen_events(path, 1000, 6)) == len(whole)
    # The texts of a row group without one of them may be anything; those of theirs may not.
    places = {r["event_id"]: i // 2 for i, r in enumerate(rows)}
    used = {places[e.event_id] for e in chosen}
    meta, data = pq.ParquetFile(path).metadata, path.read_bytes()
    for group in (next(iter(set(range(30)) - used)), next(iter(used))):
        column = next(
            c for c in map(meta.row_group(group).column, range(meta.num_columns))
            if c.path_in_schema.endswith(".text")
        )  # fmt: skip
        start = column.dictionary_page_offset or column.data_page_offset
        path.write_bytes(data[:start] + b"\xff" * 16 + data[start + 16 :])
        if group in used:
            with pytest.raises(DataError, match="cannot be read, the file may be damaged"):
                chosen_events(path, 4, 6)
        else:
            for a, b in zip(chosen_events(path, 4, 6), chosen, strict=True):
                assert_same(a, b)


def test_a_bad_record_of_a_chosen_event_is_named(tmp_path):
    rows, path = many_events(tmp_path / "a.parquet")
    (first, *_) = chosen_events(path, 4, 6)
    row = next(r for r in rows if r["event_id"] == first.event_id)
    row["posts"][2]["t_offset"] = -1.0
    write_parquet(path, rows)
    with pytest.raises(DataError, match=f"event {first.event_id}, post 2: field t_offset"):
        chosen_events(path, 4, 6)
    write_jsonl([*load_events(path, event_ids=["e0", "e5"]), *SyntheticSociety(1).events(1)],
                tmp_path / "b.jsonl")  # fmt: skip
    with pytest.raises(MfenvError, match=r"several languages \(en, zh\)"):
        chosen_events(tmp_path / "b.jsonl", 1, 2)


# -- the command -------------------------------------------------------------------------------

ARGUMENTS = [
    *("--steps", "6", "--save-steps", "2", "--policy-steps", "4", "--group", "3"),
    *("--histories", "2", "--rounds", "2", "--events", "3", "--validation-events", "2"),
    *("--min-posts", "20", "--agents", "20", "--warmup", "8", "--batch", "4", "--r", "4"),
    *("--report-to", "none"),
]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    write_tiny(folder / "tiny", spread=3.0)
    write_jsonl(SyntheticSociety(11).events(3, n_posts=24), folder / "train.jsonl")
    write_jsonl(SyntheticSociety(12).events(3, n_posts=24), folder / "validation.jsonl")
    return folder


def command(world, out, *more):
    return [
        "train", "ib-tune", "--backbone", f"hf:{world / 'tiny'}",
        "--train", str(world / "train.jsonl"), "--validation", str(world / "validation.jsonl"),
        "--out", str(out), *ARGUMENTS, *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def tuned(world):
    assert main(command(world, world / "whole")) == 0
    return world / "whole" / "ib-tune"


@pytest.mark.slow
def test_killed_and_repeated_it_writes_the_same_adapters(world, tuned):
    out = world / "killed"
    root = Path(__file__).parent.parent
    for stage in ("round-1/mean-field/checkpoints/checkpoint-2", "round-1/policy/adapter"):
        process = subprocess.Popen(
            [sys.executable, "-m", "mfenv", *command(world, out)],
            cwd=root,
            env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 250
        while not (out / stage).exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (out / "ib-tune").exists()
    assert main(command(world, out)) == 0
    files = sorted(p.relative_to(tuned) for p in tuned.rglob("*") if p.is_file())
    names = {p.name for p in files}
    assert {"adapter_model.safetensors", "adapter_config.json", "mfenv.json"} <= names
    assert not any(n.endswith((".bin", ".pt", ".pkl")) for n in names)
    for file in files:
        if file.name not in ("curves.json",):  # times of steps
            assert (out / "ib-tune" / file).read_bytes() == (tuned / file).read_bytes(), file


@pytest.mark.slow
def test_its_result_is_a_method(world, tuned, tmp_path, capsys):
    backbone = HuggingFaceBackbone.load(world / "tiny", name="tiny")
    both = make_method(f"ib-tune:{tuned}", backbone)
    field = make_method(f"ib-tune-mean-field:{tuned}", backbone)
    policy = make_method(f"ib-tune-policy:{tuned}", backbone)
    assert policy.policy == make_method(f"sft:{tuned / 'policy'}", backbone).policy
    assert both.mean_field == field.mean_field
    assert both.policy == policy.policy
    assert field.policy == make_method("mf", backbone).policy
    assert policy.mean_field == make_method("mf", backbone).mean_field
    argv = [
        "simulate", "--backbone", f"hf:{world / 'tiny'}", "--agents", "12", "--warmup", "8",
        "--batch", "4", "--seeds", "1", "--json", "--out", str(tmp_path / "out"),
        "--method", f"mf,ib-tune:{tuned}",
    ]  # fmt: skip
    assert main(argv) == 0
    assert "ib-tune" in json.loads(capsys.readouterr().out)["kl"]
    found = json.loads((tuned / "validation.json").read_text())
    assert 1 <= found["chosen"] < len(found["rounds"])
    assert set(found["rounds"][0]) >= {"nll", "nll_without", "gap", "kl"}
    for counted, row in zip(found["rounds"][1:], found["measured"], strict=True):
        assert row["policy_rejected"] == (row["both"]["nll"] > row["mean_field_only"]["nll"])
        assert counted == row["mean_field_only" if row["policy_rejected"] else "both"]
    card = (tuned / "README.md").read_text()
    assert "IB-Tune adapters" in card
    untuned, best = (found["rounds"][k]["nll"] for k in (0, found["chosen"]))
    assert ("the tuning did not help" in card) == (best >= untuned)
    assert found["better_than_untuned"] == (best < untuned)
    page = (tuned.parent / "report.html").read_text()
    assert "data:image/png;base64," in page
    samples = json.loads((tuned.parent / "samples.json").read_text())
    assert [len(samples[k]) for k in ("untuned", "tuned")] == [2, 2]
    assert all(
        html.escape(text) in page for rows in samples.values() for row in rows for text in row
    )
    log = json.loads((tuned / "mean-field" / "curves.json").read_text())
    keys = {k for row in log for k in row}
    assert {"information/history", "information/actions", "relevance", "reward", "kl",
            "eval_nll", "eval_nll_without", "eval_kl"} <= keys  # fmt: skip


@pytest.mark.slow
def test_the_mean_field_model_alone(world, tmp_path, capsys):
    """Its steps are of no length, so it cannot help, which is said also where the result stands."""
    short = ("--rounds", "1", "--steps", "2", "--learning-rate", "1e-30", "--policy-steps", "0")
    for _ in range(2):
        assert main(command(world, tmp_path, *short)) == 0
        printed = capsys.readouterr().err.splitlines()
        assert [x for x in printed if "the tuning did not help" in x] == [printed[-1]]
    folder = tmp_path / "ib-tune"
    assert sorted(p.name for p in folder.iterdir()) == [
        "README.md", "mean-field", "mfenv.json", "validation.json",
    ]  # fmt: skip
    backbone = HuggingFaceBackbone.load(world / "tiny", name="tiny")
    both, plain = make_method(f"ib-tune:{folder}", backbone), make_method("mf", backbone)
    assert both.policy == plain.policy
    assert both.mean_field == make_method(f"ib-tune-mean-field:{folder}", backbone).mean_field
    assert both.mean_field != plain.mean_field
    assert both.revision
    with pytest.raises(MfenvError, match=r"kept no tuned policy model.*use ib-tune:"):
        make_method(f"ib-tune-policy:{folder}", backbone)
    with pytest.raises(MfenvError, match="holds 'ib-tune', not 'adapter'; use ib-tune:"):
        make_method(f"sft:{folder}", backbone)
    found = json.loads((folder / "validation.json").read_text())
    (row,) = found["measured"]
    assert row == json.loads((tmp_path / "round-1" / "validation.json").read_text())
    assert (row["both"], row["policy_rejected"]) == (None, False)
    assert found["rounds"][1] == row["mean_field_only"] == found["rounds"][0]
    assert found["better_than_untuned"] is False
    assert "for the untuned policy model" in (folder / "README.md").read_text()
    assert "round 1, mean-field model" in (tmp_path / "report.html").read_text()
    argv = command(world, tmp_path / "o", "--policy-steps", "0", "--prior", "marginal")
    assert main(argv) == 2
    assert "policy steps of 1 or more, or the prior 'frozen'" in capsys.readouterr().err


def test_a_policy_model_that_is_worse_is_not_used(weather, tmp_path, capsys):
    """In each round it learns from people who all say what nobody says in the validation."""

    def saying(word, events):
        return [replace(e, posts=replace(e.posts, texts=[TOPIC, *[word] * 8])) for e in events]

    judge = build_annotator("classifier")
    settings = IBTuneSettings(
        rounds=2, steps=1, group=2, histories=2, learning_rate=1e-30, r=4, agents=8, batch=4,
        save_steps=1, report_to="none",
        policy=SFTSettings(r=4, steps=20, batch=8, learning_rate=1e-2),
    )  # fmt: skip
    unseen = saying("yes", planted_facts.events(6, 8))
    validation = Validation(unseen, judge, agents=8, warmup=4, batch=4)
    events = saying(TOPIC, planted_facts.events(8, 7))
    folder = tune(weather, events, validation, judge, settings, tmp_path)
    printed = capsys.readouterr().err.splitlines()
    found = json.loads((folder / "validation.json").read_text())
    assert [row["policy_rejected"] for row in found["measured"]] == [True, True]
    for number, row in enumerate(found["measured"], start=1):
        assert row["both"]["nll"] > row["mean_field_only"]["nll"] + 0.5
        assert row["mean_field_only"] == found["rounds"][number] == found["rounds"][0]
        assert any(x.startswith(f"round {number}: the validation NLL is better") for x in printed)
    assert (found["chosen"], found["better_than_untuned"]) == (1, False)
    write_report(folder, tmp_path, settings, weather, 8, 6)
    card = (folder / "README.md").read_text()
    assert "the tuning did not help" in card
    assert "In round 2 the tuned policy model made it worse" in card
    assert "round 1, policy model too (not used)" in card
    assert not (folder / "policy").exists()
    assert make_method(f"ib-tune:{folder}", weather).policy == BackbonePolicy(weather)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (["--beta", "-1"], "--beta -1.0 is not allowed; allowed: 0 or more"),
        (["--group", "1"], "--group: '1' is not allowed"),
        (["--backbone", "nobody"], "unknown backbone 'nobody'"),
        (["--backbone", "openai:x@http://127.0.0.1:9/v1"], "takes no adapter"),
        (["--min-posts", "500"], "no event has 500 posts"),
        (["--batch", "20"], "no event is long enough"),
        (["--prior", "none"], "invalid choice: 'none'"),
        (["--vllm", "on"], "invalid choice: 'on'"),
        (["--train", "{world}/empty.jsonl"], "no event has a reaction"),
        (["--train", "{world}/absent.jsonl"], "absent.jsonl"),
    ],
)
def test_bad_input_gets_one_line(world, tmp_path, capsys, monkeypatch, change, words):
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    (world / "empty.jsonl").write_text("")
    argv = command(world, tmp_path / "out", *(c.format(world=world) for c in change))
    assert main(argv) == 2
    printed = capsys.readouterr().err.splitlines()
    assert words in printed[-1], printed
    assert not (tmp_path / "out" / "ib-tune").exists()


@pytest.mark.slow
def test_adapters_of_another_backbone_are_refused(tuned, tmp_path):
    other = HuggingFaceBackbone.load(write_tiny(tmp_path / "other", spread=2.0), name="other")
    with pytest.raises(MfenvError, match="was made for backbone"):
        make_method(f"ib-tune:{tuned}", other)
    with pytest.raises(MfenvError, match="mfenv train ib-tune"):
        make_method("ib-tune", other)


def test_settings_that_cannot_be_meant_are_refused(tmp_path):
    with pytest.raises(MfenvError, match="relevance_weight -1"):
        config(tmp_path, relevance_weight=-1.0)
    with pytest.raises(MfenvError, match="num_generations 1 is not allowed"):
        config(tmp_path, num_generations=1)


def test_vllm_passes_through(tmp_path):
    (tmp_path / "settings.toml").write_text('vllm = "server"')
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    argv = ["--backbone", "x", "--train", "y", "--validation", "z", "--out", "o"]
    modes = {"--vllm": "colocate", "--config": str(tmp_path / "settings.toml")}
    chosen = [parser.parse_args([*argv, *pair]).vllm for pair in ((), *modes.items())]
    assert chosen == ["off", "colocate", "server"]
    made = [step_arguments(IBTuneSettings(vllm=v), tmp_path, seed=0, on_gpu=False) for v in chosen]
    assert [a.use_vllm for a in made] == [False, True, True]
    assert [a.vllm_mode for a in made[1:]] == chosen[1:]


def test_vllm_where_it_cannot_be_gets_one_line(world, tmp_path, capsys):
    """Its grammar is named before what has to be installed; nothing has been written."""
    write_tiny(tmp_path / "free", tagged=False)
    for backbone, words in (
        (world / "tiny", "a grammar that vLLM does not know; leave --vllm off"),
        (tmp_path / "free", "pip install 'mfenv[vllm]'"),
    ):
        if "pip" in words and find_spec("vllm") is not None:
            pytest.skip("vLLM is installed")
        argv = command(world, tmp_path / "out", "--backbone", f"hf:{backbone}", "--vllm", "server")
        assert main(argv) == 2
        assert words in capsys.readouterr().err.splitlines()[-1]
        assert not list((tmp_path / "out").glob("*.json"))


def test_relevance_is_beta_times_the_mean_log_probability(tiny):
    policy = BackbonePolicy(tiny)
    row = {"topic": ["news"], "language": ["en"], "states": [["x", "y"]], "actions": [["a", "bc"]]}
    logged = {}
    reward = Relevance(policy, 3.0, lambda done: 0.5)(
        ["calm"], bare=[-20.0], log_metric=lambda k, v: logged.update({k: v}), **row
    )
    prompts = [
        tiny.prompts.policy_prefix("news", (), "calm", "en") + tiny.prompts.policy_suffix(s, "en")
        for s in ("x", "y")
    ]
    mean = np.mean([s.log_probability for s in policy.score_prompts(prompts, ["a", "bc"])])
    assert reward == [pytest.approx(1.5 * mean)]
    assert logged["information/actions"] == pytest.approx(mean + 20.0)


@pytest.mark.slow
def test_a_full_disk_gets_one_line(world, tmp_path):
    """A limit on the size of files stands for the disk: the system refuses to write more."""
    script = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000)); "
        "from mfenv.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    run = subprocess.run(
        [sys.executable, "-c", script, *command(world, tmp_path / "out")],
        capture_output=True,
        text=True,
        timeout=250,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert run.returncode == 2, run.stderr[-2000:]
    last = run.stderr.splitlines()[-1]
    assert "make room and run the same command again" in last
    assert str(tmp_path / "out") in last
    assert not list((tmp_path / "out").glob("round-1/mean-field/mean-field"))


@pytest.mark.slow
def test_two_processes_tune_one_model(world, tmp_path):
    """As ``accelerate launch`` starts them on several devices, here on two processors."""
    out = tmp_path / "out"
    run = subprocess.run(
        [
            *(sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"),
            *("--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"),
            *("--main_process_port", "0", "-m", "mfenv", *command(world, out, "--rounds", "1")),
        ],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        timeout=280,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert run.returncode == 0, run.stderr[-3000:]
    log = json.loads((out / "ib-tune" / "mean-field" / "curves.json").read_text())
    assert sum("relevance" in row for row in log) == 6
    backbone = HuggingFaceBackbone.load(world / "tiny", name="tiny")
    tuned = make_method(f"ib-tune:{out / 'ib-tune'}", backbone)
    written = tuned.mean_field.backbone.model.state_dict()
    assert any("lora_B" in k and v.abs().sum() > 0 for k, v in written.items())


@pytest.mark.parametrize("name", [n for n in known() if n.startswith("qwen2")])
def test_a_shipped_config_fits_its_architecture(name, tmp_path):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    argv = ["--backbone", "x", "--train", "y", "--validation", "z", "--out", "o"]
    args = parser.parse_args([*argv, "--config", name, "--beta", "7"])
    assert (args.r, args.alpha, args.beta) == (64, 64, 7.0)
    large = "7b" in name
    architecture = Qwen2Config(
        vocab_size=512, num_hidden_layers=2, num_attention_heads=28 if large else 12,
        num_key_value_heads=4 if large else 2, hidden_size=3584 if large else 1536,
        intermediate_size=18944 if large else 8960, tie_word_embeddings=not large, eos_token_id=0,
    )  # fmt: skip
    with torch.random.fork_rng():
        model = Qwen2ForCausalLM(architecture).to(torch.bfloat16)
    adapted = get_peft_model(model, lora(args.r, args.alpha))
    trained = {n.split(".")[-4] for n, p in adapted.named_parameters() if p.requires_grad}
    assert trained == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert all(m.r["default"] == 64 for m in adapted.modules() if hasattr(m, "lora_A"))
    IBTuneConfig(
        output_dir=str(tmp_path), num_generations=args.group, learning_rate=args.learning_rate,
        per_device_train_batch_size=args.group * args.histories, use_cpu=True, bf16=False,
    )  # fmt: skip


def test_the_shipped_adapter_has_the_settings_of_its_config():
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    argv = ["--backbone", "x", "--train", "y", "--validation", "z", "--out", "o"]
    args = parser.parse_args([*argv, "--config", "weibo-s"])
    made = training_of(WEIGHTS / "ib-tune-weibo-s" / "mean-field")
    names = {*vars(args)} & {*made} - {"policy", "backbone", "histories"}  # there: their digest
    assert {"beta", "horizon", "future_weight", "r", "alpha", "steps"} < names
    assert {n: getattr(args, n) for n in names} == {n: made[n] for n in names}
    assert training_of(WEIGHTS / "ib-tune-weibo-s") == {"chosen": 1, "policy": "untuned"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("beta = -", "Invalid value"),
        ("betta = 1", "'betta' is no setting; allowed: agents"),
        ("group = 1", "'1' is not allowed"),
        ('out = "elsewhere"', "'out' is no setting"),
    ],
)
def test_a_bad_config_gets_one_line(world, tmp_path, capsys, text, words):
    (tmp_path / "settings.toml").write_text(text)
    assert main(command(world, tmp_path / "o", "--config", str(tmp_path / "settings.toml"))) == 2
    printed = capsys.readouterr().err.splitlines()
    assert words in printed[-1], printed


@pytest.mark.parametrize("name", ["fsdp", "deepspeed-zero2"])
def test_accelerate_reads_the_shipped_files(name):
    from accelerate.commands.config.config_args import load_config_from_file

    path = Path(training.configs.__file__).parent / f"{name}.yaml"
    config = load_config_from_file(str(path))
    assert config.num_processes == 4
    assert str(config.mixed_precision) in ("bf16", "PrecisionType.BF16")


@pytest.mark.slow
def test_a_learned_prior_and_the_other_options(world, tmp_path):
    out = tmp_path / "out"
    options = ["--rounds", "1", "--prior", "marginal", "--horizon", "2", "--future-weight", "0.5"]
    assert main(command(world, out, *options, "--beta-warmup", "0.5")) == 0
    log = json.loads((out / "ib-tune" / "mean-field" / "curves.json").read_text())
    weights = [row["relevance_weight"] for row in log if "relevance_weight" in row]
    assert weights == pytest.approx([0.0, 100 / 3, 200 / 3, 100.0, 100.0, 100.0], rel=1e-3)
    assert all(row["future"] > 0 for row in log if "relevance" in row)
    prior = json.loads((out / "round-1" / "prior" / "mean-field" / "mfenv.json").read_text())
    assert prior["training"]["method"] == "prior"


def test_all_weights_can_be_trained(weather, tmp_path):
    histories = with_bare(planted_facts.histories(weather, 16, seed=4), weather)
    before = {k: v.clone() for k, v in weather.model.state_dict().items()}
    made = IBTuneTrainer(
        weather,
        policy=BackbonePolicy(weather),
        args=config(tmp_path, max_steps=2, relevance_weight=10.0),
        train_dataset=histories,
    )
    made.train()
    after = made.tuned.model.state_dict()
    assert any(not torch.equal(after[k], v) for k, v in before.items())
    assert all(torch.equal(weather.model.state_dict()[k], v) for k, v in before.items())
