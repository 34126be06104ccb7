"""Learned planners: killed and resumed, the same bytes; what is saved is what was trained."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file, save_file

from agents.planners.learned import LearnedPlanner, from_spec
from mfenv.cli import main
from mfenv.errors import MfenvError
from mfenv.interventions import N_ACTIONS
from training.planners.checkpoints import load_checkpoint
from training.planners.policies import actor_weights, make_model, observed_moments
from training.planners.redrawn import RedrawnWarmup
from training.planners.remembered import RememberedMeans
from training.planners.settings import (
    ALGORITHMS,
    PlannerSettings,
    environment_arguments,
    read_hyperparameters,
    validation_arguments,
)
from training.planners.spread import Spread, group_sizes
from training.planners.train import train
from training.planners.validation import make_lanes

ROOT = Path(__file__).parent.parent
IDS = [f"synthetic-0-{i}" for i in range(6)]
ENVIRONMENT = {"dynamics": "society", "event_ids": IDS, "horizon": 4, "budget": 6.0}
HYPERPARAMETERS = {
    "n_envs": 8,
    "n_steps": 8,
    "batch_size": 32,
    "n_epochs": 2,
    "gamma": 1.0,
    "learning_rate": "lin_0.01",
}
UPDATES = 6


def command(out, algo="maskable-ppo", config=None, updates=UPDATES, every=128, **more):
    """The arguments of a small training; a rollout has 64 steps."""
    given = {**ENVIRONMENT, **more}
    words = ["train", "planner", "--algo", algo, "--out", str(out)]
    words += ["--horizon", str(given.pop("horizon")), "--budget", str(given.pop("budget"))]
    words += ["--timesteps", str(64 * updates), "--evaluate-every", str(every), "--episodes", "12"]
    for name, value in given.items():
        words += ["--env", f"{name}={json.dumps(value)}"]
    words += ["--validate", f"event_ids={json.dumps(IDS)}", "--validate", "split=train"]
    return [*words, "--config", str(config if config.is_file() else config / f"{algo}.yaml")]


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("config")
    for algo in ALGORITHMS:
        lstm = {"lstm_hidden_size": 12} if algo == "recurrent-ppo" else {}
        small = {**HYPERPARAMETERS, "policy_kwargs": {"net_arch": [16], **lstm}}
        (folder / f"{algo}.yaml").write_text(yaml.safe_dump({"MFLLM-Society-v0": small}))
    return folder


@pytest.fixture(scope="module")
def trained(config, tmp_path_factory):
    """The folders of undisturbed trainings by algorithm."""
    folders = {}
    for algo in ALGORITHMS:
        folders[algo] = tmp_path_factory.mktemp("trained") / algo
        assert main(command(folders[algo], algo, config)) == 0
    return folders


def files(out):
    """Everything that a run leaves behind but its logs, by name."""
    kept = [p for p in sorted(out.rglob("*")) if p.is_file() and "tensorboard" not in p.parts]
    return {str(p.relative_to(out)): p.read_bytes() for p in kept}


@pytest.mark.parametrize("algo", ["ppo", "maskable-ppo"])
def test_killed_and_resumed_it_ends_as_the_undisturbed_run(algo, trained, config, tmp_path):
    out = tmp_path / "out"
    words = command(out, algo, config)
    process = subprocess.Popen(
        [sys.executable, "-m", "mfenv", *words],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert "128 steps" in process.stdout.readline()  # the first checkpoint is about to be there
    deadline = time.monotonic() + 60
    while not list(out.glob("checkpoints/0*")):
        assert time.monotonic() < deadline
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert not (out / "planner").exists()
    assert main(words) == 0
    assert files(out) == files(trained[algo])
    assert any((out / "tensorboard").iterdir())


def test_interrupted_a_recurrent_one_goes_on_the_same(trained, tmp_path):
    told = json.loads((trained["recurrent-ppo"] / "config.json").read_text())
    settings, said = PlannerSettings(**told), []

    def interrupt(text):
        said.append(text)
        if len(said) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(settings, tmp_path, say=interrupt)
    train(settings, tmp_path, say=said.append)
    assert said[2] == "going on from 128 steps"
    kept = {n: b for n, b in files(trained["recurrent-ppo"]).items() if n != "run.lock"}
    assert {n: b for n, b in files(tmp_path).items() if n != "run.lock"} == kept


@pytest.mark.parametrize("workers", [2, 3])
def test_on_workers_one_of_which_is_killed_it_ends_the_same(workers, trained, tmp_path, capsys):
    told = json.loads((trained["maskable-ppo"] / "config.json").read_text())
    killed = []

    def kill_one(_):
        if len(killed) < 2:
            killed.append(multiprocessing.active_children()[-1])
            killed[-1].kill()

    train(PlannerSettings(**told), tmp_path, say=kill_one, spread=Spread(workers=workers))
    assert capsys.readouterr().out.count("a worker died") == 2
    kept = {n: b for n, b in files(trained["maskable-ppo"]).items() if n != "run.lock"}
    assert {n: b for n, b in files(tmp_path).items() if n != "run.lock"} == kept
    assert not any(process.is_alive() for process in killed)


def test_language_models_see_the_same_batches_whatever_the_number_of_workers():
    assert group_sizes("llm", 150, 1) == group_sizes("llm", 150, 7) == [50, 50, 50]
    assert group_sizes("society", 10, 3) == [4, 3, 3]
    assert group_sizes("society", 2, 3) == [1, 1]


def test_spread_lanes_are_those_of_one_environment():
    """A part that starts anew while others go on, masks, infos; an error of the environment."""
    given = {**ENVIRONMENT, "dynamics": "surrogate"}
    alone = make_lanes(given, 5).env
    rng = np.random.default_rng(0)

    def same(a, b):
        assert all(np.array_equal(x, y) for x, y in zip(a[:-1], b[:-1], strict=True))
        for name, values in a[-1].items():
            mask = a[-1].get(f"_{name}", np.ones(5, dtype=bool))
            assert np.array_equal(values[mask], b[-1][name][mask]), name

    with Spread(workers=3).opened() as crew:
        spread = crew.lanes(given, 5)
        same(alone.reset(seed=3), spread.reset(seed=3))
        for t in range(9):
            actions = rng.integers(N_ACTIONS, size=5)
            same(alone.step(actions), spread.step(actions))
            assert np.array_equal(alone.action_masks(), spread.action_masks())
            if t == 2:
                mask = np.array([True, False, False, False, True])
                ids = [IDS[i] for i in range(5)]
                options = {"reset_mask": mask, "event_id": ids}
                same(alone.reset(options=options), spread.reset(options=options))
        with pytest.raises(MfenvError, match="unknown event"):
            spread.reset(options={"event_id": "nothing"})
        same(
            alone.reset(seed=5), spread.reset(seed=5)
        )  # no answer of before is taken for a new one
        same(alone.step(actions), spread.step(actions))


def test_another_seed_is_another_planner_and_needs_another_folder(trained, config, tmp_path):
    words = [*command(trained["ppo"], "ppo", config), "--seed", "1"]
    assert main(words) == 2
    words[words.index("--out") + 1] = str(tmp_path / "out")
    assert main(words) == 0
    a, b = (p / "planner" / "planner.safetensors" for p in (trained["ppo"], tmp_path / "out"))
    assert a.read_bytes() != b.read_bytes()


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_the_saved_planner_chooses_as_sb3_does(algo, trained, config):
    """NumPy's forward pass against the policy that was trained, over a whole episode."""
    lanes = make_lanes(ENVIRONMENT, 8)
    env = RememberedMeans(lanes)  # what SB3 sees; the planner remembers by itself
    given = read_hyperparameters(algo, "society", config / f"{algo}.yaml").sb3
    moments = (np.zeros(86, np.float32), np.ones(86, np.float32))
    model = make_model(algo, env, given, moments=moments, seed=5)
    load_checkpoint(trained[algo] / "checkpoints", model)
    masked = algo == "maskable-ppo"
    planner = LearnedPlanner(actor_weights(model), masked=masked)
    env.seed(3)
    observation, state = env.reset(), None
    planner.reset(np.arange(8))
    start = np.ones(8, dtype=bool)
    for _ in range(ENVIRONMENT["horizon"]):
        masks = lanes.action_masks()
        if masked:
            chosen, _ = model.predict(observation, action_masks=masks, deterministic=True)
        else:
            chosen, state = model.predict(observation, state, start, deterministic=True)
        start = np.zeros(8, dtype=bool)
        acted = planner.act(observation[:, :63], masks)
        np.testing.assert_array_equal(acted, np.where(masks[np.arange(8), chosen], chosen, 0))
        observation = env.step(acted)[0]


