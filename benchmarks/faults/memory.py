"""Memory over a long run."""

from __future__ import annotations

import json
import subprocess

from benchmarks.faults.row import Outcome, Row, Trial, command

__all__ = ["ROW"]

_MOST = 0.10
"""Growth that is allowed, as a part of what was there after a tenth of the run."""


def run(trial: Trial) -> Outcome:
    """Resident memory after 4,000 and after 40,000 interactions of one run (``bench long``)."""
    n = int(trial.options.get("interactions") or 40_000)
    backbone = str(trial.options.get("backbone") or "ngram-en")
    out = trial.folder / "run"
    words = command("bench", "long", "synthetic", "--interactions", str(n), "--people", "2000")
    words += ["--backbone", backbone, "--methods", "mf-counted", "--out", str(out)]
    words += ["--results", str(trial.folder), "--name", "long"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    path = out / "mf-counted-0.memory"
    if done.returncode or not path.is_file():
        return Outcome(False, f"{done.stderr[-300:]!r} ({done.returncode})")
    marks = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    first, last = marks[0], marks[-1]
    growth = last["rss_mb"] / first["rss_mb"] - 1
    return Outcome(
        growth <= _MOST and len({m["process"] for m in marks}) == 1,
        f"{first['rss_mb']:.0f} MB at {n // 10:,} interactions, {last['rss_mb']:.0f} MB at {n:,}: "
        f"{growth:+.1%} ({backbone})",
    )


ROW = Row(
    "memory",
    "a run of 40,000 interactions",
    f"memory stays within {_MOST:.0%} of its value at 4,000",
    run,
)
