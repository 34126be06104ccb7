"""Models behind OpenAI-compatible servers: against real servers, also through bad weather."""

import asyncio
import json
import logging
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from http_servers import FAULTS, PLACEHOLDER, CompletionsServer, FaultProxy
from tiny_models import write_tiny
from transformers import AutoTokenizer

from agents.backbones.base import Backbone, Generation, JsonBackbone, UnusableAnswersError
from agents.backbones.embedded import WEIGHTS
from agents.backbones.hugging_face import HuggingFaceBackbone
from agents.backbones.json_answers import mismatch, read_object
from agents.backbones.openai_wire import (
    read_chat,
    read_echo,
    redacted,
    rejected_fields,
    retry_after,
)
from agents.backbones.replicas import Replicas
from agents.backbones.response_cache import ResponseCache
from agents.backbones.retries import Breaker, GaveUpError, RetryPolicy, TemporaryError, ask_all
from agents.backbones.sampling import PRESETS, Sampling
from agents.backbones.served import (
    ServedBackbone,
    ServerSettings,
    from_spec,
    split_spec,
    split_urls,
)
from mfenv.cli import main
from mfenv.dynamics.assemble import backbone_identity, build_backbone
from mfenv.dynamics.journal import read_journal
from mfenv.errors import MfenvError, ModelError
from mfenv.noise import NoiseKey

