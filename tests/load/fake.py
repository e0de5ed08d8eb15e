"""A minimal OpenAI server in a thread. Tests choose what it does wrong."""

from __future__ import annotations

import json
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from types import TracebackType
from typing import Any

from tests.support.http_server import answering


@dataclass
class Manner:
    """How the server behaves.

    Attributes:
        key: API key that it requires; empty requires none.
        strict: whether it refuses fields that OpenAI's API does not have.
        usage: whether it reports token counts.
        fail: error status of every stream; 0 means that none fails.
        fail_each: of so many streams one fails with status 500; 0 means that none does.
        break_off: whether streams end in the middle.
        last: the last event of a stream.
        token_s: delay before each token, seconds.
    """

    key: str = ""
    strict: bool = False
    usage: bool = True
    fail: int = 0
    fail_each: int = 0
    break_off: bool = False
    last: bytes = b"data: [DONE]\n\n"
    token_s: float = 0.001


@dataclass
class FakeServer:
    """Use as ``with FakeServer(Manner(...)) as server``.

    Attributes:
        bodies: bodies of all requests for streams, in order.
        connections: number of connections that were opened.
        most_at_once: largest number of streams at the same time.
    """

    manner: Manner = field(default_factory=Manner)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    connections: int = 0
    at_once: int = 0
    most_at_once: int = 0

    def __enter__(self) -> FakeServer:
        handler = type("Handler", (_Handler,), {"fake": self})
        self._lock = threading.Lock()
        self._stack = ExitStack()
        self.url = self._stack.enter_context(answering(handler))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self._stack.close()

    def count(self, by: int) -> None:
        with self._lock:
            self.at_once += by
            self.most_at_once = max(self.most_at_once, self.at_once)


def words_of(body: dict[str, Any]) -> int:
    """Count the tokens of a text: one per word, and two for the template."""
    texts = [message["content"] for message in body.get("messages", ())]
    return len(" ".join(texts or [body.get("prompt", "")]).split()) + 2


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    fake: FakeServer

    def setup(self) -> None:
        super().setup()
        self.fake.connections += 1

    def do_GET(self) -> None:
        if self._has_key():
            self._reply(200, {"data": [{"id": "first"}, {"id": "second"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        manner = self.fake.manner
        if not self._has_key():
            return
        if manner.strict and "ignore_eos" in body:
            self._reply(400, {"error": {"message": "ignore_eos is unknown"}})
        elif not body["stream"]:
            self._reply(200, {"choices": [], "usage": self._usage(body)})
        elif manner.fail or self._is_to_fail():
            self.fake.bodies.append(body)
            self._reply(manner.fail or 500, {"error": {"message": "too much"}})
        else:
            self.fake.bodies.append(body)
            self.fake.count(+1)
            try:
                self._stream(body)
            finally:
                self.fake.count(-1)

    def _has_key(self) -> bool:
        """Whether the request may be answered; if not, it is refused here."""
        key = self.fake.manner.key
        if not key or self.headers["Authorization"] == f"Bearer {key}":
            return True
        self._reply(401, {"error": {"message": "no key"}})
        return False

    def _is_to_fail(self) -> bool:
        each = self.fake.manner.fail_each
        return bool(each) and (len(self.fake.bodies) + 1) % each == 0

    def _usage(self, body: dict[str, Any]) -> dict[str, Any] | None:
        if not self.fake.manner.usage:
            return None
        tokens = words_of(body)
        details = {"cached_tokens": tokens // 2}
        return {
            "prompt_tokens": tokens,
            "completion_tokens": body["max_tokens"],
            "prompt_tokens_details": details,
        }

    def _stream(self, body: dict[str, Any]) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        manner = self.fake.manner
        for number in range(body["max_tokens"]):
            time.sleep(manner.token_s)
            if manner.break_off and number:
                self.close_connection = True
                return
            said = {"content": f"w{number} "} if "messages" in body else None
            choice = {"delta": said} if said else {"text": f"w{number} "}
            self._event({"choices": [choice]})
        self._event({"choices": [{"delta": {}, "finish_reason": "length"}]})
        if manner.usage:
            self._event({"choices": [], "usage": self._usage(body)})
        if manner.last:
            self._chunk(manner.last)
        self._chunk(b"")

    def _event(self, event: dict[str, Any]) -> None:
        self._chunk(f"data: {json.dumps(event)}\n\n".encode())

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")

    def _reply(self, status: int, body: dict[str, Any]) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Log nothing."""
