"""Reads the bodies of requests, with bounds on their size and on the time that they take."""

from __future__ import annotations

import asyncio

from aiohttp import web

from dynamo_cli.errors import (
    DynamoError,
    InvalidRequest,
    Overloaded,
    PayloadTooLarge,
    RequestTimeout,
)
from dynamo_cli.frontend.http.encoding import PIECE_BYTES, decoder_of
from dynamo_cli.frontend.http.visit import Visit
from dynamo_cli.origin import check_json

LEAST_BYTES_PER_S = 4096
"""A body that arrives at this rate never times out, however large it is."""

MANY_BODIES = 32
"""How many bodies of the largest size may be in memory while they arrive."""

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class BodyReader:
    """Reads the bodies of requests.

    Args:
        max_bytes: bound on the size of one body.
        timeout_s: how long a body may take; each byte that arrives extends it.
    """

    def __init__(self, max_bytes: int, timeout_s: float) -> None:
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s
        self._held_bytes = 0

    async def read_json(self, visit: Visit) -> bytes:
        """The whole body of a request.

        Raises:
            UnsupportedMediaType: its content type is not JSON, or its encoding is not known.
            PayloadTooLarge, Overloaded: it is too large, or all arriving bodies together are.
            RequestTimeout: it did not arrive in time.
            InvalidRequest: it does not match the headers, for example its encoding.
        """
        if visit.http.can_read_body:
            check_json(visit.http.headers)
        try:
            return await self._read(visit.http)
        except DynamoError:
            visit.close_on_refusal = True  # the rest of the body stays unread
            raise

    async def _read(self, http: web.BaseRequest) -> bytes:
        if http.content_length is not None and http.content_length > self._max_bytes:
            raise self._too_large()
        if http.headers.get("Expect", "").lower() == "100-continue" and http.transport is not None:
            http.transport.write(CONTINUE)
        decoder = decoder_of(http.headers.get("Content-Encoding", ""))
        parts: list[bytes] = []
        arrived = size = 0
        start = asyncio.get_running_loop().time() + self._timeout_s
        try:
            async with asyncio.timeout_at(start) as deadline:
                while part := await http.content.readany():
                    arrived += len(part)
                    for piece in decoder.decode(part):
                        parts.append(piece)
                        size += len(piece)
                        self._hold(len(piece))
                        if size > self._max_bytes:
                            raise self._too_large()
                        if len(piece) >= PIECE_BYTES:
                            await asyncio.sleep(0)  # streams go on between two pieces
                    deadline.reschedule(start + arrived / LEAST_BYTES_PER_S)
        except TimeoutError as error:
            http.protocol._lingering_time = 0.0  # else aiohttp would wait for the rest of the body
            raise RequestTimeout(
                f"the body did not arrive in time: only {arrived} bytes came. "
                "Send the request again."
            ) from error
        except web.RequestPayloadError as error:
            http.content.feed_eof()  # else aiohttp would read on, and fail again
            what = " ".join(str(error).rpartition("message:")[2].split()).rstrip(".")
            raise InvalidRequest(f"the body cannot be read: {what}.") from error
        finally:
            self._held_bytes -= size
        decoder.end()
        return b"".join(parts)

    def _hold(self, nbytes: int) -> None:
        self._held_bytes += nbytes
        if self._held_bytes > MANY_BODIES * self._max_bytes:
            raise Overloaded(
                "too many large bodies are arriving at once; try again soon.", retry_after_s=1
            )

    def _too_large(self) -> PayloadTooLarge:
        return PayloadTooLarge(
            f"the body is larger than --max-body-bytes ({self._max_bytes} bytes)."
        )
