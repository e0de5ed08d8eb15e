"""Decides on which machine each node of the plan runs, and which others are offered. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from dynamo_cli.cluster_config import Node


def offers(
    living: Sequence[Node], planned: Mapping[int, Node], ids: Mapping[int, str]
) -> list[Node]:
    """The nodes without an outpost, except those that will take the place of a lost node.

    Each gets a name that no other node of the run has.

    Args:
        living: all nodes of the cluster that live.
        planned: the nodes of the plan, by their position in it.
        ids: for each position, the Ray id of the machine that it runs on now; empty if on none.
    """
    alive = {node.ray_id for node in living}
    lost = [planned[number] for number, ray_id in ids.items() if ray_id not in alive]
    unused = [node for node in living if node.ray_id not in ids.values()]
    for one in lost:
        if (place := next((node for node in unused if node.gpus >= one.gpus), None)) is not None:
            unused.remove(place)
    names = {node.name for node in planned.values()}
    found = []
    for node in sorted(unused, key=lambda one: (one.name, one.ray_id)):
        name = _unlike(node.name, names)
        names.add(name)
        found.append(replace(node, name=name))
    return found


def place_of(number: int, machine: Node, ids: Mapping[int, str], living: Sequence[Node]) -> str:
    """The Ray id of the machine that a node of the plan is to run on; empty if there is none.

    A node of the plan stays on its machine. If that machine has left the cluster, or is now used
    for another node of the plan, the node gets a machine that no node of the plan has: the same
    machine if it has come back with another id, else any machine with as many GPUs.

    Args:
        number: position of the node in the plan.
        machine: the node as it was planned.
        ids: the Ray id of the machine of each node of the plan; a new node is missing.
        living: all nodes of the cluster that live.
    """
    others = {ray_id for other, ray_id in ids.items() if other != number}
    unused = [node for node in living if node.ray_id not in others]
    before = ids.get(number, machine.ray_id)
    if any(node.ray_id == before for node in unused):
        return before
    fit = [node for node in unused if node.gpus >= machine.gpus]
    fit.sort(key=lambda node: node.address != machine.address)
    return fit[0].ray_id if fit else ""


def _unlike(name: str, names: set[str]) -> str:
    number, chosen = 1, name
    while chosen in names:
        number += 1
        chosen = f"{name}-{number}"
    return chosen
