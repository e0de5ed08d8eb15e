"""Hundreds of requests to simulated engines, while processes die at any time: none is lost."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from typing import Any

import aiohttp
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.benchmarks.chaos_load import SHAPES, Answer, Shape, ask
from tests.support.server import Server, wait_until

pytestmark = pytest.mark.engine

MADE = tuple(shape for shape in SHAPES if not shape.real)
AT_ONCE = 24
BACK_S = 60.0
SPAN_S = 1.5
"""Time within which all requests have begun and the deaths happen."""


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server("--engine", "mock", "--workers", "2", "--router", "kv") as running:
        yield running


@pytest.fixture(scope="module")
def right(server: Server) -> dict[str, Any]:
    """What is answered to each shape while nothing happens."""

    async def learn() -> list[Answer]:
        async with aiohttp.ClientSession(server.url) as session:
            return [await ask(session, shape) for shape in MADE]

    return {answer.shape.name: answer.essence for answer in asyncio.run(learn())}


async def under_fire(
    server: Server, shapes: list[Shape], deaths: list[tuple[float, str]]
) -> list[Answer]:
    """Ask these shapes, begun one after the other, and kill each of these processes at its time."""

    async def begin(session: aiohttp.ClientSession, shape: Shape, after_s: float) -> Answer:
        await asyncio.sleep(after_s)
        return await ask(session, shape)

    async def kill(name: str, after_s: float) -> None:
        pid = server.pid_of(name)
        await asyncio.sleep(after_s)
        os.kill(pid, signal.SIGKILL)

    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(server.url, connector=connector) as session:
        step_s = SPAN_S / len(shapes)
        asked = [begin(session, shape, number * step_s) for number, shape in enumerate(shapes)]
        return (await asyncio.gather(asyncio.gather(*asked), *(kill(*one) for one in deaths)))[0]


# One death of a process that has requests in each example: a request that two processes die of,
# before any of them gave a token, counts as the cause, and is ended.
holders = st.sampled_from(["worker 0", "worker 1", "processor 0", "processor 1"])
others = st.sampled_from(["router", "zygote", ""])
moments = st.floats(0.0, SPAN_S)


@settings(
    max_examples=6,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    shapes=st.lists(st.sampled_from(MADE), min_size=AT_ONCE, max_size=2 * AT_ONCE),
    holder=holders,
    when=moments,
    other=others,
    also=moments,
)
def test_no_request_is_lost_and_no_answer_changes(
    server: Server,
    right: dict[str, Any],
    shapes: list[Shape],
    holder: str,
    when: float,
    other: str,
    also: float,
) -> None:
    deaths = [(holder, when)] + ([(other, also)] if other else [])
    before = {name: server.pid_of(name) for name, _ in deaths}
    answers = asyncio.run(under_fire(server, shapes, deaths))
    assert [answer.error for answer in answers if answer.error] == []
    assert [
        answer.shape.name for answer in answers if answer.essence != right[answer.shape.name]
    ] == []

    def back() -> bool:
        processes = server.processes()
        return all(process["phase"] == "ready" for process in processes.values()) and all(
            processes[name]["pid"] != pid for name, pid in before.items()
        )

    wait_until(back, BACK_S, "all are back")
