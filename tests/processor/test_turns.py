"""The turns of short requests: their order, those that hang, and those whose client leaves."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from dynamo_cli.engines.vllm.front.trace import RequestTrace
from dynamo_cli.engines.vllm.front.turns import GROUP, PATIENCE_S, Groups


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
        self.turns = Groups()
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


def test_a_burst_is_prepared_in_groups_however_long_it_is() -> None:
    async def work() -> None:
        kitchen = _Kitchen()
        names = [f"{number}" for number in range(40)]
        await asyncio.gather(*(kitchen.prepare(name, PATIENCE_S / 4) for name in names))
        assert kitchen.begun == names
        assert kitchen.most_at_once == GROUP

    _run(work())


def test_the_loop_does_other_work_between_two_groups() -> None:
    async def work() -> None:
        turns, loop = Groups(), asyncio.get_running_loop()
        told: list[str] = []

        async def prepare(name: str) -> None:
            trace = RequestTrace(name)
            await turns.begin(trace)
            told.append(name)
            loop.call_soon(told.append, "other")
            trace.prepared()  # without a pause, as most preparations

        await asyncio.gather(*(prepare(f"{number}") for number in range(3 * GROUP)))
        places = [place for place, one in enumerate(told) if one == "other"]
        assert places[0] == GROUP and places[GROUP] == 3 * GROUP
        assert told[2 * GROUP : 3 * GROUP] == [f"{number}" for number in range(GROUP, 2 * GROUP)]
        await asyncio.sleep(0)
        await prepare("alone")
        assert told[-1] == "alone"

    _run(work())


def test_one_that_hangs_holds_up_the_others_for_a_moment_only() -> None:
    async def work() -> None:
        kitchen, loop = _Kitchen(), asyncio.get_running_loop()
        hung = [asyncio.ensure_future(kitchen.prepare(f"hung {n}", 3600)) for n in range(3)]
        await asyncio.gather(*(kitchen.prepare(f"{n}", 0.001) for n in range(3 * GROUP)))
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
        names = [f"{number}" for number in range(4 * GROUP)]
        tasks = [asyncio.ensure_future(kitchen.prepare(name, 0.01)) for name in names]
        await asyncio.sleep(0.005)
        tasks[GROUP].cancel()  # it waits
        begin = kitchen.turns._begin

        def begin_and_cancel(most: int) -> None:
            begin(most)
            for task in tasks[GROUP + 1 : 2 * GROUP + 1]:  # it is their turn
                task.cancel()

        kitchen.turns._begin = begin_and_cancel  # type: ignore[method-assign]
        await asyncio.gather(*tasks, return_exceptions=True)
        assert kitchen.begun == names[:GROUP] + names[2 * GROUP + 1 :]
        assert loop.time() < PATIENCE_S

    _run(work())


def test_all_that_wait_begin_beside_a_group_that_hangs() -> None:
    async def work() -> None:
        kitchen, loop = _Kitchen(), asyncio.get_running_loop()
        tasks = [asyncio.ensure_future(kitchen.prepare(f"{n}", 3600)) for n in range(4 * GROUP)]
        await asyncio.sleep(1.5 * PATIENCE_S)
        assert len(kitchen.begun) == len(tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        before_s = loop.time()
        await kitchen.prepare("at once", 0)
        assert loop.time() == before_s

    _run(work())


def test_a_later_group_that_hangs_is_noticed_too() -> None:
    async def work() -> None:
        kitchen, loop = _Kitchen(), asyncio.get_running_loop()
        times_s = [0.75 * PATIENCE_S] * GROUP + [3600.0] * GROUP + [0.001]
        tasks = [asyncio.ensure_future(kitchen.prepare(f"{t}", t)) for t in times_s]
        await tasks[-1]
        assert loop.time() < 3 * PATIENCE_S
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    _run(work())


def test_nobody_waits_after_a_burst() -> None:
    async def work() -> None:
        kitchen, loop = _Kitchen(), asyncio.get_running_loop()
        await asyncio.gather(*(kitchen.prepare(f"{n}", 0.001) for n in range(2 * GROUP)))
        await asyncio.sleep(2.5 * PATIENCE_S)
        before_s = loop.time()
        await kitchen.prepare("later", 0)
        assert loop.time() == before_s

    _run(work())


def test_the_next_group_waits_for_those_that_joined_before_it_was_to_begin() -> None:
    async def work() -> None:
        kitchen, trace = _Kitchen(), RequestTrace("quick")
        tasks = [asyncio.ensure_future(kitchen.prepare(f"{n}", 0.001)) for n in range(2 * GROUP)]
        await kitchen.turns.begin(trace)
        trace.prepared()  # the group has ended, but goes on with those of the same iteration
        await asyncio.gather(*tasks)
        assert kitchen.most_at_once <= GROUP

    _run(work())


def test_the_end_of_one_that_hung_is_not_the_end_of_a_later_group() -> None:
    async def work() -> None:
        kitchen = _Kitchen()
        hung = [asyncio.ensure_future(kitchen.prepare(f"hung {n}", 3600)) for n in range(GROUP)]
        names = [f"{number}" for number in range(2 * GROUP)]
        tasks = [asyncio.ensure_future(kitchen.prepare(one, PATIENCE_S)) for one in names[:GROUP]]
        await asyncio.sleep(1.25 * PATIENCE_S)
        tasks += [asyncio.ensure_future(kitchen.prepare(one, 0.001)) for one in names[GROUP:]]
        await asyncio.sleep(0.001)
        for task in hung:
            task.cancel()
        await asyncio.sleep(0.25 * PATIENCE_S)
        assert kitchen.begun[GROUP:] == names[:GROUP]
        await asyncio.gather(*tasks, *hung, return_exceptions=True)
        assert kitchen.begun[GROUP:] == names

    _run(work())
