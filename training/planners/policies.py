"""SB3's algorithms with our observations: models to train, and what of them acts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray
from sb3_contrib import MaskablePPO, RecurrentPPO
from sb3_contrib.common.recurrent.type_aliases import RNNStates
from stable_baselines3 import PPO
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecEnv

__all__ = ["Standardised", "actor_weights", "forget", "make_model", "observed_moments"]

_CLASSES: Mapping[str, Any] = {
    "ppo": (PPO, "MlpPolicy"),
    "maskable-ppo": (MaskablePPO, "MlpPolicy"),
    "recurrent-ppo": (RecurrentPPO, "MlpLstmPolicy"),
}
_ACTING = ("features_extractor.", "lstm_actor.", "mlp_extractor.policy_net.", "action_net.")
_LEAST_DEVIATION = 0.05  # what hardly varies is not blown up
_LINEAR = "lin_"

Floats = NDArray[np.float32]


class Standardised(BaseFeaturesExtractor):  # type: ignore[misc]
    """Observations minus their mean over their standard deviation, both fixed before training.

    Fixed moments are part of the policy's weights, and a resumed run needs no running ones.
    """

    def __init__(self, observation_space: gymnasium.spaces.Box, mean: Floats, scale: Floats):
        super().__init__(observation_space, features_dim=int(np.prod(observation_space.shape)))
        self.register_buffer("mean", torch.from_numpy(mean.copy()))
        self.register_buffer("scale", torch.from_numpy(scale.copy()))

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        """Standardise ``(K, n)``."""
        standard: torch.Tensor = (observations - self.mean) * self.scale
        return standard


def observed_moments(env: VecEnv, steps: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Mean and 1 / standard deviation of each observed number under random actions."""
    env.seed(int(rng.integers(2**31)))
    seen = [env.reset()]
    for _ in range(steps - 1):
        masks = np.stack(env.env_method("action_masks"))
        chances = rng.random(masks.shape) * masks
        seen.append(env.step(chances.argmax(axis=1))[0])
    values = np.concatenate(seen).astype(np.float64)
    deviation = values.std(axis=0)
    scale = np.where(deviation > 0, 1.0 / np.maximum(deviation, _LEAST_DEVIATION), 1.0)
    return values.mean(axis=0).astype(np.float32), scale.astype(np.float32)


def make_model(
    algo: str,
    env: Any,
    hyperparameters: Mapping[str, Any],
    *,
    moments: tuple[Floats, Floats],
    seed: int,
) -> Any:
    """SB3's model of an algorithm, on the CPU: the networks are too small for anything else."""
    cls, policy = _CLASSES[algo]
    arguments = {name: _schedule(value) for name, value in hyperparameters.items()}
    network = {
        **arguments.pop("policy_kwargs", {}),
        "features_extractor_class": Standardised,
        "features_extractor_kwargs": {"mean": moments[0], "scale": moments[1]},
    }
    return cls(policy, env, policy_kwargs=network, seed=seed, device="cpu", **arguments)


def actor_weights(model: Any) -> dict[str, Floats]:
    """Copies of the tensors that choose actions, under SB3's names."""
    state = model.policy.state_dict()
    return {k: v.numpy().copy() for k, v in state.items() if k.startswith(_ACTING)}


def forget(model: Any) -> None:
    """Begin with empty memories, where there are any."""
    states = getattr(model, "_last_lstm_states", None)
    if states is not None:
        pi, vf = (tuple(torch.zeros_like(x) for x in part) for part in (states.pi, states.vf))
        model._last_lstm_states = RNNStates(pi, vf)


def _schedule(value: Any) -> Any:
    if isinstance(value, str) and value.startswith(_LINEAR):
        return LinearSchedule(float(value.removeprefix(_LINEAR)), 0.0, 1.0)
    return value
