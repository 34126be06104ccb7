"""``mfenv intervene``: one planner on one event, with a report on what it did and achieved."""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import mfenv
from agents.planners.base import COST_OF_ACTION, Insider, build_planner
from agents.planners.play import Lane, Played, budgeted, lane_seed, play
from agents.planners.setting import Setting, add_setting_arguments, setting_of
from benchmarks.fidelity import machine
from benchmarks.intervention.gate import Fidelity, fidelity_of
from benchmarks.intervention.lineup import NOTHING, chosen_planners, read_tuned, shipped_tuned
from benchmarks.intervention.report import Policy, Report, Said, render
from benchmarks.intervention.scores import interval_json
from benchmarks.metrics import Interval, student
from mfenv.cli import integer
from mfenv.distributions import normalise
from mfenv.dynamics.assemble import build_backbone
from mfenv.dynamics.journal import canonical
from mfenv.dynamics.records import StepRecord
from mfenv.envs.objectives import harms, make_objective
from mfenv.envs.observation import OBSERVATION_SLICES
from mfenv.envs.social import SocialEnv
from mfenv.envs.social_vector import SocialVectorEnv
from mfenv.errors import MfenvError
from mfenv.events.event import Event
from mfenv.labels import SLICES, dimension

__all__ = ["HELP", "add_arguments", "probe", "run"]

HELP = "let a planner intervene in an event, and report what it achieves and why"

_SAID_STEPS, _SAID_PEOPLE = 4, 6
_LEVELS = np.linspace(0.0, 1.0, 11)  # shares of the rumour that a policy is probed at
_SPREAD = OBSERVATION_SLICES["distribution"].start + SLICES["rumor"].start
_CHANGE = OBSERVATION_SLICES["change"].start + SLICES["rumor"].start
_BELIEF = dimension("belief")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add = parser.add_argument
    add("events", nargs="?", metavar="EVENTS", help="file of events (default: synthetic ones)")
    add("--event", metavar="ID", help="which event (default: the first that can be played)")
    add("--split", metavar="NAME", help="of the synthetic events (test)")
    add(
        "--planner", default="by credibility", metavar="NAME", help="or a tuned label (%(default)s)"
    )
    add("--tuned", type=Path, metavar="FILE", help="of mfenv train heuristics (the shipped one)")
    add("--seeds", type=integer(1), default=5, metavar="K", help="runs (%(default)s)")
    add_setting_arguments(parser, "llm")
    add("--fidelity", type=Path, action="append", default=[], metavar="FILE",
        help="result of mfenv bench fidelity for this simulator (default: the shipped ones)",
    )  # fmt: skip
    add("--out", type=Path, metavar="DIR", help="folder (default: runs/intervene-…)")
    add("--json", action="store_true", help="print JSON only")


@dataclass
class _Watched:
    """What is kept of the steps beside the counts."""

    seen: list[NDArray[np.float32]]  # by step, (L, 63)
    masks: list[NDArray[np.bool_]]  # by step, (L, 19)
    records: list[list[StepRecord | None]]  # by step, in the LLM tier

    def __call__(
        self, seen: NDArray[np.float32], masks: NDArray[np.bool_], envs: SocialVectorEnv
    ) -> None:
        self.seen.append(seen)
        self.masks.append(masks)
        if envs.single.tier == "llm":
            self.records.append(envs.records())


