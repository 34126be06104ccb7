"""Run a small population with journals in a folder.

``journal_run.py FOLDER [SECONDS A CALL [calibrated]]``
"""

import sys
import time
from pathlib import Path

from population import Codes, Followers, Summaries, make_event

from mfenv.dynamics.calibration import Calibration
from mfenv.dynamics.journal import Journal, RunLock, run
from mfenv.dynamics.process import MeanFieldProcess, ProcessSettings
from mfenv.interventions import NONE, Intervention, Kind

SETTINGS = ProcessSettings(agents=300, batch=4, warmup=10)
EVENTS = (("e1", 30), ("b", 22), ("e1", 30))
PLAN = {
    1: Intervention(Kind.SEED, 2),
    2: Intervention(Kind.STATEMENT, 1, message="We “looked”\ninto it. 查过了"),
    4: Intervention(Kind.FRICTION, 2),
}


class Slow(Followers):
    """Takes its time, so that there is a middle of a run to be killed in."""

    def __init__(self, seconds: float = 0.0) -> None:
        super().__init__()
        self.seconds = seconds

    def act(self, requests):
        time.sleep(self.seconds)
        return super().act(requests)


def schedule(index: int, process: MeanFieldProcess):
    if index == 2:
        return NONE
    return PLAN.get(process.step_index - process.warmup_steps, NONE)


def processes(policy=None, summaries=None, annotator=None, settings=SETTINGS, calibration=None):
    policy, summaries = policy or Slow(), summaries or Summaries()
    annotator = annotator or Codes()
    result = []
    for seed, (name, n) in enumerate(EVENTS):
        process = MeanFieldProcess(policy, summaries, annotator, settings, calibration=calibration)
        process.begin(make_event(n, name), seed)
        result.append(process)
    return result


def journals(folder: Path, worlds, **extra):
    return [
        Journal(folder / f"{i}.jsonl", {**p.identity(), "method": "followers", **extra})
        for i, p in enumerate(worlds)
    ]


def play(folder: Path, policy=None, on_step=None, calibration=None):
    worlds = processes(policy, calibration=calibration)
    books = journals(folder, worlds)
    try:
        return run(worlds, books, schedule, on_step)
    finally:
        for book in books:
            book.close()


if __name__ == "__main__":
    with RunLock(sys.argv[1]):
        play(
            Path(sys.argv[1]),
            Slow(float(sys.argv[2]) if len(sys.argv) > 2 else 0.0),
            calibration=Calibration() if "calibrated" in sys.argv[3:] else None,
        )
