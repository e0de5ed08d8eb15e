"""The other nodes of a run on several machines, as ``/dynamo/snapshot`` shows them. Pure."""

from __future__ import annotations

import msgspec

from dynamo_cli.messages.cluster import NodeTable


class NodeView(msgspec.Struct, frozen=True):
    """Another node. Counters are totals since the start.

    Attributes:
        up: whether its outpost answers.
        silent_s: time since the head has heard it, seconds.
        beat_s: how long the last heartbeat took to the node and back, seconds; None before any.
        sent_frames, sent_bytes: what the head's relay has sent to it.
        received_frames, received_bytes: what the head's relay has received from it.
        refused_connections: connections to the head's relay that had a wrong key.
        stale_frames: frames that came after the end of their connection, and were dropped.
        reconnects: how often the relays have connected again.
        resyncs: how often frames were lost, so that all links of the node were made anew.
        lost_log_lines: lines of its log that were lost because the relays were not connected, or
            their process counted as ended.
    """

    name: str
    up: bool
    silent_s: float
    beat_s: float | None
    sent_frames: int
    sent_bytes: int
    received_frames: int
    received_bytes: int
    refused_connections: int
    stale_frames: int
    reconnects: int
    resyncs: int
    lost_log_lines: int


def node_views(table: NodeTable) -> list[NodeView]:
    """The view of each node."""
    return [
        NodeView(
            one.name,
            one.up,
            one.silent_s,
            one.beat_s,
            **msgspec.structs.asdict(one.relay),
            reconnects=one.reconnects,
            resyncs=one.resyncs,
            lost_log_lines=one.lost_log_lines,
        )
        for one in table.nodes
    ]
