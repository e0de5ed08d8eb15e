"""A whole tree with its real supervisor in a second: children without engines, links or sockets.

``python -m tests.support.tree [dashboard]``; each child reads this module again when it
is spawned, and so finds its own ``main`` below instead of that of its role.
"""

from __future__ import annotations

import multiprocessing
import os
import select
import signal
import socket
import sys
from dataclasses import replace
from multiprocessing import resource_tracker, shared_memory
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynamo_cli import topology
from dynamo_cli.config import EngineConfig, FrontendConfig, HostCacheConfig, RouterConfig
from dynamo_cli.errors import DynamoError
from dynamo_cli.host.proctitle import set_title
from dynamo_cli.ipc.control import Control
from dynamo_cli.messages.flows import ToChild
from dynamo_cli.messages.lifecycle import (
    Drain,
    Drained,
    LinkDown,
    Phase,
    PhaseChange,
    Probe,
    ProbeResult,
    Rescued,
    SetPhase,
    Stop,
)
from dynamo_cli.messages.logs import LEVEL_END
from dynamo_cli.supervisor import zygote
from dynamo_cli.topology import ProcessId, Role

if TYPE_CHECKING:  # children, which read this module too, need none of it
    from dynamo_cli.serve_config import ServeConfig

for _role, _spec in topology.ROLES.items():
    if _role is not Role.ZYGOTE:
        topology.ROLES[_role] = replace(_spec, module=__spec__.name if __spec__ else __name__)

FLOOD = "DYNAMO_TEST_FLOOD"
"""A worker talks without end."""

BARREN = "DYNAMO_TEST_BARREN"
"""A path: a zygote that is started while there is a file cannot import what it needs."""

KEYS = "DYNAMO_TEST_KEYS"
"""How many API keys there are."""

LIMIT = 2
"""How many restarts in a row may fail."""

MOVED, FAILED = 3, 1
"""What each process says of the requests of one that is lost."""


def load() -> None:
    """Instead of the imports of the zygote: as little as possible."""
    resource_tracker.ensure_running()
    if BARREN in os.environ and Path(os.environ[BARREN]).exists():
        sys.exit(3)


zygote._load = load


def main(process: ProcessId, config: Any, control: socket.socket) -> None:
    """Any child: ready at once, until it is told to stop."""
    ours = Control(control, ToChild)
    is_worker = process.role is Role.WORKER
    signal.signal(signal.SIGUSR1, tell_family)
    ours.send(PhaseChange(Phase.PROBING if is_worker else Phase.READY))
    while not ours.closed:
        talks = is_worker and FLOOD in os.environ
        if talks:
            os.write(1, f"ERROR{LEVEL_END}all work and no play\n".encode() * 100)
        select.select([ours.fileno()], [], [], 0 if talks else None)
        for message, descriptors in ours.receive():
            for descriptor in descriptors:
                os.close(descriptor)
            match message:
                case Probe(worker):
                    ours.send(ProbeResult(worker, ""))
                case SetPhase(phase):
                    set_title(process, phase)
                case LinkDown(peer):
                    from dynamo_cli.supervisor.death_log import REPORTERS

                    if REPORTERS.get(ProcessId.parse(peer).role) is process.role:
                        ours.send(Rescued(peer, MOVED, FAILED))
                case Drain():
                    ours.send(Drained(0))
                case Stop():
                    return


def tell_family(*_: Any) -> None:
    """Say what multiprocessing thinks, and use what it shares between processes."""
    memory = shared_memory.SharedMemory(create=True, size=8)
    memory.close()
    memory.unlink()
    child = multiprocessing.get_context("fork").Process(target=os.getpid)
    child.start()
    child.join()
    own, parent = multiprocessing.current_process().name, multiprocessing.parent_process()
    os.write(1, f"ERROR{LEVEL_END}{own} of {parent}, {child.exitcode}\n".encode())


def plan() -> ServeConfig:
    from dynamo_cli.serve_config import RestartPolicy, ServeConfig

    return ServeConfig(
        EngineConfig("tiny", "tiny", ("tiny",)),
        FrontendConfig(api_keys=tuple(map("{:064}".format, range(int(os.getenv(KEYS, "0")))))),
        router=RouterConfig("least-loaded"),
        host_cache=HostCacheConfig(1 << 20),
        engine_devices=((), ()),
        restart=RestartPolicy(limit=LIMIT, first_delay_s=0.05),
    )


def run(*words: str) -> int:
    import asyncio

    from dynamo_cli import supervisor
    from dynamo_cli.cli import terminal
    from dynamo_cli.cli.outputs import outputs
    from dynamo_cli.plan.typed import Typed

    terminal.settle()
    dashboard = "dashboard" in words
    with outputs(Typed(model="tiny"), dashboard=dashboard, errors_only=False) as out:
        try:
            if not dashboard:
                return supervisor.run(plan(), out.beside_others(out.plain))
            from dynamo_cli.dashboard.embedded import Embedded

            view = Embedded(out.plain)
            shown = out.beside_others(view)
            return asyncio.run(view.beside(supervisor.serve(plan(), shown)))
        except DynamoError as error:
            out.plain.notice("ERROR", error.message)
            return error.exit_code


if __name__ == "__main__":
    sys.exit(run(*sys.argv[1:]))
