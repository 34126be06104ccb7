"""Fuzzing led by coverage: ``python -m benchmarks.fuzz.coverage TARGET INPUTS SEED REPORT``.

Run by ``mfenv bench fuzz --engine atheris``. libFuzzer keeps inputs that reach new code; they are
changed as bytes, or drawn anew from the examples, half of the time each. The process ends when it
is done; what was found stands in the report.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import tempfile
from pathlib import Path
from random import Random
from typing import Any

import atheris

__all__: list[str] = []

# What is imported under this is instrumented, so nothing of ours is imported above.
with atheris.instrument_imports(include=["mfenv", "agents", "benchmarks"]):
    from benchmarks.fuzz.command import TARGETS
    from benchmarks.fuzz.mutate import changed_bytes
    from benchmarks.fuzz.target import Finding, fault_of


def _main(name: str, inputs: int, seed: int, report: Path) -> None:
    target = TARGETS[name]
    folder = tempfile.mkdtemp()
    found: dict[str, tuple[Finding, bytes, int]] = {}
    done = 0

    def write() -> None:
        values = [
            {"kind": f.kind, "where": f.where, "message": f.message, "data": d.hex(), "times": n}
            for f, d, n in found.values()
        ]
        report.write_text(json.dumps({"inputs": done, "findings": values}), encoding="utf-8")

    def one(data: bytes) -> None:
        nonlocal done
        if done < inputs and len(data) > 1:
            done += 1
            finding = fault_of(target, data, Path(folder))
            if finding is not None:
                _, first, times = found.get(finding.key, (finding, data, 0))
                found[finding.key] = finding, first, times + 1
            if done % 1000 == 0 or done == inputs:
                write()
            if done == inputs:
                os._exit(0)  # libFuzzer counts empty inputs too

    def mutated(data: bytes, most: int, number: int) -> bytes:
        random = Random(number)
        if target.packed or not data or random.random() < 0.5:
            new = target.make(random)
        else:
            new = changed_bytes(random, data)
        return new[:most]

    logging.disable(logging.WARNING)
    runs = f"-runs={4 * inputs}"
    options = [sys.argv[0], runs, f"-seed={seed + 1}", "-max_len=65536", "-timeout=0"]
    options += ["-rss_limit_mb=0", "-len_control=0", "-verbosity=0"]
    write()
    arguments: dict[str, Any] = {"custom_mutator": mutated}
    atheris.Setup(options, one, **arguments)
    atheris.Fuzz()


if __name__ == "__main__":
    _main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
