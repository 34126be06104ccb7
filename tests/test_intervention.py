"""The outcome benchmark: pairing, measures by hand, entries, resume, the gate, the report."""

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

from agents.planners.setting import Setting
from benchmarks.intervention.entry import Entry, EventFacts, load_entry, write_entry
from benchmarks.intervention.gate import fidelity_of
from benchmarks.intervention.intervene import probe
from benchmarks.intervention.report import Policy, Report, Said, render
from benchmarks.intervention.runs import Episodes, Runs, identity
from benchmarks.intervention.scores import outcomes, score, smooth, time_to_half, transfer
from benchmarks.metrics import Interval, ratio
from mfenv.cli import main
from mfenv.dynamics.surrogate.find import build_surrogate
from mfenv.errors import DataError, MfenvError
from mfenv.interventions import N_ACTIONS
from mfenv.labels import N_LABELS, OFFSETS, SLICES

SMALL = [
    "bench", "intervention", "--horizon", "4", "--limit-events", "4", "--seeds", "2",
    "--lanes", "3", "--planner", "random",
    "--planner", "doubt=by-credibility:always:fact_check/high|none",
]  # fmt: skip
BELIEVE = SLICES["belief"].start


def bench(tmp_path, name, *more):
    out, results = tmp_path / name, tmp_path / f"{name}-results"
    assert main([*SMALL, "--out", str(out), "--results", str(results), *more]) == 0
    return out, results


def contents(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# -- the command -----------------------------------------------------------------------------


def test_same_command_twice_is_the_same_and_a_killed_run_goes_on(tmp_path, capsys):
    whole, results = bench(tmp_path, "whole")
    killed = tmp_path / "killed"
    command = [sys.executable, "-m", "mfenv", *SMALL, "--out", str(killed), "--results"]
    process = subprocess.Popen(
        [*command, str(tmp_path / "x")],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while process.poll() is None and not list((killed / "parts").glob("*.jsonl")):
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = contents(killed / "parts")
    (killed / "parts" / "torn.part").write_bytes(b'{"half')  # what a kill can leave behind
    out, again = bench(tmp_path, "killed")
    assert contents(out / "entry") == contents(whole / "entry")
    assert contents(again) == contents(results)
    for path, data in kept.items():
        if path.suffix == ".jsonl":
            assert (out / "parts" / path).read_bytes() == data
    # Another planner costs its own episodes only: nothing that was there is written again.
    before = {p: p.stat().st_mtime_ns for p in (out / "parts").glob("*.jsonl")}
    capsys.readouterr()
    bench(tmp_path, "killed", "--planner", "paper:1")
    assert {p: p.stat().st_mtime_ns for p in before} == before
    assert capsys.readouterr().err.count("paper:1") == len(before) // 3


def test_results_are_recomputed_from_the_entry_and_doing_nothing_has_no_uplift(tmp_path):
    out, results = bench(tmp_path, "run", "--planner", "nothing else=schedule:none")
    result = json.loads((results / "intervention-society.json").read_text())
    entry = load_entry(out / "entry")
    again = json.loads(json.dumps(score(entry)))
    assert {k: result[k] for k in again} == again
    for label in ("none", "nothing else"):
        assert result["planners"][label]["net"] == {"mean": 0, "low": 0, "high": 0}
        assert result["planners"][label]["avoided_per_cost"] is None
    assert result["planners"]["random"]["uplift"]["mean"] != 0
    truths = [e.truth for e in entry.events]
    assert truths.count(True) == truths.count(False) == 2
    text = (results / "intervention-society.md").read_text()
    assert text.count("exact: the synthetic society is its own reference") == 2
    assert str(tmp_path) not in text + (out / "entry" / "entry.json").read_text()


def test_a_planner_from_a_file_is_known_by_its_content(tmp_path):
    plan = tmp_path / "mine.json"
    names = []
    for action in ("none", "seed/high"):
        plan.write_text(json.dumps({"actions": [action]}))
        runs = Runs(Setting(event_ids=("e",)), {"mine": f"by-credibility:schedule:{plan}|none"}, 1)
        names.append(identity(runs)["planners"]["mine"])
        assert str(tmp_path) not in json.dumps(identity(runs))
    assert names[0]["revision"] != names[1]["revision"] != ""


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--planner", "random=paper"], "stands for two planners"),
        (["--planner", "nobody"], "unknown planner"),
        (["--dynamics", "nowhere"], "allowed: llm, society"),
        (["--env", "colour=red"], "unknown argument"),
        (["--objective", "target"], "needs target="),
        (["--tuned", __file__], "no tuned planners"),
        (["--compare-with", "missing"], "no entry"),
    ],
)
def test_what_is_wrong_is_said(more, says, tmp_path, capsys):
    arguments = [*SMALL, "--out", str(tmp_path / "o"), "--results", str(tmp_path / "r"), *more]
    assert main(arguments) == 2
    assert says in capsys.readouterr().err


