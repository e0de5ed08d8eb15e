"""The dashboard as plain output: one screen, JSON, or a line per snapshot."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

import msgspec
from rich.console import Console
from rich.text import Text

from dynamo_cli.dashboard import format as show
from dynamo_cli.dashboard.client import DashboardClient
from dynamo_cli.dashboard.draw import cache, overview, picture, prefill
from dynamo_cli.dashboard.draw.decisions import DECISIONS
from dynamo_cli.dashboard.draw.gpus import GPUS, gpus_of
from dynamo_cli.dashboard.draw.nodes import NODES, nodes_of, processes_spec, workers_spec
from dynamo_cli.dashboard.draw.style import STRONG
from dynamo_cli.dashboard.draw.table import Spec, T, fit
from dynamo_cli.dashboard.draw.workers import workers_of
from dynamo_cli.dashboard.events import Event
from dynamo_cli.dashboard.model import Board, BoardState
from dynamo_cli.errors import CannotWatch
from dynamo_cli.watch.schema import Snapshot

LAST_DECISIONS = 8
RATES_S = 1.0
"""How long a single screen waits, so that it knows rates."""

FIRST_S = 10.0
"""How long the first snapshot may take."""


async def boards(client: DashboardClient) -> AsyncGenerator[Board]:
    """Generate a board for each snapshot, with all events that came with it.

    Raises:
        CannotWatch: the server cannot be reached, or has ended.
    """
    state, due = BoardState(client.url), False
    async with aclosing(_patiently(client)) as events:
        async for event in events:
            now = time.time()
            # The server sends each snapshot before the other events of the same time. So when the
            # next snapshot comes, the board of the one before is complete.
            if isinstance(event, Snapshot) and due:
                yield state.board(now)
            state.apply(event, now)
            due = due or isinstance(event, Snapshot)


async def _patiently(client: DashboardClient) -> AsyncGenerator[Event]:
    events = client.once()
    try:
        async with asyncio.timeout(FIRST_S):
            first = await anext(events)
    except TimeoutError as error:
        raise CannotWatch(f"{client.url} does not answer in time.") from error
    yield first
    async for event in events:
        yield event


async def first_board(client: DashboardClient, span_s: float = 0.0) -> Board:
    """Return the first complete board.

    Args:
        span_s: the time over which it must know rates; it waits for so long.

    Raises:
        CannotWatch: the server cannot be reached, or has ended.
    """
    async with aclosing(boards(client)) as found:
        begin_s = None
        async for board in found:
            assert board.snapshot is not None
            uptime_s = board.snapshot.uptime_s
            begin_s = uptime_s if begin_s is None else begin_s
            if uptime_s - begin_s >= span_s or uptime_s < begin_s:
                return board
    raise CannotWatch(f"{client.url} has ended its stream.")


def as_json(board: Board) -> str:
    """Return the snapshot as indented JSON."""
    return msgspec.json.format(msgspec.json.encode(board.snapshot), indent=2).decode()


def screen(board: Board, console: Console) -> None:
    """Print all parts of the dashboard, one below the other."""
    width = console.width
    assert board.snapshot is not None
    parts = [overview.header(board, width, paused=False)]
    if width >= picture.LEAST_WIDTH:
        parts.append(picture.draw(board, width))
    parts += [overview.times(board.snapshot, width), overview.attention(board)]
    parts += [_table(workers_spec(board), workers_of(board), width)]
    if gpus := gpus_of(board):
        parts.append(_table(GPUS, gpus, width))
    if nodes := nodes_of(board):
        parts.append(_table(NODES, nodes, width))
    if board.decisions:
        parts.append(_table(DECISIONS, board.decisions[-LAST_DECISIONS:], width))
    parts.append(cache.draw(board, width))
    if board.snapshot.prefill is not None:
        parts.append(prefill.draw(board, width))
    parts.append(_table(processes_spec(board), board.processes, width))
    for part in parts:
        console.print(part, highlight=False, soft_wrap=True)
        console.print()


def _table(spec: Spec[T], items: Sequence[T], width: int) -> Text:
    fitted = fit(spec.columns, width)
    return Text("\n").join([Text(fitted.head(), STRONG), *map(fitted.line, items)])


WATCH_HEAD = (
    f"{'time':<8} {'req/s':>6} {'flight':>6} {'wait':>5} {'in/s':>6} {'out/s':>6} "
    f"{'TTFT p50':>8} {'p95':>8} {'ITL p95':>8} {'KV':>5} {'hit':>5} {'queue':>5} "
    f"{'moved':>5} {'err/m':>5}  alarms"
)


def watch_line(board: Board) -> str:
    """Return the figures of a board as one line, with the columns of `WATCH_HEAD`."""
    snapshot = board.snapshot
    assert snapshot is not None
    traffic, workers = snapshot.traffic, snapshot.workers
    usage = max((worker.kv_cache_usage for worker in workers), default=None)
    waiting = snapshot.queues.waiting
    sample = board.samples[-1]
    alarms = ", ".join(alarm.kind for alarm in snapshot.alarms)
    if not snapshot.serving:
        alarms = f"not serving: {snapshot.reason}"
    return (
        f"{show.clock(board.now_s):<8} {show.number(round(traffic.requests_per_s, 1)):>6} "
        f"{show.number(traffic.in_flight):>6} {show.number(waiting):>5} "
        f"{show.number(round(traffic.prompt_tokens_per_s)):>6} "
        f"{show.number(round(traffic.output_tokens_per_s)):>6} "
        f"{show.seconds(traffic.ttft_p50_s):>8} {show.seconds(traffic.ttft_p95_s):>8} "
        f"{show.seconds(traffic.itl_p95_s):>8} {show.percent(usage):>5} "
        f"{show.percent(sample.hit_measured):>5} {show.number(sample.depth_jobs):>5} "
        f"{show.number(sum(snapshot.moves.moved.values())):>5} "
        f"{show.number(snapshot.recent_errors.of_server):>5}  "
        f"{alarms or show.NONE}"
    )