GREEDY = Sampling(top_k=1, max_new_tokens=8)
KEY = "sk-verysecret0123456789"
QUICK = RetryPolicy(first=0.02, longest=0.1)


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch, tmp_path):
    for name in list(os.environ):
        if name.startswith(("MFENV_OPENAI_", "OPENAI_")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("MFENV_CACHE", str(tmp_path / "cache" / "answers.sqlite"))
    build_backbone.cache_clear()  # one was made with the environment of another test


def keys(n: int) -> list[NoiseKey]:
    return [NoiseKey(0, i, 0) for i in range(n)]


# -- retries ---------------------------------------------------------------------------------


def test_waits_double_up_to_a_limit_with_full_jitter() -> None:
    policy = RetryPolicy(first=0.5, longest=10.0)
    most = [policy.wait(attempt, 1.0) for attempt in range(1, 8)]
    assert most == [0.5, 1, 2, 4, 8, 10, 10]
    assert policy.wait(1000, 1.0) == 10
    assert policy.wait(4, 0.0) == 0
    assert policy.wait(4, 0.25) == 1


def test_breaker_opens_after_failures_in_a_row_or_time_without_success() -> None:
    now = [100.0]
    breaker = Breaker(RetryPolicy(failures=3, seconds=60), clock=lambda: now[0])
    for _ in range(5):
        breaker.failure("HTTP 500")
        breaker.failure("HTTP 502")
        assert not breaker.open
        breaker.success()
    now[0] += 59
    assert not breaker.open
    assert breaker.remaining == pytest.approx(1)
    now[0] += 1
    assert breaker.open
    breaker.success()
    assert not breaker.open
    for i in range(3):
        breaker.failure(f"HTTP 50{i}")
    assert breaker.open
    assert breaker.reason == "3 failures in a row, the last: HTTP 502"


def ask_together(asks, policy=QUICK, concurrency=2):
    return asyncio.run(ask_all(asks, policy, concurrency=concurrency, jitter=lambda i, a: 0.5))


def test_asks_are_bounded_and_each_is_answered() -> None:
    running, most, attempts = 0, 0, [0] * 9

    def make(i):
        async def ask(unusable):
            nonlocal running, most
            running += 1
            most = max(most, running)
            attempts[i] += 1
            await asyncio.sleep(0.005)
            running -= 1
            if attempts[i] <= i % 3:
                raise TemporaryError("HTTP 503")
            return i

        return ask

    assert ask_together([make(i) for i in range(9)], concurrency=3) == list(range(9))
    assert attempts == [1, 2, 3] * 3
    assert most == 3


def test_what_hangs_is_cancelled_at_the_time_limit() -> None:
    cancelled = []

    async def hangs(unusable):
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.append(1)
            raise

    start = time.monotonic()
    with pytest.raises(GaveUpError, match=r"no answer for 0\.2 s"):
        ask_together([hangs, hangs, hangs], RetryPolicy(seconds=0.2))
    assert time.monotonic() - start < 5
    assert len(cancelled) == 2


def test_a_wait_that_the_server_asks_for_holds_for_all() -> None:
    times = []

    def make(i):
        async def ask(unusable):
            times.append(time.monotonic())
            if len(times) == 1:
                raise TemporaryError("HTTP 429", retry_after=0.3)
            return i

        return ask

    assert ask_together([make(i) for i in range(4)], concurrency=1) == [0, 1, 2, 3]
    assert times[1] - times[0] >= 0.3

    async def later(unusable):
        raise TemporaryError("HTTP 429", retry_after=3600)

    start = time.monotonic()
    with pytest.raises(GaveUpError, match="left alone for 3600 s"):
        ask_together([later])
    assert time.monotonic() - start < 5


def test_unusable_answers_end_in_an_error_for_their_request_alone() -> None:
    seen = []

    async def bad(unusable):
        seen.append(unusable)
        raise TemporaryError("empty answer", unusable=True)

    async def good(unusable):
        return "fine"

    first, second = ask_together([bad, good], RetryPolicy(first=0.001, unusable=4))
    assert isinstance(first, TemporaryError)
    assert second == "fine"
    assert seen == [0, 1, 2, 3]


# -- several servers of one model ------------------------------------------------------------


def test_requests_go_where_the_fewest_are_in_flight() -> None:
    replicas = Replicas(["a", "b", "c"])
    assert [replicas.choose() for _ in range(2)] == [0, 0]  # choosing counts nothing
    with replicas.using(0), replicas.using(0), replicas.using(1):
        assert replicas.choose() == 2
        assert replicas.choose(tried={2}) == 1
        with replicas.using(2), replicas.using(2):
            assert replicas.choose() == 1
    # None in flight: the one that had the least to do so far.
    assert [r.served for r in replicas.all] == [2, 1, 2]
    assert replicas.choose() == 1


def test_a_server_that_fails_is_out_for_longer_each_time() -> None:
    now = [1000.0]
    replicas = Replicas(["a", "b"], first=1, longest=5, clock=lambda: now[0])
    out = []
    for _ in range(5):
        for _ in range(3):  # requests that fail together are one outage
            replicas.failed(0, "refused")
        assert replicas.choose() == 1
        assert replicas.choose(tried={1}) is None  # nothing is left to try at once
        out.append(replicas.all[0].due - now[0])
        now[0] = replicas.all[0].due
    assert out == [1, 2, 4, 5, 5]
    # Back again: one request tries it, the others wait for how that ends.
    assert replicas.choose(tried={1}) == 0
    with replicas.using(0):
        assert replicas.choose(tried={1}) is None
        replicas.answered(0)
        assert replicas.choose(tried={1}) == 0
    replicas.failed(0, "refused")
    assert replicas.all[0].due - now[0] == 1
    # All are out: the one that is due first is asked, and nothing waits here.
    now[0] += 0.5
    replicas.failed(1, "HTTP 503")
    assert replicas.choose() == 0
    assert replicas.reasons() == "a: refused; b: HTTP 503"
    # A wait that a server asks for.
    assert replicas.rest(0, 30, "HTTP 429") == 1  # until b is due
    now[0] += 1
    assert replicas.choose() == 1


# -- what servers say ------------------------------------------------------------------------


def chat(content, reason="stop", usage=True, **more) -> bytes:
    message = {"role": "assistant", "content": content, **more}
    answer = {"choices": [{"message": message, "finish_reason": reason}]}
    if usage:
        answer["usage"] = {"prompt_tokens": 9, "completion_tokens": 1}
    return json.dumps(answer).encode()


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("Fine.", "Fine."),
        ("<think>a\nb</think>\n\nFine.", "Fine."),
        ("a\nb</think> Fine.", "Fine."),
        ("<thinking>x</thinking>Fine.", "Fine."),
        ("<think></think>", ""),
        ("", ""),
        ("3 < 4 \ufffd", "3 < 4 "),
    ],
)
def test_thinking_is_removed(content: str, text: str) -> None:
    assert read_chat(chat(content, reasoning_content="hm")) == Generation(text, 9, 1)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "empty answer"),
        (b'{"choices": [{"mess', "no whole JSON"),
        (b"<html>Bad gateway</html>", "no whole JSON"),
        (b"[1]", "0 choices"),
        (b'{"choices": []}', "0 choices"),
        (b'{"error": {"message": "overloaded"}}', "overloaded"),
        (b'{"choices": [{}, {}]}', "2 choices"),
        (b'{"choices": [{"message": null}]}', "without a text"),
        (chat(None), "without a text"),
        (chat("I cannot", "content_filter"), "content_filter"),
        (chat("", usage=False), "empty answer"),
        (chat("  \n", "length"), "empty answer"),
        (chat("<think>and then", "length"), "all thinking"),
    ],
)
def test_what_is_no_whole_answer_is_none(body: bytes, reason: str) -> None:
    with pytest.raises(TemporaryError, match=reason) as caught:
        read_chat(body)
    assert caught.value.unusable


def test_rejected_fields_are_found() -> None:
    sent = ["temperature", "top_k", "seed", "min_p"]
    assert rejected_fields({"message": "Unknown parameter", "param": "top_k"}, sent) == {"top_k"}
    assert rejected_fields({"detail": "Unexpected fields: {'top_k', 'min_p'}"}, sent) == {
        "top_k",
        "min_p",
    }
    detail = [{"loc": ["body", "min_p"], "msg": "Extra inputs", "input": "the seed of doubt"}]
    assert rejected_fields({"message": {"detail": detail}}, sent) == {"min_p"}
    assert rejected_fields({"message": "the context is too long"}, sent) == set()
    assert rejected_fields(None, sent) == set()


