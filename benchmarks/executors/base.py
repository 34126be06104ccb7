"""What a task is, how one is performed wherever it is sent, and what performs many."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Collection, Hashable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import mfenv
from benchmarks.executors.shared import PlaceError, opened
from mfenv.errors import MfenvError, ModelError

__all__ = ["Executor", "Failure", "Task", "perform"]


@dataclass(frozen=True, slots=True)
class Task:
    """A piece of a run that one process plays."""

    name: str
    """What a person is told; no two tasks of a run share it."""
    play: Callable[[Any, Path], None]
    """A function of a module: plays ``argument`` with its files in a folder, and goes on with what
    it finds there."""
    argument: Any
    """Small, and can be pickled."""
    cost: float
    """Expected, in decisions."""
    files: tuple[str, ...]
    """What it reads and writes in the folder."""
    place: str
    """The run's folder: a path, or a URL that fsspec knows."""
    here: str = ""
    """The working directory of who asks, from which relative paths are counted."""
    version: str = mfenv.__version__


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a task was not played to its end."""

    reason: str
    lasting: bool = False
    """Whether it would fail again: the person has to put something right."""


class Executor(Protocol):
    """Performs tasks, some at the same time. A context manager: leaving it ends what still runs."""

    @property
    def slots(self) -> int:
        """Tasks that run at the same time."""
        ...

    def start(self, task: Task) -> Hashable:
        """Begin a task and return what stands for it; at most ``slots`` are begun and not ended."""
        ...

    def wait(self, running: Collection[Hashable]) -> tuple[Hashable, Failure | None]:
        """Wait until one of the tasks that are begun has ended, and say how."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


def perform(task: Task) -> Failure | None:
    """Play a task in this process. What goes wrong is returned: any error can be sent so."""
    if task.version != mfenv.__version__:
        return Failure(
            f"the worker has mfenv {mfenv.__version__}, the run was started with {task.version}: "
            "install one version everywhere",
            lasting=True,
        )
    try:
        if task.here and Path.cwd() != Path(task.here) and Path(task.here).is_dir():
            os.chdir(task.here)
        with opened(task.place, task.files) as folder:
            task.play(task.argument, folder)
    except MfenvError as error:
        # A model that does not answer may answer somebody else, or later.
        return Failure(str(error), lasting=not isinstance(error, ModelError | PlaceError))
    except Exception as error:
        at = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(at.filename).name}, line {at.lineno}"
        return Failure(f"{type(error).__name__}: {error} ({where})")
    return None
