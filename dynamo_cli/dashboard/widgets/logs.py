"""The log tab: the merged logs of all processes."""

from __future__ import annotations

import logging

from rich.text import Text
from textual.app import ComposeResult

from dynamo_cli.dashboard.draw.style import FAINT, STRONG, joined
from dynamo_cli.dashboard.draw.tables import LOGS
from dynamo_cli.dashboard.model import Board
from dynamo_cli.dashboard.widgets.pane import Pane
from dynamo_cli.dashboard.widgets.tab import Tab
from dynamo_cli.dashboard.widgets.table import Table
from dynamo_cli.watch.logs import LogView

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
ALL = "all"


class LogsTab(Tab):
    """The sixth tab, with log lines."""

    def __init__(self) -> None:
        super().__init__(id="logs")
        self._level = LEVELS[0]
        self._role = ALL
        self._board: Board | None = None

    def compose(self) -> ComposeResult:
        """Create the widgets."""
        yield Pane(lambda *_: self._summary(), id="logs-summary")
        yield Table(LOGS, id="logs-table")

    def show(self, board: Board) -> None:
        """Show this board from now on."""
        self._board = board
        super().show(board)
        self.query_one(Table).show([line for line in board.lines if self._wanted(line)])

    def next_level(self) -> None:
        """Show only lines of the next level and above."""
        self._level = LEVELS[(LEVELS.index(self._level) + 1) % len(LEVELS)]
        self._again()

    def next_role(self) -> None:
        """Show only lines of the next role, of those that have log lines."""
        lines = self._board.lines if self._board else ()
        roles = [ALL, *sorted({role_of(line) for line in lines})]
        place = roles.index(self._role) if self._role in roles else 0
        self._role = roles[(place + 1) % len(roles)]
        self._again()

    def _again(self) -> None:
        if self._board is not None:
            self.show(self._board)

    def _wanted(self, line: LogView) -> bool:
        if self._role not in (ALL, role_of(line)):
            return False
        return number_of(line.level) >= number_of(self._level)

    def _summary(self) -> Text:
        following = self.query_one(Table).follow
        return joined(
            [
                Text.assemble(("l ", FAINT), ("level ", FAINT), (f"{self._level} +", STRONG)),
                Text.assemble(("r ", FAINT), ("role ", FAINT), (self._role, STRONG)),
                Text.assemble(("f ", FAINT), "following" if following else "not following"),
            ],
            "    ",
        )


def role_of(line: LogView) -> str:
    """Return the name of a process without its number."""
    return line.name.rstrip("0123456789 ")


def number_of(level: str) -> int:
    """Return the number of a log level; a greater one is more severe."""
    return logging.getLevelNamesMapping().get(level, logging.INFO)
