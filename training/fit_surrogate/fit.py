"""Fits a surrogate's kernel: six multinomial logistic regressions that share their inputs.

Maximum a posteriori with normal priors (L2), by L-BFGS on a convex objective. What the archetypes
have of their own in a notice's effect is shrunk towards what all have in common, and the prior's
precision is chosen on events that are left out. The ensemble is fitted to bootstrap samples of the
events, since the reactions to one event are not independent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from mfenv.distributions import UNIFORM
from mfenv.dynamics.notices import VISIBLE
from mfenv.dynamics.surrogate.kernel import notice_levels, time_feature, truth_feature
from mfenv.dynamics.surrogate.model import GROUPS, HIDDEN, N_CELLS, N_OUTPUTS, Kernel, outputs_of
from mfenv.events.event import DOMAINS
from mfenv.interventions import INTENSITIES
from mfenv.labels import N_LABELS
from mfenv.noise import generator
from training.fit_surrogate.episodes import Episodes

__all__ = [
    "MEMBERS",
    "SHRINKAGES",
    "Fit",
    "Steps",
    "association",
    "ensemble",
    "fit_kernel",
    "fit_surrogate",
    "likelihood",
    "steps_of",
]

Floats = NDArray[np.float64]

SHRINKAGES: tuple[float, ...] = (3.0, 30.0)
"""Precisions of the prior on the weights that are tried."""

MEMBERS = 8
_FOLD = 5  # one event in so many is left out to choose the precision
# Precisions beside the weights': biases, what a notice does, and an archetype's own part in that.
_BIAS, _NOTICE, _OWN = 0.02, 0.1, 1.0
_ITERATIONS, _AGAIN = 80, 25
_STREAM = 62  # first word of the generator's key
_INPUTS = len(DOMAINS) + 1 + 3 * N_LABELS + 2 + len(HIDDEN)


@dataclass(frozen=True, slots=True)
class Steps:
    """``R`` steps as a regression sees them."""

    event: NDArray[np.int64]  # (R,)
    inputs: Floats  # (R, 82) domain, warm-up, perceived, latest, time, truth, hidden
    levels: NDArray[np.intp]  # (R, 3) of the notices that are shown, -1 for none
    counts: Floats  # (R, A, 28) outputs of the people's own reactions

    def __len__(self) -> int:
        return len(self.event)

    def take(self, mask: NDArray[np.bool_]) -> Steps:
        """The steps where ``mask`` is true."""
        return Steps(self.event[mask], self.inputs[mask], self.levels[mask], self.counts[mask])


def steps_of(episodes: Episodes, archetypes: int) -> Steps:
    """The steps of episodes whose people are of so many archetypes."""
    e, t = episodes.actions.shape
    before = episodes.perceived[:, :-1] - UNIFORM
    latest = np.concatenate([episodes.latest[:, None], episodes.distribution[:, :-1]], axis=1)
    inputs = np.concatenate(
        [
            np.repeat(np.eye(len(DOMAINS) + 1)[episodes.domain][:, None], t, axis=1),
            np.repeat(before[:, :1], t, axis=1),
            before,
            latest - UNIFORM,
            np.broadcast_to(time_feature(np.arange(t))[None, :, None], (e, t, 1)),
            np.broadcast_to(truth_feature(episodes.truth)[:, None, None], (e, t, 1)),
            episodes.activity[..., list(HIDDEN)],
        ],
        axis=2,
    )
    outputs = outputs_of(episodes.labels) * ~episodes.planted[..., None]
    counts = np.stack(
        [(outputs * (episodes.archetypes == a)[..., None]).sum(axis=2) for a in range(archetypes)],
        axis=2,
    )
    return Steps(
        event=np.repeat(episodes.event.astype(np.int64), t),
        inputs=inputs.reshape(e * t, -1),
        levels=notice_levels(episodes.activity).reshape(e * t, -1),
        counts=counts.reshape(e * t, archetypes, N_OUTPUTS),
    )


def association(episodes: Episodes) -> Floats:
    """Chances ``(12, 16)`` of the other labels by cell among the people's own reactions."""
    outputs = outputs_of(episodes.labels)[~episodes.planted]
    cells, others = outputs[:, :N_CELLS], outputs[:, N_CELLS:]
    # Cells that are rare lean on the average: as if ten more people of it were in each.
    count = cells.T @ others + 10.0 * others.mean(axis=0)
    return np.asarray(count / (cells.sum(axis=0)[:, None] + 10.0))


