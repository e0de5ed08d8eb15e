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


def count(number: int) -> Text:
    """Draw how often something went wrong."""
    return Text(show.number(number), WARN if number else FAINT)


NODES: Spec[NodeView] = Spec(
    columns=(
        Column("node", 11, lambda node: node.name, lambda node: node.name, stretch=True, most=30),
        Column("state", 11, state, lambda node: (node.up, -node.silent_s)),
        Column(
            *("beat", 6, lambda node: show.seconds(node.beat_s)),
            lambda node: node.beat_s or 0.0,
            right=True,
        ),
        Column(
            *("sent", 7, lambda node: show.size(node.sent_bytes)),
            lambda node: node.sent_bytes,
            right=True,
        ),
        Column(
            *("received", 8, lambda node: show.size(node.received_bytes)),
            lambda node: node.received_bytes,
            right=True,
        ),
        Column(
            *("frames out", 10, lambda node: show.number(node.sent_frames)),
            lambda node: node.sent_frames,
            right=True,
            from_width=120,
        ),
        Column(
            *("frames in", 9, lambda node: show.number(node.received_frames)),
            lambda node: node.received_frames,
            right=True,
            from_width=120,
        ),
        Column(
            *("cuts", 4, lambda node: count(node.resyncs)), lambda node: node.resyncs, right=True
        ),
        Column(
            *("joins", 5, lambda node: count(node.reconnects)),
            lambda node: node.reconnects,
            right=True,
        ),
        Column(
            *("refused", 7, lambda node: count(node.refused_connections)),
            lambda node: node.refused_connections,
            right=True,
        ),
        Column(
            *("stale", 5, lambda node: count(node.stale_frames)),
            lambda node: node.stale_frames,
            right=True,
            from_width=90,
        ),
        Column(
            *("log lost", 8, lambda node: count(node.lost_log_lines)),
            lambda node: node.lost_log_lines,
            right=True,
        ),
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
