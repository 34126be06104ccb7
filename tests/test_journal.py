import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from journal_run import Slow, journals, play, processes, schedule
from population import Codes

from mfenv.dynamics.journal import (
    Journal,
    RunLock,
    read_journal,
    record_from_json,
    record_to_json,
    run,
    timings_path,
)
from mfenv.dynamics.records import StepRecord
from mfenv.errors import DataError, MfenvError, ModelError

SCRIPT = Path(__file__).with_name("journal_run.py")
NAMES = ("0.jsonl", "1.jsonl", "2.jsonl")


def contents(folder: Path) -> list[bytes]:
    return [(folder / name).read_bytes() for name in NAMES]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The journals and records of an undisturbed run."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, play(folder), contents(folder)


def same(a: StepRecord, b: StepRecord) -> bool:
    return all(
        np.array_equal(getattr(a, name), getattr(b, name))
        for name in StepRecord.__dataclass_fields__
    )


def test_journal_holds_the_run(whole) -> None:
    folder, records, _ = whole
    assert [len(r) for r in records] == [8, 6, 8]
    for name, played in zip(NAMES, records, strict=True):
        settings, read = read_journal(folder / name)
        assert settings["method"] == "followers"
        assert (settings["batch"], settings["warmup"]) == (4, 10)
        assert len(read) == len(played)
        assert all(same(a, b) for a, b in zip(read, played, strict=True))
    lines = (folder / "0.jsonl").read_text("utf-8").splitlines()
    assert "查过了" in lines[1 + 5]  # readable as it stands
    timings = [json.loads(x) for x in timings_path(folder / "0.jsonl").read_text().splitlines()]
    assert [t["step"] for t in timings] == list(range(8))
    assert timings[3]["seconds"].keys() == {"act", "label", "summarise"}


def test_the_same_run_twice_has_the_same_bytes(whole, tmp_path) -> None:
    play(tmp_path)
    assert contents(tmp_path) == whole[2]


def test_a_finished_run_is_read_without_a_model_call(whole, tmp_path) -> None:
    _, records, data = whole
    for name, x in zip(NAMES, data, strict=True):
        (tmp_path / name).write_bytes(x)
    policy = Slow()
    seen = []
    again = play(tmp_path, policy, lambda i, record: seen.append((i, record.step)))
    assert policy.calls == []
    assert len(seen) == 22
    for a, b in zip(records, again, strict=True):
        assert all(same(x, y) for x, y in zip(a, b, strict=True))
    assert contents(tmp_path) == data


def test_kill_9_in_the_middle_then_the_same_command_again(whole, tmp_path) -> None:
    env = {**os.environ, "PYTHONPATH": f"{SCRIPT.parent}:{SCRIPT.parents[1]}"}
    command = [sys.executable, str(SCRIPT), str(tmp_path)]
    victim = subprocess.Popen([*command, "0.3"], env=env)
    try:
        deadline = time.monotonic() + 60
        last = tmp_path / NAMES[-1]
        while not (last.exists() and last.read_bytes().count(b"\n") >= 6):
            assert victim.poll() is None, "ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.01)
        with (
            pytest.raises(MfenvError, match=rf"pid {victim.pid}, started 20\d\d-"),
            RunLock(tmp_path),
        ):
            pass
    finally:
        victim.send_signal(signal.SIGKILL)
        victim.wait()
    left = contents(tmp_path)
    assert all(len(a) < len(b) for a, b in zip(left, whole[2], strict=True))
    assert (tmp_path / "run.lock").exists()  # stale, and taken over by the next line
    subprocess.run(command, env=env, check=True, timeout=60)
    assert contents(tmp_path) == whole[2]
    assert not (tmp_path / "run.lock").exists()


@pytest.mark.parametrize("seed", range(12))
def test_journals_cut_anywhere_are_continued_to_the_same_bytes(seed: int, whole, tmp_path) -> None:
    rng = np.random.default_rng(seed)
    kept = []
    for name, data in zip(NAMES, whole[2], strict=True):
        size = int(rng.integers(0, len(data) + 1))
        (tmp_path / name).write_bytes(data[:size])
        kept.append(data[:size].count(b"\n"))
    policy = Slow()
    play(tmp_path, policy)
    assert contents(tmp_path) == whole[2]
    # Nothing before the smallest completed step was asked again.
    totals = (8, 6, 8)
    level = min(
        [max(k - 1, 0) for k, total in zip(kept, totals, strict=True) if k - 1 < total], default=8
    )
    assert len(policy.calls) == 8 - max(level, 3)
    for name, total in zip(NAMES, totals, strict=True):
        lines = timings_path(tmp_path / name).read_text().splitlines()
        assert len({json.loads(x)["step"] for x in lines}) == len(lines) <= total


def test_a_failed_model_leaves_whole_steps_behind(whole, tmp_path) -> None:
    class Tired(Slow):
        def act(self, requests):
            if len(self.calls) == 3:
                raise ConnectionError("the server is gone")
            return super().act(requests)

    with pytest.raises(ModelError, match="Tired failed: ConnectionError: the server is gone"):
        play(tmp_path, Tired())
    assert [len(read_journal(tmp_path / name)[1]) for name in NAMES] == [6, 6, 6]
    play(tmp_path)
    assert contents(tmp_path) == whole[2]


