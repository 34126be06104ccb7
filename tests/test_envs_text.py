"""The Unicode text space: any script, and both ways of a vector environment."""

import gymnasium
import numpy as np
import pytest
from gymnasium.spaces import Dict, Discrete, flatten, flatten_space, unflatten
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv

from mfenv.envs.unicode_text import UnicodeText

TEXTS = ("", "谣言！", "naïve 😀", "a\x00b", "x" * 40)


class Reader(gymnasium.Env):
    """Shows the texts one after the other, a different one in each copy."""

    observation_space = Dict({"text": UnicodeText(40)})
    action_space = Discrete(2)

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.place = int(self.np_random.integers(len(TEXTS)))
        return {"text": TEXTS[self.place]}, {}

    def step(self, action):
        self.place = (self.place + 1 + int(action)) % len(TEXTS)
        return {"text": TEXTS[self.place]}, 0.0, False, False, {}


def test_contains_what_utf8_can_write():
    space = UnicodeText(4, min_length=1)
    assert "谣言😀é" in space
    assert "\x00" in space
    for wrong in ("", "abcde", "\ud800", b"ab", None, 3):
        assert wrong not in space
    assert UnicodeText(4).clip("\udc80bcdef") in UnicodeText(4)
    with pytest.raises(ValueError, match="0 <= min_length <= max_length"):
        UnicodeText(2, min_length=3)


def test_samples_are_inside_and_seeded():
    space, twin = UnicodeText(30, seed=3), UnicodeText(30, seed=3)
    drawn = [space.sample() for _ in range(200)]
    assert drawn == [twin.sample() for _ in range(200)]
    assert all(text in space for text in drawn)
    assert {len(text) for text in drawn} >= {0, 30}
    assert any(ord(c) > 0xFFFF for text in drawn for c in text)


@pytest.mark.parametrize("text", TEXTS)
def test_flattening_loses_nothing(text):
    space = UnicodeText(40)
    flat = flatten(space, text)
    assert flat in flatten_space(space)
    assert unflatten(space, flat) == text


@pytest.mark.parametrize("shared_memory", [True, False])
@pytest.mark.parametrize("context", [None, "spawn"])
def test_async_vector_env_delivers_every_text(shared_memory, context):
    sync = SyncVectorEnv([Reader] * 3)
    other = AsyncVectorEnv([Reader] * 3, shared_memory=shared_memory, context=context)
    try:
        kept = []
        for envs in (sync, other):
            seen = [envs.reset(seed=11)[0]]
            for action in range(8):
                seen.append(envs.step(np.array([action % 2, 0, 1]))[0])
            kept.append(seen)
            assert all(o in envs.observation_space for o in seen)
        assert kept[0] == kept[1]
        assert len({o["text"] for o in kept[1]}) > 3  # observations do change
    finally:
        other.close()
