"""Forecasts: bands that hold what they say, scores by hand, turns, and the two commands."""

import json
import os
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import toy_models
from scipy import stats

from benchmarks.compare import PERSISTENCE
from benchmarks.fidelity import sample
from benchmarks.forecast import with_drawn_people
from benchmarks.forecast_bands import (
    Smoothing,
    band,
    beta_binomial,
    count_probabilities,
    coverage,
    crps,
    dimension_mean,
    fan_ends,
    forecast,
    interval_score,
    overdispersion,
    pinball,
    pit,
    pit_histogram,
    redrawn,
    share_curves,
    trailing_counts,
    turn_after,
    turn_chance,
)
from benchmarks.forecast_calibration import measure
from benchmarks.metrics import turning_points
from mfenv.cli import main
from mfenv.distributions import shares
from mfenv.dynamics.journal import read_journal
from mfenv.events.event import Posts
from mfenv.events.jsonl import write_jsonl
from mfenv.events.synthetic.generator import SyntheticSociety
from mfenv.labels import DIMENSIONS, NAMES, OFFSETS

SIZES = ("--warmup", "24", "--horizon", "48", "--batch", "8", "--window", "16", "--seeds", "6")
TOY = ("--backbone", "toy", "--annotator", "toy-exact", *SIZES)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder with the toy models registered, as anybody's package would be."""
    folder = tmp_path_factory.mktemp("site")
    env = toy_models.install(folder)
    sys.path.insert(0, str(folder))
    toy_models.check(folder)
    yield env
    sys.path.remove(str(folder))


@pytest.fixture
def call(site, capsys):
    def run(*argv, code=0):
        found = main([str(x) for x in argv])
        printed = capsys.readouterr()
        assert found == code, printed.err
        return printed

    return run


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.endswith(".timings.jsonl")
    }


# -- bands and scores --------------------------------------------------------------------------


def dirichlet_multinomial(rng, alpha, m, draws):
    """Counts (draws, windows, 23); alpha (windows, 23)."""
    gamma = rng.gamma(np.broadcast_to(alpha, (draws, *alpha.shape)))
    blocks = [gamma[..., a:b] for a, b in pairwise(OFFSETS)]
    parts = [rng.multinomial(m, g / g.sum(axis=-1, keepdims=True)) for g in blocks]
    return np.concatenate(parts, axis=-1)


@pytest.mark.parametrize("rho", [0.0, 0.05, 0.2])
def test_smoothed_bands_hold_what_they_say_whatever_the_number_of_seeds(rho):
    rng = np.random.default_rng(0)
    windows, m = 600, 40
    base = [rng.dirichlet(np.full(len(d.labels), 3.0), windows) for d in DIMENSIONS]
    p = np.concatenate(base, axis=-1)
    alpha = p * (1 - rho) / max(rho, 1e-6)
    real = dirichlet_multinomial(rng, alpha, m, 1)[0]
    held = {}
    for seeds in (6, 30):
        made = dirichlet_multinomial(rng, alpha, m, seeds)
        found = overdispersion(made, np.full(windows, m))
        assert found.mean() == pytest.approx(rho, abs=0.004)
        for name, smoothing in (("smoothed", Smoothing(excess=0)), ("seeds", None)):
            transform = pit(count_probabilities(made, np.full(windows, m), smoothing), real)
            for level in (0.5, 0.9):
                inside = dimension_mean(coverage(transform, level)).mean()
                held[name, seeds, level] = inside
                if name == "smoothed":
                    assert inside == pytest.approx(level, abs=0.025)
            if name == "smoothed":
                flat = dimension_mean(np.moveaxis(pit_histogram(transform), -1, 0)).mean(axis=-1)
                np.testing.assert_allclose(flat, 0.1, atol=0.02)
    # What the smoothing is for: the plain frequencies of few seeds are too sure.
    assert held["seeds", 6, 0.9] < 0.8 < held["smoothed", 6, 0.9]


def test_beta_binomial_is_that_of_scipy():
    p, rho, m = np.array([[0.3], [0.9]]), np.array([0.15, 0.4]), np.array([20, 7])
    found = beta_binomial(p, rho, m)
    assert found.shape == (2, 2, 21)
    for i in range(2):
        for j in range(2):
            a, b = (x * (1 - rho[j]) / rho[j] for x in (p[i, 0], 1 - p[i, 0]))
            expected = stats.betabinom.pmf(np.arange(21), m[j], a, b)
            np.testing.assert_allclose(found[i, j], expected, atol=1e-12)
    plain = beta_binomial(np.array(0.2), np.array(0.0), np.array(9))
    np.testing.assert_allclose(plain, stats.binom.pmf(np.arange(10), 9, 0.2), atol=1e-12)


