"""Fuzz target: the reader of journals, which also decides what of a torn one is kept."""

from __future__ import annotations

import functools
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np

from benchmarks.fuzz.mutate import changed_bytes, changed_value, dump, rounds
from benchmarks.fuzz.target import Target
from mfenv.dynamics.journal import Journal, canonical, read_journal, record_to_json, timings_path
from mfenv.dynamics.process import ProcessSettings, real_rollout
from mfenv.errors import DataError, MfenvError
from mfenv.events.synthetic.annotator import ExactAnnotator
from mfenv.events.synthetic.generator import SyntheticSociety
from mfenv.interventions import Intervention, Kind

__all__ = ["TARGETS"]

_SETTINGS = {"seed": 0, "batch": 4, "method": "mf"}


@functools.cache
def example() -> bytes:
    """A journal of four steps, one with an intervention, prompts and kept arrays."""
    event = SyntheticSociety(9).event(0, n_posts=17)
    records = real_rollout(event, ExactAnnotator(), ProcessSettings(batch=4, warmup=4))
    records[1] = replace(
        records[1],
        prompts=tuple(f"a prompt\n{i}" for i in range(4)),
        summary_prompt="sum up",
        mean_field="half “half”",
        prompt_tokens=9,
        completion_tokens=3,
        opinions=np.zeros((4, 3), dtype=np.int8),
        candidates=np.arange(4),
    )
    records[2] = replace(records[2], intervention=Intervention(Kind.STATEMENT, 1, "We looked."))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "0.jsonl"
        with Journal(path, _SETTINGS) as journal:
            for record in records:
                journal.append(record, {"act": 0.5})
        return path.read_bytes()


def make(random: Random) -> bytes:
    """A journal of which one line is another, or that was cut or torn."""
    lines = example().splitlines()
    at = int(random.random() * len(lines)) if random.random() < 0.9 else 0
    kind = random.random()
    if kind < 0.7:
        value = json.loads(lines[at])
        for _ in range(rounds(random)):
            value = changed_value(random, value)
        lines[at] = dump(random, value)
    data = b"\n".join(lines) + b"\n"
    if kind > 0.6:
        for _ in range(rounds(random)):
            data = changed_bytes(random, data)
    return data


def read(data: bytes, folder: Path) -> None:
    """Read a journal, and open it to go on."""
    path = folder / "0.jsonl"
    path.write_bytes(data)
    with_it: MfenvError | None
    try:
        try:
            _, records = read_journal(path)
            for record in records:
                canonical(record_to_json(record))  # what was read can be written
        except MfenvError as error:
            with_it = error
        else:
            with_it = None
        with Journal(path, _SETTINGS) as journal:
            kept = len(journal.records)
            list(journal.records)
        left = path.read_bytes()
        assert left.endswith(b"\n"), "a torn line is left"
        if with_it is None:
            assert kept == len(records), "steps were lost"
            assert data.startswith(left), "what stays is not what was there"
        else:  # only a header that is not complete may be written anew
            assert not isinstance(with_it, DataError), "a damaged journal was opened"
            assert b"\n" not in data, "a journal was overwritten"
    finally:
        for file in (path, timings_path(path)):
            file.unlink(missing_ok=True)


TARGETS = (Target("journal", "journals of runs", make, read, 0.05),)
