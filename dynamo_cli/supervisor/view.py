"""Where the supervisor shows what happens; the command line implements it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from dynamo_cli import PROGRAM
from dynamo_cli.messages.lifecycle import ProcessState

OWN_NAME = PROGRAM
"""Who says what no child says."""


class View(Protocol):
    """None of this waits for anybody or fails: what acts must not depend on what tells."""

    @property
    def lost_lines(self) -> int:
        """Lines that could not be written."""

    def processes(self, table: Sequence[ProcessState]) -> None:
        """Every process of the tree, at each change."""

    def log(self, name: str, level: str, text: str) -> None:
        """One line of a child's log."""

    def access(self, name: str, fields: str) -> None:
        """A request ended; `fields` is a JSON object of what there is to tell of it."""

    def serving(self, url: str, curl: str) -> None:
        """Once, when requests can be answered; `curl` is a command to try."""

    def notice(self, level: str, text: str) -> None:
        """Something the supervisor has to say: restarts, drains, deaths."""

    def ending(self) -> None:
        """The run is about to end; what follows are its last words."""
