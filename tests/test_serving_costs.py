"""What serving takes: prompts counted, memory computed, a machine fitted, advice from a rate."""

from __future__ import annotations

import json

import numpy as np
import pytest

from agents.prompts import ChatPrompts, TaggedPrompts
from benchmarks.throughput.advice import advise, worlds_together
from benchmarks.throughput.cost import Work, fit_machine, work_of
from benchmarks.throughput.load import Curve, Point, fit
from benchmarks.throughput.memory import KNOWN, Memory, ModelShape, read_shape, sequence_tokens
from benchmarks.throughput.workload import (
    Phase,
    Workload,
    by_characters,
    expected_longest,
    playback,
    prefix_hits,
)
from mfenv.cli import main
from mfenv.errors import MfenvError
from mfenv.events.synthetic.generator import SyntheticSociety
from mfenv.noise import generator


def phase(prompt, known, written) -> Phase:
    return Phase(*(np.array(x, dtype=np.int64) for x in (prompt, known, written)))


WORK = Workload(
    phase([100] * 8, [0, 64, 64, 64] * 2, [10, 20, 30, 40] * 2),
    phase([200] * 2, [0, 48], [100, 100]),
    batch=4,
)


def test_beginnings_are_known_in_whole_blocks() -> None:
    a, b = list(range(40)), [*range(20), 99, *range(21, 40)]
    # Again the whole of a: 32 of 40 tokens; b shares 20 with it, which is one block of 16.
    assert prefix_hits([a, a, b, b[:33], a[:32], a[:10]]).tolist() == [0, 32, 16, 32, 16, 0]
    assert prefix_hits([a, a], block=1).tolist() == [0, 39]  # the last one is always read
    text = by_characters(4)("0123456789")
    assert list(text) == ["0123", "4567"]
    assert len(by_characters(1.5)("abcdef")) == 4


def test_the_longest_of_several_answers() -> None:
    lengths = np.array([1, 1, 3, 7])
    assert expected_longest(lengths, 1) == pytest.approx(3)
    # Two draws: both 1 with 1/4, none above 3 with 9/16.
    assert expected_longest(lengths, 2) == pytest.approx(1 / 4 + 3 * 5 / 16 + 7 * 7 / 16)
    assert expected_longest(lengths, 1000) == pytest.approx(7)


@pytest.mark.parametrize("prompts", [ChatPrompts(), TaggedPrompts()])
def test_playback_counts_the_projects_own_prompts(prompts) -> None:
    events = list(SyntheticSociety(9).events(3, n_posts=25))
    found = playback(prompts, list, events, batch=8, steps=2)
    assert len(found.act.prompt) == 3 * 2 * 8
    assert len(found.summary.prompt) == 3 * 2
    # All agents of a step but one find its beginning read, up to a block and what states share.
    act = found.act.prompt.reshape(2, 3, 8), found.act.known.reshape(2, 3, 8)
    assert np.all(act[1][:, :, 1:] >= act[1][:, :, 1:].max(axis=2, keepdims=True) * 0.5)
    assert found.act.hit_rate > 0.4
    assert 0 < found.summaries_share < 1
    assert found.written_tokens < found.prompt_tokens
    more = playback(prompts, list, events, batch=8, steps=2, more=500)
    assert more.act.written.min() >= 500
    with pytest.raises(MfenvError, match="has 24 reactions, 72 are needed"):
        playback(prompts, list, events, batch=24, steps=2)


