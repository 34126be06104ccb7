"""What a planner is to achieve, as a harm between 0 (best) and about 1 in each step.

An objective reads the distribution of the step's own reactions; what a planner planted is never
in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mfenv.distributions import SMOOTHING, kl_per_dimension, normalise
from mfenv.errors import MfenvError
from mfenv.labels import DIMENSIONS, N_LABELS, SLICES

__all__ = [
    "OBJECTIVES",
    "Misbelief",
    "Objective",
    "Polarization",
    "Target",
    "harms",
    "make_objective",
    "misbelief",
    "polarization",
]

OBJECTIVES: tuple[str, ...] = ("misbelief", "polarization", "target")
"""The names of the objectives."""

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

_BELIEVE, _DOUBT = SLICES["belief"].start, SLICES["belief"].start + 1
_SUPPORT, _OPPOSE = SLICES["stance"].start, SLICES["stance"].start + 1


class Objective(Protocol):
    """A harm that is to be small."""

    @property
    def name(self) -> str:
        """The name of the objective."""
        ...

    @property
    def needs_truth(self) -> bool:
        """Whether the topic's truth must be known."""
        ...

    def harm(self, distribution: Floats, n: int, truth: bool | None) -> float:
        """Harm of label shares ``(23,)`` of ``n`` reactions to a topic."""
        ...

    def harms(self, distribution: Floats, n: Counts, truth: Counts) -> Floats:
        """Harm ``(K,)`` of shares ``(K, 23)`` of ``n`` ``(K,)`` reactions to ``K`` topics.

        ``truth`` is 1 (true), 0 (false) or -1 (nobody knows).
        """
        ...


def misbelief(distribution: Floats, truth: bool) -> float:
    """Share of reactions that believe a false topic, or doubt a true one."""
    return float(distribution[_DOUBT if truth else _BELIEVE])


def polarization(distribution: Floats) -> float:
    """Four times the share that supports times the share that opposes.

    Two reactions drawn at random are on opposite sides with probability 2·p·q; twice that is 1
    for an even split without neutral reactions and 0 for consensus. With two groups that make
    up everybody it equals Reynal-Querol's index 4·Σ π²(1 − π) (Journal of Conflict Resolution
    46(1), 2002).
    """
    return float(4.0 * distribution[_SUPPORT] * distribution[_OPPOSE])


@dataclass(frozen=True)
class Misbelief:
    """Believing what is false and doubting what is true; needs the topic's truth."""

    name: str = "misbelief"
    needs_truth: bool = True

    def harm(self, distribution: Floats, n: int, truth: bool | None) -> float:
        """See :func:`misbelief`."""
        if truth is None:
            raise MfenvError("the objective 'misbelief' needs a topic whose truth is known")
        return misbelief(distribution, truth)

    def harms(self, distribution: Floats, n: Counts, truth: Counts) -> Floats:
        """See :func:`misbelief`."""
        if (truth < 0).any():
            raise MfenvError("the objective 'misbelief' needs a topic whose truth is known")
        return np.where(truth == 1, distribution[:, _DOUBT], distribution[:, _BELIEVE])


@dataclass(frozen=True)
class Polarization:
    """Support against opposition."""

    name: str = "polarization"
    needs_truth: bool = False

    def harm(self, distribution: Floats, n: int, truth: bool | None) -> float:
        """See :func:`polarization`."""
        return polarization(distribution)

    def harms(self, distribution: Floats, n: Counts, truth: Counts) -> Floats:
        """See :func:`polarization`."""
        return np.asarray(4.0 * distribution[:, _SUPPORT] * distribution[:, _OPPOSE])


@dataclass(frozen=True, eq=False)
class Target:
    """KL(target ‖ population) in nats, averaged over the dimensions that have a target.

    0.5 is added to every label count of the step's reactions, so that no absent label makes the
    divergence infinite.
    """

    distribution: Floats  # (23,)
    dimensions: NDArray[np.bool_]  # (8,) which of them count
    name: str = "target"
    needs_truth: bool = False

    def harm(self, distribution: Floats, n: int, truth: bool | None) -> float:
        """The divergence of shares ``(23,)`` of ``n`` reactions from the target."""
        population = normalise(distribution * n, SMOOTHING)
        return float(kl_per_dimension(self.distribution, population)[self.dimensions].mean())

    def harms(self, distribution: Floats, n: Counts, truth: Counts) -> Floats:
        """The divergences of shares ``(K, 23)`` of ``n`` reactions each from the target."""
        population = normalise(distribution * np.asarray(n)[:, None], SMOOTHING)
        each = kl_per_dimension(self.distribution, population)
        return np.asarray(each[:, self.dimensions].mean(axis=-1))


