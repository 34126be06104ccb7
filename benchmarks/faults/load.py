"""64 worlds on two servers, one of which is killed and started again every minute."""

from __future__ import annotations

import math
import os
import sqlite3
import subprocess
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from benchmarks.faults.row import Outcome, Row, Trial, command, digests, simulate
from benchmarks.faults.servers import Server, served_words, served_world
from mfenv.dynamics.journal import read_journal

__all__ = ["ROW"]

_WORLDS, _AGENTS, _WARMUP = 64, 64, 16
_IN_FLIGHT = 16  # requests, the default of a served model
_DOWN = 5.0  # s that a killed server stays away


def run(trial: Trial) -> Outcome:
    """A quiet run, then the same one on servers that come and go, for so many minutes.

    The servers take as long for an answer as makes the run last that long: an answer in a second
    or two is what a large model gives under load.
    """
    minutes = float(trial.options.get("minutes") or 10.0)
    decisions = _WORLDS * (_AGENTS - _WARMUP)
    pause = minutes * 60 * _IN_FLIGHT / decisions
    every = min(60.0, minutes * 60 / 4)
    ports = [Server(trial.folder / f"quiet-{i}.log") for i in range(2)]
    urls = [server.url for server in ports]
    words = served_words(urls, worlds=_WORLDS, agents=_AGENTS)
    quiet = trial.folder / "quiet"
    with ports[0], ports[1]:
        done = simulate(quiet, words=words, env=served_world(trial.folder / "quiet-cache"))
    if done.returncode:
        return Outcome(False, f"the quiet run failed: {done.stderr[-300:]!r}")
    servers = [Server(trial.folder / f"loaded-{i}.log", pause=pause) for i in range(2)]
    for server, old in zip(servers, ports, strict=True):
        server.port = old.port  # journals name the server
    loaded = trial.folder / "loaded"
    cache = trial.folder / "loaded-cache"
    kills, seconds, code, said = _disturbed(loaded, words, cache, servers, every)
    if code:
        return Outcome(False, f"the run ended with {code} after {kills} kills: {said[-300:]!r}")
    lost, twice = _count(loaded)
    answers = _rows(cache.with_suffix(".sqlite"))
    asked = _answered([server.log for server in servers])
    same = digests(loaded) == digests(quiet)
    passed = same and not lost and not twice and answers == decisions and kills >= 1
    return Outcome(
        passed,
        f"{_WORLDS} worlds, {decisions:,} decisions in {seconds / 60:.1f} minutes, {kills} kills; "
        f"{lost} steps lost, {twice} there twice, {answers:,} answers kept, "
        f"{sum(asked.values()) - len(asked)} given again; journals and scores "
        f"{'equal' if same else 'unlike'} the quiet run's",
    )


def _disturbed(
    out: Path, words: Sequence[str], cache: Path, servers: Sequence[Server], every: float
) -> tuple[int, float, int, str]:
    """Kill the servers in turn while a run is at work; kills, seconds, exit code, what it said."""
    kills, error = 0, out.with_name("loaded.err")
    with ExitStack() as stack:
        for server in servers:
            stack.enter_context(server)
        begun = time.monotonic()
        client = subprocess.Popen(
            command("simulate", *words, "--out", str(out)),
            stdout=subprocess.DEVNULL,
            stderr=stack.enter_context(error.open("wb")),
            env={**os.environ, **served_world(cache)},
        )
        try:
            while client.poll() is None:
                at = every * (kills + 1)
                if time.monotonic() - begun < at:
                    time.sleep(0.2)
                    continue
                victim = servers[kills % len(servers)]
                victim.kill()
                kills += 1
                time.sleep(_DOWN)
                victim.start()
        finally:
            if client.poll() is None:
                client.terminate()
            client.wait()
        seconds = time.monotonic() - begun
    return kills, seconds, client.returncode, error.read_text(encoding="utf-8")


def _count(out: Path) -> tuple[int, int]:
    """Steps that are missing from the journals of a run, and steps that stand there twice."""
    steps = math.ceil((_AGENTS - _WARMUP) / 8) + math.ceil(_WARMUP / 8)
    lost = twice = 0
    for seed in range(_WORLDS):
        path = out / "journals" / f"mf-counted-{seed}.jsonl"
        found = Counter(r.step for r in read_journal(path)[1]) if path.is_file() else Counter()
        lost += sum(step not in found for step in range(steps))
        twice += sum(n - 1 for n in found.values())
    return lost, twice


def _rows(path: Path) -> int:
    with sqlite3.connect(path) as connection:
        n: int = connection.execute("SELECT count(*) FROM responses").fetchone()[0]
    return n


def _answered(logs: Sequence[Path]) -> Counter[bytes]:
    """How often each request was answered, by all servers together."""
    return Counter(line for log in logs if log.is_file() for line in log.read_bytes().split())


ROW = Row(
    "load",
    "64 worlds on two servers, one of them killed and started again every minute",
    "nothing is lost, nothing is there twice, and the scores are those of the quiet run",
    run,
)
