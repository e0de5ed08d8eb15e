"""Stands for a process that the system has not let start yet, until it is tried again. Pure."""

from __future__ import annotations

import signal

from dynamo_cli.supervisor.child import Child, Parent, Start


class FailedStart(Child):
    """A child that has never run, so it has ended, and has no control socket.

    Args:
        node: name of the node that it is to run on; empty for this machine.
    """

    def __init__(self, start: Start, parent: Parent, node: str) -> None:
        super().__init__(start, parent)
        self.node = node
        self.gone.set()

    @property
    def last_words(self) -> list[str]:
        """It said nothing."""
        return []

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """There is nothing to kill."""

    def discard(self) -> None:
        """There is nothing to close."""
