"""Runs tasks that nobody awaits, reports their errors, and starts those again that never end."""

from __future__ import annotations

import asyncio
import time
import traceback
from collections.abc import Callable
from typing import Any

from dynamo_cli.supervisor.retirement import Work

OnBug = Callable[[str, list[str]], None]
"""Called with one sentence that says what happened, and with the lines of the traceback."""

REPORT_S = 60.0
"""Seconds until an error that comes again and again is reported again."""


class Background:
    """Background tasks of the running event loop. Each of their errors is reported.

    Args:
        on_bug: called for each error.
    """

    def __init__(self, on_bug: OnBug) -> None:
        self._tasks: set[asyncio.Task[None]] = set()
        self._on_bug = on_bug

    def watch(self, loop: asyncio.AbstractEventLoop) -> None:
        """Report errors of every callback of this loop too, whoever scheduled it."""
        loop.set_exception_handler(self._told)

    def start(self, work: Work) -> None:
        """Run a coroutine as a task that nobody awaits."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def keep(self, loop: Callable[[], Work]) -> None:
        """Run an endless loop as such a task. If it fails, it is started again.

        So it must wait before it does anything.

        Args:
            loop: makes the coroutine.
        """
        self.start(self._kept(loop))

    async def _kept(self, loop: Callable[[], Work]) -> None:
        reported, due_s = "", 0.0
        while True:
            task = asyncio.get_running_loop().create_task(loop())
            try:
                await asyncio.wait((task,))
            finally:
                task.cancel()
            error = task.exception()
            if repr(error) != reported or time.monotonic() > due_s:
                self._told_of(task, error)
                reported, due_s = repr(error), time.monotonic() + REPORT_S

    def cancel(self) -> None:
        """Cancel every task that still runs."""
        for task in self._tasks:
            task.cancel()

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._told_of(task, error)

    def _told_of(self, task: asyncio.Task[None], error: BaseException | None) -> None:
        self._told(task.get_loop(), {"message": str(task.get_coro()), "exception": error})

    def _told(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        lines = traceback.format_exception(error) if isinstance(error, BaseException) else []
        reason = f" ({error!r})" if error is not None else ""
        self._on_bug(f"{context['message']}{reason}", "".join(lines).splitlines())
