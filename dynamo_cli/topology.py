"""Which processes there are and which links join them, as data.

Every box of the picture in docs/architecture.md is a `RoleSpec`, every arrow a `LinkSpec`. The
supervisor starts and joins processes from these tables alone. Some processes are not in the
picture: the supervisor and the zygote, through which no request passes, and with ``--ray`` the
process that speaks with Ray, and the relays, which carry links to other nodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from dynamo_cli.units import KIB, MIB

MAX_MESSAGE_BYTES = 256 * MIB
"""Bound on the size of one message between two processes. A larger one is not sent; one that comes
all the same is `Corrupt`."""


class Role(StrEnum):
    """What a process is for; the value is its name in the log and in /health."""

    SUPERVISOR = "supervisor"
    ZYGOTE = "zygote"
    FRONTEND = "frontend"
    PROCESSOR = "processor"
    ROUTER = "router"
    HOST_CACHE = "host cache"
    WORKER = "worker"
    PREFILL_QUEUE = "prefill queue"
    PREFILL_WORKER = "prefill worker"
    RELAY = "relay"
    CLUSTER = "cluster"


class ProcessId(NamedTuple):
    """One process of the tree: its role, and its number among the processes of that role."""

    role: Role
    index: int = 0  # type: ignore[assignment]  # hides tuple.index, which is not used

    @property
    def name(self) -> str:
        """The name that people see: ``worker 0``, or ``router`` where there is only one."""
        numbered = ROLES[self.role].many or self.index
        return f"{self.role} {self.index}" if numbered else str(self.role)

    @classmethod
    def parse(cls, name: str) -> ProcessId:
        """Return the process of this `name`."""
        role, _, index = name.rpartition(" ")
        return cls(Role(role), int(index)) if index.isdecimal() else cls(Role(name))


ZYGOTE = ProcessId(Role.ZYGOTE)
FRONTEND = ProcessId(Role.FRONTEND)
ROUTER = ProcessId(Role.ROUTER)
QUEUE = ProcessId(Role.PREFILL_QUEUE)
HOST_CACHE = ProcessId(Role.HOST_CACHE)
CLUSTER = ProcessId(Role.CLUSTER)
"""The processes of which there is only one on a machine. Other machines, which are numbered from 1,
have a host cache each, with the number of the machine."""


@dataclass(frozen=True, slots=True)
class RoleSpec:
    """How a role is started.

    Attributes:
        module: module with its ``main(process_id, config, control)``; only the child imports it.
        engine: whether it needs vLLM, so that the zygote forks it.
        many: whether there can be several processes of it.
    """

    module: str
    engine: bool = False
    many: bool = False


ROLES: dict[Role, RoleSpec] = {
    Role.SUPERVISOR: RoleSpec("dynamo_cli.supervisor"),
    Role.ZYGOTE: RoleSpec("dynamo_cli.supervisor.zygote"),
    Role.FRONTEND: RoleSpec("dynamo_cli.frontend.process"),
    Role.PROCESSOR: RoleSpec("dynamo_cli.processor.process", engine=True, many=True),
    Role.ROUTER: RoleSpec("dynamo_cli.router.process"),
    Role.HOST_CACHE: RoleSpec("dynamo_cli.host_cache.process"),
    Role.WORKER: RoleSpec("dynamo_cli.worker.decode", engine=True, many=True),
    Role.PREFILL_QUEUE: RoleSpec("dynamo_cli.prefill_queue.process"),
    Role.PREFILL_WORKER: RoleSpec("dynamo_cli.worker.prefill", engine=True, many=True),
    Role.RELAY: RoleSpec("dynamo_cli.relay.process", many=True),
    Role.CLUSTER: RoleSpec("dynamo_cli.cluster.process"),
}


@dataclass(frozen=True, slots=True)
class LinkSpec:
    """Two rings between each process of role `a` and each of role `b`.

    Attributes:
        a_to_b_bytes: size of the ring from `a` to `b`, a power of two.
        b_to_a_bytes: size of the ring from `b` to `a`, a power of two.
        carries: what the link carries, in words for people.
        within: whether it joins only processes of one machine, which share memory.
    """

    a: Role
    b: Role
    a_to_b_bytes: int
    b_to_a_bytes: int
    carries: str
    within: bool = False

    def joins(self, machine: str | int, other: str | int) -> bool:
        """Whether it joins processes of these machines, by their names or numbers."""
        return machine == other or not self.within


LINKS: tuple[LinkSpec, ...] = (
    LinkSpec(Role.FRONTEND, Role.PROCESSOR, 4 * MIB, 2 * MIB, "requests -> / <- answers"),
    LinkSpec(
        Role.PROCESSOR, Role.ROUTER, 256 * KIB, 256 * KIB, "query best worker -> / <- worker_id"
    ),
    LinkSpec(Role.PROCESSOR, Role.WORKER, 4 * MIB, 2 * MIB, "token ids -> / <- step outputs"),
    LinkSpec(Role.WORKER, Role.ROUTER, 2 * MIB, 64 * KIB, "load and KV events ->"),
    LinkSpec(Role.WORKER, Role.FRONTEND, 256 * KIB, 64 * KIB, "telemetry ->"),
    LinkSpec(Role.ROUTER, Role.FRONTEND, 256 * KIB, 64 * KIB, "telemetry ->"),
    LinkSpec(Role.WORKER, Role.PREFILL_QUEUE, 2 * MIB, 64 * KIB, "push -> / <- depth"),
    LinkSpec(Role.PREFILL_WORKER, Role.PREFILL_QUEUE, 64 * KIB, 2 * MIB, "pull -> / <- jobs"),
    LinkSpec(
        Role.PREFILL_WORKER, Role.WORKER, 256 * KIB, 64 * KIB, "notify finished -> / <- release"
    ),
    LinkSpec(Role.PREFILL_WORKER, Role.ROUTER, 2 * MIB, 64 * KIB, "KV events ->"),
    LinkSpec(
        Role.WORKER, Role.HOST_CACHE, 1 * MIB, 256 * KIB, "find, written -> / <- slots", within=True
    ),
    LinkSpec(
        *(Role.PREFILL_WORKER, Role.HOST_CACHE, 1 * MIB, 256 * KIB, "find, written -> / <- slots"),
        within=True,
    ),
    LinkSpec(Role.HOST_CACHE, Role.ROUTER, 2 * MIB, 64 * KIB, "KV events ->"),
    LinkSpec(Role.HOST_CACHE, Role.FRONTEND, 64 * KIB, 64 * KIB, "telemetry ->"),
    LinkSpec(Role.PREFILL_QUEUE, Role.FRONTEND, 64 * KIB, 64 * KIB, "telemetry ->"),
    LinkSpec(Role.PREFILL_WORKER, Role.FRONTEND, 64 * KIB, 64 * KIB, "telemetry ->"),
)


def tree(
    workers: int,
    processors: int,
    *,
    routed: bool,
    prefill_workers: int = 0,
    host_caches: Sequence[int] = (),
    nodes: int = 0,
) -> list[ProcessId]:
    """Return all children of the supervisor, in the order in which they are started.

    Args:
        host_caches: numbers of the machines that have one; 0 is the supervisor's.
        nodes: how many other machines have engines, each behind a relay.
    """
    return [
        # The zygote first: its import takes the longest. The light processes start meanwhile.
        ZYGOTE,
        *([CLUSTER] if nodes else []),
        *(ProcessId(Role.RELAY, node) for node in range(nodes)),
        FRONTEND,
        *([ROUTER] if routed else []),
        *(ProcessId(Role.HOST_CACHE, machine) for machine in host_caches),
        *([QUEUE] if prefill_workers else []),
        *(ProcessId(Role.PREFILL_WORKER, index) for index in range(prefill_workers)),
        *(ProcessId(Role.WORKER, index) for index in range(workers)),
        *(ProcessId(Role.PROCESSOR, index) for index in range(processors)),
    ]


def links_of(
    process: ProcessId, others: list[ProcessId]
) -> list[tuple[ProcessId, ProcessId, LinkSpec]]:
    """Return the links that join `process` with `others`, as (a, b, spec) in its direction."""
    found = []
    for spec in LINKS:
        for other in others:
            if (process.role, other.role) == (spec.a, spec.b):
                found.append((process, other, spec))
            elif (other.role, process.role) == (spec.a, spec.b):
                found.append((other, process, spec))
    return found
