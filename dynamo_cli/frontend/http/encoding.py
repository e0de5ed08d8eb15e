"""Decodes the bodies of requests that are compressed, piece by piece. Pure.

aiohttp would decode them by itself, and also the rest of a body that was refused long ago: a few
megabytes can become gigabytes, and while they are decoded no stream gets its tokens.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Protocol

from dynamo_cli.errors import InvalidRequest, UnsupportedMediaType
from dynamo_cli.units import KIB

PIECE_BYTES = 256 * KIB
"""Most bytes that are decoded at once, so that a bound on the whole body holds."""

_GZIP, _ZLIB, _BARE = 16 + zlib.MAX_WBITS, zlib.MAX_WBITS, -zlib.MAX_WBITS
"""Formats, as `zlib` numbers them; the last one is deflate without any header."""

_DEFLATED = 8
"""Lower four bits of the first byte of zlib's format."""


class BodyDecoder(Protocol):
    """Decodes one body."""

    def decode(self, data: bytes) -> Iterator[bytes]:
        """Yield what the next bytes of the body mean. Raises `InvalidRequest` if they are wrong."""

    def end(self) -> None:
        """Check that the body is complete. Raises `InvalidRequest` if it is not."""


class _PlainBody:
    """A body that is not compressed."""

    def decode(self, data: bytes) -> Iterator[bytes]:
        """See `BodyDecoder`."""
        yield data

    def end(self) -> None:
        """See `BodyDecoder`: a body without an encoding has no end of its own."""


class _CompressedBody:
    """A body that is compressed.

    Args:
        encoding: gzip or deflate.
    """

    def __init__(self, encoding: str) -> None:
        self._encoding = encoding
        self._stream: zlib._Decompress | None = None

    def decode(self, data: bytes) -> Iterator[bytes]:
        """See `BodyDecoder`."""
        stream = self._stream
        if stream is None:
            stream = self._stream = zlib.decompressobj(self._format(data[0]))
        piece = b""
        while data or len(piece) == PIECE_BYTES:  # a full piece may have left something inside
            if stream.eof:
                raise self._error("there are bytes behind its end")
            try:
                piece = stream.decompress(data, PIECE_BYTES)
            except zlib.error as error:
                raise self._error(f"it is not {self._encoding}") from error
            yield piece
            data = stream.unconsumed_tail or stream.unused_data
            if stream.eof and not data:
                return

    def _format(self, first: int) -> int:
        if self._encoding == "gzip":
            return _GZIP
        return _ZLIB if first & 0xF == _DEFLATED else _BARE  # some clients send no header

    def end(self) -> None:
        """See `BodyDecoder`."""
        if self._stream is not None and not self._stream.eof:
            raise self._error("it is cut off")

    @staticmethod
    def _error(why: str) -> InvalidRequest:
        return InvalidRequest(f"the body cannot be read: {why}.")


def decoder_of(encoding: str) -> BodyDecoder:
    """Return what decodes a body with this ``Content-Encoding``; empty for none.

    Raises:
        UnsupportedMediaType: it is none of those that are taken.
    """
    match encoding.strip().lower():
        case "" | "identity":
            return _PlainBody()
        case "gzip" | "x-gzip":
            return _CompressedBody("gzip")
        case "deflate":
            return _CompressedBody("deflate")
    raise UnsupportedMediaType(
        f"the content encoding must be gzip or deflate, or none, not {encoding[:64]!a}."
    )