def test_it_learns_to_do_what_pays(tmp_path, config):
    """False topics of which the truth is shown: doing something is better than nothing."""
    hyper = yaml.safe_load((config / "maskable-ppo.yaml").read_text())
    hyper["MFLLM-Society-v0"] |= {"n_epochs": 8, "gae_lambda": 1.0}
    path = tmp_path / "more.yaml"
    path.write_text(yaml.safe_dump(hyper))
    words = command(tmp_path / "out", config=path, updates=40, every=1280, credibility_noise=0.0)
    assert main(words) == 0
    progress = next((tmp_path / "out" / "checkpoints").glob("*/progress.json"))
    evaluations = json.loads(progress.read_text())["evaluations"]
    assert evaluations[-1]["gain"] > 0.15
    assert evaluations[-1]["harm_low"] > 0
    card = (tmp_path / "out" / "planner" / "README.md").read_text()
    best = max(e["gain"] for e in evaluations)
    assert f"{best:.3f}" in card
    assert "credibility_noise=0.0" in card


def test_a_planner_never_chooses_what_is_masked(trained):
    rng = np.random.default_rng(0)
    observations = rng.random((200, 63), dtype=np.float32)
    masks = rng.random((200, N_ACTIONS)) < 0.3
    masks[:, 0] = True
    for algo, out in trained.items():
        for deterministic in (True, False):
            planner = LearnedPlanner.load(out / "planner", deterministic=deterministic)
            planner.reset(np.arange(200))
            actions = planner.act(observations, masks)
            assert masks[np.arange(200), actions].all(), algo


