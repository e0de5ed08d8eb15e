"""The other processes of an engine that is spread over several devices.

vLLM spawns one process per rank and lets each watch a pipe of its parent, which a rank that is
stuck in a collective operation does not. Ours end with the engine's process in any case, and their
words reach the log like those of every process.

Ranks find each other by sockets and a file in the folder for temporary files, which vLLM leaves
behind. Here these have a folder of their own; a small process waits for the end of the engine's,
however that comes about, and removes it.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import tempfile
from typing import Any

from vllm.v1.executor.multiproc_executor import WorkerProc

from dynamo_cli.host.lifeline import die_with

_vllm_main = WorkerProc.worker_main

RANK_LOST = 70
"""Exit code of an engine that has lost a rank, as of every failure that nobody named."""

logger = logging.getLogger(__name__)


_REMOVE = "import shutil, sys; sys.stdin.read(); shutil.rmtree(sys.argv[1], ignore_errors=True)"
"""Its standard input ends with the last process that has the other end: the engine's, or a rank."""


_removers: list[subprocess.Popen[bytes]] = []


def install(vllm_config: Any) -> None:
    """Prepare this process for an engine; one that has a single rank needs nothing."""
    if vllm_config.parallel_config.world_size == 1:
        return
    WorkerProc.worker_main = staticmethod(_Rank(os.getpid()))
    folder = tempfile.mkdtemp(prefix="ranks-")  # names of sockets must be short
    reader, _ = os.pipe()  # the other end stays open as long as this process
    _removers.append(subprocess.Popen([sys.executable, "-ISc", _REMOVE, folder], stdin=reader))
    os.close(reader)
    os.environ["VLLM_RPC_BASE_PATH"] = tempfile.tempdir = folder


class _Rank:
    """What a rank runs.

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
