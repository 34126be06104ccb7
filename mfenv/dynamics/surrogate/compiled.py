"""The step of :mod:`mfenv.dynamics.surrogate.kernel`, compiled: one pass over each world.

The same arithmetic in the same order as far as it decides counts; the last bits may differ.
"""

from __future__ import annotations

import math
from dataclasses import fields
from typing import Any

import numpy as np
from numba import get_num_threads, njit, prange
from numpy.typing import NDArray

from mfenv.distributions import UNIFORM
from mfenv.dynamics.notices import VISIBLE
from mfenv.dynamics.reach import AMPLIFIED, BLOCKED, PERCEPTION_RATE, PLANTED, PLANTED_SHARE
from mfenv.dynamics.surrogate.kernel import Step, Worlds
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
from mfenv.dynamics.surrogate.sampling import (
    FEW,
    OCTAVES,
    PARTS,
    SMALL_VARIANCE,
    quantile_table,
)
from mfenv.interventions import DECAY, STRENGTHS, Kind
from mfenv.labels import N_LABELS, dimension, one_hot

__all__ = ["CompiledStep"]

_A = N_OUTPUTS
_ENDS = np.array([g.stop for g in GROUPS])
_N_GROUPS = len(GROUPS)
_WIDTH = 8  # archetypes that are worked out together, in vector instructions
_GROUP = np.concatenate([np.full(g.stop - g.start, i) for i, g in enumerate(GROUPS)])
_PLANTED = one_hot(PLANTED)
_KINDS = len(Kind)
_VISIBLE = np.array([int(k) for k in VISIBLE])
_HIDDEN = np.array(HIDDEN)
_STRENGTHS = np.array(STRENGTHS)
_STANCE = CELLS[:, 0].astype(np.int64)
_SHARED = CELLS[:, 2] == 1
_FLOOR = 0.1  # as in mfenv.interventions
_PLANTED_STANCE = int(PLANTED[dimension("stance")])
_STATEMENT_KINDS, _N_INTENSITIES = len(VISIBLE), len(STRENGTHS)
_SEED, _FRICTION = int(Kind.SEED), int(Kind.FRICTION)
_SUPPORT, _OPPOSE = int(Kind.AMPLIFY_SUPPORT), int(Kind.AMPLIFY_OPPOSE)
_DECAY = np.asarray(DECAY)
_LABELS = np.array([int(np.flatnonzero(row)[0]) for row in TO_LABELS[N_CELLS:]])
_CELL_LABELS = np.array([np.flatnonzero(row) for row in TO_LABELS[:N_CELLS]])
_QUANTILES = np.array(quantile_table())
_PARALLEL = 256  # worlds from which threads pay
_FEW = 64.0  # people up to whom a power is a few products
_TABLED = 65
_INVERSE = np.concatenate([np.ones(1), 1.0 / np.arange(1, _TABLED)])


@njit(cache=True, inline="always")
def _mix(z: Any) -> Any:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@njit(cache=True, inline="always")
def _absorb(state: Any, word: Any) -> Any:
    gamma = np.uint64(0x9E3779B97F4A7C15)
    return _mix(state * gamma + np.uint64(word) + gamma)


@njit(cache=True)
def _quantile(u: float) -> float:
    tail = min(u, 1.0 - u)
    tail = max(tail, 2.0 ** -(OCTAVES + 1))
    if tail >= 0.5:
        return 0.0
    mantissa, exponent = math.frexp(tail)
    place = (2.0 * mantissa - 1.0) * PARTS
    column = min(int(place), PARTS - 1)
    low = _QUANTILES[-exponent - 1, column]
    z = low + (_QUANTILES[-exponent - 1, column + 1] - low) * (place - column)
    return z if u < 0.5 else -z