def test_a_lane_forgets_where_its_episode_begins(trained):
    planner = LearnedPlanner.load(trained["recurrent-ppo"] / "planner")
    planner.reset(np.arange(2))
    x = np.random.default_rng(1).random((3, 2, 63), dtype=np.float32)
    masks = np.ones((2, N_ACTIONS), dtype=bool)
    x[0, :, 54] = 0.0
    for observation in x[:2]:
        planner.act(observation, masks)
    again = x[2].copy()
    again[0, 54] = 0.0  # the first lane's next episode
    planner.act(again, masks)
    fresh = LearnedPlanner.load(trained["recurrent-ppo"] / "planner")
    fresh.reset(np.arange(2))
    fresh.act(again, masks)
    np.testing.assert_allclose(planner.logits(x[2])[0], fresh.logits(x[2])[0], atol=1e-6)
    assert abs(planner.logits(x[2])[1] - fresh.logits(x[2])[1]).max() > 1e-6


def test_means_are_of_what_an_episode_has_shown():
    env, alone = RememberedMeans(make_lanes(ENVIRONMENT, 3)), make_lanes(ENVIRONMENT, 3)
    for e in (env, alone):
        e.seed(4)
    seen, wide = [alone.reset()[:, :23]], env.reset()
    assert env.observation_space.shape == wide.shape[1:] == (86,)
    for _ in range(2 * ENVIRONMENT["horizon"]):
        np.testing.assert_allclose(wide[:, 63:], np.mean(seen, axis=0), atol=1e-6)
        actions = np.array([0, 3, 5])
        wide, _, _, infos = env.step(actions)
        plain, _, dones, _ = alone.step(actions)
        np.testing.assert_array_equal(wide[:, :63], plain)
        seen.append(plain[:, :23])
        if dones.all():
            assert infos[0]["terminal_observation"].shape == (86,)
            seen = seen[-1:]


def test_the_first_observation_is_redrawn_and_the_rest_is_not():
    plain, env = make_lanes(ENVIRONMENT, 64), RedrawnWarmup(make_lanes(ENVIRONMENT, 64), 16)
    for e in (plain, env):
        e.seed(2)
    a, b = plain.reset(), env.reset()
    np.testing.assert_array_equal(a[:, 46:], b[:, 46:])
    assert (a[:, :46] != b[:, :46]).any(axis=1).all()
    common = a[:, :23] - a[:, 23:46] / 2
    assert abs((b[:, :23] - common).mean(axis=0)).max() < 0.06  # unbiased, 64 lanes of 16 people
    counts = b[:, :23] * 16
    np.testing.assert_allclose(counts, counts.round(), atol=1e-4)
    nothing = np.zeros(64, dtype=np.int64)
    for step in range(6):
        before = b
        a, b = plain.step(nothing)[0], env.step(nothing)[0]
        if step == ENVIRONMENT["horizon"] - 1:  # a new episode
            assert (a[:, :46] != b[:, :46]).any(axis=1).all()
        else:
            np.testing.assert_array_equal(a[:, :23], b[:, :23])
            np.testing.assert_allclose(b[:, 23:46], b[:, :23] - before[:, :23], atol=1e-6)


