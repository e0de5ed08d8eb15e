"""The base class of all messages."""

from __future__ import annotations

import msgspec


class Message(msgspec.Struct, array_like=True, frozen=True, gc=False, tag=True):
    """Base of all messages: encoded as an array whose first element is the name of the class."""
