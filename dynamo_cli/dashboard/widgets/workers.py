"""The workers tab: tables of workers, GPUs, nodes and processes, and curves of the workers."""

from __future__ import annotations

from rich.text import Text
from textual.app import ComposeResult
from textual.containers import Container

from dynamo_cli.dashboard.draw import multiples
from dynamo_cli.dashboard.draw.gpus import GPUS, gpus_of
from dynamo_cli.dashboard.draw.nodes import NODES, nodes_of, processes_spec, workers_spec
from dynamo_cli.dashboard.draw.style import FAINT, WARN
from dynamo_cli.dashboard.draw.tables import PROCESSES, processes_of
from dynamo_cli.dashboard.draw.workers import WORKERS, workers_of
from dynamo_cli.dashboard.model import Board
from dynamo_cli.dashboard.widgets.pane import Pane
from dynamo_cli.dashboard.widgets.tab import Tab
from dynamo_cli.dashboard.widgets.table import Table

BESIDE_FROM = 150
"""Width from which on curves are beside the processes instead of below them."""

LEAST_CURVES = 6
"""Fewest free lines in which curves are drawn."""


class WorkersTab(Tab):
    """The second tab, with workers."""

    def __init__(self) -> None:
        super().__init__(id="workers")

    def compose(self) -> ComposeResult:
        """Create the widgets."""
        yield Pane(lambda board, *_: odd(board), id="odd")
        yield Table(WORKERS, id="workers-table")
        yield Table(GPUS, id="gpus-table")
        yield Table(NODES, id="nodes-table")
        with Container(id="below"):
            yield Table(PROCESSES, id="processes-table")
            yield Pane(multiples.draw, id="multiples")

    def show(self, board: Board) -> None:
        """Show this board from now on."""
        workers, *middle, processes = self.query(Table)
        rows, known = workers_of(board), processes_of(board)
        workers.use(workers_spec(board))
        processes.use(processes_spec(board))
        workers.styles.max_height = max(len(rows), 1) + 1
        free = self.size.height - len(rows) - 3
        for table, there in zip(middle, (gpus_of(board), nodes_of(board)), strict=True):
            table.display = bool(there)
            table.styles.max_height = len(there) + 1
            table.show(there)
            free -= len(there) + 2 if there else 0
        beside = self.size.width >= BESIDE_FROM
        self.query_one("#below").set_class(beside, "beside")
        curves = self.query_one("#multiples")
        curves.display = free - (0 if beside else len(known) + 2) >= LEAST_CURVES
        processes.styles.max_height = len(known) + 1 if curves.display else None
        super().show(board)
        workers.show(rows)
        processes.show(known)


def odd(board: Board) -> Text:
    """Draw the strongest remark on a worker that differs from the others."""
    if board.odd:
        return Text.assemble(("◆ ", WARN), board.odd[0])
    several = board.snapshot is not None and len(board.snapshot.workers) > 1
    return Text("no worker stands out" if several else "", FAINT)
