"""What fuzzing found, and a little more of it."""

import json
import math
from dataclasses import replace
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from agents.backbones.json_answers import read_object
from agents.planners.base import build_planner
from benchmarks.fuzz.command import TARGETS, replay
from benchmarks.fuzz.entries import examples as entry_files
from benchmarks.fuzz.events import examples
from benchmarks.fuzz.journals import example as journal_example
from benchmarks.fuzz.target import fault_of, pack, seeded
from benchmarks.intervention.entry import load_entry
from mfenv import plugins
from mfenv.cli import main
from mfenv.dynamics.assemble import build_annotator, build_backbone
from mfenv.dynamics.journal import read_journal
from mfenv.errors import DataError, MfenvError
from mfenv.events import load_events, write_jsonl

DEEP = "[" * 100_000
CHEAP = {"leaderboard": 4, "parquet": 10, "specifications": 60, "backbones": 0}


@pytest.mark.parametrize("name", TARGETS)
def test_no_reader_says_more_than_it_documents(name: str, tmp_path: Path) -> None:
    target = TARGETS[name]
    for index in range(CHEAP.get(name, 100)):
        data = target.make(seeded(name, 1, index))
        assert fault_of(target, data, tmp_path) is None, (index, data[:2000])
    assert plugins.entry_points is entry_points  # what is installed later is seen


@pytest.mark.parametrize("name", TARGETS)
def test_an_input_follows_from_its_number(name: str) -> None:
    make = TARGETS[name].make
    inputs = [make(seeded(name, 0, i)) for i in (3, 4, 3)]
    assert inputs[0] == inputs[2]
    assert len({make(seeded(name, 0, i)) for i in range(6)}) > 1


def test_a_finding_is_kept_and_can_be_read_again(tmp_path, monkeypatch, capsys) -> None:
    """A reader with a fault: it takes no text with a certain character."""
    target, odd = TARGETS["intervention"], "½".encode()

    def fragile(data: bytes, folder: Path) -> None:
        target.read(data, folder)
        if odd in data:
            raise IndexError("no such letter")

    monkeypatch.setitem(TARGETS, "intervention", replace(target, read=fragile))
    command = ["bench", "fuzz", "--targets", "intervention", "--out", str(tmp_path / "out")]
    command += ["--results", str(tmp_path)]
    assert main([*command, "--each", "600"]) == 1
    assert main([*command, "--each", "1200"]) == 1  # goes on where it was
    state = json.loads((tmp_path / "out/mutate/intervention/seed-0.json").read_text())
    assert state["inputs"] == 1200
    (finding,) = state["findings"].values()
    assert finding["kind"] == "IndexError"
    inputs = [target.make(seeded("intervention", 0, i)) for i in range(1200)]
    assert finding["times"] == sum(odd in data for data in inputs)
    assert "| intervention |" in (tmp_path / "fuzz.md").read_text()
    kept = Path(finding["input"])
    assert kept.read_bytes() == next(data for data in inputs if odd in data)
    assert main(["bench", "fuzz", "--replay", str(kept)]) == 1
    monkeypatch.undo()
    assert replay(kept) is None
    assert "IndexError" in capsys.readouterr().out


# -- what it found, each as a test -----------------------------------------------------------


def test_extras_with_half_a_character_are_written_and_read_back(tmp_path) -> None:
    event = examples()[-1]
    event.meta["note"]["half"] = "\ud800"
    try:
        assert write_jsonl([event], tmp_path / "e.jsonl") == 1
        assert load_events(tmp_path / "e.jsonl")[0].meta == event.meta
    finally:
        del event.meta["note"]["half"]


def test_extras_that_json_cannot_hold_are_refused(tmp_path) -> None:
    write_jsonl(examples()[:1], tmp_path / "e.jsonl")
    value = json.loads((tmp_path / "e.jsonl").read_text())
    value["meta"] = {"share": math.nan}
    (tmp_path / "e.jsonl").write_text(json.dumps(value))
    with pytest.raises(DataError, match="meta: must be values of JSON"):
        load_events(tmp_path / "e.jsonl")


def test_a_label_code_that_is_too_long_is_not_repeated_whole(tmp_path) -> None:
    write_jsonl(examples()[:1], tmp_path / "e.jsonl")
    value = json.loads((tmp_path / "e.jsonl").read_text())
    value["posts"][1]["labels"] = "9" * 5000
    (tmp_path / "e.jsonl").write_text(json.dumps(value))
    with pytest.raises(DataError, match="must have 8 letters") as caught:
        load_events(tmp_path / "e.jsonl")
    assert len(str(caught.value)) < 300


