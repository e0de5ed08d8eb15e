"""The interface by which the supervisor shows what happens; the command line implements it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from dynamo_cli import PROGRAM
from dynamo_cli.messages.lifecycle import ProcessState

OWN_NAME = PROGRAM
"""The name in front of lines of the supervisor itself."""


class View(Protocol):
    """Shows a run to people.

    None of its methods may block or raise: serving must not depend on a terminal or a log file.
    """

    @property
    def lost_lines(self) -> int:
        """How many lines could not be written."""

    def processes(self, table: Sequence[ProcessState]) -> None:
        """Called with every process of the tree when one of them changes."""

    def log(self, name: str, level: str, text: str) -> None:
        """Called with a line of a child's log."""

    def access(self, name: str, fields: str) -> None:
        """Called when an answer was given; `fields` is its access log entry, a JSON object."""

    def serving(self, url: str, curl: str) -> None:
        """Called once, when requests can be answered; `curl` is a command to try."""

    def notice(self, level: str, text: str) -> None:
        """Called with a line of the supervisor itself, about restarts, drains and deaths."""

    def ending(self) -> None:
        """Called when the run is about to end; only a few lines follow."""
