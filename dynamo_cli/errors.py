"""The tree of errors; each class has an HTTP status, an OpenAI type and an exit code.

DynamoError                     base
|-- UserError                   what was typed or sent is wrong
|   |-- UsageError              command line (exit code 2)
|   |-- InvalidRequest          400
|   |-- Unauthorized            401
|   |-- Forbidden               403: from that web page, or by that name of the host
|   |-- NotFound                404
|   |-- MethodNotAllowed        405
|   |-- RequestTimeout          408: its head or body did not come in time
|   |-- Conflict                409: not in the present state
|   |-- PayloadTooLarge         413
|   |-- UnsupportedMediaType    415: not JSON, or an unknown encoding
|   |-- TooManyRequests         429, with Retry-After
|   `-- HeadTooLarge            431
|-- Unavailable                 503, with Retry-After: nothing can serve right now
|   |-- NotReady                still starting, or everything is down
|   |-- Asleep                  every engine sleeps
|   |-- Draining                shutting down
|   |-- FirstTokenTimeout       no worker has begun to answer the request in time
|   |-- Overloaded              as many connections, bodies or requests are open as may be
|   |-- PeerLost                the process that held the request died or stalled
|   `-- LinkFull                a process did not read what it was sent, and lacks a part
|-- StartError                  the tool cannot start (exit code 1)
|   |-- PortInUse
|   |-- ModelError              no such model, or it cannot be loaded (exit code 2)
|   |   `-- ModelUnreachable    its download failed (exit code 1)
|   |-- ResourceError           too few GPUs, too little memory
|   |-- ChildFailed             a child process died while starting
|   `-- CannotWatch             there is no server that can be watched
|-- ServerFailed                another server gave no proper answer
|-- LinkError                   a shared-memory link
|   |-- Corrupt                 a header or length that cannot be
|   `-- TooLarge                413: a message over the limit of its link
|-- PoisonRequest               500: processes died too often while they ran it
`-- InternalError               500: a bug of this program
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar


class DynamoError(Exception):
    """Base of every named failure.

    Attributes:
        message: what happened and what to do, in one sentence or two.
        param: name of the field that is wrong; None when there is none.
        retry_after_s: after how many seconds a client may try again; None: the answer does not say.
        http_status: status of an HTTP answer.
        openai_type: ``type`` of OpenAI's error object.
        code: ``code`` of OpenAI's error object.
        exit_code: exit status of the command.
    """

    http_status: ClassVar[int] = 500
    openai_type: ClassVar[str] = "internal_server_error"
    code: ClassVar[str | None] = None
    exit_code: ClassVar[int] = 1

    def __init__(
        self, message: str, *, param: str | None = None, retry_after_s: int | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after_s = retry_after_s

    @property
    def kind(self) -> str:
        """Its name in counters and logs: what the client sees too, the code or else the type."""
        return self.code or self.openai_type

    def body(self) -> dict[str, Any]:
        """Return the error in the shape of OpenAI's API."""
        return error_body(self.message, self.openai_type, self.param, self.code)


def error_body(
    message: str, kind: str, param: str | None, code: str | int | None
) -> dict[str, Any]:
    """Return an error in the shape of OpenAI's API."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}


def anthropic_body(message: str, status: int) -> dict[str, Any]:
    """Return an error in the shape of Anthropic's API."""
    kind = ANTHROPIC_TYPES.get(status, "api_error" if status >= 500 else "invalid_request_error")
    return {"type": "error", "error": {"type": kind, "message": message}}


class UserError(DynamoError):
    """Something that was typed or sent is wrong."""

    http_status = 400
    openai_type = "invalid_request_error"
    exit_code = 2


class UsageError(UserError):
    """The command line, a configuration file or a variable is wrong."""


class InvalidRequest(UserError):
    """A request has a field or header that is wrong."""


class Unauthorized(UserError):
    """A request has no API key, or one that is not known."""

    http_status = 401
    openai_type = "authentication_error"
    code = "invalid_api_key"


class Forbidden(UserError):
    """A web page of this origin, or this name of the host, may not use the server."""

    http_status = 403
    openai_type = "permission_error"
    code = "forbidden"


