"""Planners that see the true dynamics of the synthetic society: bounds for all others.

``oracle`` is model-predictive control: at every step it plans the rest of the episode in the
mean-field limit of its own world, takes the plan's first action, and plans again from where the
world really is. It knows the topic's hidden parameters and truth, the perceived distribution, who
acts next, and a surge that runs; it does not know the noise to come.

``oracle:noise`` knows that, too: it plans on the world's own noise, so its plan comes true. No
planner can know as much, which makes it an upper bound and no yardstick.

``oracle:belief`` knows the society's rules and what is perceived, but neither the topic nor its
truth nor a surge: it keeps a belief over them (:mod:`agents.planners.belief`), as a planner without
inside knowledge at best could.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from agents.planners.base import COST_OF_ACTION, Planner
from agents.planners.search import Actions, Floats, Model, Plan, Stand, plan_under
from mfenv.dynamics.reach import planted_count
from mfenv.dynamics.society import (
    SocietyState,
    Worlds,
    agents_at,
    limit_step,
    next_activities,
    society_step,
)
from mfenv.envs.objectives import Objective, harms
from mfenv.errors import MfenvError
from mfenv.events.synthetic.archetypes import ARCHETYPES
from mfenv.events.synthetic.response import SURGE_OF_RUMOUR, SURGE_RATE, SURGE_SHAPE, surge

__all__ = ["Oracle", "Plan", "SocietyView", "oracle", "plan_ahead"]


@dataclass(frozen=True, slots=True)
class SocietyView:
    """What an :class:`~agents.planners.base.Insider` sees of its ``K`` lanes."""

    worlds: Worlds
    state: Callable[[], SocietyState]
    """Where the worlds stand now."""
    truth: NDArray[np.bool_]  # (K,)
    objective: Objective
    budget: float
    cost_weight: float
    horizon: int
    """Steps of an episode."""


class _InTheLimit:
    """The mean-field limit of worlds at a moment, with what is expected of surges."""

    def __init__(self, view: SocietyView, state: SocietyState, horizon: int) -> None:
        self._view, self._surges = view, expected_surges(view.worlds, state.step, horizon)
        worlds = view.worlds
        kinds = np.arange(len(ARCHETYPES))
        self._mixtures = [
            (
                np.take_along_axis(worlds.archetypes, agents_at(worlds, state.step + t), axis=1)[
                    ..., None
                ]
                == kinds
            ).mean(axis=1)
            for t in range(horizon)
        ]

    def __call__(
        self, lanes: NDArray[np.intp], t: int, stand: Stand, actions: Actions
    ) -> tuple[Floats, Floats, Floats]:
        view = self._view
        activity = next_activities(stand.activity, actions)
        own, perceived = limit_step(
            view.worlds.topics.take(lanes),
            stand.perceived,
            activity,
            self._mixtures[t][lanes],
            self._surges[lanes, t],
        )
        n = view.worlds.batch - planted_count(activity, view.worlds.batch)
        return perceived, activity, harms(view.objective, own, n, view.truth[lanes])


class _WithItsNoise:
    """The worlds themselves, with the noise that they will have."""

    def __init__(self, view: SocietyView, state: SocietyState) -> None:
        self._view, self._step = view, state.step

    def __call__(
        self, lanes: NDArray[np.intp], t: int, stand: Stand, actions: Actions
    ) -> tuple[Floats, Floats, Floats]:
        view, w = self._view, self._view.worlds
        worlds = replace(
            w, seed=w.seed[lanes], topics=w.topics.take(lanes), archetypes=w.archetypes[lanes]
        )
        at = SocietyState(self._step[lanes] + t, stand.perceived, stand.activity)
        after, record = society_step(worlds, at, actions)
        n = (~record.planted).sum(axis=1)
        harm = harms(view.objective, record.distribution, n, view.truth[lanes])
        return after.perceived, after.activity, harm


def expected_surges(worlds: Worlds, step: NDArray[np.int64], horizon: int) -> Floats:
    """Expected strength ``(K, horizon)`` of surges from a step ``(K,)`` on.

    What began before is known, what begins from there on is not. Of two that overlap the later one
    counts.
    """
    k, length = len(worlds), len(SURGE_SHAPE)
    if not worlds.surges:
        return np.zeros((k, horizon))
    rate = np.minimum(SURGE_RATE * np.exp(0.6 * worlds.topics.virality), 1.0)
    sign = 2.0 * SURGE_OF_RUMOUR - 1.0
    # At the step in which a surge begins it has its full strength, whatever ran before.
    begun = {
        -ago: np.where(step - ago >= 0, surge(worlds.seed, step - ago, worlds.topics.virality), 0.0)
        for ago in range(1, length)
    }
    result = np.zeros((k, horizon))
    for t in range(horizon):
        alone = np.ones(k)  # probability that nothing later has begun
        for ago in range(length):
            began = t - ago
            if began >= 0:
                result[:, t] += alone * rate * sign * SURGE_SHAPE[ago]
                alone = alone * (1.0 - rate)
            elif began in begun:
                starts = np.abs(begun[began]) == SURGE_SHAPE[0]
                result[:, t] += alone * starts * np.sign(begun[began]) * SURGE_SHAPE[ago]
                alone = alone * ~starts
    return result


def plan_ahead(
    view: SocietyView, left: Floats, plan: Actions | None = None, *, with_noise: bool = False
) -> Plan:
    """A plan ``(K, T)`` for the rest of the episodes, with ``left`` ``(K,)`` of the budget.

    In the mean-field limit, or in the worlds themselves with the noise that they will have. With
    a ``plan`` to go on from, only its next steps are tried anew.
    """
    state = view.state()
    horizon = view.horizon if plan is None else plan.shape[1]
    model: Model = _WithItsNoise(view, state) if with_noise else _InTheLimit(view, state, horizon)
    now = Stand(state.perceived, state.activity, left, np.zeros(len(left)))
    return plan_under(model, now, view.cost_weight, horizon, plan)


class Oracle:
    """See the module. ``with_noise`` plans once, on the noise that comes."""

    def __init__(self, *, with_noise: bool = False) -> None:
        self.name = "oracle:noise" if with_noise else "oracle"
        self._with_noise = with_noise
        self._view: SocietyView | None = None

    def see(self, view: SocietyView) -> None:
        """Take the view of the lanes that begin."""
        self._view = view

    def reset(self, seeds: NDArray[np.int64]) -> None:
        """Plan whole episodes."""
        view = self._seen()
        if len(view.worlds) != len(seeds):
            raise MfenvError(f"the oracle sees {len(view.worlds)} lanes, {len(seeds)} begin")
        self._left = np.full(len(seeds), view.budget)
        self._plan = plan_ahead(view, self._left, with_noise=self._with_noise).actions
        self._fresh = True

    def act(self, observation: NDArray[np.float32], masks: NDArray[np.bool_]) -> Actions:
        """The first action of the plan, improved from where the worlds are."""
        if not self._plan.shape[1]:
            raise MfenvError("the oracle's episodes are over: reset it first")
        if not (self._fresh or self._with_noise):
            self._plan = plan_ahead(self._seen(), self._left, self._plan).actions
        actions, self._plan = self._plan[:, 0], self._plan[:, 1:]
        self._left = self._left - COST_OF_ACTION[actions]
        self._fresh = False
        return actions.copy()

    def _seen(self) -> SocietyView:
        if self._view is None:
            raise MfenvError(
                f"planner {self.name!r} needs the synthetic society's true dynamics; allowed: "
                "dynamics='society' in mfenv bench intervention"
            )
        return self._view


def oracle(argument: str = "") -> Planner:
    """``oracle``; ``oracle:noise``, which also knows the noise to come; or ``oracle:belief``."""
    if argument == "belief":
        from agents.planners.belief import Believer

        return Believer()
    if argument not in ("", "noise"):
        raise MfenvError(
            f"planner 'oracle:{argument}': allowed: oracle, oracle:noise, oracle:belief"
        )
    return Oracle(with_noise=bool(argument))
