"""A row of the fault table, and the runs that it disturbs."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mfenv.dynamics.journal import read_journal

__all__ = [
    "SMALL",
    "Outcome",
    "Row",
    "Trial",
    "command",
    "digests",
    "one_line_of",
    "simulate",
    "whole_steps",
]

SMALL = (
    *("--backbone", "ngram-en", "--method", "mf-counted", "--agents", "80", "--warmup", "16"),
    *("--batch", "8", "--seeds", "3"),
)
"""A run of seconds with a real model: the shipped n-gram."""


@dataclass(frozen=True, slots=True)
class Trial:
    """Where a row works, and what it may take."""

    folder: Path
    """Its own; it is empty."""
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Outcome:
    """Whether it held, and the figure to show for it."""

    passed: bool
    figure: str


@dataclass(frozen=True, slots=True)
class Row:
    """A fault and what must hold under it."""

    name: str
    fault: str
    holds: str
    """What must hold."""
    run: Callable[[Trial], Outcome]


def command(*words: str) -> list[str]:
    """The command line of ``mfenv``, in this interpreter."""
    return [sys.executable, "-m", "mfenv", *words]


def simulate(
    out: Path,
    *more: str,
    words: Sequence[str] = SMALL,
    env: Mapping[str, str] | None = None,
    **options: Any,
) -> subprocess.CompletedProcess[str]:
    """Run ``mfenv simulate`` into a folder and take what it prints."""
    return subprocess.run(
        command("simulate", *words, "--out", str(out), *more),
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **(env or {})},
        **options,
    )


def one_line_of(done: subprocess.CompletedProcess[str]) -> str | None:
    """What a failed command says, where it is one clear line of ours; else ``None``."""
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    ours = [line for line in lines if line.startswith("mfenv: error: ")]
    if done.returncode != 2 or len(ours) != 1 or "Traceback" in done.stderr:
        return None
    return ours[0].removeprefix("mfenv: error: ")


def digests(out: Path) -> dict[str, str]:
    """Hashes of the journals and the result of a run, timings apart."""
    files = [
        path for path in sorted(out.rglob("*.jsonl")) if not path.name.endswith(".timings.jsonl")
    ]
    found = {
        path.relative_to(out).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }
    result = out / "result.json"
    if result.is_file():
        value = json.loads(result.read_text(encoding="utf-8"))
        found["result.json"] = hashlib.sha256(
            json.dumps(value, sort_keys=True).encode()
        ).hexdigest()
    return found


def whole_steps(out: Path) -> int:
    """Steps in the journals of a folder, each of them checked."""
    return sum(
        len(read_journal(path)[1])
        for path in (out / "journals").glob("*.jsonl")
        if not path.name.endswith(".timings.jsonl") and path.stat().st_size
    )