@njit(cache=True)
def _binomial(n: float, p: float, u: float) -> float:
    if n <= 0.0 or p <= 0.0:
        return 0.0
    if p >= 1.0:
        return n
    turned = p > 0.5
    small = 1.0 - p if turned else p
    v = 1.0 - u if turned else u
    mean = n * small
    variance = mean * (1.0 - small)
    if variance < SMALL_VARIANCE:
        mass = (1.0 - small) ** int(n) if n <= _FEW else math.exp(n * math.log1p(-small))
        odds = small / (1.0 - small)
        cdf = mass
        k = 0.0
        while v >= cdf and k < n:
            if k > 0.0 and mass <= 1e-18 and k >= mean:
                break
            k += 1.0
            scale = _INVERSE[int(k)] if k < _TABLED else 1.0 / k
            mass *= (n - k + 1.0) * scale * odds
            cdf += mass
    else:
        z = _quantile(v)
        k = math.floor(
            mean + math.sqrt(variance) * z + (1.0 - 2.0 * small) * (z * z - 1.0) / 6.0 + 0.5
        )
        k = min(max(k, 0.0), n)
    return n - k if turned else k


@njit(cache=True, fastmath={"contract", "reassoc"})
def _exponentials(x: Any, top: float) -> None:
    """exp(x - top) in place, for x up to ``top``: a series at a 1024th, squared ten times.

    Products alone, so that the loop becomes vector instructions; within 1e-12 where it counts.
    """
    for m in range(_A):
        r = max(x[m] - top, -500.0) * (1.0 / 1024.0)
        y = 1.0 + r * (
            1.0
            + r
            * (0.5 + r * (1 / 6 + r * (1 / 24 + r * (1 / 120 + r * (1 / 720 + r * (1 / 5040))))))
        )
        y = y * y
        y = y * y
        y = y * y
        y = y * y
        y = y * y
        y = y * y
        y = y * y
        y = y * y
        y = y * y
        x[m] = y * y


@njit(cache=True)
def _each(key: Any, batch: int, own: int, p: Any, u: Any, counts: Any) -> None:
    """Counts of few people, one uniform each in every group."""
    first = 0
    for g in range(_N_GROUPS):
        for q in range(own):
            word = _absorb(key, g * batch + q)
            u[q] = float(np.int64(word >> np.uint64(11))) * 2.0**-53
        edge, before = 0.0, own
        for m in range(first, _ENDS[g] - 1):
            edge += p[m]
            beyond = 0
            for q in range(own):
                beyond += u[q] >= edge
            counts[m] = before - beyond
            before = beyond
        counts[_ENDS[g] - 1] = before
        first = _ENDS[g]


@njit(cache=True)
def _together(key: Any, own: float, p: Any, counts: Any) -> None:
    """Counts of many people, one uniform for each count but the last of a group."""
    draw, first = 0, 0
    for g in range(_N_GROUPS):
        left, mass = own, 0.0
        for m in range(first, _ENDS[g]):
            mass += p[m]
        for m in range(first, _ENDS[g] - 1):
            count = 0.0
            if left > 0.0 and mass > 0.0:
                word = _absorb(key, draw)
                u = float(np.int64(word >> np.uint64(11))) * 2.0**-53
                count = _binomial(left, p[m] / mass, u)
            counts[m] = count
            left -= count
            mass -= p[m]
            draw += 1
        counts[_ENDS[g] - 1] = left
        first = _ENDS[g]