# -- measures by hand --------------------------------------------------------------------------


def entry_of(believing, wanted, *, batch=10, horizon=4, budget=2.0, truth=False):
    """An entry in which ``believing`` ``(P, S, E, T)`` of ten people believe."""
    believing = np.asarray(believing)
    p, s, e, t = believing.shape
    counts = np.zeros((*believing.shape, N_LABELS), dtype=np.int64)
    counts[..., list(OFFSETS[:-1])] = batch  # everybody has the first label of each dimension
    counts[..., BELIEVE], counts[..., BELIEVE + 1] = believing, batch - believing
    ids = tuple(f"e{i}" for i in range(e))
    steps = np.full(e, t)
    seen = np.full((s, e), 0.3)
    return Entry(
        setting=Setting(event_ids=ids, horizon=horizon, budget=budget, batch=batch),
        events=tuple(EventFacts(i, truth, None, "en") for i in ids),
        planners={label: {"name": label, "revision": ""} for label in ("none", "a", "oracle")[:p]},
        seeds=s,
        models={},
        package="0",
        machine="a machine",
        command="a command",
        episodes=Episodes(steps, np.asarray(wanted), counts, np.zeros((e, N_LABELS)), seen),
    )


def test_measures_of_a_small_case_by_hand():
    nothing, helped, best = [8, 8, 8, 8], [8, 6, 4, 2], [4, 4, 2, 2]
    wanted = [[0, 0, 0, 0], [6, 0, 4, 0], [0, 6, 0, 0]]  # 2 units; then 2/3, refused; 2 units
    entry = entry_of(
        np.array([nothing, helped, best])[:, None, None], np.array(wanted)[:, None, None]
    )
    result = score(entry)
    row = result["planners"]["a"]
    assert row["uplift"]["mean"] == pytest.approx(0.8 - 0.5)
    assert row["net"]["mean"] == pytest.approx(0.3 - 0.02 * 2 / 4)
    assert row["uplift"]["low"] is None  # one event: nothing to draw
    assert (row["spent"], row["refused"]) == (2.0, 1.0)
    assert row["avoided_per_cost"]["mean"] == pytest.approx(1.2 / 2)
    assert row["avoided_per_budget"]["mean"] == pytest.approx(1.2 / 2)
    assert row["peak"] == pytest.approx((0.8 + 0.6) / 2)  # the first two steps
    assert row["half"] == {"reached": 1.0, "median": 3.0}  # (6 + 4 + 2) / 3 of 8
    assert time_to_half(outcomes(entry).harm)[:, 0].tolist() == [np.inf, 3, 1]
    assert row["final"]["belief/believe"] == pytest.approx(0.2)
    assert row["curve"] == [0.8, 0.6, 0.4, 0.2]
    assert result["ranked"] == ["oracle", "a", "none"]
    assert result["best"] == "a"  # oracles are bounds
    assert result["oracle"]["a"]["regret"]["mean"] == pytest.approx(0.5 - 0.3)
    assert score(replace(entry, events=(EventFacts("e0", True, None, "en"),)))["planners"]["a"][
        "uplift"
    ]["mean"] == pytest.approx(-0.3)  # the topic is true: to doubt it is the harm


def test_smoothing_is_over_three_steps_and_stops_at_the_ends():
    assert smooth(np.array([3.0, 0.0, 6.0, np.nan])).tolist()[:3] == [1.5, 3.0, 3.0]


def test_intervals_cover_events_and_seeds():
    rng = np.random.default_rng(0)
    believing = rng.integers(4, 9, size=(2, 5, 12, 4))
    believing[1] = believing[0] - rng.integers(0, 4, size=(5, 12, 4))
    row = score(entry_of(believing, np.zeros_like(believing)))["planners"]["a"]
    for name in ("uplift", "uplift_iqm", "net"):
        assert 0 < row[name]["low"] < row[name]["mean"] < row[name]["high"]


def test_a_ratio_is_paired():
    rng = np.random.default_rng(0)
    b = rng.normal(1.0, 0.5, size=(5, 20))
    half = ratio(0.5 * b, b, rng)
    assert (half.mean, half.low, half.high) == pytest.approx((0.5, 0.5, 0.5))
    other = ratio(0.5 * rng.normal(1.0, 0.5, size=(3, 20)), b, rng)
    assert other.low < 0.5 < other.high
    assert 0.05 < other.high - other.low < 0.5


