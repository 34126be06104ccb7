"""A clock that jumps: back by three days and on by one, five times a second."""

from __future__ import annotations

import os
import time
from pathlib import Path

from benchmarks.faults.row import Outcome, Row, Trial, digests, simulate
from benchmarks.faults.servers import Server, served_words, served_world

__all__ = ["ROW", "jumping"]

_SITE = """
import datetime
import time

_time, _begun = time.time, time.monotonic()


def _shift():
    return 86400.0 if int((time.monotonic() - _begun) * 5) % 2 else -3 * 86400.0


time.time = lambda: _time() + _shift()
time.time_ns = lambda: int(time.time() * 1e9)


class datetime_(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls.fromtimestamp(time.time(), tz)


datetime_.__name__ = "datetime"
datetime.datetime = datetime_
"""


def jumping(folder: Path) -> dict[str, str]:
    """The environment of a process whose clock jumps."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sitecustomize.py").write_text(_SITE, encoding="utf-8")
    return {"PYTHONPATH": os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])}


def run(trial: Trial) -> Outcome:
    """The same run under the jumping clock; then one with a server that asks for a pause."""
    env = jumping(trial.folder / "site")
    quiet, jumped = trial.folder / "quiet", trial.folder / "jumped"
    if simulate(quiet).returncode:
        return Outcome(False, "the undisturbed run failed")
    done = simulate(jumped, env=env)
    if done.returncode or digests(jumped) != digests(quiet):
        return Outcome(False, f"{done.stderr[-300:]!r} ({done.returncode})")
    with Server(trial.folder / "server.jsonl", busy=2) as server:
        words = served_words([server.url], worlds=2, agents=40)
        world = served_world(trial.folder / "cache")
        begun = time.monotonic()
        done = simulate(trial.folder / "served", words=words, env={**env, **world})
        seconds = time.monotonic() - begun
    if done.returncode:
        return Outcome(False, f"served: {done.stderr[-300:]!r} ({done.returncode})")
    return Outcome(
        True,
        f"the same bytes; a server's 'Retry-After: DATE' was kept, a run of {seconds:.0f} s",
    )


ROW = Row(
    "clock-jump",
    "the clock jumps back by three days and on by one, five times a second",
    "the same bytes, and pauses that a server asks for by date last as long as it meant",
    run,
)
