"""A journal that was cut in the middle of a record."""

from __future__ import annotations

import shutil

from benchmarks.faults.row import Outcome, Row, Trial, digests, simulate

__all__ = ["ROW"]


def run(trial: Trial) -> Outcome:
    """Cut one of three journals in its last record, in the middle and in its header; go on."""
    quiet = trial.folder / "quiet"
    if simulate(quiet).returncode:
        return Outcome(False, "the undisturbed run failed")
    wanted = digests(quiet)
    name = next(iter(sorted(n for n in wanted if n.startswith("journals/"))))
    data = (quiet / name).read_bytes()
    ends = [i + 1 for i, byte in enumerate(data) if byte == 10]
    middle = len(ends) // 2
    for where, at in {
        "the last record": (ends[-2] + ends[-1]) // 2,
        "a record in the middle": (ends[middle] + ends[middle + 1]) // 2,
        "the header": ends[0] // 2,
    }.items():
        torn = trial.folder / "torn"
        shutil.rmtree(torn, ignore_errors=True)
        shutil.copytree(quiet, torn)
        (torn / name).write_bytes(data[:at])
        done = simulate(torn)
        lines = [x for x in done.stderr.splitlines() if str(torn / name) in x]
        if done.returncode or len(lines) != 1:
            return Outcome(False, f"{where}: {done.stderr[-300:]!r} ({done.returncode})")
        if digests(torn) != wanted:
            return Outcome(False, f"{where}: other bytes after going on")
    return Outcome(True, "cut at 3 places: one line each, the same bytes after going on")


ROW = Row(
    "torn-journal",
    "a journal is cut in the middle of a record",
    "it is said in one line, and the same command repairs it to the same bytes",
    run,
)
