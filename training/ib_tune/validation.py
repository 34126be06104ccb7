"""What is measured on validation events while IB-Tune runs: likelihood, and short rollouts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from agents.mean_field import BackboneMeanField
from agents.methods import Method
from agents.policy import BackbonePolicy
from mfenv.distributions import SMOOTHING, counts, kl_per_dimension, normalise
from mfenv.dynamics.models import Annotator, MeanFieldModel
from mfenv.dynamics.process import (
    MeanFieldProcess,
    ProcessSettings,
    advance,
    real_rollout,
    warm_up,
)
from mfenv.events.event import Event
from mfenv.labels import Labels
from training.actions import RealAction, likelihoods
from training.datasets import policy_examples, teacher_forced

__all__ = ["Validation"]


@dataclass(frozen=True)
class Validation:
    """Measures pairs of models on the same events.

    Likelihoods are of all people's actions, teacher-forced; rollouts begin after ``warmup`` people
    and go on for the others of ``agents``.
    """

    events: Sequence[Event]
    annotator: Annotator
    agents: int = 98
    warmup: int = 50
    batch: int = 16
    seed: int = 0

    def measure(self, policy: BackbonePolicy, mean_field: BackboneMeanField) -> dict[str, float]:
        """``nll``: nats a token with the mean field; ``nll_without``: the same policy without it;
        ``gap``: nats an action that the mean field saves; ``kl``: of the rollouts, nats."""
        read = self._actions(policy, mean_field)
        bare = [replace(a, mean_field="") for a in read]
        with_it, without = likelihoods(policy, read), likelihoods(policy, bare)
        tokens = with_it[:, 1].sum()
        return {
            "nll": float(with_it[:, 0].sum() / tokens),
            "nll_without": float(without[:, 0].sum() / tokens),
            "gap": float((without[:, 0] - with_it[:, 0]).mean()),
            "kl": self._kl(policy, mean_field),
            "mean_field_characters": float(np.mean([len(a.mean_field) for a in read])),
        }

    def samples(
        self, policy: BackbonePolicy, mean_field: BackboneMeanField, count: int = 3
    ) -> list[tuple[str, str]]:
        """Topics of some events, and the mean field that the first ``warmup`` people lead to."""
        played = teacher_forced(
            self.events[:count],
            Method("mf", policy, mean_field),
            self.annotator,
            agents=self.warmup + self.batch,
            batch=self.batch,
            seed=self.seed,
        )
        last = [steps[-1].requests[0] for steps in played]
        return [(r.topic, r.mean_field) for r in last]

    def _actions(self, policy: BackbonePolicy, mean_field: BackboneMeanField) -> list[RealAction]:
        steps = teacher_forced(
            self.events,
            Method("mf", policy, mean_field),
            self.annotator,
            agents=self.agents,
            batch=self.batch,
            seed=self.seed,
        )
        return policy_examples(steps, seed=self.seed)

    def _kl(self, policy: BackbonePolicy, mean_field: MeanFieldModel) -> float:
        """Mean over events and dimensions of KL(real ‖ simulated) in the rollout, smoothed."""
        settings = ProcessSettings(self.agents, self.batch, self.warmup)
        processes = [
            MeanFieldProcess(policy, mean_field, self.annotator, settings) for _ in self.events
        ]
        for process, event in zip(processes, self.events, strict=True):
            process.begin(event, self.seed)
        warm_up(processes)
        written: list[list[Labels]] = [[] for _ in processes]
        while left := [i for i, p in enumerate(processes) if not p.done]:
            for i, record in zip(left, advance([processes[i] for i in left]), strict=True):
                written[i].append(record.labels)
        divergences = []
        for event, labels in zip(self.events, written, strict=True):
            real = [r.labels for r in real_rollout(event, self.annotator, settings) if not r.warmup]
            if real:
                p, q = (normalise(counts(np.concatenate(x)), SMOOTHING) for x in (real, labels))
                divergences.append(kl_per_dimension(p, q).mean())
        return float(np.mean(divergences)) if divergences else float("nan")