@njit(cache=True, fastmath={"contract", "reassoc"})
def _range(
    start: int,
    stop: int,
    seed: Any,
    member: Any,
    offset: Any,
    mixture: Any,
    steps: Any,
    perceived: Any,
    latest: Any,
    activity: Any,
    actions: Any,
    bias: Any,
    on_perceived: Any,
    on_latest: Any,
    on_time: Any,
    on_hidden: Any,
    notices: Any,
    association: Any,
    identified: Any,
    batch: float,
    before: float,
    out_distribution: Any,
    out_own: Any,
    out_perceived: Any,
    out_activity: Any,
) -> None:
    """Step worlds ``start`` to ``stop``; ``bias`` and ``notices`` are exponentials."""
    effective = np.empty(_KINDS)
    levels = np.empty(_STATEMENT_KINDS, dtype=np.int64)
    logits, p, counts, u = np.empty(_A), np.empty(_A), np.empty(_A), np.empty(FEW)
    e, sums, weights = np.empty((_A, _WIDTH)), np.empty((_N_GROUPS, _WIDTH)), np.empty(_WIDTH)
    shares, reached = np.empty(N_LABELS), np.empty(N_LABELS)
    weighted, others = np.empty(N_CELLS), np.empty(_A - N_CELLS)
    for i in range(start, stop):
        # What runs.
        action = actions[i]
        for k in range(_KINDS):
            a = activity[i, k] * _DECAY[k]
            if a < _FLOOR:
                a = 0.0
            if action > 0 and (action - 1) // _N_INTENSITIES == k:
                a = max(a, _STRENGTHS[(action - 1) % _N_INTENSITIES])
            out_activity[i, k] = a
            effective[k] = a * identified[k]

        # Chances of somebody drawn from the mixture.
        fit = member[i]
        logits[:] = offset[i]
        for x in range(N_LABELS):
            z = perceived[i, x] - UNIFORM[x]
            d = latest[i, x] - UNIFORM[x]
            for m in range(_A):
                logits[m] += z * on_perceived[fit, x, m] + d * on_latest[fit, x, m]
        time = steps[i] / (steps[i] + 16.0)
        for m in range(_A):
            logits[m] += time * on_time[fit, m]
        for h in range(len(_HIDDEN)):
            a = effective[_HIDDEN[h]]
            if a > 0.0:
                for m in range(_A):
                    logits[m] += a * on_hidden[fit, h, m]
        for k in range(_STATEMENT_KINDS):
            a = effective[_VISIBLE[k]]
            levels[k] = -1
            if a >= _FLOOR:
                best = 0
                for s in range(1, _N_INTENSITIES):
                    if abs(a - _STRENGTHS[s]) < abs(a - _STRENGTHS[best]):
                        best = s
                levels[k] = best
        # Chances relative to one another: exponentials of sums are products of exponentials.
        top = logits[0]
        for m in range(1, _A):
            top = max(top, logits[m])
        _exponentials(logits, top)
        for m in range(_A):
            p[m] = 0.0
        for block in range(0, mixture.shape[1], _WIDTH):
            for g in range(_N_GROUPS):
                for a in range(_WIDTH):
                    sums[g, a] = 0.0
            for m in range(_A):
                for a in range(_WIDTH):
                    e[m, a] = logits[m] * bias[fit, m, block + a]
            for k in range(_STATEMENT_KINDS):
                if levels[k] >= 0:
                    for m in range(_A):
                        for a in range(_WIDTH):
                            e[m, a] *= notices[fit, k, levels[k], m, block + a]
            for m in range(_A):
                g = _GROUP[m]
                for a in range(_WIDTH):
                    sums[g, a] += e[m, a]
            some = min(_WIDTH, mixture.shape[1] - block)
            for a in range(_WIDTH):
                weights[a] = mixture[i, block + a] if a < some else 0.0
            for g in range(_N_GROUPS):
                for a in range(_WIDTH):
                    sums[g, a] = weights[a] / sums[g, a]
            for m in range(_A):
                g, chance = _GROUP[m], 0.0
                for a in range(_WIDTH):
                    chance += sums[g, a] * e[m, a]
                p[m] += chance

        # Counts.
        planted = np.rint(effective[_SEED] * batch * PLANTED_SHARE)
        own = batch - planted
        key = _absorb(_absorb(np.uint64(0), seed[i]), steps[i])
        if batch <= FEW:
            _each(key, int(batch), int(own), p, u, counts)
        else:
            _together(key, own, p, counts)
        out_own[i] = int(own)

        # The observed shares.
        people = own if own > 0.0 else 1.0
        shares[:] = 0.0
        for c in range(N_CELLS):
            for j in range(3):
                shares[_CELL_LABELS[c, j]] += counts[c]
        for m in range(_A - N_CELLS):
            shares[_LABELS[m]] = counts[N_CELLS + m]
        for x in range(N_LABELS):
            out_distribution[i, x] = shares[x] / people if own > 0.0 else latest[i, x]

        # What reaches the mean field.
        support = AMPLIFIED * effective[_SUPPORT]
        oppose = AMPLIFIED * effective[_OPPOSE]
        through = 1.0 - BLOCKED * effective[_FRICTION]
        mine = 0.0
        for c in range(N_CELLS):
            w = 1.0
            if _STANCE[c] == 0:
                w += support
            elif _STANCE[c] == 1:
                w += oppose
            if _SHARED[c]:
                w *= through
            weighted[c] = counts[c] * w
            mine += weighted[c]
        reached[:] = 0.0
        if mine > 0.0:
            for m in range(_A - N_CELLS):
                others[m] = counts[N_CELLS + m] / people
            for c in range(N_CELLS):
                share = weighted[c] / mine
                for j in range(3):
                    reached[_CELL_LABELS[c, j]] += share
                move = share - counts[c] / people
                if move != 0.0:
                    for m in range(_A - N_CELLS):
                        others[m] += move * association[c, m]
            first = N_CELLS
            for g in range(1, len(_ENDS)):
                total = 0.0
                for m in range(first - N_CELLS, _ENDS[g] - N_CELLS):
                    others[m] = max(others[m], 0.0)
                    total += others[m]
                for m in range(first - N_CELLS, _ENDS[g] - N_CELLS):
                    reached[_LABELS[m]] = others[m] / total if total > 0.0 else 0.0
                first = _ENDS[g]
        seeds = planted
        if _PLANTED_STANCE == 0:
            seeds *= 1.0 + support
        elif _PLANTED_STANCE == 1:
            seeds *= 1.0 + oppose
        weight = mine + seeds
        rate = max(PERCEPTION_RATE, 1.0 / (before + steps[i] + 1.0))
        for x in range(N_LABELS):
            if weight > 0.0:
                new = (mine * reached[x] + seeds * _PLANTED[x]) / weight
                out_perceived[i, x] = (1.0 - rate) * perceived[i, x] + rate * new
            else:
                out_perceived[i, x] = perceived[i, x]