def test_an_answer_that_is_nested_too_deeply_is_no_answer() -> None:
    with pytest.raises(ValueError, match="nested too deeply"):
        read_object(DEEP, {"type": "object"})


@pytest.mark.parametrize(
    ("line", "field", "value"),
    [
        (2, "opinions", [[10**16]]),
        (2, "agents", [2**70, 1, 2, 3]),
        (2, "step", 1e400),
        (2, "actions", [1, 2, 3, 4]),
        (2, "mean_field", {"a": 1}),
        (2, "distribution", [math.nan] * 23),
        (2, "activity", [0.0]),
        (0, "settings", [math.nan]),
    ],
)
def test_a_damaged_journal_is_named_with_its_line(line, field, value, tmp_path) -> None:
    lines = journal_example().splitlines(keepends=True)
    changed = json.loads(lines[line])
    assert field in changed
    changed[field] = value
    lines[line] = json.dumps(changed).encode() + b"\n"
    path = tmp_path / "0.jsonl"
    path.write_bytes(b"".join(lines))
    with pytest.raises(DataError, match=rf"0\.jsonl: record line {line + 1}: "):
        read_journal(path)


@pytest.mark.parametrize("line", [0, 2])
def test_a_journal_that_is_nested_too_deeply_is_damaged(line, tmp_path) -> None:
    lines = journal_example().splitlines(keepends=True)
    lines[line] = DEEP.encode() + b"\n"
    (tmp_path / "0.jsonl").write_bytes(b"".join(lines))
    with pytest.raises(DataError, match=f"record line {line + 1}: "):
        read_journal(tmp_path / "0.jsonl")


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (("setting", "horizon"), [3]),
        (("setting", "batch"), "4"),
        (("setting", "more"), None),
        (("seeds",), 1e400),
        (("models",), [1]),
        (("planners",), 7),
        (("events", 0, "steps"), 2**70),
    ],
)
def test_an_entry_of_interventions_is_refused_by_field(where, value, tmp_path) -> None:
    place = _placed(tmp_path)
    entry = json.loads((place / "entry.json").read_text())
    inside = entry
    for key in where[:-1]:
        inside = inside[key]
    inside[where[-1]] = value
    (place / "entry.json").write_text(json.dumps(entry))
    with pytest.raises(DataError, match=r"entry\.json: record \(all\): field"):
        load_entry(place)


def test_an_entry_of_interventions_that_would_fill_the_memory_is_refused(tmp_path) -> None:
    place = _placed(tmp_path)
    entry = json.loads((place / "entry.json").read_text())
    entry["seeds"], entry["setting"]["horizon"] = 200, 1000
    entry["planners"] += [{"label": f"p{i}", "name": "p", "revision": ""} for i in range(150)]
    (place / "entry.json").write_text(json.dumps(entry))
    with pytest.raises(DataError, match=r"steps of all episodes: .* is not allowed"):
        load_entry(place)


def _placed(folder: Path) -> Path:
    for name, data in entry_files("intervention").items():
        (folder / "entry" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "entry" / name).write_bytes(data)
    load_entry(folder / "entry")
    return folder / "entry"


def test_a_plan_may_be_longer_than_a_name_of_a_file() -> None:
    names = ["none"] * 100
    assert build_planner("schedule:" + ",".join(names)).name == "schedule:" + ",".join(names)


@pytest.mark.parametrize(
    ("build", "spec", "says"),
    [
        (build_planner, "paper:" + "9" * 5000, "a whole number from 1 to 999999"),
        (build_planner, "periodic:none@0", "a whole number from 1 to 999999"),
        (build_planner, "sb3:" + "a" * 300, "no folder of a learned planner"),
        (build_planner, "schedule:" + "a" * 300 + ".json", "does not exist"),
        (build_planner, "none:x", "planner 'none:x': none takes no argument"),
        (build_annotator, "classifier:" + "a" * 300, "has no annotator weights"),
        (build_annotator, "exact:x", "annotator 'exact:x': exact takes no argument"),
        (build_backbone, "ngram-en:x", "backbone 'ngram-en:x': ngram-en takes no argument"),
        (build_backbone, "ngram:" + "a" * 300, "no n-gram model can be read"),
    ],
)
def test_a_specification_that_cannot_be_is_said_in_words(build, spec, says) -> None:
    with pytest.raises(MfenvError, match=says):
        build(spec)


def test_inputs_of_several_files_come_back_as_they_were() -> None:
    from benchmarks.fuzz.target import unpack

    files = {"a/b.json": bytes(range(256)), "c": b""}
    assert unpack(pack(files)) == files