def run(args: argparse.Namespace) -> int:
    """Check that the fidelity is known, play both branches, write the report."""
    split = args.split or (None if args.events else "test")
    setting = setting_of(args, args.events, split)
    if args.event is not None:
        setting = replace(setting, event_ids=(args.event,))
    setting, events = setting.chosen(None)
    event = events[0]
    setting = replace(setting, event_ids=(event.event_id,))
    path = args.tuned or shipped_tuned(setting.objective)
    tuned = {} if path is None else read_tuned(path)
    name = tuned.get(args.planner, args.planner)
    label = args.planner if args.planner in tuned else name
    chosen_planners([name], {})
    if name == NOTHING:
        raise MfenvError("--planner none is what a planner is compared with; choose another")
    llm = setting.dynamics == "llm"
    backbone = build_backbone(setting.backbone).describe() if llm else None
    known = fidelity_of(setting, backbone, args.fidelity)

    planners = {NOTHING: build_planner(NOTHING), name: build_planner(name)}
    lanes = [Lane(p, event.event_id, s) for p in planners for s in range(args.seeds)]
    watched = _Watched([], [], [])
    played = play(setting.arguments(), planners, lanes, watched)
    steps = int(played.steps[0])
    report = _report(args, setting, event, label, name, known, played, watched)
    digest = hashlib.sha256(
        canonical([event.event_id, name, args.seeds, setting.dynamics, setting.objective])
    ).hexdigest()[:10]
    out = args.out or Path("runs") / f"intervene-{digest}"
    out.mkdir(parents=True, exist_ok=True)
    (out / "report.html").write_text(render(report), encoding="utf-8")
    result = {
        "event": event.event_id,
        "planner": name,
        "objective": setting.objective,
        "dynamics": setting.dynamics,
        "fidelity": known.as_json(),
        "steps": steps,
        "seeds": args.seeds,
        "harm_without": report.harm_without.round(6).tolist(),
        "harm_with": report.harm_with.round(6).tolist(),
        "uplift": interval_json(report.uplift),
        "net_uplift": interval_json(report.net),
        "actions": report.actions.tolist(),
        "cost": report.cost.round(6).tolist(),
        "refused": report.refused,
    }
    text = json.dumps(result, indent=1, ensure_ascii=False) + "\n"
    (out / "result.json").write_text(text, encoding="utf-8")
    if args.json:
        print(text, end="")
        return 0
    low, high = report.uplift.low, report.uplift.high
    span = "" if math.isnan(low) else f" [{low:+.4f}, {high:+.4f}]"
    print(f"{event.event_id}: uplift {report.uplift.mean:+.4f}{span} with {label}")
    print(f"simulator: {known.simulator}; fidelity: {known.statement}")
    print(f"report: {out / 'report.html'}")
    return 0


def _report(
    args: argparse.Namespace,
    setting: Setting,
    event: Event,
    label: str,
    name: str,
    known: Fidelity,
    played: Played,
    watched: _Watched,
) -> Report:
    k, steps = args.seeds, int(played.steps[0])
    objective = make_objective(setting.objective, setting.target)
    counts = played.counts[:, :steps]
    shares = normalise(counts)
    harm = harms(objective, shares, counts[..., :2].sum(axis=-1), bool(event.truth))
    done, refused = budgeted(played.wanted[k:, :steps], setting.budget)
    cost = COST_OF_ACTION[done]
    uplift = (harm[:k] - harm[k:]).mean(axis=1)
    net = uplift - setting.cost_weight * cost.mean(axis=1)
    notes = []
    if k < 3:
        notes.append("Fewer than three seeds: give --seeds 5 or more for an interval to trust.")
    said, changed = _differences(setting, event, played, watched, k, steps)
    truth = "unknown" if event.truth is None else str(bool(event.truth)).lower()
    groups = {
        "Event": {
            "id": event.event_id,
            "domain": event.domain or "unknown",
            "language": event.language,
            "claim is true": truth,
        },
        "Simulator": {
            "tier": setting.dynamics,
            "name": known.simulator,
            "fidelity": known.statement,
            "measured in": known.source or "by construction",
            **({"annotator": setting.annotator} if setting.dynamics == "llm" else {}),
        },
        "Settings": {
            "planner": name,
            "objective": setting.objective,
            "budget": f"{setting.budget:g}",
            "cost weight": f"{setting.cost_weight:g} a step and unit",
            "steps": f"{steps} of {setting.batch} people, after {setting.warmup} recorded ones",
            "seeds": str(k),
            "mfenv": mfenv.__version__,
            "machine": machine(),
        },
    }
    return Report(
        title=f"{label} on {event.event_id}",
        topic=event.topic,
        language=event.language,
        planner=label,
        objective=setting.objective,
        simulator=known.simulator,
        fidelity=known.statement,
        budget=setting.budget,
        uplift=_over_seeds(uplift),
        net=_over_seeds(net),
        harm_without=harm[:k],
        harm_with=harm[k:],
        shares_without=shares[:k],
        shares_with=shares[k:],
        actions=done,
        cost=cost,
        refused=int(refused.sum()),
        said=said,
        changed=changed,
        policy=_policy(name, watched, k, steps),
        facts=groups,
        command=_command(sys.argv[1:]),
        notes=notes,
    )


def _over_seeds(values: NDArray[np.float64]) -> Interval:
    """Runs of one event are all there is to draw from: Student's t over the seeds."""
    return student(values)


