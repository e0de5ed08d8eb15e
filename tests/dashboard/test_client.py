"""The client with a real frontend process: keys, lost connections, reconnects."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, TypeVar

import pytest
from aiohttp import web
from rich.console import Console

from dynamo_cli.cli import top
from dynamo_cli.config import FrontendConfig
from dynamo_cli.dashboard import client as module
from dynamo_cli.dashboard import printed
from dynamo_cli.dashboard.client import DashboardClient
from dynamo_cli.dashboard.events import ConnectionChange, Decided, Event, Lines, State
from dynamo_cli.dashboard.model import Board, BoardState
from dynamo_cli.errors import CannotWatch
from dynamo_cli.messages.lifecycle import Logged, LogLine
from dynamo_cli.messages.routing import Candidate, Decisions, RouterStats, RoutingDecision
from dynamo_cli.topology import ROUTER
from dynamo_cli.watch.node_schema import NodeView
from dynamo_cli.watch.schema import GpuView, MovesView, Snapshot
from tests.dashboard.made import gpu, node, snapshot
from tests.frontend.stage import Stage, patiently
from tests.support.server import free_port

T = TypeVar("T")


async def next_of(events: AsyncGenerator[Event], kind: type[T]) -> T:
    while True:
        event = await patiently(anext(events))
        if isinstance(event, kind):
            return event


def url_of(stage: Stage) -> str:
    return f"http://127.0.0.1:{stage.port}"


def test_it_hears_snapshots_decisions_and_lines() -> None:
    async def scenario() -> None:
        async with Stage() as stage:
            router = await stage.neighbour(ROUTER)
            router.send(RouterStats("kv", {0: 1}, {0: 1}, 0))
            candidates = [Candidate(0, 5.0, 2, {"prefill": 5.0})]
            fields = ("kv", "cost", 70, 3, 2, 32, candidates, 0.0, 0.0, 9.0, 0, None, "s1")
            router.send(Decisions([RoutingDecision("e", "a", 0, *fields)], [], 0))
            stage.tell(Logged([LogLine(1, 0.0, "worker 0", "INFO", "hello")], 0))
            async with aclosing(DashboardClient(url_of(stage)).events()) as events:
                assert (await next_of(events, ConnectionChange)).state is State.LIVE
                assert (await next_of(events, Snapshot)).serving
                decided = await next_of(events, Decided)
                assert decided.decisions[0].session == "s1"
                assert (await next_of(events, Lines)).lines[0].text == "hello"

    asyncio.run(scenario())


def test_a_key_is_needed_where_there_are_keys() -> None:
    async def scenario() -> None:
        async with Stage(FrontendConfig(port=0, api_keys=("k",))) as stage:
            async with aclosing(DashboardClient(url_of(stage)).events()) as events:
                lost = await next_of(events, ConnectionChange)
                assert lost.state is State.LOST
                assert "wants an API key: give one of its keys with --api-key" in lost.reason
                assert "DYNAMO_LLM_API_KEY" in lost.reason
            async with aclosing(DashboardClient(url_of(stage), "other").events()) as events:
                assert (
                    "does not accept this API key"
                    in (await next_of(events, ConnectionChange)).reason
                )
            async with aclosing(DashboardClient(url_of(stage), "k").events()) as events:
                assert (await next_of(events, ConnectionChange)).state is State.LIVE

    asyncio.run(scenario())


def test_a_server_that_goes_is_told_and_found_again_when_it_is_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "FIRST_RETRY_S", 0.05)

    async def scenario() -> None:
        port = free_port()
        async with aclosing(DashboardClient(f"http://127.0.0.1:{port}").events()) as events:
            lost = await next_of(events, ConnectionChange)
            assert (lost.state, "connection refused" in lost.reason) == (State.LOST, True)
            for _ in range(2):
                async with Answers(port, b"event: weather\ndata: 1\n\n"):
                    while (await next_of(events, ConnectionChange)).state is not State.LIVE:
                        pass
                assert (await next_of(events, ConnectionChange)).state is State.LOST

    asyncio.run(scenario())


class Answers:
    """Another server, which always sends the same."""

    def __init__(self, port: int, body: bytes, status: int = 200) -> None:
        self._port = port
        self._body = body
        self._status = status

    async def __aenter__(self) -> Answers:
        async def handle(_: Any) -> web.Response:
            return web.Response(body=self._body, status=self._status)

        self._runner = web.ServerRunner(web.Server(handle))
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self._port).start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        (b"{}", 404, "is not a dynamo-llm server: it answers 404"),
        (b'event: snapshot\ndata: {"version": "9"}\n\n', 200, "runs another version of dynamo-llm"),
        (b"event: snapshot\ndata: {\n\n", 200, "runs another version of dynamo-llm"),
        (b"hello", 200, "has ended its stream"),
    ],
)
def test_other_servers_are_told_apart(body: bytes, status: int, says: str) -> None:
    async def scenario() -> None:
        port = free_port()
        async with Answers(port, body, status):
            with pytest.raises(CannotWatch) as failure:
                await printed.first_board(DashboardClient(f"http://127.0.0.1:{port}"))
            assert says in failure.value.message
            with pytest.raises(CannotWatch):
                await DashboardClient(f"http://127.0.0.1:{port}").timelines("a")

    asyncio.run(scenario())


def test_one_screen_and_one_line_on_paper() -> None:
    async def scenario() -> None:
        async with Stage() as stage:
            board = await printed.first_board(DashboardClient(url_of(stage)))
            assert board.flow.decisions is None, "nothing is known of rates yet"
            later = await printed.first_board(DashboardClient(url_of(stage)), 0.3)
            assert later.flow.decisions == 0.0
        assert '"serving": true' in printed.as_json(board)
        line = printed.watch_line(board)
        assert len(line.split()) >= len(printed.WATCH_HEAD.split()) - 2
        state = BoardState()
        state.apply(snapshot(moves=MovesView({"died": 12, "drained": 3})), 0)
        moved = printed.watch_line(state.board(0)).split()[-3:]
        assert moved == ["15", "0", "–"], "the last columns: moved, errors, alarms"

    asyncio.run(scenario())


@pytest.mark.parametrize("gpus", [[], [gpu(0), gpu(1, utilization=None, xids={79: 1})]])
def test_gpus_are_on_paper_where_there_are_some(gpus: list[GpuView]) -> None:
    state = BoardState()
    state.apply(snapshot(gpus=gpus), 0)
    paper = io.StringIO()
    printed.screen(state.board(0), Console(width=100, file=paper, color_system=None))
    text = paper.getvalue()
    lines = [" ".join(line.split()) for line in text.splitlines()]
    if gpus:
        assert "0 ████▋ 92 % 72/80 GiB 612/700 W 64 °C worker 0" in lines
        assert "1 – 72/80 GiB 612/700 W 64 °C worker 1 1 × Xid 79" in lines
    else:
        assert "power" not in text
    assert len(json.loads(printed.as_json(state.board(0)))["gpus"]) == len(gpus)


@pytest.mark.parametrize("nodes", [[], [node("node-a"), node("node-b", up=False, silent_s=9.0)]])
def test_nodes_are_on_paper_where_there_are_some(nodes: list[NodeView]) -> None:
    state = BoardState()
    state.apply(snapshot(nodes=nodes), 0)
    paper = io.StringIO()
    printed.screen(state.board(0), Console(width=80, file=paper, color_system=None))
    lines = [" ".join(line.split()) for line in paper.getvalue().splitlines()]
    assert ("node-a ● up 1.2 ms 31 MiB 64 MiB 0 0 0 0" in lines) == bool(nodes)
    assert ("node-b ✗ lost 9s 1.2 ms 31 MiB 64 MiB 0 0 0 0" in lines) == bool(nodes)


def test_a_line_of_watch_comes_once_in_an_interval(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def boards(_: DashboardClient) -> AsyncGenerator[Board]:
        state = BoardState("http://h:1")
        for at_s in range(3):
            state.apply(snapshot(), at_s)
            yield state.board(at_s)

    monkeypatch.setattr(printed, "boards", boards)
    asyncio.run(top._print_lines(DashboardClient("http://h:1", ""), 60.0))
    assert len(capsys.readouterr().out.splitlines()) == 2  # the head, and one line
