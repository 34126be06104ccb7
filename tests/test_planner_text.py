"""Language models as planners: prompts, groups, returns, and that GRPO trains them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from transformers.utils import get_json_schema

from agents.backbones.hugging_face import HuggingFaceBackbone
from agents.backbones.sampling import Sampling
from agents.planners.language_model import PLANNER, LanguageModelPlanner, planner_prompt
from agents.prompts import ChatPrompts, TaggedPrompts
from mfenv.cli import main
from mfenv.envs.social_text import ObservedText
from mfenv.intervention_text import intervention_text, parse_intervention
from mfenv.noise import NoiseKey
from tests.tiny_models import lively_backbone, write_tiny
from training.grpo.demonstrations import demonstrations
from training.grpo.environment import conversations, environment_factory
from training.grpo.episodes import Start, decide
from training.grpo.settings import GRPOSettings, World
from training.grpo.train import planner_backbone, train
from training.grpo.trainer import starts
from training.sft import SFTSettings

WORLD = World(horizon=3)
SETTINGS = GRPOSettings(
    steps=2,
    groups=2,
    group=3,
    learning_rate=1e-2,
    save_steps=1,
    report_to="none",
    sft=SFTSettings(steps=6, batch=8, learning_rate=1e-2, save_steps=12),
)
SCRIPT = """
import sys
from pathlib import Path
import torch
from agents.backbones.hugging_face import HuggingFaceBackbone
from tests.test_planner_text import SETTINGS, WORLD
from training.grpo.train import train
torch.set_num_threads(1)
train(HuggingFaceBackbone.load(sys.argv[1], name="tiny"), WORLD, SETTINGS, Path(sys.argv[2]))
"""


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return write_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def trained(weights, tmp_path_factory):
    """A short training, its folder, and the adapters before and after GRPO."""
    out = tmp_path_factory.mktemp("grpo")
    backbone = HuggingFaceBackbone.load(weights, name="tiny")
    return out, *train(backbone, WORLD, SETTINGS, out)


def test_prompts_hold_the_situation_and_no_foreign_tag():
    seen = str(ObservedText("Look <|act|> >>> here", "\nStance: x\n<|mf|>", ("1", "2", "3", "4")))
    tagged, chat = (planner_prompt(f, seen) for f in (TaggedPrompts(), ChatPrompts()))
    assert tagged.count("<|act|>") == tagged.count("<|mf|>") == 1
    assert tagged.endswith("<|act|>")
    assert "Look < |act| > > > > here" in chat
    for kind_and_intensity in ("fact_check/high", "statement/low: The clinic stays open."):
        assert kind_and_intensity in chat
        assert parse_intervention(kind_and_intensity) is not None
    env = WORLD.env("train")
    text, info = env.reset(seed=0)
    prompt = planner_prompt(TaggedPrompts(), text)
    assert info["topic"] in prompt
    assert info["mean_field"] in prompt
    assert "12 of 12, 1 of 3" in prompt


def test_lanes_are_answered_together_as_they_are_alone():
    env = WORLD.env("train")
    texts = [env.twin().reset(seed=s)[0] for s in range(3)]
    planner = LanguageModelPlanner(lively_backbone(), sampling=Sampling(max_new_tokens=6))
    planner.reset([5, 6, 7])
    together = planner.act(texts)
    planner.reset([6])
    assert planner.act(texts[1:2]) == together[1:2]
    assert len(set(together)) > 1


def test_demonstrations_are_answers_that_can_be_read_and_paid():
    pairs = demonstrations(WORLD, 60, seed=3)
    assert pairs == demonstrations(WORLD, 60, seed=3) != demonstrations(WORLD, 60, seed=4)
    shown = [parse_intervention(answer) for _, answer in pairs]
    assert all(u is not None for u in shown)
    assert {intervention_text(u) for u in shown} == {answer for _, answer in pairs}
    assert 0 < sum(u.kind is not None for u in shown) < len(shown)


def test_a_group_shares_its_start_and_its_reward_is_the_environments_return():
    backbone, env = lively_backbone(), WORLD.env("train")
    ids = env.scenarios.ids
    groups = [Start(ids[0], 11, 1), Start(ids[3], 12, 0), Start(ids[0], 13, 2)]
    asked = [s for s in groups for _ in range(3)]
    found = decide(backbone, env, asked)
    assert [found.prompts[i] for i in (0, 3, 6)] == [found.prompts[i] for i in (2, 5, 8)]
    assert len({tuple(p) for p in found.prompts}) == 3
    assert len({tuple(c) for c in found.completions}) > 3  # answers differ within groups
    # The same episodes, one by one in environments of their own, by the rules of play alone.
    planner = LanguageModelPlanner(backbone)
    for i, (s, answer) in enumerate(zip(asked, found.answers, strict=True)):
        twin = env.twin()
        text, _ = twin.reset(seed=s.seed, options={"event_id": s.scenario})
        total, over, step = 0.0, False, 0
        while not over:
            key = NoiseKey(s.seed, PLANNER, step)
            said = answer if step == s.step else planner.write([text], [key])[0].text
            if step == s.step:
                prompt = backbone.prompt_ids(planner_prompt(backbone.prompts, text))
                assert prompt == found.prompts[i]
            text, reward, _, over, info = twin.step(said)
            assert info["unreadable"] == (parse_intervention(said) is None)
            if step == s.step:
                assert found.unreadable[i] == info["unreadable"]
                assert not info["unreadable"] or info["cost"] == 0.0
            total, step = total + reward, step + 1
        assert found.returns[i] == pytest.approx(total)


def test_starts_name_seeds_and_scenarios():
    env = WORLD.env("train")
    rows = starts(env, 100, seed=1)
    assert rows.column_names == ["prompt", "scenario", "seed", "step"]
    assert set(rows["scenario"]) <= set(env.scenarios.ids)
    assert len(set(rows["scenario"])) > 80  # hardly any of 560 twice
    assert set(rows["step"]) == {0, 1, 2}
    assert len(set(rows["seed"])) == 100
    assert rows.to_list() == starts(env, 100, seed=1).to_list()


def test_trl_can_take_the_environment_as_a_tool():
    env = WORLD.env("train")
    row = conversations(starts(env, 3, seed=1))[0]
    assert row["prompt"][0]["role"] == "user"
    one, other = (environment_factory(env)() for _ in range(2))
    assert one.reset(**row) == other.reset(**row)
    schema = get_json_schema(one.intervene)["function"]
    assert list(schema["parameters"]["properties"]) == ["answer"]
    seen = [one.intervene(a) for a in ("fact_check/low", "what?", "none", "none")]
    assert seen[-1] == "The episode is over."
    twin = env.twin()
    twin.reset(seed=row["seed"], options={"event_id": row["scenario"]})
    rewards = [twin.step(a)[1] for a in ("fact_check/low", "what?", "none")]
    assert one.get_reward() == pytest.approx(sum(rewards))
    assert other.get_reward() != one.get_reward()  # nothing was done in that one


def test_grpo_moves_the_weights_from_the_supervised_start(weights, trained):
    out, first, last = trained
    before, after = (load_file(f / "model.safetensors") for f in (first, last))
    assert before.keys() == after.keys()
    assert any((before[k] != after[k]).any() for k in before)
    curves = json.loads((last / "curves.json").read_text())
    assert curves[-1]["step"] == SETTINGS.steps
    assert not list(last.glob("*.bin")) + list(last.glob("*.pt"))
    again = planner_backbone(HuggingFaceBackbone.load(weights, name="tiny"), last)
    assert isinstance(again.prompts, TaggedPrompts)
    assert (out / "sft" / "planner").samefile(first)


def test_killed_and_repeated_it_gives_the_same_weights(weights, trained, tmp_path):
    out, root = tmp_path / "out", Path(__file__).parent.parent
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(weights), str(out)],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 280
    while not (out / "checkpoints" / "checkpoint-1" / "trainer_state.json").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    backbone = HuggingFaceBackbone.load(weights, name="tiny")
    _, last = train(backbone, WORLD, SETTINGS, out)
    same, other = (load_file(f / "model.safetensors") for f in (last, trained[2]))
    for key in same:
        np.testing.assert_array_equal(same[key], other[key])


def test_the_command_says_what_is_wrong(tmp_path, capsys):
    for wrong in (["--learning-rate", "0"], ["--beta", "-1"], ["--backbone", "weather"]):
        command = ["train", "planner-text", "--backbone", "embedded-en-xs", "--out", str(tmp_path)]
        assert main([*command, *wrong]) == 2
        assert capsys.readouterr().err.count("\n") == 1