def test_retry_after_in_seconds_or_as_a_date() -> None:
    assert retry_after({"retry-after": "7"}) == 7
    assert retry_after({"retry-after": "7", "retry-after-ms": "1500"}) == 1.5
    now = datetime(2026, 1, 1, tzinfo=UTC)
    assert retry_after({"retry-after": "Thu, 01 Jan 2026 00:00:30 GMT"}, now) == 30
    assert retry_after({"retry-after": "Wed, 31 Dec 2025 00:00:30 GMT"}, now) == 0
    assert retry_after({"retry-after": "soon"}) is None
    assert retry_after({}) is None


def test_messages_are_redacted() -> None:
    assert redacted(f"bad key {KEY}, Bearer abc.def", KEY) == "bad key [key], [key]"
    assert redacted("Incorrect API key: sk-abcd****wxyz.") == "Incorrect API key: [key]"
    assert redacted("the word risk-averse stays") == "the word risk-averse stays"


def test_echoed_log_probabilities() -> None:
    def body(offsets, values, prompt_tokens=None):
        table = {"token_logprobs": values, "text_offset": offsets}
        usage = {"usage": {"prompt_tokens": prompt_tokens}} if prompt_tokens else {}
        return json.dumps({"choices": [{"text": "", "logprobs": table}], **usage}).encode()

    # "ab" + "cde" as a|b|cd|e and one token that was written.
    assert read_echo(body([0, 1, 2, 4, 5], [None, -1, -2, -4, -8], 4), "ab", "cde") == (
        read_echo(body([0, 1, 2, 4, 5], [None, -1, -2, -4, -8]), "ab", "cde")
    )
    score = read_echo(body([0, 1, 2, 4, 5], [None, -1, -2, -4, -8], 4), "ab", "cde")
    assert (score.log_probability, score.tokens) == (-6, 2)
    # A token for the beginning, counted as three characters that are not in the text.
    shifted = read_echo(body([0, 3, 4, 5, 7, 8], [None, -9, -1, -2, -4, -8], 5), "ab", "cde")
    assert (shifted.log_probability, shifted.tokens) == (-6, 2)
    # A token across the border is the completion's.
    across = read_echo(body([0, 1, 4, 5], [None, -3, -4, -8], 3), "ab", "cde")
    assert (across.log_probability, across.tokens) == (-7, 2)
    assert read_echo(chat("x"), "ab", "cde") is None  # without log-probabilities
    assert read_echo(body([5, 6], [-1, -2]), "some prompt", "cde") is None  # without echo
    with pytest.raises(TemporaryError, match="no number"):
        read_echo(body([0, 1, 2, 4, 5], [None, -1, float("nan"), -4, -8], 4), "ab", "cde")


SCHEMA = {
    "type": "object",
    "properties": {
        "belief": {"enum": ["believe", "doubt"]},
        "stance": {"enum": ["support", "oppose", "neutral"]},
    },
    "required": ["belief", "stance"],
    "additionalProperties": False,
}


