"""Writes a streamed answer to the client."""

from __future__ import annotations

import asyncio

from aiohttp import HttpVersion11, web

from dynamo_cli.messages.request import Head


class EventStreamWriter:
    """Writes bytes to the socket in the same iteration of the loop in which they arrive.

    `web.StreamResponse.write` is a coroutine, which would wake the handler's task for each token of
    each stream. Here the task sleeps from the first byte to the last.

    Args:
        response: the prepared response, to which nothing has been written yet.
        transport: the transport of its connection.
        chunked: whether the body is sent in chunks (HTTP/1.1); else the end of the connection ends
            it.
        max_pending_bytes: how much may wait for a slow reader.
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
            False if more than `max_pending_bytes` were waiting, so that the connection was cut.
        """
        transport = self._transport
        if transport.is_closing() or not data:
            return True  # the handler is cancelled in this same iteration
        if transport.get_write_buffer_size() > self._max_pending_bytes:
            transport.abort()
            return False
        transport.write(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)
        return True
