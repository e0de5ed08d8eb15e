"""Lists the nodes of a Ray cluster, in a process of its own: ``python -m ... ADDRESS``.

It is a process of its own so that the command itself never imports Ray. It prints the nodes as one
line of JSON.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable
from typing import Any

from dynamo_cli.cluster.connect import patience
from dynamo_cli.cluster_config import Node, Survey
from dynamo_cli.errors import DynamoError, ResourceError, error_class
from dynamo_cli.host import lifeline
from dynamo_cli.supervisor.post import Versions

CHECK = "check"
NODE_S = 20.0
"""How long all nodes together may take to report their releases, seconds."""


def survey(address: str) -> Survey:
    """The nodes of the cluster at `address`.

    Raises:
        UsageError: Ray is not installed.
        ResourceError: no cluster answers.
    """
    return _survey(address)[0]


def checked(address: str) -> tuple[Survey, dict[str, str]]:
    """The nodes, and for each by its name how its releases differ from those here.

    Raises: as `survey`.
    """
    return _survey(address, CHECK)


def _survey(address: str, *more: str) -> tuple[Survey, dict[str, str]]:
    """The nodes, and the differences if they were asked for.

    Raises:
        UsageError: Ray is not installed.
        ResourceError: no cluster answers.
    """
    ended = lifeline.run_reporting(lifeline.command_of(__name__, address, *more), _first)
    found = ended.found
    if found is None:
        last = ended.log.strip().splitlines()[-1:] or [f"exit code {ended.exit_code}"]
        raise ResourceError(f"the Ray cluster at {address} cannot be read: {last[0]}")
    if "error" in found:
        raise error_class(found["error"])(found["message"])
    nodes = tuple(Node(**one) for one in found["nodes"])
    return Survey(found["address"], found["head"], nodes), found["differs"]


def _first(values: Iterable[Any]) -> Any:
    return next(iter(values), None)


def _read(address: str, *, check: bool) -> dict[str, Any]:

    from dynamo_cli.cluster.connect import connect  # noqa: PLC0415

    address = connect(address)
    import ray  # noqa: PLC0415 - not before `connect` has prepared it

    head = ray.util.get_node_ip_address()
    nodes = _distinct(living())
    differs = _differences(nodes) if check else {}
    ray.shutdown()
    return {"address": address, "head": head, "nodes": nodes, "differs": differs}


def living() -> list[dict[str, Any]]:
    """The fields of each `Node` that lives, in a process that is connected."""
    import ray  # noqa: PLC0415

    free = ray._private.state.available_resources_per_node()
    return [
        {
            "name": _name(one),
            "ray_id": one["NodeID"],
            "address": one["NodeManagerAddress"],
            "cores": int(one["Resources"].get("CPU", 0)),
            "gpus": int(free.get(one["NodeID"], {}).get("GPU", 0)),
            "memory_bytes": int(one["Resources"].get("memory", 0)),
        }
        for one in ray.nodes()
        if one["Alive"]
    ]


def _differences(nodes: list[dict[str, Any]]) -> dict[str, str]:
    """Ask each node for its releases; returns by name how they differ, empty if they do not."""
    import ray  # noqa: PLC0415
    from ray.util.scheduling_strategies import (  # noqa: PLC0415
        NodeAffinitySchedulingStrategy as On,
    )

    def differs(head: tuple[str, str, str]) -> str:
        try:
            from dynamo_cli.supervisor.post import Versions  # noqa: PLC0415
        except ImportError as error:
            return f"dynamo-llm {head[0]} is not installed there ({error})"
        return Versions.here().differs(Versions(*head))

    here = Versions.here()
    head = (here.tool, here.vllm, here.python)
    asked = {
        one["name"]: ray.remote(differs)
        .options(num_cpus=0, scheduling_strategy=On(one["ray_id"], soft=False))
        .remote(head)
        for one in nodes
    }
    until_s = time.monotonic() + NODE_S
    return {name: _answer(reference, until_s) for name, reference in asked.items()}


def _answer(reference: Any, until_s: float) -> str:
    import ray  # noqa: PLC0415

    try:
        found: str = ray.get(reference, timeout=max(0.0, until_s - time.monotonic()))
    except ray.exceptions.RayError as error:
        return f"it does not answer ({type(error).__name__})"
    return found


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


def main() -> None:
    """Write what the cluster has as a line of JSON, or why it cannot be read."""
    report = os.dup(1)
    os.dup2(2, 1)  # Ray prints

    def tell(found: dict[str, Any]) -> None:
        os.write(report, json.dumps(found).encode() + b"\n")

    def refuse(error: DynamoError) -> None:
        tell({"error": type(error).__name__, "message": error.message})

    patience(sys.argv[1], lambda why: refuse(ResourceError(why)))
    try:
        tell(_read(sys.argv[1], check=CHECK in sys.argv))
    except DynamoError as error:
        refuse(error)


if __name__ == "__main__":
    main()