def test_json_answers_are_checked() -> None:
    good = {"belief": "doubt", "stance": "oppose"}
    assert read_object(json.dumps(good), SCHEMA) == good
    assert read_object(f"```json\n{json.dumps(good)}\n```", SCHEMA) == good
    for bad, reason in (
        ("I doubt it", "Expecting value"),
        ("[]", "list found"),
        ('{"belief": "doubt"}', "stance missing"),
        ('{"belief": "maybe", "stance": "oppose"}', "'maybe' is none of 'believe', 'doubt'"),
        ('{"belief": "doubt", "stance": "oppose", "x": 1}', "x not expected"),
    ):
        with pytest.raises(ValueError, match=reason):
            read_object(bad, SCHEMA)
    rows = {"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 2}
    assert mismatch([1, 2], rows) is None
    assert mismatch([1], rows) == "answer: 1 items, 2 to 2 expected"
    assert mismatch([1, True], rows) == "answer[1]: bool found, integer expected"


# -- cache -----------------------------------------------------------------------------------

WRITER = """
import sys
from agents.backbones.base import Generation
from agents.backbones.response_cache import ResponseCache
cache = ResponseCache(sys.argv[1])
for i in range(100):
    cache.put(f"{sys.argv[2]}-{i}", Generation(f"text {i}", i, 1))
    cache.put(f"shared-{i}", Generation("shared", i, 1))
"""


def test_cache_takes_several_processes(tmp_path) -> None:
    path = tmp_path / "new" / "answers.sqlite"
    command = [sys.executable, "-c", WRITER, str(path)]
    writers = [subprocess.Popen([*command, str(n)]) for n in range(3)]
    assert [w.wait(timeout=120) for w in writers] == [0, 0, 0]
    cache = ResponseCache(path)
    wanted = [f"{name}-{i}" for name in ("0", "1", "2", "shared") for i in range(100)]
    assert len(cache.get_many(wanted)) == 400
    assert cache.get_many(["1-7", "none"]) == {"1-7": Generation("text 7", 7, 1)}
    cache.put("1-7", Generation("another", 0, 0))
    assert cache.get_many(["1-7"])["1-7"].text == "text 7"
    cache.put("odd", Generation("\ud800 🙂 查", 0, 0))
    cache.close()
    assert cache.get_many(["odd"])["odd"].text == "\ud800 🙂 查"


def test_cache_is_where_the_environment_says(tmp_path) -> None:
    of = ResponseCache.from_environment
    assert of({"MFENV_CACHE": "off"}) is None
    assert of({"MFENV_CACHE": str(tmp_path)}).path == tmp_path / "responses.sqlite"
    assert of({"MFENV_CACHE": str(tmp_path / "a.db")}).path == tmp_path / "a.db"
    assert of({"XDG_CACHE_HOME": "/x"}).path == Path("/x/mfenv/responses.sqlite")
    assert of({}).path == Path.home() / ".cache" / "mfenv" / "responses.sqlite"


def test_a_broken_cache_is_named(tmp_path) -> None:
    (tmp_path / "a.db").write_bytes(b"this is no database, but long enough to be looked at\n" * 9)
    with pytest.raises(MfenvError, match=r"a\.db: .*MFENV_CACHE=off"):
        ResponseCache(tmp_path / "a.db").get_many(["k"])


# -- names and settings ----------------------------------------------------------------------


def test_specifications() -> None:
    assert split_spec("gpt-x") == ("gpt-x", None)
    assert split_spec("a/b:c@1@http://h:1/v1") == ("a/b:c@1", "http://h:1/v1")
    assert split_spec("m@https://h/v1") == ("m", "https://h/v1")
    for spec in ("", "@http://h/v1"):
        with pytest.raises(MfenvError, match="openai:MODEL@BASE_URL"):
            split_spec(spec)
    backbone = from_spec("a/b:c@http://127.0.0.1:9/v1/")
    assert isinstance(backbone, Backbone)
    assert isinstance(backbone, JsonBackbone)
    assert backbone.name == "openai:a/b:c@http://127.0.0.1:9/v1"
    assert backbone.describe()["revision"] == "http://127.0.0.1:9/v1/chat/completions"


def test_specifications_with_several_servers(monkeypatch) -> None:
    two = "a/b:c@http://127.0.0.1:9/v1, http://127.0.0.1:8/v1/"
    backbone = from_spec(two)
    assert backbone.servers == ["http://127.0.0.1:9/v1", "http://127.0.0.1:8/v1"]
    # The first stands for all: names and keys are those of one server.
    one = from_spec("a/b:c@http://127.0.0.1:9/v1")
    assert (backbone.name, backbone.describe()) == (one.name, one.describe())
    names = [f"openai:{two}", "openai:a/b:c@http://127.0.0.1:9/v1", "ngram-en"]
    assert [backbone_identity(name) for name in names] == [names[1], names[1], names[2]]
    for wrong, said in (
        ("http://h/v1,", "is not allowed"),
        ("http://h/v1,,http://i/v1", "is not allowed"),
        ("http://h/v1,http://h/v1/", "http://h/v1 is there twice"),
        ("http://h/v1,http://x:hunter2@i/v1", "must not hold a user name"),
    ):
        with pytest.raises(MfenvError, match=said) as caught:
            split_urls(wrong)
        assert "hunter2" not in str(caught.value)
    with pytest.raises(MfenvError, match="behind one '@'"):
        split_spec("m@http://h/v1,@http://i/v1")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://h/v1,http://i/v1")
    assert from_spec("m").servers == ["http://h/v1", "http://i/v1"]


def test_secrets_in_an_address_are_refused_and_not_repeated(monkeypatch, capsys) -> None:
    for url in (
        "http://user:hunter2@h/v1",
        "http://hunter2@h/v1",
        "https://h/v1?api_key=hunter2",
        "http://h:hunter2/v1",
    ):
        assert main(["simulate", "--backbone", f"openai:m@{url}"]) == 2
        output = "".join(capsys.readouterr())
        assert output.count("\n") == 1
        assert "hunter2" not in output
        monkeypatch.setenv("OPENAI_BASE_URL", url)
        with pytest.raises(MfenvError) as caught:
            from_spec("m")
        assert "hunter2" not in str(caught.value)
        monkeypatch.delenv("OPENAI_BASE_URL")
    with pytest.raises(MfenvError, match="OPENAI_API_KEY"):
        from_spec("m")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    assert from_spec("m").server.startswith("https://")


def test_settings_from_the_environment() -> None:
    of = ServerSettings.from_environment
    assert of({}) == ServerSettings()
    chosen = of({"MFENV_OPENAI_CONCURRENCY": "3", "MFENV_OPENAI_TIMEOUT": "2.5"})
    assert (chosen.concurrency, chosen.timeout) == (3, 2.5)
    for name, value in (
        ("CONCURRENCY", "0"),
        ("CONCURRENCY", "many"),
        ("TIMEOUT", "-1"),
        ("GIVE_UP", "nan"),
        ("PROMPTS", "loud"),
    ):
        with pytest.raises(MfenvError, match=f"MFENV_OPENAI_{name}='{value}' is not allowed"):
            of({f"MFENV_OPENAI_{name}": value})


def test_without_the_client_the_pip_command_is_said(monkeypatch, capsys) -> None:
    monkeypatch.setitem(sys.modules, "openai", None)
    monkeypatch.delitem(sys.modules, "agents.backbones.served")
    assert main(["simulate", "--backbone", "openai:m@http://127.0.0.1:9/v1"]) == 2
    assert "pip install 'mfenv[serving]'" in capsys.readouterr().err


def test_a_server_that_is_not_there(monkeypatch) -> None:
    monkeypatch.setattr("agents.backbones.served._UNREACHABLE", 0.3)
    backbone = ServedBackbone("m", f"http://127.0.0.1:{free_port()}/v1", retries=QUICK)
    with pytest.raises(ModelError, match=r"cannot be reached \(.*is the server running\?"):
        backbone.generate(["Hello"] * 3, keys(3), GREEDY)


def test_several_servers_that_are_not_there_are_all_named(monkeypatch) -> None:
    ports = [free_port(), free_port()]
    urls = ",".join(f"http://127.0.0.1:{port}/v1" for port in ports)
    settings = ServerSettings(give_up=0.6)
    backbone = ServedBackbone("m", urls, retries=QUICK, settings=settings)
    start = time.monotonic()
    with pytest.raises(ModelError, match=r"no answer for 0\.6 s") as caught:
        backbone.generate(["Hello"] * 3, keys(3), GREEDY)
    for port in ports:
        assert f"127.0.0.1:{port}/v1: connection failed (" in str(caught.value)
    assert time.monotonic() - start < 10
    monkeypatch.setattr("agents.backbones.served._UNREACHABLE", 0.2)
    with pytest.raises(ModelError, match="none of 2 servers can be reached") as caught:
        ServedBackbone("m", urls, retries=QUICK).generate(["Hello"], keys(1), GREEDY)
    for port in ports:
        assert str(caught.value).count(f"127.0.0.1:{port}/v1: ") == 1


# -- a real model with log-probabilities and schemas -----------------------------------------


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> HuggingFaceBackbone:
    return HuggingFaceBackbone.load(write_tiny(tmp_path_factory.mktemp("tiny")), device="cpu")


def served(server, prompts="chat", **more) -> ServedBackbone:
    settings = ServerSettings(prompts=prompts, give_up=20, timeout=20, **more)
    return ServedBackbone("m", server.url, settings=settings, retries=QUICK)


def test_scores_are_those_of_the_model(tiny) -> None:
    prompts = [
        "<|topic|>A new tax<|mf|><|state|>a young woman<|act|>",
        "<|topic|>The smart speaker listens to you<|mf|><|state|>male<|act|>",
    ]
    completions = ["I do not buy it.", "Passing it on!"]
    expected = tiny.score(prompts, completions)
    with CompletionsServer(tiny) as server:
        backbone = served(server, "tagged")
        scores = backbone.score(prompts, completions)
        asked = len(server.bodies)
        assert backbone.score(prompts[:1], completions[:1]) == scores[:1]
        assert len(server.bodies) == asked  # the first answers were kept
    assert [s.tokens for s in scores] == [s.tokens for s in expected]
    np.testing.assert_allclose(
        [s.log_probability for s in scores], [s.log_probability for s in expected], atol=1e-4
    )


def test_a_server_that_hangs_is_passed_over(tiny) -> None:
    prompts = ["<|topic|>A new tax<|mf|><|state|>male<|act|>"] * 3
    completions = ["Fine.", "No!", "Why?"]
    settings = ServerSettings(prompts="tagged", timeout=4, give_up=60)
    with socket.socket() as silent, CompletionsServer(tiny) as server:
        silent.bind(("127.0.0.1", 0))
        silent.listen()  # takes connections, and never answers
        urls = f"http://127.0.0.1:{silent.getsockname()[1]}/v1,{server.url}"
        backbone = ServedBackbone("m", urls, settings=settings, retries=QUICK)
        start = time.monotonic()
        scores = backbone.score(prompts, completions)
        assert time.monotonic() - start > 4
        asked = len(server.bodies)
        assert len({body["prompt"] for body in server.bodies}) == 3
    for found, expected in zip(scores, tiny.score(prompts, completions), strict=True):
        assert found.log_probability == pytest.approx(expected.log_probability, abs=1e-4)
    assert asked == 3 + len(set(backbone.describe()["left_out"].split(", ")) - {"nothing"})


@pytest.mark.parametrize("schemas", [True, False])
def test_json_of_a_schema(tiny, schemas: bool) -> None:
    texts = ["I do not buy it.", "Passing it on!", "Who feels the same?"]
    talks = [[{"role": "user", "content": t}] for t in texts]
    with CompletionsServer(tiny, schemas=schemas) as server:
        backbone = served(server)
        answers = backbone.complete_json(talks, SCHEMA, keys(3))
        bodies = server.bodies
    for answer in answers:
        assert mismatch(answer, SCHEMA) is None
    # What the server does not take was found out by the first request alone, once.
    left_out = {"chat_template_kwargs", "generation_config"}
    left_out |= {"min_p", "repetition_penalty", "top_k"}
    left_out |= set() if schemas else {"json_schema"}
    assert set(backbone.describe()["left_out"].split(", ")) == left_out
    assert len(bodies) == 3 + len(left_out) + 1
    kind = "json_schema" if schemas else "json_object"
    assert [b["response_format"]["type"] for b in bodies[-3:]] == [kind] * 3
    assert all("max_completion_tokens" in b and "max_tokens" not in b for b in bodies[-3:])
    assert len({b["seed"] for b in bodies[-3:]}) == 3


def test_answers_that_do_not_match_are_named_and_the_others_kept(tiny) -> None:
    class Stubborn(CompletionsServer):
        def _chosen(self, text, schema):
            reply = super()._chosen(text, schema)
            if "tax" in text:
                reply["choices"][0]["message"]["content"] = '{"belief": "maybe"}'
            return reply

    talks = [[{"role": "user", "content": t}] for t in ("Fine.", "No new tax!", "Why?")]
    with Stubborn(tiny) as server:
        backbone = served(server)
        with pytest.raises(UnusableAnswersError, match=r"1 of 3 .*stance missing") as caught:
            backbone.complete_json(talks, SCHEMA, keys(3))
        assert caught.value.indices == (1,)
        asked = len(server.bodies)
        tried = [b for b in server.bodies if "tax" in b["messages"][-1]["content"]][-6:]
        assert len({b["seed"] for b in tried}) == 6  # not the same question again
        good = [talks[0], talks[2]]
        assert len(backbone.complete_json(good, SCHEMA, [keys(3)[0], keys(3)[2]])) == 2
        assert len(server.bodies) == asked


# -- transformers serve on a shipped checkpoint ----------------------------------------------

TEMPLATE = """{% for m in messages %}{{ m['content'] }}\n{% endfor %}"""


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The weights of embedded-en with a chat template."""
    if not (WEIGHTS / "embedded-en" / "model.safetensors").exists():
        pytest.skip("the weights of embedded-en are not built yet: mfenv train backbone")
    path = tmp_path_factory.mktemp("served") / "embedded-en"
    shutil.copytree(WEIGHTS / "embedded-en", path)
    (path / "chat_template.jinja").write_text(TEMPLATE)
    return path


@pytest.fixture(scope="module")
def server(folder):
    """The port of ``transformers serve``."""
    port = free_port()
    log = folder.parent / "server.log"
    script = Path(sys.executable).with_name("transformers")
    command = [str(script), "serve", "--host", "127.0.0.1", "--port", str(port)]
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "--device", "cpu", "--dtype", "float32", str(folder)],
            stdout=output,
            stderr=output,
            env=env,
        )
    try:
        deadline = time.monotonic() + 600
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        while True:
            assert process.poll() is None, log.read_text()[-2000:]
            assert time.monotonic() < deadline, log.read_text()[-2000:]
            try:
                opener.open(f"http://127.0.0.1:{port}/health", timeout=5).close()
                break
            except OSError:
                time.sleep(0.2)
        yield port
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(timeout=20)


def argv(folder: Path, port: int, out: Path, *more: str) -> list[str]:
    small = ("--agents", "32", "--batch", "4", "--warmup", "16", "--sampling", "greedy")
    spec = f"openai:{folder}@http://127.0.0.1:{port}/v1"
    return ["simulate", "--backbone", spec, *small, "--json", "--out", str(out), *more]


def simulate(monkeypatch, arguments, **env) -> int:
    monkeypatch.setenv("MFENV_OPENAI_PROMPTS", "tagged")
    monkeypatch.setenv("MFENV_OPENAI_CONCURRENCY", "4")
    for name, value in env.items():
        monkeypatch.setenv(name, str(value))
    return main(arguments)


def rows(out: Path) -> list:
    """Everything that was said, by run, step and agent."""
    runs = []
    for path in sorted((out / "journals").glob("mf-?.jsonl")):
        _, records = read_journal(path)
        runs.append(
            [(r.step, r.agents.tolist(), r.texts, r.prompts, r.mean_field) for r in records]
        )
    return runs


@pytest.fixture(scope="module")
def whole(server, folder, tmp_path_factory):
    """An undisturbed run: two seeds of eight steps."""
    out = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MFENV_CACHE", str(out / "answers.sqlite"))
        patch.setenv("OPENAI_API_KEY", KEY)
        patch.setenv("NO_PROXY", "127.0.0.1")
        arguments = argv(folder, server, out / "run", "--seeds", "2")
        assert simulate(patch, arguments) == 0
    return out


@pytest.mark.slow
def test_a_full_run(whole, folder) -> None:
    runs = rows(whole / "run")
    assert [len(run) for run in runs] == [8, 8]
    said = [pair for run in runs for step in run[4:] for pair in zip(step[3], step[2], strict=True)]
    assert len(said) == 32
    # The server reads the tokenizer of a Qwen2 model in a way of its own, as AutoTokenizer does.
    loaded = HuggingFaceBackbone.load(folder)
    local = HuggingFaceBackbone(
        loaded.model, AutoTokenizer.from_pretrained(folder), name="local", prompts=loaded.prompts
    )
    prompts = [prompt for prompt, _ in said]
    written = local.generate(prompts, keys(32), PRESETS["greedy"].policy)
    assert [g.text for g in written] == [text for _, text in said]
    assert len({text for _, text in said}) > 2
    assert all(step[4] for run in runs for step in run)
    header, records = read_journal(whole / "run" / "journals" / "mf-0.jsonl")
    assert header["revision"].endswith("/v1/completions")
    assert all(r.prompt_tokens > 0 and r.completion_tokens > 0 for r in records if not r.warmup)
    result = json.loads((whole / "run" / "result.json").read_text())
    assert result["kl"]["mf"]["mean"] > 0


@pytest.mark.slow
def test_keys_are_nowhere(whole) -> None:
    files = [p for p in whole.rglob("*") if p.is_file()]
    assert {p.name for p in files} >= {"report.html", "result.json", "mf-0.jsonl", "answers.sqlite"}
    for path in files:
        assert KEY.encode() not in path.read_bytes(), path
        assert b"verysecret" not in path.read_bytes(), path


@pytest.mark.slow
def test_bad_weather_changes_no_row(whole, server, folder, tmp_path, monkeypatch, caplog) -> None:
    caplog.set_level(logging.DEBUG)
    with FaultProxy(server, share=0.2, seed=5) as proxy:
        arguments = argv(folder, proxy.port, tmp_path / "run", "--seeds", "2")
        code = simulate(monkeypatch, arguments, MFENV_OPENAI_TIMEOUT=6, OPENAI_API_KEY=KEY)
    assert code == 0
    assert set(proxy.faults) == set(FAULTS)
    assert proxy.faults.total() > 0.1 * proxy.requests
    assert proxy.keys == {f"Bearer {KEY}"}
    assert rows(tmp_path / "run") == rows(whole / "run")
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert PLACEHOLDER.split(",")[0].encode() not in path.read_bytes(), path
            assert KEY.encode() not in path.read_bytes(), path
    assert KEY not in caplog.text
    assert max(proxy.answered.values()) == 1


@pytest.mark.slow
def test_a_server_that_dies_stops_the_run_which_then_goes_on(
    whole, server, folder, tmp_path, monkeypatch
) -> None:
    proxy = FaultProxy(server, dies_after=24).start()
    arguments = argv(folder, proxy.port, tmp_path / "run", "--seeds", "2")
    environment = {
        **os.environ,
        "MFENV_OPENAI_PROMPTS": "tagged",
        "MFENV_OPENAI_GIVE_UP": "4",
        "MFENV_OPENAI_CONCURRENCY": "4",
        "OPENAI_API_KEY": KEY,
    }
    try:
        stopped = subprocess.run(
            [sys.executable, "-m", "mfenv", *arguments],
            env=environment,
            capture_output=True,
            text=True,
            timeout=180,
        )
        died = proxy.answered.copy()
        assert stopped.returncode == 2
        assert stopped.stdout == ""
        assert stopped.stderr.count("\n") == 1, stopped.stderr
        assert f"127.0.0.1:{proxy.port}/v1: no answer for 4 s, the last failure" in stopped.stderr
        assert "run the same command again" in stopped.stderr
        assert KEY not in stopped.stderr
        kept = rows(tmp_path / "run")
        assert 0 < len(kept[0]) < 8
        proxy.dies_after = None
        proxy.start()
        code = simulate(monkeypatch, arguments, OPENAI_API_KEY=KEY)
    finally:
        proxy.stop()
    assert code == 0
    assert rows(tmp_path / "run") == rows(whole / "run")
    assert died.total() == 24
    assert max(proxy.answered.values()) == 1  # nothing was asked twice
    assert proxy.answered.total() == len(proxy.answered)


@pytest.mark.slow
def test_one_of_two_servers_dies_and_comes_back(
    whole, server, folder, tmp_path, monkeypatch
) -> None:
    first = FaultProxy(server, dies_after=9).start()
    with FaultProxy(server) as second:
        spec = f"openai:{folder}@{first.url},{second.url}"
        arguments = argv(folder, first.port, tmp_path / "run", "--seeds", "2")
        several = [spec if a.startswith("openai:") else a for a in arguments]
        try:
            assert simulate(monkeypatch, several) == 0
            died = first.answered.copy()
            assert rows(tmp_path / "run") == rows(whole / "run")
            # Nothing was lost, and nothing was answered twice.
            assert died.total() == 9
            assert second.answered.total() > 9
            assert max((died + second.answered).values()) == 1
            # The same run by the first alone has the same identity: nothing is asked.
            asked = first.requests + second.requests
            result = (tmp_path / "run" / "result.json").read_bytes()
            assert simulate(monkeypatch, arguments) == 0
            assert (tmp_path / "run" / "result.json").read_bytes() == result
            assert first.requests + second.requests == asked
            # A backbone that has lost the first finds it again.
            monkeypatch.setenv("MFENV_CACHE", "off")
            backbone = from_spec(spec.removeprefix("openai:"))
            prompt = "<|topic|>A new tax<|mf|><|state|>male<|act|>"
            texts = {g.text for g in backbone.generate([prompt], keys(1), GREEDY)}
            first.dies_after = None
            first.start()
            asked = first.requests
            deadline = time.monotonic() + 30
            while first.requests == asked and time.monotonic() < deadline:
                texts |= {g.text for g in backbone.generate([prompt], keys(1), GREEDY)}
            assert first.requests > asked
            assert len(texts) == 1
        finally:
            first.stop()


@pytest.mark.slow
def test_the_run_stops_soon_when_the_server_goes_away(server, folder) -> None:
    with FaultProxy(server, share=1.0, seed=1) as proxy:
        backbone = ServedBackbone(
            str(folder), proxy.url, settings=ServerSettings(give_up=1.5, timeout=60)
        )
        start = time.monotonic()
        with pytest.raises(ModelError, match=r"(no answer for 1\.5 s|left alone)"):
            backbone.generate(["Hello"] * 8, keys(8), GREEDY)
        assert time.monotonic() - start < 15


@pytest.mark.slow
def test_advice_from_a_measured_rate(server, folder, capsys) -> None:
    spec = f"openai:{folder}@http://127.0.0.1:{server}/v1"
    arguments = ["serve-advice", "--backbone", spec, "--config", str(folder / "config.json")]
    arguments += ["--measure", "--concurrencies", "1,2", "--events", "1", "--batch", "4", "--json"]
    assert main(arguments) == 0
    advice = json.loads(capsys.readouterr().out)
    assert [p["concurrency"] for p in advice["points"]] == [1, 2]
    assert all(p["rate"] > 0 and p["prompt_tokens"] > 0 for p in advice["points"])
    assert 1 <= advice["concurrency"] <= 4
    assert advice["expected_rate"] > 0


@pytest.mark.slow
def test_chat_also_inside_a_running_loop(server, folder, caplog) -> None:
    backbone = ServedBackbone(str(folder), f"http://127.0.0.1:{server}/v1")

    async def notebook():
        return backbone.generate(["Hello there", "A new tax", "Hello there"], keys(3), GREEDY)

    texts = asyncio.run(notebook())
    assert all(isinstance(g.text, str) and 0 < g.completion_tokens <= 8 for g in texts)
    assert texts[0] == texts[2]
    assert texts[0].prompt_tokens > 0
    assert backbone.generate(["Hello there"], keys(1), GREEDY) == texts[:1]
    described = backbone.describe()
    assert described["left_out"] == "min_p, repetition_penalty, top_k"
    assert described["revision"] == f"http://127.0.0.1:{server}/v1/chat/completions"
    assert not caplog.records  # what was left out had said nothing
    backbone.generate(["Hello"], keys(1), Sampling(max_new_tokens=4, repetition_penalty=1.3))
    with pytest.raises(MfenvError, match="without log-probabilities of given texts"):
        backbone.score(["Hello "], ["there"])


@pytest.mark.slow
def test_sampling_is_ancestral_where_the_server_can_be_told(server, folder, monkeypatch) -> None:
    # transformers serve samples only if the model's own configuration says so, or we do.
    monkeypatch.setenv("MFENV_CACHE", "off")
    backbone = ServedBackbone(str(folder), f"http://127.0.0.1:{server}/v1")

    def written(seed: int, sampling: Sampling) -> str:
        return backbone.generate(["A new tax"], [NoiseKey(seed, 0, 0)], sampling)[0].text

    free = [written(seed, Sampling(max_new_tokens=24)) for seed in (0, 1, 2, 3, 0, 1)]
    assert len(set(free)) == 4
    assert free[4:] == free[:2]  # the seed is the noise key's
    greedy = Sampling(top_k=1, max_new_tokens=24)
    assert written(0, greedy) == written(1, greedy)


@pytest.mark.slow
def test_a_chat_run(server, folder, tmp_path, monkeypatch) -> None:
    spec = f"openai:{folder}@http://127.0.0.1:{server}/v1"
    arguments = ["simulate", "--backbone", spec, "--method", "mf-counted,state", "--seeds", "1"]
    arguments += ["--agents", "12", "--batch", "4", "--warmup", "8", "--out", str(tmp_path / "run")]
    assert main(arguments) == 0
    header, records = read_journal(tmp_path / "run" / "journals" / "state-0.jsonl")
    assert header["revision"].endswith("/v1/chat/completions")
    assert "You are this person" in records[-1].prompts[0]
    assert records[-1].completion_tokens > 0


@pytest.mark.slow
def test_refusals_are_said_at_once(server, folder) -> None:
    backbone = ServedBackbone("no-such-model", f"http://127.0.0.1:{server}/v1")
    with pytest.raises(ModelError, match=r"refused a request: HTTP 400.*no-such-model"):
        backbone.generate(["Hello"], keys(1), GREEDY)
