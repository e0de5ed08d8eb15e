"""Other nodes in the snapshot and on the page of metrics."""

from __future__ import annotations

from dynamo_cli.messages.cluster import NodeState, NodeTable, RelayStats
from dynamo_cli.watch.meter import Meter
from dynamo_cli.watch.state import TreeState
from tests.watch.test_host_cache import missing

RELAY = RelayStats(1, 200, 3, 400, 5, 6)
STATE = NodeState("b", True, 0.5, 0.25, RELAY, reconnects=7, resyncs=8, lost_log_lines=9)


def test_the_snapshot_and_the_page_of_metrics_have_all_of_a_node() -> None:
    tree = TreeState(Meter(), ("tiny",), 0)
    tree.apply(NodeTable([STATE, NodeState("c", False, 2.0, None, RelayStats())]), 0)
    near, far = tree.snapshot(0, {}, 0).nodes
    assert (near.sent_frames, near.sent_bytes, near.received_frames) == (1, 200, 3)
    assert (near.received_bytes, near.refused_connections, near.stale_frames) == (400, 5, 6)
    assert (far.name, far.up, far.silent_s, far.beat_s) == ("c", False, 2.0, None)
    lines = (
        'dynamo_llm_node_up{node="b"} 1.0',
        'dynamo_llm_node_up{node="c"} 0.0',
        'dynamo_llm_node_silent_seconds{node="b"} 0.5',
        'dynamo_llm_node_heartbeat_seconds{node="b"} 0.25',
        'dynamo_llm_node_heartbeat_seconds{node="c"} 0.0',
        'dynamo_llm_relay_frames_total{direction="sent",node="b"} 1.0',
        'dynamo_llm_relay_bytes_total{direction="sent",node="b"} 200.0',
        'dynamo_llm_relay_frames_total{direction="received",node="b"} 3.0',
        'dynamo_llm_relay_bytes_total{direction="received",node="b"} 400.0',
        'dynamo_llm_relay_refused_connections_total{node="b"} 5.0',
        'dynamo_llm_relay_stale_frames_total{node="b"} 6.0',
        'dynamo_llm_relay_reconnects_total{node="b"} 7.0',
        'dynamo_llm_relay_resyncs_total{node="b"} 8.0',
        'dynamo_llm_node_lost_log_lines_total{node="b"} 9.0',
    )
    assert not missing(tree, *lines)
