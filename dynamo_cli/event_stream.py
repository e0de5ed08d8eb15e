"""Reads server-sent events from the bytes of a response body, however they are cut. Pure.

Lines may end with LF or CRLF. Of the fields of an event only ``event`` and ``data`` are read;
comments and other fields are ignored, and so is an event without data, as the standard says.
"""

from __future__ import annotations

from typing import NamedTuple

MAX_EVENT_BYTES = 64 * 1024 * 1024


class ServerEvent(NamedTuple):
    """One event.

    Attributes:
        name: its ``event`` field; empty if it has none.
        data: its ``data`` fields, joined by line feeds.
    """

    name: str
    data: bytes


class EventStreamParser:
    """The events of one response, fed with its body as the bytes come."""

    def __init__(self) -> None:
        self._rest = b""
        self._name = ""
        self._data: list[bytes] = []
        self._data_bytes = 0

    def feed(self, body: bytes) -> list[ServerEvent]:
        """Take the next bytes and return the events that they complete.

        Raises:
            ValueError: an event is longer than `MAX_EVENT_BYTES`, or its name is not UTF-8.
        """
        *lines, self._rest = (self._rest + body).split(b"\n")
        events = []
        for line in lines:
            if field := line.removesuffix(b"\r"):
                self._take(field)
            else:
                if self._data:
                    events.append(ServerEvent(self._name, b"\n".join(self._data)))
                self._name, self._data, self._data_bytes = "", [], 0
        if len(self._rest) + self._data_bytes > MAX_EVENT_BYTES:
            raise ValueError(f"an event is longer than {MAX_EVENT_BYTES} bytes")
        return events

    def _take(self, line: bytes) -> None:
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            self._data.append(value)
            self._data_bytes += len(value) + 1
        elif field == b"event":
            self._name = value.decode()
