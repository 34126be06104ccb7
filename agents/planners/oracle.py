"""Planners that see the true dynamics of the synthetic society: bounds for all others.

``oracle`` is model-predictive control: at every step it plans the rest of the episode in the
mean-field limit of its own world, takes the plan's first action, and plans again from where the
world really is. It knows the topic's hidden parameters and truth, the perceived distribution, who
acts next, and a surge that runs; it does not know the noise to come.

``oracle:noise`` knows that, too: it plans on the world's own noise, so its plan comes true. No
planner can know as much, which makes it an upper bound and no yardstick.

A first plan starts from the best action to repeat and is improved one action at a time (coordinate
descent over the steps, every action tried at each), then by exchanging the actions of two steps or
putting off what follows a step. Later on the next few steps are tried anew.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from agents.planners.base import COST_OF_ACTION, Planner
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
from mfenv.envs.social import EPSILON
from mfenv.errors import MfenvError
from mfenv.events.synthetic.archetypes import ARCHETYPES
from mfenv.events.synthetic.response import SURGE_OF_RUMOUR, SURGE_RATE, SURGE_SHAPE, surge
from mfenv.interventions import N_ACTIONS

__all__ = ["Oracle", "Plan", "SocietyView", "oracle", "plan_ahead"]

Floats = NDArray[np.float64]
Actions = NDArray[np.int64]

_GAIN = 1e-9  # a change that helps less than this is none
_ROWS = 4096  # of candidates that are rolled out at once
_ROUNDS = 3  # of sweeps and exchanges for a first plan
_DEPTH = 3  # steps that are tried anew when a plan goes on


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


@dataclass(frozen=True, slots=True)
class Plan:
    """Actions ``(K, T)`` that the budget pays, and the loss ``(K,)`` that a model foretells.

    The loss is the sum over the steps of harm plus weighted cost.
    """

    actions: Actions
    loss: Floats


@dataclass(frozen=True, slots=True)
class _Stand:
    """Where ``R`` candidates stand."""

    perceived: Floats  # (R, 23)
    activity: Floats  # (R, 6)
    left: Floats  # (R,) of the budget
    loss: Floats  # (R,) so far

    def take(self, index: NDArray[np.intp]) -> _Stand:
        return _Stand(
            self.perceived[index], self.activity[index], self.left[index], self.loss[index]
        )


class _Model(Protocol):
    """Foretells a step ``t`` from now of the worlds ``lanes`` ``(R,)`` under actions ``(R,)``."""

    def __call__(
        self, lanes: NDArray[np.intp], t: int, stand: _Stand, actions: Actions
    ) -> tuple[Floats, Floats, Floats]:
        """The next perceived ``(R, 23)`` and activity ``(R, 6)``, and the harm ``(R,)``."""
        ...


class _Search:
    """Improves plans under a model."""

    def __init__(self, model: _Model, cost_weight: float) -> None:
        self._model, self._weight = model, cost_weight

    def step(
        self, lanes: NDArray[np.intp], t: int, stand: _Stand, wanted: Actions
    ) -> tuple[_Stand, Actions]:
        """One step; what cannot be paid becomes none, as in the environment."""
        paid = COST_OF_ACTION[wanted] <= stand.left + EPSILON
        done = np.where(paid, wanted, 0)
        cost = COST_OF_ACTION[done]
        perceived, activity, harm = self._model(lanes, t, stand, done)
        loss = stand.loss + harm + self._weight * cost
        return _Stand(perceived, activity, stand.left - cost, loss), done

    def finish(
        self, lanes: NDArray[np.intp], t: int, stand: _Stand, plans: Actions
    ) -> tuple[Floats, Actions]:
        """Losses ``(R,)`` of plans ``(R, T - t)`` from step ``t``, and what of them is paid."""
        losses, paid = np.zeros(len(plans)), np.zeros_like(plans)
        for first in range(0, len(plans), _ROWS):
            rows = np.arange(first, min(first + _ROWS, len(plans)))
            at = stand.take(rows)
            for k in range(plans.shape[1]):
                at, paid[rows, k] = self.step(lanes[rows], t + k, at, plans[rows, k])
            losses[rows] = at.loss
        return losses, paid

    def best_of(self, now: _Stand, plan: Plan, candidates: Actions) -> Plan:
        """The plan or, where one is better, the best of candidates ``(K, C, T)``."""
        k, c, _ = candidates.shape
        lanes = np.repeat(np.arange(k), c)
        losses, paid = self.finish(lanes, 0, now.take(lanes), candidates.reshape(k * c, -1))
        losses = losses.reshape(k, c)
        best = losses.argmin(axis=1)
        every = np.arange(k)
        better = losses[every, best] < plan.loss - _GAIN
        chosen = paid.reshape(candidates.shape)[every, best]
        return Plan(
            np.where(better[:, None], chosen, plan.actions),
            np.where(better, losses[every, best], plan.loss),
        )

    def sweep(self, now: _Stand, plan: Plan, depth: int | None = None) -> Plan:
        """Try every action at each of the first ``depth`` steps, the rest of the plan as it is."""
        actions, loss = plan.actions.copy(), plan.loss
        k, horizon = actions.shape
        lanes, every = np.repeat(np.arange(k), N_ACTIONS), np.arange(k)
        tried = np.tile(np.arange(N_ACTIONS), k)
        for t in range(min(horizon, depth or horizon)):
            candidates = np.repeat(actions[:, t:], N_ACTIONS, axis=0)
            candidates[:, 0] = tried
            losses, paid = self.finish(lanes, t, now.take(lanes), candidates)
            losses = losses.reshape(k, N_ACTIONS)
            best = losses.argmin(axis=1)
            better = losses[every, best] < loss - _GAIN
            chosen = paid.reshape(k, N_ACTIONS, -1)[every, best]
            actions[:, t:] = np.where(better[:, None], chosen, actions[:, t:])
            loss = np.where(better, losses[every, best], loss)
            now, _ = self.step(every, t, now, actions[:, t])
        return Plan(actions, loss)

    def exchange(self, now: _Stand, plan: Plan) -> Plan:
        """Try to exchange the actions of every two steps, and to put all off by a step."""
        horizon = plan.actions.shape[1]
        orders = [np.arange(horizon)]
        for a in range(horizon):
            for b in range(a + 1, horizon):
                order = np.arange(horizon)
                order[[a, b]] = b, a
                orders.append(order)
            orders.append(np.insert(np.arange(horizon - 1), a, horizon - 1))
        candidates = plan.actions[:, np.array(orders)]
        return self.best_of(now, plan, candidates)

    def constant(self, now: _Stand, plan: Plan) -> Plan:
        """Try each action at every step for as long as the budget lasts."""
        k, horizon = plan.actions.shape
        every = np.broadcast_to(np.arange(N_ACTIONS)[:, None], (k, N_ACTIONS, horizon))
        return self.best_of(now, plan, every.astype(np.int64))

    def value(self, now: _Stand, actions: Actions) -> Plan:
        """What of actions ``(K, T)`` the budget pays, and its loss."""
        losses, paid = self.finish(np.arange(len(actions)), 0, now, actions)
        return Plan(paid, losses)

    def improve(self, now: _Stand, plan: Plan, rounds: int) -> Plan:
        """Sweep and exchange until nothing helps, at most so many rounds."""
        for _ in range(rounds):
            before = plan.loss
            plan = self.exchange(now, self.sweep(now, plan))
            if (plan.loss >= before - _GAIN).all():
                break
        return plan


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
        self, lanes: NDArray[np.intp], t: int, stand: _Stand, actions: Actions
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
        self, lanes: NDArray[np.intp], t: int, stand: _Stand, actions: Actions
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
    model: _Model = _WithItsNoise(view, state) if with_noise else _InTheLimit(view, state, horizon)
    search = _Search(model, view.cost_weight)
    now = _Stand(state.perceived, state.activity, left, np.zeros(len(left)))
    if plan is not None:
        return search.sweep(now, search.value(now, plan), _DEPTH)
    nothing = search.value(now, np.zeros((len(left), horizon), dtype=np.int64))
    return search.improve(now, search.constant(now, nothing), _ROUNDS)


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
    """``oracle``, or ``oracle:noise``, which also knows the noise to come."""
    if argument not in ("", "noise"):
        raise MfenvError(f"planner 'oracle:{argument}': allowed: oracle, oracle:noise")
    return Oracle(with_noise=bool(argument))
