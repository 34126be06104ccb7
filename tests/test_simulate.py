"""``mfenv simulate`` as a process: its JSON, its report, its folder, its journals."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import toy_models

from benchmarks.compare import compare, difference
from mfenv.dynamics.journal import read_journal, timings_path
from mfenv.dynamics.process import ProcessSettings, real_rollout
from mfenv.events.jsonl import write_jsonl
from mfenv.events.synthetic.annotator import ExactAnnotator
from mfenv.events.synthetic.generator import SyntheticSociety
from mfenv.labels import DIMENSIONS, NAMES

SMALL = ("--agents", "80", "--batch", "8", "--warmup", "24")
TOY = ("--backbone", "toy", "--annotator", "toy-exact", *SMALL)


@pytest.fixture(scope="module")
def env(tmp_path_factory):
    return {**os.environ, **toy_models.install(tmp_path_factory.mktemp("site"))}


def call(env, *argv, cwd=None, code=0):
    result = subprocess.run(
        [sys.executable, "-m", "mfenv", "simulate", *map(str, argv)],
        capture_output=True,
        text=True,
        env=env,
        cwd=cwd,
        timeout=280,
    )
    assert result.returncode == code, result.stderr
    return result


def contents(folder):
    """Every file of a run, timings apart."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.endswith(".timings.jsonl")
    }


def check_json(result, backbone, methods, seeds):
    assert list(result)[:7] == [
        "event", "backbone", "method", "seeds", "kl", "seconds", "decisions"
    ]  # fmt: skip
    assert result["backbone"] == backbone
    assert result["method"] == ",".join(methods)
    assert result["seeds"] == seeds
    assert set(result["kl"]) == {*methods, "persistence", "rotation", "smoothing", "drift"}
    for score in result["kl"].values():
        assert set(score) == {"mean", "low", "high", "per_dimension"}
        assert list(score["per_dimension"]) == [d.name for d in DIMENSIONS]
        # Rounded to six places: the mean over dimensions is the mean.
        assert np.mean(list(score["per_dimension"].values())) == pytest.approx(
            score["mean"], abs=1e-5
        )
        if seeds > 1:
            assert 0 <= score["low"] <= score["mean"] <= score["high"]
        else:
            assert score["low"] is score["high"] is None


def test_json_and_the_same_command_twice(env, tmp_path):
    argv = (*TOY, "--method", "toy,toy-deaf", "--method", "toy", "--json", "--out")
    first = call(env, *argv, tmp_path / "a")
    assert first.stdout.count("\n") == 1
    result = json.loads(first.stdout)
    assert len(result) == 7
    check_json(result, "toy", ["toy", "toy-deaf"], 3)
    assert result["event"] == "synthetic-9-0"
    assert result["decisions"] == 2 * 3 * (80 - 24)
    other = json.loads(call(env, *argv, tmp_path / "b").stdout)
    again = json.loads(call(env, *argv, tmp_path / "a").stdout)  # all of it is in the journals
    assert {**result, "seconds": 0} == {**other, "seconds": 0} == {**again, "seconds": 0}
    assert again["seconds"] == result["seconds"]
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    plain = call(env, *argv[:-2], "--out", tmp_path / "a")
    assert (
        plain.stdout.replace("/a/", "/b/") == call(env, *argv[:-2], "--out", tmp_path / "b").stdout
    )
    assert "persistence" in plain.stdout
    assert "Closest to the real population" in plain.stdout


def test_figures_are_those_of_the_journals(env, tmp_path):
    result = json.loads(
        call(env, *TOY, "--method", "toy", "--seeds", 2, "--json", "--out", tmp_path).stdout
    )
    runs = [read_journal(tmp_path / "journals" / f"toy-{s}.jsonl")[1] for s in (0, 1)]
    event = SyntheticSociety(9).event(0, n_posts=81)
    real = real_rollout(event, ExactAnnotator(), ProcessSettings(80, 8, 24))
    assert [r.texts for r in runs[0] if r.warmup] == [r.texts for r in real if r.warmup]
    score = compare(real, {"toy": runs}, (0, 1)).scores[0]
    assert result["kl"]["toy"]["mean"] == pytest.approx(score.kl.mean, abs=1e-6)
    assert runs[0][-1].texts != runs[1][-1].texts
    # The real population against itself: nothing is left but persistence's own distance.
    itself = compare(real, {"real": [real, real]}, (0, 1))
    assert itself.scores[0].kl.mean == pytest.approx(0)
    assert itself.scores[0].excess == pytest.approx(-itself.floor.kl.mean)
    assert itself.scores[1].kl.mean > 0


