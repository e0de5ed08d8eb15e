"""Writes a streamed answer to the client."""

from __future__ import annotations

import asyncio
import math
import time

from aiohttp import HttpVersion11, web

from dynamo_cli.messages.request import Head
from dynamo_cli.units import KIB

SLOW_S, SLOW_BYTES = 2.0, 64 * KIB
"""A reader for whom too much waits is cut if it took less than so many bytes in so many seconds:
several large events may come at once, and even the fastest reader takes no event in no time."""

MOST_PENDING = 16
"""A reader is cut at once if so many times what may wait for it waits, beside one event."""


class EventStreamWriter:
    """Writes bytes to the socket in the same iteration of the loop in which they arrive.

    `web.StreamResponse.write` is a coroutine, which would wake the handler's task for each token of
    each stream. Here the task sleeps from the first byte to the last.

    Args:
        response: the prepared response, to which nothing has been written yet.
        transport: the transport of its connection.
        chunked: whether the body is sent in chunks (HTTP/1.1); else the end of the connection ends
            it.
        max_pending_bytes: how much may wait for a slow reader; more only for a time, see `SLOW_S`
            and `MOST_PENDING`.
    """

    def __init__(
        self,
        response: web.StreamResponse,
        transport: asyncio.Transport,
        chunked: bool,
        max_pending_bytes: int,
    ) -> None:
        self.response = response
        self._transport = transport
        self._chunked = chunked
        self._max_pending_bytes = max_pending_bytes
        self._written_bytes = self._largest_bytes = 0
        self._taken_bytes, self._took_s = -math.inf, 0.0  # what the reader had taken, and when

    @classmethod
    async def start(
        cls, http: web.BaseRequest, head: Head, headers: dict[str, str], max_pending_bytes: int
    ) -> EventStreamWriter:
        """Send the status and the headers: those of `head` and `headers`.

        Raises:
            ConnectionResetError: the client has left.
        """
        all_headers = {
            "Content-Type": head.content_type,
            "Cache-Control": "no-cache",
            "X-Accel-Buffering": "no",
            **headers,
            **dict(head.headers),
        }
        response = web.StreamResponse(status=head.status, headers=all_headers)
        chunked = http.version >= HttpVersion11
        if not chunked:
            response.force_close()  # only the end of the connection ends the body
        writer = await response.prepare(http)
        transport = http.transport
        if writer is None or transport is None:
            raise ConnectionResetError("the client left before the first byte")
        writer.send_headers()
        return cls(response, transport, chunked, max_pending_bytes)

    def write(self, data: bytes) -> bool:
        """Send bytes of the body.

        Returns:
            False if too much has been waiting for too long, so that the connection was cut.
        """
        transport = self._transport
        if transport.is_closing() or not data:
            return True  # the handler is cancelled in this same iteration
        waiting_bytes = transport.get_write_buffer_size()
        if waiting_bytes > self._max_pending_bytes and self._too_slow(waiting_bytes):
            transport.abort()
            return False
        framed = b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data
        transport.write(framed)
        self._written_bytes += len(framed)
        self._largest_bytes = max(self._largest_bytes, len(framed))
        return True

    def _too_slow(self, waiting_bytes: int) -> bool:
        if waiting_bytes - self._largest_bytes > MOST_PENDING * self._max_pending_bytes:
            return True
        now_s, taken_bytes = time.monotonic(), self._written_bytes - waiting_bytes
        if taken_bytes - self._taken_bytes >= SLOW_BYTES:
            self._taken_bytes, self._took_s = taken_bytes, now_s
        return now_s - self._took_s > SLOW_S
