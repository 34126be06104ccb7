"""How well a surrogate stands for its tier: one step, whole rollouts, and each intervention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mfenv.distributions import SMOOTHING, UNIFORM, kl_per_dimension, normalise
from mfenv.dynamics.surrogate.kernel import Worlds, advance, begin, chances, step
from mfenv.dynamics.surrogate.model import TO_LABELS, SurrogateModel
from mfenv.dynamics.surrogate.sampling import multinomial
from mfenv.interventions import KINDS, N_ACTIONS, action_name
from mfenv.labels import DIMENSIONS, NAMES, SLICES
from mfenv.noise import uniform
from training.fit_surrogate.episodes import Episodes

__all__ = ["MEASURED", "Report", "markdown", "measure", "rollouts"]

Floats = NDArray[np.float64]

MEASURED: tuple[str, ...] = ("belief/believe", "behavior/share", "stance/oppose")
"""Shares of the response table."""

_NOISE = 5_000_000  # of the surrogate's seeds, apart from those of the episodes
_REPEATS = 16  # rollouts of the surrogate that are averaged
_PERCEIVED = 5 * 16  # people that a moving average of weight 1/3 is worth: five batches
_FIRST_FLOOR, _OTHER_FLOOR = 1, 2  # tokens of the floor's draws


@dataclass(frozen=True, slots=True)
class Report:
    """Figures of a calibration; KL divergences are means over the eight dimensions, in nats."""

    figures: dict[str, Any]
    response: dict[str, Floats] = field(default_factory=dict)
    """``tier``, ``surrogate`` and ``spread`` (of the members): ``(19, 23)`` changes of shares."""


def worlds_of(model: SurrogateModel, episodes: Episodes, member: int = -1) -> Worlds:
    """The worlds of episodes, before their first step."""
    k = len(episodes)
    size = len(model.archetypes)
    people = episodes.archetypes.reshape(k, -1)
    mixture = np.stack([(people == a).mean(axis=1) for a in range(size)], axis=1)
    return begin(
        model,
        seed=_NOISE + np.arange(k),
        member=np.full(k, member),
        domain=episodes.domain,
        truth=episodes.truth,
        perceived=episodes.perceived[:, 0],
        latest=episodes.latest,
        mixture=mixture,
    )


def rollouts(
    model: SurrogateModel, worlds: Worlds, actions: NDArray[Any], *, batch: int, warmup: int
) -> Floats:
    """Own shares ``(K, T, 23)`` of worlds under flat actions ``(K, T)``."""
    worlds, path = worlds.copy(), []
    # In NumPy, so that a report has the same bytes whatever is installed.
    for t in range(actions.shape[1]):
        result = step(model, worlds, actions[:, t], batch=batch, warmup=warmup)
        advance(worlds, result)
        path.append(result.distribution)
    return np.stack(path, axis=1)


def _one_step(model: SurrogateModel, episodes: Episodes) -> Floats:
    """Expected shares ``(E, T, 23)`` of every step, given what really came before it."""
    worlds = worlds_of(model, episodes)
    latest = np.concatenate([episodes.latest[:, None], episodes.distribution[:, :-1]], axis=1)
    identified = np.asarray(model.identified)
    path = []
    for t in range(episodes.actions.shape[1]):
        now = replace(
            worlds,
            step=np.full(len(worlds), t),
            perceived=episodes.perceived[:, t],
            latest=latest[:, t],
        )
        path.append(chances(model, now, episodes.activity[:, t] * identified) @ TO_LABELS)
    return np.stack(path, axis=1)


def _kl(real: Floats, other: Floats, n: Floats, m: Floats | float) -> float:
    """Mean KL of counted shares, with 0.5 added to the counts of both; ``m`` inf: none added."""
    p = normalise(real * n[..., None], SMOOTHING)
    q = other if np.isinf(m).all() else normalise(other * np.asarray(m)[..., None], SMOOTHING)
    return float(kl_per_dimension(p, np.maximum(q, 1e-9)).mean())


def _resample(path: Floats, n: Floats, seed: int, token: int) -> Floats:
    out = np.empty_like(path)
    episode = np.arange(path.shape[0])[:, None, None]
    step = np.arange(path.shape[1])[:, None]
    for d, dimension in enumerate(DIMENSIONS):
        where = SLICES[dimension.name]
        draws = where.stop - where.start - 1
        u = uniform(seed, episode, step, 64 * token + 8 * d + np.arange(draws))
        out[..., where] = multinomial(n, path[..., where], u) / n[..., None]
    return out


def measure(
    model: SurrogateModel,
    held_out: Episodes,
    response: Episodes | None,
    *,
    batch: int = 16,
    warmup: int = 50,
) -> Report:
    """Compare a surrogate with held-out episodes, and with its tier's answers to interventions.

    One step: the KL of each batch from the expected shares given the true past, beside persistence
    (the shares perceived before it go on) and the uniform distribution. Rollouts: the KL of pooled
    windows of four batches, each tier's own draws, beside persistence of the warm-up and the floor
    (two draws of equal size from the same shares).
    """
    own = (~held_out.planted).sum(axis=2).astype(float)
    real = held_out.distribution
    expected = _one_step(model, held_out)
    inf = np.inf
    # A share that was never perceived is not impossible: 0.5 for each label beside the people.
    past = normalise(held_out.perceived[:, :-1] * _PERCEIVED, SMOOTHING)
    figures: dict[str, Any] = {
        "held-out episodes": len(held_out),
        "steps": int(real.shape[0] * real.shape[1]),
        "one step": {
            "surrogate": _kl(real, expected, own, inf),
            "persistence": _kl(real, past, own, inf),
            "uniform": _kl(real, np.broadcast_to(UNIFORM, real.shape), own, inf),
            "floor": _kl(_resample(expected, own, 0, _FIRST_FLOOR), expected, own, inf),
        },
    }
    worlds = worlds_of(model, held_out)
    again = _repeated(worlds, _REPEATS)
    again = replace(again, seed=_NOISE + np.arange(len(again)))
    plan = np.tile(held_out.actions, (_REPEATS, 1))
    many = rollouts(model, again, plan, batch=batch, warmup=warmup)
    many = many.reshape(_REPEATS, *real.shape)
    played, forecast = many[0], many.mean(axis=0)
    windows = {}
    for first in range(0, real.shape[1] - 3, 4):
        part = slice(first, first + 4)
        n = own[:, part].sum(axis=1)

        def pool(path: Floats, part: slice = part, n: Floats = n) -> Floats:
            total: Floats = (path[:, part] * own[:, part, None]).sum(axis=1)
            return total / n[:, None]

        a, b = pool(real), pool(played)
        still = np.broadcast_to(held_out.perceived[:, 0], a.shape)
        mean = np.broadcast_to(a.mean(axis=0), a.shape)
        two = [_resample(a[:, None], n[:, None], 1, k) for k in (_FIRST_FLOOR, _OTHER_FLOOR)]
        windows[f"{first + 1} to {first + 4}"] = {
            "surrogate": _kl(a, b, n, n),
            "mean of rollouts": _kl(a, pool(forecast), n, n * _REPEATS),
            "persistence": _kl(a, still, n, np.full_like(n, float(warmup))),
            "mean of all": _kl(a, mean, n, inf),
            "floor": _kl(two[0][:, 0], two[1][:, 0], n, n),
        }
    figures["rollout, steps"] = windows
    if response is None:
        return Report(figures)
    tables = {"tier": _tier_response(response)}
    every = _surrogate_response(model, response, batch=batch, warmup=warmup)
    tables["surrogate"] = every[0]
    if model.members:
        tables["spread"] = np.std(every[1:], axis=0, ddof=1)
    index = [NAMES.index(name) for name in MEASURED]
    a, b = tables["tier"][1:, index].ravel(), tables["surrogate"][1:, index].ravel()
    figures["response"] = {
        "correlation": float(np.corrcoef(a, b)[0, 1]),
        "slope": float(a @ b / (a @ a)),
        "mean absolute difference": float(np.abs(a - b).mean()),
        "mean absolute response of the tier": float(np.abs(a).mean()),
        "by kind": {
            kind: {
                "slope": float(x @ y / (x @ x)),
                "mean absolute difference": float(np.abs(x - y).mean()),
            }
            for k, kind in enumerate(KINDS)
            for x in [tables["tier"][1 + 3 * k : 4 + 3 * k, index].ravel()]
            for y in [tables["surrogate"][1 + 3 * k : 4 + 3 * k, index].ravel()]
        },
    }
    return Report(figures, tables)


def _tier_response(response: Episodes) -> Floats:
    """Change ``(19, 23)`` of own shares under each action, averaged over steps and events."""
    path = response.distribution.mean(axis=1)
    first = response.actions[:, 0]
    by_action = np.stack([path[first == a].mean(axis=0) for a in range(N_ACTIONS)])
    return np.asarray(by_action - by_action[0])


def _surrogate_response(
    model: SurrogateModel, response: Episodes, *, batch: int, warmup: int
) -> Floats:
    """The same of every fit ``(1 + members, 19, 23)``, averaged over rollouts as well."""
    none = response.take(response.actions[:, 0] == 0)
    one = worlds_of(model, none)
    k, steps = len(one), response.actions.shape[1]
    every = []
    for member in range(-1, len(model.members)):
        worlds = _repeated(worlds_of(model, none, member), _REPEATS * N_ACTIONS)
        number = np.arange(len(worlds)) // k  # repeats and actions, the worlds innermost
        plan = np.repeat((number % N_ACTIONS)[:, None], steps, axis=1)
        # Equal noise under every action.
        again = replace(worlds, seed=worlds.seed + k * (number // N_ACTIONS))
        path = rollouts(model, again, plan, batch=batch, warmup=warmup).mean(axis=1)
        by_action = path.reshape(_REPEATS, N_ACTIONS, k, -1).mean(axis=(0, 2))
        every.append(by_action - by_action[0])
    return np.stack(every)


def _repeated(worlds: Worlds, times: int) -> Worlds:
    return Worlds(
        **{
            f.name: np.tile(value, (times, *(1,) * (value.ndim - 1)))
            for f in fields(worlds)
            for value in [getattr(worlds, f.name)]
        }
    )


def markdown(model: SurrogateModel, report: Report, title: str, about: Sequence[str]) -> str:
    """The report as Markdown; ``about`` are lines on data and command."""
    figures = report.figures
    lines = [f"# {title}", "", *about, ""]
    lines += [
        f"Held out: {figures['held-out episodes']} episodes, {figures['steps']} steps. KL "
        "divergences are means over the eight dimensions, in nats, with 0.5 added to every count.",
        "",
        "## One step",
        "",
        "KL of a batch from the expected shares, given what really came before it. The floor is "
        "that of batches drawn from the surrogate itself; persistence goes on with what was "
        "perceived.",
        "",
        "| surrogate | persistence | uniform | floor |",
        "|---|---|---|---|",
    ]
    one = figures["one step"]
    names = ("surrogate", "persistence", "uniform", "floor")
    lines.append("| " + " | ".join(f"{one[n]:.4f}" for n in names) + " |")
    lines += [
        "",
        "## Rollouts",
        "",
        "KL of four batches together from what the surrogate plays when it is started after the "
        "warm-up and never corrected: one rollout, whose chance differs from the other's, and the "
        f"mean of {_REPEATS}, which is its forecast. Persistence is what was perceived after the "
        "warm-up; the floor is two draws of equal size from the same shares.",
        "",
        "| steps | one rollout | mean of rollouts | persistence | mean of all episodes | floor |",
        "|---|---|---|---|---|---|",
    ]
    columns = ("surrogate", "mean of rollouts", "persistence", "mean of all", "floor")
    for window, row in figures["rollout, steps"].items():
        lines.append(f"| {window} | " + " | ".join(f"{row[n]:.4f}" for n in columns) + " |")
    lines += ["", "## Response to interventions", ""]
    if model.not_identified:
        lines += [f"Not identified (no effect): {', '.join(model.not_identified)}.", ""]
    if not report.response:
        return "\n".join(lines) + "\n"
    fit = figures["response"]
    lines += [
        "Change of a label's share among the people's own reactions, each intervention repeated at "
        "every step; the spread is the standard deviation over the ensemble's members.",
        "",
        f"Over the cells below: correlation {fit['correlation']:.3f}, slope of the surrogate's "
        f"response on the tier's {fit['slope']:.2f}, mean absolute difference "
        f"{fit['mean absolute difference']:.3f} (mean absolute response of the tier "
        f"{fit['mean absolute response of the tier']:.3f}).",
        "",
        "| intervention | " + " | ".join(f"{n}: tier | surrogate" for n in MEASURED) + " |",
        "|---" * (1 + 2 * len(MEASURED)) + "|",
    ]
    index = [NAMES.index(name) for name in MEASURED]
    spread = report.response.get("spread")
    for action in range(1, N_ACTIONS):
        cells = []
        for i in index:
            cells.append(f"{report.response['tier'][action, i]:+.3f}")
            width = "" if spread is None else f" ± {spread[action, i]:.3f}"
            cells.append(f"{report.response['surrogate'][action, i]:+.3f}{width}")
        lines.append(f"| {action_name(action)} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
