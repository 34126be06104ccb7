"""Models behind an OpenAI-compatible server (vLLM, SGLang, llama.cpp, OpenAI, DeepSeek, …).

Written ``openai:MODEL@BASE_URL``, or ``openai:MODEL`` for the client's own default. Several servers
of one model are ``openai:MODEL@BASE_URL,BASE_URL,…``: each request goes to the one with the fewest
in flight, and one that fails is left out for a while (:mod:`agents.backbones.replicas`). The first
URL stands for all of them in names, journals and the cache, so that replicas can come and go behind
it and no answer depends on which of them gave it.

The key comes from ``OPENAI_API_KEY`` and goes nowhere but to the servers. One policy decides about
retries (:mod:`agents.backbones.retries`), answers are kept on disk
(:mod:`agents.backbones.response_cache`), and an answer that cannot be used is asked for again,
never used.

A seed is passed with every request, made from the noise key. Whether equal seeds give equal texts
is up to the server; the cache sees to it that a repeated run gets the texts of the first.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar
from urllib.parse import urlsplit

import openai

from agents.backbones.base import Generation, Message, Score, UnusableAnswersError
from agents.backbones.json_answers import instruction, read_object
from agents.backbones.openai_wire import (
    read_chat,
    read_completion,
    read_echo,
    redacted,
    rejected_fields,
    retry_after,
    words,
)
from agents.backbones.replicas import Replicas
from agents.backbones.response_cache import ResponseCache
from agents.backbones.retries import Ask, GaveUpError, RetryPolicy, TemporaryError, ask_all
from agents.backbones.sampling_parameters import Sampling
from agents.prompts import END, ChatPrompts, PromptFormat, TaggedPrompts
from mfenv.dynamics.mean_field_text import Grammar
from mfenv.errors import MfenvError, ModelError
from mfenv.noise import NoiseKey, uniform

__all__ = ["ServedBackbone", "ServerSettings", "from_spec", "split_spec", "split_urls"]

T = TypeVar("T")
_Key = tuple[int, int, int]

_log = logging.getLogger(__name__)
_CHAT, _TEXT = "chat/completions", "completions"
_CONNECT = 15.0  # s for a connection to stand
_UNREACHABLE = 30.0  # s until a server that was never reached counts as not running
_NO_KEY = "none"  # what is sent where no key is set: a local server needs none
_JSON = Sampling(temperature=0.1, max_new_tokens=2048)
# What a field says when it says nothing. Sent all the same: many servers cut distributions off
# by default, and truncation is ruinous for a population.
_NEUTRAL: dict[str, Any] = {"top_p": 1.0, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}
_OPTIONAL = frozenset(
    {*_NEUTRAL, "temperature", "seed", "bad_words", "chat_template_kwargs", "response_format"}
    | {"generation_config"}
)
_PROMPTS: dict[str, tuple[type[ChatPrompts] | type[TaggedPrompts], str]] = {
    "chat": (ChatPrompts, _CHAT),
    "text": (ChatPrompts, _TEXT),
    "tagged": (TaggedPrompts, _TEXT),
}


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """How a server is used. Each field can be set by ``MFENV_OPENAI_<FIELD>``."""

    prompts: str = "chat"
    """``chat`` messages; plain ``text`` for a base model; ``tagged`` for models of this project."""
    concurrency: int = 16
    """Requests in flight, at all servers together."""
    timeout: float = 120.0
    """Seconds for one request."""
    give_up: float = 300.0
    """Seconds without any answer after which the run stops."""
    thinking_tokens: int = 0
    """Tokens beside those of the answer, for models whose thinking cannot be switched off."""

    def __post_init__(self) -> None:
        if self.prompts not in _PROMPTS:
            raise MfenvError(
                f"prompts {self.prompts!r} are not allowed; allowed: {', '.join(_PROMPTS)}"
            )
        for name, least in (("concurrency", 1), ("thinking_tokens", 0)):
            if getattr(self, name) < least:
                raise MfenvError(f"{name} must be at least {least}, not {getattr(self, name)}")
        for name in ("timeout", "give_up"):
            if not 0 < getattr(self, name) < float("inf"):
                raise MfenvError(f"{name} must be a positive number, not {getattr(self, name)}")

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> ServerSettings:
        """Settings with what the environment says; ``MfenvError`` names a wrong variable."""
        chosen: dict[str, Any] = {}
        default = cls()
        for field in fields(cls):
            variable = f"MFENV_OPENAI_{field.name.upper()}"
            text = environ.get(variable, "")
            if not text:
                continue
            try:
                chosen[field.name] = type(getattr(default, field.name))(text)
                cls(**{field.name: chosen[field.name]})
            except (ValueError, MfenvError) as error:
                raise MfenvError(f"{variable}={text!r} is not allowed: {error}") from None
        return cls(**chosen)


def split_spec(spec: str) -> tuple[str, str | None]:
    """``MODEL[@BASE_URL[,BASE_URL…]]`` → model and URLs, these as they are written.

    A model's name may hold ``:``, ``/`` and ``@``.
    """
    at = spec.rfind("@http")
    model, urls = (spec, None) if at < 0 else (spec[:at], spec[at + 1 :])
    if not model:
        raise MfenvError(
            "the backbone 'openai' needs a model: openai:MODEL@BASE_URL, for example "
            "openai:Qwen/Qwen2.5-7B-Instruct@http://127.0.0.1:8000/v1"
        )
    if urls is not None and re.search(r",\s*$", model):
        raise MfenvError(
            "several base URLs stand behind one '@': openai:MODEL@BASE_URL,BASE_URL, for example "
            "openai:Qwen/Qwen2.5-7B-Instruct@http://127.0.0.1:8000/v1,http://127.0.0.1:8001/v1"
        )
    return model, urls


def split_urls(urls: str) -> list[str]:
    """Base URLs with commas between them, each allowed and without its last ``/``.

    Raises ``MfenvError`` for an empty one, one that is there twice, and one with a secret in it.
    """
    found = [_checked(url.strip()).rstrip("/") for url in urls.split(",")]
    twice = next((url for url in found if found.count(url) > 1), None)
    if twice is not None:
        raise MfenvError(f"the base URL {twice} is there twice; allowed: each server once")
    return found


def from_spec(spec: str = "") -> ServedBackbone:
    """``MODEL[@BASE_URL[,BASE_URL…]]`` → a backbone (written ``openai:…`` in the CLI)."""
    model, urls = split_spec(spec)
    return ServedBackbone(model, urls)


class ServedBackbone:
    """A model behind an OpenAI-compatible server, as a ``Backbone`` and a ``JsonBackbone``."""

    def __init__(
        self,
        model: str,
        base_url: str | None = None,
        *,
        settings: ServerSettings | None = None,
        retries: RetryPolicy | None = None,
        cache: ResponseCache | None = None,
        use_cache: bool = True,
    ) -> None:
        """Without arguments beside the model, all is as the environment says.

        ``base_url`` may hold several with commas between them. Without ``use_cache`` everything is
        asked for, as measurements need it. Nothing is sent yet. Raises
        ``MfenvError`` for a base URL with a secret in it (user name, password, query):
        specifications are written to journals and reports.
        """
        self.settings = settings or ServerSettings.from_environment()
        self._cache = (cache or ResponseCache.from_environment()) if use_cache else None
        self._retries = replace(retries or RetryPolicy(), seconds=self.settings.give_up)
        urls = base_url or os.environ.get("OPENAI_BASE_URL") or None
        key = os.environ.get("OPENAI_API_KEY", "")
        if urls is None and not key:
            raise MfenvError(
                "the environment has no OPENAI_API_KEY; set it, or name a server: "
                "openai:MODEL@BASE_URL"
            )
        self._secret = key
        self._wire = _Wire([None] if urls is None else split_urls(urls), key or _NO_KEY)
        self.model = model
        self.servers = self._wire.servers
        self.server = self.servers[0]  # stands for all
        self._where = ", ".join(self.servers)
        # One server is written as ever; of several, the others make no difference to an answer.
        one = base_url if len(self.servers) == 1 else self.server
        self.specification = f"openai:{model}" + (f"@{one}" if base_url else "")
        self.name = f"openai:{model}@{self.server}"
        format_, self.endpoint = _PROMPTS[self.settings.prompts]
        self.prompts: PromptFormat = format_()
        # What is learned of the server, once.
        self._left_out: set[str] = set()
        self._known: set[str] = set()  # kinds of requests that were answered
        self._limit = "max_tokens"
        self._heard = False
        self._unreached: dict[int, str] = {}  # index of a server → why there was no connection

    def describe(self) -> dict[str, str]:
        """Model, (first) server and endpoint; also the fields that it was found not to take.

        Asks nothing: a finished run is read without its server.
        """
        described = {
            "name": self.name,
            "revision": f"{self.server}/{self.endpoint}",
            "prompts": self.settings.prompts,
        }
        if self._known:
            described["left_out"] = ", ".join(sorted(self._left_out)) or "nothing"
        return described

    def generate(
        self,
        prompts: Sequence[str],
        keys: Sequence[NoiseKey],
        sampling: Sampling,
        never: Sequence[str] = (),
        grammar: Grammar | None = None,
    ) -> list[Generation]:
        """Write one text for each prompt; 0 tokens where the server does not count them.

        ``never`` is passed on (``bad_words``) to servers that can leave words out; a ``grammar``
        is not. Raises
        ``ModelError`` if one of them cannot be had; the others are then in the cache.
        """
        if len(prompts) != len(keys):
            raise ValueError(f"{len(prompts)} prompts but {len(keys)} noise keys")
        chat = self.endpoint == _CHAT
        requests = []
        for prompt, key in zip(prompts, keys, strict=True):
            body = self._sampled(sampling, key)
            if chat:
                body["messages"] = [{"role": "user", "content": _sendable(prompt)}]
            else:
                body["prompt"] = _sendable(self._plain(prompt))
                if never:
                    body["bad_words"] = list(never)
            requests.append(_Request(self.endpoint, body, key))
        read = read_chat if chat else read_completion
        answers = self._answers(requests, lambda _, body: read(body))
        _raise_first(answers, self._where)
        return [a for a in answers if isinstance(a, Generation)]

    def score(self, prompts: Sequence[str], completions: Sequence[str]) -> list[Score]:
        """Log-probability of each completion behind its prompt, both read as plain text.

        With tagged prompts the end of the text is scored too. Needs a server whose completions
        endpoint echoes what it is given with log-probabilities (vLLM, SGLang, llama-cpp-python);
        ``MfenvError`` otherwise.
        """
        end = END if self.settings.prompts == "tagged" else ""
        pairs = [
            (_sendable(self._plain(p)), _sendable(c) + end)
            for p, c in zip(prompts, completions, strict=True)
        ]
        requests = [
            _Request(
                _TEXT,
                # No server refuses to write one token; some read 0 as "no limit".
                {"prompt": p + c, "max_tokens": 1, "echo": True, "logprobs": 1, "temperature": 0.0},
                NoiseKey(0, i, 0),
                kind="echo",
                parts=(p, c),
            )
            for i, (p, c) in enumerate(pairs)
        ]

        def read(request: _Request, body: bytes) -> Generation:
            score = read_echo(body, *request.parts)
            if score is None:
                raise MfenvError(
                    f"{self._where}: the model {self.model!r} is served without log-probabilities "
                    f"of given texts ('echo' with 'logprobs' at /completions), so nothing can be "
                    f"scored; vLLM, SGLang and llama-cpp-python have them"
                )
            return Generation(json.dumps([score.log_probability, score.tokens]), 0, 0)

        answers = self._answers(requests, read)
        _raise_first(answers, self._where)
        return [Score(*json.loads(a.text)) for a in answers if isinstance(a, Generation)]

    def complete_json(
        self,
        conversations: Sequence[Sequence[Message]],
        schema: Mapping[str, Any],
        keys: Sequence[NoiseKey],
        sampling: Sampling = _JSON,
    ) -> list[dict[str, Any]]:
        """Answer each conversation with a JSON object of a schema.

        The server is told the schema where it takes one (``response_format``), the model is told
        it in words, and every answer is checked against it. Raises ``UnusableAnswersError`` with
        the indices of conversations whose answers would not match; the others are in the cache,
        so that asking for less asks for nothing twice.
        """
        if len(conversations) != len(keys):
            raise ValueError(f"{len(conversations)} conversations but {len(keys)} noise keys")
        told = instruction(schema)
        form = {
            "type": "json_schema",
            "json_schema": {"name": "answer", "strict": True, "schema": dict(schema)},
        }
        requests = [
            _Request(
                _CHAT,
                {
                    **self._sampled(sampling, key),
                    "messages": _told(told, given),
                    "response_format": form,
                },
                key,
                kind="json",
            )
            for given, key in zip(conversations, keys, strict=True)
        ]

        def read(_: _Request, body: bytes) -> Generation:
            answer = read_chat(body)
            try:
                read_object(answer.text, schema)
            except ValueError as error:
                raise TemporaryError(f"answer that is not as asked: {error}", unusable=True) from (
                    None
                )
            return answer

        answers = self._answers(requests, read)
        bad = [i for i, a in enumerate(answers) if isinstance(a, TemporaryError)]
        if bad:
            raise UnusableAnswersError(
                f"{self._where}: {len(bad)} of {len(answers)} answers could not be used, the "
                f"first: {answers[bad[0]]}",
                bad,
            )
        return [read_object(a.text, schema) for a in answers if isinstance(a, Generation)]

    # -- what is sent --------------------------------------------------------------------------

    def _plain(self, prompt: str) -> str:
        return prompt if self.settings.prompts == "tagged" else prompt + "\n"

    def _sampled(self, sampling: Sampling, key: NoiseKey) -> dict[str, Any]:
        body = {
            **_NEUTRAL,
            "temperature": 0.0 if sampling.greedy else sampling.temperature,
            "max_tokens": sampling.max_new_tokens + self.settings.thinking_tokens,
            "seed": _seed(key),
        }
        if not sampling.greedy:
            body["top_p"] = sampling.top_p
            body["top_k"] = sampling.top_k or _NEUTRAL["top_k"]
        body["repetition_penalty"] = sampling.repetition_penalty
        if self.endpoint == _CHAT and not self.settings.thinking_tokens:
            body["chat_template_kwargs"] = {"enable_thinking": False}
        return body

    # -- asking --------------------------------------------------------------------------------

    def _answers(
        self, requests: Sequence[_Request], read: Callable[[_Request, bytes], Generation]
    ) -> list[Generation | TemporaryError]:
        """One answer for each request: from the cache, or asked for; equal ones once."""
        hashes = [
            ResponseCache.key(
                {"server": self.server, "model": self.model, "endpoint": r.endpoint, **r.body}
            )
            for r in requests
        ]
        known: dict[str, Generation | TemporaryError] = {}
        if self._cache is not None:
            known.update(self._cache.get_many(hashes))
        asked = {h: r for h, r in zip(hashes, requests, strict=True) if h not in known}
        if asked:
            start = time.monotonic()
            asks = [self._ask(h, r, read, start) for h, r in asked.items()]
            spread = [int(h[:8], 16) for h in asked]
            try:
                found = self._wire.run(
                    lambda: ask_all(
                        asks,
                        self._retries,
                        concurrency=self.settings.concurrency,
                        jitter=lambda i, attempt: float(uniform(spread[i], attempt)),
                    )
                )
            except GaveUpError as stop:
                details = f" ({self._wire.replicas.reasons()})" if len(self.servers) > 1 else ""
                raise ModelError(
                    f"{self._where}: {stop}{details}. All that was answered is kept; to go on, "
                    f"run the same command again"
                ) from None
            known.update(zip(asked, found, strict=True))
        return [known[h] for h in hashes]

    def _ask(
        self,
        key: str,
        request: _Request,
        read: Callable[[_Request, bytes], Generation],
        start: float,
    ) -> Ask[Generation]:
        async def ask(unusable: int) -> Generation:
            # The first request of a kind goes alone: it finds out what the server takes.
            if request.kind_of not in self._known:
                async with self._wire.alone:
                    if request.kind_of not in self._known:
                        return await attempt(unusable)
            return await attempt(unusable)

        async def attempt(unusable: int) -> Generation:
            answer = read(request, await self._post(request, unusable, start))
            self._known.add(request.kind_of)
            if self._cache is not None:
                self._cache.put(key, answer)
            return answer

        return ask

    async def _post(self, request: _Request, unusable: int, start: float) -> bytes:
        """Send a request, at once to the next server where one fails; the body of its answer.

        An attempt that failed is over (cancelled, its connection closed) before the next begins, so
        that no request has two answers.
        """
        replicas = self._wire.replicas
        tried: set[int] = set()
        at = replicas.choose()
        while True:
            assert at is not None
            try:
                with replicas.using(at):
                    answer = await self._post_to(at, request, unusable)
                replicas.answered(at)
                return answer
            except TemporaryError:
                tried.add(at)
                following = replicas.choose(tried)
                if following is None:
                    if not self._heard and time.monotonic() - start > _UNREACHABLE:
                        self._check_reachable()
                    raise
                at = following

    def _check_reachable(self) -> None:
        """Raise ``ModelError`` where no connection to any server ever stood."""
        faults = [self._unreached.get(i) for i in range(len(self.servers))]
        if None in faults:
            return
        if len(faults) == 1:
            said = f"{self.server} cannot be reached ({faults[0]}); is the server running? Then"
        else:
            each = "; ".join(f"{u}: {f}" for u, f in zip(self.servers, faults, strict=True))
            said = f"none of {len(faults)} servers can be reached ({each}); are they running? Then"
        raise ModelError(f"{said} run the same command again") from None

    async def _post_to(self, at: int, request: _Request, unusable: int) -> bytes:
        """Send a request to one server, less what is not taken; the body of its answer."""
        replicas = self._wire.replicas
        while True:
            body = self._allowed(request, unusable)
            try:
                async with asyncio.timeout(self.settings.timeout):
                    answer = await self._wire.post(at, request.endpoint, body)
                self._heard = True
                return answer
            except TimeoutError:  # ours; the client's own is about connections
                said = f"no answer to a request within {self.settings.timeout:g} s"
            except openai.APIStatusError as error:
                self._heard = True
                if error.status_code in (400, 422) and self._learn(error.body, body):
                    continue
                refusal = self._refusal(error, self.servers[at])
                if not isinstance(refusal, TemporaryError):
                    replicas.answered(at)
                elif refusal.retry_after is None:
                    replicas.failed(at, refusal.reason)
                else:
                    refusal.retry_after = replicas.rest(at, refusal.retry_after, refusal.reason)
                raise refusal from None
            except openai.APIConnectionError as error:
                cause = error.__cause__ or error
                fault = self._shown(f"{type(cause).__name__}: {words(str(cause))}".rstrip(": "))
                self._unreached[at] = fault
                said = f"connection failed ({fault})"
            except openai.OpenAIError as error:
                said = self._shown(f"{type(error).__name__}: {error}")
            replicas.failed(at, said)
            raise TemporaryError(said)

    def _allowed(self, request: _Request, unusable: int) -> dict[str, Any]:
        body = {"model": self.model, **request.body}
        if "max_tokens" in body and request.endpoint == _CHAT:
            body[self._limit] = body.pop("max_tokens")
        if unusable and "seed" in body:
            body["seed"] = _seed(request.key, unusable)  # else the same answer might come again
        form = body.get("response_format")
        if form is not None and "json_schema" in self._left_out:
            body["response_format"] = {"type": "json_object"}
        if "top_k" in body and "top_k" in self._left_out:
            body["generation_config"] = _generation_config(body)
        for name in self._left_out:
            body.pop(name, None)
        return body

    def _learn(self, error: Any, sent: Mapping[str, Any]) -> bool:
        """Leave out from now on what a refusal names; whether there was such a thing."""
        if "max_tokens" in sent and "max_completion_tokens" in words(error, 2000):
            self._limit = "max_completion_tokens"
            return True
        names = rejected_fields(error, [n for n in sent if n in _OPTIONAL])
        if not names and "response_format" in sent and "json" in words(error, 2000).lower():
            names = {"response_format"}
        if "response_format" in names and sent["response_format"]["type"] == "json_schema":
            names = {*names - {"response_format"}, "json_schema"}
        for name in sorted(names - self._left_out):
            if sent.get(name) != _NEUTRAL.get(name) and name in ("seed", "temperature", *_NEUTRAL):
                _log.warning(
                    "%s does not take %r for model %r: it is left out",
                    self.server,
                    name,
                    self.model,
                )
        self._left_out |= names
        return bool(names)

    def _refusal(self, error: openai.APIStatusError, server: str) -> Exception:
        status, said = error.status_code, words(error.body) or words(error.message)
        said = self._shown(f"HTTP {status}: {said}".rstrip(": "))
        no_money = getattr(error, "code", None) == "insufficient_quota"
        if (status in (408, 409, 429) or status >= 500) and not no_money:
            return TemporaryError(said, retry_after=retry_after(error.response.headers))
        hint = {
            401: "; the key is read from OPENAI_API_KEY",
            403: "; the key is read from OPENAI_API_KEY",
            404: f"; asked for model {self.model!r} at {server}",
        }.get(status, "")
        return ModelError(f"{server} refused a request: {said}{hint}")

    def _shown(self, text: str) -> str:
        return redacted(text, self._secret)


@dataclass(frozen=True, slots=True)
class _Request:
    """One request, with all the fields that are wanted of the server."""

    endpoint: str
    body: dict[str, Any]  # without the model
    key: NoiseKey
    kind: str = ""
    parts: tuple[str, str] = ("", "")

    @property
    def kind_of(self) -> str:
        return f"{self.endpoint} {self.kind}"


class _Wire:
    """The clients, on an event loop of their own thread: a caller may have a loop running."""

    def __init__(self, urls: Sequence[str | None], key: str) -> None:
        self._key = key
        self._lock = threading.Lock()
        self._pid = 0
        made = [self._client(url) for url in urls]  # also checks the URLs
        self.servers = [_checked(str(client.base_url)).rstrip("/") for client in made]
        self.replicas = Replicas(self.servers)

    def run(self, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """The result of a coroutine; it is cancelled if the caller is interrupted."""
        future = asyncio.run_coroutine_threadsafe(make(), self._running())
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    async def post(self, at: int, endpoint: str, body: Mapping[str, Any]) -> bytes:
        """The body of a server's successful answer. Raises the errors of the client."""
        answer: bytes = await self._clients[at].post(f"/{endpoint}", body=body, cast_to=bytes)
        return answer

    def _client(self, url: str | None) -> openai.AsyncOpenAI:
        try:
            # Its own retries are off: one policy rules. Time limits are ours too, all but one.
            return openai.AsyncOpenAI(
                api_key=self._key,
                base_url=url,
                max_retries=0,
                timeout=openai.Timeout(None, connect=_CONNECT),
            )
        except Exception as error:  # whatever its HTTP library makes of the URL
            said = f"{type(error).__name__}: {error}" if url is None else type(error).__name__
            raise MfenvError(f"the base URL of the server cannot be used ({said})") from None

    def _running(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._pid != os.getpid():  # the first use, or in a fork, which has no threads
                self._clients = [self._client(server) for server in self.servers]
                self.replicas = Replicas(self.servers)
                self.alone = asyncio.Lock()
                self._loop = asyncio.new_event_loop()
                name = "mfenv-openai"
                threading.Thread(target=self._loop.run_forever, name=name, daemon=True).start()
                self._pid = os.getpid()
            return self._loop


def _checked(url: str) -> str:
    """A base URL without secrets. The message does not repeat it."""
    try:
        parts = urlsplit(url)
        fine = bool(parts.hostname) and parts.scheme in ("http", "https") and parts.port != 0
        secret = parts.username or parts.password or parts.query or parts.fragment
    except ValueError:
        fine, secret = False, None
    if not fine:
        raise MfenvError(
            "the base URL of the server is not allowed; allowed: http(s)://HOST[:PORT]/PATH, for "
            "example http://127.0.0.1:8000/v1"
        )
    if secret:
        raise MfenvError(
            "the base URL of the server must not hold a user name, a password or a query: it is "
            "written to journals and reports. Keys go into OPENAI_API_KEY"
        )
    return url


def _seed(key: Sequence[int], again: int = 0) -> int:
    """31 bits for a noise key, the same on every machine."""
    text = "/".join(str(int(k)) for k in (*key, again))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") & 0x7FFFFFFF


def _told(instruction: str, conversation: Sequence[Message]) -> list[dict[str, str]]:
    """A conversation that begins with an instruction.

    It stands in the first message, whoever's that is: some models know no system messages.
    """
    messages = [{name: _sendable(text) for name, text in m.items()} for m in conversation]
    messages[0]["content"] = f"{instruction}\n\n{messages[0]['content']}"
    return messages


def _generation_config(body: Mapping[str, Any]) -> str:
    """How ``transformers serve`` is told what it has no fields for, sampling itself included."""
    return json.dumps(
        {
            "do_sample": body["temperature"] > 0,
            "top_k": max(0, body["top_k"]),
            "repetition_penalty": body["repetition_penalty"],
        }
    )


def _sendable(text: str) -> str:
    """Text as UTF-8 can say it: half a surrogate pair becomes a question mark."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _raise_first(answers: Sequence[Generation | TemporaryError], server: str) -> None:
    bad = [(i, a) for i, a in enumerate(answers) if isinstance(a, TemporaryError)]
    if bad:
        raise UnusableAnswersError(
            f"{server}: {len(bad)} of {len(answers)} answers could not be used after several "
            f"attempts, the first: {bad[0][1]}. All others are kept; to go on, run the same "
            f"command again",
            [i for i, _ in bad],
        )
