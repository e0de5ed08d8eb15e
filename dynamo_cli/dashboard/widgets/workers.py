"""The workers tab: tables of workers, GPUs and processes."""

from __future__ import annotations

from rich.text import Text
from textual.app import ComposeResult

from dynamo_cli.dashboard.draw.gpus import GPUS, gpus_of
from dynamo_cli.dashboard.draw.style import FAINT, WARN
from dynamo_cli.dashboard.draw.tables import PROCESSES, WORKERS, processes_of, workers_of
from dynamo_cli.dashboard.model import Board
from dynamo_cli.dashboard.widgets.pane import Pane
from dynamo_cli.dashboard.widgets.tab import Tab
from dynamo_cli.dashboard.widgets.table import Table


class Workers(Tab):
    """The second tab, with workers."""

    def __init__(self) -> None:
        super().__init__(id="workers")

    def compose(self) -> ComposeResult:
        """Create the widgets."""
        yield Pane(lambda board, *_: odd(board), id="odd")
        yield Table(WORKERS, id="workers-table")
        yield Table(GPUS, id="gpus-table")
        yield Table(PROCESSES, id="processes-table")

    def show(self, board: Board) -> None:
        """Show this board from now on."""
        super().show(board)
        workers, gpus, processes = self.query(Table)
        rows = workers_of(board)
        workers.styles.max_height = max(len(rows), 1) + 1
        workers.show(rows)
        there = gpus_of(board)
        gpus.display = bool(there)
        gpus.styles.max_height = len(there) + 1
        gpus.show(there)
        processes.show(processes_of(board))


def odd(board: Board) -> Text:
    """Draw the strongest remark on a worker that differs from the others."""
    if board.odd:
        return Text.assemble(("◆ ", WARN), board.odd[0])
    several = board.snapshot is not None and len(board.snapshot.workers) > 1
    return Text("no worker stands out" if several else "", FAINT)
