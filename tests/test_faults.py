"""Disks that fill, journals that tear, clocks that disagree: the table itself is a benchmark."""

import json
import logging
import os
import resource
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from journal_run import play
from test_journal import NAMES, contents

from agents.backbones.openai_wire import retry_after
from benchmarks.faults.clock import jumping
from benchmarks.faults.row import Trial
from benchmarks.faults.torn import ROW
from mfenv.cli import main
from mfenv.dynamics.journal import read_journal, timings_path

SCRIPT = Path(__file__).with_name("journal_run.py")
ENV = {**os.environ, "PYTHONPATH": f"{SCRIPT.parent}:{SCRIPT.parents[1]}"}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The journals of an undisturbed run."""
    folder = tmp_path_factory.mktemp("whole")
    play(folder)
    return folder


def test_a_full_disk_leaves_whole_steps_and_the_run_goes_on(whole, tmp_path) -> None:
    half = max(len(data) for data in contents(whole)) // 2

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (half, resource.RLIM_INFINITY))

    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(tmp_path)],
        env=ENV, capture_output=True, text=True, timeout=120, preexec_fn=limit,
    )  # fmt: skip
    said = done.stderr.splitlines()[-1]
    assert "cannot write (file too large)" in said
    assert said.endswith("Make room, then run the same command again")
    kept = [read_journal(tmp_path / name)[1] for name in NAMES if (tmp_path / name).stat().st_size]
    assert any(0 < len(records) < 8 for records in kept)
    assert all((tmp_path / name).read_bytes().endswith(b"\n") for name in NAMES)  # nothing is torn
    play(tmp_path)
    assert contents(tmp_path) == contents(whole)


def test_a_disk_that_is_full_when_a_report_is_written_is_one_line(monkeypatch, capsys) -> None:
    def full(*_: object) -> None:
        with open("/dev/full", "w") as file:
            file.write("x")

    if not os.path.exists("/dev/full"):
        pytest.skip("needs /dev/full")
    monkeypatch.setattr("mfenv.cli._dispatch", full)
    assert main(["simulate"]) == 2
    assert capsys.readouterr().err == (
        "mfenv: error: No space left on device: make room, then run the same command again\n"
    )


@pytest.mark.parametrize("at", [-20, 40], ids=["record", "header"])
def test_a_torn_journal_is_said_in_one_line(at, whole, tmp_path, caplog) -> None:
    for name in NAMES:
        shutil.copy(whole / name, tmp_path)
    path = tmp_path / NAMES[0]
    path.write_bytes(path.read_bytes()[:at])
    with caplog.at_level(logging.WARNING):
        play(tmp_path)
    (said,) = caplog.messages
    assert said.startswith(f"{path}: ")
    assert "torn" in said or "header" in said
    assert contents(tmp_path) == contents(whole)
    caplog.clear()
    play(tmp_path)
    assert not caplog.messages


def test_damaged_timings_never_stop_a_run(whole, tmp_path) -> None:
    for name in NAMES:
        shutil.copy(whole / name, tmp_path)
    timings_path(tmp_path / NAMES[0]).write_bytes(b'\x00\x00{"step":\n[1]\n{"step":0}\n')
    play(tmp_path)
    assert timings_path(tmp_path / NAMES[0]).read_bytes() == b'{"step":0}\n'


def test_a_pause_by_date_is_by_the_servers_own_clock() -> None:
    asked = {"retry-after": "Thu, 01 Jan 2026 00:00:30 GMT"}
    sent = {**asked, "date": "Thu, 01 Jan 2026 00:00:10 GMT"}
    for year in (2020, 2026, 2040):  # whatever time it is here
        assert retry_after(sent, datetime(year, 1, 1, tzinfo=UTC)) == 20
    assert retry_after({**asked, "date": "?"}, datetime(2026, 1, 1, tzinfo=UTC)) == 30
    assert retry_after({"retry-after": "Thu, 99 Jan 2026 00:00:30 GMT"}) is None


def test_a_jumping_clock_changes_no_byte(whole, tmp_path) -> None:
    site = jumping(tmp_path / "site")["PYTHONPATH"]
    env = {**ENV, "PYTHONPATH": f"{site}:{ENV['PYTHONPATH']}"}
    check = "import time; assert abs(time.time() - time.clock_gettime(time.CLOCK_REALTIME)) > 8e4"
    subprocess.run([sys.executable, "-c", check], env=env, check=True)
    subprocess.run([sys.executable, str(SCRIPT), str(tmp_path / "run")], env=env, check=True)
    assert contents(tmp_path / "run") == contents(whole)


@pytest.mark.slow
def test_a_row_of_the_table_passes(tmp_path) -> None:
    outcome = ROW.run(Trial(tmp_path))
    assert outcome.passed, outcome.figure
    json.dumps(outcome.figure)
