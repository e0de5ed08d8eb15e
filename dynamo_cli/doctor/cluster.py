"""Judges the nodes of a cluster. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from dynamo_cli.cluster_config import Node, Survey
from dynamo_cli.doctor.finding import Finding, fail, ok, warn
from dynamo_cli.plan.sizes import sized
from dynamo_cli.serve_config import ServeConfig

REMEDY = "install the same release of dynamo-llm, with the extra ray, and the same vLLM there"


def judge(
    survey: Survey, differs: dict[str, str], plan: ServeConfig | None, *, needs_gpu: bool
) -> Iterator[Finding]:
    """A finding for each node, and one for the cluster.

    Args:
        differs: for each node by name, how its releases differ from those here; empty if they
            do not.
        plan: what would be started; None if the options cannot work.
        needs_gpu: whether engines need GPUs.
    """
    gpus = sum(node.gpus for node in survey.nodes)
    nodes = f"{len(survey.nodes)} node{'s' * (len(survey.nodes) != 1)}"
    text = f"{nodes} at {survey.address}, {gpus} free GPUs"
    if needs_gpu and not gpus:
        yield fail("cluster", text, "end what uses the GPUs, or start ray with --num-gpus")
    else:
        yield ok("cluster", text)
    engines = _engines(plan)
    for node in survey.nodes:
        has = _has(node, engines)
        if differs.get(node.name):
            yield fail(node.name, f"{has}; {differs[node.name]}", REMEDY)
        elif needs_gpu and not node.gpus:
            yield warn(node.name, has, "no engine will run there")
        elif too_little := _too_little(node, plan, engines):
            yield warn(node.name, f"{has}; {too_little}", "--host-cache auto takes half of it")
        else:
            yield ok(node.name, has)


def _engines(plan: ServeConfig | None) -> Counter[str]:
    """How many engines run on each node, by its name."""
    if plan is None or plan.cluster is None:
        return Counter()
    seats = (*plan.cluster.workers, *plan.cluster.prefill_workers)
    return Counter(plan.cluster.nodes[seat].name for seat in seats)


def _has(node: Node, engines: Counter[str]) -> str:
    memory = f"{sized(node.memory_bytes)} of memory, " if node.memory_bytes else ""
    count = engines[node.name]
    runs = f"; {count} engine{'s' * (count != 1)} of this plan" if engines else ""
    return f"{node.address}, {node.cores} cores, {memory}{node.gpus} free GPUs{runs}"


def _too_little(node: Node, plan: ServeConfig | None, engines: Counter[str]) -> str:
    cache = plan.host_cache if plan is not None else None
    if cache is None or not engines[node.name] or not node.memory_bytes:
        return ""
    size = sized(cache.size_bytes)
    return f"--host-cache takes {size} of it" if cache.size_bytes > node.memory_bytes else ""
