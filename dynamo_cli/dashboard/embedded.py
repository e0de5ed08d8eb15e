"""The dashboard of a server whose supervisor runs in the same process."""

from __future__ import annotations

import asyncio
import signal
import time
import traceback
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

from dynamo_cli.dashboard import hangup
from dynamo_cli.dashboard.app import Dashboard
from dynamo_cli.dashboard.client import DashboardClient
from dynamo_cli.dashboard.events import Event, Lines, ProcessList
from dynamo_cli.dashboard.model import BoardState
from dynamo_cli.dashboard.source import Source
from dynamo_cli.messages.lifecycle import Phase, ProcessState
from dynamo_cli.supervisor.view import OWN_NAME, View
from dynamo_cli.topology import Role
from dynamo_cli.watch.logs import LogView
from dynamo_cli.watch.processes import process_view

LAST_WORDS = 200
"""Most lines that are printed when the dashboard closes."""

CLOSE_S = 5.0
"""How long the end of the server waits for the dashboard to close."""

FRESH_S = 5.0
"""Lines older than this at the end of the server are not printed: they do not concern the end."""


class Embedded:
    """The supervisor's view: the dashboard while it is open, then plain lines.

    Args:
        plain: prints lines when the dashboard is closed.
        api_key: a key that the frontend accepts.
    """

    def __init__(self, plain: View, api_key: str = "") -> None:
        self._plain = plain
        self._client = DashboardClient("", api_key)
        self._state = BoardState()
        self._known = asyncio.Event()
        self._app = Dashboard(
            self._state,
            source=Source.of(self._client, self._follow),
            stop=lambda: signal.raise_signal(signal.SIGINT),
        )
        self._said: deque[tuple[float, Callable[[], None]]] = deque(maxlen=LAST_WORDS)
        self._number = 0
        self._served = self._open = self._ending = False

    async def beside(self, serving: Coroutine[Any, Any, int]) -> int:
        """Run the dashboard until the server has ended. If the dashboard fails, serving goes on.

        Args:
            serving: runs the server.

        Returns:
            the exit code of the server; its exceptions are passed on.
        """
        self._open = True
        hangup.watch()
        dashboard = asyncio.create_task(self._app.run_async())
        dashboard.add_done_callback(self._closed)
        try:
            return await serving
        finally:
            self._ending = True
            self._app.exit()
            await asyncio.wait([dashboard], timeout=CLOSE_S)

    def _closed(self, dashboard: asyncio.Task[None]) -> None:
        """Print the lines that were kept, now that the terminal is restored."""
        self._open = False
        for number in (signal.SIGTSTP, signal.SIGCONT):
            signal.signal(number, signal.SIG_DFL)
        for _, say in self._said:
            say()
        self._said.clear()
        failure = self._app.failure or (None if dashboard.cancelled() else dashboard.exception())
        if failure is not None:
            self._plain.notice("ERROR", f"the dashboard failed ({where(failure)}); serving goes on")
        elif not self._ending:
            self._plain.notice("WARNING", "the dashboard has ended; serving goes on")

    async def _follow(self) -> AsyncIterator[Event]:
        """The frontend's events, once its address is known; without log lines, which come from the
        supervisor."""
        await self._known.wait()
        async for event in self._client.events():
            if not isinstance(event, Lines):
                yield event

    def _say(self, what: Callable[[], None]) -> None:
        """Print a plain line now, or when the dashboard closes."""
        if self._open:
            self._said.append((time.time(), what))
        else:
            what()

    def _keep(self, name: str, level: str, text: str) -> None:
        self._number += 1
        now = time.time()
        lines = [LogView(self._number, now, name, level, line) for line in text.splitlines()]
        self._state.apply(Lines(lines), now)

    # -- the supervisor's view -----------------------------------------------------------------

    @property
    def lost_lines(self) -> int:
        """Number of lines that could not be written."""
        return self._plain.lost_lines

    def processes(self, table: Sequence[ProcessState]) -> None:
        """Show a new process table, and learn the address of the frontend from it."""
        now = time.monotonic_ns()
        self._state.apply(ProcessList([process_view(state, now) for state in table]), time.time())
        for state in table:
            if state.role is Role.FRONTEND and state.phase == Phase.READY:
                self._client.url = _here(state.reason)
                self._known.set()

    def log(self, name: str, level: str, text: str) -> None:
        """Show a log message of a process."""
        self._keep(name, level, text)
        self._say(lambda: self._plain.log(name, level, text))

    def access(self, name: str, fields: str) -> None:
        """Print an access line if the dashboard is closed; the dashboard does not show them."""
        if not self._open:
            self._plain.access(name, fields)

    def serving(self, url: str, curl: str) -> None:
        """Show that the server is ready."""
        self._served = True
        self._keep(OWN_NAME, "INFO", f"serving on {url}")
        self._keep(OWN_NAME, "INFO", f"try: {curl}")

    def notice(self, level: str, text: str) -> None:
        """Show a message of the supervisor itself."""
        self._keep(OWN_NAME, level, text)
        self._say(lambda: self._plain.notice(level, text))

    def ending(self) -> None:
        """Close the dashboard; lines about the end are printed after that."""
        if self._served:
            oldest = time.time() - FRESH_S
            self._said = deque(
                (said for said in self._said if said[0] >= oldest), maxlen=LAST_WORDS
            )
        self._ending = True
        self._app.exit()


def _here(url: str) -> str:
    """Return the URL at which this host reaches a server that listens at `url`."""
    return url.replace("//0.0.0.0:", "//127.0.0.1:").replace("//[::]:", "//[::1]:")


def where(error: BaseException) -> str:
    """Describe an unexpected exception on one line, with the place in the code."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())}{place}"