def test_intervention_under_common_random_numbers(env, tmp_path):
    argv = (*TOY, "--method", "toy,toy-deaf", "--json", "--out")
    plain = json.loads(call(env, *argv, tmp_path / "plain").stdout)
    argv = ("--intervention", "fact_check/high@3", "--intervention", "seed/high@4", *argv)
    result = json.loads(call(env, *argv, tmp_path / "with").stdout)
    check_json(result, "toy", ["toy", "toy-deaf"], 3)
    assert result["kl"] == plain["kl"]
    assert set(result) - set(plain) == {"intervention"}
    assert result["intervention"]["schedule"] == "fact_check/high at step 3, seed/high at step 4"
    effect = result["intervention"]["effect"]["toy-deaf"]
    assert set(effect) == set(NAMES)
    doubt = effect["belief/doubt"]
    # The toy population doubts when it reads a fact check.
    assert doubt["difference"]["low"] > 0
    assert doubt["difference"]["mean"] == pytest.approx(doubt["with"] - doubt["without"], abs=2e-6)
    folder = tmp_path / "with" / "journals"
    for seed in range(3):
        before = read_journal(folder / f"toy-{seed}.jsonl")[1]
        after = read_journal(folder / f"toy-{seed}-changed.jsonl")[1]
        # Warm-up is steps 0 to 2, so the third simulated step is number 5.
        assert [r.texts for r in before[:5]] == [r.texts for r in after[:5]]
        assert before[5].texts != after[5].texts
        assert not after[5].planted.any()
        assert after[6].planted.sum() == 2  # a quarter of eight
        assert [r.mean_field for r in before[:5]] == [r.mean_field for r in after[:5]]
    assert result["decisions"] == plain["decisions"] + 2 * 3 * (5 * 8 - 2)
    page = (tmp_path / "with" / "report.html").read_text()
    assert "What if: fact_check/high at step 3, seed/high at step 4" in page


def test_nothing_done_changes_nothing():
    event = SyntheticSociety(9).event(0, n_posts=81)
    real = real_rollout(event, ExactAnnotator(), ProcessSettings(80, 8, 24))
    gap = difference([real, real], [real, real], 3)
    assert all(x.mean == x.low == x.high == 0 for x in gap.intervals)
    np.testing.assert_array_equal(gap.without, gap.with_it)


def test_killed_and_repeated_it_ends_with_the_same_bytes(env, tmp_path):
    argv = ["--backbone", "toy:0.1", *TOY[2:], "--method", "toy,toy-deaf"]
    argv += ["--intervention", "statement/high@2", "--json", "--out"]
    call(env, *argv, tmp_path / "whole")
    argv = [sys.executable, "-m", "mfenv", "simulate", *argv, str(tmp_path / "killed")]
    # Kill it twice: in the plain runs, and in the counterfactual ones.
    for name, lines in (("toy-deaf-2.jsonl", 6), ("toy-deaf-2-changed.jsonl", 7)):
        process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, env=env)
        journal = tmp_path / "killed" / "journals" / name
        limit = time.monotonic() + 60
        while not journal.exists() or journal.read_bytes().count(b"\n") < lines:
            assert process.poll() is None
            assert time.monotonic() < limit
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (tmp_path / "killed" / "result.json").exists()
    done = subprocess.run(argv, capture_output=True, env=env, timeout=120)
    assert done.returncode == 0, done.stderr
    killed = contents(tmp_path / "killed")
    killed.pop("run.lock", None)
    assert killed == contents(tmp_path / "whole")
    # What was done before a kill was not done again.
    path = timings_path(tmp_path / "killed" / "journals" / "toy-0.jsonl")
    assert len(path.read_text().splitlines()) == len(
        read_journal(tmp_path / "killed" / "journals" / "toy-0.jsonl")[1]
    )


def test_a_folder_of_another_run_is_not_continued(env, tmp_path):
    call(env, *TOY, "--method", "toy", "--seeds", 1, "--json", "--out", tmp_path)
    argv = ("--backbone", "toy", "--annotator", "toy-exact", "--agents", 81, "--method", "toy")
    stderr = call(env, *argv, "--seeds", 1, "--out", tmp_path, code=2).stderr
    assert stderr.count("\n") == 1
    assert "agents is 80 there and 81 now" in stderr


