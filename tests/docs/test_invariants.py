"""The page of invariants says all that is asserted; each assertion can fail."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dynamo_cli.messages.host_cache import HostCacheStats
from dynamo_cli.messages.prefill import PrefillQueueStats, TransferStats
from dynamo_cli.messages.request import EngineReady
from dynamo_cli.messages.routing import RouterStats
from dynamo_cli.messages.telemetry import ProcessorStats, WorkerStats
from dynamo_cli.watch.meter import Meter
from dynamo_cli.watch.state import TreeState
from tests.support import invariants
from tests.support.invariants import Census, Process

PAGE = Path(__file__).parents[2] / "docs" / "invariants.md"


def resting() -> Any:
    """The snapshot of a server of two decode workers that has answered and rests."""
    meter = Meter()
    meter.received = 4
    meter.requests["/v1/completions", 200] = 3
    meter.requests["/v1/completions", 499] = 1
    meter.prompt_tokens, meter.cached_tokens, meter.output_tokens = 40, 10, 30
    tree = TreeState(meter, ("tiny",), 0)
    for worker in range(2):
        tree.apply(EngineReady(worker, ["generate"], 100, 16, 100, 8), 0)
        tree.apply(WorkerStats(worker, 0, 0, 0.0, 40, 10, 40, 20, 0, 9, 0), 0)
        placed = {"remote:always": 2}
        tree.apply(TransferStats(False, worker, placed, {}, 0, {}, {}, {}, {}, []), 0)
    tree.apply(RouterStats("kv", {0: 2, 1: 2}, {0: 0, 1: 0}, 0), 0)
    tree.apply(TransferStats(True, 0, {}, {}, 0, {}, {}, {}, {}, []), 0)
    tree.apply(PrefillQueueStats(0, 0, 0, 0, 0.0, False, 4, {"done": 4}, {}, {}, [], 0), 0)
    tree.apply(HostCacheStats(64, 4096, 9, 0, 16, 0, 0, 9, 0, 0, 0, 0), 0)
    tree.processor_stats(0, ProcessorStats(0, 0))
    return msgspec.to_builtins(tree.snapshot(0, {"worker 0": 0}, 0), str_keys=True)


def test_a_server_at_rest_breaks_none() -> None:
    assert not invariants.broken(resting(), None)


@pytest.mark.parametrize(
    "place",
    [
        *("traffic in_flight", "traffic received", "traffic requests", "calls"),
        *(f"processors 0 {name}" for name in ("requests", "engine_requests", "placed")),
        *("processors 0 queries", "processors 0 calls", "processors 0 preparing"),
        *("router entries", "router promised_blocks", "router waiting_requests"),
        *("router workers 1 active_requests", "router workers 1 prefill_blocks"),
        *("workers 1 num_running_reqs", "workers 1 num_waiting_reqs", "workers 1 kept_requests"),
        *("workers 1 kv_cache_usage", "links worker~0"),
        *("prefill depth_jobs", "prefill in_flight_jobs", "prefill away", "prefill kept"),
        *("host_cache pinned", "host_cache invalid", "prefill taken", "prefill ended done"),
        *("prefill placements remote:always", "traffic cached_tokens", "traffic output_tokens"),
    ],
)
def test_each_of_them_can_break(place: str) -> None:
    snapshot = resting()
    *way, name = [part.replace("~", " ") for part in place.split()]
    view = snapshot
    for part in way:
        view = view[int(part) if isinstance(view, list) else part]
    view[name] += 100
    assert invariants.broken(snapshot, None)


def test_a_descriptor_more_is_seen() -> None:
    had = Census({"router": Process(7, 0, Counter({"socket": 3, "/a/log": 1}))})
    for kinds, seen in (({"socket": 4}, True), ({"socket": 3}, False), ({"/b": 1}, False)):
        now = Census({"router": Process(7, 0, Counter(kinds))})
        assert bool(invariants.descriptors_are_closed(had, now)) is seen
    reborn = Census({"router": Process(8, 0, Counter({"socket": 4}))})
    assert not invariants.descriptors_are_closed(had, reborn)


def test_the_page_names_each_with_its_test() -> None:
    named = re.findall(r"`tests/support/invariants\.py::(\w+)`", PAGE.read_text())
    asserted = [holds.__name__ for holds in invariants.AT_REST]
    assert sorted(named) == sorted([*asserted, invariants.descriptors_are_closed.__name__])
