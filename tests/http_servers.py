"""Small HTTP servers that tests run beside themselves: a proxy with faults, and a real model.

Nothing is faked: the proxy passes requests on to a real server, except those that it spoils, and
:class:`CompletionsServer` computes with the model it is given.
"""

from __future__ import annotations

import http.client
import json
import random
import socket
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import torch

from agents.prompts import SPECIAL_TOKENS

PLACEHOLDER = "PLACEHOLDER, not an answer"
FAULTS = (
    "429",
    "500",
    "hang",
    "truncated",
    "empty",
    "no choices",
    "two choices",
    "null text",
    "blank text",
    "cut",
    "dropped",
)


class _Server:
    """Threads that answer POST requests on a port of 127.0.0.1; can be stopped and started."""

    def __init__(self) -> None:
        self.port = 0
        self.stopping = threading.Event()

    def start(self):
        outer = self
        self.stopping.clear()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 60

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if outer.stopping.is_set():
                    self.close_connection = True
                    return
                outer.answer(self, body)

            def reply(self, status, data, headers=(), length=None):
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data) if length is None else length))
                for name, value in headers:
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args):
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            allow_reuse_address = True

            def handle_error(self, request, client_address):
                pass  # the other side went away

        self._http = Server(("127.0.0.1", self.port), Handler)
        self.port = self._http.server_port
        threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def stop(self) -> None:
        """From now on connections are refused, and those that stand are closed."""
        if not self.stopping.is_set():
            self.stopping.set()
            self._http.shutdown()
            self._http.server_close()

    def __enter__(self):
        return self.start()

    def __exit__(self, *error):
        self.stop()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def answer(self, handler, body: bytes) -> None:
        raise NotImplementedError