def test_other_settings_are_refused_by_name(whole) -> None:
    folder, _, data = whole
    worlds = processes()
    with pytest.raises(MfenvError, match=r'0\.jsonl: .*method is "followers" there and "mf" now'):
        Journal(folder / "0.jsonl", {**worlds[0].identity(), "method": "mf"})
    with pytest.raises(MfenvError, match=r'"e1" there and "b" now.*seed is 0 there and 1 now'):
        Journal(folder / "0.jsonl", {**worlds[1].identity(), "method": "followers"})
    with pytest.raises(MfenvError, match=r"temperature is \(absent\) there and 1.0 now"):
        journals(folder, worlds, temperature=1.0)
    assert contents(folder) == data


def damaged(tmp_path: Path, data: bytes, line: int, new: bytes) -> Path:
    lines = data.split(b"\n")
    lines[line - 1] = new
    path = tmp_path / "0.jsonl"
    path.write_bytes(b"\n".join(lines))
    return path


def test_damage_is_named_with_file_and_line(whole, tmp_path) -> None:
    data = whole[2][0]
    lines = data.split(b"\n")
    path = damaged(tmp_path, data, 4, lines[3][:-20])
    with pytest.raises(DataError, match=r"0\.jsonl: record line 4: .*damaged"):
        read_journal(path)
    path = damaged(tmp_path, data, 4, lines[4])
    with pytest.raises(DataError, match="line 4: field step: 3 found, 2 expected"):
        read_journal(path)
    path = damaged(tmp_path, data, 5, lines[4].replace(b'"mean_field"', b'"meen_field"'))
    with pytest.raises(DataError, match=r"line 5: .*KeyError: 'mean_field'"):
        read_journal(path)
    path = damaged(tmp_path, data, 1, lines[0].replace(b'"batch":4', b'"batch":5'))
    with pytest.raises(DataError, match="line 1: field sha256"):
        read_journal(path)
    path.write_bytes(b"id,text\n1,hello\n")
    with pytest.raises(DataError, match="no journal"):
        Journal(path, {})
    path.write_bytes(b"not a journal, no line end")
    with pytest.raises(DataError, match="no journal"):
        Journal(path, {})


def test_a_record_that_does_not_follow_is_refused(whole, tmp_path) -> None:
    data = whole[2][0]
    value = json.loads(data.split(b"\n")[4])
    value["distribution"][0] += 1e-9
    path = damaged(tmp_path, data, 5, json.dumps(value).encode())
    worlds = processes()[:1]
    with (
        Journal(path, {**worlds[0].identity(), "method": "followers"}) as journal,
        pytest.raises(DataError, match="line 5: field distribution: does not follow"),
    ):
        run(worlds, [journal], schedule)


def test_a_schedule_that_changed_its_mind_is_refused(whole, tmp_path) -> None:
    (tmp_path / "0.jsonl").write_bytes(whole[2][0])
    worlds = processes()[:1]
    with (
        Journal(tmp_path / "0.jsonl", {**worlds[0].identity(), "method": "followers"}) as journal,
        pytest.raises(DataError, match=r"line 6: field intervention: .*SEED.* was recorded"),
    ):
        run(worlds, [journal], None)


def test_any_text_survives_the_journal(tmp_path) -> None:
    [record] = [r for r in play(tmp_path)[0] if r.step == 5]
    odd = ('"\\', "\n\r\u2028\x00", "\ud800 alone", "🙂 查")
    record = StepRecord(
        **{name: getattr(record, name) for name in StepRecord.__dataclass_fields__}
        | {
            "step": 0,
            "texts": odd,
            "prompts": ("same a", "", "same \ud800", "same"),
            "mean_field": "\u2029",
        }
    )
    with Journal(tmp_path / "odd.jsonl", {"name": "查\ud800"}) as journal:
        journal.append(record)
    settings, [read] = read_journal(tmp_path / "odd.jsonl")
    assert settings == {"name": "查\ud800"}
    assert same(read, record)
    assert (tmp_path / "odd.jsonl").read_bytes().count(b"\n") == 2


def test_floats_come_back_exactly(whole) -> None:
    record = whole[1][0][4]
    rng = np.random.default_rng(0)
    record = StepRecord(
        **{name: getattr(record, name) for name in StepRecord.__dataclass_fields__}
        | {"perceived": rng.random(23) * 10.0 ** rng.integers(-300, 300, 23)}
    )
    read = record_from_json(json.loads(json.dumps(record_to_json(record))))
    assert read.perceived.tobytes() == record.perceived.tobytes()


def test_one_run_at_a_time(tmp_path) -> None:
    with RunLock(tmp_path / "run"):
        with (
            pytest.raises(
                MfenvError, match=f"pid {os.getpid()}, started 20.*, on {socket.gethostname()}"
            ),
            RunLock(tmp_path / "run"),
        ):
            pass
        with RunLock(tmp_path / "other"):
            pass
    with RunLock(tmp_path / "run"):
        pass
    assert not (tmp_path / "run" / "run.lock").exists()


def test_a_process_in_mid_run_is_not_given_a_journal(tmp_path) -> None:
    worlds = processes(annotator=Codes())[:1]
    worlds[0].step()
    with (
        Journal(tmp_path / "0.jsonl", worlds[0].identity()) as journal,
        pytest.raises(ValueError, match="begin"),
    ):
        run(worlds, [journal])
