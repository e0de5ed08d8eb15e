"""Metrics of the other nodes of a run on several machines."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from dynamo_cli.frontend.metrics.routing_metrics import counter
from dynamo_cli.watch.node_schema import NodeView

_COUNTERS = (
    ("relay_refused_connections", "Connections that had a wrong key.", "refused_connections"),
    ("relay_stale_frames", "Frames of connections that were over.", "stale_frames"),
    ("relay_reconnects", "Times the relays connected again.", "reconnects"),
    ("relay_resyncs", "Times that frames were lost and all links were set up again.", "resyncs"),
    ("node_lost_log_lines", "Log lines lost without a connection.", "lost_log_lines"),
)
"""Name and text of each counter, and its field."""


def of(nodes: list[NodeView]) -> Iterator[Metric]:
    """All metric families of nodes."""
    for name, text, values in (
        ("node_up", "1 while the node answers.", [float(one.up) for one in nodes]),
        (
            "node_silent_seconds",
            "Time since the head has heard the node.",
            [one.silent_s for one in nodes],
        ),
        (
            "node_heartbeat_seconds",
            "Time of the last heartbeat to the node and back.",
            [one.beat_s or 0.0 for one in nodes],
        ),
    ):
        gauge = GaugeMetricFamily(f"dynamo_llm_{name}", text, labels=["node"])
        for node, value in zip(nodes, values, strict=True):
            gauge.add_metric([node.name], value)
        yield gauge
    for what in ("frames", "bytes"):
        passed = CounterMetricFamily(
            f"dynamo_llm_relay_{what}",
            f"{what.capitalize()} between the head and the node.",
            labels=["node", "direction"],
        )
        for node in nodes:
            for direction in ("sent", "received"):
                passed.add_metric([node.name, direction], getattr(node, f"{direction}_{what}"))
        yield passed
    for name, text, field in _COUNTERS:
        yield counter(name, text, "node", [(one.name, getattr(one, field)) for one in nodes])
