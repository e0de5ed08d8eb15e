"""aiohttp's low-level server with our errors: no router, no middleware, one handler."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import orjson
from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from dynamo_cli.errors import DynamoError, InternalError, InvalidRequest
from dynamo_cli.frontend.admission import request_id

JSON = "application/json"

logger = logging.getLogger(__name__)

Handle = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


def json_response(value: object, status: int = 200) -> web.Response:
    return web.Response(
        body=orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS), status=status, content_type=JSON
    )


def error_response(error: DynamoError) -> web.Response:
    """An error as OpenAI shapes it, with its status and Retry-After."""
    response = json_response(error.body(), error.http_status)
    if error.retry_after_s is not None:
        response.headers["Retry-After"] = str(error.retry_after_s)
    return response


class _Connection(RequestHandler):  # type: ignore[type-arg]
    """One connection; what is not HTTP gets an answer in our shape too."""

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        if status < 500:
            first_line = (message or "").strip().splitlines()
            error: DynamoError = InvalidRequest(
                f"not valid HTTP: {first_line[0] if first_line else status}"
            )
        else:
            logger.error("request failed in the HTTP server", exc_info=exc)
            error = InternalError("internal error; the server's log has it.")
        response = error_response(error)
        response.headers["X-Request-ID"] = request_id(request.headers.get("X-Request-ID"))
        response.force_close()
        return response


class HttpServer(web.Server):  # type: ignore[type-arg]
    """Calls `handle` for each request; cancels it when the client leaves.

    Args:
        handle: answers one request.
        max_body_bytes: larger bodies are refused.
    """

    def __init__(self, handle: Handle, max_body_bytes: int) -> None:
        self._connection_options: dict[str, Any] = {
            "access_log": None,
            "keepalive_timeout": 75.0,
            "tcp_keepalive": True,
        }
        super().__init__(
            handle,
            request_factory=partial(_request, max_body_bytes),
            handler_cancellation=True,
            **self._connection_options,
        )

    def __call__(self) -> RequestHandler:  # type: ignore[type-arg]
        return _Connection(self, loop=self._loop, **self._connection_options)


def _request(
    max_body_bytes: int, message: Any, payload: Any, protocol: Any, writer: Any, task: Any
) -> web.BaseRequest:
    return web.BaseRequest(
        message, payload, protocol, writer, task, protocol._loop, client_max_size=max_body_bytes
    )
