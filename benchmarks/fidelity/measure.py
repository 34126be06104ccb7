"""The runs behind the figures: rollouts with journals, and teacher-forced likelihoods.

Everything is cut into blocks that are a pure function of the task list. A block's runs (cases ×
methods × seeds) advance in lockstep; each is journalled, so that a killed run goes on, and a block
that is complete is read and not played again.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.fidelity.cases import Case, digest
from benchmarks.fidelity.conditions import Condition
from benchmarks.simulate import Pair
from mfenv.dynamics.journal import Journal, canonical, timings_path
from mfenv.dynamics.journal import run as run_journals
from mfenv.dynamics.models import Annotator
from mfenv.dynamics.process import MeanFieldProcess, advance, real_rollout, warm_up
from mfenv.dynamics.records import StepRecord
from mfenv.labels import Labels

__all__ = [
    "Plan",
    "Task",
    "blocks",
    "likelihoods",
    "no_likelihoods",
    "played",
    "process_of",
    "real_labels",
    "rollouts",
    "score_block",
    "seconds",
]

Floats = NDArray[np.float64]

WORLDS = 256
"""Runs that advance together at most: more of them are no faster, and a kill loses more."""

_SCORED = 8  # cases whose teacher-forced steps are scored together, and kept together


@dataclass(frozen=True, slots=True)
class Plan:
    """One condition's cases, and the models of each group of them."""

    condition: Condition
    cases: Sequence[Case]
    models: Mapping[str, Mapping[str, Pair]]
    """Group → method → models."""
    annotator: Annotator
    seeds: Sequence[int]
    identity: Mapping[str, Any]
    """What a journal must have in common to go on, beside what the process says of itself."""
    folder: Path

    @property
    def methods(self) -> list[str]:
        """Short names of the methods, in order."""
        return list(self.models[self.cases[0].group])


@dataclass(frozen=True, slots=True)
class Task:
    """One run: a case, a method and a seed."""

    case: int
    method: str
    seed: int


