"""``mfenv train heuristics``: planners by rule, tuned on validation events of a cheap tier.

Every rule (an action always, at first, periodically, or above a share of the rumour) is tried with
every action and a grid of its number, and the best of each kind is kept: the greatest mean reward.
The best fixed schedule is searched by the cross-entropy method (Rubinstein and Kroese, *The
Cross-Entropy Method*, 2004): schedules are drawn from independent categorical distributions over
the steps, which move towards the best of them. What is best where the credibility is below 0.5 and
elsewhere is kept, too, for ``by-credibility``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agents.planners.base import COST_OF_ACTION, build_planner
from agents.planners.play import Lane, budgeted, play
from agents.planners.setting import Setting, add_setting_arguments, setting_of
from mfenv.cli import integer
from mfenv.distributions import normalise
from mfenv.envs.objectives import harms, make_objective
from mfenv.envs.observation import OBSERVATION_SLICES
from mfenv.envs.scenarios import SYNTHETIC
from mfenv.events.event import Event
from mfenv.interventions import N_ACTIONS, action_name
from mfenv.noise import generator

__all__ = ["HELP", "add_arguments", "candidates", "losses", "run", "search_schedule", "tune"]

HELP = "tune planners by rule, and search the best fixed schedule"

Floats = NDArray[np.float64]

_NUMBERS = {
    "front-loaded": ("1", "2", "3", "4", "6", "9"),
    "periodic": ("2", "3", "4", "5", "6", "8"),
    "threshold": ("0.3", "0.4", "0.5", "0.6", "0.7", "0.8"),
}
_SIZE = max(part.stop for part in OBSERVATION_SLICES.values())
_LANES = 2048  # episodes that step together at most
_STREAM = 7042
_ELITE, _KEPT = 1 / 4, 0.5  # part that is learned from, part of the old distribution that stays
_ANYTHING = 0.03  # probability of any action at a step, so that the search does not settle early


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add = parser.add_argument
    add("--out", type=Path, required=True, metavar="FILE", help="JSON for mfenv bench intervention")
    add("--split", default="validation", metavar="NAME", help="of the events (%(default)s)")
    add("--seeds", type=integer(1), default=4, metavar="K", help="runs an event (%(default)s)")
    add("--limit-events", type=integer(1), metavar="N", help="tune on so many of the events only")
    add("--rounds", type=integer(0), default=40, metavar="R", help="of the search (%(default)s)")
    add("--population", type=integer(6), default=48, metavar="N", help="a round (%(default)s)")
    add("--seed", type=integer(0), default=0, metavar="S", help="of the search (%(default)s)")
    add_setting_arguments(parser, "society")


def run(args: argparse.Namespace) -> int:
    """Tune, and write the planners."""
    setting, events = setting_of(args, None, args.split).chosen(args.limit_events)
    result = tune(setting, events, args.seeds, args.rounds, args.population, args.seed)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(result, indent=1, ensure_ascii=False) + "\n"
    args.out.write_text(text, encoding="utf-8")
    for label, name in result["planners"].items():  # type: ignore[attr-defined]
        print(f"{label}: {name}")
    return 0


def candidates() -> dict[str, list[str]]:
    """Every rule that is tried, by kind."""
    actions = [action_name(a) for a in range(1, N_ACTIONS)]
    return {
        "always": [f"always:{a}" for a in actions],
        **{
            kind: [f"{kind}:{a}@{n}" for a in actions for n in numbers]
            for kind, numbers in _NUMBERS.items()
        },
    }


def losses(
    setting: Setting,
    events: Sequence[Event],
    names: Sequence[str],
    where: NDArray[np.bool_],
) -> tuple[Floats, Floats]:
    """Mean loss a step ``(N, R)`` (minus the mean reward) of planners, and credibilities ``(R,)``.

    ``where`` ``(S, E)`` says which runs of the events are played, R in all, in row-major order. All
    planners have the same noise; the credibilities are what they see.
    """
    objective = make_objective(setting.objective, setting.target)
    arguments, truth = setting.arguments(), {e.event_id: e.truth for e in events}
    pairs = [(int(s), events[int(e)].event_id) for s, e in np.argwhere(where)]
    result, seen = [], np.zeros(len(pairs))
    size = max(1, _LANES // len(pairs))
    for first in range(0, len(names), size):
        part = list(dict.fromkeys(names[first : first + size]))
        lanes = [Lane(n, e, s) for n in part for s, e in pairs]
        played = play(arguments, {n: build_planner(n) for n in part}, lanes)
        own = played.counts[..., :2].sum(axis=-1)
        known = np.array([[bool(truth[lane.event_id])] for lane in lanes])
        harm = harms(objective, normalise(played.counts), own, known)
        cost = COST_OF_ACTION[budgeted(played.wanted, setting.budget)[0]]
        going = np.arange(setting.horizon) < played.steps[:, None]
        loss = ((harm + setting.cost_weight * cost) * going).sum(axis=1) / played.steps
        by_name = dict(zip(part, loss.reshape(len(part), len(pairs)), strict=True))
        result += [by_name[n] for n in names[first : first + size]]
        seen = played.credibility[: len(pairs)]
    return np.array(result), seen


def search_schedule(
    setting: Setting,
    events: Sequence[Event],
    where: NDArray[np.bool_],
    starts: Sequence[str],
    *,
    rounds: int,
    population: int,
    rng: np.random.Generator,
) -> str:
    """The best schedule found for the runs ``where`` ``(S, E)``, by the cross-entropy method.

    ``starts`` are names of rules that do not watch, tried in the first round, too. Returns the
    planner's name.
    """
    odds = np.full((setting.horizon, N_ACTIONS), 0.5 / (N_ACTIONS - 1))
    odds[:, 0] = 0.5
    known = [_plan(name, setting.horizon) for name in starts]
    best, least = np.zeros(setting.horizon, dtype=np.int64), np.inf
    for number in range(rounds):
        u = rng.random((population, setting.horizon, 1))
        free = (1.0 - _ANYTHING) * odds + _ANYTHING / N_ACTIONS
        drawn = (free.cumsum(axis=1)[None] < u).sum(axis=2).clip(max=N_ACTIONS - 1)
        tried = [*drawn, best, *(known if number == 0 else ())]
        names = ["schedule:" + ",".join(map(action_name, plan)) for plan in tried]
        means = losses(setting, events, names, where)[0].mean(axis=1)
        order = np.argsort(means, kind="stable")
        if means[order[0]] < least:
            best, least = tried[order[0]], means[order[0]]
        elite = np.stack([tried[i] for i in order[: max(2, int(population * _ELITE))]])
        share = (elite[:, :, None] == np.arange(N_ACTIONS)).mean(axis=0)
        odds = _KEPT * odds + (1.0 - _KEPT) * share
        print(f"round {number + 1}: {-least:.4f}", file=sys.stderr, flush=True)
    paid = budgeted(best[None], setting.budget)[0][0]
    return "schedule:" + ",".join(map(action_name, paid))


def tune(
    setting: Setting,
    events: Sequence[Event],
    seeds: int,
    rounds: int,
    population: int,
    seed: int,
) -> dict[str, object]:
    """The best planner of each kind by label, their mean rewards, and what they were tuned on."""
    kinds = candidates()
    names = ["none", *(name for kind in kinds.values() for name in kind)]
    every = np.ones((seeds, len(events)), dtype=np.bool_)
    loss, seen = losses(setting, events, names, every)
    means = loss.mean(axis=1)
    planners = {
        kind: min(each, key=lambda n: means[names.index(n)]) for kind, each in kinds.items()
    }
    sides = {"doubtful": seen < 0.5, "credible": seen >= 0.5}
    rules = {
        side: names[int(loss[:, where].mean(axis=1).argmin())] if where.any() else "none"
        for side, where in sides.items()
    }
    planners["by credibility"] = f"by-credibility:{rules['doubtful']}|{rules['credible']}"
    if rounds:
        blind = [n for kind in kinds if kind != "threshold" for n in kinds[kind]]
        found = {}
        for number, (side, where) in enumerate({"all": every.ravel(), **sides}.items()):
            if not where.any():
                found[side] = "none"
                continue
            order = np.argsort(loss[[names.index(n) for n in blind]][:, where].mean(axis=1))
            found[side] = search_schedule(
                setting, events, where.reshape(every.shape), [blind[i] for i in order[:4]],
                rounds=rounds, population=population, rng=generator(_STREAM, seed, number),
            )  # fmt: skip
        planners["schedule"] = found["all"]
        planners["schedules by credibility"] = (
            f"by-credibility:{found['doubtful']}|{found['credible']}"
        )
    kept = list(planners.values())
    final = losses(setting, events, kept, every)[0].mean(axis=1)
    return {
        "planners": planners,
        "mean_reward": {
            label: round(-float(x), 6) for label, x in zip(planners, final, strict=True)
        },
        "mean_reward_of_none": round(-float(means[0]), 6),
        "tuned_on": _told(setting)
        | {"seeds": seeds, "rounds": rounds, "population": population, "seed": seed},
    }


def _told(setting: Setting) -> dict[str, Any]:
    """The setting for a file that may be handed on: no path, and ids of real events as hashes."""
    found, more = asdict(setting), dict(setting.more)
    path = more.get("events", setting.events)
    if path in (None, SYNTHETIC):
        return found
    hashed = [hashlib.sha256(i.encode()).hexdigest()[:16] for i in setting.event_ids]
    if "events" in more:
        more["events"] = Path(str(path)).name
    else:
        found["events"] = Path(str(path)).name
    return found | {"event_ids": hashed, "more": more}


def _plan(name: str, horizon: int) -> NDArray[np.int64]:
    """The actions ``(T,)`` of a rule that does not watch."""
    planner, t = build_planner(name), np.linspace(0, 1, horizon)
    space = np.zeros((horizon, _SIZE), dtype=np.float32)
    space[:, OBSERVATION_SLICES["time"].start] = t
    planner.reset(np.zeros(1, dtype=np.int64))
    free = np.ones((1, N_ACTIONS), dtype=np.bool_)
    return np.concatenate([planner.act(row[None], free) for row in space])
