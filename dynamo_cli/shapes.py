"""Errors in the shape that each endpoint's clients expect, as whole answers or stream events."""

from __future__ import annotations

from typing import Any

import orjson

from dynamo_cli.errors import anthropic_body
from dynamo_cli.messages.request import Endpoint

ANTHROPIC = frozenset({Endpoint.MESSAGES, Endpoint.COUNT_TOKENS})
DONE = b"data: [DONE]\n\n"


def error_answer(path: str, status: int, error: dict[str, Any]) -> dict[str, Any]:
    """Return the body of an error answer of the endpoint `path`.

    Args:
        error: OpenAI's error object with message, type, param and code.
    """
    if path in ANTHROPIC:
        return anthropic_body(error["message"], status)
    return {"error": error}


def failure_event(
    path: str,
    status: int,
    error: dict[str, Any],
    response: dict[str, Any] | None = None,
    number: int = 0,
) -> bytes:
    """Return the last events of a stream of the endpoint `path` that fails.

    Args:
        error: as in `error_answer`.
        response: for the Responses API, the response object with which the stream began; None if
            it is not known.
        number: for the Responses API, sequence number of the event.
    """
    if path in ANTHROPIC:
        return _event("error", error_answer(path, status, error))
    if path != Endpoint.RESPONSES:
        return b"data: %b\n\n%b" % (orjson.dumps({"error": error}), DONE)
    told = {
        "type": "error",
        "sequence_number": number,
        "code": str(error["code"] or error["type"]),
        "message": error["message"],
        "param": error["param"],
    }
    if response is None:
        return _event("error", told)
    code = "server_error" if status >= 500 else "invalid_prompt"
    failed = {"status": "failed", "error": {"code": code, "message": error["message"]}}
    whole = {
        "type": "response.failed",
        "sequence_number": number + 1,
        "response": response | failed,
    }
    return _event("error", told) + _event("response.failed", whole)


def _event(name: str, data: dict[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), orjson.dumps(data))
