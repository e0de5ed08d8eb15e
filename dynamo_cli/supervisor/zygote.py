"""Imports vLLM once and forks every process that needs it.

It replaces the forkserver of multiprocessing, which listens on a named socket that a killed parent
leaves behind, and which blocks whoever starts a child until the imports are done. The zygote has a
control socket without a name, and reports when it is ready.
"""

from __future__ import annotations

import gc
import importlib
import multiprocessing
import select
import socket
import sys
from multiprocessing.context import ForkProcess

from dynamo_cli.config import ZygoteConfig
from dynamo_cli.engines.vllm.options import environment
from dynamo_cli.host.proctitle import set_title
from dynamo_cli.ipc.control import Control
from dynamo_cli.messages.flows import ToChild
from dynamo_cli.messages.lifecycle import Exited, Fork, Forked, Phase, PhaseChange
from dynamo_cli.supervisor import entry
from dynamo_cli.topology import ROLES, ProcessId

PRELOAD = "dynamo_cli.engines.vllm.core.preload"


def main(process: ProcessId, config: ZygoteConfig, control: socket.socket) -> None:
    """Import vLLM, then fork on request until the supervisor closes the control socket."""
    zygote = Zygote(Control(control, ToChild))
    set_title(process, Phase.IMPORTING)
    zygote.control.send(PhaseChange(Phase.IMPORTING))
    environment.prepare(config.engine)
    _load()
    set_title(process, Phase.READY)
    zygote.control.send(PhaseChange(Phase.READY))
    zygote.run()


def _load() -> None:
    """Import the modules that the children run, without garbage collection.

    The imports leave a million objects. Collecting garbage among them takes a quarter of the import
    time, and the same again in every child, because vLLM collects five times while it builds an
    engine. Frozen objects are exempt from collection, and their memory pages stay shared.
    """
    gc.disable()
    importlib.import_module(PRELOAD)
    for role in ROLES.values():
        if role.engine:
            importlib.import_module(role.module)
    gc.freeze()
    gc.enable()


class Zygote:
    """Forks children on request and reports when they end.

    Attributes:
        control: the socket of the supervisor, which asks for children.
    """

    def __init__(self, control: Control) -> None:
        self.control = control
        self._children: dict[int, ForkProcess] = {}  # by the descriptor that reports their exit

    def run(self) -> None:
        """Serve requests of the supervisor until it closes the control socket."""
        while not self.control.closed:
            waiting = select.poll()
            for descriptor in (self.control.fileno(), *self._children):
                waiting.register(descriptor, select.POLLIN)
            for descriptor, _ in waiting.poll():
                if descriptor == self.control.fileno():
                    self._receive()
                else:
                    self._reap(descriptor)

    def _receive(self) -> None:
        for message, descriptors in self.control.receive():
            if isinstance(message, Fork):
                self._fork(message, *(socket.socket(fileno=fd) for fd in descriptors))

    def _fork(self, message: Fork, control: socket.socket, log: socket.socket) -> None:
        if (loaded := sys.modules.get(PRELOAD)) is not None:
            loaded.check_fork()
        context = multiprocessing.get_context("fork")
        process = context.Process(target=self._become, args=(message.config, control, log))
        process.start()
        control.close()
        log.close()
        assert process.pid is not None
        self._children[process.sentinel] = process
        self.control.send(Forked(message.name, process.pid))

    def _become(self, birth: bytes, control: socket.socket, log: socket.socket) -> None:
        """Runs in the child: close the zygote's socket and become the requested process."""
        self.control.close()
        entry.run(entry.Birth.load(birth), control, log)

    def _reap(self, descriptor: int) -> None:
        process = self._children.pop(descriptor)
        process.join()
        assert process.pid is not None
        assert process.exitcode is not None
        self.control.send(Exited(process.pid, process.exitcode))
        process.close()
