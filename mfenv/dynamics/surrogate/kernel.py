"""One step of ``K`` worlds of counted people, as pure functions on arrays.

The people who act are drawn from the event's mixture of archetypes, so the counts of their labels
are multinomial with the mixture of the archetypes' chances: what would come of drawing everybody's
archetype first and the labels then, at a cost that does not depend on how many they are. The
dimensions are drawn given everything but one another, except stance, belief and behaviour, which
are drawn together. How the others go with them, on average, is the model's ``association``; it
tells what friction and amplification let through of the other labels.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mfenv.distributions import UNIFORM, normalise
from mfenv.dynamics.notices import VISIBLE
from mfenv.dynamics.reach import (
    BLOCKED,
    PERCEPTION_RATE,
    PLANTED,
    level_strength,
    planted_count,
    stance_weights,
)
from mfenv.dynamics.society import next_activities
from mfenv.dynamics.surrogate.model import (
    CELLS,
    GROUPS,
    HIDDEN,
    N_CELLS,
    N_OUTPUTS,
    TO_LABELS,
    Kernel,
    SurrogateModel,
)
from mfenv.dynamics.surrogate.sampling import FEW, categorical_counts, multinomial
from mfenv.interventions import STRENGTHS, Kind
from mfenv.labels import dimension, one_hot
from mfenv.noise import uniform

__all__ = [
    "Step",
    "Worlds",
    "advance",
    "archetype_chances",
    "begin",
    "chances",
    "notice_levels",
    "offsets",
    "play",
    "step",
    "time_feature",
    "truth_feature",
]

Floats = NDArray[np.float64]

_HALF = 16.0  # steps after which the feature of time is a half
_BATCH = 16  # the language-model tier's: what a full batch is when perception begins
_PLANTED = one_hot(PLANTED)
_PLANTED_STANCE = int(PLANTED[dimension("stance")])
_SHARES = CELLS[:, 2] == 1


@dataclass(frozen=True)
class Worlds:
    """``K`` worlds: what an episode fixes, and where it stands."""

    seed: NDArray[np.int64]  # (K,) of the noise
    member: NDArray[np.int64]  # (K,) 0: the fit to all data; i + 1: member i of the ensemble
    offset: Floats  # (K, 28) logits that the event and its warm-up fix
    mixture: Floats  # (K, A)
    step: NDArray[np.int64]  # (K,) steps since the warm-up
    perceived: Floats  # (K, 23)
    latest: Floats  # (K, 23) shares of the latest batch
    activity: Floats  # (K, 6)

    def __len__(self) -> int:
        return len(self.seed)

    def put(self, index: NDArray[np.intp], new: Worlds) -> None:
        """Overwrite the worlds at ``index``."""
        for f in fields(self):
            getattr(self, f.name)[index] = getattr(new, f.name)

    def copy(self) -> Worlds:
        """An independent copy."""
        return Worlds(**{f.name: getattr(self, f.name).copy() for f in fields(self)})


@dataclass(frozen=True, slots=True)
class Step:
    """What a step of ``K`` worlds came to."""

    distribution: Floats  # (K, 23) of the people's own reactions
    own: NDArray[np.int64]  # (K,) how many those are
    perceived: Floats  # (K, 23) after the step
    activity: Floats  # (K, 6) during the step


def time_feature(step: ArrayLike) -> Floats:
    """``t / (t + 16)`` of steps since the warm-up; same shape."""
    step = np.asarray(step, dtype=float)
    return step / (step + _HALF)


def notice_levels(activity: ArrayLike) -> NDArray[np.intp]:
    """Level that a notice of each visible kind states, -1 where there is none: ``(..., 3)``."""
    shown = level_strength(np.asarray(activity, dtype=float)[..., list(VISIBLE)])
    return np.where(shown > 0, np.abs(shown[..., None] - STRENGTHS).argmin(axis=-1), -1)


def offsets(kernel: Kernel, domain: ArrayLike, truth: ArrayLike, warmup: ArrayLike) -> Floats:
    """Logits ``(K, 28)`` that do not change in an episode.

    Domains ``(K,)``, truths ``(K,)`` (1, 0, or -1 where not known) and warm-ups ``(K, 23)``.
    """
    return np.asarray(
        kernel.domain[np.asarray(domain)]
        + truth_feature(truth)[:, None] * kernel.truth
        + (np.asarray(warmup) - UNIFORM) @ kernel.warmup
    )


def truth_feature(truth: ArrayLike) -> Floats:
    """1.0 for a true topic (1), -1.0 for a false one (0), 0.0 where it is not known (-1)."""
    truth = np.asarray(truth)
    return np.where(truth < 0, 0.0, 2.0 * truth - 1.0)


def begin(
    model: SurrogateModel,
    *,
    seed: ArrayLike,
    member: ArrayLike,
    domain: ArrayLike,
    truth: ArrayLike,
    perceived: ArrayLike,
    latest: ArrayLike,
    mixture: ArrayLike,
) -> Worlds:
    """Worlds after their warm-up; ``member`` -1 is the fit to all data.

    ``(K,)`` seeds, members, domains and truths, ``(K, 23)`` perceived and latest shares,
    ``(K, A)``.
    """
    seed = np.array(seed, dtype=np.int64)
    chosen = np.array(member, dtype=np.int64) + 1
    perceived = np.array(perceived, dtype=float)
    domain, truth = np.asarray(domain), np.asarray(truth)
    offset = np.empty((len(seed), N_OUTPUTS))
    for i in np.unique(chosen).tolist():
        mine = chosen == i
        offset[mine] = offsets(_fit(model, i), domain[mine], truth[mine], perceived[mine])
    return Worlds(
        seed=seed,
        member=chosen,
        offset=offset,
        mixture=np.array(mixture, dtype=float),
        step=np.zeros(len(seed), dtype=np.int64),
        perceived=perceived,
        latest=np.array(latest, dtype=float),
        activity=np.zeros((len(seed), len(Kind))),
    )


def _fit(model: SurrogateModel, place: int) -> Kernel:
    return model.kernel if place == 0 else model.members[place - 1]


def archetype_chances(
    kernel: Kernel,
    offset: Floats,
    perceived: Floats,
    latest: Floats,
    step: ArrayLike,
    activity: Floats,
) -> Floats:
    """Chances ``(K, A, 28)`` of every output of each archetype; six groups that each sum to 1."""
    levels = notice_levels(activity)
    shared = (
        offset
        + (perceived - UNIFORM) @ kernel.perceived
        + (latest - UNIFORM) @ kernel.latest
        + time_feature(step)[:, None] * kernel.time
        + activity[:, list(HIDDEN)] @ kernel.hidden
    )
    logits = shared[:, None, :] + kernel.bias
    for kind in range(len(VISIBLE)):
        shown = np.flatnonzero(levels[:, kind] >= 0)
        if len(shown):
            logits[shown] += kernel.notices[:, kind, levels[shown, kind]].transpose(1, 0, 2)
    for group in GROUPS:
        part = logits[..., group]
        part = np.exp(part - part.max(axis=-1, keepdims=True))
        logits[..., group] = part / part.sum(axis=-1, keepdims=True)
    return logits


def chances(model: SurrogateModel, worlds: Worlds, activity: Floats) -> Floats:
    """Chances ``(K, 28)`` of somebody who acts, drawn from each world's mixture."""
    result = np.empty((len(worlds), N_OUTPUTS))
    for place in np.unique(worlds.member).tolist():
        i = np.flatnonzero(worlds.member == place)
        each = archetype_chances(
            _fit(model, place),
            worlds.offset[i],
            worlds.perceived[i],
            worlds.latest[i],
            worlds.step[i],
            activity[i],
        )
        result[i] = (worlds.mixture[i][:, :, None] * each).sum(axis=1)
    return result


