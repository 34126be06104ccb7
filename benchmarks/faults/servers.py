"""Servers of a checkpoint of ours that can be killed: ``python -m benchmarks.faults.servers``.

Each is a process of its own with the part of the OpenAI protocol that agents need: plain text
completions, and refusals with ``Retry-After``. The n-gram model behind it draws by the seed of a
request, so that an answer depends on the request alone, whichever server gives it and whenever.
``transformers serve`` (which the tests of served models use) does the same with a transformer, but
takes minutes of computing for what this one answers in seconds.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from mfenv.noise import NoiseKey

__all__ = ["Server", "free_port", "served_words", "served_world"]

_MODEL = "ngram-en"
_STARTS = 600.0  # s that a server may take to start; machines may be busy


def served_words(urls: Sequence[str], *, worlds: int, agents: int) -> tuple[str, ...]:
    """The arguments of ``mfenv simulate`` for worlds on servers."""
    return (
        *("--backbone", f"openai:{_MODEL}@{','.join(urls)}", "--method", "mf-counted"),
        *("--agents", str(agents), "--warmup", "16", "--batch", "8", "--seeds", str(worlds)),
    )


def served_world(cache: Path) -> dict[str, str]:
    """The environment of a run on these servers, with a cache of answers of its own."""
    return {
        "MFENV_OPENAI_PROMPTS": "tagged",
        "MFENV_OPENAI_TIMEOUT": "60",
        "MFENV_CACHE": str(cache.with_suffix(".sqlite")),
        "OPENAI_API_KEY": "",
    }


def free_port() -> int:
    """A port of this machine that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Server:
    """A server's process, which can be killed and started again on the same port."""

    def __init__(self, log: Path, *, pause: float = 0.0, busy: int = 0) -> None:
        """``log`` gets a line for each answer; each takes ``pause`` s; ``busy`` are refused."""
        self.port = free_port()
        self.log = log
        self._words = ["--log", str(log), "--pause", str(pause), "--busy", str(busy)]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Its base URL."""
        return f"http://127.0.0.1:{self.port}/v1"

    def start(self) -> None:
        """Start it, without waiting until it answers."""
        words = [sys.executable, "-m", __name__, "--port", str(self.port), *self._words]
        self._process = subprocess.Popen(words)

    def wait(self) -> None:
        """Wait until it takes connections."""
        until = time.monotonic() + _STARTS
        while time.monotonic() < until:
            assert self._process is not None
            if self._process.poll() is not None:
                raise RuntimeError(f"the server at {self.url} ended at its start")
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                time.sleep(0.05)
        raise RuntimeError(f"the server at {self.url} did not start")

    def kill(self) -> None:
        """End it at once, in the middle of whatever it does."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def __enter__(self) -> Self:
        self.start()
        try:
            self.wait()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()


# -- the process -----------------------------------------------------------------------------


class _Answering:
    """What the threads of a server share."""

    def __init__(self, log: Path, pause: float, busy: int) -> None:
        from mfenv.dynamics.assemble import build_backbone

        self.backbone = build_backbone(_MODEL)
        self.pause, self.busy = pause, busy
        self.one = threading.Lock()
        self.log = log.open("ab", buffering=0)

    def refused(self) -> bool:
        """Whether this request is one of those that are sent away."""
        with self.one:
            self.busy -= 1
            return self.busy >= 0

    def answer(self, asked: dict[str, Any]) -> dict[str, Any]:
        """One completion, drawn by the request's seed."""
        from agents.backbones.sampling_parameters import Sampling

        sampling = Sampling(
            temperature=asked["temperature"],
            top_p=asked["top_p"],
            top_k=max(0, asked["top_k"]),
            repetition_penalty=asked["repetition_penalty"],
            max_new_tokens=asked["max_tokens"],
        )
        with self.one:
            made = self.backbone.generate(
                [asked["prompt"]], [NoiseKey(asked["seed"], 0, 0)], sampling
            )[0]
            text = json.dumps([asked["seed"], asked["prompt"]])
            self.log.write(hashlib.sha256(text.encode()).hexdigest().encode() + b"\n")
        return {
            "choices": [{"index": 0, "finish_reason": "stop", "text": made.text}],
            "usage": {
                "prompt_tokens": made.prompt_tokens,
                "completion_tokens": made.completion_tokens,
            },
        }


def _handler(shared: _Answering) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 120

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if shared.refused():
                # By this server's own clock, which need not be that of the one who asks.
                when = formatdate(time.time() + 1, usegmt=True)
                self._reply(429, {"error": {"message": "busy"}}, {"Retry-After": when})
                return
            time.sleep(shared.pause)
            self._reply(200, shared.answer(json.loads(body)))

        def _reply(
            self, status: int, value: dict[str, Any], headers: dict[str, str] | None = None
        ) -> None:
            data = json.dumps(value).encode()
            self.send_response(status)  # with the date
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            for name, text in (headers or {}).items():
                self.send_header(name, text)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *values: Any) -> None:
            """Nothing is printed."""

    return Handler


class _Threads(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """The other side went away."""


def _main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--pause", type=float, default=0.0)
    parser.add_argument("--busy", type=int, default=0)
    args = parser.parse_args(argv)
    parent = os.getppid()
    shared = _Answering(args.log, args.pause, args.busy)
    server = _Threads(("127.0.0.1", args.port), _handler(shared))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    while os.getppid() == parent:  # nobody is left who could end it
        time.sleep(0.5)


if __name__ == "__main__":
    _main(sys.argv[1:])
