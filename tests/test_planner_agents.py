"""Agents written by others, with nothing but the environment's id (SB3's: test_envs_social)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ID = "MFLLM-Society-v0"
CLEANRL = os.environ.get("CLEANRL")


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


@pytest.mark.slow
def test_rl_zoo3_with_our_hyperparameters(tmp_path):
    config = ROOT / "training" / "configs" / "planner-ppo.yaml"
    words = ["-m", "rl_zoo3.train", "--algo", "ppo", "--env", ID, "--gym-packages", "mfenv"]
    words += ["--conf-file", str(config), "--n-timesteps", "64", "--eval-freq", "-1"]
    small = ["-params", "n_envs:2", "batch_size:32"]
    assert "Saving to" in ran([*words, *small, "-f", str(tmp_path)], tmp_path)
    assert list(tmp_path.glob("ppo/MFLLM-Society-v0_1/MFLLM-Society-v0.zip"))


@pytest.mark.skipif(CLEANRL is None, reason="set CLEANRL to a folder with CleanRL's ppo.py, dqn.py")
@pytest.mark.parametrize("name", ["ppo.py", "dqn.py"])
def test_cleanrl(name, tmp_path):
    words = [str(Path(str(CLEANRL)) / name), "--env-id", f"mfenv:{ID}"]
    ran([*words, "--total-timesteps", "2048", "--num-envs", "1"], tmp_path)
    assert list(tmp_path.glob("runs/*/events.out.tfevents.*"))