def test_scores_by_hand():
    probabilities = np.array([0.1, 0.2, 0.4, 0.3])
    values = np.arange(4)
    for y in values:
        pairs = np.abs(values[:, None] - values)
        expected = probabilities @ np.abs(values - y) - probabilities @ pairs @ probabilities / 2
        assert crps(probabilities, y) == pytest.approx(expected)
        # CRPS is twice the pinball loss over all levels.
        levels = (np.arange(2000) + 0.5) / 2000
        assert 2 * pinball(probabilities, y, levels) == pytest.approx(expected, abs=2e-3)
    assert pinball(probabilities, 0, [0.5, 0.9]) == pytest.approx((0.5 * 2 + 0.1 * 3) / 2)
    # 15% may lie below the band: 0 has 10%; 15% above it: nothing that is possible does.
    assert [int(x) for x in band(probabilities, 0.7)] == [1, 3]
    # Of twenty values that are as likely, 90% takes all: 18 would be too few of so few seeds.
    assert [int(x) for x in band(np.full(20, 0.05), 0.9)] == [0, 19]
    assert interval_score(probabilities, 0, 0.7) == pytest.approx(2 + 2 / 0.3 * 1)
    assert interval_score(probabilities, 2, 0.7) == pytest.approx(2)
    np.testing.assert_allclose(pit(probabilities, 2), [0.3, 0.7])
    assert coverage(pit(probabilities, 2), 0.5) == pytest.approx((0.7 - 0.3) / 0.4)
    assert coverage(pit(probabilities, 0), 0.9) == pytest.approx(0.5)  # half of 0 to 0.1
    np.testing.assert_allclose(
        pit_histogram(pit(probabilities, 3)), [0] * 7 + [1 / 3] * 3, atol=1e-12
    )
    impossible = np.array([0.0, 1.0, 0.0])
    assert coverage(pit(impossible, 2), 0.9) == coverage(pit(impossible, 0), 0.9) == 0
    assert pit_histogram(pit(impossible, 0)).tolist() == [1] + [0] * 9
    assert pit_histogram(pit(impossible, 2)).tolist() == [0] * 9 + [1]


def test_bands_of_two_labels_mirror_each_other():
    labels = np.zeros((9, 30, 8), dtype=np.int8)
    labels[..., 0] = np.random.default_rng(1).random((9, 30)) < np.linspace(0.1, 0.8, 30)
    for smoothing in (None, Smoothing()):
        made = forecast(labels[0], labels, np.arange(0, 31, 5), 10, smoothing)
        for level in (0.5, 0.9):
            low, high = made.band(level)
            np.testing.assert_allclose(low[:, 0], 1 - high[:, 1])
            assert (low <= made.quantile(0.5) + 1e-9).all()
            assert (made.quantile(0.5) <= high + 1e-9).all()


def test_what_the_warm_up_holds_of_a_window_is_known():
    rng = np.random.default_rng(2)
    sizes = [len(d.labels) for d in DIMENSIONS]
    warmup = rng.integers(0, sizes, (20, 8)).astype(np.int8)
    simulated = rng.integers(0, sizes, (5, 24, 8)).astype(np.int8)
    made = forecast(warmup, simulated, [0, 4, 12, 24], 12, None)
    assert made.sizes.tolist() == [12, 12, 12, 12]
    low, high = made.band(0.9)
    np.testing.assert_allclose(low[0], shares(warmup[-12:]))
    np.testing.assert_allclose(high[0], shares(warmup[-12:]))
    # Five seeds: the band of 90% is what the seeds span.
    for t, end in ((1, 4), (3, 24)):
        spanned = [shares(np.concatenate([warmup, one[:end]])[-12:]) for one in simulated]
        np.testing.assert_allclose(low[t], np.min(spanned, axis=0))
        np.testing.assert_allclose(high[t], np.max(spanned, axis=0))
    # A short warm-up: the first windows are not full.
    short = forecast(warmup[:3], simulated, [0, 4, 24], 12, Smoothing())
    assert short.sizes.tolist() == [3, 7, 12]
    np.testing.assert_allclose(short.quantile(0.5)[0], shares(warmup[:3]))
    assert trailing_counts(warmup, [0, 20], 12).sum(axis=-1).tolist() == [0, 96]
    assert fan_ends(50, 16).tolist() == [0, 16, 32, 48, 50]
    assert len(fan_ends(30_000, 16)) == 236
    assert fan_ends(30_000, 16)[[1, -1]].tolist() == [128, 30_000]
    ends, curves = share_curves(warmup, simulated, 8, 12)
    assert ends.tolist() == [-8, 0, 8, 16, 24]
    np.testing.assert_allclose(curves[2, 0], shares(warmup[:12]))
    np.testing.assert_allclose(
        curves[2, 2], shares(np.concatenate([warmup[-4:], simulated[2, :8]]))
    )


