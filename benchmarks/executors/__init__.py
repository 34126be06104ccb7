"""Where the tasks of a run are played: in this process, in a pool of processes, on a Ray cluster.

A task is a fixed batch of worlds that is a pure function of what was asked for. Its result is a
file or a journal in the run's folder. So who plays it, beside whom, and how often it had to be
begun again changes no byte.
"""

from benchmarks.executors.base import Executor, Failure, Task, perform
from benchmarks.executors.options import HERE, Where, add_executor_arguments, where_of
from benchmarks.executors.schedule import ATTEMPTS, run_tasks
from benchmarks.executors.shared import Shared, shared_lock

__all__ = [
    "ATTEMPTS",
    "HERE",
    "Executor",
    "Failure",
    "Shared",
    "Task",
    "Where",
    "add_executor_arguments",
    "perform",
    "run_tasks",
    "shared_lock",
    "where_of",
]
