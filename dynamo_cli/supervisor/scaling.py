"""Changes the number of workers in the plan. Pure."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import replace

from dynamo_cli.cluster_config import ClusterPlan, Node
from dynamo_cli.config import MOST_WORKERS, Device, Devices
from dynamo_cli.errors import Conflict, InvalidRequest
from dynamo_cli.serve_config import ServeConfig
from dynamo_cli.supervisor.gpus import groups_of


def rescaled(config: ServeConfig, count: int, lost: Container[str] = ()) -> ServeConfig:
    """The same plan with `count` workers; those that remain keep their GPUs.

    Args:
        lost: names of nodes that are lost; they get a new worker only if no other can take it.

    Raises:
        InvalidRequest: the number is out of range.
        Conflict: there is no router to choose between workers, or no GPU for one more.
    """
    if not 1 <= count <= MOST_WORKERS:
        raise InvalidRequest(
            f"count is a number from 1 to {MOST_WORKERS}; not {count}.", param="count"
        )
    if count > 1 and config.router is None:
        raise Conflict(
            "there is no router to choose between workers; start with --router least-loaded "
            "(or kv), which one worker may have too."
        )
    devices = list(config.engine_devices[:count])
    if config.cluster is not None:
        return _rescaled_cluster(config, config.cluster, devices, count, lost)
    while len(devices) < count:
        devices.append(_free_group(config, devices))
    return replace(config, engine_devices=tuple(devices))


def _rescaled_cluster(
    config: ServeConfig,
    cluster: ClusterPlan,
    devices: list[Devices],
    count: int,
    lost: Container[str],
) -> ServeConfig:
    """The plan with more or fewer workers; a new one goes to the node with the fewest engines.

    Nodes that are offered get into the plan with their first worker.
    """
    seats = list(cluster.workers[:count])
    nodes = [*cluster.nodes, *cluster.offered]
    while len(devices) < count:
        used = [*seats, *cluster.prefill_workers]
        taken = [*zip(seats, devices, strict=True)]
        taken += zip(cluster.prefill_workers, config.prefill_devices, strict=True)
        order = sorted(range(len(nodes)), key=used.count)
        for node in sorted(order, key=lambda one: nodes[one].name in lost):
            of_node = {one.name for seat, group in taken if seat == node for one in group}
            if (group := _group_on(config, nodes[node], of_node)) is not None:
                seats.append(node)
                devices.append(group)
                break
        else:
            raise Conflict(
                f"one more worker needs {len(config.engine_devices[0])} GPUs on one node, and no "
                "node of the cluster has them: let another node join it with ray start."
            )
    plan = _joined(replace(cluster, workers=tuple(seats)))
    return replace(config, engine_devices=tuple(devices), cluster=plan)


def _joined(cluster: ClusterPlan) -> ClusterPlan:
    """The plan whose nodes are also those that were offered and have workers now."""
    first = len(cluster.nodes)
    kept, added = list(cluster.offered), dict[int, int]()
    for seat in cluster.workers:
        if seat >= first and seat not in added:
            added[seat] = first + len(added)
            kept.remove(cluster.offered[seat - first])
    nodes = (*cluster.nodes, *(cluster.offered[seat - first] for seat in added))
    seats = tuple(added.get(seat, seat) for seat in cluster.workers)
    return replace(cluster, nodes=nodes, workers=seats, offered=tuple(kept))


def _group_on(config: ServeConfig, node: Node, taken: set[str]) -> Devices | None:
    """GPUs of a node for one more engine; None if it has too few, () on the CPU."""
    width = len(config.engine_devices[0])
    free = [str(number) for number in range(node.gpus) if str(number) not in taken]
    if len(free) < width:
        return None
    return tuple(Device(name, f"{node.name}/{name}") for name in free[:width])


def _free_group(config: ServeConfig, taken: list[Devices]) -> Devices:
    """GPUs that no engine has; an empty tuple where engines run on the CPU."""
    width = len(config.engine_devices[0])
    if not width:
        return ()
    used = {gpu for devices in (*taken, *config.prefill_devices) for gpu in devices}
    for group in groups_of(width, config.gpus):
        if used.isdisjoint(group):
            return group
    raise Conflict(
        f"one more worker needs {width} GPU{'s' if width > 1 else ''}, and each of the "
        f"{len(config.gpus)} that workers may use has an engine. How engines share a GPU is "
        "settled at the start."
    )
