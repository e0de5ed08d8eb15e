"""HTTP connections: aiohttp's low-level server with one handler, limits and our error shape."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from http import HTTPStatus
from typing import cast

import orjson
from aiohttp import StreamReader, web
from aiohttp.http_exceptions import LineTooLong
from aiohttp.streams import EMPTY_PAYLOAD

from dynamo_cli.config import FrontendConfig
from dynamo_cli.errors import (
    DynamoError,
    HeadTooLarge,
    InternalError,
    InvalidRequest,
    Overloaded,
    RequestTimeout,
)
from dynamo_cli.frontend.http.admission import request_id
from dynamo_cli.origin import JSON
from dynamo_cli.shapes import error_answer

MAX_FIELD_BYTES = 64 * 1024
"""Bound on one header and on the request line; tokens and cookies can be long."""

MAX_HEAD_BYTES = 256 * 1024
"""Bound on the request line and all headers together."""

GOODBYE_S, GOODBYES = 0.5, 64
"""A refused connection stays open for so long, seconds, so that the client can read the error; and
so many such connections may be open at the same time."""

logger = logging.getLogger(__name__)

Handle = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


def json_response(value: object, status: int = 200) -> web.Response:
    """A response with a value as JSON."""
    return web.Response(body=orjson.dumps(value), status=status, content_type=JSON)


def error_response(error: DynamoError, path: str = "") -> web.Response:
    """An error in the JSON shape that clients of `path` expect, with status and Retry-After."""
    body = error_answer(path, error.http_status, error.body()["error"])
    response = json_response(body, error.http_status)
    if error.retry_after_s is not None:
        response.headers["Retry-After"] = str(error.retry_after_s)
    return response


class _HttpConnection(web.RequestHandler):
    """One connection; what is not valid HTTP gets an error of our shape too."""

    def __init__(self, server: HttpServer, config: FrontendConfig) -> None:
        super().__init__(
            server,
            loop=server.loop,
            keepalive_timeout=config.keepalive_s,
            max_line_size=MAX_FIELD_BYTES,
            max_field_size=MAX_FIELD_BYTES,
            auto_decompress=False,  # `BodyReader` does it, and stops where a body is refused
            # aiohttp takes None to mean no access log, although its annotation forbids it.
            access_log=None,  # type: ignore[arg-type]
        )
        self._server = server
        self._head_timeout_s = config.head_timeout_s
        self._head_timer: asyncio.TimerHandle | None = None
        self._head_bytes = 0
        # The body of the last complete head. Which request is being answered does not tell: the
        # answer may begin after the first bytes of the body, and end before the last ones.
        self._body: StreamReader = EMPTY_PAYLOAD

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to read, or refuse the connection if there are too many."""
        if self._server.full:
            self._force_close = True  # data_received ignores what arrives
            self._server.turn_away(cast(asyncio.Transport, transport))
            return
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        """The connection is closed."""
        self._end_head()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse bytes of a head or a body; a head has bounds on its size and its time.

        With pipelining a head may arrive while the previous request is still being answered. Where
        bytes end a request, a head may begin behind them: its time runs from its next bytes, since
        the parser does not say where the request ended.
        """
        heads, in_a_body = self._request_count, not self._body.is_eof()
        super().data_received(data)
        if self._request_count != heads:
            self._body = self._messages[-1][1]
            self._end_head()
        elif self._force_close or in_a_body:
            self._end_head()
        elif self._head_timer is not None:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self._refuse_head(_head_too_large())
        elif data.strip(b"\r\n"):  # empty lines before a head are no part of it
            self._head_bytes = len(data)
            self._head_timer = self._loop.call_later(self._head_timeout_s, self._head_late)

    def _process_keepalive(self) -> None:
        """Close the connection if it has been idle for long; while a head arrives it is not."""
        if self._head_timer is not None:
            self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
        super()._process_keepalive()

    @property
    def _between_requests(self) -> bool:
        """Whether no request is being answered, and no complete head waits for that."""
        if self._force_close:
            return False
        # Before the first request, bytes may arrive before aiohttp waits for them.
        return self._request_count == 0 or (self._waiter is not None and not self._waiter.done())

    def _end_head(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        self._head_bytes = 0

    def _head_late(self) -> None:
        if not self._between_requests:  # an error now would be taken for the running answer
            self._head_timer = self._loop.call_later(self._head_timeout_s, self._head_late)
            return
        seconds = f"{self._head_timeout_s:g}"
        self._refuse_head(
            RequestTimeout(f"the headers of the request did not arrive within {seconds} s.")
        )

    def _refuse_head(self, error: DynamoError) -> None:
        if self.transport is not None and self._between_requests:
            self._end_head()
            self._server.refuse(self.transport, error)
            self.force_close()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The answer to what is not valid HTTP, or to a request whose handler failed."""
        if isinstance(exc, ConnectionError):
            raise exc  # the client has left, which is no failure of ours
        error: DynamoError
        if isinstance(exc, LineTooLong):
            error = _head_too_large()
        elif status < 500:
            error = InvalidRequest(f"this is not valid HTTP: {_unquoted(message or '')}.")
        else:
            logger.error("the HTTP server failed", exc_info=exc)
            error = InternalError("internal error; see the server's log.")
        own_id = request_id(request.headers.get("X-Request-ID"))
        self._server.refused(error, own_id)
        response = error_response(error)
        response.headers["X-Request-ID"] = own_id
        response.force_close()
        return response


