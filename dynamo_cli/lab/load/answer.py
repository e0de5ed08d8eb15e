"""Parses what an OpenAI server sends: HTTP/1.1 responses and the events of streams. Pure."""

from __future__ import annotations

from enum import Enum, auto
from typing import Any

import msgspec

from dynamo_cli.event_stream import EventStreamParser

HEAD_END = b"\r\n\r\n"
LINE_END = b"\r\n"
DONE = b"[DONE]"
MOST_HEAD_BYTES = 64 * 1024


class Malformed(Exception):
    """The server sent something that is not HTTP/1.1 or not OpenAI's API."""


class _Part(Enum):
    """The part of a response to which the next bytes belong."""

    HEAD = auto()
    BODY = auto()  # of a known length
    CHUNK_SIZE = auto()
    CHUNK = auto()
    CHUNK_END = auto()
    TRAILER = auto()
    UNTIL_CLOSED = auto()
    OVER = auto()


class Response:
    """One HTTP response, fed with the bytes of its connection as they come.

    Attributes:
        status: HTTP status; 0 until the head is complete.
        keep: whether the connection can be used again afterwards.
    """

    def __init__(self) -> None:
        self.status = 0
        self.keep = True
        self._raw = b""
        self._part = _Part.HEAD
        self._left = 0
        self._payload: list[bytes] = []

    @property
    def over(self) -> bool:
        """Whether the response is complete."""
        return self._part is _Part.OVER

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes and return the part of the body that they contain.

        Raises:
            Malformed: this is not HTTP.
        """
        self._raw += data
        while not self.over and self._advance():
            pass
        payload, self._payload = b"".join(self._payload), []
        return payload

    def closed(self) -> bool:
        """Note that the connection has ended; return whether the response is complete."""
        if self._part is _Part.UNTIL_CLOSED:
            self._part = _Part.OVER
        return self.over

    def _advance(self) -> bool:
        """Read one part; False if its bytes have not all come."""
        match self._part:
            case _Part.HEAD:
                return self._head()
            case _Part.BODY | _Part.CHUNK:
                return self._counted()
            case _Part.UNTIL_CLOSED:
                self._payload.append(self._raw)
                self._raw = b""
                return False
        line = self._line()
        if line is None:
            return False
        if self._part is _Part.CHUNK_SIZE:
            self._left = _number(line.partition(b";")[0], 16)
            self._part = _Part.CHUNK if self._left else _Part.TRAILER
        elif self._part is _Part.CHUNK_END:
            self._part = _Part.CHUNK_SIZE
        elif not line:
            self._part = _Part.OVER
        return True

    def _head(self) -> bool:
        head, end, rest = self._raw.partition(HEAD_END)
        if not end:
            if len(head) > MOST_HEAD_BYTES:
                raise Malformed("the head of the answer does not end")
            return False
        self._raw = rest
        first, *lines = head.split(LINE_END)
        version, _, status = first.partition(b" ")
        if not version.startswith(b"HTTP/1."):
            raise Malformed(f"the answer is not HTTP/1: {first[:40]!r}")
        self.status = _number(status[:3], 10)
        if self.status >= 200:  # an informational response is followed by another head
            headers = {name.lower(): value.strip().lower() for name, value in map(_split, lines)}
            self._begin_body(headers, version)
        return True

    def _begin_body(self, headers: dict[bytes, bytes], version: bytes) -> None:
        connection = headers.get(b"connection", b"")
        self.keep = connection != b"close" and version != b"HTTP/1.0"
        if b"chunked" in headers.get(b"transfer-encoding", b""):
            self._part = _Part.CHUNK_SIZE
        elif (length := headers.get(b"content-length")) is not None:
            self._left = _number(length, 10)
            self._part = _Part.BODY if self._left else _Part.OVER
        elif self.status in (204, 304):
            self._part = _Part.OVER
        else:
            self._part, self.keep = _Part.UNTIL_CLOSED, False

    def _counted(self) -> bool:
        piece = self._raw[: self._left]
        self._payload.append(piece)
        self._raw = self._raw[len(piece) :]
        self._left -= len(piece)
        if self._left:
            return False
        self._part = _Part.OVER if self._part is _Part.BODY else _Part.CHUNK_END
        return True

    def _line(self) -> bytes | None:
        line, end, rest = self._raw.partition(LINE_END)
        if not end:
            return None
        self._raw = rest
        return line


def _split(line: bytes) -> tuple[bytes, bytes]:
    name, _, value = line.partition(b":")
    return name, value


def _number(text: bytes, base: int) -> int:
    try:
        return int(text, base)
    except ValueError as error:
        raise Malformed(f"a length or a status is not a number: {text[:20]!r}") from error


class Details(msgspec.Struct, gc=False):
    """OpenAI's ``prompt_tokens_details``; None if the server does not report it."""

    cached_tokens: int | None = None


