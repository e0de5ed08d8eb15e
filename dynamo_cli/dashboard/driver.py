"""Textual's terminal, but one that is not read, or that sends bytes of no text, ends nothing."""

from __future__ import annotations

import sys
from typing import Any

from textual.app import App
from textual.drivers.linux_driver import LinuxDriver

from dynamo_cli.host.outlet import Outlet

MAX_WAITING_CHARS = 1 << 17
"""A few full screens: what a slow terminal is behind at most."""


class SteadyDriver(LinuxDriver):
    """The screen and the keys of a terminal.

    Textual waits for a terminal that takes no more (Ctrl-S, a stuck connection), in the event loop
    that it shares with the supervisor. Here what it cannot take is left out, and the whole screen
    is painted when it can take something again.
    """

    def __init__(self, app: App[Any], **options: Any) -> None:
        super().__init__(app, **options)
        assert sys.__stderr__ is not None
        self._picture = Outlet(sys.__stderr__, self._left_out, limit_chars=MAX_WAITING_CHARS)
        self._file = self._picture  # type: ignore[assignment]  # what Textual's own thread writes to

    def _left_out(self, _: int) -> str:
        self._loop.call_soon_threadsafe(self._paint_all)
        return ""

    def _paint_all(self) -> None:
        if self._app.is_running and self._app.screen_stack:
            self._app.screen.refresh()

    def stop_application_mode(self) -> None:
        """Give the terminal back; what waits of the picture is not worth waiting for."""
        self._picture.forget_waiting()
        super().stop_application_mode()

    def close(self) -> None:
        super().close()
        self._picture.close()

    def run_input_thread(self) -> None:
        """Read keys, whatever comes between them: the mouse of an old terminal is no UTF-8."""
        while True:
            try:
                super().run_input_thread()
            except UnicodeDecodeError:
                continue
            return

    def _run_input_thread(self) -> None:
        """The thread itself: its failure is one of the dashboard, and told like that."""
        try:
            self.run_input_thread()
        except Exception as error:  # noqa: BLE001  # the thread's entry
            self._app.call_later(self._app._handle_exception, error)
