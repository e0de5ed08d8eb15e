"""The table of the other nodes of a run, and tables with columns for names of nodes. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import msgspec
from rich.text import Text

from dynamo_cli.dashboard import format as show
from dynamo_cli.dashboard.draw.gpus import gpus_of
from dynamo_cli.dashboard.draw.style import BAD, FAINT, GOOD, WARN
from dynamo_cli.dashboard.draw.table import Column, Spec, T
from dynamo_cli.dashboard.draw.tables import PROCESSES
from dynamo_cli.dashboard.draw.workers import GPU_WORKERS, WORKERS, Worker
from dynamo_cli.dashboard.model import Board
from dynamo_cli.watch.node_schema import NodeView
from dynamo_cli.watch.schema import ProcessView

DEVICE_WIDTH, DEVICE_MOST = 13, 26
"""Least and most cells of a column that says ``gpu 3 @ node-b``."""

ROOMY = 100
"""Width from which on tables have such a column and all others."""


def nodes_of(board: Board) -> Sequence[NodeView]:
    """Return the rows of the table; there are none in a run on one machine."""
    return board.snapshot.nodes if board.snapshot else []


def state(node: NodeView) -> Text:
    """Draw ``● up``, or since when the node is lost; at the start it is awaited."""
    if node.up:
        return Text("● up", GOOD)
    if node.beat_s is None:
        return Text("○ awaited", WARN)
    return Text(f"✗ lost {show.duration(node.silent_s)}", BAD)


def count(number: float) -> Text:
    """Draw how often something went wrong."""
    return Text(show.number(number), WARN if number else FAINT)


def _number(
    title: str,
    width: int,
    drawn: Callable[[float], str | Text],
    value: Callable[[NodeView], float],
    from_width: int = 0,
) -> Column[NodeView]:
    """A column with a number of each node."""
    return Column(
        *(title, width, lambda node: drawn(value(node)), value),
        right=True,
        from_width=from_width,
    )


NODES: Spec[NodeView] = Spec(
    columns=(
        Column("node", 11, lambda node: node.name, lambda node: node.name, stretch=True, most=30),
        Column("state", 11, state, lambda node: (node.up, -node.silent_s)),
        Column(
            *("beat", 6, lambda node: show.seconds(node.beat_s)),
            lambda node: node.beat_s or 0.0,
            right=True,
        ),
        _number("sent", 7, show.size, lambda node: node.sent_bytes),
        _number("received", 8, show.size, lambda node: node.received_bytes),
        _number("frames out", 10, show.number, lambda node: node.sent_frames, 120),
        _number("frames in", 9, show.number, lambda node: node.received_frames, 120),
        _number("cuts", 4, count, lambda node: node.resyncs),
        _number("joins", 5, count, lambda node: node.reconnects),
        _number("refused", 7, count, lambda node: node.refused_connections),
        _number("stale", 5, count, lambda node: node.stale_frames, 90),
        _number("log lost", 8, count, lambda node: node.lost_log_lines),
    ),
    key=lambda node: node.name,
    words=lambda node: f"{node.name} {state(node)}",
    copied=lambda node: msgspec.json.encode(node).decode(),
    tail=False,
    empty="all runs on this machine",
    fields={
        "node": lambda node: node.name,
        "state": lambda node: state(node).plain,
        "beat": lambda node: node.beat_s,
        "sent": lambda node: node.sent_bytes,
        "received": lambda node: node.received_bytes,
        "cuts": lambda node: node.resyncs,
        "joins": lambda node: node.reconnects,
        "refused": lambda node: node.refused_connections,
        "stale": lambda node: node.stale_frames,
        "lost": lambda node: node.lost_log_lines,
    },
)


def _device(name: str, width: int) -> Text:
    """Draw ``gpu 3 @ node-b``; where that is too long, ``3 @ node-b``."""
    return Text(name if len(name) <= width else name.removeprefix("gpu "))


def _on_nodes(spec: Spec[T], device: str, other: str, name: Callable[[T], str]) -> Spec[T]:
    """The table with room for names of nodes: narrow ones leave out another column.

    Args:
        device, other: titles of the column that gets the room, and of the one that is left out.
        name: returns what the first one says of a row.
    """
    more = DEVICE_WIDTH - next(one.width for one in spec.columns if one.title == device)

    def fitted(column: Column[T]) -> Column[T]:
        if column.title == device:
            room = replace(column, width=DEVICE_WIDTH, stretch=True, most=DEVICE_MOST)
            return replace(room, wide=lambda row, width: _device(name(row), width))
        if column.title == other:
            return replace(column, from_width=ROOMY)
        return replace(column, from_width=column.from_width and column.from_width + more + 1)

    return replace(spec, columns=tuple(map(fitted, spec.columns)))


_WORKERS, _GPU_WORKERS = (
    _on_nodes(one, "on", "memory", lambda row: row.process.device if row.process else "")
    for one in (WORKERS, GPU_WORKERS)
)
_PROCESSES = _on_nodes(PROCESSES, "device", "pid", lambda one: one.device)


def workers_spec(board: Board) -> Spec[Worker]:
    """The columns of workers that make sense for this board."""
    if nodes_of(board):
        return _GPU_WORKERS if gpus_of(board) else _WORKERS
    return GPU_WORKERS if gpus_of(board) else WORKERS


def processes_spec(board: Board) -> Spec[ProcessView]:
    """The columns of processes that make sense for this board."""
    return _PROCESSES if nodes_of(board) else PROCESSES
