"""Episodes that a language model plans, many of them in lockstep, and groups of decisions.

A sample of GRPO here is **one decision**: the planner reads what it would read in play and writes
one intervention. A group shares its start, a (seed, scenario), and the step of the decision; the
planner itself plays up to that step, so that it learns from situations that it gets into. There the
episode is forked: each answer of the group is carried out, the planner goes on to the end with the
same noise in every fork, and the reward is the return of the whole episode. As everything before
the decision is shared and everything after it sees common random numbers, the differences within
a group are what the answers did.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agents.backbones.hugging_face import HuggingFaceBackbone
from agents.backbones.sampling import Sampling
from agents.planners.language_model import (
    PLANNER,
    LanguageModelPlanner,
    answer_tokens,
    planner_prompt,
)
from mfenv.envs.social_text import SocialTextEnv, step_together
from mfenv.noise import NoiseKey

__all__ = ["Decisions", "Lane", "Start", "decide", "play", "start"]

_CANDIDATE = -1_000  # agents of the noise keys of a group's answers, downwards


@dataclass(frozen=True, slots=True)
class Start:
    """What a group shares: the scenario, the seed of the episode, and the step it decides at."""

    scenario: str
    seed: int
    step: int


@dataclass(slots=True)
class Lane:
    """An episode on its way."""

    env: SocialTextEnv
    seed: int
    text: str
    step: int = 0
    total: float = 0.0
    """Sum of the rewards so far."""
    unreadable: int = 0
    over: bool = False

    def fork(self) -> Lane:
        """The same episode with the same noise ahead."""
        return Lane(
            self.env.fork(), self.seed, self.text, self.step, self.total, self.unreadable, self.over
        )


@dataclass(frozen=True, slots=True)
class Decisions:
    """``N`` answers and what came of them."""

    prompts: list[list[int]]  # token ids
    completions: list[list[int]]  # token ids, the end included
    answers: list[str]
    returns: NDArray[np.float64]  # (N,) of the whole episode
    unreadable: NDArray[np.bool_]  # (N,) whether the answer could not be read


def start(env: SocialTextEnv, scenario: str, seed: int) -> Lane:
    """Begin the episode of a scenario and a seed in an environment."""
    text, _ = env.reset(seed=seed, options={"event_id": scenario})
    return Lane(env, seed, text)


def play(
    planner: LanguageModelPlanner, lanes: Sequence[Lane], until: Sequence[int] | None = None
) -> None:
    """Let a planner play lanes on, in lockstep, each until its step (default: to the end)."""
    while True:
        active = [
            lane
            for i, lane in enumerate(lanes)
            if not lane.over and (until is None or lane.step < until[i])
        ]
        if not active:
            return
        keys = [NoiseKey(lane.seed, PLANNER, lane.step) for lane in active]
        answers = planner.write([lane.text for lane in active], keys)
        _carry_out(active, [a.text for a in answers])


def decide(
    backbone: HuggingFaceBackbone,
    env: SocialTextEnv,
    starts: Sequence[Start],
    *,
    temperature: float = 1.0,
) -> Decisions:
    """One answer for each of ``N`` starts, equal ones being a group, and the returns.

    ``env`` is a template: each start is played in an environment of its own over the same
    scenarios. Answers and the rest are sampled at ``temperature``.
    """
    sampling = Sampling(temperature, max_new_tokens=answer_tokens(backbone.prompts))
    planner = LanguageModelPlanner(backbone, sampling=sampling)
    unique = list(dict.fromkeys(starts))
    trunks = {s: start(env.twin(), s.scenario, s.seed) for s in unique}
    play(planner, list(trunks.values()), [s.step for s in unique])
    prompts = {
        s: backbone.prompt_ids(planner_prompt(backbone.prompts, trunks[s].text)) for s in unique
    }
    seen: dict[Start, int] = {}
    keys = []
    for s in starts:
        seen[s] = seen.get(s, -1) + 1
        keys.append(NoiseKey(s.seed, _CANDIDATE - seen[s], s.step))
    before = [prompts[s] for s in starts]
    written = backbone.write(
        before, keys, backbone.sampler(sampling, keys), sampling.max_new_tokens
    )
    answers = [backbone.text_of(tokens) for tokens in written]
    lanes = [trunks[s].fork() for s in starts]
    earlier = [lane.unreadable for lane in lanes]
    _carry_out(lanes, answers)
    unreadable = [lane.unreadable > n for lane, n in zip(lanes, earlier, strict=True)]
    play(planner, lanes)
    return Decisions(
        before,
        written,
        answers,
        np.array([lane.total for lane in lanes]),
        np.array(unreadable),
    )


def _carry_out(lanes: Sequence[Lane], answers: Sequence[str]) -> None:
    results = step_together([lane.env for lane in lanes], answers)
    for lane, (text, reward, _, over, info) in zip(lanes, results, strict=True):
        lane.text, lane.over = text, over
        lane.total += reward
        lane.step += 1
        lane.unreadable += info["unreadable"]
