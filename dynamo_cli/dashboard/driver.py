"""Textual's terminal driver, made robust against a terminal that blocks or sends invalid bytes."""

from __future__ import annotations

import sys
from typing import Any

from textual.app import App
from textual.drivers.linux_driver import LinuxDriver

from dynamo_cli.host.outlet import Outlet

MAX_WAITING_CHARS = 1 << 17
"""Most characters that wait for a slow terminal: a few full screens."""


class SteadyDriver(LinuxDriver):
    """Writes the screen to a terminal and reads its keys.

    If a terminal accepts no more output (Ctrl-S, a stuck connection), Textual's own driver blocks
    the event loop, which the supervisor uses too. This one drops the output instead, and paints the
    whole screen when the terminal accepts output again.
    """

    def __init__(self, app: App[Any], **options: Any) -> None:
        super().__init__(app, **options)
        assert sys.__stderr__ is not None
        self._picture = Outlet(sys.__stderr__, self._left_out, limit_chars=MAX_WAITING_CHARS)
        self._file = self._picture  # type: ignore[assignment]  # Textual's writer thread uses it

    def _left_out(self, _: int) -> str:
        self._loop.call_soon_threadsafe(self._paint_all)
        return ""

    def _paint_all(self) -> None:
        if self._app.is_running and self._app.screen_stack:
            self._app.screen.refresh()

    def stop_application_mode(self) -> None:
        """Restore the terminal, without waiting for output that is not written yet."""
        self._picture.forget_waiting()
        super().stop_application_mode()

    def close(self) -> None:
        """End the driver and its output thread."""
        super().close()
        self._picture.close()

    def run_input_thread(self) -> None:
        """Read keys, and skip bytes that are not UTF-8, such as mouse events of old terminals."""
        while True:
            try:
                super().run_input_thread()
            except UnicodeDecodeError:
                continue
            return

    def _run_input_thread(self) -> None:
        """Run the thread; a failure in it counts as a failure of the dashboard."""
        try:
            self.run_input_thread()
        except Exception as error:  # noqa: BLE001  # entry of the thread
            self._app.call_later(self._app._handle_exception, error)