def test_transfer_is_the_share_that_survives():
    rng = np.random.default_rng(1)
    gain = rng.integers(2, 6, size=(2, 6, 4))
    nothing = np.full_like(gain, 9)
    cheap = entry_of(np.stack([nothing, nothing - gain]), np.zeros((2, *gain.shape), dtype=int))
    dear = entry_of(
        np.stack([2 * nothing, 2 * nothing - gain]), np.zeros((2, *gain.shape), dtype=int), batch=20
    )
    dear = replace(dear, setting=replace(dear.setting, batch=10))
    share = transfer(dear, cheap)["planners"]["a"]["net"]["share"]
    assert (share["mean"], share["low"], share["high"]) == pytest.approx((0.5, 0.5, 0.5))
    with pytest.raises(MfenvError, match="differ in budget"):
        transfer(dear, replace(cheap, setting=replace(cheap.setting, budget=9.0)))
    nothing_there = entry_of(np.stack([nothing, nothing]), np.zeros((2, *gain.shape), dtype=int))
    assert transfer(cheap, nothing_there)["planners"]["a"]["net"]["share"] is None


# -- entries -----------------------------------------------------------------------------------


def test_an_entry_reads_back_and_what_was_changed_is_found(tmp_path):
    entry = entry_of(np.full((2, 2, 3, 4), 5), np.zeros((2, 2, 3, 4), dtype=int))
    write_entry(tmp_path / "e", entry)
    read = load_entry(tmp_path / "e")
    assert (read.episodes.counts == entry.episodes.counts).all()
    assert replace(read, episodes=entry.episodes) == entry
    lanes = tmp_path / "e" / "lanes" / "01.jsonl"
    first, *rest = lanes.read_text().splitlines()

    def tampered(**changed):
        data = "\n".join([json.dumps(json.loads(first) | changed), *rest]) + "\n"
        lanes.write_text(data)
        path = tmp_path / "e" / "entry.json"
        value = json.loads(path.read_text())
        value["files"]["lanes/01.jsonl"] = hashlib.sha256(data.encode()).hexdigest()
        path.write_text(json.dumps(value))

    counts = json.loads(first)["counts"]
    for changed, says in (
        ({"wanted": [0, 0, 0, N_ACTIONS]}, "actions from 0 to 18"),
        ({"counts": [[11] * N_LABELS] * 4}, "add up to the same"),
        ({"counts": counts[:3]}, "4 × 23 counts"),
        ({"event": 1}, "unknown or stands twice"),
        ({"credibility": 2}, "0 to 1"),
    ):
        tampered(**changed)
        with pytest.raises(DataError, match=r"lanes/01\.jsonl: record line [1-3]") as error:
            load_entry(tmp_path / "e")
        assert says in str(error.value)
    lanes.write_text(first + "\n")
    with pytest.raises(DataError, match="not the one that was entered"):
        load_entry(tmp_path / "e")


# -- the gate ------------------------------------------------------------------------------------


def test_outcomes_need_a_fidelity(tmp_path):
    setting = Setting(dynamics="llm", backbone="mine", method="mf")
    described = {"name": "mine", "revision": "sha256:1"}
    with pytest.raises(MfenvError, match=r"mfenv bench fidelity .*--backbone mine --methods mf"):
        fidelity_of(setting, described)
    value = {
        "track": "pheme",
        "backbone": [described],
        "kl": {
            "mf": {"mean": 0.2, "low": 0.1, "high": 0.3, "excess": {"mean": 0.15}},
            "persistence": {"mean": 0.1, "low": 0.1, "high": 0.1},
        },
    }
    path = tmp_path / "result.json"
    path.write_text(json.dumps(value))
    known = fidelity_of(setting, described, [path])
    assert known.statement.startswith("mean KL to the real population 0.200 nats on pheme [0.100")
    assert "noise floor 0.050" in known.statement
    assert "not a good forecaster" in known.statement
    for other in (replace(setting, method="recent"), setting):
        revision = {"name": "mine", "revision": "sha256:2"} if other is setting else described
        with pytest.raises(MfenvError, match=r"unknown \(result\.json"):
            fidelity_of(other, revision, [path])
    assert fidelity_of(Setting(), None).statement.startswith("exact")
    # A surrogate has that of its calibration report, for these very parameters.
    shipped = Setting(dynamics="surrogate", more={"surrogate": "society"})
    known = fidelity_of(shipped, None)
    assert known.source == "surrogate-society.json"
    assert "steps 13 to 16" in known.statement
    assert "correlation 0.99" in known.statement
    path.write_text(json.dumps({"revision": "of another"}))
    with pytest.raises(MfenvError, match=r"surrogate 'society' \(revision \w+\) is unknown"):
        fidelity_of(shipped, None, [path])
    path.write_text(json.dumps({"revision": build_surrogate("society").revision}))
    with pytest.raises(DataError, match="no report of mfenv train surrogate"):
        fidelity_of(shipped, None, [path])


