"""Errors of background tasks and callbacks are reported; echoes of signals are ignored."""

from __future__ import annotations

import asyncio
import errno
import signal
from types import SimpleNamespace

import pytest

from dynamo_cli.messages.base import Message
from dynamo_cli.messages.lifecycle import Phase
from dynamo_cli.supervisor.background import Background
from dynamo_cli.supervisor.ending import ECHO_S, Signals
from dynamo_cli.supervisor.watching import Watching
from dynamo_cli.topology import ProcessId, Role
from tests.cluster.outposts import FakeChild


@pytest.mark.parametrize("where", ["task", "callback"])
def test_no_error_stays_unread(where: str) -> None:
    told: list[tuple[str, list[str]]] = []

    async def fail() -> None:
        raise ZeroDivisionError("by zero")

    def fail_at_once() -> None:
        raise ZeroDivisionError("by zero")

    async def scenario() -> None:
        background = Background(lambda what, trace: told.append((what, trace)))
        loop = asyncio.get_running_loop()
        background.watch(loop)
        if where == "task":
            background.start(fail())
        else:
            loop.call_soon(fail_at_once)
        while not told:
            await asyncio.sleep(0)

    asyncio.run(scenario())
    ((what, trace),) = told
    assert "ZeroDivisionError('by zero')" in what
    assert trace[0].startswith("Traceback")


def test_what_is_cancelled_is_no_error() -> None:
    told: list[str] = []

    async def scenario() -> None:
        background = Background(lambda what, _: told.append(what))
        background.start(asyncio.sleep(60))
        background.cancel()
        while background._tasks:
            await asyncio.sleep(0)

    asyncio.run(scenario())
    assert not told


def test_a_signal_that_comes_twice_in_one_go_is_one() -> None:
    signals = Signals()
    term, interrupt = signal.SIGTERM, signal.SIGINT
    assert not signals.is_echo(term, 0.0)
    assert signals.is_echo(term, ECHO_S / 2)
    assert not signals.is_echo(term, ECHO_S * 2)
    assert [signals.is_echo(interrupt, now) for now in (3.0, 3.0)] == [False, False]


class Broken(FakeChild):
    """A child whose control socket fails as often as told."""

    def __init__(self, index: int, errors: list[OSError]) -> None:
        super().__init__(ProcessId(Role.WORKER, index), None)  # type: ignore[arg-type]
        self.phase, self.asked = Phase.READY, asyncio.Event()
        self.control = SimpleNamespace(send=self._send)
        self._errors = errors

    def _send(self, _: Message) -> None:
        if self._errors:
            raise self._errors.pop()
        self.asked.set()


def test_a_loop_that_fails_is_reported_and_goes_on() -> None:
    """A message to one child that cannot be sent ends the watch over no child."""
    told: list[str] = []

    async def scenario() -> None:
        broken = Broken(0, [OSError(errno.EIO, "late"), *[OSError(errno.EPERM, "no")] * 2])
        other = Broken(1, [])
        watching = Watching(0.4, lambda: [broken, other])
        background = Background(lambda what, _: told.append(what))
        background.keep(watching.run)
        await other.asked.wait()
        assert not broken.asked.is_set()
        await broken.asked.wait()
        assert broken.alive
        background.cancel()
        while background._tasks:
            await asyncio.sleep(0)

    asyncio.run(asyncio.wait_for(scenario(), 20))
    assert [what.partition("(")[2] for what in told] == [
        "PermissionError(1, 'no'))",  # the second of the same kind is not told within a minute
        "OSError(5, 'late'))",
    ]
