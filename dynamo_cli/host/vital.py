"""Ends the process when a vital callback, task or thread fails; the supervisor restarts it.

A callback or a task that fails in an event loop would otherwise leave a process that looks alive
and does nothing. A process with a loop of its own needs this for its threads alone: an
exception ends the loop.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from functools import wraps
from typing import Any, NoReturn, ParamSpec

EXIT_CODE = 70
"""EX_SOFTWARE of sysexits.h."""

P = ParamSpec("P")

logger = logging.getLogger(__name__)


def end(what: str, error: BaseException | None) -> NoReturn:
    """Log why and end this process at once: nothing in it can be relied on any more."""
    logger.critical("%s failed, which ends this process", what, exc_info=error)
    os._exit(EXIT_CODE)


def callback(function: Callable[P, None]) -> Callable[P, None]:
    """Wrap a callback of an event loop, or a thread's function: if it fails, the process ends.

    It also fails with a ``CancelledError``, which the result of a cancelled future raises: no task
    is there that could be cancelled.
    """

    @wraps(function)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            function(*args, **kwargs)
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - a loop would log it
            end(function.__qualname__, error)

    return guarded


def watch(task: asyncio.Task[Any], *, endless: bool = False) -> None:
    """End the process when this task fails, or when it returns although it is `endless`.

    A task that somebody has cancelled has not failed; one that awaited a future that somebody else
    has cancelled has.
    """

    def ended(task: asyncio.Task[Any]) -> None:
        if task.cancelled() and task.cancelling():
            return
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        if error is not None or endless:
            end(str(task.get_coro()), error)

    task.add_done_callback(ended)