def test_redrawn_reactions_stay_in_their_step_and_have_the_noise_of_independent_ones():
    rng = np.random.default_rng(3)
    labels = np.zeros((20, 8), dtype=np.int8)
    labels[:, 0] = np.arange(20) % 2  # one in two, in every step
    labels[:, 1] = np.arange(20) // 8
    drawn = np.stack([redrawn(labels, 8, rng) for _ in range(2000)])
    np.testing.assert_array_equal(drawn[..., 1], np.broadcast_to(labels[:, 1], (2000, 20)))
    share = drawn[:, :8, 0].mean(axis=1)
    assert share.mean() == pytest.approx(0.5, abs=0.02)
    assert share.var() == pytest.approx(0.25 / 8, rel=0.1)


def test_turning_points_of_curves_drawn_by_hand():
    hill = [0.1, 0.2, 0.5, 0.5, 0.4, 0.3]
    assert turning_points(hill, 1, 0.2) == [(2, -1)]
    assert turning_points(hill, 1, 0.25) == []  # falls by 0.2 only
    assert turning_points([1 - x for x in hill], 1, 0.2) == [(2, 1)]
    zigzag = [0.5, 0.2, 0.25, 0.18, 0.6, 0.55, 0.62, 0.3]
    assert turning_points(zigzag, 1, 0.2) == [(3, 1), (6, -1)]
    assert turning_points([0.9, 0.2, 0.6, 0.1], 1, 0.2) == [(1, 1), (2, -1)]
    assert turning_points(np.linspace(0, 1, 9), 1, 0.1) == []
    assert turning_points([0.3], 1, 0.1) == turning_points([], 1, 0.1) == []
    # A turn of the warm-up is none of the horizon's; one where it ends is.
    assert turn_after(hill, [-3, -2, -1, 0, 1, 2], 0.2) is None
    assert turn_after(hill, [-2, -1, 0, 1, 2, 3], 0.2) == (0, True)
    assert turn_after(zigzag, 10 * np.arange(-4, 4), 0.2) == (20, True)
    curves = [hill, hill[::-1], [0.5, 0.3, 0.1, 0.2, 0.4, 0.4], [0.2] * 6]
    chance = turn_chance(curves, 8 * np.arange(-1, 5), 0.2)
    assert (chance.probability, chance.peak) == (0.75, 0.5)
    assert chance.where == (8, 8, 8)
    assert turn_chance([[0.2] * 3] * 2, [0, 1, 2], 0.2).where is None


# -- the command -------------------------------------------------------------------------------


