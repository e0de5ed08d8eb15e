"""Turns everything that can be raised while a request is answered into the end of its answer."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import orjson
from pydantic import ValidationError
from vllm.entrypoints.serve.engine.protocol import ErrorResponse
from vllm.entrypoints.serve.exception_handling.error_response import create_error_response
from vllm.exceptions import GenerationError, GracefulHTTPError

from dynamo_cli import shapes
from dynamo_cli.engines.vllm.front.bounds import place
from dynamo_cli.engines.vllm.front.trace import RequestTrace
from dynamo_cli.errors import DynamoError, InternalError, InvalidRequest
from dynamo_cli.messages.request import Chunk, Reply

JSON = "application/json"
ERROR_EVENTS = ('data: {"error"', "event: error\n")
"""Beginnings of the events with which vLLM's classes end a stream that failed."""

MISTAKES = ("Error with model %s",)
"""Messages that vLLM's classes log as errors although the client asked for a wrong model."""

logger = logging.getLogger(__name__)


class RequestFailed(GracefulHTTPError):  # type: ignore[misc]
    """Carries one of our errors through vLLM's serving classes, which do not catch this type."""

    def __init__(self, error: DynamoError) -> None:
        super().__init__(error.message, HTTPStatus(error.http_status))
        self.error = error


class EventError(Exception):
    """An error that vLLM did not raise, but sent as an answer or as an event of a stream.

    Attributes:
        error: OpenAI's error object, whose code is the HTTP status.
    """

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(str(error["message"]))
        self.error = error


class KnownErrorFilter(logging.Filter):
    """Drops what vLLM's classes log of each request that ended with our error, with a traceback,
    or that has a mistake which only its client can correct.

    The client is told, the error is counted, and the line of the request has it.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Return False for such a line."""
        error = record.exc_info[1] if record.exc_info else None
        return not isinstance(error, RequestFailed) and record.msg not in MISTAKES


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a request failed.

    Attributes:
        status: HTTP status, if the answer has not begun yet.
        kind: name of the failure in the counters.
        error: OpenAI's error object.
        retry_after_s: seconds after which a client may try again; None if that is not known.
    """

    status: int
    kind: str
    error: dict[str, Any]
    retry_after_s: int | None = None

    def reply(self, trace: RequestTrace) -> Reply:
        """Return it as a whole answer."""
        body = orjson.dumps(shapes.error_answer(trace.path, self.status, self.error))
        after = self.retry_after_s
        headers = (("Retry-After", str(after)),) if after is not None else ()
        return Reply(trace.request_id, self.status, JSON, body, error=self.kind, headers=headers)

    def end(self, trace: RequestTrace) -> Chunk:
        """Return it as the last chunk of a stream that has begun."""
        data = shapes.failure_event(
            trace.path, self.status, self.error, trace.response, trace.events
        )
        return Chunk(trace.request_id, data, trace.take_new_tokens())


def install() -> None:
    """Add the filter to the root handlers, which all lines of this process pass."""
    for handler in logging.getLogger().handlers:
        handler.addFilter(KnownErrorFilter())


def raise_error(text: str) -> None:
    """Raise the error that an event of a stream carries, if it carries one.

    Raises:
        EventError: it does.
    """
    if not text.startswith(ERROR_EVENTS):
        return
    data = text.partition("data: ")[2].partition("\n")[0]
    error = orjson.loads(data)["error"]
    raise EventError({"param": None, "code": None} | error)


def raise_response(answer: Any) -> None:
    """Raise the error that a whole answer carries, if it carries one.

    Raises:
        EventError: it does.
    """
    if isinstance(answer, ErrorResponse):
        raise EventError(answer.error.model_dump())


def failure_of(error: Exception, trace: RequestTrace) -> Failure:
    """Return the failure that an exception means; only bugs are internal errors, and logged."""
    cause = _unwrapped(error)
    if trace.failure is not None:
        return _named(trace.failure, trace.error)
    match cause:
        case ValidationError():
            return _named(validation_failure(cause))
        case RequestFailed():
            return _named(cause.error)
        case DynamoError():
            return _named(cause)
        case EventError():
            told, bug = cause.error, str(cause.error["type"])
        case _:
            told, bug = create_error_response(cause).error.model_dump(), type(cause).__name__
    status = told["code"] if isinstance(told["code"], int) else 500
    if status == InternalError.http_status:
        return _internal(trace.api_id, cause, bug)
    return Failure(status, str(told["type"]), told)


def _named(error: DynamoError, kind: str = "") -> Failure:
    return Failure(
        error.http_status, kind or error.kind, error.body()["error"], error.retry_after_s
    )


def _internal(api_id: str, error: Exception, kind: str) -> Failure:
    """Log an unexpected error; the client is told only the request id to look for in the log."""
    logger.error("request %s failed", api_id, exc_info=error)
    where = f"internal error; the log has it under request id {api_id}."
    return _named(InternalError(where), kind)


def _unwrapped(error: Exception) -> Exception:
    """Return the error that vLLM raised first, where it then failed to convert it."""
    context = error.__context__
    if isinstance(error, ValidationError) and isinstance(context, GenerationError):
        return context  # type: ignore[no-any-return]  # vLLM's classes have no types
    return error


def validation_failure(error: ValidationError) -> InvalidRequest:
    """Return the first error that pydantic found, as one sentence that names its field."""
    first = error.errors(include_url=False, include_context=False)[0]
    param = place(first["loc"]) or None
    message = first["msg"].removeprefix("Value error, ")
    return InvalidRequest(f"{param}: {message}" if param else message, param=param)
