"""Judges the nodes of a cluster. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from dynamo_cli.cluster_config import Survey
from dynamo_cli.doctor.finding import Finding, fail, ok, warn

REMEDY = "install the same release of dynamo-llm, with the extra ray, and the same vLLM there"


def judge(survey: Survey, differs: dict[str, str], *, needs_gpu: bool) -> Iterator[Finding]:
    """A finding for each node, and one for the cluster.

    Args:
        differs: for each node by name, how its releases differ from those here; empty if they
            do not.
        needs_gpu: whether engines need GPUs.
    """
    gpus = sum(node.gpus for node in survey.nodes)
    text = f"{len(survey.nodes)} nodes at {survey.address}, {gpus} free GPUs"
    if needs_gpu and not gpus:
        yield fail("cluster", text, "end what uses the GPUs, or start ray with --num-gpus")
    else:
        yield ok("cluster", text)
    for node in survey.nodes:
        has = f"{node.address}, {node.cores} cores, {node.gpus} free GPUs"
        if differs.get(node.name):
            yield fail(node.name, f"{has}; {differs[node.name]}", REMEDY)
        elif needs_gpu and not node.gpus:
            yield warn(node.name, has, "no engine will run there")
        else:
            yield ok(node.name, has)
