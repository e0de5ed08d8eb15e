"""Errors of background tasks and callbacks are reported; echoes of signals are ignored."""

from __future__ import annotations

import asyncio
import signal

import pytest

from dynamo_cli.supervisor.background import Background
from dynamo_cli.supervisor.ending import ECHO_S, Signals


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