def test_memory_of_keys_and_values() -> None:
    # 2 · 28 layers · 4 heads · 128 · 2 bytes.
    assert KNOWN["Qwen/Qwen2-7B-Instruct"].token_bytes() == 57_344
    shape = ModelShape(layers=2, kv_heads=1, head_dim=32, parameters=1e9)
    memory = Memory(gpu=10, share=0.5, dtype="float16", kv_dtype="fp8")
    room = (10 * 0.5 - 2) * 2**30 - 2e9
    assert memory.cache_tokens(shape) == int(room // 128)
    with pytest.raises(MfenvError, match=r"weights take 61.1 GiB.*--tensor-parallel"):
        Memory(gpu=40).cache_tokens(KNOWN["deepseek-ai/DeepSeek-R1-Distill-Qwen-32B"])
    # An agent's own 36 tokens and 40 written ones in blocks, and a quarter of the shared 64.
    assert sequence_tokens(WORK) == 80 + 64 / 4


def test_a_shape_is_read_from_a_configuration(tmp_path) -> None:
    path = tmp_path / "config.json"
    config = {
        "hidden_size": 1536,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
        "num_key_value_heads": 2,
        "intermediate_size": 8960,
        "vocab_size": 151936,
        "tie_word_embeddings": True,
    }
    path.write_text(json.dumps(config))
    known, found = KNOWN["Qwen/Qwen2-1.5B-Instruct"], read_shape(path)
    assert (found.layers, found.kv_heads, found.head_dim) == (28, 2, 128)
    assert found.parameters == pytest.approx(known.parameters, rel=0.01)
    for text, said in (("[", "no JSON"), ("[]", "one object"), ("{}", "hidden_size must be")):
        path.write_text(text)
        with pytest.raises(MfenvError, match=said):
            read_shape(path)


def test_a_curve_goes_through_its_points() -> None:
    true = Curve(base=2.0, each=0.1)
    points = [Point(c, 3 * c, 3 * true.time(c), 0, 0) for c in (1, 4, 16, 64)]
    found = fit(points)
    assert (found.base, found.each) == pytest.approx((2.0, 0.1))
    assert found.rate(20) == pytest.approx(20 / 4)
    # Nine tenths of the rate at 1000 (1000 / 102): c / (2 + 0.1 c) = 8.82 at c = 150.
    assert found.enough(0.9, 1000) == 150
    # A server that does one after the other gains nothing.
    serial = fit([Point(c, c, 0.5 * c, 0, 0) for c in (1, 2, 8)])
    assert (serial.base, serial.each) == pytest.approx((0.0, 0.5))
    assert serial.enough(0.9, 64) == 1


def test_worlds_fill_the_gaps_that_summaries_leave() -> None:
    # No cost of company: with concurrency C, a step of W worlds takes W·4 and 4 times W.
    flat = Curve(base=1.0, each=0.0)
    worlds, rate = worlds_together(flat, WORK, concurrency=8)
    # From 8 worlds on everything is full: 4 W / (4 W / 8 + 4 W / 8) = 4 decisions a second.
    assert rate >= 0.9 * 4
    assert worlds == 7
    # A server that does one after the other is full with one world.
    assert worlds_together(Curve(0.0, 1.0), WORK, concurrency=8)[0] == 1


def test_advice_is_bounded_by_memory() -> None:
    roomy = advise(WORK, 1_000_000, 100)
    assert roomy.concurrency == 256
    assert roomy.worlds == 64
    tight = advise(WORK, 1000, 100, replicas=2)
    assert (tight.fits, tight.concurrency, tight.max_num_seqs) == (10, 20, 10)
    assert advise(WORK, 1_000_000, 100, worlds=2).concurrency == 8
    with pytest.raises(MfenvError, match="needs 96 tokens"):
        advise(WORK, 90, 100)


def test_a_machine_is_found_again() -> None:
    random = generator(78, 0)
    true = np.array([0.02, 0.003, 0.0, 1e-5, 2e-4])
    works = [Work(*random.uniform(1, 1000, 5)) for _ in range(12)]
    seconds = [float(true @ w.values()) for w in works]
    found = fit_machine(works, seconds, "seconds")
    assert found.seconds == pytest.approx(true, rel=1e-3, abs=1e-9)
    assert found.predict(works[3]) == pytest.approx(seconds[3])
    # No unit has less than no time, whatever the noise says.
    odd = fit_machine(works[:2], [1.0, 1e-3], "seconds")
    assert min(odd.seconds) >= 0


def test_work_of_a_setting() -> None:
    work = work_of(WORK, worlds=3, steps=5)
    assert work.calls == 10
    assert work.requests == 5 * (12 + 3)
    assert work.written == pytest.approx(5 * (12 * 25 + 3 * 100))
    assert work.read == pytest.approx(5 * (12 * (100 - 48) + 3 * (200 - 24)))
    assert work.passes == pytest.approx(5 * (expected_longest(WORK.act.written, 12) + 100))
    served = work_of(WORK, worlds=3, steps=5, served=True)
    assert (served.calls, served.passes, served.read) == (0, 0, work.read)


def test_the_command(capsys) -> None:
    model = "Qwen/Qwen2-7B-Instruct"
    two = f"openai:{model}@http://a:8000/v1,http://b:8000/v1"
    assert main(["serve-advice", "--backbone", two, "--events", "2", "--json"]) == 0
    advice = json.loads(capsys.readouterr().out)
    assert advice["max_num_seqs"] * 2 >= advice["concurrency"]
    vllm, sglang, ours = advice["commands"]
    assert f"vllm serve {model} --enable-prefix-caching --max-num-seqs" in vllm
    assert "--data-parallel-size" not in vllm  # two servers, not one of two
    assert "--max-running-requests" in sglang
    assert f"--backbone {two}" in ours
    arguments = ["serve-advice", "--backbone", model, "--replicas", "4", "--tensor-parallel", "2"]
    assert main([*arguments, "--events", "2"]) == 0
    text = capsys.readouterr().out
    assert "--data-parallel-size 4" in text
    assert "--tp-size 2 --dp-size 4" in text
    assert main(["serve-advice", "--backbone", "openai:gpt-4o-mini", "--events", "2"]) == 0
    assert "vllm" not in capsys.readouterr().out  # somebody else's server
    for wrong, said in (
        (["--backbone", "nobody/knows"], "give its --config FILE"),
        (["--backbone", model, "--measure"], "--measure needs"),
        (["--backbone", model, "--layers", "3"], "all of --layers"),
        (["--backbone", model, "--gpu-share", "2"], r"share in (0, 1]"),
    ):
        assert main(["serve-advice", *wrong]) == 2
        assert said in capsys.readouterr().err
