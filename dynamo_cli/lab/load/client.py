"""An HTTP client that generates load: it keeps connections and timestamps each piece of a body.

It shares the machine's cores with the servers that it measures, so it does little work per piece.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple, cast
from urllib.parse import urlsplit

from dynamo_cli.errors import UsageError
from dynamo_cli.host import oserrors
from dynamo_cli.lab.load.answer import AnswerUsage, Malformed, Response, Stream, failure
from dynamo_cli.lab.report import Outcome

API = "/v1"
PORTS = {"http": 80, "https": 443}
TIMEOUT_S = 600.0

UNREACHABLE = "connection failed"
"""Kind of failure of requests for which there is no connection."""

Sink = Callable[[bytes, float], None]
"""Takes a piece of a body, and the time at which it came on the clock of `time.perf_counter`."""


class Target(NamedTuple):
    """The address of a server.

    Attributes:
        tls: whether to use https.
        base: path of its API, which ends with ``/v1``.
        head: header lines of every request.
    """

    host: str
    port: int
    tls: bool
    base: str
    head: str


def target(url: str, api_key: str = "") -> Target:
    """Parse a URL as people write it, with or without ``http://`` and ``/v1``.

    Raises:
        UsageError: it is not the URL of a server.
    """
    parts = urlsplit(url if "://" in url else f"http://{url}")
    try:
        port = parts.port or PORTS[parts.scheme]
    except (KeyError, ValueError) as error:
        raise UsageError(f"{url!r} is not a URL like http://127.0.0.1:8181.") from error
    if not parts.hostname or parts.query or parts.fragment:
        raise UsageError(f"{url!r} is not a URL like http://127.0.0.1:8181.")
    head = f"Host: {parts.netloc.rpartition('@')[2]}\r\n"
    if api_key:
        head += f"Authorization: Bearer {api_key}\r\n"
    base = parts.path.rstrip("/").removesuffix(API) + API
    return Target(parts.hostname, port, parts.scheme == "https", base, head)


class AnswerFailed(Exception):
    """There is no answer, or only a part of it.

    Attributes:
        kind: kind of failure, by which it is counted: ``HTTP 429``, ``timeout``.
        message: details for people.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message


@dataclass(slots=True)
class Heard:
    """A streamed answer as it came.

    Attributes:
        sent_s: when the request was sent, on the clock of `time.perf_counter`.
        ttft_s, e2e_s: times from sending to the first token, and to the end.
        gaps_s: times between arrivals that brought tokens.
        usage: token counts.
        text: text of the answer.
        error: kind of failure; empty if it succeeded.
        message: details of the failure.
    """

    sent_s: float
    ttft_s: float = 0.0
    e2e_s: float = 0.0
    gaps_s: list[float] = field(default_factory=list)
    usage: AnswerUsage = field(default_factory=AnswerUsage)
    text: str = ""
    error: str = ""
    message: str = ""

    def outcome(self, began_s: float) -> Outcome:
        """Return the outcome for a run that began at `began_s`."""
        return Outcome(
            start_s=self.sent_s - began_s,
            ttft_s=self.ttft_s,
            e2e_s=self.e2e_s,
            prompt_tokens=self.usage.prompt_tokens,
            cached_tokens=self.usage.cached_tokens,
            output_tokens=self.usage.completion_tokens or 0,
            error=self.error,
        )