@njit(cache=True, parallel=True)
def _threads(chunks: int, k: int, *args: Any) -> None:
    for c in prange(chunks):
        _range(c * k // chunks, (c + 1) * k // chunks, *args)


def _wide(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Filled up with ones to a whole number of widths along the last axis."""
    missing = -values.shape[-1] % _WIDTH
    filler = np.ones((*values.shape[:-1], missing))
    return np.ascontiguousarray(np.concatenate([values, filler], axis=-1))


class CompiledStep:
    """:func:`mfenv.dynamics.surrogate.kernel.step` of one model, compiled on first use."""

    def __init__(self, model: SurrogateModel) -> None:
        every = (model.kernel, *model.members)
        stacked = {
            f.name: np.ascontiguousarray(np.stack([getattr(k, f.name) for k in every]))
            for f in fields(Kernel)
        }
        self._parameters = (
            _wide(np.exp(stacked["bias"]).transpose(0, 2, 1)),
            stacked["perceived"],
            stacked["latest"],
            stacked["time"],
            stacked["hidden"],
            _wide(np.exp(stacked["notices"]).transpose(0, 2, 3, 4, 1)),
            np.ascontiguousarray(model.association),
            np.array(model.identified, dtype=float),
        )

    def __call__(
        self, worlds: Worlds, actions: NDArray[np.int64], *, batch: int, warmup: int
    ) -> Step:
        """Let ``batch`` people act in each world under flat actions ``(K,)``."""
        k = len(worlds)
        distribution, perceived = np.empty((k, N_LABELS)), np.empty((k, N_LABELS))
        own, activity = np.empty(k, dtype=np.int64), np.empty((k, _KINDS))
        arguments = (
            worlds.seed,
            worlds.member,
            worlds.offset,
            worlds.mixture,
            worlds.step,
            worlds.perceived,
            worlds.latest,
            worlds.activity,
            np.asarray(actions, dtype=np.int64),
            *self._parameters,
            float(batch),
            warmup / min(batch, 16),
            distribution,
            own,
            perceived,
            activity,
        )
        if k >= _PARALLEL:
            _threads(4 * get_num_threads(), k, *arguments)
        else:
            _range(0, k, *arguments)
        return Step(distribution, own, perceived, activity)
