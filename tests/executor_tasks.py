"""Tasks for the tests of the executors: functions of a module, so that they can be sent."""

import os
import signal
import time
from pathlib import Path

from benchmarks.executors import Task
from mfenv.errors import MfenvError, ModelError


def task(play, name: str, place: Path, cost: float = 1.0, argument=None) -> Task:
    return Task(name, play, argument, cost, (f"{name}.txt",), str(place))


def write(argument, folder: Path) -> None:
    (folder / "log").open("a").write(f"{argument}\n")


def die_once(argument, folder: Path) -> None:
    """Dies as by kill -9 in its first two attempts."""
    path = folder / f"{argument}.attempts"
    attempts = len(path.read_text()) if path.exists() else 0
    path.write_text("x" * (attempts + 1))
    if attempts < 2:
        os.kill(os.getpid(), signal.SIGKILL)


def always_dies(argument, folder: Path) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def no_server(argument, folder: Path) -> None:
    (folder / "tries").open("a").write("x")
    raise ModelError("nobody answers")


def bad_data(argument, folder: Path) -> None:
    (folder / "tries").open("a").write("x")
    raise MfenvError("line 3 is malformed")


def bug(argument, folder: Path) -> None:
    raise ZeroDivisionError("oh")


def sleep(argument, folder: Path) -> None:
    (folder / "pid").write_text(str(os.getpid()))
    time.sleep(argument)
