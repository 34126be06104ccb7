"""The relevance term of IB-Tune as a reward: how likely a mean field makes the real actions.

``β · mean_i log π(a*_i | x, m, s_i)`` under a frozen policy model (DESIGN.md, section 3). All
actions behind all candidates are scored in one backbone call, which reads each candidate once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.policy import BackbonePolicy
from mfenv.dynamics.models import ActionRequest
from mfenv.noise import NoiseKey

__all__ = ["Relevance", "action_log_probabilities"]


def action_log_probabilities(
    policy: BackbonePolicy,
    mean_fields: Sequence[str],
    *,
    topic: Sequence[str],
    language: Sequence[str],
    states: Sequence[Sequence[str]],
    actions: Sequence[Sequence[str]],
) -> NDArray[np.float64]:
    """Mean log-probability (nats an action) of each row's actions under its mean field, ``(n,)``.

    Row k has the topic ``topic[k]`` and ``actions[k]``, one for each of ``states[k]``.
    """
    sizes = np.array([len(a) for a in actions])
    scores = policy.score(
        [
            ActionRequest(x, code, m, (), s, NoiseKey(0, 0, 0))
            for x, code, m, row in zip(topic, language, mean_fields, states, strict=True)
            for s in row
        ],
        [a for row in actions for a in row],
    )
    sums = np.bincount(
        np.repeat(np.arange(len(sizes)), sizes),
        [s.log_probability for s in scores],
        minlength=len(sizes),
    )
    return np.asarray(sums / sizes)


class Relevance:
    """The reward function for TRL: β times the mean log-probability of the next real actions.

    Logs two more figures. ``relevance`` is E log π(a*|x, m, s). ``information/actions`` is that
    minus E log π(a*|x, s), an estimate of I(m; Y | x, s) in nats an action: the first term alone
    is a lower bound (Barber and Agakov, NeurIPS 2003) up to the entropy of the actions, for which
    the same model's log-loss without a mean field stands, itself an upper bound of it.
    """

    __name__ = "relevance"

    def __init__(
        self, policy: BackbonePolicy, weight: float, schedule: Callable[[float], float]
    ) -> None:
        """``weight`` is β; ``schedule`` maps the share of the steps done to a factor of it."""
        self.policy, self.weight, self.schedule = policy, weight, schedule

    def __call__(
        self,
        completions: Sequence[Any],
        topic: Sequence[str],
        language: Sequence[str],
        states: Sequence[Sequence[str]],
        actions: Sequence[Sequence[str]],
        bare: Sequence[float],
        trainer_state: Any = None,
        log_metric: Callable[[str, float], None] | None = None,
        **_: Any,
    ) -> list[float]:
        """Rewards of candidate mean fields, in order; the other arguments are data columns."""
        likely = action_log_probabilities(
            self.policy,
            [_text(c).strip("\n ") for c in completions],
            topic=topic,
            language=language,
            states=states,
            actions=actions,
        )
        done = 0.0
        if trainer_state is not None and trainer_state.max_steps > 0:
            done = trainer_state.global_step / trainer_state.max_steps
        weight = self.weight * self.schedule(done)
        if log_metric is not None:
            log_metric("relevance", float(likely.mean()))
            log_metric("information/actions", float((likely - np.asarray(bare)).mean()))
            log_metric("relevance_weight", weight)
        return [float(x) for x in weight * likely]


def _text(completion: Any) -> str:
    """The text of a completion; TRL gives a list of one message where prompts are chats."""
    return completion if isinstance(completion, str) else str(completion[0]["content"])