def perception_rates(step: NDArray[np.int64], warmup: int, batch: int) -> Floats:
    """Weight ``(K,)`` of a step's batch in what is perceived, as in the language-model tier.

    Where more act at once than in that tier, a batch counts as one of its batches does.
    """
    before = warmup / min(batch, _BATCH) + np.asarray(step)
    return np.asarray(np.maximum(PERCEPTION_RATE, 1.0 / (before + 1.0)))


def step(
    model: SurrogateModel, worlds: Worlds, actions: ArrayLike, *, batch: int, warmup: int
) -> Step:
    """Let ``batch`` people act in each world under flat actions ``(K,)``.

    Changes nothing; :func:`advance` moves the worlds on. Kinds that the model does not identify
    run (they are active) but have no effect.
    """
    activity = next_activities(worlds.activity, actions)
    effective = activity * np.asarray(model.identified)
    planted = planted_count(effective, batch).astype(float)
    own = batch - planted
    p = chances(model, worlds, effective)
    counts = _counts(worlds, p, own, batch)
    distribution = np.where(own[:, None] > 0, normalise(counts @ TO_LABELS), worlds.latest)
    reached, weight = _reached(model, counts, own, planted, effective)
    rate = perception_rates(worlds.step, warmup, batch)[:, None]
    perceived = np.where(
        weight[:, None] > 0, (1.0 - rate) * worlds.perceived + rate * reached, worlds.perceived
    )
    return Step(distribution, own.astype(np.int64), perceived, activity)


