"""The native environments as SB3 sees them: no step is lost, none is made up."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest
from sb3_contrib.common.maskable.utils import get_action_masks, is_masking_supported
from stable_baselines3.common.vec_env import DummyVecEnv

from mfenv.errors import MfenvError
from training.planners.vec_env import GymnasiumVecEnv

SOCIETY = "mfenv:MFLLM-Society-v0"
EVENTS = {"event_ids": [f"synthetic-0-{i}" for i in range(4)], "horizon": 5, "budget": 4.0}
LANES, SEED = 3, 11


def dummy():
    return DummyVecEnv([lambda: gymnasium.make(SOCIETY, **EVENTS)] * LANES)


def native(**kwargs):
    return GymnasiumVecEnv(gymnasium.make_vec(SOCIETY, num_envs=LANES, **EVENTS), **kwargs)


def sync():
    envs = [lambda: gymnasium.make(SOCIETY, **EVENTS)] * LANES
    return GymnasiumVecEnv(gymnasium.vector.SyncVectorEnv(envs))


def masks_of_infos(infos):
    """What an independent reading of the budget allows."""
    from mfenv.interventions import N_ACTIONS, decode_action

    costs = np.array([decode_action(a).cost for a in range(N_ACTIONS)])
    return np.array([costs <= info["budget_left"] + 1e-6 for info in infos])


@pytest.mark.parametrize("make", [native, sync])
def test_the_same_steps_as_single_environments_under_sb3(make):
    ours, theirs = make(), dummy()
    ours.seed(SEED)
    theirs.seed(SEED)
    a, b = ours.reset(), theirs.reset()
    np.testing.assert_allclose(a, b, atol=1e-6)
    assert [i["event_id"] for i in ours.reset_infos] == [i["event_id"] for i in theirs.reset_infos]
    rng, ends = np.random.default_rng(0), 0
    for _ in range(17):
        masks = get_action_masks(ours)
        np.testing.assert_array_equal(masks, get_action_masks(theirs))
        actions = rng.integers(19, size=LANES)
        (a, r, done, info), (b, s, over, told) = ours.step(actions), theirs.step(actions)
        np.testing.assert_allclose(a, b, atol=1e-6)
        np.testing.assert_allclose(r, s, atol=1e-6)
        np.testing.assert_array_equal(done, over)
        ends += int(done.sum())
        for mine, single in zip(info, told, strict=True):
            assert mine["TimeLimit.truncated"] == single["TimeLimit.truncated"]
            assert mine["event_id"] == single["event_id"]
            assert mine["budget_left"] == pytest.approx(single["budget_left"])
            assert ("terminal_observation" in mine) == ("terminal_observation" in single)
            if "terminal_observation" in mine:
                np.testing.assert_allclose(
                    mine["terminal_observation"], single["terminal_observation"], atol=1e-6
                )
    assert ends == LANES * 3  # an episode has five steps, and none of them is a reset


def test_masks_are_what_the_budget_pays():
    env = native()
    assert is_masking_supported(env)
    env.seed(SEED)
    env.reset()
    np.testing.assert_array_equal(env.action_masks(), masks_of_infos(env.reset_infos))
    statement = 3  # costs 3 of a budget of 4
    infos = env.step(np.full(LANES, statement))[3]
    masks = env.env_method("action_masks", indices=[1])[0]
    np.testing.assert_array_equal(masks, masks_of_infos(infos)[1])
    assert not masks[statement]
    assert masks[0]
    for _ in range(4):
        env.step(np.zeros(LANES, dtype=np.int64))
    assert env.action_masks().all()  # the next episode has its budget


def test_without_bootstrap_a_truncation_is_the_end():
    env = native(bootstrap=False)
    env.reset()
    infos = [env.step(np.zeros(LANES, dtype=np.int64))[3] for _ in range(5)][-1]
    assert all("terminal_observation" in info for info in infos)
    assert not any(info["TimeLimit.truncated"] for info in infos)


def test_what_resets_itself_within_a_step_is_refused():
    envs = gymnasium.vector.SyncVectorEnv(
        [lambda: gymnasium.make("CartPole-v1")],
        autoreset_mode=gymnasium.vector.AutoresetMode.SAME_STEP,
    )
    with pytest.raises(MfenvError, match=r"allowed: NEXT_STEP, DISABLED"):
        GymnasiumVecEnv(envs)
