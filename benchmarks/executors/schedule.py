"""Which task goes where, and what happens to those that fail: the same for every executor."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Hashable, Sequence

from benchmarks.executors.base import Executor, Task
from mfenv.errors import MfenvError

__all__ = ["ATTEMPTS", "Pace", "run_tasks"]

ATTEMPTS = 3
"""Times that a task is begun before the run gives it up."""


def run_tasks(
    tasks: Sequence[Task],
    executor: Executor,
    say: Callable[[str], None],
    ended: Callable[[Task], None] = lambda task: None,
) -> None:
    """Play all tasks, the costliest first, so that none is left alone at the end.

    A task that fails, or whose worker dies, is begun again behind those that wait; what it had
    done is in its journals. ``say`` is told how far the run is, ``ended`` of every task that is
    done. Raises ``MfenvError`` that names the task where one has failed :data:`ATTEMPTS` times, or
    once with an error that would come again.
    """
    waiting = sorted(tasks, key=lambda task: (-task.cost, task.name))
    tried: Counter[str] = Counter()
    running: dict[Hashable, Task] = {}
    pace = Pace(sum(task.cost for task in tasks), len(tasks))
    while waiting or running:
        while waiting and len(running) < executor.slots:
            task = waiting.pop(0)
            tried[task.name] += 1
            running[executor.start(task)] = task
        handle, failure = executor.wait(running)
        task = running.pop(handle)
        if failure is None:
            ended(task)
            say(pace.after(task.cost))
        elif failure.lasting:
            raise MfenvError(f"{task.name}: {failure.reason}")
        elif tried[task.name] >= ATTEMPTS:
            raise MfenvError(
                f"{task.name} failed {ATTEMPTS} times, at last with: {failure.reason}. What is "
                "done is kept: the same command again goes on"
            )
        else:
            say(f"{task.name} is begun again: {failure.reason}")
            waiting.append(task)


class Pace:
    """How far a run is, how fast it goes, and what is left."""

    def __init__(self, cost: float, tasks: int) -> None:
        self._cost, self._tasks = cost, tasks
        self._done, self._ended = 0.0, 0
        self._begun = time.monotonic()

    def after(self, cost: float) -> str:
        """Count one more task and say where that leaves the run."""
        self._done, self._ended = self._done + cost, self._ended + 1
        seconds = max(time.monotonic() - self._begun, 1e-6)
        rate = self._done / seconds
        left = (self._cost - self._done) / rate if rate else 0.0
        return (
            f"{self._ended} of {self._tasks} tasks, {rate:,.0f} decisions/s, "
            f"{'done' if self._ended == self._tasks else f'about {duration(left)} left'}"
        )


def duration(seconds: float) -> str:
    """In the unit that a person would plan with."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
