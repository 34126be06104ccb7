"""``--executor``, ``--workers`` and what belongs to them."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.executors.base import Executor, Task
from benchmarks.executors.schedule import run_tasks
from benchmarks.executors.shared import Shared, is_url, shared_lock
from mfenv import plugins
from mfenv.cli import integer
from mfenv.dynamics.journal import RunLock
from mfenv.errors import MfenvError

__all__ = ["HERE", "Where", "add_executor_arguments", "where_of"]

GROUP = "mfenv.executors"


def add_executor_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare where tasks are played."""
    add = parser.add_argument
    add(
        "--executor",
        default="local",
        metavar="NAME",
        help=f"who plays the tasks: {', '.join(plugins.names(GROUP))} (%(default)s)",
    )
    add(
        "--workers",
        type=integer(1),
        default=1,
        metavar="N",
        help="tasks at the same time, each in its own process (%(default)s: in this one)",
    )
    add(
        "--threads",
        type=integer(1),
        metavar="T",
        help="of each worker (the machine's cores, divided); OMP_NUM_THREADS comes first",
    )
    add(
        "--shared",
        metavar="URL",
        help="where the journals are kept if not in the run's folder: a URL that every worker "
        "reaches, such as s3://BUCKET/NAME or file:///PATH (fsspec)",
    )
    add(
        "--ray-address",
        metavar="ADDRESS",
        help="of a Ray cluster (RAY_ADDRESS; without it one of this machine is started)",
    )
    add(
        "--worker-gpus",
        type=float,
        default=0.0,
        metavar="G",
        help="GPUs that Ray gives each worker, such as 1 or 0.5 (%(default)s)",
    )


@dataclass(frozen=True, slots=True)
class Where:
    """Where tasks are played, and where their journals are kept."""

    executor: str
    workers: int
    threads: int
    shared: str | None = None
    ray_address: str | None = None
    worker_gpus: float = 0.0

    @property
    def direct(self) -> bool:
        """Whether everything is simply played in this process."""
        return self.executor == "local" and self.workers == 1 and self.shared is None

    def place(self, folder: Path) -> str:
        """Where the journals of a run in a folder are."""
        return self.shared or str(folder.resolve())

    @contextmanager
    def alone(self, folder: Path) -> Iterator[None]:
        """One run at a time in the folder and at the URL."""
        with RunLock(folder), shared_lock(self.shared or ""):
            yield

    def fetch(self, files: Sequence[str], folder: Path) -> None:
        """Bring files of a run from the URL, if it has one, into its folder."""
        if self.shared is not None:
            Shared(self.shared).fetch(files, folder)

    def play(self, tasks: Sequence[Task], folder: Path, say: Callable[[str], None]) -> None:
        """Play tasks of a run, whose files are in its folder afterwards."""
        if not tasks:
            return
        with self.build() as executor:
            run_tasks(tasks, executor, say)
        self.fetch([name for task in tasks for name in task.files], folder)

    def build(self) -> Executor:
        """The executor. Raises ``MissingExtraError`` with the pip command for a missing package."""
        executor: Executor = plugins.load(GROUP, self.executor)(
            self.workers, self.threads, address=self.ray_address, gpus=self.worker_gpus
        )
        return executor


HERE = Where("local", workers=1, threads=1)
"""In this process, journals in the run's folder."""


def where_of(args: argparse.Namespace) -> Where:
    """What the arguments ask for, checked. Raises ``MfenvError``."""
    if args.executor not in plugins.names(GROUP):
        known = ", ".join(plugins.names(GROUP))
        raise MfenvError(f"--executor {args.executor!r} is not allowed; allowed: {known}")
    if args.worker_gpus < 0:
        raise MfenvError("--worker-gpus below 0 is not allowed; allowed: 0 or more")
    for option in ("ray_address", "worker_gpus"):
        if getattr(args, option) and args.executor != "ray":
            raise MfenvError(f"--{option.replace('_', '-')} is for --executor ray")
    threads = args.threads or max(1, _cores() // args.workers)
    if args.shared is not None:
        if not is_url(args.shared):
            raise MfenvError(
                f"--shared {args.shared!r} is not allowed; allowed: a URL such as "
                "s3://BUCKET/NAME; for a path that all workers reach let the run's own folder be "
                "there"
            )
        if Shared(args.shared).own_memory and not (args.executor == "local" and args.workers == 1):
            raise MfenvError("--shared memory:// is seen by this process only: --workers 1")
    return Where(
        executor=args.executor,
        workers=args.workers,
        threads=threads,
        shared=args.shared,
        ray_address=args.ray_address,
        worker_gpus=args.worker_gpus,
    )


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
