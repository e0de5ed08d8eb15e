"""aiohttp's low-level server with our errors: no router, no middleware, one handler."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial

import orjson
from aiohttp import web

from dynamo_cli.errors import DynamoError, InternalError, InvalidRequest
from dynamo_cli.frontend.admission import request_id
from dynamo_cli.shapes import error_answer

JSON = "application/json"
KEEPALIVE_S = 75.0

logger = logging.getLogger(__name__)

Handle = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


def json_response(value: object, status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(value), status=status, content_type=JSON)


def error_response(error: DynamoError, path: str = "") -> web.Response:
    """An error in the shape that clients of `path` expect, with its status and Retry-After."""
    body = error_answer(path, error.http_status, error.body()["error"])
    response = json_response(body, error.http_status)
    if error.retry_after_s is not None:
        response.headers["Retry-After"] = str(error.retry_after_s)
    return response


class _Connection(web.RequestHandler):
    """One connection; what is not HTTP gets an answer in our shape too."""

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The answer when there is no request to handle, or none came out of handling it."""
        error: DynamoError
        if status < 500:
            what = (message or "").strip().partition("\n")[0] or f"status {status}"
            error = InvalidRequest(f"this is not valid HTTP: {what.strip(' :')}.")
        else:
            logger.error("the HTTP server failed", exc_info=exc)
            error = InternalError("internal error; the server's log has it.")
        response = error_response(error)
        response.headers["X-Request-ID"] = request_id(request.headers.get("X-Request-ID"))
        response.force_close()
        return response


class HttpServer(web.Server):
    """Calls `handle` for each request; cancels it when the client leaves.

    Args:
        handle: answers one request.
        max_body_bytes: larger bodies are refused.
    """

    def __init__(self, handle: Handle, max_body_bytes: int) -> None:
        loop = asyncio.get_running_loop()
        super().__init__(
            handle,
            request_factory=partial(web.BaseRequest, loop=loop, client_max_size=max_body_bytes),
            handler_cancellation=True,
        )

    def __call__(self) -> web.RequestHandler:
        loop = asyncio.get_running_loop()
        # `access_log=None` is how aiohttp is told to have none, whatever its annotation says.
        return _Connection(self, loop=loop, keepalive_timeout=KEEPALIVE_S, access_log=None)  # type: ignore[arg-type]

    def unsent_bytes(self) -> int:
        """What was written and the kernel has not taken yet, over all connections."""
        transports = [connection.transport for connection in self.connections]
        return sum(
            transport.get_write_buffer_size() for transport in transports if transport is not None
        )
