"""Writing to streams that work, fail, or are not read."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, TextIO

import pytest

from dynamo_cli.cli.forms import json_line
from dynamo_cli.cli.views import outlet
from dynamo_cli.host.outlet import Outlet
from tests.support.server import wait_until


def told(count: int) -> str:
    return f"[{count}]\n"


class Pipe(NamedTuple):
    read: int
    stream: TextIO

    def rest(self) -> str:
        self.stream.close()
        with os.fdopen(os.dup(self.read), "rb") as reader:
            return reader.read().decode("latin-1")


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    read, write = os.pipe()
    with open(write, "w", encoding="latin-1") as stream:  # noqa: PTH123  # a descriptor
        yield Pipe(read, stream)
    os.close(read)


def test_all_comes_in_order_and_what_an_encoding_lacks_is_replaced(pipe: Pipe) -> None:
    out = Outlet(pipe.stream, told)
    for number in range(1000):
        out.write(f"{number}\n")
    out.write("é \N{BLACK CIRCLE} \udcff\n")
    out.close()
    assert out.lost == 0
    assert pipe.rest().splitlines() == [*map(str, range(1000)), "é ? ?"]


def test_nobody_waits_for_who_does_not_read_and_what_is_missing_is_told(pipe: Pipe) -> None:
    out = Outlet(pipe.stream, told, limit_chars=10_000)
    began = time.monotonic()
    for _ in range(3000):
        out.write("x" * 99 + "\n")
    assert time.monotonic() - began < 5
    assert out.lost > 1000
    lost = out.lost
    text = b""
    while sum(map(int, re.findall(rb"\[(\d+)\]\n", text))) < lost:
        text += os.read(pipe.read, 1 << 16)
    assert text.count(b"x" * 99 + b"\n") == 3000 - lost
    out.write("again\n")
    out.close()
    assert out.lost == lost
    assert pipe.rest().endswith("again\n")


def test_the_end_waits_no_longer_than_it_may(pipe: Pipe) -> None:
    out = Outlet(pipe.stream, told)
    out.write("x" * 1_000_000)
    began = time.monotonic()
    out.close(grace_s=0.2)
    assert time.monotonic() - began < 3
    out.write("too late")
    assert out.lost == 1
    os.read(pipe.read, 1)


def test_a_full_disk_is_counted_and_told_when_there_is_room() -> None:
    with Path("/dev/full").open("w") as full:
        out = outlet(full, json_line)
        for _ in range(3):
            out.write("line\n")
        wait_until(lambda: out.lost == 3, 10, "all are counted")
        read, write = os.pipe()
        os.dup2(write, full.fileno())  # as when space becomes free
        os.close(write)
        out.write("written\n")
        out.close()
    with os.fdopen(read) as reader:
        missing, written = reader.read().splitlines()
    assert "3 lines of this log are missing here" in missing
    assert missing.startswith("{")
    assert written == "written"


def test_a_stream_that_somebody_made_one_that_does_not_block_loses_nothing(pipe: Pipe) -> None:
    os.set_blocking(pipe.stream.fileno(), False)
    out = Outlet(pipe.stream, told)
    out.write("x" * 200_000)
    text = b""
    while len(text) < 200_000:
        text += os.read(pipe.read, 1 << 16)
    out.close()
    assert out.lost == 0