def test_the_shipped_backbone_has_a_known_fidelity():
    folder = Path(__file__).parent.parent / "benchmarks" / "results"
    shipped = json.loads((folder / "pheme-embedded-en.json").read_text())
    described = shipped["backbone"][0]
    known = fidelity_of(Setting(dynamics="llm", backbone=described["name"]), described)
    assert known.source is not None
    assert known.kl is not None
    assert known.floor < known.kl["mean"]


def test_without_a_fidelity_nothing_is_played(tmp_path, capsys):
    path = tmp_path / "other.json"
    path.write_text('{"backbone": [], "kl": {}}')
    command = [*SMALL, "--dynamics", "llm", "--backbone", "ngram-en", "--fidelity", str(path)]
    assert main([*command, "--out", str(tmp_path / "o")]) == 2
    assert "measure it with: mfenv bench fidelity" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


# -- mfenv intervene -----------------------------------------------------------------------------


def test_intervene_reports_what_it_did(tmp_path, capsys):
    command = ["intervene", "--dynamics", "society", "--event", "synthetic-2-0", "--horizon", "4"]
    planner = ["--planner", "threshold:fact_check/high@0.35", "--seeds", "3"]
    assert main([*command, *planner, "--out", str(tmp_path / "a")]) == 0
    assert "uplift" in capsys.readouterr().out
    assert main([*command, *planner, "--out", str(tmp_path / "b"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["seeds"] == 3
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    page = (tmp_path / "a" / "report.html").read_text()
    assert page.count("exact: the synthetic society is its own reference") >= 4
    assert "another belief than the same person's" in page
    assert str(tmp_path) not in page
    assert main([*command, "--planner", "none"]) == 2
    assert main([*command, "--planner", "random", "--event", "nobody"]) == 2


def test_a_probed_policy_is_the_planners_own():
    seen, masks = np.zeros((3, 63), dtype=np.float32), np.ones((3, N_ACTIONS), dtype=bool)
    seen[:, 54] = [0, 1 / 3, 2 / 3]
    masks[2, 6] = False  # nothing is left of the budget
    levels = np.array([0.2, 0.5, 0.8])
    table = probe("threshold:fact_check/high@0.5", seen, masks, levels)
    assert table.tolist() == [[0, 0, 0], [6, 6, 0], [6, 6, 0]]
    table = probe("schedule:none,seed/low", seen, masks, levels)
    assert table.tolist() == [[0, 7, 0]] * 3


def test_the_report_escapes_what_people_wrote():
    evil = '<script>alert("x")</script>'
    shares = np.full((2, 3, N_LABELS), 0.5)
    report = Report(
        title=evil, topic=evil, language='en" onload="x', planner=evil, objective="misbelief",
        simulator=evil, fidelity=evil, budget=3.0, uplift=Interval(0.1, 0.05, 0.2),
        net=Interval(0.1, 0.05, 0.2), harm_without=np.full((2, 3), 0.5),
        harm_with=np.full((2, 3), 0.4), shares_without=shares, shares_with=shares,
        actions=np.array([[6, 0, 0], [0, 1, 0]]), cost=np.array([[2.0, 0, 0], [0, 1, 0]]),
        refused=1, said=[Said(1, [evil, ""], ["fine", evil])], changed=(2, 2, 1),
        policy=Policy([0.0, 0.5, 1.0], np.zeros((3, 3), dtype=np.int64), [0.1, 0.2, 0.3]),
        facts={"Event": {"id": evil}}, command=evil, notes=[evil],
    )  # fmt: skip
    page = render(report)
    assert "<script" not in page
    assert 'onload="x' not in page
    assert page.count("&lt;script&gt;") >= 9
    assert page == render(report)
    assert "+0.100 [0.050, 0.200]" in page
    hurt = render(replace(report, uplift=Interval(-0.1, -0.2, -0.05)))
    assert "does harm" in hurt
    unclear = render(replace(report, uplift=Interval(0.1, -0.2, 0.3)))
    assert "The interval includes 0" in unclear
