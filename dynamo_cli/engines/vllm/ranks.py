"""The other processes of an engine that is spread over several devices.

vLLM spawns one process per rank and lets each watch a pipe of its parent, which a rank that is
stuck in a collective operation does not. Ours end with the engine's process in any case, and their
words reach the log like those of every process.
"""

from __future__ import annotations

import logging
import os
import signal
from typing import Any

from vllm.v1.executor.multiproc_executor import WorkerProc

from dynamo_cli.models.lifeline import die_with

_vllm_main = WorkerProc.worker_main

RANK_LOST = 70
"""Exit code of an engine that has lost a rank, as of every failure that nobody named."""

logger = logging.getLogger(__name__)


def install() -> None:
    """Have every rank that this process spawns from now on begin in `rank_main`."""
    WorkerProc.worker_main = staticmethod(_Rank(os.getpid()))


class _Rank:
    """What a rank runs; it travels to the new process by pickle.

    Args:
        parent_pid: the engine's process.
    """

    def __init__(self, parent_pid: int) -> None:
        self._parent_pid = parent_pid
        self._level = logging.root.level
        self._formatters = [handler.formatter for handler in logging.root.handlers]

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        die_with(self._parent_pid, signal.SIGKILL)
        self._log()
        _vllm_main(*args, **kwargs)

    def _log(self) -> None:
        """As its parent does, into the same pipe."""
        handler = logging.StreamHandler()
        handler.setFormatter(next(iter(self._formatters), None))
        logging.basicConfig(level=self._level, handlers=[handler], force=True)


def lost() -> None:
    """A rank has ended: the engine cannot go on, and may hang in a step that waits for it.

    Called by a thread of vLLM's; the supervisor starts another engine.
    """
    logger.error("a process of this engine's ranks has ended; the engine ends with it")
    os._exit(RANK_LOST)
