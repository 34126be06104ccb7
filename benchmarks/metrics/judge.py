"""Results under an annotator that errs: its confusion, and shares and KL corrected for it.

A judge that calls a share of the doubters believers does so for the real and for the simulated
population: their shares look alike. What it does is measured on reactions that have a reference
label (``confusion``), and undone. Two assumptions: the judge errs alike, given the reference label,
on the reactions that were measured and on those that it judges, real and simulated; and it errs in
each dimension by itself. ``rng`` is always explicit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

from benchmarks.metrics.aggregate import Interval
from benchmarks.metrics.classification import confusion
from benchmarks.metrics.divergences import draw_counts, kl
from mfenv.distributions import normalise
from mfenv.labels import DIMENSIONS, N_DIMENSIONS, N_LABELS, OFFSETS

__all__ = [
    "CorrectedKL",
    "confusion",
    "corrected_counts",
    "corrected_kl",
    "corrected_kl_intervals",
    "corrected_shares",
    "draw_confusion",
    "expected_confusion",
    "rank_reversals",
]

Floats = NDArray[np.float64]

_TOLERANCE = 1e-8  # nats of the mean log-likelihood, see _maximum_likelihood
_STEPS = 200  # about 15 are needed
_CHUNK = 2_000_000  # shares that are held at once
_PRIOR = 1.0


# -- the confusion ---------------------------------------------------------------------------


def expected_confusion(counts: Sequence[ArrayLike], prior: float = _PRIOR) -> list[Floats]:
    """Posterior mean of what a judge says, given the reference: rows of ``(..., k, k)`` sum to 1.

    ``counts`` are the eight tables of :func:`confusion`. ``prior`` observations, spread evenly
    over the labels, are added to each row (a Dirichlet prior of 1/k a label: Perks, 1947; that of
    Jeffreys where k is 2), so that a label which the reference lacks says nothing about itself
    rather than something false.
    """
    rows = [np.asarray(c, dtype=float) + prior / np.shape(c)[-1] for c in _tables(counts)]
    return [row / row.sum(axis=-1, keepdims=True) for row in rows]


def draw_confusion(
    counts: Sequence[ArrayLike],
    rng: np.random.Generator,
    draws: int,
    prior: float = _PRIOR,
) -> list[Floats]:
    """Draw from the posterior of :func:`expected_confusion`: eight arrays ``(draws, k, k)``.

    The rows are independent Dirichlet draws: how often each label occurs in the reference does not
    matter, only how well it is known.
    """
    result = []
    for c in _tables(counts):
        gamma = rng.standard_gamma(c + prior / c.shape[-1], size=(draws, *c.shape))
        result.append(gamma / gamma.sum(axis=-1, keepdims=True))
    return result


def _tables(tables: Sequence[ArrayLike]) -> list[Floats]:
    """The tables as arrays, after a look at their shapes and signs."""
    arrays = [np.asarray(c, dtype=float) for c in tables]
    if len(arrays) != N_DIMENSIONS:
        raise ValueError(f"{len(arrays)} confusion tables given, {N_DIMENSIONS} needed")
    for d, c in zip(DIMENSIONS, arrays, strict=True):
        k = len(d.labels)
        if c.shape[-2:] != (k, k):
            raise ValueError(f"{d.name}: a confusion is (..., {k}, {k}), got {c.shape}")
        if not (np.isfinite(c).all() and (c >= 0).all()):
            raise ValueError(f"{d.name}: a confusion must be finite and not negative")
    return arrays


# -- shares ----------------------------------------------------------------------------------


def corrected_shares(observed: ArrayLike, confusion: Sequence[ArrayLike]) -> Floats:
    """Shares ``(..., 23)`` that most probably lie behind observed ones ``(..., 23)``.

    ``observed`` are counts or shares of the judge's labels; ``confusion`` has eight tables
    ``(..., k, k)`` whose leading axes broadcast against those of ``observed``, as counts or as
    rows that sum to 1. In each dimension p has the highest likelihood of the observed shares o,
    Σ_j o_j log (pC)_j, on the simplex: o C⁻¹ where that is on the simplex, and elsewhere what the
    EM steps p_i <- p_i Σ_j C_ij o_j / (pC)_j lead to (found by an interior point method, which
    takes fewer steps). Least squares would weigh rare and frequent predictions alike.

    Raises ``ValueError`` for a label that the reference lacks, or that is observed while the
    confusion says that it never is: :func:`expected_confusion` adds a prior.
    """
    shares = normalise(observed)
    parts = []
    for d, c, (a, b) in zip(DIMENSIONS, _tables(confusion), pairwise(OFFSETS), strict=True):
        size = c.sum(axis=-1, keepdims=True)
        # Predictions that no row explains.
        unknown = (shares[..., a:b] > 0) & (c.sum(axis=-2) == 0)
        for problem, where in (
            ("the reference has no reaction that is", size[..., 0] == 0),
            ("the confusion says that the judge never says", unknown),
        ):
            if where.any():
                label = d.labels[int(np.argwhere(where)[0, -1])]
                raise ValueError(f"{d.name}: {problem} {label!r}; use expected_confusion")
        parts.append(_unfold(shares[..., a:b], c / size))
    lead = np.broadcast_shapes(*(p.shape[:-1] for p in parts))
    return np.concatenate([np.broadcast_to(p, (*lead, p.shape[-1])) for p in parts], axis=-1)


def corrected_counts(observed: ArrayLike, confusion: Sequence[ArrayLike]) -> Floats:
    """As many reactions as ``observed`` counts ``(..., 23)``, at their :func:`corrected_shares`."""
    shares = corrected_shares(observed, confusion)
    return shares * np.repeat(_sizes(observed), np.diff(OFFSETS), axis=-1)


def _sizes(count: ArrayLike) -> Floats:
    """Reactions of counts ``(..., 23)`` in each dimension: ``(..., 8)``."""
    result: Floats = np.add.reduceat(np.asarray(count, dtype=float), OFFSETS[:-1], axis=-1)
    return result


def _unfold(observed: Floats, rows: Floats) -> Floats:
    """One dimension: shares ``(..., k)`` behind ``observed`` ``(..., k)`` under ``(..., k, k)``."""
    k = observed.shape[-1]
    lead = np.broadcast_shapes(observed.shape[:-1], rows.shape[:-2])
    regular = np.abs(np.linalg.det(rows)) > 1e-9
    inverse = np.linalg.inv(np.where(regular[..., None, None], rows, np.eye(k)))
    shares: Floats = np.array(
        np.broadcast_to((observed[..., None, :] @ inverse)[..., 0, :], (*lead, k))
    )
    outside = ~np.broadcast_to(regular, lead)
    if k == 2:  # what is concave in one variable has its maximum at the nearest end
        shares = np.clip(shares, 0.0, 1.0)
    else:
        outside = outside | (shares.min(axis=-1) < 0)
    if outside.any():
        shares[outside] = _maximum_likelihood(
            np.broadcast_to(observed, (*lead, k))[outside],
            np.broadcast_to(rows, (*lead, k, k))[outside],
        )
    result: Floats = shares / shares.sum(axis=-1, keepdims=True)
    return result


def _maximum_likelihood(observed: Floats, rows: Floats) -> Floats:
    """Shares ``(n, k)`` of the highest likelihood: ``observed`` ``(n, k)``, ``rows`` ``(n, k, k)``.

    Maximises Σ_j o_j log (pC)_j - Σ_i p_i over p >= 0, whose solution sums to 1, with the gradient
    g - 1, g_i = Σ_j C_ij o_j / (pC)_j. Primal-dual interior point steps for p and the slack
    s = 1 - g of the labels that are 0. On the simplex the log-likelihood is at most max g - 1
    below its maximum (concavity; Σ_i p_i g_i = 1), which says when to stop.
    """
    k = observed.shape[-1]
    result = np.empty_like(observed)
    left = np.arange(len(observed))
    shares, slack = np.full_like(observed, 1 / k), np.ones_like(observed)
    for _ in range(_STEPS):
        on_simplex = shares / shares.sum(axis=-1, keepdims=True)
        gradient = _gradient(on_simplex, observed, rows)[0]
        done = gradient.max(axis=-1) - 1 < _TOLERANCE
        if done.any():
            result[left[done]] = on_simplex[done]
            left, observed, rows = left[~done], observed[~done], rows[~done]
            shares, slack = shares[~done], slack[~done]
            if not len(left):
                return result
        shares, slack = _interior_step(shares, slack, observed, rows)
    raise ArithmeticError(f"{len(left)} corrected shares did not converge")


def _gradient(shares: Floats, observed: Floats, rows: Floats) -> tuple[Floats, Floats]:
    """``g`` ``(n, k)`` and the expected shares of predictions ``(n, k)``."""
    expected = np.maximum((shares[:, None, :] @ rows)[:, 0], 1e-100)
    return (rows @ (observed / expected)[..., None])[..., 0], expected


def _interior_step(
    shares: Floats, slack: Floats, observed: Floats, rows: Floats
) -> tuple[Floats, Floats]:
    """One step towards p s = μ and s = 1 - g, a tenth of the present mean of p s."""
    gradient, expected = _gradient(shares, observed, rows)
    goal = 0.1 * (shares * slack).mean(axis=-1, keepdims=True)
    hessian = (rows * (observed / expected**2)[:, None, :]) @ np.swapaxes(rows, -1, -2)
    diagonal = np.arange(shares.shape[-1])
    hessian[:, diagonal, diagonal] += slack / shares
    step = np.linalg.solve(hessian, (goal / shares + gradient - 1)[..., None])[..., 0]
    turn = (goal - slack * step) / shares - slack
    result = []
    for value, change in ((shares, step), (slack, turn)):
        with np.errstate(divide="ignore", invalid="ignore"):
            room = np.where(change < 0, -value / change, np.inf).min(axis=-1, keepdims=True)
        result.append(value + np.minimum(1.0, 0.99 * room) * change)
    return result[0], result[1]


# -- KL --------------------------------------------------------------------------------------


def corrected_kl(real: ArrayLike, simulated: ArrayLike, confusion: Sequence[ArrayLike]) -> Floats:
    """:func:`kl` of :func:`corrected_counts`: counts ``(..., 23)`` on both sides give ``(..., 8)``.

    The correction makes the noise of sampling larger, so this is biased upwards by more than the
    KL of the counts. :func:`corrected_kl_intervals` takes the bias off.
    """
    return kl(corrected_counts(real, confusion), corrected_counts(simulated, confusion))


@dataclass(frozen=True, slots=True)
class CorrectedKL:
    """Corrected KL of several methods under one judge, all in nats."""

    kl: Mapping[str, Interval]  # without the bias of sampling and of the confusion: an excess KL
    differences: Mapping[tuple[str, str], Interval]  # of the first method minus the second
    biased: Mapping[str, float]  # the mean of corrected_kl itself


def corrected_kl_intervals(
    real: ArrayLike,
    simulated: Mapping[str, ArrayLike],
    confusion: Sequence[ArrayLike],
    rng: np.random.Generator,
    draws: int = 400,
    prior: float = _PRIOR,
) -> CorrectedKL:
    """Mean corrected KL of each method with its 95% interval, and of each pair's difference.

    ``real`` are label counts ``(windows, 23)`` or ``(events, windows, 23)``; ``simulated`` has for
    each method ``(seeds, windows, 23)`` or ``(seeds, events, windows, 23)``; ``confusion`` are the
    counts ``(k, k)`` of eight dimensions (:func:`confusion`). The mean is over all of them.

    In each draw the confusion comes from its posterior (:func:`draw_confusion`), one for both
    sides and all methods; events are drawn where there are several, and seeds within each event
    (methods with as many seeds share the choice); then the reactions of both sides, from their
    observed shares. What a draw exceeds the estimate by, is what the estimate exceeds the truth
    by: the mean is twice the estimate minus the mean of the draws, the interval reaches from twice
    the estimate minus their upper to minus their lower quantile (the basic bootstrap; Davison and
    Hinkley, 1997, chapter 2). It can be below 0 where there is no difference to be seen.

    The dimensions are drawn independently, since counts do not tell how their labels go together.
    The noise of the reactions is also part of the seeds' spread, so intervals are a little wide.
    Raises ``ValueError`` for counts of other shapes, that are not whole, or without a reaction.
    """
    true = _whole(real, "real")
    made = {name: _whole(count, name) for name, count in simulated.items()}
    true = true if true.ndim == 3 else true[None]
    for name, count in made.items():
        if count.ndim == 3:
            made[name] = count[:, None]
        if made[name].shape[1:] != true.shape or not len(count):
            raise ValueError(
                f"{name}: counts of the shape {count.shape}, needed: one or more seeds, then the "
                f"shape of the real ones {np.shape(real)}"
            )
    tables = _tables(confusion)
    if all(np.allclose(c.sum(axis=-1), 1) for c in tables):
        raise ValueError("the confusion must be counts: from shares nobody knows how sure they are")
    estimate = _means(true, made, expected_confusion(tables, prior))
    seeds = [len(count) for count in made.values()]
    chunk = max(1, _CHUNK // (true.size * (1 + sum(seeds))))
    parts = []
    for start in range(0, draws, chunk):
        size = min(chunk, draws - start)
        drawn = draw_confusion(tables, rng, size, prior)
        parts.append(_means(*_resampled(true, made, size, rng), drawn))
    replicates = {name: np.concatenate([part[name] for part in parts]) for name in made}

    def basic(value: float, others: Floats) -> Interval:
        low, high = np.quantile(others, [0.025, 0.975])
        return Interval(
            2 * value - float(others.mean()), 2 * value - float(high), 2 * value - float(low)
        )

    points = {name: float(value) for name, value in estimate.items()}
    return CorrectedKL(
        kl={name: basic(points[name], replicates[name]) for name in made},
        differences={
            (a, b): basic(points[a] - points[b], replicates[a] - replicates[b])
            for a, b in combinations(made, 2)
        },
        biased=points,
    )


def _whole(count: ArrayLike, name: str) -> Floats:
    """Label counts as an array, after a look at them."""
    x = np.asarray(count, dtype=float)
    sizes = _sizes(x) if x.ndim and x.shape[-1] == N_LABELS else None
    if sizes is None or np.any(x < 0) or np.any(x != np.rint(x)):
        raise ValueError(f"{name}: needed are label counts (..., {N_LABELS}), whole numbers")
    if np.any(sizes < 1):
        raise ValueError(f"{name}: a window has no reactions")
    return x


def _resampled(
    true: Floats, made: Mapping[str, Floats], size: int, rng: np.random.Generator
) -> tuple[Floats, dict[str, Floats]]:
    """Draws of real counts ``(size, events, windows, 23)``, of simulated ones with seeds ahead.

    The simulated ones of each method are ``(size, seeds, events, windows, 23)``.
    """
    events = len(true)
    chosen = np.arange(events) + np.zeros((size, 1), dtype=np.int64)
    if events > 1:
        chosen = rng.integers(events, size=(size, events))
    u = rng.random((size, max((len(count) for count in made.values()), default=0), events))

    def reactions(count: Floats) -> Floats:
        return draw_counts(normalise(count), _sizes(count)[..., 0], rng)

    real = reactions(true[chosen])
    drawn = {}
    for name, count in made.items():
        rows = (u[:, : len(count)] * len(count)).astype(np.int64)
        drawn[name] = reactions(count[rows, chosen[:, None]])
    return real, drawn


def _means(
    true: Floats, made: Mapping[str, Floats], confusion: Sequence[Floats]
) -> dict[str, Floats]:
    """Mean corrected KL of each method: ``()``, or ``(draws,)`` where all have that axis first."""
    right = corrected_counts(true, [c[..., None, None, :, :] for c in confusion])
    tables = [c[..., None, None, None, :, :] for c in confusion]
    return {
        name: kl(right[..., None, :, :, :], corrected_counts(count, tables)).mean(
            axis=(-4, -3, -2, -1)
        )
        for name, count in made.items()
    }


# -- rankings --------------------------------------------------------------------------------


def rank_reversals(
    scores_a: Mapping[str, float], scores_b: Mapping[str, float]
) -> list[tuple[str, str]]:
    """Pairs of methods that two judges put in opposite order: then the ranking is the judge's.

    ``scores_a`` and ``scores_b`` are the scores of the same methods under either judge. The first
    of a pair has the lower score under judge a and the higher one under judge b; a tie is no order.
    Pairs stand in the order of ``scores_a``.
    """
    if set(scores_a) != set(scores_b):
        odd = ", ".join(sorted(set(scores_a) ^ set(scores_b)))
        raise ValueError(f"the judges have scores of different methods: {odd}")
    pairs = []
    for x, y in combinations(scores_a, 2):
        gap_a, gap_b = scores_a[x] - scores_a[y], scores_b[x] - scores_b[y]
        if gap_a * gap_b < 0:
            pairs.append((x, y) if gap_a < 0 else (y, x))
    return pairs