class _Parameters:
    """The parameters as tensors; notices are what all archetypes share plus their own."""

    def __init__(self, archetypes: int, start: _Parameters | None = None) -> None:
        shape = (len(VISIBLE), len(INTENSITIES), N_OUTPUTS)
        shapes = ((_INPUTS, N_OUTPUTS), (archetypes, N_OUTPUTS), shape, (archetypes, *shape))
        self.all: list[torch.Tensor] = [
            torch.zeros(s, dtype=torch.float64) if start is None else start.all[i].detach().clone()
            for i, s in enumerate(shapes)
        ]
        for tensor in self.all:
            tensor.requires_grad_(True)

    def log_chances(self, inputs: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
        weights, bias, shared, own = self.all
        logits = (inputs @ weights)[:, None, :] + bias
        table = shared + own  # (A, 3, 3, 28)
        none = torch.zeros_like(table[:, :, :1])
        table = torch.cat([table, none], dim=2)  # level -1 is the last
        for kind in range(len(VISIBLE)):
            logits = logits + table[:, kind][:, levels[:, kind]].transpose(0, 1)
        return torch.cat([torch.log_softmax(logits[..., g], dim=-1) for g in GROUPS], dim=-1)

    def penalty(self, shrinkage: float) -> torch.Tensor:
        factors = (1.0, _BIAS, _NOTICE, _OWN)
        parts = [f * (x**2).sum() for f, x in zip(factors, self.all, strict=True)]
        return 0.5 * shrinkage * torch.stack(parts).sum()

    def kernel(self) -> Kernel:
        weights, bias, shared, own = (x.detach().numpy() for x in self.all)
        ends = np.cumsum([len(DOMAINS) + 1, N_LABELS, N_LABELS, N_LABELS, 1, 1])
        domain, warmup, perceived, latest, time, truth, hidden = np.split(weights, ends)
        return Kernel(
            bias=bias.copy(),
            domain=domain.copy(),
            truth=truth[0].copy(),
            warmup=warmup.copy(),
            perceived=perceived.copy(),
            latest=latest.copy(),
            time=time[0].copy(),
            notices=shared + own,
            hidden=hidden.copy(),
        )


def _optimise(
    data: Steps,
    shrinkage: float,
    weight: Floats | None = None,
    start: _Parameters | None = None,
    iterations: int = _ITERATIONS,
) -> _Parameters:
    counts = data.counts if weight is None else data.counts * weight[:, None, None]
    used = counts.sum(axis=(1, 2)) > 0
    inputs, levels = torch.from_numpy(data.inputs[used]), torch.from_numpy(data.levels[used])
    target = torch.from_numpy(counts[used])
    size = max(1.0, float(target.sum()))
    parameters = _Parameters(data.counts.shape[1], start)
    method = torch.optim.LBFGS(
        parameters.all,
        max_iter=iterations,
        history_size=12,
        tolerance_grad=1e-9,
        tolerance_change=1e-12,
        line_search_fn="strong_wolfe",
    )

    def closure() -> torch.Tensor:
        method.zero_grad()
        loss = -(target * parameters.log_chances(inputs, levels)).sum()
        loss = (loss + parameters.penalty(shrinkage)) / size
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    method.step(closure)  # type: ignore[no-untyped-call, arg-type, unused-ignore]
    return parameters


def fit_kernel(data: Steps, shrinkage: float, iterations: int = _ITERATIONS) -> Kernel:
    """Fit one kernel; ``shrinkage`` is the precision of the prior on the weights."""
    return _optimise(data, shrinkage, iterations=iterations).kernel()


def likelihood(parameters: _Parameters, data: Steps) -> float:
    """Nats that a reaction costs, summed over the six groups."""
    with torch.no_grad():
        chances = parameters.log_chances(
            torch.from_numpy(data.inputs), torch.from_numpy(data.levels)
        ).numpy()
    people = data.counts[..., :N_CELLS].sum()
    return float(-(data.counts * chances).sum() / max(1.0, people))


@dataclass(frozen=True, slots=True)
class Fit:
    """What came of fitting."""

    kernel: Kernel
    members: tuple[Kernel, ...]
    shrinkage: float
    left_out: dict[float, float]  # nats a reaction on events left out, by shrinkage


def fit_surrogate(
    data: Steps,
    *,
    shrinkages: Sequence[float] = SHRINKAGES,
    members: int = MEMBERS,
    seed: int = 0,
    tell: Callable[[str], None] = lambda text: None,
) -> Fit:
    """Choose the shrinkage on events left out, fit all data, then the bootstrap ensemble."""
    held = data.event % _FOLD == 0
    scores: dict[float, float] = {}
    if len(shrinkages) > 1 and held.any() and not held.all():
        train, test = data.take(~held), data.take(held)
        for value in shrinkages:
            scores[value] = likelihood(_optimise(train, value), test)
            tell(f"shrinkage {value:g}: {scores[value]:.4f} nats a reaction on events left out")
    best = min(scores, key=lambda x: scores[x]) if scores else float(shrinkages[0])
    whole = _optimise(data, best)
    tell("fitted to all events")
    return Fit(
        whole.kernel(), tuple(ensemble(data, whole, best, members, seed, tell)), best, scores
    )


def ensemble(
    data: Steps,
    whole: _Parameters,
    shrinkage: float,
    members: int,
    seed: int,
    tell: Callable[[str], None],
) -> list[Kernel]:
    """Fits to bootstrap samples of the events, each started from the fit to all."""
    events, index = np.unique(data.event, return_inverse=True)
    kernels = []
    for number in range(members):
        rng = generator(_STREAM, seed, number)
        drawn = np.bincount(rng.integers(len(events), size=len(events)), minlength=len(events))
        again = _optimise(data, shrinkage, drawn[index].astype(float), whole, _AGAIN)
        kernels.append(again.kernel())
        tell(f"member {number + 1} of {members}")
    return kernels
