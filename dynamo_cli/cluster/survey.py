"""Lists the nodes of a Ray cluster, in a process of its own: ``python -m ... ADDRESS``.

So the command itself never imports Ray. The report is a line of JSON.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable
from threading import Timer
from typing import Any

from dynamo_cli.cluster.connect import PATIENCE_S
from dynamo_cli.cluster_config import Node, Survey
from dynamo_cli.errors import DynamoError, ResourceError, error_class
from dynamo_cli.host import lifeline


def survey(address: str) -> Survey:
    """The nodes of the cluster at `address`.

    Raises:
        UsageError: Ray is not installed.
        ResourceError: no cluster answers.
    """
    ended = lifeline.run_reporting(lifeline.command_of(__name__, address), _first)
    found = ended.found
    if found is None:
        last = ended.log.strip().splitlines()[-1:] or [f"exit code {ended.exit_code}"]
        raise ResourceError(f"the Ray cluster at {address} cannot be read: {last[0]}")
    if "error" in found:
        raise error_class(found["error"])(found["message"])
    nodes = tuple(Node(**one) for one in found["nodes"])
    return Survey(found["address"], found["head"], nodes)


def _first(values: Iterable[Any]) -> Any:
    return next(iter(values), None)


def _read(address: str) -> dict[str, Any]:

    from dynamo_cli.cluster.connect import connect  # noqa: PLC0415

    address = connect(address)
    import ray  # noqa: PLC0415 - not before `connect` has prepared it

    free = ray._private.state.available_resources_per_node()
    nodes = [
        {
            "name": _name(one),
            "ray_id": one["NodeID"],
            "address": one["NodeManagerAddress"],
            "cores": int(one["Resources"].get("CPU", 0)),
            "gpus": int(free.get(one["NodeID"], {}).get("GPU", 0)),
        }
        for one in ray.nodes()
        if one["Alive"]
    ]
    head = ray.util.get_node_ip_address()
    ray.shutdown()
    return {"address": address, "head": head, "nodes": _distinct(nodes)}


def _name(node: dict[str, Any]) -> str:
    """The name that the node was started with, else that of its host."""
    given: str = node.get("NodeName") or ""
    return given if given and given != node["NodeManagerAddress"] else node["NodeManagerHostname"]


def _distinct(nodes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The nodes by name, each with a name of its own."""
    nodes = sorted(nodes, key=lambda one: (one["name"], one["ray_id"]))
    names = [one["name"] for one in nodes]
    for place, one in enumerate(nodes):
        if names.count(names[place]) > 1:
            one["name"] = f"{names[place]}-{names[:place].count(names[place]) + 1}"
    return nodes


def _give_up(report: int, address: str) -> None:
    why = f"no Ray cluster answers at {address} within {PATIENCE_S:.0f} s."
    os.write(report, json.dumps({"error": "ResourceError", "message": why}).encode() + b"\n")
    os._exit(1)


def main() -> None:
    """Write what the cluster has as a line of JSON, or why it cannot be read."""
    report = os.dup(1)
    os.dup2(2, 1)  # Ray prints
    too_late = Timer(PATIENCE_S, _give_up, (report, sys.argv[1]))
    too_late.daemon = True
    too_late.start()
    try:
        found = _read(sys.argv[1])
    except DynamoError as error:
        found = {"error": type(error).__name__, "message": error.message}
    os.write(report, json.dumps(found).encode() + b"\n")


if __name__ == "__main__":
    main()
