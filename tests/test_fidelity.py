"""The fidelity tables: the sample, the segments, the figures, and a run that is killed."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import toy_models

from benchmarks.compare import compare
from benchmarks.fidelity import sample, segments
from benchmarks.fidelity.entry import load_entry, read_manifest
from benchmarks.fidelity.scores import score
from mfenv.dynamics.journal import read_journal
from mfenv.dynamics.process import ProcessSettings, real_rollout
from mfenv.errors import MfenvError
from mfenv.events.jsonl import write_jsonl
from mfenv.events.load import load_events
from mfenv.events.synthetic.annotator import ExactAnnotator
from mfenv.events.synthetic.generator import SyntheticSociety

ROOT = Path(__file__).parent.parent
SIZES = ("--warmup", "24", "--horizon", "48", "--batch", "8", "--seeds", "2")
TOY = ("--methods", "toy,toy-deaf", "--baseline", "toy-deaf", "--annotator", "toy-exact")


@pytest.fixture(scope="module")
def env(tmp_path_factory):
    return {**os.environ, **toy_models.install(tmp_path_factory.mktemp("site"))}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "events.jsonl"
    write_jsonl(SyntheticSociety(3).events(12, n_posts=160), path)
    return path


def command(suite, data, folder, *argv, backbone="toy"):
    return [
        sys.executable, "-m", "mfenv", "bench", "fidelity", "--track", suite, "--data", str(data),
        *SIZES, *TOY, "--backbone", backbone, "--run", str(folder / "out"),
        "--results", str(folder / "results"), "--name", "table", *map(str, argv),
    ]  # fmt: skip


def call(env, *argv, code=0):
    result = subprocess.run(
        command(*argv), capture_output=True, text=True, env=env, cwd=ROOT, timeout=200
    )
    assert result.returncode == code, result.stderr
    return result


def table(folder):
    return json.loads((folder / "results" / "table.json").read_text())


def test_the_sample_is_fixed_by_the_ids_alone():
    events = SyntheticSociety(3).events(8, n_posts=20)
    events[2] = replace(events[2], posts=SyntheticSociety(3).event(2, n_posts=10).posts)
    chosen = [case.event.event_id for case in sample(events, 4, 15)]
    assert chosen == [case.event.event_id for case in sample(events[::-1], 4, 15)]
    hashes = {e.event_id: hashlib.sha256(e.event_id.encode()).hexdigest() for e in events}
    assert chosen == sorted(set(hashes) - {events[2].event_id}, key=hashes.__getitem__)[:4]
    with pytest.raises(MfenvError, match="7 events have at least 15 posts, 8 are asked for"):
        sample(events, 8, 15)
    # The halves are those of all seven, the odd one in the first.
    order = [case.event.event_id for case in sample(events, 7, 15)]
    assert [c.event.event_id for c in sample(events, 4, 15, "first")] == order[:4]
    assert [c.event.event_id for c in sample(events, 2, 15, "second")] == order[4:6]
    with pytest.raises(MfenvError, match="3 events of the second half have at least 15 posts, 4"):
        sample(events, 4, 15, "second")


def test_segments_cover_an_event_once_and_keep_its_tree():
    event = SyntheticSociety(3).event(0, n_posts=100)
    parts = [case.event for case in segments(event, 30)]
    assert len(parts) == 3  # 99 reactions: nine are left over
    assert [t for p in parts for t in p.posts.texts[1:]] == list(event.posts.texts[1:91])
    assert len({p.event_id for p in parts}) == 3
    for k, part in enumerate(parts):
        assert part.posts.texts[0] == event.topic
        np.testing.assert_array_equal(part.labels[1:], event.labels[1 + 30 * k : 31 + 30 * k])
        for i in range(1, 31):
            parent = int(event.posts.parents[30 * k + i])
            expected = parent - 30 * k if parent > 30 * k else 0
            assert part.posts.parents[i] == expected
        assert part.posts.parents[0] == -1


def test_the_table_holds_what_the_journals_say(env, data, tmp_path):
    result = call(env, "weibo", data, tmp_path, "--events", 5, "--min-posts", 80)
    found = table(tmp_path)
    events = {e.event_id: e for e in SyntheticSociety(3).events(12, n_posts=160)}
    cases = sample(list(events.values()), 5, 80)
    names = "\n".join(case.event.event_id for case in cases)
    assert found["cases"]["sha256"] == hashlib.sha256(names.encode()).hexdigest()
    assert found["cases"]["sha256"] in result.stderr
    assert set(found["kl"]) == {
        *("toy", "toy-deaf", "persistence", "rotation", "smoothing", "drift", "noise floor")
    }
    settings = ProcessSettings(72, 8, 24)
    expected = []
    for case in cases:
        stem = hashlib.sha256(case.event.event_id.encode()).hexdigest()[:16]
        runs = [
            read_journal(tmp_path / "out/journals/core" / f"{stem}-toy-{s}.jsonl")[1]
            for s in (0, 1)
        ]
        real = real_rollout(case.event, ExactAnnotator(), settings)
        expected.append(compare(real, {"toy": runs}, (0, 1)).scores[0].kl.mean)
    row = found["kl"]["toy"]
    assert row["mean"] == pytest.approx(np.mean(expected), abs=1e-6)
    assert row["low"] < row["mean"] < row["high"]
    assert row["excess"]["mean"] == pytest.approx(
        row["mean"] - found["kl"]["noise floor"]["mean"], abs=2e-6
    )
    gap = {k: v["mean"] for k, v in found["paired"].items()}
    best, second = found["ranked"][:2]
    assert gap[f"{best} - {second}"] == pytest.approx(
        found["kl"][best]["mean"] - found["kl"][second]["mean"], abs=2e-6
    )
    assert found["decisions"] == 5 * 2 * 2 * 48
    text = (tmp_path / "results" / "table.md").read_text()
    assert text == result.stdout.removesuffix("\n")
    assert f"{best} has the lowest mean KL" in text
    # No post's text in what is published.
    published = text + json.dumps(found)
    assert not any(t in published for e in events.values() for t in e.posts.texts if len(t) > 12)


def test_an_entry_holds_no_text_of_real_topics_and_gives_the_same_scores(env, data, tmp_path):
    call(env, "weibo", data, tmp_path, "--events", 4, "--min-posts", 80, "--out", tmp_path / "e")
    entry = load_entry(tmp_path / "e")
    assert score(entry) == json.loads((tmp_path / "e" / "scores.json").read_text())
    public = "".join(p.read_text() for p in (tmp_path / "e").rglob("*") if p.is_file())
    events = SyntheticSociety(3).events(12, n_posts=160)
    for event in events:
        assert not any(t in public for t in event.posts.texts if len(t) > 12)
        assert event.event_id not in public
    # The texts stay beside it; what was published of them is a hash of each step's line.
    assert (tmp_path / "e.private/.gitignore").read_text() == "*\n"  # never committed by oversight
    lines = (tmp_path / "e.private/texts/core/toy.jsonl").read_bytes().splitlines(keepends=True)
    steps = (tmp_path / "e/journals/core/toy.jsonl").read_bytes().splitlines()
    assert len(lines) == len(steps) == 4 * 2 * 6
    assert json.loads(steps[7])["text"] == hashlib.sha256(lines[7]).hexdigest()[:32]
    first = entry.played["core"].simulated["toy"][0, 0]
    stem = entry.cases[0].event[:16]
    run = read_journal(tmp_path / f"out/journals/core/{stem}-toy-0.jsonl")[1]
    np.testing.assert_array_equal(first, np.concatenate([r.labels for r in run if not r.warmup]))


def test_a_second_judge_reads_the_same_reactions(env, data, tmp_path):
    argv = ("--events", 4, "--min-posts", 80, "--judge", "toy-exact", "--judge", "classifier")
    call(env, "weibo", data, tmp_path, *argv)
    found = table(tmp_path)
    same, other = found["judges"]["judge-1"], found["judges"]["judge-2"]
    # The first judge again: the same labels, so the same figures and no pair the other way round.
    for method in ("toy", "toy-deaf"):
        for figure in ("mean", "low", "high"):
            assert same["kl"][method][figure] == found["kl"][method][figure]
        assert other["kl"][method]["mean"] != found["kl"][method]["mean"]
    assert [row["judge"] for row in found["reversed"]] in ([], [other["annotator"]])
    text = (tmp_path / "results" / "table.md").read_text()
    assert "## Under another judge" in text
    assert ("**The ranking depends on the judge**" in text) == bool(found["reversed"])
    assert load_entry(tmp_path / "out/entry").manifest.judges["judge-2"] == other["annotator"]


def test_a_study_changes_one_thing(env, data, tmp_path):
    argv = ("--events", 4, "--min-posts", 100, "--studies", "batch", "--study-methods", "toy")
    call(env, "weibo", data, tmp_path, *argv, "--warmup", 16, "--horizon", 64)
    found = table(tmp_path)
    assert set(found["studies"]) == {"batch=8", "batch=32"}
    assert set(found["studies"]["batch=32"]["nll"]) == {"toy"}
    # The core has batches of 8 too: the same runs, so the same figures.
    assert found["studies"]["batch=8"]["kl"]["toy"] == {
        **found["kl"]["toy"],
        **{k: v for k, v in found["studies"]["batch=8"]["kl"]["toy"].items() if k == "iqm"},
    }
    assert found["studies"]["batch=32"]["kl"]["toy"] != found["kl"]["toy"]
    assert found["studies"]["batch=32"]["kl"]["persistence"] == found["kl"]["persistence"]


def test_the_plan_says_what_the_grid_takes(env, data, tmp_path):
    argv = command("weibo", data, tmp_path, "--events", 5, "--min-posts", 80)
    whole = table_of(env, argv, tmp_path)
    at = argv.index("--run")
    plan = [*argv[:at], *argv[at + 6 :], "--probe", "8", "--json"]
    plan[plan.index("fidelity")] = "plan"
    result = subprocess.run(plan, capture_output=True, text=True, env=env, cwd=ROOT, timeout=100)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)["total"]
    assert found["runs"] == 5 * 2 * 2
    assert found["decisions"] == whole["decisions"]
    usage = read_manifest(tmp_path / "out" / "entry").conditions["core"].usage
    assert found["prompt_tokens"] == pytest.approx(usage.prompt_tokens, rel=0.1)
    assert found["completion_tokens"] == pytest.approx(usage.completion_tokens, rel=0.1)


def table_of(env, argv, folder):
    result = subprocess.run(argv, capture_output=True, text=True, env=env, cwd=ROOT, timeout=200)
    assert result.returncode == 0, result.stderr
    return table(folder)


def test_a_calibrated_method_stands_beside_the_plain_one(env, data, tmp_path):
    argv = ("--events", 3, "--half", "second", "--min-posts", 80, "--methods")
    call(env, "weibo", data, tmp_path, *argv, "toy,toy-deaf,toy+cal,toy+cal+candidates=1")
    found = table(tmp_path)
    assert found["cases"]["half"] == "second"
    kl = found["kl"]
    assert kl["toy+cal"]["mean"] < 0.8 * kl["toy"]["mean"]
    assert kl["toy+cal+candidates=1"] == kl["toy"]
    assert found["nll"]["toy+cal"] == found["nll"]["toy"]


def test_likelihood_is_that_of_the_real_actions(env, data, tmp_path):
    call(env, "weibo", data, tmp_path, "--events", 5, "--min-posts", 80)
    found = table(tmp_path)["nll"]
    # The deaf population sees no mean field, so its scores can be worked out from the texts alone.
    policy = toy_models.ToyPolicy(toy_models.Toy())
    events = SyntheticSociety(3).events(12, n_posts=160)
    actions = []
    for case in sample(events, 5, 80):
        blank = toy_models.Request()
        texts = list(case.event.posts.texts[25:73])
        scores = policy.score([blank] * len(texts), texts)
        actions.append(-np.mean([s.log_probability for s in scores]))
    assert found["toy-deaf"]["per_action"]["mean"] == pytest.approx(np.mean(actions), abs=1e-6)
    assert found["toy-deaf"]["per_token"]["mean"] == pytest.approx(np.mean(actions) / 2, abs=1e-6)
    assert found["toy-deaf"]["minus_baseline_per_token"]["mean"] == 0
    # Who reads the shares of what happened knows more about what comes next.
    gap = found["toy"]["minus_baseline_per_token"]
    assert gap["high"] < 0


def test_streams_are_cut_and_blocks_are_streams(env, data, tmp_path):
    call(env, "pheme", data, tmp_path)
    found = table(tmp_path)
    assert found["cases"] == {**found["cases"], "count": 24, "groups": 12}  # 159 // 72 each
    assert len(found["per_group"]) == 12
    group = found["per_group"]["synthetic-3-0"]
    assert group["cases"] == 2
    assert group["toy"]["low"] <= group["toy"]["mean"] <= group["toy"]["high"]
    means = [row["toy"]["mean"] for row in found["per_group"].values()]
    assert found["kl"]["toy"]["mean"] == pytest.approx(np.mean(means), abs=1e-5)


def test_killed_and_repeated_it_gives_the_same_table(env, data, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    argv = ("--events", 10, "--min-posts", 80)
    call(env, "weibo", data, whole, *argv)
    line = command("weibo", data, killed, *argv, backbone="toy:0.1")
    call_env = {**env, "PYTHONUNBUFFERED": "1"}
    for pattern, least in (("journals/core/*.jsonl", 4 * 10 * 4), ("likelihoods/core/*-0.json", 1)):
        process = subprocess.Popen(
            line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=call_env, cwd=ROOT
        )
        limit = time.monotonic() + 100
        while (
            sum(p.read_bytes().count(b"\n") + p.name.endswith("-0.json")
                for p in (killed / "out").glob(pattern) if "timings" not in p.name) < least
        ):  # fmt: skip
            assert process.poll() is None
            assert time.monotonic() < limit
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (killed / "results").exists()
    result = subprocess.run(line, capture_output=True, text=True, env=env, cwd=ROOT, timeout=120)
    assert result.returncode == 0, result.stderr
    scores = [folder / "out" / "entry" / "scores.json" for folder in (whole, killed)]
    assert scores[0].read_bytes() == scores[1].read_bytes()
    apart = ("seconds", "command")
    assert {k: v for k, v in table(killed).items() if k not in apart} == {
        k: v for k, v in table(whole).items() if k not in apart
    }


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("weibo", "--events", "99", "--min-posts", "80"), ("12 events", "99")),
        (("weibo", "--min-posts", "72"), ("more than the 72",)),
        (("weibo", "--baseline", "none"), ("--baseline", "toy-deaf")),
        (("weibo", "--half", "third"), ("'first', 'second'",)),
        (("pheme", "--half", "first"), ("--half is not for pheme",)),
        (("weibo", "--methods", "toy+cal+draws=0,toy-deaf"), ("toy+cal+draws=0", "1 or more")),
        (("twitter",), ("'weibo', 'pheme'",)),
        (("weibo", "--studies", "batch,weather"), ("weather", "warmup, sampling, batch")),
    ],
)
def test_wrong_arguments_get_one_line(env, data, tmp_path, argv, words):
    stderr = call(env, argv[0], data, tmp_path, *argv[1:], code=2).stderr
    assert stderr.startswith("mfenv: error: ")
    assert stderr.count("\n") == 1
    assert all(word in stderr for word in words), stderr


@pytest.mark.realdata
def test_the_sample_of_real_events_never_changes():
    data = Path(os.environ.get("MFENV_DATA", ROOT.parent / "shared" / "data"))
    path = data / "weibo" / "validation.parquet"
    if not path.exists():
        pytest.skip(f"needs {path.name} of the Weibo data (MFENV_DATA)")
    chosen = [case.event.event_id for case in sample(load_events(path), 40, 150)]
    digest = hashlib.sha256("\n".join(chosen).encode()).hexdigest()
    assert digest.startswith("0e6ce83203e511d2")


@pytest.mark.realdata
def test_real_streams_are_cut_into_segments_of_their_own_posts():
    data = Path(os.environ.get("MFENV_DATA", ROOT.parent / "shared" / "data"))
    path = data / "pheme" / "streams.parquet"
    if not path.exists():
        pytest.skip(f"needs {path.name} of the PHEME data (MFENV_DATA)")
    for event in load_events(path):
        cases = segments(event, 146)
        assert len(cases) == (len(event.posts) - 1) // 146
        for k, case in enumerate(cases):
            part = case.event.posts
            np.testing.assert_array_equal(
                part.authors[1:], event.posts.authors[1 + 146 * k : 147 + 146 * k]
            )
            assert (part.parents[1:] < np.arange(1, len(part))).all()
