"""A streamed answer on its way to the client."""

from __future__ import annotations

import asyncio

from aiohttp import HttpVersion11, web

from dynamo_cli.messages.request import Head


class EventStream:
    """Bytes straight to the socket, in the turn of the loop in which they come.

    `web.StreamResponse.write` is a coroutine: the handler's task would have to be woken for every
    token of every stream. Here the task sleeps from the first byte to the last.

    Args:
        response: prepared, nothing written yet.
        transport: of its connection.
        chunked: the body is framed in chunks (HTTP/1.1); else it ends with the connection.
        max_pending_bytes: that may wait for the reader.
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
    ) -> EventStream:
        """Send the head, with these headers and its own.

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
            response.force_close()  # its end is that of the connection, whatever the client asks
        writer = await response.prepare(http)
        transport = http.transport
        if writer is None or transport is None:
            raise ConnectionResetError("the client left before the first byte")
        writer.send_headers()
        return cls(response, transport, chunked, max_pending_bytes)

    def write(self, data: bytes) -> bool:
        """Send what has come.

        Returns:
            False when more than may is waiting already: the connection was cut.
        """
        transport = self._transport
        if transport.is_closing() or not data:
            return True  # a client that left ends the handler in this same turn
        if transport.get_write_buffer_size() > self._max_pending_bytes:
            transport.abort()
            return False
        transport.write(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)
        return True
