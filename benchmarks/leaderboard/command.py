"""``mfenv leaderboard JOB …``: hands over to the job's module, which alone is imported."""

from __future__ import annotations

from mfenv.cli import Jobs

__all__ = ["HELP", "add_arguments", "run"]

HELP = "check entries of the benchmark, rerun a part of them, build the site"

_JOBS = Jobs(
    "leaderboard",
    {
        "validate": ("benchmarks.leaderboard.validate", "whether an entry is whole and honest"),
        "verify": ("benchmarks.leaderboard.verify", "rerun a random part of an entry"),
        "build": ("benchmarks.leaderboard.build", "a static site of several entries"),
    },
)
add_arguments = _JOBS.add_arguments
run = _JOBS.run
