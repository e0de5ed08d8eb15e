"""Binds the rank processes of an engine on several devices to the engine's own process.

vLLM forks a process for each rank, or spawns it if a fork cannot work. A rank is to end when a pipe
of its parent closes, but a rank that is stuck in a collective operation does not notice that. Here
the kernel kills the ranks when the engine's process ends, from their start on. Their output goes to
the log like that of every process.

Ranks find each other by sockets and a file in the folder for temporary files, which vLLM does not
remove. Here they have a folder of their own. A small process waits until the engine's process has
ended, for whatever reason, and removes the folder. On CPUs with AVX-512, ranks also exchange data
in files in /dev/shm, whose names begin with the name of that file. A killed rank cannot remove
them, so the small process removes them too.
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

from dynamo_cli.engines.vllm.core import garbage, graphs, plans, resume
from dynamo_cli.host.cache import SHARED_MEMORY
from dynamo_cli.host.lifeline import bind_spawned, die_with

_vllm_main = WorkerProc.worker_main

RANK_LOST = 70
"""Exit code of an engine that has lost a rank: the one for all failures without a name."""

logger = logging.getLogger(__name__)


_REMOVE = """
import contextlib, os, shutil, sys
folder, shared = sys.argv[1:]
sys.stdin.read()
names = tuple(name + "-" for name in os.listdir(folder))
for entry in os.scandir(shared) if names and os.path.isdir(shared) else ():
    if entry.name.startswith(names):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(entry.path)
shutil.rmtree(folder, ignore_errors=True)
"""
"""The program of the small process. Its standard input ends when the engine's process and all ranks
have ended."""


_removers: list[subprocess.Popen[bytes]] = []


def install(vllm_config: Any, *, fewer_graphs: bool) -> None:
    """Prepare this process for an engine; does nothing if it has a single rank."""
    if vllm_config.parallel_config.world_size == 1:
        return
    bind_spawned()
    WorkerProc.worker_main = staticmethod(_Rank(os.getpid(), fewer_graphs=fewer_graphs))
    folder = tempfile.mkdtemp(prefix="ranks-")  # paths of sockets must be short
    reader, _ = os.pipe()  # the other end stays open as long as this process runs
    words = [sys.executable, "-ISc", _REMOVE, folder, SHARED_MEMORY]
    _removers.append(subprocess.Popen(words, stdin=reader))
    os.close(reader)
    os.environ["VLLM_RPC_BASE_PATH"] = tempfile.tempdir = folder


class _Rank:
    """The main function of a rank.

    Args:
        parent_pid: pid of the engine's process.
        fewer_graphs: see `graphs`.
    """

    def __init__(self, parent_pid: int, *, fewer_graphs: bool) -> None:
        self._parent_pid = parent_pid
        self._fewer_graphs = fewer_graphs
        self._level = logging.root.level
        self._formatters = [handler.formatter for handler in logging.root.handlers]

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        die_with(self._parent_pid, signal.SIGKILL)
        # The parent blocks these signals too, but multiprocessing unblocks them if it has to start
        # its resource tracker. vLLM's handlers of these signals would end the rank.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        self._log()
        resume.install(kwargs["vllm_config"])
        plans.install()
        if self._fewer_graphs:
            graphs.install()
        with garbage.frozen():
            _vllm_main(*args, **kwargs)

    def _log(self) -> None:
        """Log as the parent does, into the same pipe."""
        handler = logging.StreamHandler()
        handler.setFormatter(next(iter(self._formatters), None))
        logging.basicConfig(level=self._level, handlers=[handler], force=True)


def lost() -> None:
    """End the engine's process, because a rank has ended and a step may hang waiting for it.

    A thread of vLLM calls this. The supervisor starts another engine.
    """
    logger.error("a rank of this engine has ended; the engine ends with it")
    os._exit(RANK_LOST)
