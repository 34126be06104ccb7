"""Two processes on one run folder."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from datetime import UTC, datetime

from benchmarks.faults.row import (
    SMALL,
    Outcome,
    Row,
    Trial,
    command,
    digests,
    one_line_of,
    simulate,
)

__all__ = ["ROW"]

_PATIENCE = 600.0  # s until the first process has its lock; machines may be busy


def run(trial: Trial) -> Outcome:
    """Hold a run in its middle, start the same once more, and let the first go on."""
    quiet, shared = trial.folder / "quiet", trial.folder / "shared"
    if simulate(quiet).returncode:
        return Outcome(False, "the undisturbed run failed")
    begun = datetime.now(UTC)
    first = subprocess.Popen(
        command("simulate", *SMALL, "--out", str(shared)),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        lock, until = shared / "run.lock", time.monotonic() + _PATIENCE
        while not (lock.is_file() and lock.stat().st_size):
            if first.poll() is not None or time.monotonic() > until:
                return Outcome(False, "the first process took no lock")
            time.sleep(0.001)
        first.send_signal(signal.SIGSTOP)
        second = simulate(shared)
        line = one_line_of(second) or ""
        found = re.search(r"pid (\d+), started ([0-9T:+-]+)", line)
    finally:
        os.kill(first.pid, signal.SIGCONT)
        first.wait()
    if found is None or int(found[1]) != first.pid:
        return Outcome(False, f"the second said {second.stderr[-300:]!r} ({second.returncode})")
    late = (datetime.fromisoformat(found[2]) - begun).total_seconds()
    if not -1 <= late <= _PATIENCE:
        return Outcome(False, f"the start time is off by {late:.0f} s")
    if first.returncode or digests(shared) != digests(quiet):
        return Outcome(False, "the first run was disturbed")
    return Outcome(True, f"refused, naming pid {first.pid} and its start; the first undisturbed")


ROW = Row(
    "two-processes",
    "a second process starts in the folder of a run",
    "it is refused with the owner's pid and start time, and the first run is as undisturbed",
    run,
)
