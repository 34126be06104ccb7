"""A Gymnasium vector environment as Stable-Baselines3 expects one.

Gymnasium's vector environments spend a step on starting the next episode (``NEXT_STEP``): its
action counts for nothing and its reward is 0. SB3 starts the next episode within the step that
ended the last one, and gives the last observation in ``info["terminal_observation"]``. Here the
lanes whose episode is over are reset at once through Gymnasium's ``reset_mask``, so that the empty
step never happens and no learner sees it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from gymnasium.spaces import Discrete
from gymnasium.vector import AutoresetMode, VectorEnv
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv

from agents.planners import affordable
from mfenv.errors import MfenvError
from mfenv.interventions import N_ACTIONS

__all__ = ["GymnasiumVecEnv"]

_MODES = (AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED)

Indices = None | int | Iterable[int]


class GymnasiumVecEnv(VecEnv):  # type: ignore[misc]
    """SB3's ``VecEnv`` over a Gymnasium ``VectorEnv``.

    The same observations, rewards and episodes as SB3's ``DummyVecEnv`` over as many single
    environments. With ``bootstrap=False`` a truncation is reported as the end: the planner's
    objective is the harm within the horizon and the time is observed, so nothing is missing after
    it, while SB3 would add its own guess of a value there.
    """

    def __init__(self, env: VectorEnv[Any, Any, Any], *, bootstrap: bool = True) -> None:
        """Raises ``MfenvError`` where the environment resets itself within a step."""
        mode = env.metadata.get("autoreset_mode")
        if mode not in _MODES:
            raise MfenvError(
                f"autoreset mode {mode} is not allowed; allowed: "
                f"{', '.join(m.name for m in _MODES)}"
            )
        self.env, self.bootstrap = env, bootstrap
        self._actions: NDArray[Any] = np.zeros(0)
        self._budget = np.zeros(env.num_envs)
        super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)

    def reset(self) -> NDArray[Any]:
        """Start an episode in every lane, with the seeds given to ``seed`` if there are any."""
        seeds = None if all(s is None for s in self._seeds) else self._seeds
        options = self._options[0] if any(self._options) else None
        observations, infos = self.env.reset(seed=seeds, options=options)
        self._reset_seeds()
        self._reset_options()
        self.reset_infos = self._by_lane(infos)
        self._note_budget(self.reset_infos)
        return np.array(observations)

    def step_async(self, actions: NDArray[Any]) -> None:
        """Keep the actions for ``step_wait``."""
        self._actions = actions

    def step_wait(
        self,
    ) -> tuple[NDArray[Any], NDArray[np.float32], NDArray[np.bool_], list[dict[str, Any]]]:
        """Step every lane; where an episode ends the next one has begun."""
        observations, rewards, terminations, truncations, infos = self.env.step(self._actions)
        dones = np.asarray(terminations | truncations)
        observations = np.array(observations)
        lanes = self._by_lane(infos)
        cut = truncations & ~terminations & self.bootstrap
        for lane, flag in zip(lanes, cut.tolist(), strict=True):
            lane["TimeLimit.truncated"] = flag
        self._note_budget(lanes)
        if dones.any():
            for i in np.flatnonzero(dones).tolist():
                lanes[i]["terminal_observation"] = observations[i].copy()
            started, begun = self.env.reset(options={"reset_mask": dones})
            observations[dones] = np.asarray(started)[dones]
            fresh = self._by_lane(begun)
            for i in np.flatnonzero(dones).tolist():
                self.reset_infos[i] = fresh[i]
            self._note_budget(fresh)
        return observations, np.asarray(rewards, dtype=np.float32), dones, lanes

    def action_masks(self) -> NDArray[np.bool_]:
        """What each lane's budget can still pay, ``(num_envs, 19)``.

        As the environment says, or by ``budget_left`` where it says nothing.
        """
        if hasattr(self.env, "action_masks"):
            return np.asarray(self.env.action_masks(), dtype=np.bool_)
        if not isinstance(self.action_space, Discrete) or self.action_space.n != N_ACTIONS:
            raise MfenvError(
                f"action masks need actions of the form Discrete({N_ACTIONS}), not "
                f"{self.action_space}"
            )
        return affordable(self._budget)

    def close(self) -> None:
        """Close the environment."""
        self.env.close()

    def get_attr(self, attr_name: str, indices: Indices = None) -> list[Any]:
        """An attribute of the environment, the same for each lane."""
        owner = self if attr_name == "action_masks" else self.env
        return [getattr(owner, attr_name)] * len(self._lanes(indices))

    def set_attr(self, attr_name: str, value: Any, indices: Indices = None) -> None:
        """Set an attribute of the environment, which all lanes share."""
        if len(self._lanes(indices)) != self.num_envs:
            raise MfenvError(f"{attr_name} belongs to all lanes at once; leave out indices=")
        setattr(self.env, attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: Indices = None, **method_kwargs: Any
    ) -> list[Any]:
        """``action_masks``, or a method of the environment that gives one result for each lane."""
        owner = self if method_name == "action_masks" else self.env
        results = getattr(owner, method_name)(*method_args, **method_kwargs)
        return [results[i] for i in self._lanes(indices)]

    def env_is_wrapped(self, wrapper_class: type[Any], indices: Indices = None) -> list[bool]:
        """Lanes have no wrappers of their own."""
        return [False] * len(self._lanes(indices))

    def get_images(self) -> Sequence[NDArray[np.uint8] | None]:
        """The vector environments show no pictures."""
        return [None] * self.num_envs

    # -- inside ----------------------------------------------------------------------------

    def _lanes(self, indices: Indices) -> list[int]:
        return [int(i) for i in self._get_indices(indices)]

    def _note_budget(self, lanes: Sequence[dict[str, Any]]) -> None:
        for i, lane in enumerate(lanes):
            if "budget_left" in lane:
                self._budget[i] = lane["budget_left"]

    def _by_lane(self, infos: dict[str, Any]) -> list[dict[str, Any]]:
        """Gymnasium's infos (an array and a mask for each name) as one dictionary a lane."""
        lanes: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        for name, values in infos.items():
            mask = infos.get(f"_{name}")
            if mask is None or isinstance(values, dict):  # a mask itself, or a nested entry
                continue
            here = np.flatnonzero(mask).tolist()
            whole = values.tolist() if isinstance(values, np.ndarray) else values
            for i in here:
                lanes[i][name] = whole[i]
        return lanes
