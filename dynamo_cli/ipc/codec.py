"""Encodes messages to bytes and decodes them."""

from __future__ import annotations

from typing import Any

import msgspec

from dynamo_cli.errors import Corrupt
from dynamo_cli.messages.base import Message

encode = msgspec.msgpack.Encoder().encode
"""Encodes a message as a msgpack array with the name of its class first."""


class Decoder:
    """Decodes bytes to messages of one union.

    Args:
        union: the messages that may come, ``A | B | ...`` or a single class.
    """

    def __init__(self, union: Any) -> None:
        self._decode = msgspec.msgpack.Decoder(union).decode

    def __call__(self, payload: bytes) -> Message:
        """The message. Raises `Corrupt` if the bytes are no message of the union."""
        try:
            message = self._decode(payload)
        except msgspec.DecodeError as error:
            raise Corrupt(f"not a message of this link: {error}") from error
        assert isinstance(message, Message)
        return message
