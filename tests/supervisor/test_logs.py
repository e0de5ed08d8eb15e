"""Log lines, from the pipes of children to the frontend."""

from __future__ import annotations

import pytest

from dynamo_cli.messages.logs import LEVEL_END
from dynamo_cli.supervisor import logs
from dynamo_cli.supervisor.logs import LogFeed, LogLines
from dynamo_cli.watch.logs import KEPT, LogRing


def fill(feed: LogFeed, count: int) -> None:
    for number in range(count):
        feed.add(float(number), "worker 0", "INFO", f"line {number}")


def drain(feed: LogFeed, ring: LogRing) -> int:
    batches = 0
    while (batch := feed.take()) is not None:
        ring.add(batch)
        batches += 1
    return batches


def test_lines_go_once_in_order_and_in_bounded_batches() -> None:
    feed, ring = LogFeed(), LogRing()
    fill(feed, logs.BATCH_LINES + 1)
    assert feed.behind
    assert drain(feed, ring) == 2
    assert not feed.behind
    assert [line.number for line in ring.select(0)] == list(range(1, logs.BATCH_LINES + 2))
    assert [line.text for line in ring.select(logs.BATCH_LINES)] == [f"line {logs.BATCH_LINES}"]
    assert ring.select(logs.BATCH_LINES + 1) == []


def test_what_nobody_took_in_time_is_dropped_and_counted() -> None:
    feed, ring = LogFeed(), LogRing()
    fill(feed, logs.FEED_LINES + 7)
    drain(feed, ring)
    assert ring.dropped == 7
    assert ring.select(0)[0].text == "line 7"


def test_a_new_frontend_hears_the_last_lines_again() -> None:
    feed, first, second = LogFeed(), LogRing(), LogRing()
    fill(feed, 5)
    drain(feed, first)
    feed.restart()
    drain(feed, second)
    assert second.select(0) == first.select(0)
    assert second.dropped == 0


def test_a_line_without_end_is_cut_and_says_so() -> None:
    feed = LogFeed()
    for size in (logs.LINE_CHARS, 100_000):
        feed.add(0.0, "worker 0", "INFO", "x" * size)
    batch = feed.take()
    assert batch is not None
    shown = "x" * logs.LINE_CHARS
    assert [line.text for line in batch.lines] == [
        shown,
        f"{shown} ... (cut: it has 100,000 characters)",
    ]


def test_a_long_line_is_whole_here_and_cut_among_the_last_words() -> None:
    lines = LogLines()
    text = "x" * 300_000
    (line,) = lines.feed(f"ERROR{LEVEL_END}{text}\n".encode())
    assert line.text == text
    kept = "x" * logs.TAIL_CHARS
    assert list(lines.tail) == [f"{kept} ... (cut: it has 300,000 characters)"]


def test_the_ring_is_bounded() -> None:
    feed, ring = LogFeed(), LogRing()
    for _ in range(KEPT // 500 + 2):
        fill(feed, 500)
        drain(feed, ring)
    assert len(ring.select(0)) == KEPT


@pytest.mark.parametrize(
    ("raw", "seen"),
    [
        (b"plain\n", ["plain"]),
        (b"0%\r50%\r100%\r\n", ["100%"]),
        (b"\x1b[1;31mred\x1b[0m\x07 bell\n", ["red bell"]),
        (b"\r\n   \n\x1b[K\n", []),
        ("grün\n".encode(), ["grün"]),
    ],
)
def test_lines_are_what_a_terminal_would_show(raw: bytes, seen: list[str]) -> None:
    lines = LogLines()
    assert [line.text for line in lines.feed(raw)] == seen


def test_lines_that_could_not_be_written_are_told_once_and_again_to_a_new_frontend() -> None:
    feed, ring = LogFeed(), LogRing()
    for unwritten in (3, 5):
        batch = feed.take(unwritten)
        assert batch is not None
        ring.add(batch)
        assert ring.unwritten == unwritten
        assert feed.take(unwritten) is None
    feed.restart()
    batch = feed.take(5)
    assert batch is not None
    assert batch.unwritten == 5
