"""A pool of processes on this machine, or this process itself."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Collection, Hashable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from types import TracebackType
from typing import Any, Self

from benchmarks.executors.base import Failure, Task, perform

__all__ = ["LocalExecutor", "local", "thread_variables"]

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_GRACE = 5.0  # seconds that a worker which is told to end is given


def thread_variables(threads: int) -> dict[str, str]:
    """Environment variables that give a process so many threads, where nobody has set them."""
    return {name: str(threads) for name in _THREADS if name not in os.environ}


class LocalExecutor:
    """Processes that are started afresh (``spawn``), one task each at a time.

    One that dies takes only its task with it and is replaced; all of them end with the process
    that started them, however it ends. With one worker tasks are played in this process.
    """

    def __init__(self, workers: int, threads: int) -> None:
        self._workers, self._threads = workers, threads
        self._context = multiprocessing.get_context("spawn")
        self._idle: list[_Worker] = []
        self._busy: dict[Hashable, _Worker] = {}
        self._here: dict[Hashable, Failure | None] = {}
        self._count = 0

    @property
    def slots(self) -> int:
        """Tasks that run at the same time."""
        return self._workers

    def start(self, task: Task) -> Hashable:
        """Begin a task in an idle process."""
        self._count += 1
        if self._workers == 1:
            self._here[self._count] = perform(task)
            return self._count
        worker = self._idle.pop() if self._idle else self._new()
        while not worker.take(task):  # it died while it had nothing to do
            worker.end()
            worker = self._new()
        self._busy[self._count] = worker
        return self._count

    def wait(self, running: Collection[Hashable]) -> tuple[Hashable, Failure | None]:
        """Wait for the first task to end; a worker that died is a failure."""
        if self._here:
            return self._here.popitem()
        of = {self._busy[handle].pipe: handle for handle in running}
        handle = next(of[pipe] for pipe in wait(list(of)) if isinstance(pipe, Connection))
        worker = self._busy.pop(handle)
        try:
            failure: Failure | None = worker.pipe.recv()
        except (EOFError, OSError):
            worker.end()
            code = worker.process.exitcode
            return handle, Failure(f"its worker died (exit code {code})")
        self._idle.append(worker)
        return handle, failure

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for worker in (*self._idle, *self._busy.values()):
            worker.end()
        self._idle, self._busy = [], {}

    def _new(self) -> _Worker:
        with _environment(thread_variables(self._threads)):
            return _Worker(self._context)


class _Worker:
    """A process and the pipe to it."""

    def __init__(self, context: Any) -> None:
        self.pipe: Connection
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs,), daemon=True)
        self.process.start()
        theirs.close()  # else its death could not be seen

    def take(self, task: Task) -> bool:
        """Send a task; False where nobody is there to take it."""
        try:
            self.pipe.send(task)
        except OSError:
            return False
        return bool(self.process.is_alive())

    def end(self) -> None:
        """Stop it, whatever it does."""
        self.pipe.close()
        self.process.terminate()
        self.process.join(_GRACE)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


def _serve(pipe: Connection) -> None:
    """The life of a worker: task in, outcome out, until the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the one that started it decides
    threading.Thread(target=_end_with_parent, daemon=True).start()
    while True:
        try:
            task = pipe.recv()
        except (EOFError, OSError):
            return
        pipe.send(perform(task))


def _end_with_parent() -> None:
    """Nobody is to go on writing journals that the next run continues."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """Set variables while a process is started: libraries read them when they are loaded."""
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in variables:
            del os.environ[name]


def local(workers: int, threads: int, **_: object) -> LocalExecutor:
    """The executor ``local``."""
    return LocalExecutor(workers, threads)