def test_the_same_command_gives_the_same_forecast_and_it_is_that_of_the_journals(call, tmp_path):
    argv = ("forecast", *TOY, "--method", "toy,toy-deaf", "--json", "--out")
    first = call(*argv, tmp_path / "a")
    assert first.out.count("\n") == 1
    result = json.loads(first.out)
    assert result["decisions"] == 2 * 6 * 48
    call(*argv, tmp_path / "b")
    call(*argv, tmp_path / "a")  # all of it is in the journals
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert list(result["forecast"]) == ["toy", "toy-deaf", PERSISTENCE]
    assert result["reactions"] == [0, 8, 16, 24, 32, 40, 48]
    labels = np.stack(
        [
            np.concatenate([r.labels for r in records if not r.warmup])
            for s in range(6)
            for records in [read_journal(tmp_path / "a" / "journals" / f"toy-{s}.jsonl")[1]]
        ]
    )
    event = SyntheticSociety(9).event(0, n_posts=73)
    made = forecast(event.labels[1:25], labels, [48], 16, Smoothing())
    low, high = made.band(0.9)
    i = NAMES.index("belief/doubt")
    quantiles = result["forecast"]["toy"]["labels"]["belief/doubt"]["quantiles"]
    assert quantiles["0.05"][-1] == pytest.approx(low[0, i], abs=1e-6)
    assert quantiles["0.95"][-1] == pytest.approx(high[0, i], abs=1e-6)
    assert quantiles["0.5"][0] == pytest.approx(np.mean(event.labels[9:25, 5] == 1), abs=1e-6)
    real = result["real"]["labels"]["belief/doubt"]["shares"]
    assert real[-1] == pytest.approx(np.mean(event.labels[57:73, 5] == 1), abs=1e-6)
    # Coverage, counted here once more.
    apart = forecast(event.labels[1:25], labels, [16, 32, 48], 16, Smoothing())
    low, high = apart.band(0.9)
    seen = np.stack([shares(event.labels[25 + k : 41 + k]) for k in (0, 16, 32)])
    inside = dimension_mean((low - 1e-9 <= seen) & (seen <= high + 1e-9)).mean()
    scores = result["forecast"]["toy"]["scores"]
    assert scores["windows"] == 3
    assert scores["coverage"]["0.9"]["inside"] == pytest.approx(inside, abs=1e-6)
    assert scores["coverage"]["0.9"]["expected"] >= 0.9
    printed = call(*argv[:-2], "--out", tmp_path / "a").out
    assert "toy-deaf: share" in printed
    assert f"{100 * inside:.0f}% (" in printed
    page = (tmp_path / "a" / "report.html").read_text()
    tree = ET.fromstring(page.removeprefix("<!DOCTYPE html>\n"))
    fans = [e for e in tree.iter("polygon") if e.get("class").startswith("fan")]
    shown = sum(1 if len(d.labels) == 2 else len(d.labels) for d in DIMENSIONS)
    assert len(fans) == 2 * 2 * shown  # two methods, two bands
    assert "default-src 'none'" in page
    assert "<script" not in page


def test_drawn_people_know_nothing_of_what_comes_later(call, tmp_path):
    event = replace(SyntheticSociety(9).event(1, n_posts=41), event_id="../<b>&")
    cut = {
        "kinds": None,
        "stances": None,
        "offsets": event.posts.offsets[:31],
        "authors": event.posts.authors[:31],
        "parents": event.posts.parents[:31],
        "texts": event.posts.texts[:31],
        "profiles": event.posts.profiles and event.posts.profiles[:31],
    }
    shorter = replace(event, posts=Posts(**cut), labels=event.labels[:31])
    results = {}
    for name, one in (("long", event), ("short", shorter)):
        write_jsonl([one], tmp_path / f"{name}.jsonl")
        argv = (tmp_path / f"{name}.jsonl", *TOY, "--method", "toy", "--audience", "drawn")
        result = json.loads(call("forecast", *argv, "--json", "--out", tmp_path / name).out)
        results[name] = result
    assert (
        results["long"]["forecast"]["toy"]["labels"]
        == results["short"]["forecast"]["toy"]["labels"]
    )
    # Sixteen reactions are known in one, six in the other, and only one window is whole.
    assert results["long"]["forecast"]["toy"]["scores"]["windows"] == 1
    assert results["short"]["forecast"]["toy"]["scores"] is None
    page = (tmp_path / "short" / "report.html").read_text()
    assert "nothing to hold it against yet: 6 reactions" in page
    assert "<b>" not in page
    people = with_drawn_people(event, 24, 48)
    assert len(people.posts) == 73
    assert set(people.posts.authors[25:]) <= set(event.posts.authors[1:25])
    assert set(people.posts.texts[25:]) == {""}


