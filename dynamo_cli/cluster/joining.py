"""Which nodes of a cluster could be used, but are not yet. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from dynamo_cli.cluster_config import Node


def offers(
    living: Sequence[Node], planned: Mapping[int, Node], ids: Mapping[int, str]
) -> list[Node]:
    """The nodes that no outpost has, and that are not to take the place of a lost one.

    Each has a name that no other node of the run has.

    Args:
        living: all nodes of the cluster that live.
        planned: the nodes of the plan, by their position.
        ids: where each of them is now.
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


def _unlike(name: str, names: set[str]) -> str:
    number, chosen = 1, name
    while chosen in names:
        number += 1
        chosen = f"{name}-{number}"
    return chosen
