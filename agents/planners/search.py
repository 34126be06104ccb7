"""Improves plans of whole episodes under a model of what actions lead to.

A first plan starts from the best action to repeat and is improved one action at a time (coordinate
descent over the steps, every action tried at each), then by exchanging the actions of two steps or
putting off what follows a step. Later on the next few steps are tried anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from agents.planners.base import COST_OF_ACTION
from mfenv.envs.social import EPSILON
from mfenv.interventions import N_ACTIONS

__all__ = ["Actions", "Floats", "Model", "Plan", "Stand", "plan_under"]

Floats = NDArray[np.float64]
Actions = NDArray[np.int64]

_GAIN = 1e-9  # a change that helps less than this is none
_ROWS = 4096  # of candidates that are rolled out at once
_ROUNDS = 3  # of sweeps and exchanges for a first plan
_DEPTH = 3  # steps that are tried anew when a plan goes on


@dataclass(frozen=True, slots=True)
class Plan:
    """Actions ``(K, T)`` that the budget pays, and the loss ``(K,)`` that a model foretells.

    The loss is the sum over the steps of harm plus weighted cost.
    """

    actions: Actions
    loss: Floats


@dataclass(frozen=True, slots=True)
class Stand:
    """Where ``R`` candidates stand; what is perceived is the model's, whatever its shape."""

    perceived: Floats  # (R, …, 23)
    activity: Floats  # (R, 6)
    left: Floats  # (R,) of the budget
    loss: Floats  # (R,) so far

    def take(self, index: NDArray[np.intp]) -> Stand:
        """The candidates at the given places."""
        return Stand(
            self.perceived[index], self.activity[index], self.left[index], self.loss[index]
        )


class Model(Protocol):
    """Foretells a step ``t`` from now of the worlds ``lanes`` ``(R,)`` under actions ``(R,)``."""

    def __call__(
        self, lanes: NDArray[np.intp], t: int, stand: Stand, actions: Actions
    ) -> tuple[Floats, Floats, Floats]:
        """The next perceived ``(R, …, 23)`` and activity ``(R, 6)``, and the harm ``(R,)``."""
        ...


class Search:
    """Improves plans under a model."""

    def __init__(self, model: Model, cost_weight: float) -> None:
        self._model, self._weight = model, cost_weight

    def step(
        self, lanes: NDArray[np.intp], t: int, stand: Stand, wanted: Actions
    ) -> tuple[Stand, Actions]:
        """One step; what cannot be paid becomes none, as in the environment."""
        paid = COST_OF_ACTION[wanted] <= stand.left + EPSILON
        done = np.where(paid, wanted, 0)
        cost = COST_OF_ACTION[done]
        perceived, activity, harm = self._model(lanes, t, stand, done)
        loss = stand.loss + harm + self._weight * cost
        return Stand(perceived, activity, stand.left - cost, loss), done

    def finish(
        self, lanes: NDArray[np.intp], t: int, stand: Stand, plans: Actions
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

    def best_of(self, now: Stand, plan: Plan, candidates: Actions) -> Plan:
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

    def sweep(self, now: Stand, plan: Plan, depth: int | None = None) -> Plan:
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

    def exchange(self, now: Stand, plan: Plan) -> Plan:
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

    def constant(self, now: Stand, plan: Plan) -> Plan:
        """Try each action at every step for as long as the budget lasts."""
        k, horizon = plan.actions.shape
        every = np.broadcast_to(np.arange(N_ACTIONS)[:, None], (k, N_ACTIONS, horizon))
        return self.best_of(now, plan, every.astype(np.int64))

    def value(self, now: Stand, actions: Actions) -> Plan:
        """What of actions ``(K, T)`` the budget pays, and its loss."""
        losses, paid = self.finish(np.arange(len(actions)), 0, now, actions)
        return Plan(paid, losses)

    def improve(self, now: Stand, plan: Plan, rounds: int) -> Plan:
        """Sweep and exchange until nothing helps, at most so many rounds."""
        for _ in range(rounds):
            before = plan.loss
            plan = self.exchange(now, self.sweep(now, plan))
            if (plan.loss >= before - _GAIN).all():
                break
        return plan


def plan_under(
    model: Model, now: Stand, cost_weight: float, horizon: int, plan: Actions | None = None
) -> Plan:
    """A plan ``(K, T)`` for the ``horizon`` steps that are left.

    With a ``plan`` to go on from, only its next steps are tried anew.
    """
    search = Search(model, cost_weight)
    if plan is not None:
        return search.sweep(now, search.value(now, plan), _DEPTH)
    nothing = search.value(now, np.zeros((len(now.left), horizon), dtype=np.int64))
    return search.improve(now, search.constant(now, nothing), _ROUNDS)
