"""Planners by rule: nothing, chance, one action at fixed times, or where the rumour is common.

All of them do nothing where the budget cannot pay what they want. ``ACTION`` is the name of a flat
action, such as ``fact_check/high``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from agents.planners.base import Clock, Planner, build_planner
from mfenv.envs.observation import OBSERVATION_SLICES
from mfenv.errors import DataError, MfenvError
from mfenv.interventions import INTENSITIES, KINDS, N_ACTIONS, action_name
from mfenv.labels import SLICES
from mfenv.noise import uniform

__all__ = [
    "PAPER_STEP",
    "ByCredibility",
    "Nothing",
    "Random",
    "Rule",
    "action_index",
    "always",
    "by_credibility",
    "front_loaded",
    "none",
    "paper",
    "periodic",
    "random",
    "schedule",
    "threshold",
]

Actions = NDArray[np.int64]
Observation = NDArray[np.float32]

PAPER_STEP = 5
"""The simulated batch, counted from 1, in which the paper replaces four of sixteen comments."""

_NAMES = [action_name(a) for a in range(N_ACTIONS)]
_SPREAD = OBSERVATION_SLICES["distribution"].start + SLICES["rumor"].start
_CREDIBILITY = OBSERVATION_SLICES["credibility"].start
_TOKEN = 1201  # of the noise key of a random planner


def action_index(name: str) -> int:
    """The flat action of a name such as ``"none"`` or ``"fact_check/high"``."""
    if name not in _NAMES:
        raise MfenvError(
            f"unknown action {name!r}; allowed: none, or KIND/INTENSITY with KIND one of "
            f"{', '.join(KINDS)} and INTENSITY one of {', '.join(INTENSITIES)}"
        )
    return _NAMES.index(name)


class Nothing:
    """Does nothing: what uplift is measured against."""

    name = "none"

    def reset(self, seeds: NDArray[np.int64]) -> None:
        """Nothing to begin."""

    def act(self, observation: Observation, masks: NDArray[np.bool_]) -> Actions:
        """None in every lane."""
        return np.zeros(len(observation), dtype=np.int64)


class Random:
    """Any action that the budget can pay, each as probable as the others."""

    name = "random"

    def __init__(self) -> None:
        self._clock, self._seeds = Clock(), np.zeros(0, dtype=np.int64)

    def reset(self, seeds: NDArray[np.int64]) -> None:
        """Draws are keyed by the seed of a lane and the step."""
        self._seeds = np.asarray(seeds, dtype=np.int64)
        self._clock.reset(len(seeds))

    def act(self, observation: Observation, masks: NDArray[np.bool_]) -> Actions:
        """The k-th allowed action of each lane, k uniform."""
        u = uniform(self._seeds, -3, self._clock.tick(observation), _TOKEN)
        place = np.floor(u * masks.sum(axis=1)).astype(np.int64)
        return np.asarray((masks.cumsum(axis=1) <= place[:, None]).sum(axis=1), dtype=np.int64)


class Rule:
    """What a rule wants at a step ``(K,)`` on observations ``(K, 63)``, where it can be paid."""

    def __init__(self, name: str, wants: Callable[[Actions, Observation], Actions]) -> None:
        self.name, self._wants, self._clock = name, wants, Clock()

    def reset(self, seeds: NDArray[np.int64]) -> None:
        """Every lane is at its first step."""
        self._clock.reset(len(seeds))

    def act(self, observation: Observation, masks: NDArray[np.bool_]) -> Actions:
        """What the rule wants, or nothing."""
        wanted = self._wants(self._clock.tick(observation), observation)
        paid = np.take_along_axis(masks, wanted[:, None], axis=1)[:, 0]
        return np.where(paid, wanted, 0)


class ByCredibility:
    """One planner where the topic is rather false (credibility below 0.5), another elsewhere."""

    def __init__(self, doubtful: Planner, credible: Planner) -> None:
        self.name = f"by-credibility:{doubtful.name}|{credible.name}"
        self._doubtful, self._credible = doubtful, credible

    def reset(self, seeds: NDArray[np.int64]) -> None:
        """Begin both; each acts in every lane and is heard in its own."""
        self._doubtful.reset(seeds)
        self._credible.reset(seeds)

    def act(self, observation: Observation, masks: NDArray[np.bool_]) -> Actions:
        """The one planner's actions or the other's."""
        doubtful = self._doubtful.act(observation, masks)
        credible = self._credible.act(observation, masks)
        return np.where(observation[:, _CREDIBILITY] < 0.5, doubtful, credible)


# -- factories of the entry points -----------------------------------------------------------


def none() -> Planner:
    """``none``."""
    return Nothing()


def random() -> Planner:
    """``random``."""
    return Random()


def always(argument: str) -> Planner:
    """``always:ACTION``: at every step, as long as the budget lasts."""
    action = action_index(argument)
    return Rule(f"always:{argument}", lambda t, _: np.full(len(t), action))


def front_loaded(argument: str) -> Planner:
    """``front-loaded:ACTION@N``: at the first N steps."""
    action, n = _at_number("front-loaded", argument, "N")
    return Rule(f"front-loaded:{argument}", lambda t, _: np.where(t < n, action, 0))


def periodic(argument: str) -> Planner:
    """``periodic:ACTION@P``: at the first step and at every P-th after it."""
    action, period = _at_number("periodic", argument, "P")
    return Rule(f"periodic:{argument}", lambda t, _: np.where(t % period == 0, action, 0))


def threshold(argument: str) -> Planner:
    """``threshold:ACTION@SHARE``: where at least that share of the last batch spread the rumour."""
    head, _, level = argument.partition("@")
    try:
        share = float(level)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise MfenvError(
            f"planner 'threshold:{argument}': {level!r} is not allowed; allowed: "
            "threshold:ACTION@SHARE with SHARE from 0 to 1, as in threshold:fact_check/high@0.5"
        )
    action = action_index(head)

    def wants(_: Actions, observation: Observation) -> Actions:
        return np.where(observation[:, _SPREAD].astype(float) >= share - 1e-6, action, 0)

    return Rule(f"threshold:{argument}", wants)


def schedule(argument: str) -> Planner:
    """``schedule:FILE`` or ``schedule:ACTION,ACTION,…``: an action for each step, then none.

    The file is JSON: ``{"actions": ["fact_check/high", "none", …]}``.
    """
    path = Path(argument)
    # A name that is too long to be a file's is a plan.
    is_file = argument.endswith(".json") or os.path.isfile(path)
    names = _schedule_file(path) if is_file else [x.strip() for x in argument.split(",")]
    actions = np.array([action_index(x) for x in names], dtype=np.int64)
    plan = np.append(actions, 0)
    name = "schedule:" + ",".join(names)
    return Rule(name, lambda t, _: plan[np.minimum(t, len(actions))])


def paper(argument: str = "") -> Planner:
    """``paper`` or ``paper:STEP``: the paper's intervention by hand.

    Four of the sixteen comments of one batch are overwritten by sceptical ones: seeding at high
    intensity, at the fifth simulated step or at STEP, counted from 1.
    """
    step = PAPER_STEP if not argument else _whole("paper", argument, "STEP")
    action = action_index("seed/high")
    name = f"paper:{argument}" if argument else "paper"
    return Rule(name, lambda t, _: np.where(t == step - 1, action, 0))


def by_credibility(argument: str) -> Planner:
    """``by-credibility:A|B``: planner A where the credibility is below 0.5, planner B elsewhere."""
    first, bar, second = argument.partition("|")
    if not bar or "|" in second:
        raise MfenvError(
            f"planner 'by-credibility:{argument}' needs two planners: by-credibility:A|B, "
            "as in by-credibility:always:fact_check/high|none"
        )
    return ByCredibility(build_planner(first), build_planner(second))


def _at_number(planner: str, argument: str, what: str) -> tuple[int, int]:
    head, _, number = argument.partition("@")
    return action_index(head), _whole(planner, number, f"ACTION@{what}")


def _whole(planner: str, text: str, form: str) -> int:
    # Counted before it is read: Python refuses to read thousands of digits.
    if not (text.isascii() and text.isdigit() and len(text.lstrip("0")) in range(1, 7)):
        raise MfenvError(
            f"planner {planner!r}: {text!r} is not allowed; allowed: {planner}:{form} with a "
            "whole number from 1 to 999999"
        )
    return int(text.lstrip("0"))


def _schedule_file(path: Path) -> Sequence[str]:
    if not os.path.isfile(path):
        raise MfenvError(f"schedule: {path} does not exist; a JSON file with actions is needed")
    try:
        value = json.loads(path.read_text("utf-8"))
        names = value["actions"]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(str(path), "(all)", "actions", f"no schedule: {error}") from None
    if not isinstance(names, list) or not names or not all(isinstance(x, str) for x in names):
        raise DataError(str(path), "(all)", "actions", "must be a list of names of actions")
    return names