# -- what people said --------------------------------------------------------------------------


def _differences(
    setting: Setting, event: Event, played: Played, watched: _Watched, k: int, steps: int
) -> tuple[list[Said], tuple[int, int, int] | None]:
    """Reactions of the first seed since the first intervention, with and without."""
    done = budgeted(played.wanted[k : k + 1, :steps], setting.budget)[0][0]
    if not done.any():
        return [], (0, 0, 0)
    if setting.dynamics == "llm":
        pairs = [(row[0], row[k]) for row in watched.records]
    elif setting.dynamics == "society":
        nothing = _replayed(setting, event, np.zeros_like(done))
        pairs = list(zip(nothing, _replayed(setting, event, done), strict=True))
    else:
        return [], None  # a tier without texts
    first = int(np.flatnonzero(done)[0])
    total = words = belief = 0
    every: list[Said] = []
    for step in range(first, steps):
        a, b = pairs[step]
        assert a is not None
        assert b is not None
        own = np.flatnonzero(~a.planted & ~b.planted).tolist()
        texts = [(a.texts[i], b.texts[i]) for i in own]
        total += len(own)
        words += sum(x != y for x, y in texts)
        belief += int((a.labels[own, _BELIEF] != b.labels[own, _BELIEF]).sum())
        shown = texts[:_SAID_PEOPLE]
        every.append(Said(step + 1, [x for x, _ in shown], [y for _, y in shown]))
    places = np.linspace(0, len(every) - 1, min(_SAID_STEPS, len(every))).round().astype(int)
    return [every[i] for i in sorted({*places.tolist()})], (total, words, belief)


def _replayed(setting: Setting, event: Event, actions: NDArray[np.int64]) -> tuple[StepRecord, ...]:
    """The first seed's run again, one environment by itself, for its texts."""
    env = SocialEnv(**setting.arguments())
    env.reset(seed=lane_seed(event.event_id, 0), options={"event_id": event.event_id})
    for action in actions:
        env.step(int(action))
    return env.records


# -- the policy ----------------------------------------------------------------------------------


def _policy(name: str, watched: _Watched, lane: int, steps: int) -> Policy | None:
    if isinstance(build_planner(name), Insider):
        return None
    seen = np.stack([row[lane] for row in watched.seen[:steps]])
    masks = np.stack([row[lane] for row in watched.masks[:steps]])
    return Policy(_LEVELS.tolist(), probe(name, seen, masks, _LEVELS), seen[:, _SPREAD].tolist())


def probe(
    name: str,
    seen: NDArray[np.float32],
    masks: NDArray[np.bool_],
    levels: NDArray[np.float64],
) -> NDArray[np.int64]:
    """What a planner would do at each step if the rumour's share were at each level: ``(Y, T)``.

    ``seen`` ``(T, 63)`` and ``masks`` ``(T, 19)`` are a run's. Up to a step the planner sees the
    run as it was; at the step the shares that spread and counter the rumour, and their change,
    are replaced.
    """
    steps, result = len(seen), np.zeros((len(levels), len(seen)), dtype=np.int64)
    planner = build_planner(name)
    for step in range(steps):
        planner.reset(np.zeros(len(levels), dtype=np.int64))
        for t in range(step):
            planner.act(*_tiled(seen[t], masks[t], len(levels)))
        observation, mask = _tiled(seen[step], masks[step], len(levels))
        before = observation[:, _SPREAD] - observation[:, _CHANGE]
        observation[:, _SPREAD], observation[:, _SPREAD + 1] = levels, 1.0 - levels
        observation[:, _CHANGE] = levels - before
        observation[:, _CHANGE + 1] = before - levels
        result[:, step] = planner.act(observation, mask)
    return result


def _tiled(
    seen: NDArray[np.float32], mask: NDArray[np.bool_], n: int
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    return np.tile(seen, (n, 1)), np.tile(mask, (n, 1))


def _command(argv: Sequence[str]) -> str:
    """The command, but for where on this disk files lie."""
    words = ["mfenv", "intervene"]
    skip, shorten = False, False
    for word in argv[1:] if argv[:1] == ["intervene"] else []:
        if skip or word.startswith("--out=") or word == "--out":
            skip = word == "--out"
            continue
        if shorten or (not word.startswith("-") and "/" in word and Path(word).exists()):
            word = Path(word).name
        words.append(word)
        shorten = word in ("--fidelity", "--tuned")
    return shlex.join(words)
