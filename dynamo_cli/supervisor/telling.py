"""What people are told: here, by the view, and elsewhere, by way of the frontend."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from dynamo_cli.supervisor.children import Child
from dynamo_cli.supervisor.logs import Line, LogFeed
from dynamo_cli.supervisor.view import OWN_NAME, View

INTERVAL_S = 0.1


class Telling:
    """Lines of children and of the supervisor itself.

    Args:
        view: shows them here.
        frontend: gives the one of now; None or one that has ended while there is none.
    """

    def __init__(self, view: View, frontend: Callable[[], Child | None]) -> None:
        self._view = view
        self._frontend = frontend
        self._feed = LogFeed()
        self._timer: asyncio.TimerHandle | None = None

    def line(self, child: Child, line: Line) -> None:
        """A line of a child's output."""
        name = child.process.name
        if line.access:
            self._view.access(name, line.text)
            return
        self._view.log(name, line.level, line.text)
        self._keep(name, line.level, line.text)

    def notice(self, level: str, text: str) -> None:
        """Something of our own to say."""
        self._view.notice(level, text)
        self._keep(OWN_NAME, level, text)

    def serving(self, url: str, curl: str) -> None:
        """Requests can be answered."""
        self._keep(OWN_NAME, "INFO", f"serving on {url}")
        self._view.serving(url, curl)

    def anew(self) -> None:
        """A new frontend knows nothing yet."""
        self._feed.restart()
        self._send_soon()

    def _keep(self, name: str, level: str, text: str) -> None:
        self._feed.add(time.time(), name, level, text)
        self._send_soon()

    def _send_soon(self) -> None:
        """Lines go to the frontend in batches, when it has taken those before."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(INTERVAL_S, self._send)

    def _send(self) -> None:
        self._timer = None
        frontend = self._frontend()
        if frontend is None or not frontend.alive:
            return
        if frontend.control.flush() and (lines := self._feed.take()) is not None:
            frontend.control.send(lines)
        if self._feed.behind:
            self._send_soon()
