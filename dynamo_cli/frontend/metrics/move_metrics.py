"""Metrics of requests that moved to another process because theirs could not end them."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import HistogramMetricFamily, Metric

from dynamo_cli.frontend.metrics.routing_metrics import counter
from dynamo_cli.watch.moves import MoveLog


def of(moves: MoveLog) -> Iterator[Metric]:
    """All metric families of moves; every reason has a value from the start."""
    for name, text, values in (
        ("requests_moved", "Moves of requests to another process.", moves.moved),
        ("requests_not_moved", "Requests that no other process could take.", moves.not_moved),
    ):
        yield counter(name, text, "reason", values.items())
    yield HistogramMetricFamily(
        "dynamo_llm_request_move_gap_seconds",
        "From the loss of its process to the next token of a moved request.",
        buckets=moves.gaps.cumulative(),
        sum_value=moves.gaps.total,
    )
