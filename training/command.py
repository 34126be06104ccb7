"""``mfenv train JOB …``: hands over to the job's module, which alone is imported."""

from __future__ import annotations

import argparse
import importlib

from mfenv.cli import execute

__all__ = ["HELP", "JOBS", "add_arguments", "run"]

HELP = "train an annotator or a small language model (backbone) from scratch"

JOBS: dict[str, tuple[str, str]] = {
    "annotator": ("training.annotator", "the classifier that labels reactions"),
    "backbone": ("training.backbone", "a small causal language model for populations"),
}
"""Job → (module with ``HELP``, ``add_arguments``, ``run``; what it trains)."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the job; whatever follows belongs to the job's own parser."""
    what = "; ".join(f"{name}: {text}" for name, (_, text) in JOBS.items())
    parser.add_argument("job", choices=JOBS, help=what)
    parser.add_argument(
        "rest",
        nargs=argparse.REMAINDER,
        metavar="…",
        help="the job's arguments (mfenv train JOB --help shows them)",
    )


def run(args: argparse.Namespace) -> int:
    """Import the job's module and run it with the remaining arguments."""
    module, _ = JOBS[args.job]
    return execute(importlib.import_module(module), f"mfenv train {args.job}", args.rest)
