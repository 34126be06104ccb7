"""The throughput benchmark: what it prints, and that the reference does the same work."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from mfenv.events import write_jsonl
from mfenv.events.synthetic.generator import SyntheticSociety
from tests.tiny_models import write_tiny


@pytest.mark.slow
def test_the_reference_writes_the_same_texts(tmp_path):
    model = write_tiny(tmp_path / "tiny")
    run = subprocess.run(
        [
            *(sys.executable, "-m", "mfenv", "bench", "throughput", "--backbone", f"hf:{model}"),
            *("--worlds", "1,2", "--beside", "2", "--steps", "1", "--batch", "4"),
            *("--rounds", "1", "--json", "--out", str(tmp_path / "results")),
        ],
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert run.returncode == 0, run.stderr
    result = json.loads(run.stdout)
    rates = result["decisions_per_second"]
    assert set(rates) == {"reference", "engine_1", "engine_2", "floor"}
    assert all(rate > 0 for rate in rates.values())
    assert result["texts_equal_to_reference"] == 1.0
    assert result["decisions"] == 8
    ratio = result["ratio_engine_2_to_reference"]
    assert ratio == pytest.approx(rates["engine_2"] / rates["reference"])
    (slow, fast), (least, most) = (result["spread"][name] for name in ("engine_2", "floor"))
    assert slow / most <= result["share_of_floor"] <= fast / least
    assert 0 < result["prefix_hit_rate"] < 1
    assert result["scoring_bound"] > 1
    assert result["scoring_speedup"] > 0
    assert 0 <= result["outside_model_share"] < 1
    assert result["peak_memory_mib"] > 50
    (written,) = (tmp_path / "results").glob("*.md")
    assert "class ReferenceBackbone" in written.read_text()


def test_more_worlds_than_events_are_refused(tmp_path):
    events = tmp_path / "events.jsonl"
    write_jsonl([SyntheticSociety(1).event(0, n_posts=20)], events)
    run = subprocess.run(
        [
            *(sys.executable, "-m", "mfenv", "bench", "throughput", "--data", str(events)),
            *("--worlds", "2", "--beside", "2"),
        ],
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert run.returncode == 2
    assert "lower --worlds, --beside or --steps" in run.stderr
