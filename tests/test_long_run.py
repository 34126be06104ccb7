"""``mfenv bench long``, and what ``mfenv simulate`` makes of a long run with opinions."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import toy_models

from benchmarks.long_run import BAR, entropy, growth, score
from benchmarks.report import Method, Report, render
from mfenv.distributions import UNIFORM, counts
from mfenv.dynamics.journal import read_journal
from mfenv.events.synthetic.generator import SyntheticSociety
from mfenv.labels import DIMENSIONS, N_LABELS


@pytest.fixture(scope="module")
def env(tmp_path_factory):
    return {**os.environ, **toy_models.install(tmp_path_factory.mktemp("site"))}


def call(env, *argv):
    result = subprocess.run(
        [sys.executable, "-m", "mfenv", *map(str, argv)],
        capture_output=True,
        text=True,
        env=env,
        timeout=280,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_entropy_and_the_bar_by_hand():
    np.testing.assert_allclose(entropy(UNIFORM), [np.log(len(d.labels)) for d in DIMENSIONS])
    labels = SyntheticSociety(2).event(0, n_posts=1051).labels[1:]
    warm, real = labels[:50], labels[50:]
    same = score(warm, real, real, 0)
    assert same["ratio_same_tenth"].min() == 1
    np.testing.assert_allclose(same["ratio"], same["stream_ratio"])
    np.testing.assert_allclose(same["kl"], 0)
    assert (same["persistence"] > 0).all()
    # A population that ends in one answer in one dimension falls below the bar in it alone.
    stuck = real.copy()
    stuck[900:, 5] = 1
    fallen = score(warm, real, stuck, 0)["ratio"]
    assert fallen[5] == 0 < BAR
    np.testing.assert_array_equal(np.delete(fallen, 5), np.delete(same["ratio"], 5))
    # Where the stream itself always says the same there is nothing to fall below.
    real[:, 3] = 0
    assert score(warm, real, real, 0)["ratio"][3] == 1
    assert counts(real).sum() == 8 * len(real)


def test_growth_is_of_the_last_process_after_its_start():
    def at(part, mb, process=1):
        return {"part": part, "rss_mb": mb, "process": process}

    assert growth([at(0.1, 50), at(0.3, 100), at(0.6, 104), at(1.0, 101)]) == 1
    assert growth([at(0.3, 900), at(0.6, 100, 2), at(1.0, 102, 2)]) == 2
    assert growth([]) is None


def test_the_table_holds_what_the_journals_say(env, tmp_path):
    argv = (
        *("bench", "long", "synthetic", "--people", 25, "--interactions", 240, "--batch", 12),
        *("--warmup", 24, "--backbone", "toy", "--annotator", "toy-exact"),
        *("--methods", "toy,toy+opinions", "--results", tmp_path / "r", "--name", "long"),
        *("--out", tmp_path / "o"),
    )
    printed = call(env, *argv)
    result = json.loads((tmp_path / "r/long.json").read_text())
    assert printed == (tmp_path / "r/long.md").read_text()
    event = SyntheticSociety(9).event(0, n_posts=265, people=25)
    for method, row in result["methods"].items():
        records = read_journal(tmp_path / f"o/{method}-0.jsonl")[1]
        labels = np.concatenate([r.labels for r in records])
        assert len(labels) == 264
        expected = score(event.labels[1:25], event.labels[25:], labels[24:], 0)
        np.testing.assert_allclose(row["ratio"], expected["ratio"], atol=1e-5)
        np.testing.assert_allclose(row["kl"], expected["kl"], atol=1e-5)
        assert [m["part"] for m in row["memory"]][-1] == 1.0
        assert ("told" in row["opinions"]) == (records[5].opinions is not None)
        assert ("told" in row["opinions"]) == method.endswith("+opinions")
        assert row["opinions"]["stream"]["returning"] > 150
    assert not any(text in printed for text in event.posts.texts if len(text) > 12)
    assert call(env, *argv) == printed  # finished: read from the journals


def test_simulate_with_opinions_and_people_who_return(env, tmp_path):
    argv = (
        *("simulate", "--backbone", "toy", "--annotator", "toy-exact", "--method", "toy"),
        *("--agents", 2024, "--batch", 8, "--warmup", 24, "--seeds", 1, "--json"),
        *("--people", 90, "--opinions", "default", "--out", tmp_path / "a"),
    )
    result = json.loads(call(env, *argv))
    assert result["decisions"] == 2000
    settings, records = read_journal(tmp_path / "a/journals/toy-0.jsonl")
    assert set(settings["opinions"]) == {"model", "people"}
    assert all(len(r.opinions) == len(r.agents) for r in records)
    page = (tmp_path / "a/report.html").read_text()
    assert len(page) < 900_000
    assert "dots average 2 real steps" in page
    assert ">200 steps<" in page


def test_a_report_of_a_long_run_is_not_longer():
    def page(steps):
        rng = np.random.default_rng(0)
        return len(
            render(
                Report(
                    title="t",
                    topic="t",
                    language="en",
                    warmup=4,
                    real=rng.dirichlet(np.ones(N_LABELS), steps),
                    methods=[Method("m", rng.dirichlet(np.ones(N_LABELS), (2, steps - 4)))],
                    scores=[],
                    floor=None,
                    facts={},
                    command="",
                )
            )
        )

    assert page(24_000) < 1.2 * page(240)
