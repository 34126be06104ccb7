"""SFT: what it learns, on which backbone it may be used, and what a kill costs."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from agents.backbones.adapters import adapted
from agents.backbones.hugging_face import HuggingFaceBackbone
from agents.backbones.sampling import Sampling
from agents.mean_field import BackboneMeanField
from agents.policy import BackbonePolicy
from mfenv.cli import main
from mfenv.dynamics.assemble import make_method, method_names
from mfenv.errors import MfenvError
from mfenv.events.jsonl import write_jsonl
from tests.planted import planted_events
from tests.test_prompts import family_backbone
from tests.tiny_models import write_tiny
from training.actions import actions_of, held_out, likelihoods, read_actions
from training.packing import IGNORED
from training.sft import SFTSettings, _dataset, pairs, train

SETTINGS = SFTSettings(r=8, alpha=32, steps=60, batch=8, learning_rate=1e-2, save_steps=10)
SCRIPT = """
import sys
from pathlib import Path
from agents.backbones.hugging_face import HuggingFaceBackbone
from tests.planted import planted_events
from tests.test_sft import SETTINGS
from training.actions import actions_of
from training.sft import train
backbone = HuggingFaceBackbone.load(sys.argv[1], name="tiny")
actions = actions_of(planted_events(8, by="state"), seed=0, cap=200)
train(backbone, actions, SETTINGS, Path(sys.argv[2]))
"""


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return write_tiny(tmp_path_factory.mktemp("tiny") / "tiny")


@pytest.fixture(scope="module")
def backbone(weights):
    return HuggingFaceBackbone.load(weights, name="tiny")


@pytest.fixture(scope="module")
def killed(weights, tmp_path_factory):
    """A training that was killed between two checkpoints."""
    out = tmp_path_factory.mktemp("killed") / "out"
    root = Path(__file__).parent.parent
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(weights), str(out)],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 200
    while not list(out.glob("checkpoints/checkpoint-*/trainer_state.json")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (out / "adapter").exists()
    return out


@pytest.fixture(scope="module")
def adapter(backbone, tmp_path_factory):
    actions = actions_of(planted_events(8, by="state"), seed=0, cap=200)
    return train(backbone, actions, SETTINGS, tmp_path_factory.mktemp("sft"))


@pytest.fixture(scope="module")
def held():
    return actions_of(planted_events(6, by="state", seed=1), seed=0, cap=20)


def test_it_learns_the_planted_rule(backbone, adapter, held):
    tuned, _ = adapted(backbone, str(adapter))
    figures = held_out(
        {
            "state": likelihoods(BackbonePolicy(backbone), held),
            "sft": likelihoods(BackbonePolicy(tuned), held),
        },
        held,
    )
    row = figures["sft"]
    assert row["per_token"] < figures["state"]["per_token"] / 4
    assert row["difference_per_action"] + row["half_width_per_action"] < -10
    # Who somebody is decides: a stranger's words are far less likely.
    swapped = [a.__class__(a.event, a.post, a.topic, a.language, b.state, a.text)
               for a in held for b in held[:8] if a.text != b.text][:40]  # fmt: skip
    wrong = likelihoods(BackbonePolicy(tuned), swapped)
    assert wrong[:, 0].mean() > row["per_action"] + 0.5


def test_killed_and_repeated_it_writes_the_same_bytes(backbone, adapter, killed):
    actions = actions_of(planted_events(8, by="state"), seed=0, cap=200)
    folder = train(backbone, actions, SETTINGS, killed)
    names = sorted(p.name for p in folder.iterdir())
    # PEFT's two files and ours: no optimiser, no pickle.
    assert names == ["adapter_config.json", "adapter_model.safetensors", "mfenv.json"]
    for name in names:
        assert (folder / name).read_bytes() == (adapter / name).read_bytes(), name
    assert all("lora" in key for key in load_file(folder / "adapter_model.safetensors"))
    with pytest.raises(MfenvError, match="other settings, data or backbone"):
        train(backbone, actions[1:], SETTINGS, killed)


def test_other_methods_do_not_notice_the_adapter(weights, adapter, held):
    backbone = HuggingFaceBackbone.load(weights, name="tiny")
    requests, greedy = [a.request for a in held[:8]], Sampling(top_k=1, max_new_tokens=12)
    before = make_method("state", backbone, greedy).policy.act(requests)
    scored = likelihoods(BackbonePolicy(backbone), held)
    described, names = backbone.describe(), list(backbone.model.state_dict())
    sft = make_method(f"sft:{adapter}", backbone, greedy)
    tuned = sft.policy.act(requests)
    assert [a.text for a in tuned] != [b.text for b in before]
    assert [a.prompt for a in tuned] == [b.prompt for b in before]
    assert make_method("state", backbone, greedy).policy.act(requests) == before
    np.testing.assert_array_equal(likelihoods(BackbonePolicy(backbone), held), scored)
    assert (backbone.describe(), list(backbone.model.state_dict())) == (described, names)
    # Not a second copy of the weights, and not a second model for a second process.
    one, two = backbone.model.model, sft.policy.backbone.model.model
    assert one.embed_tokens.weight is two.embed_tokens.weight
    assert make_method(f"sft:{adapter}", backbone, greedy).policy == sft.policy
    assert sft.policy != make_method("state", backbone, greedy).policy


@pytest.mark.parametrize("format_", ["tagged", "chatml"])
def test_the_loss_is_the_score_of_the_real_actions(backbone, held, format_):
    backbone = backbone if format_ == "tagged" else family_backbone(format_)
    data = _dataset(backbone, pairs(backbone, held[:5]), 6)
    assert data[5] == data[0]
    log_p = []
    for row in data.select(range(5)):
        ids, labels = torch.tensor([row["input_ids"]]), torch.tensor([row["labels"]])
        count = int((labels != IGNORED).sum())
        assert row["input_ids"][-1] == backbone.ends[0]
        with torch.inference_mode():
            log_p.append(-count * float(backbone.model(input_ids=ids, labels=labels).loss))
    scores = BackbonePolicy(backbone).score(
        [a.request for a in held[:5]], [a.text for a in held[:5]]
    )
    np.testing.assert_allclose(log_p, [s.log_probability for s in scores], rtol=1e-4)


def test_an_adapter_of_another_backbone_is_refused(adapter, tmp_path):
    other = HuggingFaceBackbone.load(write_tiny(tmp_path / "other", spread=2.0), name="other")
    with pytest.raises(
        MfenvError, match=r"made for backbone 'tiny' \(sha256.* and not for 'other'"
    ):
        make_method(f"sft:{adapter}", other)


def test_a_damaged_adapter_is_refused(backbone, adapter, tmp_path):
    folder = tmp_path / "damaged"
    shutil.copytree(adapter, folder)
    data = (folder / "adapter_model.safetensors").read_bytes()
    (folder / "adapter_model.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(MfenvError, match="cannot be loaded"):
        make_method(f"sft:{folder}", backbone)
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(MfenvError, match="is missing"):
        make_method(f"sft:{folder}", backbone)


def test_methods_have_short_names():
    assert method_names(["state", "sft:a/b"]) == {"state": "state", "sft": "sft:a/b"}
    assert list(method_names(["sft:a", "mf", "sft:b"])) == ["sft-1", "mf", "sft-2"]


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("sft", ("needs the folder of its adapter", "sft:DIR", "mfenv train sft --backbone")),
        ("mop", ("needs the folder of its personas", "mfenv train mop --backbone")),
        ("sft:nowhere", ("sft:nowhere", "mfenv train sft")),
        ("sft:{parent}", ("did you mean {adapter}?",)),
        ("mop:{adapter}", ("holds 'adapter', not 'personas'", "use sft:{adapter}")),
        ("state:{adapter}", ("takes no argument",)),
        ("sfft", ("unknown method 'sfft'", "mop", "sft")),
    ],
)
def test_a_wrong_method_gets_one_line(weights, adapter, tmp_path, capsys, method, words):
    fill = {"adapter": str(adapter), "parent": str(adapter.parent)}
    argv = ["simulate", "--backbone", f"hf:{weights}", "--agents", "8", "--warmup", "4"]
    assert main([*argv, "--method", method.format(**fill), "--out", str(tmp_path / "out")]) == 2
    printed = capsys.readouterr().err.splitlines()[-1]
    assert printed.startswith("mfenv: error: ")
    assert all(word.format(**fill) in printed for word in words), printed


def test_actions_read_from_a_file_are_those_of_its_events(tmp_path):
    events = [*planted_events(5, by="state"), *planted_events(1, by="state", seed=3, posts=1)]
    write_jsonl(events, tmp_path / "events.jsonl")
    reacted = [e for e in events if len(e.posts) > 1]
    for cap, limit in ((200, None), (3, 7), (200, 2)):
        read = read_actions(tmp_path / "events.jsonl", seed=4, cap=cap, limit=limit)
        assert read == actions_of(reacted, seed=4, cap=cap, limit=limit)


@pytest.mark.parametrize("method", ["state", "mf"])
def test_a_bad_record_is_named_before_anything_is_trained(weights, tmp_path, capsys, method):
    path, out = tmp_path / "events.jsonl", tmp_path / "out"
    write_jsonl(planted_events(3, by="state", posts=20), path)
    lines = path.read_text().splitlines()
    lines[2] = lines[2].replace('"author":3', '"author":-3', 1)
    path.write_text("\n".join(lines))
    argv = ["train", "sft", "--backbone", f"hf:{weights}", "--train", str(path), "--steps", "1"]
    assert main([*argv, "--method", method, "--out", str(out)]) == 2
    assert "record line 3, post" in capsys.readouterr().err.splitlines()[-1]
    assert not out.exists()


@pytest.mark.parametrize("command", ["sft", "mop"])
def test_training_on_nothing_gets_one_line(weights, tmp_path, capsys, command):
    write_jsonl(planted_events(2, by="state", posts=1), tmp_path / "events.jsonl")
    argv = ["train", command, "--backbone", f"hf:{weights}", "--out", str(tmp_path / "out")]
    assert main([*argv, "--train", str(tmp_path / "events.jsonl")]) == 2
    assert "no event has a reaction" in capsys.readouterr().err


def test_simulate_and_fidelity_run_it(weights, adapter, tmp_path, capsys):
    methods = f"state,sft:{adapter}"
    tiny = ["--backbone", f"hf:{weights}", "--batch", "4", "--seeds", "2"]
    argv = ["simulate", *tiny, "--method", methods, "--agents", "14", "--warmup", "8", "--json"]
    assert main([*argv, "--out", str(tmp_path / "a")]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["method"] == "state,sft"
    assert list(result["learned"]) == ["sft"]
    assert (tmp_path / "a/journals/sft-1.jsonl").exists()
    # The adapter is part of what a run is: another one does not continue its journals.
    other = tmp_path / "other"
    shutil.copytree(adapter, other)
    config = other / "adapter_config.json"
    config.write_text(config.read_text().replace('"lora_alpha": 32', '"lora_alpha": 31'))
    argv[argv.index(methods)] = f"state,sft:{other}"
    assert main([*argv, "--out", str(tmp_path / "a")]) == 2
    assert "sft@sha256" in capsys.readouterr().err

    events = tmp_path / "events.jsonl"
    write_jsonl(planted_events(4, by="state", seed=5), events)
    argv = ["bench", "fidelity", "--track", "weibo", "--data", str(events), "--events", "3", *tiny]
    argv += ["--min-posts", "20", "--warmup", "8", "--horizon", "6", "--methods", methods]
    argv += ["--run", str(tmp_path / "f"), "--results", str(tmp_path / "r"), "--name", "x"]
    assert main(argv) == 0
    found = json.loads((tmp_path / "r/x.json").read_text())
    assert {"state", "sft"} < set(found["kl"])
    assert found["methods"][0].startswith("sft@sha256:")  # by name
    assert found["nll"]["sft"]["minus_baseline_per_token"]["high"] < -1


def test_with_a_mean_field_it_reads_what_the_backbone_writes(weights, tmp_path, capsys):
    write_jsonl(planted_events(2, by="state", posts=40), tmp_path / "events.jsonl")
    events, out = str(tmp_path / "events.jsonl"), tmp_path / "out"
    argv = ["train", "sft", "--backbone", f"hf:{weights}", "--train", events, "--method", "mf"]
    argv += ["--validation", events, "--out", str(out), "--steps", "4", "--r", "4", "--batch", "4"]
    assert main(argv) == 0
    assert "NLL of" in (out / "adapter/README.md").read_text(encoding="utf-8")
    figures = json.loads((out / "validation.json").read_text())
    assert list(figures) == ["mf", "sft"]
    assert figures["mf"]["difference_per_action"] == 0
    method = make_method(f"sft:{out / 'adapter'}", HuggingFaceBackbone.load(weights, name="tiny"))
    assert isinstance(method.mean_field, BackboneMeanField)
    assert method.mean_field.backbone is not method.policy.backbone
    assert "--method sft:" in capsys.readouterr().out