def _counts(worlds: Worlds, p: Floats, own: Floats, batch: int) -> Floats:
    """Counts ``(K, 28)`` of ``own`` ``(K,)`` people by chances ``(K, 28)``."""
    few = batch <= FEW
    sizes = [batch if few else g.stop - g.start - 1 for g in GROUPS]
    u = uniform(worlds.seed[:, None], worlds.step[:, None], np.arange(sum(sizes)))
    draw = categorical_counts if few else multinomial
    counts, first = np.empty_like(p), 0
    for group, size in zip(GROUPS, sizes, strict=True):
        counts[:, group] = draw(own, p[:, group], u[:, first : first + size])
        first += size
    return counts


def _reached(
    model: SurrogateModel, counts: Floats, own: Floats, planted: Floats, activity: Floats
) -> tuple[Floats, Floats]:
    """Shares ``(K, 23)`` of what reaches the mean field, and its weight ``(K,)``."""
    cells = counts[:, :N_CELLS]
    w = stance_weights(activity[:, None, :], CELLS[:, 0])
    w = w * np.where(_SHARES, 1.0 - BLOCKED * activity[:, Kind.FRICTION, None], 1.0)
    weighted = cells * w
    mine = weighted.sum(axis=1)
    shares = np.zeros_like(counts)
    shares[:, :N_CELLS] = weighted / np.where(mine > 0, mine, 1.0)[:, None]
    people = np.where(own > 0, own, 1.0)[:, None]
    # Labels beside the cells: as drawn, and moved as the cells that get through have it.
    moved = (shares[:, :N_CELLS] - cells / people) @ model.association
    shares[:, N_CELLS:] = np.maximum(counts[:, N_CELLS:] / people + moved, 0.0)
    for group in GROUPS[1:]:
        total = shares[:, group].sum(axis=1, keepdims=True)
        shares[:, group] /= np.where(total > 0, total, 1.0)
    seeds = planted * stance_weights(activity, np.array(_PLANTED_STANCE))
    weight = mine + seeds
    reached = mine[:, None] * (shares @ TO_LABELS) + seeds[:, None] * _PLANTED
    return reached / np.where(weight > 0, weight, 1.0)[:, None], weight


def advance(worlds: Worlds, result: Step, active: NDArray[np.bool_] | None = None) -> None:
    """Move the worlds to after a step, in place; where ``active`` is false they stay."""
    everyone = active is None or bool(active.all())
    i = slice(None) if everyone or active is None else np.flatnonzero(active)
    worlds.step[i] += 1
    worlds.perceived[i] = result.perceived[i]
    worlds.latest[i] = result.distribution[i]
    worlds.activity[i] = result.activity[i]


def play(
    model: SurrogateModel,
    worlds: Worlds,
    actions: NDArray[np.int64],
    active: NDArray[np.bool_],
    *,
    batch: int,
    warmup: int,
) -> NDArray[np.int64]:
    """:func:`step` and :func:`advance` the active worlds, in place.

    Returns how many of the people who acted ``(K,)`` are the population's own; 0 where nobody did.
    """
    result = step(model, worlds, actions, batch=batch, warmup=warmup)
    advance(worlds, result, active)
    return np.where(active, result.own, 0)
