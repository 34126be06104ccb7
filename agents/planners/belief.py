"""``oracle:belief``: the society's rules are known, its topic, truth and surges are not.

The belief is a weighted set of topics, drawn from the society's own prior for the domain that is
observed, true and false claims weighted by the credibility, each with the chances of every phase of
a surge. Every step it is weighed by how well it foretold the batch that was seen (Bayes' rule), and
the rest of the episode is planned against several topics drawn from it: the plan with the least
expected loss, without reckoning that more will be known later. What it achieves is what the hidden
truth leaves to a planner with a perfect model.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from agents.planners.base import COST_OF_ACTION
from agents.planners.oracle import SocietyView
from agents.planners.search import Actions, Floats, Stand, plan_under
from mfenv.dynamics.reach import planted_count
from mfenv.dynamics.society import limit_step, next_activities
from mfenv.envs.objectives import harms
from mfenv.envs.observation import OBSERVATION_SLICES
from mfenv.errors import MfenvError
from mfenv.events.event import DOMAINS
from mfenv.events.synthetic.archetypes import MIXTURE
from mfenv.events.synthetic.generator import topics_of
from mfenv.events.synthetic.response import (
    SURGE_OF_RUMOUR,
    SURGE_RATE,
    SURGE_SHAPE,
    Topics,
    expected_shares,
    response,
)
from mfenv.events.synthetic.topics import sample_topic
from mfenv.labels import SLICES
from mfenv.noise import generator, uniform

__all__ = ["Believer"]

_TOPICS, _PLANNED = 48, 5  # topics of a belief, and of them in a plan
_STREAM = 7436
_WATCHED = ("belief", "intent", "behavior")  # dimensions that tell topics apart
# Phases of a surge: none, then the steps of a wave of rumour, then those of a wave of doubt.
_LENGTH = len(SURGE_SHAPE)
_STRENGTHS = np.concatenate([[0.0], SURGE_SHAPE, -np.asarray(SURGE_SHAPE)])
_RUMOUR, _DOUBT = 1, 1 + _LENGTH


class Believer:
    """See the module."""

    name = "oracle:belief"

    def __init__(self) -> None:
        self._view: SocietyView | None = None

    def see(self, view: SocietyView) -> None:
        """Take the view of the lanes that begin."""
        self._view = view

    def reset(self, seeds: NDArray[np.int64]) -> None:
        """Nothing is known yet; the belief begins with the first observation."""
        if self._view is None:
            raise MfenvError(
                f"planner {self.name!r} needs the synthetic society's true dynamics; allowed: "
                "dynamics='society' in mfenv bench intervention"
            )
        self._seeds = np.asarray(seeds, dtype=np.int64)
        self._left = np.full(len(seeds), self._view.budget)
        self._plan: Actions | None = None
        self._step = 0

    def act(self, observation: NDArray[np.float32], masks: NDArray[np.bool_]) -> Actions:
        """The first action of a plan against what is believed."""
        view = self._view
        assert view is not None
        if self._step >= view.horizon:
            raise MfenvError("the planner's episodes are over: reset it first")
        if self._plan is None:
            self._begin(observation)
        else:
            self._watch(observation[:, OBSERVATION_SLICES["distribution"]].astype(float))
        state = view.state()
        self._perceived, self._activity = state.perceived.copy(), state.activity.copy()
        model = _Believed(view, *self._drawn(), view.horizon - self._step)
        k, m = len(self._left), _PLANNED
        now = Stand(
            np.repeat(state.perceived[:, None], m, axis=1),
            state.activity.copy(),
            self._left,
            np.zeros(k),
        )
        plan = plan_under(model, now, view.cost_weight, view.horizon - self._step, self._plan)
        actions, self._plan = plan.actions[:, 0].copy(), plan.actions[:, 1:]
        self._left = self._left - COST_OF_ACTION[actions]
        self._activity = next_activities(self._activity, actions)  # while the step runs
        self._step += 1
        return actions

    def _begin(self, observation: NDArray[np.float32]) -> None:
        domains = observation[:, OBSERVATION_SLICES["domain"]].argmax(axis=1).tolist()
        drawn = [
            sample_topic(generator(_STREAM, p, d), DOMAINS[d], bool(p % 2))
            for d in domains
            for p in range(_TOPICS)
        ]
        self._topics = topics_of(drawn)
        true = self._topics.truth.reshape(-1, _TOPICS)
        credibility = observation[:, OBSERVATION_SLICES["credibility"]].astype(float)
        self._weight = _normalised(np.where(true, credibility, 1.0 - credibility))
        self._rate = np.minimum(SURGE_RATE * np.exp(0.6 * self._topics.virality), 1.0)
        phase = np.zeros((len(self._topics), len(_STRENGTHS)))
        phase[:, 0] = 1.0
        self._phase = _next_phase(phase, self._rate)

    def _watch(self, seen: Floats) -> None:
        """Weigh topics and phases by how well they foretold shares ``(K, 23)``."""
        view = self._view
        assert view is not None
        k, phases = len(seen), len(_STRENGTHS)
        rows = np.repeat(np.arange(k), _TOPICS * phases)
        topic = np.repeat(np.arange(k * _TOPICS), phases)
        tables = response(
            self._topics.take(topic),
            self._perceived[rows],
            self._activity[rows],
            np.tile(_STRENGTHS, k * _TOPICS),
        )
        expected = expected_shares(tables, MIXTURE).reshape(k, _TOPICS * phases, -1)
        own = view.worlds.batch - planted_count(self._activity, view.worlds.batch)
        counts = np.rint(seen * own[:, None])
        where = np.concatenate([np.arange(SLICES[d].start, SLICES[d].stop) for d in _WATCHED])
        log = np.einsum("kpl,kl->kp", np.log(expected[..., where] + 1e-12), counts[:, where])
        like = np.exp(log - log.max(axis=1, keepdims=True)).reshape(k, _TOPICS, phases)
        joint = self._weight[:, :, None] * self._phase.reshape(like.shape) * like + 1e-300
        weight = joint.sum(axis=2)
        self._phase = _next_phase(
            (joint / weight[:, :, None]).reshape(k * _TOPICS, phases), self._rate
        )
        self._weight = _normalised(weight)

    def _drawn(self) -> tuple[Topics, NDArray[np.float64], NDArray[np.float64]]:
        """Topics ``(K · m,)`` by their weights (systematic resampling), rates and phases."""
        cdf = np.cumsum(self._weight, axis=1)
        first = uniform(_STREAM, self._seeds, self._step)
        at = (np.arange(_PLANNED) + first[:, None]) / _PLANNED
        chosen = np.minimum((cdf[:, None, :] <= at[:, :, None]).sum(axis=2), _TOPICS - 1)
        index = (chosen + _TOPICS * np.arange(len(chosen))[:, None]).ravel()
        return self._topics.take(index), self._rate[index], self._phase[index]


class _Believed:
    """The mean-field limit of several topics for each lane; harm is their average."""

    def __init__(
        self, view: SocietyView, topics: Topics, rate: Floats, phase: Floats, horizon: int
    ) -> None:
        self._view, self._topics = view, topics
        surges = []
        for _ in range(horizon):
            surges.append(phase @ _STRENGTHS)
            phase = _next_phase(phase, rate)
        self._surges = np.stack(surges, axis=1)

    def __call__(
        self, lanes: NDArray[np.intp], t: int, stand: Stand, actions: Actions
    ) -> tuple[Floats, Floats, Floats]:
        view, m = self._view, _PLANNED
        activity = next_activities(stand.activity, actions)
        rows = (lanes[:, None] * m + np.arange(m)).ravel()
        topics = self._topics.take(rows)
        own, perceived = limit_step(
            topics,
            stand.perceived.reshape(len(rows), -1),
            np.repeat(activity, m, axis=0),
            MIXTURE,
            self._surges[rows, t],
        )
        n = np.repeat(view.worlds.batch - planted_count(activity, view.worlds.batch), m)
        harm = harms(view.objective, own, n, topics.truth).reshape(-1, m).mean(axis=1)
        return perceived.reshape(stand.perceived.shape), activity, harm


def _next_phase(phase: Floats, rate: Floats) -> Floats:
    """Chances ``(R, 9)`` of the phases one step later, where surges begin at rates ``(R,)``."""
    after = np.zeros_like(phase)
    for start in (_RUMOUR, _DOUBT):
        after[:, start + 1 : start + _LENGTH] = phase[:, start : start + _LENGTH - 1]
    ended = [0, _RUMOUR + _LENGTH - 1, _DOUBT + _LENGTH - 1]
    after[:, 0] = phase[:, ended].sum(axis=1)
    after *= 1.0 - rate[:, None]
    after[:, _RUMOUR] += rate * SURGE_OF_RUMOUR
    after[:, _DOUBT] += rate * (1.0 - SURGE_OF_RUMOUR)
    return after


def _normalised(weight: Floats) -> Floats:
    return np.asarray(weight / weight.sum(axis=1, keepdims=True))
