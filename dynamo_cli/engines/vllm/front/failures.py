"""Everything that can be raised while a request is answered, as the end of its answer."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import orjson
from pydantic import ValidationError
from vllm.entrypoints.serve.engine.protocol import ErrorResponse
from vllm.entrypoints.serve.exception_handling.error_response import create_error_response
from vllm.exceptions import GenerationError

from dynamo_cli import shapes
from dynamo_cli.engines.vllm.front.bounds import place
from dynamo_cli.engines.vllm.front.client import RequestFailed
from dynamo_cli.engines.vllm.front.trace import RequestTrace
from dynamo_cli.errors import DynamoError, InternalError, InvalidRequest
from dynamo_cli.messages.request import Chunk, Reply

JSON = "application/json"
ERROR_EVENTS = ('data: {"error"', "event: error\n")
"""How an event begins with which one of vLLM's classes ends a stream."""

logger = logging.getLogger(__name__)


class EventError(Exception):
    """vLLM ended a stream, or answered, with an error of its own making.

    Attributes:
        error: OpenAI's error object, with the status as its code.
    """

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(str(error["message"]))
        self.error = error


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a request failed.

    Attributes:
        status: of an answer that had no first byte yet.
        kind: for the counters.
        error: OpenAI's error object.
    """

    status: int
    kind: str
    error: dict[str, Any]
    retry_after_s: int | None = None

    def reply(self, trace: RequestTrace) -> Reply:
        """A whole answer."""
        body = orjson.dumps(shapes.error_answer(trace.path, self.status, self.error))
        after = self.retry_after_s
        headers = (("Retry-After", str(after)),) if after is not None else ()
        return Reply(trace.request_id, self.status, JSON, body, error=self.kind, headers=headers)

    def end(self, trace: RequestTrace) -> Chunk:
        """The last of a stream that had begun."""
        data = shapes.failure_event(
            trace.path, self.status, self.error, trace.response, trace.events
        )
        return Chunk(trace.request_id, data, trace.take_new_tokens())


def raise_error(text: str) -> None:
    """Raise what an event of a stream says, if it is an error.

    Raises:
        EventError: it is.
    """
    if not text.startswith(ERROR_EVENTS):
        return
    data = text.partition("data: ")[2].partition("\n")[0]
    error = orjson.loads(data)["error"]
    raise EventError({"param": None, "code": None} | error)


def raise_response(answer: Any) -> None:
    """Raise what a whole answer says, if it is an error.

    Raises:
        EventError: it is.
    """
    if isinstance(answer, ErrorResponse):
        raise EventError(answer.error.model_dump())


def failure_of(error: Exception, trace: RequestTrace) -> Failure:
    """An exception as the end of a request; only our own bugs are internal errors, and logged."""
    cause = _unwrapped(error)
    if trace.failure is not None:
        return _named(trace.failure, trace.error or _kind(trace.failure))
    match cause:
        case ValidationError():
            return _named(validation_failure(cause), type(cause).__name__)
        case RequestFailed():
            return _named(cause.error, _kind(cause.error))
        case DynamoError():
            return _named(cause, type(cause).__name__)
        case EventError():
            told, kind = cause.error, str(cause.error["type"])
        case _:
            told, kind = create_error_response(cause).error.model_dump(), type(cause).__name__
    status = told["code"] if isinstance(told["code"], int) else 500
    if status == InternalError.http_status:
        return _internal(trace.api_id, cause, kind)
    return Failure(status, kind, told)


def _named(error: DynamoError, kind: str) -> Failure:
    return Failure(error.http_status, kind, error.body()["error"], error.retry_after_s)


def _kind(error: DynamoError) -> str:
    return error.code or type(error).__name__


def _internal(api_id: str, error: Exception, kind: str) -> Failure:
    """What nobody expected: the log has it, the client only its place there."""
    logger.error("request %s failed", api_id, exc_info=error)
    where = f"internal error; the log has it under request id {api_id}."
    return _named(InternalError(where), kind)


def _unwrapped(error: Exception) -> Exception:
    """What vLLM failed to put into another shape."""
    context = error.__context__
    if isinstance(error, ValidationError) and isinstance(context, GenerationError):
        return context  # type: ignore[no-any-return]  # vLLM's classes have no types
    return error


def validation_failure(error: ValidationError) -> InvalidRequest:
    """pydantic's first complaint as one sentence, with the field it is about."""
    first = error.errors(include_url=False, include_context=False)[0]
    param = place(first["loc"]) or None
    message = first["msg"].removeprefix("Value error, ")
    return InvalidRequest(f"{param}: {message}" if param else message, param=param)