def test_killed_and_repeated_it_ends_with_the_same_bytes(site, call, tmp_path):
    call("forecast", *("--backbone", "toy:0.03", *TOY[2:]), "--method", "toy", "--out",
         tmp_path / "whole")  # fmt: skip
    argv = [sys.executable, "-m", "mfenv", "forecast", "--backbone", "toy:0.03", *TOY[2:]]
    argv += ["--method", "toy", "--out", str(tmp_path / "killed")]
    env = {**os.environ, **site, "PYTHONPATH": f"{Path.cwd()}:{site['PYTHONPATH']}"}
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=env)
    journal = tmp_path / "killed" / "journals" / "toy-5.jsonl"
    limit = time.monotonic() + 60
    while not journal.exists() or journal.read_bytes().count(b"\n") < 5:
        assert process.poll() is None
        assert time.monotonic() < limit
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed" / "result.json").exists()
    call("forecast", *argv[4:])
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("--event", "nine"), ("synthetic-SEED-INDEX",)),
        (("EVENTS", "--event", "none"), ("none", "synthetic-9-1")),
        (("EVENTS",), ("40 people", "--horizon 48", "3 to 16", "--audience drawn")),
        (("EVENTS", "--warmup", "38"), ("40 people", "--warmup 38", "1 to 37")),
        (("--seeds", "1"), ("--seeds", "at least 2")),
        (("--window", "49"), ("--window 49", "1 to 48")),
        (("--turn", "1.5"), ("--turn", "above 0 and below 1")),
        (("--method", "mff"), ("mff", "mf-counted")),
        (("--bands", "wide"), ("'smoothed', 'seeds'",)),
    ],
)
def test_wrong_arguments_get_one_line_that_says_what_is_allowed(call, tmp_path, argv, words):
    write_jsonl([SyntheticSociety(9).event(1, n_posts=41)], tmp_path / "events.jsonl")
    argv = [str(tmp_path / "events.jsonl") if x == "EVENTS" else x for x in argv]
    printed = call("forecast", *TOY, *argv, "--out", tmp_path / "out", code=2)
    assert printed.out == ""
    assert printed.err.startswith("mfenv: error: ")
    assert printed.err.count("\n") == 1
    assert all(word in printed.err for word in words), printed.err
    assert not (tmp_path / "out").exists()


# -- calibration over many events --------------------------------------------------------------


def test_calibration_over_events(call, tmp_path):
    events = SyntheticSociety(3).events(9, n_posts=90)
    write_jsonl(events, tmp_path / "events.jsonl")
    argv = ("bench", "calibration", "--data", tmp_path / "events.jsonl", *TOY, "--methods", "toy",
            "--events", 3, "--half", "second", "--excess", "0", "--name", "x")  # fmt: skip
    found = call(*argv, "--out", tmp_path / "out", "--results", tmp_path / "a")
    call(*argv, "--out", tmp_path / "out", "--results", tmp_path / "b")  # from the journals
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    result = json.loads((tmp_path / "a" / "calibration-x.json").read_text())
    text = (tmp_path / "a" / "calibration-x.md").read_text()
    assert text == found.out
    assert (tmp_path / "a" / "calibration-x.png").stat().st_size < 200_000
    figures = []
    for case in sample(events, 3, 73, "second"):
        [folder] = [
            path.parent
            for path in (tmp_path / "out").glob("*/journals")
            if read_journal(path / "toy-0.jsonl")[0]["event"] == case.event.event_id
        ]
        labels = np.stack(
            [
                np.concatenate([r.labels for r in records if not r.warmup])
                for s in range(6)
                for records in [read_journal(folder / "journals" / f"toy-{s}.jsonl")[1]]
            ]
        )
        real = case.event.labels[25:73]
        figures.append(measure(case.event.labels[1:25], labels, real, 16, None))
    row = result["rows"]["toy, seeds"]
    for level, i in (("0.1", 0), ("0.9", 8)):
        mean = np.mean([x["coverage"][i] for x in figures])
        assert row["coverage"][level]["mean"] == pytest.approx(mean, abs=1e-6)
    assert row["crps"]["mean"] == pytest.approx(np.mean([x["crps"] for x in figures]), abs=1e-6)
    assert sum(row["pit"]) == pytest.approx(1, abs=1e-5)
    assert row["crps"]["low"] <= row["crps"]["mean"] <= row["crps"]["high"]
    # Wider bands hold more.
    held = [
        result["rows"][f"toy, {x}"]["coverage"]["0.9"]["mean"] for x in ("excess 0", "smoothed")
    ]
    assert held[0] < held[1]
    gap = result["crps_minus_persistence"]["toy, smoothed"]["mean"]
    both = [result["rows"][f"{m}, smoothed"]["crps"]["mean"] for m in ("toy", PERSISTENCE)]
    assert gap == pytest.approx(both[0] - both[1], abs=2e-6)
    assert 0 <= result["turns"]["methods"]["toy"]["brier"]["mean"] <= 1
    published = text + json.dumps(result)
    assert not any(e.event_id in published for e in events)
    assert not any(t in published for e in events for t in e.posts.texts if len(t) > 12)
    assert "at least 73" in call(*argv, "--min-posts", 60, code=2).err
    assert "at least 0 and below 1" in call(*argv, "--excess", "0,1", code=2).err