def blocks(plan: Plan) -> list[list[Task]]:
    """All tasks of a condition, in blocks of whole cases with at most ``WORLDS`` runs."""
    runs = len(plan.methods) * len(plan.seeds)
    size = max(1, WORLDS // runs)
    return [
        [
            Task(case, method, seed)
            for case in range(start, min(start + size, len(plan.cases)))
            for method in plan.methods
            for seed in plan.seeds
        ]
        for start in range(0, len(plan.cases), size)
    ]


def rollouts(plan: Plan, tell: Callable[[int, int], None]) -> None:
    """Play what is not yet in the journals; ``tell`` hears (steps done, steps in all)."""
    parts = blocks(plan)
    steps = process_of(plan, parts[0][0]).total_steps
    total = steps * sum(map(len, parts))
    done = 0

    def on_step(_: int, __: StepRecord) -> None:
        nonlocal done
        done += 1
        tell(done, total)

    for tasks in parts:
        processes = [process_of(plan, task) for task in tasks]
        together = digest(repr([(t.case, t.method, t.seed) for t in tasks]))[:16]
        with ExitStack() as stack:
            journals = [
                stack.enter_context(
                    Journal(
                        path_of(plan, task),
                        {
                            **process.identity(),
                            **plan.identity,
                            "method": _pair(plan, task).identity(task.method),
                            # Which runs share a batch decides the last bits of a float.
                            "together": together,
                        },
                    )
                )
                for task, process in zip(tasks, processes, strict=True)
            ]
            if all(
                len(j.records) == p.total_steps for j, p in zip(journals, processes, strict=True)
            ):
                done += steps * len(tasks)
                tell(done, total)
                continue
            run_journals(processes, journals, on_step=on_step)


def path_of(plan: Plan, task: Task) -> Path:
    """The journal of a run."""
    event = digest(plan.cases[task.case].event.event_id)[:16]
    folder = plan.folder / "journals" / plan.condition.name
    return folder / f"{event}-{task.method}-{task.seed}.jsonl"


def played(plan: Plan, method: str) -> Iterator[tuple[Task, list[StepRecord]]]:
    """The rollout steps of a method's runs, by case and seed, from their journals."""
    from mfenv.dynamics.journal import read_journal

    for case in range(len(plan.cases)):
        for seed in plan.seeds:
            task = Task(case, method, seed)
            yield task, [r for r in read_journal(path_of(plan, task))[1] if not r.warmup]


def seconds(plan: Plan) -> float:
    """Seconds of model calls, earlier sessions included.

    All runs of a block share its calls, so the timings of one of them are those of all.
    """
    total = 0.0
    for tasks in blocks(plan):
        for line in timings_path(path_of(plan, tasks[0])).read_text().splitlines():
            total += sum(json.loads(line)["seconds"].values())
    return total


def real_labels(case: Case, annotator: Annotator, condition: Condition, own: bool = True) -> Labels:
    """Labels ``(warmup + horizon, 8)`` of what the real people did.

    They are the event's own where it has them, but not with ``own=False``.
    """
    event = case.event if own else replace(case.event, labels=None)
    return np.concatenate([r.labels for r in real_rollout(event, annotator, condition.process)])


def _pair(plan: Plan, task: Task) -> Pair:
    return plan.models[plan.cases[task.case].group][task.method]


def process_of(plan: Plan, task: Task, calibrated: bool = True) -> MeanFieldProcess:
    """A run's process, at the start of its event."""
    pair = _pair(plan, task)
    process = MeanFieldProcess(
        pair.policy,
        pair.mean_field,
        plan.annotator,
        plan.condition.process,
        opinions=pair.opinions,
        calibration=pair.calibration if calibrated else None,
    )
    process.begin(plan.cases[task.case].event, task.seed)
    return process


# -- likelihoods -------------------------------------------------------------------------------


def likelihoods(plan: Plan) -> dict[str, Floats]:
    """Teacher-forced scores: method → ``(cases, 3)`` sums of -log p, tokens and actions."""
    result: dict[str, list[list[float]]] = {}
    key = hashlib.sha256(canonical({**plan.identity, "methods": _identities(plan)})).hexdigest()
    for start in range(0, len(plan.cases), _SCORED):
        block = range(start, min(start + _SCORED, len(plan.cases)))
        path = plan.folder / "likelihoods" / plan.condition.name / f"{key[:10]}-{start}.json"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(".part")
            part.write_text(json.dumps(score_block(plan, block)))
            part.replace(path)
        for method, rows in json.loads(path.read_text()).items():
            result.setdefault(method, []).extend(rows)
        print(
            f"{plan.condition.name}: likelihood of {block.stop} of {len(plan.cases)} cases",
            file=sys.stderr,
            flush=True,
        )
    return {method: np.array(rows) for method, rows in result.items()}


def _identities(plan: Plan) -> list[str]:
    return [pair.identity(name) for name, pair in plan.models[plan.cases[0].group].items()]


def score_block(plan: Plan, block: Sequence[int]) -> dict[str, list[list[float]]]:
    """Score the real actions of some cases step by step, while the real actions lead on."""
    names = plan.methods
    keys = [Task(i, method, plan.seeds[0]) for method in names for i in block]
    # Where real actions lead on, a calibration has nothing to choose.
    processes = [process_of(plan, task, calibrated=False) for task in keys]
    warm_up(processes)
    sums = np.zeros((len(processes), 3))
    while left := [k for k, p in enumerate(processes) if not p.done]:
        texts = [
            [processes[k].event.posts.texts[int(a) + 1] for a in processes[k].next_agents]
            for k in left
        ]
        by_policy: dict[int, list[tuple[int, list[str]]]] = {}
        for k, real in zip(left, texts, strict=True):
            by_policy.setdefault(id(processes[k].policy), []).append((k, real))
        for members in by_policy.values():
            policy: Any = processes[members[0][0]].policy
            scored = policy.score(
                [r for k, _ in members for r in processes[k].requests()],
                [text for _, real in members for text in real],
            )
            owners = [k for k, real in members for _ in real]
            for k, score in zip(owners, scored, strict=True):
                sums[k] += (-score.log_probability, score.tokens, 1)
        advance([processes[k] for k in left], actions=texts)
    return {
        method: [sums[k].tolist() for k, task in enumerate(keys) if task.method == method]
        for method in names
    }


def no_likelihoods(plan: Plan) -> dict[str, Floats]:
    """What stands for likelihoods that a model cannot give: NaN, ``(cases, 3)`` a method."""
    return {method: np.full((len(plan.cases), 3), np.nan) for method in plan.methods}
