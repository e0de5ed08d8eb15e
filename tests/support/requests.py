"""Completions of the tiny model over plain HTTP."""

from __future__ import annotations

import http.client
import json
from types import TracebackType
from typing import Any

from tests.support.server import Serving

TIMEOUT_S = 60.0
BODY = {"model": "tiny", "prompt": "a", "ignore_eos": True, "temperature": 0}
LONG = 8000
"""Tokens that take many seconds."""


def complete(server: Serving, tokens: int = 1) -> tuple[int, Any]:
    """Status and JSON of one completion."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=TIMEOUT_S)
    try:
        _post(connection, BODY | {"max_tokens": tokens})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def post(server: Serving, path: str, body: dict[str, Any]) -> tuple[int, Any]:
    """Status and JSON of an answer; of a stream a list of its events."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=TIMEOUT_S)
    try:
        headers = {"Content-Type": "application/json"}
        connection.request("POST", path, json.dumps(body), headers)
        answer = connection.getresponse()
        if body.get("stream") and answer.status == 200:
            return answer.status, events(answer.read())
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def events(body: bytes) -> list[Any]:
    """The JSON of each server-sent event; the stream must have come to its end."""
    *parts, done = [part.removeprefix(b"data: ") for part in body.split(b"\n\n") if part]
    assert done == b"[DONE]", body
    return [json.loads(part) for part in parts]


class Stream:
    """Use as ``with Stream(server, 100) as stream``: its first event has come.

    Attributes:
        first: that event, of one token or more.
    """

    def __init__(self, server: Serving, tokens: int = LONG) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=TIMEOUT_S)
        _post(self._connection, BODY | {"max_tokens": tokens, "stream": True})
        self._answer = self._connection.getresponse()
        assert self._answer.status == 200, self._answer.read()
        self.first = self._answer.readline()
        assert self.first.startswith(b"data: ")

    def rest(self) -> bytes:
        """All up to the end, in whatever way it comes."""
        try:
            return self._answer.read()
        except http.client.IncompleteRead as error:
            return error.partial
        except ConnectionResetError:
            return b""

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self._answer.close()
        self._connection.close()


def _post(connection: http.client.HTTPConnection, body: dict[str, Any]) -> None:
    headers = {"Content-Type": "application/json"}
    connection.request("POST", "/v1/completions", json.dumps(body), headers)