def harms(objective: Objective, distributions: Floats, n: ArrayLike, truth: ArrayLike) -> Floats:
    """Harms ``(...)`` of many label shares ``(..., 23)``; ``n`` and ``truth`` broadcast.

    The same as :meth:`Objective.harm` one by one. ``truth`` is read where the objective needs it.
    """
    if isinstance(objective, Misbelief):
        believe, doubt = distributions[..., _BELIEVE], distributions[..., _DOUBT]
        return np.where(np.asarray(truth, dtype=bool), doubt, believe)
    if isinstance(objective, Polarization):
        return np.asarray(4.0 * distributions[..., _SUPPORT] * distributions[..., _OPPOSE])
    if isinstance(objective, Target):
        counted = np.asarray(n, dtype=float)[..., None]
        population = normalise(distributions * counted, SMOOTHING)
        divergence = kl_per_dimension(objective.distribution, population)
        return np.asarray(divergence[..., objective.dimensions].mean(axis=-1))
    shape = distributions.shape[:-1]
    every = (np.broadcast_to(x, shape).ravel() for x in (np.asarray(n), np.asarray(truth)))
    flat = distributions.reshape(-1, N_LABELS)
    values = [
        objective.harm(d, int(m), None if t is None else bool(t))
        for d, m, t in zip(flat, *every, strict=True)
    ]
    return np.array(values, dtype=float).reshape(shape)


def make_objective(name: str, target: Any = None) -> Objective:
    """Make an objective by name; ``target`` belongs to ``"target"``.

    A target is a list of 23 shares in the order of ``mfenv.labels.NAMES``, or a mapping from
    dimension names to their shares (a list in label order, or a mapping from labels; labels left
    out are 0). Raises ``MfenvError`` that says what is allowed.
    """
    if name == "target":
        return _target(target)
    if target is not None:
        raise MfenvError(f"target= belongs to objective='target', not to {name!r}")
    if name == "misbelief":
        return Misbelief()
    if name == "polarization":
        return Polarization()
    raise MfenvError(f"unknown objective {name!r}; allowed: {', '.join(OBJECTIVES)}")


def _target(target: Any) -> Target:
    if target is None:
        raise MfenvError(
            "objective='target' needs target=: 23 shares, or shares by dimension such as "
            "{'stance': {'support': 0.1, 'oppose': 0.5, 'neutral': 0.4}}"
        )
    given = target
    if not isinstance(target, Mapping):
        values = np.asarray(target, dtype=float)
        if values.shape != (N_LABELS,):
            raise MfenvError(f"target: {N_LABELS} shares are needed, got shape {values.shape}")
        given = {d.name: values[SLICES[d.name]].tolist() for d in DIMENSIONS}
    if not given:
        raise MfenvError("target: at least one dimension is needed")
    shares, used = np.zeros(N_LABELS), np.zeros(len(DIMENSIONS), dtype=bool)
    unknown = set(given) - {d.name for d in DIMENSIONS}
    if unknown:
        allowed = ", ".join(d.name for d in DIMENSIONS)
        name = min(map(str, unknown))
        raise MfenvError(f"target: unknown dimension {name!r}; allowed: {allowed}")
    for i, d in enumerate(DIMENSIONS):
        if d.name in given:
            shares[SLICES[d.name]] = _dimension_shares(given[d.name], d.name, d.labels)
            used[i] = True
        else:
            shares[SLICES[d.name]] = 1 / len(d.labels)
    return Target(shares, used)


def _dimension_shares(
    value: Mapping[str, float] | Sequence[float], name: str, labels: tuple[str, ...]
) -> Floats:
    if isinstance(value, Mapping):
        unknown = set(value) - set(labels)
        if unknown:
            raise MfenvError(
                f"target: {name}: unknown label {min(map(str, unknown))!r}; "
                f"allowed: {', '.join(labels)}"
            )
        value = [value.get(label, 0.0) for label in labels]
    shares = np.asarray(value, dtype=float)
    if shares.shape != (len(labels),):
        raise MfenvError(f"target: {name}: {len(labels)} shares are needed ({', '.join(labels)})")
    if not np.all(shares >= 0) or not np.isclose(shares.sum(), 1.0, atol=1e-3):
        raise MfenvError(f"target: {name}: shares must be at least 0 and sum to 1")
    return np.asarray(shares / shares.sum())
