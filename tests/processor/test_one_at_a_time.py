"""The turns of short requests: their order, those that hang, and those whose client leaves."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from dynamo_cli.engines.vllm.front.one_at_a_time import PATIENCE_S, OneAtATime
from dynamo_cli.engines.vllm.front.trace import RequestTrace


class _Loop(asyncio.SelectorEventLoop):
    """A loop whose clock goes on when nothing else is to be done."""

    now_s = 0.0
    _scheduled: list[asyncio.TimerHandle]
    _ready: list[asyncio.Handle]

    def time(self) -> float:
        return self.now_s

    def _run_once(self) -> None:
        if not self._ready and self._scheduled:
            self.now_s = max(self.now_s, self._scheduled[0].when())
        super()._run_once()  # type: ignore[misc]


def _run(work: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=_Loop) as runner:
        runner.run(work)


class _Kitchen:
    """Requests that are prepared."""

    def __init__(self) -> None:
        self.turns = OneAtATime()
        self.begun: list[str] = []
        self.at_once = self.most_at_once = 0

    async def prepare(self, name: str, takes_s: float) -> None:
        trace = RequestTrace(name)
        try:
            await self.turns.begin(trace)
            self.begun.append(name)
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
            await asyncio.sleep(takes_s)
            self.at_once -= 1
        finally:
            trace.prepared()


def test_a_burst_is_prepared_one_by_one_however_long_it_is() -> None:
    async def work() -> None:
        kitchen = _Kitchen()
        names = [f"{number}" for number in range(40)]
        await asyncio.gather(*(kitchen.prepare(name, PATIENCE_S / 4) for name in names))
        assert kitchen.begun == names
        assert kitchen.most_at_once == 1

    _run(work())


def test_the_loop_does_other_work_between_two_requests() -> None:
    async def work() -> None:
        turns, loop = OneAtATime(), asyncio.get_running_loop()
        told: list[str] = []

        async def prepare(name: str) -> None:
            trace = RequestTrace(name)
            await turns.begin(trace)
            told.append(name)
            loop.call_soon(told.append, "other")
            trace.prepared()  # without a pause, as most preparations

        await asyncio.gather(*(prepare(f"{number}") for number in range(3)))
        assert told[:5] == ["0", "other", "1", "other", "2"]
        await asyncio.sleep(0)
        await prepare("alone")
        assert told[-1] == "alone"

    _run(work())


def test_one_that_hangs_holds_up_the_others_for_a_moment_only() -> None:
    async def work() -> None:
        kitchen, loop = _Kitchen(), asyncio.get_running_loop()
        hung = [asyncio.ensure_future(kitchen.prepare(f"hung {n}", 3600)) for n in range(3)]
        await asyncio.gather(*(kitchen.prepare(f"{n}", 0.001) for n in range(9)))
        assert loop.time() < 3 * PATIENCE_S
        for task in hung:
            task.cancel()
        await asyncio.gather(*hung, return_exceptions=True)
        await kitchen.prepare("last", 0.001)
        assert loop.time() < 3 * PATIENCE_S

    _run(work())


def test_the_turn_of_one_whose_client_leaves_goes_to_the_next() -> None:
    async def work() -> None:
        kitchen, loop = _Kitchen(), asyncio.get_running_loop()
        tasks = [asyncio.ensure_future(kitchen.prepare(f"{n}", 0.01)) for n in range(5)]
        await asyncio.sleep(0.005)
        tasks[1].cancel()  # it waits
        # Its turn comes in the same iteration in which it is cancelled.
        loop.call_later(0.005, tasks[2].cancel)
        await asyncio.gather(*tasks, return_exceptions=True)
        assert kitchen.begun[0] == "0" and kitchen.begun[-2:] == ["3", "4"]
        assert kitchen.most_at_once == 1
        assert loop.time() < PATIENCE_S

    _run(work())
