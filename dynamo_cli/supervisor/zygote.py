"""Imports vLLM once and forks every process that needs it, without becoming its parent.

It also forks the light processes that are started again, which saves them their imports. When an
engine on a GPU is ready, it tells what else it has imported, and the zygote imports that too while
it has nothing else to do (see `host.imports`).

It replaces the forkserver of multiprocessing, which listens on a named socket that a killed parent
leaves behind, and which blocks whoever starts a child until the imports are done. The zygote has a
control socket without a name, and reports when it is ready. The processes that it has forked do not
depend on it: it only saves time, and when it dies it is started again.
"""

from __future__ import annotations

import gc
import importlib
import multiprocessing.process
import os
import select
import socket
import sys
from dataclasses import replace
from typing import NoReturn

from dynamo_cli.config import ZygoteConfig
from dynamo_cli.engines.vllm.options import environment
from dynamo_cli.errors import ResourceError
from dynamo_cli.host import imports, oserrors
from dynamo_cli.host.proctitle import set_title
from dynamo_cli.ipc.control import Control
from dynamo_cli.messages.flows import ToChild
from dynamo_cli.messages.lifecycle import Fatal, Fork, Phase, PhaseChange, Ping, Pong, Stop
from dynamo_cli.supervisor import entry
from dynamo_cli.topology import ROLES, ProcessId, Role

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
    for role, spec in ROLES.items():
        if role not in (Role.SUPERVISOR, Role.ZYGOTE, Role.RELAY, Role.CLUSTER):
            importlib.import_module(spec.module)
    gc.freeze()
    gc.enable()


class Zygote:
    """Forks children on request.

    It is not their parent: it forks a process that forks the child and exits. The kernel then makes
    the child a child of the supervisor, which sees its exit. So the death of the zygote ends no
    other process.

    Attributes:
        control: the socket of the supervisor, which asks for children.
    """

    def __init__(self, control: Control) -> None:
        self.control = control
        self._learning = imports.Learning([control.fileno()])

    def run(self) -> None:
        """Serve requests of the supervisor until it closes the control socket."""
        while not self.control.closed:
            waited_for = [self.control.fileno(), *self._learning.files()]
            ready, _, _ = select.select(waited_for, [], [], 0 if self._learning.busy else None)
            if self.control.fileno() not in ready:
                self._learning.advance(ready)
                continue
            for message, descriptors in self.control.receive():
                if isinstance(message, Stop):
                    return
                if isinstance(message, Ping):
                    self.control.send(Pong())
                if isinstance(message, Fork):
                    self._fork(message, [socket.socket(fileno=fd) for fd in descriptors])

    def _fork(self, message: Fork, sockets: list[socket.socket]) -> None:
        if (loaded := sys.modules.get(PRELOAD)) is not None:
            loaded.check_fork()
        try:
            between = os.fork()
            if between == 0:
                self._fork_again(message, sockets)
        except OSError as error:
            _refuse(sockets[0], message, error)
        else:
            os.waitpid(between, 0)
        for one in sockets:
            one.close()

    def _fork_again(self, message: Fork, sockets: list[socket.socket]) -> NoReturn:
        """Start the child and exit. Runs in the process between the zygote and the child."""
        context = multiprocessing.get_context("fork")
        arguments = (message.config, os.getpid(), *sockets)
        process = context.Process(target=self._become, name=message.name, args=arguments)
        try:
            process.start()
        except OSError as error:
            _refuse(sockets[0], message, error)
        finally:
            os._exit(0)

    def _become(
        self,
        birth: bytes,
        forked_by: int,
        control: socket.socket,
        log: socket.socket,
        *listening: socket.socket,
    ) -> None:
        """Close the zygote's socket and become the requested process. Runs in the child."""
        self.control.close()
        self._learning.forked()
        # For multiprocessing this is a main process, whose parent is not one of its own.
        multiprocessing.process._parent_process = None  # type: ignore[attr-defined]
        whole = replace(entry.Birth.load(birth), sockets=listening)
        entry.run(whole, control, log, forked_by)


def _refuse(control: socket.socket, message: Fork, error: OSError) -> None:
    """Report, on the child's own control socket, why the child could not be forked."""
    why = f"{message.name} cannot be forked: {oserrors.reason(error)}."
    entry.report(control, Fatal(ResourceError.__name__, why))