class AnswerUsage(msgspec.Struct, gc=False):
    """OpenAI's ``usage``; a field is None if the server does not report it."""

    prompt_tokens: int = 0
    completion_tokens: int | None = 0
    prompt_tokens_details: Details | None = None

    @property
    def cached_tokens(self) -> int | None:
        """Prompt tokens found in a cache; None if the server does not report it."""
        return (
            None if self.prompt_tokens_details is None else self.prompt_tokens_details.cached_tokens
        )


class _Delta(msgspec.Struct, gc=False):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[Any] | None = None


class _Choice(msgspec.Struct, gc=False):
    delta: _Delta | None = None
    text: str | None = None
    finish_reason: str | None = None


class _Event(msgspec.Struct, gc=False):
    choices: list[_Choice] = []
    usage: AnswerUsage | None = None
    error: Any = None


class _Error(msgspec.Struct, gc=False):
    message: str = ""


class _Failure(msgspec.Struct, gc=False):
    error: _Error | str | None = None
    message: str = ""
    detail: Any = None


_event = msgspec.json.Decoder(_Event)


class Stream:
    """The events of a streamed chat or completion, fed with the body as the bytes come.

    Attributes:
        events: number of events that carried tokens.
        usage: the usage, once it has come.
        finished: whether a choice has its finish_reason.
        over: whether the server has sent ``[DONE]``.
        error: message of an error event; empty if there was none.
    """

    def __init__(self) -> None:
        self.events = 0
        self.usage: AnswerUsage | None = None
        self.finished = False
        self.over = False
        self.error = ""
        self._text: list[str] = []
        self._stream = EventStreamParser()

    @property
    def text(self) -> str:
        """The text of the answer so far."""
        return "".join(self._text)

    def feed(self, body: bytes) -> bool:
        """Take the next bytes of the body; return whether they brought tokens.

        Raises:
            Malformed: an event is not one of OpenAI's API.
        """
        before = self.events
        try:
            events = self._stream.feed(body)
        except ValueError as error:
            raise Malformed(str(error)) from error
        for event in events:
            self._take(event.data.strip())
        return self.events > before

    def _take(self, data: bytes) -> None:
        if data == DONE:
            self.over = True
            return
        try:
            event = _event.decode(data)
        except msgspec.DecodeError as error:
            raise Malformed(f"an event is not one of OpenAI's API: {error}") from error
        if event.error is not None:
            self.error = failure(data)
        if event.usage is not None:
            self.usage = event.usage
        tokens = [_tokens_of(choice, self._text) for choice in event.choices]
        self.events += any(tokens)
        self.finished |= any(choice.finish_reason for choice in event.choices)


def _tokens_of(choice: _Choice, text: list[str]) -> bool:
    """Tell whether a choice carries tokens, and append its text to `text`."""
    said = choice.text or (choice.delta.content if choice.delta else None)
    if said:
        text.append(said)
        return True
    delta = choice.delta
    return delta is not None and bool(
        delta.reasoning_content or delta.reasoning or delta.tool_calls
    )


def failure(body: bytes) -> str:
    """Return the message in the body of an error, in whichever shape the server sends it."""
    try:
        found = msgspec.json.decode(body, type=_Failure)
    except msgspec.DecodeError:
        return body.decode(errors="replace").strip()
    if isinstance(found.error, _Error):
        return found.error.message
    return found.error or found.message or str(found.detail or "")