def test_moments_are_those_of_what_is_observed():
    env = make_lanes(ENVIRONMENT, 16)
    mean, scale = observed_moments(env, 8, np.random.default_rng(0))
    again = observed_moments(make_lanes(ENVIRONMENT, 16), 8, np.random.default_rng(0))
    np.testing.assert_array_equal(mean, again[0])
    assert mean[55] < 1  # random actions spend
    assert scale[53] == 1  # nobody has an unknown domain
    assert scale.max() <= 20
    assert ((mean[:23] >= 0) & (mean[:23] <= 1)).all()
    np.testing.assert_array_equal(scale, again[1])


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_shipped_hyperparameters_are_accepted_by_sb3(algo):
    read = read_hyperparameters(algo, "surrogate")
    env = make_lanes(ENVIRONMENT, read.num_envs)
    moments = (np.zeros(63, np.float32), np.ones(63, np.float32))
    model = make_model(algo, env, read.sb3, moments=moments, seed=0)
    assert model.gamma == 1.0
    assert read.num_envs * model.n_steps % model.batch_size == 0
    assert model.n_steps % 16 == 0


def test_mistakes_are_told(trained, config, tmp_path, capsys):
    def complaint(*words):
        assert main(["train", "planner", "--out", str(tmp_path / "x"), *words]) == 2
        return capsys.readouterr().err

    assert "no argument 'budgt'" in complaint("--env", "budgt=3")
    assert "allowed: NAME=VALUE" in complaint("--env", "budget")
    assert "such as 1e6" in complaint("--timesteps", "1.5")
    for text, told in {
        "default: {n_steps: -3}": "n_steps: -3 is not allowed",
        "default: {clip_range: often}": "clip_range: 'often' is not allowed",
        "default: {nsteps: 3}": "'nsteps' is no setting; allowed: n_envs",
        "default: {policy_kwargs: 'dict(net_arch=[8])'}": "policy_kwargs: allowed: a mapping",
        "Other-v0: {n_steps: 3}": "no hyper-parameters under 'MFLLM-Society-v0' or 'default'",
        "default: {policy: CnnPolicy}": "policy: 'CnnPolicy' is not allowed",
        "- [": "not YAML",
    }.items():
        path = tmp_path / "bad.yaml"
        path.write_text(text)
        assert told in complaint("--config", str(path))
    with pytest.raises(MfenvError, match="did you mean"):
        from_spec(str(trained["ppo"]))
    with pytest.raises(MfenvError, match="make one: mfenv train planner"):
        from_spec(str(tmp_path))


def test_weights_of_another_shape_are_refused(trained, tmp_path):
    weights = load_file(trained["ppo"] / "planner" / "planner.safetensors")
    (tmp_path / "planner.json").write_bytes(
        (trained["ppo"] / "planner" / "planner.json").read_bytes()
    )
    for name, change, told in (
        ("action_net.bias", lambda a: a[:5], "a tensor of shape"),
        ("features_extractor.mean", lambda a: a[:5], "where .63,. is needed"),
        ("action_net.weight", None, "action_net.weight is missing"),
    ):
        other = {k: v for k, v in weights.items() if k != name}
        if change is not None:
            other[name] = np.ascontiguousarray(change(weights[name]))
        save_file(other, tmp_path / "planner.safetensors")
        with pytest.raises(MfenvError, match=told):
            LearnedPlanner.load(tmp_path)


def test_the_validation_has_other_events():
    found = environment_arguments({"event_ids": IDS, "budget": 3})
    assert validation_arguments(found) == {
        "dynamics": "society",
        "budget": 3,
        "split": "validation",
    }
    assert validation_arguments(found, {"split": "test", "budget": 4})["budget"] == 4
