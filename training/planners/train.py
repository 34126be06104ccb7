"""Train a planner with SB3, so that a kill costs time and nothing else.

Every rollout begins with new episodes in all lanes. Their seeds, and those of the generators that
SB3 samples actions and minibatches from, are drawn from (seed, number of the rollout). A rollout
is thus a pure function of the weights, the seed and its number: what a checkpoint between two
rollouts holds is enough to go on to the same bytes. Rollouts are whole episodes, so nothing is cut
by this.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import configure
from stable_baselines3.common.utils import set_random_seed
from stable_baselines3.common.vec_env import VecMonitor

from agents.planners.learned import LearnedPlanner, write_folder
from mfenv.errors import MfenvError
from mfenv.noise import generator
from training.folders import check_settings, in_one_move
from training.planners.card import write_card
from training.planners.checkpoints import Progress, load_checkpoint, save_checkpoint
from training.planners.policies import actor_weights, forget, make_model, observed_moments
from training.planners.redrawn import RedrawnWarmup
from training.planners.remembered import RememberedMeans
from training.planners.settings import PlannerSettings
from training.planners.spread import HERE, Spread
from training.planners.validation import Uplift, Validation, make_lanes
from training.planners.vec_env import GymnasiumVecEnv

__all__ = ["RESULT", "train"]

RESULT = "planner"
"""The folder of the result inside ``--out``, which ``sb3:DIR`` takes."""

_ROLLOUT_STREAM, _MOMENTS_STREAM = 7433, 7434
_DEFAULT_HORIZON, _DEFAULT_BATCH = 16, 16  # the environments'
_MOMENT_STEPS = 64


def train(
    settings: PlannerSettings,
    out: Path,
    *,
    say: Callable[[str], None] = lambda _: None,
    spread: Spread = HERE,
) -> Path:
    """Train, or go on from the last checkpoint in ``out``; returns the folder of the planner.

    ``spread`` says where rollouts are played, which changes nothing but the time. Raises
    ``MfenvError`` if ``out`` holds a run of other settings.
    """
    with spread.opened() as crew:
        lanes = make_lanes(settings.environment, settings.num_envs, bootstrap=False, crew=crew)
        validation = Validation(settings.validation, settings.episodes, crew)
        check_settings(out, asdict(settings))
        folder = out / RESULT
        if not folder.exists():
            _train(settings, out, lanes, validation, say)
        return folder


def _train(
    settings: PlannerSettings,
    out: Path,
    lanes: GymnasiumVecEnv,
    validation: Validation,
    say: Callable[[str], None],
) -> None:
    torch.set_num_threads(1)  # the fastest for networks of this size, and the same sums anywhere
    rng = generator(_MOMENTS_STREAM, settings.seed)
    shown = RememberedMeans(lanes) if settings.running_means else lanes
    moments = observed_moments(shown, _MOMENT_STEPS, rng)
    horizon = int(settings.environment.get("horizon", _DEFAULT_HORIZON))
    given = settings.hyperparameters
    steps = math.ceil(given.get("n_steps", 2 * horizon) / horizon) * horizon
    env = RedrawnWarmup(lanes, int(settings.environment.get("batch", _DEFAULT_BATCH)))
    if settings.running_means:
        env = RememberedMeans(env)
    model = make_model(
        settings.algo,
        VecMonitor(env),
        {**given, "n_steps": steps},
        moments=moments,
        seed=settings.seed,
    )
    progress = load_checkpoint(out / "checkpoints", model) or Progress()
    if progress.updates:
        say(f"going on from {progress.timesteps:,} steps")
    model.set_logger(configure(str(out / "tensorboard"), ["tensorboard"]))
    rollout = steps * settings.num_envs
    run = _Run(settings, out, progress, validation, say, max(1, settings.evaluate_every // rollout))
    left = settings.timesteps - progress.timesteps
    if left > 0:
        model.learn(left, callback=run, reset_num_timesteps=progress.updates == 0)
    run.conclude(model)
    best = max(progress.evaluations, key=lambda e: float(e["gain"]))
    with in_one_move(out / RESULT) as part:
        masked = settings.algo == "maskable-ppo"
        write_folder(part, progress.best, masked=masked, training=asdict(settings))
        write_card(part, settings, best, progress.evaluations[-1])


class _Run(BaseCallback):  # type: ignore[misc]
    """Begins each rollout from its number; evaluates and saves between rollouts."""

    def __init__(
        self,
        settings: PlannerSettings,
        out: Path,
        progress: Progress,
        validation: Validation,
        say: Callable[[str], None],
        every: int,
    ) -> None:
        super().__init__()
        self._settings, self._out, self._progress = settings, out, progress
        self._validation, self._say, self._every = validation, say, every
        self._saved = progress.updates
        self._begun = progress.updates

    def _on_rollout_start(self) -> None:
        done = self._begun
        if done % self._every == 0 and done > self._saved:
            self._keep(self.model)
        rng = generator(_ROLLOUT_STREAM, self._settings.seed, done)
        set_random_seed(int(rng.integers(2**31)))
        env = self.model.get_env()
        env.seed(int(rng.integers(2**31)))
        self.model._last_obs = env.reset()
        self.model._last_episode_starts = np.ones(env.num_envs, dtype=bool)
        forget(self.model)
        self._begun += 1

    def _on_step(self) -> bool:
        return True

    def conclude(self, model: Any) -> None:
        """Evaluate and save what the last rollout taught."""
        if self._begun > self._saved:
            self._keep(model)

    def _keep(self, model: Any) -> None:
        progress, weights = self._progress, actor_weights(model)
        progress.updates, progress.timesteps = self._begun, int(model.num_timesteps)
        progress.optimiser_epochs = int(model._n_updates)
        masked = self._settings.algo == "maskable-ppo"
        found = self._validation.measure(LearnedPlanner(weights, masked=masked))
        best = max((float(e["gain"]) for e in progress.evaluations), default=-math.inf)
        if not math.isfinite(found.gain):
            raise MfenvError(
                f"{self._out}: the policy's weights are no longer finite; use a smaller "
                "learning_rate or max_grad_norm"
            )
        if found.gain > best:
            progress.best = weights
        progress.evaluations.append({"timesteps": progress.timesteps, **asdict(found)})
        self._log(found, model)
        save_checkpoint(self._out / "checkpoints", model, progress)
        self._saved = progress.updates

    def _log(self, found: Uplift, model: Any) -> None:
        for name in ("gain", "harm", "spent"):
            model.logger.record(f"validation/{name}", getattr(found, name))
        model.logger.dump(self._progress.timesteps)
        self._say(
            f"{self._progress.timesteps:>12,} steps: harm {found.harm_without:.3f} → "
            f"{found.harm_without - found.harm:.3f} (less by {found.harm:.3f}, 95% "
            f"{found.harm_low:.3f} to {found.harm_high:.3f}), spent {found.spent:.1f}, "
            f"gain {found.gain:.3f}"
        )
