"""One request as raw bytes, and the judgement of its answer."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import time
from enum import StrEnum
from typing import Any, NamedTuple

MESSAGES = "/v1/messages"
NOT_HTTP = "not valid HTTP"
HEAD_TOO_LARGE = "head_too_large"
PIECES = 1 << 16
TOLD_BYTES = 600
PATIENT_BYTES = 1 << 18


class Shot(NamedTuple):
    """A request.

    Attributes:
        kind: name of the mutation, for the counters.
        raw: head and body as sent.
        leave: whether the client leaves as soon as it has sent the request.
    """

    kind: str
    raw: bytes
    leave: bool = False

    @property
    def path(self) -> str:
        return self.raw.split(b" ", 2)[1].partition(b"?")[0].decode("latin-1")

    def __str__(self) -> str:
        size = f" ... ({len(self.raw)} bytes)" if len(self.raw) > TOLD_BYTES else ""
        return f"{self.kind}: {self.raw[:TOLD_BYTES]!r}{size}"


class Fault(StrEnum):
    """What must never happen, whatever was sent."""

    SERVER_ERROR = "5xx"
    ERROR_EVENT = "5xx in a stream"
    HANG = "hang"
    NO_ANSWER = "no answer"
    BROKEN_STREAM = "stream without end"
    SHAPE = "error of another shape"
    TRACEBACK = "traceback in the answer"


class Heard(NamedTuple):
    """An answer.

    Attributes:
        status: HTTP status; 0 if the answer was not HTTP.
        fault: what is wrong with the answer; None if nothing is.
        said: the body, or what else came back.
        took_s: time until the end of the answer, seconds.
    """

    status: int
    fault: Fault | None
    said: str
    took_s: float


def fire(shot: Shot, port: int, hang_s: float) -> Heard:
    """Send a request and judge the answer; without an end after `hang_s` it counts as hanging.

    A large request may take longer: a core needs a second to tokenize a text of a MiB.
    """
    began = time.monotonic()
    hang_s *= 1 + len(shot.raw) / PATIENT_BYTES
    status, body, fault = 0, b"", None
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=hang_s) as line:
            with contextlib.suppress(ConnectionError):
                line.sendall(shot.raw)  # the server may refuse it before it has read all of it
            if shot.leave:
                return Heard(0, None, "", 0.0)
            status, body = _answer(line, shot, began + hang_s)
            fault = judge(shot.path, status, body)
    except TimeoutError:
        fault = Fault.HANG
    except http.client.IncompleteRead as error:
        body, fault = error.partial, Fault.BROKEN_STREAM
    except (OSError, http.client.HTTPException) as error:
        body, fault = repr(error).encode(), Fault.NO_ANSWER
    took_s = time.monotonic() - began
    return Heard(status, fault, body[:TOLD_BYTES].decode(errors="replace"), took_s)


def _answer(line: socket.socket, shot: Shot, deadline_s: float) -> tuple[int, bytes]:
    method = shot.raw.split(b" ", 1)[0].decode("latin-1")
    answer = http.client.HTTPResponse(line, method=method)
    answer.begin()
    body = b""
    while piece := answer.read1(PIECES):
        body += piece
        if time.monotonic() > deadline_s:
            raise TimeoutError
    return answer.status, body


def judge(path: str, status: int, body: bytes) -> Fault | None:
    """Return the fault in a whole answer, or None. Pure."""
    if status >= 500:
        return Fault.SERVER_ERROR
    if b"Traceback (most recent call last)" in body:
        return Fault.TRACEBACK
    if status >= 400:
        return None if _is_error(path, body) else Fault.SHAPE
    if body.startswith((b"data:", b"event:")):
        return _judge_stream(body)
    return None


def _is_error(path: str, body: bytes) -> bool:
    """Whether an error has OpenAI's shape, or Anthropic's if its endpoint could be recognized."""
    if not body:
        return True  # an answer to HEAD has no body
    found = _json(body)
    error = found.get("error") if isinstance(found, dict) else None
    if not isinstance(error, dict) or not error.get("message") or not error.get("type"):
        return False
    if NOT_HTTP in error["message"] or error.get("code") == HEAD_TOO_LARGE:
        return True
    return not path.startswith(MESSAGES) or found.get("type") == "error"


def _judge_stream(body: bytes) -> Fault | None:
    events = [part for part in body.split(b"\n\n") if part]
    for event in events:
        found = _json(event.partition(b"data:")[2])
        error = found.get("error") if isinstance(found, dict) else None
        if isinstance(error, dict) and _is_ours(error):
            return Fault.ERROR_EVENT
    return None


def _is_ours(error: dict[str, Any]) -> bool:
    code = error.get("code")
    server_fault = isinstance(code, int) and code >= 500
    return server_fault or error.get("type") in ("server_error", "api_error", "InternalServerError")


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None
