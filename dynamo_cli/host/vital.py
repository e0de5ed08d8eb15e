"""What a process cannot do without: where it fails, the process ends, and is started again.

A callback or a task that dies alone in an event loop leaves a process that looks well and does
nothing. Loops of one's own need none of this: what they raise ends them.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from functools import wraps
from typing import Any, NoReturn, ParamSpec

EXIT_CODE = 70

P = ParamSpec("P")

logger = logging.getLogger(__name__)


def end(what: str, error: BaseException | None) -> NoReturn:
    """End this process now and say why: nothing that runs in it can be relied on any more."""
    logger.critical("%s failed, which ends this process", what, exc_info=error)
    os._exit(EXIT_CODE)


def callback(function: Callable[P, None]) -> Callable[P, None]:
    """For what an event loop calls, or a thread runs."""

    @wraps(function)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            function(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 - the loop would log it and go on
            end(function.__qualname__, error)

    return guarded


def watch(task: asyncio.Task[Any], *, endless: bool = False) -> None:
    """End the process when this task fails; an endless one may not return either."""

    def ended(task: asyncio.Task[Any]) -> None:
        if task.cancelled():
            return
        error = task.exception()
        if error is not None or endless:
            end(str(task.get_coro()), error)

    task.add_done_callback(ended)