class HttpServer(web.Server):
    """Calls `handle` for each request, and cancels it when the client disconnects.

    Args:
        handle: answers one request.
        config: timeouts.
        refused: called with each error that is sent without calling `handle`, and with the id that
            the client is told.
        max_connections: further connections are refused; 0 is no limit.
    """

    def __init__(
        self,
        handle: Handle,
        config: FrontendConfig,
        refused: Callable[[DynamoError, str], None],
        max_connections: int = 0,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        super().__init__(
            handle,
            request_factory=partial(web.BaseRequest, loop=self.loop),
            handler_cancellation=True,
        )
        self._config = config
        self.refused = refused
        self._max_connections = max_connections
        self._goodbyes = 0

    def __call__(self) -> web.RequestHandler:
        return _HttpConnection(self, self._config)

    @property
    def full(self) -> bool:
        """Whether there are as many connections as allowed."""
        return 0 < self._max_connections <= len(self._connections)

    def refuse(self, transport: asyncio.WriteTransport, error: DynamoError) -> None:
        """Send an error where there is no request that could be answered."""
        own_id = request_id(None)
        transport.write(_raw(error, own_id))
        self.refused(error, own_id)

    def turn_away(self, transport: asyncio.Transport) -> None:
        """Refuse a connection with an error that says why, and close it soon after."""
        error = Overloaded(
            f"all {self._max_connections} connections that the server can have are open, as the "
            "limit of open files (ulimit -Hn) allows no more; try again soon.",
            retry_after_s=1,
        )
        self.refuse(transport, error)
        if self._goodbyes >= GOODBYES:
            transport.close()
            return
        # If it were closed at once, data from the client would reset the connection, and the client
        # could not read the answer.
        self._goodbyes += 1
        self.loop.call_later(GOODBYE_S, self._end_goodbye, transport)

    def _end_goodbye(self, transport: asyncio.Transport) -> None:
        self._goodbyes -= 1
        transport.close()

    def unsent_bytes(self) -> int:
        """Bytes that were written but that the kernel has not taken yet, of all connections."""
        transports = [connection.transport for connection in self.connections]
        return sum(
            transport.get_write_buffer_size() for transport in transports if transport is not None
        )


def _head_too_large() -> HeadTooLarge:
    return HeadTooLarge(
        f"a header or the URL is longer than {MAX_FIELD_BYTES} bytes, or all headers together are "
        f"longer than {MAX_HEAD_BYTES} bytes."
    )


def _unquoted(message: str) -> str:
    """What is wrong, without quoting what was sent, which may be a key."""
    what = message.strip().partition("\n")[0].strip(" :")
    return what if what and not {"'", '"'} & {*what} else "the headers cannot be parsed"


def _raw(error: DynamoError, own_id: str) -> bytes:
    """An error as the bytes of a whole answer, for when aiohttp has no request to answer."""
    body = orjson.dumps(error.body())
    retry = f"Retry-After: {error.retry_after_s}\r\n" if error.retry_after_s is not None else ""
    status = HTTPStatus(error.http_status)
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: {JSON}\r\n"
        f"Content-Length: {len(body)}\r\n{retry}X-Request-ID: {own_id}\r\n"
        "Connection: close\r\n\r\n"
    )
    return head.encode() + body
