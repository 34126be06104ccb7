"""Demonstrations for the supervised start: answers of a planner that knows only the grammar."""

from __future__ import annotations

import numpy as np

from mfenv.interventions import N_ACTIONS, action_name
from mfenv.noise import generator
from training.grpo.settings import World

__all__ = ["ACTING", "demonstrations"]

ACTING: tuple[float, float] = (0.5, 0.1)
"""How often the demonstrator acts: where the topic is likelier false than true, and elsewhere."""

_STREAM = 61  # of the random generator


def demonstrations(world: World, size: int, seed: int) -> list[tuple[str, str]]:
    """``size`` pairs of an observation and an answer, from episodes of the train split.

    The demonstrator acts now and then where the topic is likelier false, and takes any action that
    the budget can pay: it knows what can be written and what credibility means, and nothing of
    what helps. Played in the synthetic society, whatever tier is trained in.
    """
    env = World(objective=world.objective, horizon=world.horizon).env("train")
    rng = generator(_STREAM, seed)
    pairs: list[tuple[str, str]] = []
    while len(pairs) < size:
        text, _ = env.reset(seed=int(rng.integers(2**31)))
        over = False
        while not over:
            masks = env.action_masks()
            rate = ACTING[0] if env.credibility < 0.5 else ACTING[1]
            payable = np.flatnonzero(masks[1:N_ACTIONS]) + 1
            acts = rng.random() < rate and len(payable) > 0
            answer = action_name(int(rng.choice(payable)) if acts else 0)
            pairs.append((text, answer))
            text, _, _, over, _ = env.step(answer)
    order = rng.permutation(len(pairs))[:size]
    return [pairs[i] for i in order]
