"""Server-sent events from bytes that are cut anywhere."""

from __future__ import annotations

import pytest

from dynamo_cli import event_stream
from dynamo_cli.event_stream import EventStreamParser

DATA = (
    b': a comment\n\nevent: a\ndata: {"x":1}\n\nevent: without data\n\ndata:2\nid: 7\n\n'
    b"data:  two\ndata: lines\n\nevent: unfinished\ndata: 3\n"
)
EVENTS = [("a", b'{"x":1}'), ("", b"2"), ("", b" two\nlines")]


@pytest.mark.parametrize("data", [DATA, DATA.replace(b"\n", b"\r\n")])
def test_events_come_out_whole_wherever_the_bytes_are_cut(data: bytes) -> None:
    for cut in range(len(data)):
        stream = EventStreamParser()
        assert stream.feed(data[:cut]) + stream.feed(data[cut:]) == EVENTS


@pytest.mark.parametrize("piece", [b"x" * 60, b"data: xxxx\n" * 6])
def test_an_event_without_end_is_refused(piece: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_stream, "MAX_EVENT_BYTES", 100)
    stream = EventStreamParser()
    assert len(stream.feed(b"data: short\n\n" * 100)) == 100
    with pytest.raises(ValueError, match="longer than 100 bytes"):
        for _ in range(4):
            stream.feed(piece)
