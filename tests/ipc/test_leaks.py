"""A process whose peer is restarted many times leaks no descriptors, memory or files."""

from __future__ import annotations

import asyncio
import errno
import gc
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import uvloop

from dynamo_cli.ipc.switchboard import join
from dynamo_cli.messages.lifecycle import LinkDown
from dynamo_cli.messages.routing import RequestEnd

from .support import HERE, THERE, Party, spec

RELINKS = 200


def descriptors() -> int:
    """Number of open descriptors of this process."""
    gc.collect()  # so that nothing of other tests is closed between two counts
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208  # numbers, not paths


def mappings() -> int:
    """Number of rings that this process has mapped."""
    return Path("/proc/self/maps").read_text().count("memfd:dynamo-llm:")


def named() -> set[str]:
    """Files in /dev/shm that this process has mapped or open."""
    mapped = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines()}
    opened = {str(link.resolve()) for link in Path("/proc/self/fd").iterdir()}
    return {name for name in mapped | opened if name.startswith("/dev/shm/")}


class Survivor:
    """This process with a peer that is restarted; the peer is simulated in this process."""

    def __init__(self) -> None:
        self.here = Party(HERE)
        self.board, self.heard = self.here.board()

    def live_once(self, generation: int, serve: Callable[[], object]) -> None:
        """Link with the peer, receive a message, send one, and lose the peer."""
        there = Party(THERE)
        other, heard = there.board()
        join(self.here.control, there.control, HERE, THERE, spec=spec(), generation=generation)
        serve()
        other.poll(0)
        assert other.send(HERE, RequestEnd("there"))
        assert self.board.send(THERE, RequestEnd("here"))
        serve()
        other.poll(0)
        assert len(heard.payloads()) == 1
        other.close()
        there.close()
        if generation % 2:  # else the next link replaces it without a message
            self.here.control.send(LinkDown(THERE.name, generation, "killed"))

    def close(self) -> None:
        self.board.close()
        self.here.close()


@pytest.mark.parametrize("way", ["poll", "asyncio", "uvloop"])
def test_relinks_leave_nothing_behind(way: str) -> None:
    loop = uvloop.new_event_loop() if way == "uvloop" else asyncio.new_event_loop()
    loop.run_until_complete(asyncio.sleep(0))  # it opens some of its own only now
    before = descriptors()
    survivor = Survivor()
    if way != "poll":
        survivor.board.attach(loop)

    def serve() -> None:
        if way == "poll":
            survivor.board.poll(0)
        else:
            loop.run_until_complete(asyncio.sleep(0.001))

    for generation in range(RELINKS):
        survivor.live_once(generation, serve)
        if generation == 1:
            after_two = descriptors()
    assert descriptors() == after_two
    assert len(survivor.heard.payloads()) == RELINKS
    assert mappings() <= 2
    survivor.close()
    loop.run_until_complete(asyncio.sleep(0))
    assert descriptors() == before
    assert mappings() == 0
    loop.close()


def test_links_have_no_name_in_the_file_system() -> None:
    before = named()
    survivor = Survivor()
    survivor.live_once(0, lambda: survivor.board.poll(0))
    assert mappings()
    assert named() == before
    survivor.close()


CALLS = {"memfd_create": 2, "ftruncate": 2, "eventfd": 4, "dup": 12}
"""How often a link needs these functions of `os`."""


@pytest.mark.parametrize(
    ("call", "good"), [(call, good) for call, count in CALLS.items() for good in range(count)]
)
def test_a_link_that_cannot_be_made_leaves_no_descriptors(
    monkeypatch: pytest.MonkeyPatch, call: str, good: int
) -> None:
    """Where descriptors are short, each try would make them shorter."""
    before = descriptors()
    here, there = Party(HERE), Party(THERE)
    real, left = getattr(os, call), iter(range(good))

    def limited(*args: Any, **more: Any) -> Any:
        if next(left, None) is None:
            raise OSError(errno.EMFILE, "too many open files")
        return real(*args, **more)

    monkeypatch.setattr(os, call, limited)
    with pytest.raises(OSError, match="too many open files"):
        join(here.control, there.control, HERE, THERE, spec=spec(), generation=1)
    monkeypatch.undo()
    for party in (here, there):
        party.close()
    assert descriptors() == before
