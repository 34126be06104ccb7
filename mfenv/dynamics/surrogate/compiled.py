"""The step of :mod:`mfenv.dynamics.surrogate.kernel`, compiled: eight worlds in one pass.

The same arithmetic as far as it decides counts; the last bits may differ. A world's bits depend
neither on its place nor on what steps beside it: worlds of the same fit are packed into eights,
and what differs between the worlds of an eight is done lane by lane.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import config, njit
from numpy.typing import NDArray

from mfenv.distributions import UNIFORM
from mfenv.dynamics.notices import VISIBLE
from mfenv.dynamics.reach import AMPLIFIED, BLOCKED, PERCEPTION_RATE, PLANTED, PLANTED_SHARE
from mfenv.dynamics.surrogate.kernel import Worlds
from mfenv.dynamics.surrogate.model import (
    CELLS,
    GROUPS,
    HIDDEN,
    N_CELLS,
    N_OUTPUTS,
    TO_LABELS,
    SurrogateModel,
)
from mfenv.dynamics.surrogate.sampling import (
    FEW,
    OCTAVES,
    PARTS,
    SMALL_VARIANCE,
    quantile_table,
)
from mfenv.dynamics.surrogate.threads import Threads
from mfenv.dynamics.surrogate.vectors import (
    LANES,
    at_least,
    below,
    bits,
    ceiling,
    count,
    doubles,
    floor,
    fma,
    larger,
    load,
    load_words,
    pick,
    power_of_two,
    some,
    square_root,
    store,
    store_words,
    take,
    total,
    truncated,
    words,
)
from mfenv.interventions import DECAY, STRENGTHS, Kind
from mfenv.labels import N_LABELS, dimension, one_hot

__all__ = ["CompiledStep"]

_A = N_OUTPUTS
_ENDS = np.array([g.stop for g in GROUPS])
_STARTS = np.array([g.start for g in GROUPS])
_N_GROUPS = len(GROUPS)
_INPUTS = 2 * N_LABELS + 1 + len(HIDDEN)  # perceived, latest, time, hidden kinds
_TOGETHER = 7  # outputs that are worked out together, in registers
_PLANTED = one_hot(PLANTED)
_KINDS = len(Kind)
_VISIBLE = np.array([int(k) for k in VISIBLE])
_N_VISIBLE = len(VISIBLE)
_HIDDEN = np.array(HIDDEN)
_STRENGTHS = np.array(STRENGTHS)
_STANCE = CELLS[:, 0].astype(np.int64)
_SHARED = CELLS[:, 2] == 1
_FLOOR = 0.1  # as in mfenv.interventions
_PLANTED_STANCE = int(PLANTED[dimension("stance")])
_N_INTENSITIES = len(STRENGTHS)
_SEED, _FRICTION = int(Kind.SEED), int(Kind.FRICTION)
_SUPPORT, _OPPOSE = int(Kind.AMPLIFY_SUPPORT), int(Kind.AMPLIFY_OPPOSE)
_DECAY = np.asarray(DECAY)
_UNIFORM = np.array(UNIFORM)
_LABELS = np.array([int(np.flatnonzero(row)[0]) for row in TO_LABELS[N_CELLS:]])
_CELL_LABELS = np.array([np.flatnonzero(row) for row in TO_LABELS[:N_CELLS]])
_CORE_LABELS = np.unique(_CELL_LABELS)
_QUANTILES = np.array(quantile_table()).ravel()
_HALF = 0.5 - 2.0**-54
_ARTANH = np.array([1.0 / (2 * k + 1) for k in range(17, -1, -1)])
_PARALLEL = 1024  # worlds from which threads pay
_PARTS = 8  # that threads take one after the other
_TABLED = 65
_INVERSE = np.concatenate([np.ones(1), 1.0 / np.arange(1, _TABLED)])
_GAMMA = np.uint64(0x9E3779B97F4A7C15).astype(np.int64)
_MIX1 = np.uint64(0xBF58476D1CE4E5B9).astype(np.int64)
_MIX2 = np.uint64(0x94D049BB133111EB).astype(np.int64)
_MAGIC = 1.5 * 2.0**52  # a double's last bit is a one's
_LOG2_E = 1.0 / math.log(2.0)
_LN2_HIGH, _LN2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10  # fdlibm's
_SERIES = np.array([1.0 / math.factorial(k) for k in range(13, -1, -1)])


@njit(cache=True, inline="always")
def _mix(z: Any) -> Any:
    """Eight words, mixed as :mod:`mfenv.noise` mixes."""
    z = (z ^ (z >> words(30))) * words(_MIX1)
    z = (z ^ (z >> words(27))) * words(_MIX2)
    return z ^ (z >> words(31))


@njit(cache=True, inline="always")
def _opened(state: Any) -> Any:
    """What a word of the key is added to."""
    return state * words(_GAMMA) + words(_GAMMA)


@njit(cache=True, inline="always")
def _exponential(x: Any) -> Any:
    """exp of what is not positive, within 4e-16 where it is above 1e-280."""
    x = larger(x, doubles(-650.0))
    near = fma(x, doubles(_LOG2_E), doubles(_MAGIC))
    k = near - doubles(_MAGIC)
    r = fma(k, doubles(-_LN2_LOW), fma(k, doubles(-_LN2_HIGH), x))
    y = doubles(_SERIES[0])
    for term in range(1, len(_SERIES)):
        y = fma(y, r, doubles(_SERIES[term]))
    return power_of_two(y, near)


@njit(cache=True, inline="always")
def _quantiles(u: Any) -> Any:
    """Quantiles of the standard normal, by the table."""
    upper = doubles(1.0) - u
    tail = pick(below(u, upper), u, upper)
    tail = larger(tail, doubles(2.0 ** -(OCTAVES + 1)))
    tail = pick(below(tail, doubles(_HALF)), tail, doubles(_HALF))
    stored = bits(tail)
    place = doubles(stored & words(2**52 - 1)) * doubles(PARTS * 2.0**-52)
    column = truncated(place)
    index = (words(1021) - (stored >> words(52))) * words(PARTS + 1) + column
    low = take(_QUANTILES, index)
    high = take(_QUANTILES, index + words(1))
    z = fma(high - low, place - doubles(column), low)
    return pick(below(u, doubles(0.5)), z, doubles(0.0) - z)


@njit(cache=True, inline="always")
def _log_of_rest(p: Any) -> Any:
    """log(1 - p) for p up to a half: -2 artanh(p / (2 - p)), by its series."""
    z = p / (doubles(2.0) - p)
    square = z * z
    y = doubles(_ARTANH[0])
    for term in range(1, len(_ARTANH)):
        y = fma(y, square, doubles(_ARTANH[term]))
    return doubles(-2.0) * z * y


@njit(cache=True)
def _binomials(n: Any, p: Any, u: Any) -> Any:
    """:func:`mfenv.dynamics.surrogate.sampling.binomial` of eight."""
    one, nothing = doubles(1.0), doubles(0.0)
    turned = below(doubles(0.5), p)
    small = larger(pick(turned, one - p, p), nothing)
    v = pick(turned, one - u, u)
    mean = n * small
    variance = mean * (one - small)
    exact = below(variance, doubles(SMALL_VARIANCE))
    number = nothing
    if some(exact):
        mass = _exponential(n * _log_of_rest(small))
        odds = small / (one - small)
        cdf = mass
        k = 0
        running = exact & at_least(v, cdf)
        while some(running):
            k += 1
            scale = _INVERSE[k] if k < _TABLED else 1.0 / k
            mass = mass * ((n - doubles(k - 1)) * doubles(scale) * odds)
            number = number + pick(running, one, nothing)
            cdf = cdf + mass
            going = below(doubles(1e-18), mass) | below(doubles(k), mean)
            running = running & at_least(v, cdf) & below(number, n) & going
    if some(at_least(variance, doubles(SMALL_VARIANCE))):
        z = _quantiles(v)
        skew = (one - doubles(2.0) * small) * (z * z - one) * doubles(1.0 / 6.0)
        wide = floor(mean + square_root(variance) * z + skew + doubles(0.5))
        wide = larger(pick(below(wide, n), wide, n), nothing)
        number = pick(exact, number, wide)
    return pick(turned, n - number, number)


@njit(cache=True)
def _aligned(size: int) -> Any:
    """Zeros that start where a cache line does."""
    whole = np.zeros(size + LANES)
    skip = (-(whole.ctypes.data // 8)) % LANES
    return whole[skip : skip + size]


@njit(cache=True)
def _packed(member: Any, active: Any, fits: int) -> Any:
    """Active worlds ``(blocks, 8)`` in eights of the same fit, -1 where there is none."""
    size = np.zeros(fits, dtype=np.int64)
    for i in range(len(member)):
        size[member[i]] += active[i]
    first = np.zeros(fits + 1, dtype=np.int64)
    for f in range(fits):
        first[f + 1] = first[f] + (size[f] + LANES - 1) // LANES
    table = np.full(first[fits] * LANES, -1, dtype=np.int64)
    place = first[:fits] * LANES
    for i in range(len(member)):
        if active[i]:
            f = member[i]
            table[place[f]] = i
            place[f] += 1
    return table.reshape(-1, LANES)


@njit(cache=True)
def _each(key: Any, batch: int, own: Any, p: Any, drawn: Any, counts: Any) -> None:
    """Counts of few people, one uniform each in every group."""
    opened = _opened(key)
    for g in range(_N_GROUPS):
        for q in range(batch):
            word = _mix(opened + words(g * batch + q)) >> words(11)
            acts = at_least(own, doubles(q + 0.5))
            store_words(drawn, q * LANES, pick(acts, word, words(-1)))
        edge, before = doubles(0.0), own
        for m in range(_STARTS[g], _ENDS[g] - 1):
            edge = edge + load(p, m * LANES)
            least = ceiling(edge * doubles(2.0**53))
            beyond = words(0)
            for q in range(batch):
                beyond = beyond + count(at_least(load_words(drawn, q * LANES), least))
            after = doubles(beyond)
            store(counts, m * LANES, before - after)
            before = after
        store(counts, (_ENDS[g] - 1) * LANES, before)


@njit(cache=True)
def _together(key: Any, own: Any, p: Any, counts: Any) -> None:
    """Counts of many people, one uniform for each count but the last of a group."""
    opened = _opened(key)
    draw = 0
    for g in range(_N_GROUPS):
        left, mass = own, doubles(0.0)
        for m in range(_STARTS[g], _ENDS[g]):
            mass = mass + load(p, m * LANES)
        for m in range(_STARTS[g], _ENDS[g] - 1):
            u = doubles(_mix(opened + words(draw)) >> words(11)) * doubles(2.0**-53)
            each = load(p, m * LANES)
            chance = pick(below(doubles(0.0), mass), each / mass, doubles(0.0))
            chance = pick(below(chance, doubles(1.0)), chance, doubles(1.0))
            number = _binomials(left, chance, u)
            store(counts, m * LANES, number)
            left, mass = left - number, mass - each
            draw += 1
        store(counts, (_ENDS[g] - 1) * LANES, left)


@njit(cache=True)
def _relative(fit: int, inputs: Any, weights: Any, odds: Any) -> None:
    """Outputs' chances relative to one another, before what archetypes and notices do to them.

    ``odds`` holds what is fixed, and takes the result.
    """
    top = doubles(-1e300)
    for block in range(_A // _TOGETHER):
        m = block * _TOGETHER * LANES
        a, b, c, d = (
            load(odds, m), load(odds, m + 8), load(odds, m + 16), load(odds, m + 24),
        )  # fmt: skip
        e, f, g = load(odds, m + 32), load(odds, m + 40), load(odds, m + 48)
        for x in range(_INPUTS):
            z = load(inputs, x * LANES)
            w = weights[fit, block, x]
            a = fma(z, doubles(w[0]), a)
            b = fma(z, doubles(w[1]), b)
            c = fma(z, doubles(w[2]), c)
            d = fma(z, doubles(w[3]), d)
            e = fma(z, doubles(w[4]), e)
            f = fma(z, doubles(w[5]), f)
            g = fma(z, doubles(w[6]), g)
        top = larger(top, larger(larger(larger(a, b), larger(c, d)), larger(larger(e, f), g)))
        store(odds, m, a)
        store(odds, m + 8, b)
        store(odds, m + 16, c)
        store(odds, m + 24, d)
        store(odds, m + 32, e)
        store(odds, m + 40, f)
        store(odds, m + 48, g)
    for m in range(0, _A * LANES, LANES):
        store(odds, m, _exponential(load(odds, m) - top))


@njit(cache=True)
def _mixed(
    j: int, first: int, blocks: int, odds: Any, factors: Any, shares: Any, each: Any, p: Any
) -> None:
    """Chances of somebody drawn from lane ``j``'s mixture, eight archetypes at a time.

    ``factors`` has what bias and notices multiply chances by, from ``first`` on.
    """
    for block in range(blocks):
        weight = load(shares, block * LANES)
        for g in range(_N_GROUPS):
            whole = doubles(0.0)
            for m in range(_STARTS[g], _ENDS[g]):
                chance = doubles(odds[m * LANES + j]) * load(factors, first + m * LANES)
                store(each, m * LANES, chance)
                whole = whole + chance
            part = weight / whole
            for m in range(_STARTS[g], _ENDS[g]):
                chance = total(load(each, m * LANES) * part)
                if block:
                    chance += p[m * LANES + j]
                p[m * LANES + j] = chance
        first += _A * LANES


@njit(cache=True)
def _range(
    start: int,
    stop: int,
    table: Any,
    seed: Any,
    member: Any,
    offset: Any,
    mixture: Any,
    steps: Any,
    perceived: Any,
    latest: Any,
    activity: Any,
    actions: Any,
    weights: Any,
    factors: Any,
    association: Any,
    identified: Any,
    batch: float,
    before: float,
    own: Any,
) -> None:
    """Step the worlds in rows ``start`` to ``stop`` of the table, in place."""
    n_archetypes = mixture.shape[1]
    blocks = (n_archetypes + LANES - 1) // LANES
    inputs, odds, p = _aligned(_INPUTS * LANES), _aligned(_A * LANES), _aligned(_A * LANES)
    each, counts, labels = _aligned(_A * LANES), _aligned(_A * LANES), _aligned(N_LABELS * LANES)
    reached, others = _aligned(N_LABELS * LANES), _aligned((_A - N_CELLS) * LANES)
    weighted = _aligned(N_CELLS * LANES)
    drawn = _aligned(FEW * LANES).view(np.int64)
    mine_own, planted, rate = _aligned(LANES), _aligned(LANES), _aligned(LANES)
    support, oppose, through = _aligned(LANES), _aligned(LANES), _aligned(LANES)
    keys = _aligned(2 * LANES).view(np.int64)
    shares, effective = _aligned(blocks * LANES), np.zeros(_KINDS)
    place = np.zeros(LANES, dtype=np.int64)
    for row in range(start, stop):
        lanes = 0
        while lanes < LANES and table[row, lanes] >= 0:
            lanes += 1
        fit = member[table[row, 0]]

        # What runs, and what each world brings along.
        for j in range(lanes):
            i = table[row, j]
            action = actions[i]
            for k in range(_KINDS):
                a = activity[i, k] * _DECAY[k]
                if a < _FLOOR:
                    a = 0.0
                if action > 0 and (action - 1) // _N_INTENSITIES == k:
                    a = max(a, _STRENGTHS[(action - 1) % _N_INTENSITIES])
                activity[i, k] = a
                effective[k] = a * identified[k]
            shown = 0
            for k in range(_N_VISIBLE):
                a = effective[_VISIBLE[k]]
                level = 0
                if a >= _FLOOR:
                    best = 0
                    for s in range(1, _N_INTENSITIES):
                        if abs(a - _STRENGTHS[s]) < abs(a - _STRENGTHS[best]):
                            best = s
                    level = best + 1
                shown = shown * (_N_INTENSITIES + 1) + level
            place[j] = (fit * (_N_INTENSITIES + 1) ** _N_VISIBLE + shown) * blocks * _A * LANES
            planted[j] = np.rint(effective[_SEED] * batch * PLANTED_SHARE)
            mine_own[j] = batch - planted[j]
            own[i] = int(mine_own[j])
            support[j] = 1.0 + AMPLIFIED * effective[_SUPPORT]
            oppose[j] = 1.0 + AMPLIFIED * effective[_OPPOSE]
            through[j] = 1.0 - BLOCKED * effective[_FRICTION]
            rate[j] = max(PERCEPTION_RATE, 1.0 / (before + steps[i] + 1.0))
            for x in range(N_LABELS):
                inputs[x * LANES + j] = perceived[i, x] - _UNIFORM[x]
                inputs[(N_LABELS + x) * LANES + j] = latest[i, x] - _UNIFORM[x]
            inputs[2 * N_LABELS * LANES + j] = steps[i] / (steps[i] + 16.0)
            for h in range(len(_HIDDEN)):
                inputs[(2 * N_LABELS + 1 + h) * LANES + j] = effective[_HIDDEN[h]]
            for m in range(_A):
                odds[m * LANES + j] = offset[i, m]
            keys[j], keys[LANES + j] = seed[i], steps[i]
            steps[i] += 1

        # Chances of somebody drawn from the mixture, and counts.
        _relative(fit, inputs, weights, odds)
        for j in range(lanes):
            i = table[row, j]
            for a in range(n_archetypes):
                shares[a] = mixture[i, a]
            _mixed(j, place[j], blocks, odds, factors, shares, each, p)
        key = _mix(words(_GAMMA) + load_words(keys, 0))
        key = _mix(_opened(key) + load_words(keys, LANES))
        people = load(mine_own, 0)
        if batch <= FEW:
            _each(key, int(batch), people, p, drawn, counts)
        else:
            _together(key, people, p, counts)

        # The observed shares.
        one, nothing = doubles(1.0), doubles(0.0)
        somebody = at_least(people, one)
        people = pick(somebody, people, one)
        for x in range(len(_CORE_LABELS)):
            store(labels, _CORE_LABELS[x] * LANES, nothing)
            store(reached, _CORE_LABELS[x] * LANES, nothing)
        for c in range(N_CELLS):
            number = load(counts, c * LANES)
            for k in range(3):
                x = _CELL_LABELS[c, k] * LANES
                store(labels, x, load(labels, x) + number)
        for m in range(_A - N_CELLS):
            store(labels, _LABELS[m] * LANES, load(counts, (N_CELLS + m) * LANES))
        for x in range(0, N_LABELS * LANES, LANES):
            store(labels, x, load(labels, x) / people)

        # What reaches the mean field.
        mine = nothing
        for c in range(N_CELLS):
            weight = load(counts, c * LANES)
            if _STANCE[c] == 0:
                weight = weight * load(support, 0)
            elif _STANCE[c] == 1:
                weight = weight * load(oppose, 0)
            if _SHARED[c]:
                weight = weight * load(through, 0)
            store(weighted, c * LANES, weight)
            mine = mine + weight
        reaching = pick(at_least(nothing, mine), nothing, one / mine)
        each_person = one / people
        for m in range(_A - N_CELLS):
            store(others, m * LANES, load(counts, (N_CELLS + m) * LANES) * each_person)
        for c in range(N_CELLS):
            share = load(weighted, c * LANES) * reaching
            for k in range(3):
                x = _CELL_LABELS[c, k] * LANES
                store(reached, x, load(reached, x) + share)
            move = share - load(counts, c * LANES) * each_person
            for m in range(_A - N_CELLS):
                moved = fma(move, doubles(association[c, m]), load(others, m * LANES))
                store(others, m * LANES, moved)
        for g in range(1, _N_GROUPS):
            whole = nothing
            for m in range(_STARTS[g] - N_CELLS, _ENDS[g] - N_CELLS):
                part = larger(load(others, m * LANES), nothing)
                store(others, m * LANES, part)
                whole = whole + part
            inverse = pick(at_least(nothing, whole), nothing, one / whole)
            for m in range(_STARTS[g] - N_CELLS, _ENDS[g] - N_CELLS):
                store(reached, _LABELS[m] * LANES, load(others, m * LANES) * inverse)
        seeds = load(planted, 0)
        if _PLANTED_STANCE == 0:
            seeds = seeds * load(support, 0)
        elif _PLANTED_STANCE == 1:
            seeds = seeds * load(oppose, 0)
        inverse = one / (mine + seeds)
        speed = load(rate, 0)
        mine, seeds = mine * inverse, seeds * inverse
        for x in range(N_LABELS):
            old = load(inputs, x * LANES) + doubles(_UNIFORM[x])
            new = fma(mine, load(reached, x * LANES), seeds * doubles(_PLANTED[x]))
            store(reached, x * LANES, fma(speed, new - old, old))
        for j in range(lanes):
            i = table[row, j]
            if mine_own[j] > 0.0:
                for x in range(N_LABELS):
                    latest[i, x] = labels[x * LANES + j]
            if mine_own[j] > 0.0 or planted[j] > 0.0:
                for x in range(N_LABELS):
                    perceived[i, x] = reached[x * LANES + j]


@njit(cache=True, nogil=True)
def _part(part: int, parts: int, table: Any, *args: Any) -> None:
    rows = len(table)
    _range(part * rows // parts, (part + 1) * rows // parts, table, *args)


@njit(cache=True)
def _single(
    action: int,
    reals: Any,
    whole: Any,
    weights: Any,
    factors: Any,
    association: Any,
    identified: Any,
    batch: float,
    before: float,
) -> int:
    """Step the world in the buffers; the number of its own people."""
    first = 2 * N_LABELS + _KINDS
    actions, own = np.array([action]), np.zeros(1, dtype=np.int64)
    _range(
        0,
        1,
        np.array([[0, -1]]),
        whole[0:1],
        whole[1:2],
        reals[first : first + _A].reshape(1, _A),
        reals[first + _A :].reshape(1, len(reals) - first - _A),
        whole[2:3],
        reals[N_LABELS : 2 * N_LABELS].reshape(1, N_LABELS),
        reals[:N_LABELS].reshape(1, N_LABELS),
        reals[2 * N_LABELS : first].reshape(1, _KINDS),
        actions,
        weights,
        factors,
        association,
        identified,
        batch,
        before,
        own,
    )
    return int(own[0])


def _weights(model: SurrogateModel) -> NDArray[np.float64]:
    """What inputs add to logits, in the order of use: ``(fits, 4, 50, 7)``."""
    every = [
        np.concatenate([k.perceived, k.latest, k.time[None], k.hidden])
        for k in (model.kernel, *model.members)
    ]
    parts = np.stack(every).reshape(len(every), _INPUTS, -1, _TOGETHER)
    return np.ascontiguousarray(parts.transpose(0, 2, 1, 3))


def _factors(model: SurrogateModel) -> NDArray[np.float64]:
    """What bias and notices multiply chances by, flat: fits, notices, archetypes / 8, outputs, 8.

    Notices count as digits: 0 is none, then the levels. Scaled to a largest factor of one in each
    group, which changes no chance.
    """
    levels = _N_INTENSITIES + 1
    n = len(model.archetypes)
    logits = np.zeros((1 + len(model.members), *[levels] * _N_VISIBLE, -(-n // LANES) * LANES, _A))
    for fit, kernel in enumerate((model.kernel, *model.members)):
        logits[fit, ..., :n, :] = kernel.bias
        for k in range(_N_VISIBLE):
            shape = [1] * _N_VISIBLE
            shape[k] = levels
            told = np.concatenate([np.zeros((n, 1, _A)), kernel.notices[:, k]], axis=1)
            logits[fit, ..., :n, :] += told.transpose(1, 0, 2).reshape(*shape, n, _A)
    for group in GROUPS:
        logits[..., group] -= logits[..., group].max(axis=-1, keepdims=True)
    parts = np.exp(logits).reshape(-1, logits.shape[-2] // LANES, LANES, _A)
    whole = np.empty(parts.size + LANES)
    skip = -(whole.ctypes.data // 8) % LANES
    result = whole[skip : skip + parts.size]
    result[:] = parts.transpose(0, 1, 3, 2).ravel()
    return result


class CompiledStep:
    """:func:`mfenv.dynamics.surrogate.kernel.play` of one model, compiled on first use."""

    def __init__(self, model: SurrogateModel) -> None:
        self._fits = 1 + len(model.members)
        self._threads = Threads(config.NUMBA_NUM_THREADS)
        self._parameters = (
            _weights(model),
            _factors(model),
            np.ascontiguousarray(model.association),
            np.array(model.identified, dtype=float),
        )

    def __call__(
        self,
        worlds: Worlds,
        actions: NDArray[np.int64],
        active: NDArray[np.bool_],
        *,
        batch: int,
        warmup: int,
    ) -> NDArray[np.int64]:
        """Let ``batch`` people act in each active world under flat actions ``(K,)``, in place."""
        own = np.zeros(len(worlds), dtype=np.int64)
        arguments = self._arguments(worlds, actions, own, batch, warmup)
        table = _packed(worlds.member, active, self._fits)
        if len(worlds) >= _PARALLEL:
            self._threads.each(_PARTS, lambda part: _part(part, _PARTS, table, *arguments))
        else:
            _part(0, 1, table, *arguments)
        return own

    def single(
        self, reals: NDArray[np.float64], whole: NDArray[np.int64], *, batch: int, warmup: int
    ) -> Callable[[int], int]:
        """See :func:`mfenv.dynamics.surrogate.stepping.one_world`.

        Two arrays are taken over from Python in a fraction of the time that a dozen are.
        """
        arguments = (reals, whole, *self._parameters, float(batch), warmup / min(batch, 16))

        def step(action: int) -> int:
            return int(_single(action, *arguments))

        return step

    def _arguments(
        self,
        worlds: Worlds,
        actions: NDArray[np.int64],
        own: NDArray[np.int64],
        batch: int,
        warmup: int,
    ) -> tuple[Any, ...]:
        return (
            worlds.seed,
            worlds.member,
            worlds.offset,
            worlds.mixture,
            worlds.step,
            worlds.perceived,
            worlds.latest,
            worlds.activity,
            actions,
            *self._parameters,
            float(batch),
            warmup / min(batch, 16),
            own,
        )
