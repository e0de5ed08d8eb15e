"""Answers of servers, cut into pieces anywhere as a network may do."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from dynamo_cli.lab.load.answer import Malformed, Response, Stream, failure

CHUNKED = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"5;a=b\r\nda\r\nt\r\nA\r\na: 1\n\nxyz\r\n\r\n0\r\nTrailer: t\r\n\r\n"
)
KNOWN = b"HTTP/1.1 404 Not Found\r\nCONTENT-LENGTH:  7\r\n\r\nmissing"
CLOSING = b"HTTP/1.0 200 OK\r\n\r\nuntil the end"
CONTINUED = b"HTTP/1.1 100 Continue\r\n\r\n" + KNOWN
EMPTY = b"HTTP/1.1 204 No Content\r\n\r\n"


@pytest.mark.parametrize(
    ("raw", "status", "body", "keep"),
    [
        (CHUNKED, 200, b"da\r\nta: 1\n\nxyz\r", True),
        (KNOWN, 404, b"missing", True),
        (CONTINUED, 404, b"missing", True),
        (EMPTY, 204, b"", True),
        (CLOSING, 200, b"until the end", False),
        (KNOWN.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"), 404, b"missing", False),
    ],
)
@pytest.mark.parametrize("piece", [1, 3, 10_000])
def test_answers_are_read(raw: bytes, status: int, body: bytes, keep: bool, piece: int) -> None:
    response, got = Response(), b""
    for start in range(0, len(raw), piece):
        assert not response.over
        got += response.feed(raw[start : start + piece])
    assert response.closed()
    assert (response.status, got, response.keep) == (status, body, keep)


@pytest.mark.parametrize("raw", [CHUNKED, KNOWN, CONTINUED])
def test_an_answer_that_breaks_off_is_not_complete(raw: bytes) -> None:
    for end in range(len(raw)):
        response = Response()
        response.feed(raw[:end])
        assert not response.closed()


@pytest.mark.parametrize(
    "raw",
    [
        b"SSH-2.0-server\r\n\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 20_000,
    ],
)
def test_what_is_no_http_is_refused(raw: bytes) -> None:
    with pytest.raises(Malformed):
        Response().feed(raw)


def chat(**delta: Any) -> dict[str, Any]:
    return {"id": "a", "choices": [{"index": 0, "delta": delta}]}


USAGE = {"prompt_tokens": 9, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 4}}


def sse(*events: dict[str, Any] | str, end: str = "\n\n") -> bytes:
    lines = [event if isinstance(event, str) else json.dumps(event) for event in events]
    return "".join(f"data: {line}{end}" for line in lines).encode()


TALK = (
    chat(role="assistant", content=""),
    chat(content="Grüß"),
    chat(content=None, reasoning_content="hm"),
    chat(content=" Gott"),
    {"choices": [{"delta": {}, "finish_reason": "length"}]},
    {"choices": [], "usage": USAGE},
    "[DONE]",
)


@pytest.mark.parametrize("end", ["\n\n", "\r\n\r\n"])
def test_a_stream_is_read_in_any_pieces(end: str) -> None:
    raw = b": a comment\n\nevent: x\n" + sse(*TALK, end=end)
    dice = random.Random(3)
    for _ in range(50):
        stream, left = Stream(), raw
        while left:
            cut = dice.randint(1, 40)
            stream.feed(left[:cut])
            left = left[cut:]
        assert (stream.text, stream.events) == ("Grüß Gott", 3)
        assert stream.over
        assert stream.finished
        assert stream.usage is not None
        assert (stream.usage.completion_tokens, stream.usage.cached_tokens) == (3, 4)


def test_only_events_with_tokens_count() -> None:
    stream = Stream()
    assert not stream.feed(sse(chat(role="assistant", content="")))
    assert stream.feed(sse({"choices": [{"text": "a"}]}))
    assert stream.feed(sse(chat(tool_calls=[{"index": 0}])))
    assert not stream.feed(sse(chat(tool_calls=[])))
    assert not stream.feed(sse({"choices": [], "usage": {"prompt_tokens": 1}}))
    assert stream.usage is not None
    assert stream.usage.cached_tokens is None


def test_errors_in_a_stream_are_kept() -> None:
    stream = Stream()
    stream.feed(sse(chat(content="a"), {"error": {"message": "worker 1 stopped", "code": 503}}))
    assert stream.error == "worker 1 stopped"
    with pytest.raises(Malformed):
        Stream().feed(b"data: {oops\n\n")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"error": {"message": "no such model", "code": 404}}', "no such model"),
        (b'{"error": "plain"}', "plain"),
        (b'{"object": "error", "message": "flat"}', "flat"),
        (b'{"detail": "not found"}', "not found"),
        (b"<html>", "<html>"),
        (b"", ""),
    ],
)
def test_the_message_of_an_error_is_found(body: bytes, message: str) -> None:
    assert failure(body) == message
