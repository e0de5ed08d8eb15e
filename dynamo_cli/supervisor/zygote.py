"""Imports vLLM once and forks every process that needs it.

multiprocessing's own forkserver listens on a named socket, which a killed parent leaves behind,
and keeps whoever starts a child waiting while it imports. This one has a control socket without a
name, and tells when it is ready.
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
    """Import, then fork until the supervisor closes the control socket."""
    zygote = Zygote(Control(control, ToChild))
    set_title(process, Phase.IMPORTING)
    zygote.control.send(PhaseChange(Phase.IMPORTING))
    environment.prepare(config.engine)
    _load()
    set_title(process, Phase.READY)
    zygote.control.send(PhaseChange(Phase.READY))
    zygote.run()


def _load() -> None:
    """Import what the children run.

    A million objects stay. Looking through them while they come takes a quarter of the time, and
    again each time that a child starts: vLLM collects garbage five times while it builds an
    engine. Frozen objects are nobody's garbage, and their pages stay shared.
    """
    gc.disable()
    importlib.import_module(PRELOAD)
    for role in ROLES.values():
        if role.engine:
            importlib.import_module(role.module)
    gc.freeze()
    gc.enable()


class Zygote:
    """The children it has forked, and the socket that asks for more."""

    def __init__(self, control: Control) -> None:
        self.control = control
        self._children: dict[int, ForkProcess] = {}  # by the descriptor that tells their end

    def run(self) -> None:
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
        """In the child: let go of what is the zygote's."""
        self.control.close()
        entry.run(entry.Birth.load(birth), control, log)

    def _reap(self, descriptor: int) -> None:
        process = self._children.pop(descriptor)
        process.join()
        assert process.pid is not None
        assert process.exitcode is not None
        self.control.send(Exited(process.pid, process.exitcode))
        process.close()
