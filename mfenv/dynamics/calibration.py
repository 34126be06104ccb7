"""Calibration in the warm-up: choose among candidate reactions, so that shares come out right.

During the warm-up the real reactions of the agents are known, so the policy model is asked in
their place too (teacher-forced: under the mean field that the real reactions led to). What it
would have written is compared with what was written, in the marginals of the label dimensions,
and in the rollout the difference is made up for. Every agent of a step offers M candidates; with

    q     the model's own shares: of all candidates of the step, (23,)
    r, q0 the shares of the warm-up's n real reactions, and the model's own in their place
    w     n / (n + shrinkage) · (1 - fading)^k after k reactions of the rollout

the step is to have the shares q + w · (r - c), and one candidate of each agent is chosen so that
it has them. The reference c decides how much of the model's own movement is kept:

- While nobody intervenes c follows q, but no further from q0 than ``band`` in total variation. What
  the model wanders within the band is pulled back to r with weight w: the target is then the
  posterior mean of a Dirichlet prior with the model's shares and ``shrinkage`` pseudo-counts after
  n real reactions. What goes beyond the band is a turn, and is kept whole.
- From the first intervention on c stays where it was before it. The warm-up knows nothing of an
  intervention, so the model's whole response is kept.

Pure NumPy on arrays.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from mfenv.distributions import UNIFORM, normalise
from mfenv.labels import N_LABELS, OFFSETS, Labels, one_hot
from mfenv.noise import categorical, uniform

__all__ = ["Calibration", "Evidence", "candidate_uniforms", "choose", "rake"]

Floats = NDArray[np.float64]

RIDGE = 0.1
"""Precision of the tilt's Gaussian prior in :func:`rake`: no weight explodes for a rare label."""

_TOKEN = -6  # of the noise key; -1 to -3 are the process's, -4 and -5 the personas'
_ROUNDS, _TOLERANCE, _LONGEST = 30, 1e-6, 2.0  # of Newton's method


