"""Resolves which node of a cluster runs which engine, on which of its GPUs. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from dynamo_cli.cluster_config import ClusterPlan, Node, Survey
from dynamo_cli.config import Device, Devices
from dynamo_cli.errors import ResourceError, UsageError
from dynamo_cli.plan.resolve_engine import stages_of
from dynamo_cli.plan.typed import AUTO, Typed

MAX_PORT = 65_535
PORT = "--ray takes HOST:PORT, the address of a Ray cluster, or auto"


@dataclass(frozen=True, slots=True)
class Seats:
    """Where each engine runs.

    Attributes:
        plan: the nodes, and the node of each engine.
        workers, prefill_workers: the GPUs of each engine, numbered within its node.
        most: the largest number of engines on one node.
    """

    plan: ClusterPlan
    workers: tuple[Devices, ...]
    prefill_workers: tuple[Devices, ...]
    most: int


@dataclass(slots=True)
class _Place:
    """A node while engines are placed."""

    node: Node
    used: int = 0
    engines: int = field(default=0)

    def free(self, width: int) -> int:
        """How many engines of this width still fit."""
        return (self.node.gpus - self.used) // width

    def take(self, width: int) -> Devices:
        """GPUs for one more engine; none on the CPU."""
        first, self.used, self.engines = self.used, self.used + width, self.engines + 1
        return tuple(
            Device(str(number), f"{self.node.name}/{number}")
            for number in range(first, first + width)
        )


_Seated = tuple[_Place, Devices]


def check(typed: Typed) -> None:
    """Check what can be checked before the cluster is read.

    Raises:
        UsageError: an option does not go with ``--ray``.
    """
    address = typed.ray
    if address is None:
        return
    if address != AUTO and not _is_host_and_port(address):
        raise UsageError(f"{PORT}; not {address!r}.")
    if typed.reuse_gpus:
        raise UsageError(
            "--reuse-gpus does not work with --ray, which gives each GPU to one engine."
        )


def _is_host_and_port(address: str) -> bool:
    host, _, port = address.rpartition(":")
    fine = port.isascii() and port.isdecimal() and len(port) <= len(str(MAX_PORT))
    return bool(host) and "://" not in address and fine and 0 < int(port) <= MAX_PORT


def seats(typed: Typed, survey: Survey, *, on_gpus: bool, pairs: bool = False) -> Seats:
    """Place the engines: each on the node that has most room, or fewest engines on the CPU.

    Args:
        on_gpus: whether engines need GPUs.
        pairs: whether prefill workers serve only workers of their node, because blocks go through
            its memory. Then each node with one gets a worker first.

    Raises:
        ResourceError: the cluster has too few GPUs, or no node has room for such a pair.
    """
    stages = stages_of(typed)
    width, prefill_width = (
        (typed.worker_tp * stages, typed.prefill_tp * stages) if on_gpus else (0, 0)
    )
    places = [_Place(node) for node in survey.nodes]
    prefill, workers = _seat_pairs(typed, places, (width, prefill_width), pairs=pairs)
    missing = _missing(typed, places, width, len(workers))
    workers += [_seat(places, width) for _ in range(missing)]
    keeps_all = typed.enable_admin
    kept = [
        place
        for place in places
        if place.engines or (keeps_all and (not on_gpus or place.free(width)))
    ]
    return Seats(
        ClusterPlan(
            survey.address,
            survey.head,
            tuple(
                replace(place.node, gpus=(place.node.gpus if keeps_all else place.used))
                if on_gpus
                else replace(place.node, gpus=0)
                for place in kept
            ),
            tuple(kept.index(place) for place, _ in workers),
            tuple(kept.index(place) for place, _ in prefill),
        ),
        tuple(devices for _, devices in workers),
        tuple(devices for _, devices in prefill),
        max(place.engines for place in kept),
    )


def _seat_pairs(
    typed: Typed, places: Sequence[_Place], widths: tuple[int, int], *, pairs: bool
) -> tuple[list[_Seated], list[_Seated]]:
    """Place the prefill workers, and beside each of them a worker first if they go in pairs.

    Raises:
        ResourceError: there is no room.
    """
    width, prefill_width = widths
    most = len(places) if typed.workers == AUTO else int(typed.workers)
    prefill: list[_Seated] = []
    workers: list[_Seated] = []
    for _ in range(typed.prefill_workers):
        place, devices = _seat(places, prefill_width)
        prefill.append((place, devices))
        seated = any(place is other for other, _ in workers)
        if pairs and not seated and len(workers) < most and (not width or place.free(width)):
            workers.append((place, place.take(width)))
    if pairs and prefill and not workers:
        raise ResourceError(
            "no node has room for a prefill worker and a worker, and --kv-transfer shm works only "
            "within a node. Use fewer --prefill-workers, or --kv-transfer nixl, which works "
            "between nodes."
        )
    return prefill, workers


def _missing(typed: Typed, places: Sequence[_Place], width: int, seated: int) -> int:
    """How many workers are still to be placed."""
    if typed.workers != AUTO:
        return int(typed.workers) - seated
    fit = sum(place.free(width) for place in places) if width else len(places) - seated
    return max(1 - seated, fit)


def _seat(places: Sequence[_Place], width: int) -> tuple[_Place, Devices]:
    """Place one engine."""
    if not width:
        place = min(places, key=lambda one: one.engines)
        return place, place.take(0)
    place = max(places, key=lambda one: one.free(width))
    if not place.free(width):
        gpus = ", ".join(f"{one.node.name} {one.node.gpus}" for one in places)
        raise ResourceError(
            f"no node of the cluster has {width} more free GPUs for one engine (free: {gpus}). Use "
            "fewer --workers or a smaller --worker-tp."
        )
    return place, place.take(width)


def warnings(plan: ClusterPlan, kv_transfer: str) -> list[str]:
    """Warnings about engines that no prefill worker, or no worker, shares a node with."""
    if not plan.prefill_workers or kv_transfer != "shm":
        return []
    alone = [
        ("workers", set(plan.workers) - set(plan.prefill_workers), "prefill their prompts there"),
        ("prefill workers", set(plan.prefill_workers) - set(plan.workers), "have nothing to do"),
    ]
    return [
        f"{what} on {', '.join(plan.nodes[node].name for node in sorted(nodes))} {do}: "
        "--kv-transfer shm hands KV blocks over within a node only."
        for what, nodes, do in alone
        if nodes
    ]
