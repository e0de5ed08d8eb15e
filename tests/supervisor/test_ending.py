"""The end of a run waits for requests only as long as somebody can answer them."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from dynamo_cli.messages.lifecycle import Drain, Drained, StillRunning
from dynamo_cli.supervisor.ending import Ending
from dynamo_cli.topology import FRONTEND, ProcessId, Role

LONG_S = 60.0


class FakeChild:
    """A child that records the messages sent to it."""

    def __init__(self, process: ProcessId) -> None:
        self.process = process
        self.gone = asyncio.Event()
        self.got: asyncio.Queue[Any] = asyncio.Queue()
        self.control = SimpleNamespace(send=self.got.put_nowait)

    @property
    def alive(self) -> bool:
        return not self.gone.is_set()


class Tree:
    """A frontend, a processor and two workers; make it in a running loop."""

    def __init__(self) -> None:
        names = (FRONTEND, *(ProcessId(Role.WORKER, one) for one in (0, 1)))
        self.children = {name: FakeChild(name) for name in (*names, ProcessId(Role.PROCESSOR, 0))}
        self.told: list[str] = []
        self.ending = Ending(lambda _, text: self.told.append(text))

    def alive(self) -> list[Any]:
        return [child for child in self.children.values() if child.alive]

    def end(self, role: Role, index: int = 0) -> None:
        self.children[ProcessId(role, index)].gone.set()

    def drain(self) -> asyncio.Task[None]:
        frontend: Any = self.children[FRONTEND]
        return asyncio.create_task(self.ending.drain(frontend, LONG_S, self.alive))

    async def order(self) -> Any:
        return await asyncio.wait_for(self.children[FRONTEND].got.get(), 10)

    def silent(self) -> bool:
        return self.children[FRONTEND].got.empty()


async def turns() -> None:
    """Let every task go on until it waits for something."""
    for _ in range(20):
        await asyncio.sleep(0)


@pytest.mark.parametrize("last", [(Role.WORKER, 1), (Role.PROCESSOR, 0)])
def test_when_nobody_is_left_to_answer_it_waits_no_longer(last: tuple[Role, int]) -> None:
    async def scenario() -> None:
        tree = Tree()
        draining = tree.drain()
        assert await tree.order() == Drain(LONG_S)
        tree.end(Role.WORKER, 0)
        await turns()
        assert tree.silent()
        tree.end(*last)
        assert await tree.order() == Drain(0.0)
        assert tree.told[-1] == f"no {last[0]} is left: the running requests fail"
        assert not draining.done()  # it waits until the frontend has told its clients
        tree.ending.drained.set()
        await asyncio.wait_for(draining, 10)

    asyncio.run(scenario())


def test_nobody_may_be_there_from_the_beginning() -> None:
    async def scenario() -> None:
        tree = Tree()
        for index in (0, 1):
            tree.end(Role.WORKER, index)
        draining = tree.drain()
        assert {await tree.order(), await tree.order()} == {Drain(LONG_S), Drain(0.0)}
        tree.ending.drained.set()
        await asyncio.wait_for(draining, 10)

    asyncio.run(scenario())


def test_what_ends_afterwards_is_no_matter() -> None:
    async def scenario() -> None:
        tree = Tree()
        draining = tree.drain()
        assert await tree.order() == Drain(LONG_S)
        tree.ending.drained.set()
        await asyncio.wait_for(draining, 10)
        for index in (0, 1):
            tree.end(Role.WORKER, index)
        await turns()
        assert tree.silent()
        assert len(tree.told) == 1

    asyncio.run(scenario())


def test_it_says_what_it_waits_for_and_what_it_has_cut_off() -> None:
    async def scenario() -> None:
        tree = Tree()
        for report in (StillRunning(12, 29.6), StillRunning(1, 5.0), Drained(2), Drained(2)):
            tree.ending.on_drain_report(report)
        assert tree.told == [
            "12 requests are still running; 30 s left",
            "1 request is still running; 5 s left",
            "2 requests were ended before the answer was complete",
        ]
        assert tree.ending.drained.is_set()

    asyncio.run(scenario())
