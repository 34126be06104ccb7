"""The runs behind the figures: rollouts with journals, and teacher-forced likelihoods.

Everything is cut into blocks that are a pure function of the task list, whoever plays them. A
block's runs (cases × seeds of one method) advance in lockstep; each is journalled, so that a killed
run goes on, and a block that is complete is read and not played again.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
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
    "block_files",
    "blocks",
    "cost",
    "is_played",
    "likelihood_block",
    "likelihood_blocks",
    "likelihood_path",
    "likelihoods",
    "no_likelihoods",
    "play_block",
    "played",
    "process_of",
    "real_labels",
    "rollouts",
    "score_block",
    "seconds",
]

Floats = NDArray[np.float64]

WORLDS = 64
"""Runs that advance together at most: more of them are hardly faster, and fewer blocks keep fewer
workers busy."""

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
    """All tasks of a condition, in blocks of one method and whole cases, ``WORLDS`` runs at most.

    A method's cases are cut into parts of one size, as far as that goes.
    """
    most = max(1, WORLDS // len(plan.seeds))
    parts = -(-len(plan.cases) // most)
    edges = [len(plan.cases) * k // parts for k in range(parts + 1)]
    return [
        [Task(case, method, seed) for case in range(start, stop) for seed in plan.seeds]
        for method in plan.methods
        for start, stop in itertools.pairwise(edges)
    ]


def cost(plan: Plan, tasks: Sequence[Task]) -> float:
    """Decisions that a block asks of its policy model, a calibration's candidates included."""
    total = 0
    for task in tasks:
        calibration = _pair(plan, task).calibration
        if calibration is None:
            total += plan.condition.horizon
        else:
            total += calibration.candidates * (plan.condition.horizon + plan.condition.warmup)
    return float(total)


def rollouts(plan: Plan, tell: Callable[[int, int], None]) -> None:
    """Play what is not yet in the journals; ``tell`` hears (steps done, steps in all)."""
    parts = blocks(plan)
    total = process_of(plan, parts[0][0]).total_steps * sum(map(len, parts))
    done = 0

    def on_steps(steps: int) -> None:
        nonlocal done
        done += steps
        tell(done, total)

    for tasks in parts:
        play_block(plan, tasks, on_steps)


def play_block(
    plan: Plan, tasks: Sequence[Task], on_steps: Callable[[int], None] = lambda steps: None
) -> None:
    """Play a block, or the rest of it; ``on_steps`` hears of steps, replayed ones included."""
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
        if all(len(j.records) == p.total_steps for j, p in zip(journals, processes, strict=True)):
            on_steps(sum(p.total_steps for p in processes))
            return
        run_journals(processes, journals, on_step=lambda i, record: on_steps(1))


def is_played(plan: Plan, tasks: Sequence[Task]) -> bool:
    """Whether the journals of a block seem to be whole: all are there, with all their lines."""
    steps = process_of(plan, tasks[0]).total_steps
    paths = [path_of(plan, task) for task in tasks]
    return all(p.exists() and p.read_bytes().count(b"\n") == 1 + steps for p in paths)


def block_files(plan: Plan, tasks: Sequence[Task]) -> list[Path]:
    """The journals of a block and their timings."""
    paths = [path_of(plan, task) for task in tasks]
    return [file for path in paths for file in (path, timings_path(path))]


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


def likelihoods(plan: Plan, say: Callable[[str], None]) -> dict[str, Floats]:
    """Teacher-forced scores: method → ``(cases, 3)`` sums of -log p, tokens and actions."""
    result: dict[str, list[list[float]]] = {}
    for block in likelihood_blocks(plan):
        for method, rows in likelihood_block(plan, block).items():
            result.setdefault(method, []).extend(rows)
        say(f"{plan.condition.name}: likelihood of {block.stop} of {len(plan.cases)} cases")
    return {method: np.array(rows) for method, rows in result.items()}


def likelihood_blocks(plan: Plan) -> list[range]:
    """Cases whose likelihoods are computed together."""
    count = len(plan.cases)
    return [range(start, min(start + _SCORED, count)) for start in range(0, count, _SCORED)]


def likelihood_path(plan: Plan, block: range) -> Path:
    """Where the likelihoods of a block are kept."""
    key = hashlib.sha256(canonical({**plan.identity, "methods": _identities(plan)})).hexdigest()
    name = f"{key[:10]}-{block.start}.json"
    return plan.folder / "likelihoods" / plan.condition.name / name


def likelihood_block(plan: Plan, block: range) -> dict[str, list[list[float]]]:
    """The likelihoods of a block of cases by method, computed if they are not there yet."""
    path = likelihood_path(plan, block)
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}.part")
        part.write_text(json.dumps(score_block(plan, block)))
        part.replace(path)
    rows: dict[str, list[list[float]]] = json.loads(path.read_text())
    return rows


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