class LoadClient:
    """Sends requests to one server, any number of them at the same time.

    Args:
        server: its address.
        timeout_s: time limit of a whole answer.
        keep: whether to use connections again.
    """

    def __init__(self, server: Target, *, timeout_s: float = TIMEOUT_S, keep: bool = True) -> None:
        self._server = server
        self._timeout_s = timeout_s
        self._keep = keep
        self._idle: list[_ClientConnection] = []

    @property
    def name(self) -> str:
        """Host and port of the server."""
        return f"{self._server.host}:{self._server.port}"

    async def whole(self, method: str, path: str, body: bytes = b"") -> bytes:
        """Return the whole body of an answer.

        Raises:
            Failed: there is no answer, or its status is not 200.
        """
        pieces: list[bytes] = []
        status = await self._exchange(method, path, body, lambda piece, _: pieces.append(piece))
        content = b"".join(pieces)
        if status != 200:
            raise AnswerFailed(f"HTTP {status}", failure(content))
        return content

    async def stream(self, path: str, body: bytes) -> Heard:
        """Return a streamed answer once it has ended; a failure is noted in it."""
        reading = _StreamedAnswer(time.perf_counter())
        heard = reading.heard
        try:
            status = await self._exchange("POST", path, body, reading.take)
            reading.check(status)
        except AnswerFailed as error:
            heard.error, heard.message = error.kind, error.message
        reading.end(time.perf_counter())
        return heard

    async def _exchange(self, method: str, path: str, body: bytes, sink: Sink) -> int:
        """Send a request, pass the body of its answer to `sink`, and return the status.

        Raises:
            Failed: there is no whole answer in time.
        """
        server = self._server
        head = (
            f"{method} {server.base}{path} HTTP/1.1\r\n{server.head}"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        request = head.encode("latin-1", "replace") + body
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._send(request, sink)
        except TimeoutError as error:
            raise AnswerFailed("timeout", f"no whole answer in {self._timeout_s:g} s") from error
        except OSError as error:
            raise AnswerFailed(UNREACHABLE, oserrors.reason(error)) from error
        except Malformed as error:
            raise AnswerFailed("malformed answer", str(error)) from error

    async def _send(self, request: bytes, sink: Sink) -> int:
        while self._idle:
            connection = self._idle.pop()
            if not connection.lost:
                try:
                    return await self._over(connection, request, sink)
                except _Stale:
                    continue  # the server closed it before it saw this request
        return await self._over(await self._connect(), request, sink)

    async def _connect(self) -> _ClientConnection:
        server = self._server
        context = ssl.create_default_context() if server.tls else None
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(
            _ClientConnection, server.host, server.port, ssl=context
        )
        return connection

    async def _over(self, connection: _ClientConnection, request: bytes, sink: Sink) -> int:
        response = await connection.ask(request, sink)
        if response.keep and self._keep:
            self._idle.append(connection)
        else:
            connection.close()
        return response.status

    def close(self) -> None:
        """Close idle connections."""
        for connection in self._idle:
            connection.close()
        self._idle.clear()


class _Stale(Exception):
    """A kept connection ended before any byte of the answer came."""


class _ClientConnection(asyncio.Protocol):
    """One connection, which carries one request at a time.

    Attributes:
        lost: whether it has ended.
    """

    def __init__(self) -> None:
        self.lost = False
        self._used = False
        self._answer: asyncio.Future[Response] | None = None

    async def ask(self, request: bytes, sink: Sink) -> Response:
        """Send a request and return its response; the body goes to `sink`.

        Raises:
            Failed, Malformed, _Stale: there is no whole answer; the connection is unusable then.
        """
        self._response, self._sink = Response(), sink
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        try:
            response = await self._answer
        except BaseException:
            self._transport.abort()
            raise
        self._answer, self._used = None, True
        return response

    def close(self) -> None:
        self._transport.close()

    # -- asyncio.Protocol ------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(
            asyncio.Transport, transport
        )  # uvloop's transports do not inherit from it

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        answer = self._answer
        if answer is None or answer.done():
            self._transport.abort()  # no request waits for these bytes
            return
        try:
            piece = self._response.feed(data)
            if piece:
                self._sink(piece, now)
        except Malformed as error:
            answer.set_exception(error)
            return
        if self._response.over:
            answer.set_result(self._response)

    def connection_lost(self, error: Exception | None) -> None:
        self.lost = True
        answer = self._answer
        if answer is None or answer.done():
            return
        if self._response.closed():
            answer.set_result(self._response)
        elif self._used and not self._response.status:
            answer.set_exception(_Stale())
        else:
            answer.set_exception(
                AnswerFailed("connection lost", str(error or "the server closed it"))
            )


class _StreamedAnswer:
    """Collects a streamed answer while it comes."""

    def __init__(self, sent_s: float) -> None:
        self.heard = Heard(sent_s)
        self._stream = Stream()
        self._start = b""
        self._last_s = 0.0

    def take(self, piece: bytes, now_s: float) -> None:
        """Take a piece of the body."""
        if not self._stream.events and not self._stream.finished:
            self._start += piece  # the body of an error is not a stream
        if not self._stream.feed(piece):
            return
        if self._last_s:
            self.heard.gaps_s.append(now_s - self._last_s)
        else:
            self.heard.ttft_s = now_s - self.heard.sent_s
        self._last_s = now_s

    def check(self, status: int) -> None:
        """Check that the answer is complete.

        Raises:
            Failed: it is not.
        """
        stream = self._stream
        if status != 200:
            raise AnswerFailed(f"HTTP {status}", failure(self._start))
        if stream.error:
            raise AnswerFailed("error in the stream", stream.error)
        if not stream.finished:
            raise AnswerFailed("incomplete answer", "the stream ended without a finish_reason")

    def end(self, now_s: float) -> None:
        """Note the end. Without a usage, each event with tokens counts as one token."""
        heard, stream = self.heard, self._stream
        heard.e2e_s = now_s - heard.sent_s
        heard.ttft_s = heard.ttft_s or heard.e2e_s
        heard.text = stream.text
        heard.usage = stream.usage or AnswerUsage(completion_tokens=stream.events)