class NotFound(UserError):
    """There is no such path, model or adapter."""

    http_status = 404
    code = "not_found"


class MethodNotAllowed(UserError):
    """The path does not take this HTTP method."""

    http_status = 405
    code = "method_not_allowed"


class RequestTimeout(UserError):
    """The head or the body of a request did not come in time."""

    http_status = 408
    code = "request_timeout"


class Conflict(UserError):
    """A request that is right in itself cannot be carried out in the present state."""

    http_status = 409
    code = "conflict"


class PayloadTooLarge(UserError):
    """The body of a request is too large."""

    http_status = 413
    code = "payload_too_large"


class UnsupportedMediaType(UserError):
    """The body of a request is not declared as JSON, or has an encoding that is not known."""

    http_status = 415
    code = "unsupported_media_type"


class HeadTooLarge(UserError):
    """The request line and headers are too large."""

    http_status = 431
    code = "head_too_large"


class TooManyRequests(UserError):
    """As many requests are in flight as may be."""

    http_status = 429
    openai_type = "rate_limit_error"
    code = "too_many_requests"


class Unavailable(DynamoError):
    """Nothing can serve the request right now."""

    http_status = 503
    openai_type = "service_unavailable_error"
    code = "service_unavailable"


class NotReady(Unavailable):
    """The server is still starting, or no process of a kind is up."""

    code = "not_ready"


class Asleep(Unavailable):
    """Every engine sleeps, because ``POST /sleep`` was asked for."""

    code = "asleep"


class Draining(Unavailable):
    """The server is shutting down."""

    code = "draining"


class Overloaded(Unavailable):
    """As many connections, bodies or requests are open as may be."""

    code = "overloaded"


class PeerLost(Unavailable):
    """The process that held the request died or stalled, and no other one could take it."""

    code = "worker_lost"


class FirstTokenTimeout(Unavailable):
    """No worker has begun to answer the request in time."""

    code = "first_token_timeout"


class LinkFull(Unavailable):
    """A process did not read what it was sent for too long, and lacks a part of it."""

    code = "link_full"


class StartError(DynamoError):
    """The tool cannot start."""


class PortInUse(StartError):
    """Another process listens on the port."""


class ModelError(StartError):
    """There is no such model, or it cannot be loaded."""

    exit_code = 2  # the name or path is wrong: another try would fail in the same way


class ModelUnreachable(ModelError):
    """The model has to be downloaded, which failed."""

    exit_code = 1


class ResourceError(StartError):
    """The machine has too few GPUs or too little memory."""


class ChildFailed(StartError):
    """A child process died while it started."""


class CannotWatch(StartError):
    """There is no server at the address that can be watched."""


class ServerFailed(DynamoError):
    """Another server that was asked for something gave no proper answer."""


class LinkError(DynamoError):
    """A shared-memory link failed."""


class Corrupt(LinkError):
    """A header, a length or a message cannot be right."""


class TooLarge(LinkError):
    """A message is larger than its link allows; the request that needs it is too large."""

    http_status = 413
    openai_type = "invalid_request_error"
    code = "message_too_large"


class PoisonRequest(DynamoError):
    """Workers or processors died too often while they ran this request."""

    code = "poison_request"


class InternalError(DynamoError):
    """A bug of this program."""


def error_class(name: str) -> type[DynamoError]:
    """Return the error class of that name, for errors that another process has sent as text.

    An unknown name gives ``InternalError``.
    """
    return next((cls for cls in _classes() if cls.__name__ == name), InternalError)


def error_class_of(status: int, kind: str) -> type[DynamoError]:
    """Return an error class that clients see with this status and kind; else ``InternalError``.

    Args:
        status: status of an HTTP answer.
        kind: code of the error, or else its type.
    """
    seen = (status, kind)
    known: tuple[type[DynamoError], ...] = (InternalError, *_classes())
    same = (cls for cls in known if (cls.http_status, cls.code or cls.openai_type) == seen)
    return next(same, InternalError)


def _classes() -> Iterator[type[DynamoError]]:
    """All error classes."""
    stack: list[type[DynamoError]] = [DynamoError]
    while stack:
        cls = stack.pop()
        yield cls
        stack.extend(cls.__subclasses__())