def test_an_event_id_is_no_path(env, tmp_path):
    from dataclasses import replace

    event = replace(SyntheticSociety(9).event(0, n_posts=81), event_id="../../<b>/etc\n:x")
    write_jsonl([event], tmp_path / "events.jsonl")
    work = tmp_path / "a" / "b"
    work.mkdir(parents=True)
    result = call(env, tmp_path / "events.jsonl", *TOY, "--method", "toy", "--json", cwd=work)
    assert json.loads(result.stdout)["event"] == event.event_id
    folders = [p.name for p in (work / "runs").iterdir()]
    assert len(folders) == 1
    assert folders[0].startswith("b_etc_x-")
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["b"]
    assert "../../<b>" not in (work / "runs" / folders[0] / "report.html").read_text()


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("--method", "mff"), ("mff", "mf-counted", "recent")),
        (("--method", ","), ("--method", "popular")),
        (("--backbone", "gpt"), ("gpt", "embedded-en", "weibo-s")),
        (("--agents", "0"), ("--agents", "at least 1")),
        (("--agents", "40", "--warmup", "40"), ("at least 3", "--warmup")),
        (("--sampling", "beam"), ("ancestral", "paper", "greedy")),
        (("--event", "nine"), ("synthetic-SEED-INDEX",)),
        (("--intervention", "label/high@3"), ("fact_check", "medium", "STEP")),
        (("--intervention", "seed/high@99"), ("99", "1 to 7")),
        (("--intervention", "seed/low@2", "--intervention", "seed/high@2"), ("one a step",)),
        (("no-such.parquet",), ("no-such.parquet",)),
    ],
)
def test_wrong_arguments_get_one_line_that_says_what_is_allowed(env, tmp_path, argv, words):
    result = call(env, *TOY, *argv, "--out", tmp_path / "out", code=2)
    assert result.stdout == ""
    assert result.stderr.startswith("mfenv: error: ")
    assert result.stderr.count("\n") == 1
    assert all(word in result.stderr for word in words), result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_default_backbone_end_to_end(tmp_path):
    weights = Path(__file__).parent.parent / "agents" / "weights" / "embedded-en"
    if not (weights / "model.safetensors").exists():
        pytest.skip("the weights of embedded-en are not built yet: mfenv train backbone")
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    argv = ("--agents", 48, "--warmup", 16, "--seeds", 2, "--method", "mf,state", "--json")
    first = call(env, *argv, "--out", tmp_path / "a")
    result = json.loads(first.stdout)
    check_json(result, "embedded-en", ["mf", "state"], 2)
    assert result["decisions"] == 2 * 2 * 32
    call(env, *argv, "--out", tmp_path / "b")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    texts = read_journal(tmp_path / "a" / "journals" / "mf-0.jsonl")[1][-1].texts
    assert len({t for t in texts if t}) > 3  # it writes, and not always the same


@pytest.mark.realdata
@pytest.mark.slow
def test_a_real_event_end_to_end(tmp_path):
    root = Path(__file__).parent.parent
    data = Path(os.environ.get("MFENV_DATA", root.parent / "shared" / "data"))
    path = data / "weibo" / "test.parquet"
    weights = root / "agents" / "weights"
    if not path.exists():
        pytest.skip(f"needs {path.name} of the Weibo data (MFENV_DATA)")
    if not (weights / "weibo-s" / "model.safetensors").exists():
        pytest.skip("the weights of weibo-s are not built yet: mfenv train backbone")
    argv = (path, "--event", "3533780360431082", "--backbone", "weibo-s", "--method", "mf")
    argv += ("--agents", 98, "--warmup", 50, "--seeds", 2, "--json", "--out", tmp_path)
    result = json.loads(call({**os.environ, "OMP_NUM_THREADS": "1"}, *argv).stdout)
    check_json(result, "weibo-s", ["mf"], 2)
    texts = [
        text
        for record in read_journal(tmp_path / "journals" / "mf-0.jsonl")[1]
        if not record.warmup
        for text in record.texts
    ]
    assert len(texts) == 48
    # Readable Chinese: most that is written has Chinese characters, none has a byte token.
    spoken = [t for t in texts if t]
    assert sum(any("\u4e00" <= c <= "\u9fff" for c in t) for t in spoken) > len(spoken) / 2
    assert not any("<0x" in t for t in texts)