class FaultProxy(_Server):
    """Passes requests on, but spoils ``share`` of them; goes away after ``dies_after`` answers."""

    def __init__(
        self,
        upstream: int,
        *,
        share: float = 0.0,
        seed: int = 0,
        dies_after: int | None = None,
        hang: float = 30.0,
    ) -> None:
        super().__init__()
        self.upstream, self.share, self.dies_after, self.hang = upstream, share, dies_after, hang
        self._random = random.Random(seed)
        self._bag: list[str] = []
        self._lock = threading.Lock()
        self.requests = 0
        self.faults: Counter[str] = Counter()
        self.answered: Counter[bytes] = Counter()
        self.keys: set[str] = set()

    def _fault(self) -> str | None:
        with self._lock:
            self.requests += 1
            if self._random.random() >= self.share:
                return None
            if not self._bag:
                self._bag = list(FAULTS)
                self._random.shuffle(self._bag)
            fault = self._bag.pop()
            self.faults[fault] += 1
            return fault

    def answer(self, handler, body: bytes) -> None:
        self.keys.add(handler.headers.get("Authorization", ""))
        fault = self._fault()
        if fault is not None:
            self._spoil(handler, fault, chat=handler.path.endswith("chat/completions"))
            return
        upstream = http.client.HTTPConnection("127.0.0.1", self.upstream, timeout=60)
        upstream.request("POST", handler.path, body, {"Content-Type": "application/json"})
        response = upstream.getresponse()
        data = response.read()
        upstream.close()
        with self._lock:
            if self.stopping.is_set():
                handler.close_connection = True
                return
            if response.status == 200:
                self.answered[body] += 1
            last = self.dies_after is not None and self.answered.total() >= self.dies_after
        handler.reply(response.status, data)
        if last:
            handler.close_connection = True
            self.stop()

    def _spoil(self, handler, fault: str, chat: bool) -> None:
        def choices(text, n=1):
            said = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
            return {"choices": [{"index": i, "finish_reason": "stop", **said} for i in range(n)]}

        whole = json.dumps(choices(PLACEHOLDER)).encode()
        error = json.dumps({"error": {"message": PLACEHOLDER}}).encode()
        if fault == "429":
            handler.reply(429, error, [("Retry-After", "1")])
        elif fault == "500":
            handler.reply(500, error)
        elif fault == "hang":
            self.stopping.wait(self.hang)
            handler.close_connection = True
        elif fault == "truncated":
            handler.reply(200, whole[: len(whole) // 2])
        elif fault == "empty":
            handler.reply(200, b"")
        elif fault == "cut":
            handler.reply(200, whole[: len(whole) // 2], length=len(whole))
            handler.close_connection = True
        elif fault == "dropped":
            handler.connection.shutdown(socket.SHUT_RDWR)
            handler.close_connection = True
        else:
            spoiled = {
                "no choices": {"choices": []},
                "two choices": choices(PLACEHOLDER, 2),
                "null text": choices(None),
                "blank text": choices(" \n"),
            }
            handler.reply(200, json.dumps(spoiled[fault]).encode())


class CompletionsServer(_Server):
    """A local model with what ``transformers serve`` lacks: echo with log-probabilities, schemas.

    Like OpenAI it refuses a field that it does not know, and names one at a time. An answer of a
    schema is the likeliest value of each property's enum, under the model.
    """

    fields = frozenset(
        {"model", "messages", "prompt", "max_completion_tokens", "seed", "temperature", "top_p"}
        | {"echo", "logprobs", "response_format"}
    )

    def __init__(self, backbone, *, schemas: bool = True) -> None:
        super().__init__()
        self.backbone, self.schemas = backbone, schemas
        self.bodies: list[dict] = []
        self._one = threading.Lock()

    def answer(self, handler, body: bytes) -> None:
        asked = json.loads(body)
        self.bodies.append(asked)
        known = self.fields | ({"max_tokens"} if handler.path == "/v1/completions" else set())
        for name in asked:
            if name not in known:
                use = "; use 'max_completion_tokens'" if name == "max_tokens" else ""
                said = f"Unsupported parameter: {name!r}{use}"
                self._refuse(handler, said, name)
                return
        kind = asked.get("response_format", {}).get("type", "text")
        if kind == "json_schema" and not self.schemas:
            self._refuse(handler, "json_schema is not supported", "response_format")
            return
        with self._one, torch.inference_mode():
            if handler.path == "/v1/completions":
                reply = self._echo(asked["prompt"])
            else:
                _, schema, _, text = asked["messages"][0]["content"].split("\n", 3)
                reply = self._chosen(text, json.loads(schema))
        handler.reply(200, json.dumps(reply).encode())

    def _refuse(self, handler, said: str, name: str) -> None:
        error = {"message": said, "type": "invalid_request_error", "param": name}
        handler.reply(400, json.dumps({"error": error}).encode())

    def _echo(self, text: str) -> dict:
        encoded = self.backbone.tokenizer(
            text, add_special_tokens=False, return_offsets_mapping=True, return_tensors="pt"
        )
        ids = encoded.input_ids
        logits = self.backbone.model(ids).logits.float().log_softmax(-1)[0]
        values = logits[:-1].gather(1, ids[0, 1:, None])[:, 0].tolist()
        best = int(logits[-1].argmax())
        offsets = [int(a) for a, _ in encoded.offset_mapping[0]]
        written = self.backbone.tokenizer.decode([best])
        choice = {
            "text": text + written,
            "finish_reason": "length",
            "logprobs": {
                "tokens": [*self.backbone.tokenizer.convert_ids_to_tokens(ids[0]), written],
                "token_logprobs": [None, *values, float(logits[-1, best])],
                "text_offset": [*offsets, len(text)],
            },
        }
        return {"choices": [choice], "usage": {"prompt_tokens": len(ids[0])}}

    def _chosen(self, text: str, schema: dict) -> dict:
        answer = {}
        for name, part in schema["properties"].items():
            values = part["enum"]
            scores = self.backbone.score([f"{text}\n{name}: "] * len(values), values)
            likelihood = [s.log_probability / s.tokens for s in scores]
            answer[name] = values[likelihood.index(max(likelihood))]
        said = f"<think>{SPECIAL_TOKENS[0]} hm</think>\n```json\n{json.dumps(answer)}\n```"
        message = {"role": "assistant", "content": said, "reasoning_content": "hm"}
        usage = {"prompt_tokens": 7, "completion_tokens": 5}
        return {"choices": [{"message": message, "finish_reason": "stop"}], "usage": usage}
