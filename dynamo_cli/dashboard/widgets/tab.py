"""The base class of all tabs."""

from __future__ import annotations

from typing import Any

from textual.containers import Vertical

from dynamo_cli.dashboard.model import Board
from dynamo_cli.dashboard.widgets.pane import Pane
from dynamo_cli.dashboard.widgets.table import Table


class Tab(Vertical):
    """A tab, whose panes and tables show the same board."""

    def show(self, board: Board) -> None:
        """Show this board from now on."""
        for pane in self.query(Pane):
            pane.show(board)
        for table in self.query(Table):
            table.stale = board.stale_since_s is not None

    @property
    def table(self) -> Table[Any] | None:
        """The table that keys act upon: the one with the focus, else the first."""
        tables = list(self.query(Table))
        return next((one for one in tables if one.has_focus), tables[0] if tables else None)
