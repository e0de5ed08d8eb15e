"""Every failure that the tool names.

DynamoError                     base: knows its HTTP status, OpenAI type and exit code
|-- UserError                   what was typed or sent is wrong
|   |-- UsageError              command line (exit code 2)
|   |-- InvalidRequest          400
|   |-- Unauthorized            401
|   |-- Forbidden               403: not from that page, or not by that name of the host
|   |-- NotFound                404
|   |-- MethodNotAllowed        405
|   |-- RequestTimeout          408: its head or body does not come
|   |-- Conflict                409: not as things are now
|   |-- PayloadTooLarge         413
|   |-- UnsupportedMediaType    415: not JSON
|   |-- TooManyRequests         429, with Retry-After
|   `-- HeadTooLarge            431
|-- Unavailable                 503, with Retry-After: nothing can serve right now
|   |-- NotReady                still starting, or everything is down
|   |-- Draining                shutting down
|   |-- Overloaded              as many connections or bodies as may be
|   |-- PeerLost                the process that held the request died
|   `-- LinkFull                a process does not read what it is sent, and lacks a part of it
|-- StartError                  the tool cannot start (exit code 1)
|   |-- PortInUse
|   |-- ModelError              no such model, or it cannot be loaded (exit code 2)
|   |   `-- ModelUnreachable    it is elsewhere, and could not be fetched now (exit code 1)
|   |-- ResourceError           too few GPUs, too little memory
|   |-- ChildFailed             a child process died while starting
|   `-- CannotWatch             there is no server to be watched
|-- ServerFailed                a server that was asked for something does not answer well
|-- LinkError                   a shared-memory link
|   |-- Corrupt                 a header or length that cannot be
|   `-- TooLarge                a message over the limit of its link
|-- PoisonRequest               500: workers died of it, or beside it, too often
`-- InternalError               500: a bug of ours
"""

from __future__ import annotations

from typing import Any, ClassVar


class DynamoError(Exception):
    """Base of every named failure.

    Attributes:
        message: what happened and what to do, in one sentence or two.
        param: the field of the request that is wrong, when there is one.
        retry_after_s: seconds after which a client may try again.
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

    def body(self) -> dict[str, Any]:
        """The error as OpenAI's API shapes it."""
        return error_body(self.message, self.openai_type, self.param, self.code)


def error_body(
    message: str, kind: str, param: str | None, code: str | int | None
) -> dict[str, Any]:
    """OpenAI's error object: ``{"error": {"message", "type", "param", "code"}}``."""
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
    """The error as Anthropic's API shapes it."""
    kind = ANTHROPIC_TYPES.get(status, "api_error" if status >= 500 else "invalid_request_error")
    return {"type": "error", "error": {"type": kind, "message": message}}


class UserError(DynamoError):
    http_status = 400
    openai_type = "invalid_request_error"
    exit_code = 2


class UsageError(UserError):
    pass


class InvalidRequest(UserError):
    pass


class Unauthorized(UserError):
    http_status = 401
    openai_type = "authentication_error"
    code = "invalid_api_key"


class Forbidden(UserError):
    http_status = 403
    openai_type = "permission_error"
    code = "forbidden"


class NotFound(UserError):
    http_status = 404
    code = "not_found"


class MethodNotAllowed(UserError):
    http_status = 405
    code = "method_not_allowed"


class RequestTimeout(UserError):
    http_status = 408
    code = "request_timeout"


class Conflict(UserError):
    http_status = 409
    code = "conflict"


class PayloadTooLarge(UserError):
    http_status = 413
    code = "payload_too_large"


class UnsupportedMediaType(UserError):
    http_status = 415
    code = "unsupported_media_type"


class HeadTooLarge(UserError):
    http_status = 431
    code = "head_too_large"


class TooManyRequests(UserError):
    http_status = 429
    openai_type = "rate_limit_error"
    code = "too_many_requests"


class Unavailable(DynamoError):
    http_status = 503
    openai_type = "service_unavailable_error"
    code = "service_unavailable"


class NotReady(Unavailable):
    code = "not_ready"


class Draining(Unavailable):
    code = "draining"


class Overloaded(Unavailable):
    code = "overloaded"


class PeerLost(Unavailable):
    code = "worker_lost"


class LinkFull(Unavailable):
    code = "link_full"


class StartError(DynamoError):
    pass


class PortInUse(StartError):
    pass


class ModelError(StartError):
    exit_code = 2  # what was named is wrong: another try ends in the same way


class ModelUnreachable(ModelError):
    exit_code = 1


class ResourceError(StartError):
    pass


class ChildFailed(StartError):
    pass


class CannotWatch(StartError):
    """There is no server there that can be watched."""


class ServerFailed(DynamoError):
    pass


class LinkError(DynamoError):
    pass


class Corrupt(LinkError):
    pass


class TooLarge(LinkError):
    pass


class PoisonRequest(DynamoError):
    code = "poison_request"


class InternalError(DynamoError):
    pass


def error_class(name: str) -> type[DynamoError]:
    """The class of that name, for errors that cross a process as text.

    A name that is not one of ours gives ``InternalError``.
    """
    stack: list[type[DynamoError]] = [DynamoError]
    while stack:
        cls = stack.pop()
        if cls.__name__ == name:
            return cls
        stack.extend(cls.__subclasses__())
    return InternalError
