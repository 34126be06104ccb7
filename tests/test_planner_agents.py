"""Agents written by others, with nothing but the environment's id."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import gymnasium
import pytest
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.env_checker import check_env

ROOT = Path(__file__).parent.parent
IDS = ("MFLLM-Society-v0", "MFLLM-Surrogate-v0")
CLEANRL = os.environ.get("CLEANRL")


def registered(id_):
    import mfenv  # noqa: F401

    return pytest.param(
        id_,
        marks=pytest.mark.skipif(id_ not in gymnasium.registry, reason=f"{id_} is not registered"),
    )


def ran(words, folder):
    done = subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.parametrize("id_", [registered(i) for i in IDS])
@pytest.mark.parametrize("agent", [PPO, DQN])
def test_stable_baselines3_by_id(id_, agent):
    size = {"n_steps": 32} if agent is PPO else {"learning_starts": 16}
    model = agent("MlpPolicy", f"mfenv:{id_}", seed=0, **size).learn(48)
    assert model.num_timesteps >= 48


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("id_", [registered(i) for i in IDS])
def test_stable_baselines3_has_nothing_to_say_of_it(id_):
    check_env(gymnasium.make(f"mfenv:{id_}").unwrapped)


@pytest.mark.slow
def test_rl_zoo3_with_our_hyperparameters(tmp_path):
    config = ROOT / "training" / "configs" / "planner-ppo.yaml"
    words = ["-m", "rl_zoo3.train", "--algo", "ppo", "--env", IDS[0], "--gym-packages", "mfenv"]
    words += ["--conf-file", str(config), "--n-timesteps", "64", "--eval-freq", "-1"]
    small = ["-params", "n_envs:2", "batch_size:32"]
    assert "Saving to" in ran([*words, *small, "-f", str(tmp_path)], tmp_path)
    assert list(tmp_path.glob("ppo/MFLLM-Society-v0_1/MFLLM-Society-v0.zip"))


@pytest.mark.skipif(CLEANRL is None, reason="set CLEANRL to a folder with CleanRL's ppo.py, dqn.py")
@pytest.mark.parametrize("name", ["ppo.py", "dqn.py"])
def test_cleanrl(name, tmp_path):
    words = [str(Path(str(CLEANRL)) / name), "--env-id", f"mfenv:{IDS[0]}"]
    ran([*words, "--total-timesteps", "2048", *["--num-envs", "1"]], tmp_path)
    assert list(tmp_path.glob("runs/*/events.out.tfevents.*"))