@dataclass(frozen=True, slots=True)
class Calibration:
    """Settings; the defaults were chosen on real events.

    ``candidates=1`` leaves nothing to choose, ``draws=1`` chooses for each agent independently.
    """

    candidates: int = 4
    """M: reactions that the policy model writes for every agent."""
    shrinkage: float = 20.0
    """Pseudo-counts of the model's own shares beside the warm-up's real reactions."""
    fading: float = 0.003
    """Part of the correction that is lost with every reaction of the rollout."""
    band: float = 0.15
    """Total variation up to which movement of the model's own shares counts as wandering."""
    draws: int = 64
    """Joint choices that are drawn for a step; the one that is nearest to the target is taken."""

    def __post_init__(self) -> None:
        for name in ("candidates", "draws"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{name}={value!r} is not allowed; allowed: whole, 1 or more")
        for name, most in (("shrinkage", np.inf), ("fading", 1.0), ("band", 1.0)):
            value = getattr(self, name)
            if not (np.isfinite(value) and 0 <= value <= most):
                allowed = "0 or more" if most == np.inf else f"0 to {most:g}"
                raise ValueError(f"{name}={value!r} is not allowed; allowed: {allowed}")

    def target(self, evidence: Evidence, own: Floats, reactions: int) -> Floats:
        """The shares ``(23,)`` that a step is to have.

        ``own`` ``(23,)`` are the shares of all its candidates; ``reactions`` came before it in the
        rollout.
        """
        n = evidence.real[: OFFSETS[1]].sum()  # every dimension counts every reaction
        if n == 0:
            return own
        weight = n / (n + self.shrinkage) * (1 - self.fading) ** reactions
        before = normalise(evidence.simulated)
        moved = (evidence.own if evidence.disturbed else own) - before
        # Half the absolute difference in each dimension: total variation.
        far = np.add.reduceat(np.abs(moved), OFFSETS[:-1]) / 2
        kept = np.minimum(1.0, self.band / np.maximum(far, 1e-12))
        reference = before + moved * np.repeat(kept, np.diff(OFFSETS))
        return normalise(np.maximum(own + weight * (normalise(evidence.real) - reference), 0.0))


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a population's own warm-up has shown so far."""

    real: Floats  # (23,) label counts of the warm-up's real reactions
    simulated: Floats  # (23,) of the candidates that the policy model wrote in their place
    own: Floats  # (23,) moving average of the model's own shares before anybody intervened
    disturbed: bool = False  # whether anybody has intervened

    @classmethod
    def nothing(cls) -> Self:
        """Before the first step."""
        return cls(np.zeros(N_LABELS), np.zeros(N_LABELS), UNIFORM)

    def saw(self, candidates: NDArray[np.int64], real: Floats | None, rate: float) -> Evidence:
        """After a step whose candidates have these label counts ``(23,)``.

        ``real`` ``(23,)`` are the counts of the real reactions, in the warm-up; ``rate`` is the
        weight of the step in the moving average.
        """
        shown, simulated, own = self.real, self.simulated, self.own
        if real is not None:
            shown, simulated = shown + real, simulated + candidates
        if not self.disturbed:
            own = (1 - rate) * own + rate * normalise(candidates)
        return Evidence(shown, simulated, own, self.disturbed)


def rake(labels: Labels, target: Floats, ridge: float = RIDGE) -> Floats:
    """Weights ``(n, M)`` of candidates with labels ``(n, M, 8)``; every agent's sum to one.

    The weights are exp(λ · x) within each agent, x the candidate's 23 label indicators: among all
    weights with these shares those of least information (raking, Deville and Särndal, JASA 87,
    1992). λ minimises  Σ_agents log Σ_j exp(λ · x_j) - n λ · target + ridge/2 |λ|²,  which is
    strictly convex; at ridge 0 the weighted shares would be ``target`` wherever the candidates
    allow it.
    """
    x = one_hot(labels)
    n = len(x)
    tilt = np.zeros(N_LABELS)
    for _ in range(_ROUNDS):
        weights = _softmax(x @ tilt)
        mean = np.einsum("ij,ijk->ik", weights, x)
        gradient = mean.sum(axis=0) - n * target + ridge * tilt
        second = np.einsum("ij,ijk,ijl->kl", weights, x, x, optimize=True) - mean.T @ mean
        step = np.linalg.solve(second + ridge * np.eye(N_LABELS), gradient)
        longest = float(np.abs(step).max())
        # Far from the optimum a whole Newton step of a log-linear model can overshoot.
        tilt = tilt - step * min(1.0, _LONGEST / max(longest, _TOLERANCE))
        if longest < _TOLERANCE:
            break
    return _softmax(x @ tilt)


def choose(labels: Labels, target: Floats, u: Floats) -> NDArray[np.intp]:
    """Choose one of each agent's candidates; labels ``(n, M, 8)`` give indices ``(n,)``.

    One joint choice is drawn for each row of uniforms ``(draws, n)`` by the weights of
    :func:`rake`; the one is taken whose shares are nearest to the target (rejective sampling,
    Fuller, Biometrika 96, 2009). Independent choices would add the noise of n draws to the shares.
    """
    n = len(labels)
    drawn = categorical(rake(labels, target), u)  # (draws, n)
    made = one_hot(labels[np.arange(n), drawn]).mean(axis=1)  # (draws, 23)
    distance = ((made - target) ** 2 / (target + 1 / n)).sum(axis=-1)
    return np.asarray(drawn[distance.argmin()])


def candidate_uniforms(seed: int, agents: NDArray[np.int64], step: int, draws: int) -> Floats:
    """The uniforms ``(draws, n)`` that choose for agents ``(n,)``."""
    return uniform(seed, agents, step, _TOKEN, np.arange(draws)[:, None])


def _softmax(logits: Floats) -> Floats:
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=-1, keepdims=True))
