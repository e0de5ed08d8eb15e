"""Fans log lines and notices out: to the view of this run, and to the frontend for dashboards."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from dynamo_cli.supervisor.child import Child
from dynamo_cli.supervisor.logs import LogFeed, OutputLine
from dynamo_cli.supervisor.view import OWN_NAME, View

INTERVAL_S = 0.1
"""Seconds between two batches of lines for the frontend."""


class _Notices(logging.Handler):
    """Turns what is logged in the supervisor's own process into notices."""

    def __init__(self, loop: asyncio.AbstractEventLoop, notice: Callable[[str, str], None]) -> None:
        super().__init__(logging.WARNING)
        self._loop, self._notice = loop, notice

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(RuntimeError):  # a thread logged it after the event loop was closed
            self._loop.call_soon_threadsafe(self._notice, record.levelname, record.getMessage())


class LogFanout:
    """Fans lines of the children and of the supervisor itself out.

    Args:
        view: shows them to the people who started this run.
        frontend: returns the current frontend. While there is none, it returns None or one that has
            ended.
    """

    def __init__(self, view: View, frontend: Callable[[], Child | None]) -> None:
        self._view = view
        self._frontend = frontend
        self._feed = LogFeed()
        self._lost_lines = 0
        self._timer: asyncio.TimerHandle | None = None

    @contextmanager
    def captured_loggers(self) -> Iterator[None]:
        """While this lasts, show what is logged in this process as notices of the supervisor."""
        handler = _Notices(asyncio.get_running_loop(), self.notice)
        logging.root.addHandler(handler)
        try:
            yield
        finally:
            logging.root.removeHandler(handler)

    def line(self, child: Child, line: OutputLine) -> None:
        """Show a line of a child's output."""
        name = child.process.name
        if line.access:
            self._view.access(name, line.text)
            if self._view.lost_lines != self._lost_lines:
                self._send_soon()
            return
        self._view.log(name, line.level, line.text)
        self._keep(name, line.level, line.text)

    def notice(self, level: str, text: str) -> None:
        """Show a line of the supervisor itself."""
        self._view.notice(level, text)
        self._keep(OWN_NAME, level, text)

    def serving(self, address: str, *, has_keys: bool) -> None:
        """Report that requests can be sent to `address`, with a command to try.

        Args:
            has_keys: whether the command needs an API key.
        """
        url = address + "/v1"
        for everywhere in ("127.0.0.1", "0.0.0.0", "[::1]", "[::]"):
            url = url.replace(f"//{everywhere}:", "//localhost:")
        key = " -H 'Authorization: Bearer KEY'" if has_keys else ""
        body = '{"messages": [{"role": "user", "content": "What is the capital of France?"}]}'
        self._keep(OWN_NAME, "INFO", f"serving on {url}")
        self._view.serving(
            url, f"curl {url}/chat/completions{key} -H 'Content-Type: application/json' -d '{body}'"
        )

    def on_new_frontend(self) -> None:
        """Send a new frontend the latest lines again: it has none of them."""
        self._feed.restart()
        self._send_soon()

    def _keep(self, name: str, level: str, text: str) -> None:
        self._feed.add(time.time(), name, level, text)
        self._send_soon()

    def _send_soon(self) -> None:
        """Schedule the next batch for the frontend; it is sent once the last one was taken."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(INTERVAL_S, self._send)

    def _send(self) -> None:
        self._timer = None
        frontend = self._frontend()
        if frontend is None or not frontend.alive:
            return
        self._lost_lines = self._view.lost_lines
        if frontend.control.flush() and (lines := self._feed.take(self._lost_lines)) is not None:
            frontend.control.send(lines)
        if self._feed.behind:
            self._send_soon()
