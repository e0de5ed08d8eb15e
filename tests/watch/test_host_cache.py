"""The host cache in the snapshot and in the metrics: totals across restarts, current figures."""

from __future__ import annotations

from typing import Any

import msgspec

from dynamo_cli.frontend.metrics import exposition
from dynamo_cli.messages.host_cache import DiskStats, HostCacheStats, HostCopies
from dynamo_cli.messages.telemetry import WorkerStats
from dynamo_cli.units import SECOND_NS
from dynamo_cli.watch.host_cache_schema import HostCacheView
from dynamo_cli.watch.meter import Meter
from dynamo_cli.watch.state import TreeState


def stats(**fields: Any) -> HostCacheStats:
    plain = HostCacheStats(100, 4096, 40, 3, 12, 200, 150, 60, 5, 15, 0, 0)
    return msgspec.structs.replace(plain, **fields)


def copies(worker: int = 0, *, prefill: bool = False, **fields: Any) -> HostCopies:
    plain = HostCopies(prefill, worker, 10, 1_000, 0.5, 4, 400, 0.25, 32, {"no_slot": 2}, 0.125)
    return msgspec.structs.replace(plain, **fields)


def tree_of(*messages: Any) -> TreeState:
    tree = TreeState(Meter(), ("tiny",), 0)
    for message in messages:
        tree.apply(message, 0)
    return tree


def view(tree: TreeState, at_s: float = 0) -> HostCacheView:
    found = tree.snapshot(int(at_s * SECOND_NS), {}, 0).host_cache
    assert found is not None
    return found


def test_without_a_host_cache_there_is_no_view() -> None:
    assert tree_of().snapshot(0, {}, 0).host_cache is None


def test_its_totals_survive_it_and_what_it_holds_does_not() -> None:
    tree = tree_of(stats())
    seen = view(tree)
    assert (seen.slots, seen.used, seen.pinned, seen.lent, seen.found_ratio) == (
        *(100, 40, 3, 12),
        0.75,
    )
    tree.host_cache.gone(0)
    seen = view(tree)
    assert (seen.slots, seen.used, seen.wanted, seen.evicted) == (0, 0, 200, 15)
    tree.apply(stats(wanted=100, found=0, evicted=1, used=1), 0)
    seen = view(tree)
    assert (seen.used, seen.wanted, seen.found, seen.evicted) == (1, 300, 150, 16)
    assert (seen.found_ratio, seen.recent_found_ratio) == (0.5, 0.5)
    tree.apply(stats(wanted=110, found=10), 100 * SECOND_NS)
    assert view(tree, 100).recent_found_ratio == 1.0, "of the last minute only"


def test_the_host_caches_of_several_machines_add_up_and_are_shown_each() -> None:
    tree = tree_of(stats(machine=1), stats(machine=2, used=10, wanted=100, found=0))
    seen = view(tree)
    assert (seen.slots, seen.used, seen.wanted, seen.found_ratio) == (200, 50, 300, 0.5)
    assert (seen.slot_bytes, seen.pinned, seen.lent) == (4096, 6, 24)
    assert [(one.process, one.used, one.wanted) for one in seen.caches] == [
        ("host cache 1", 40, 200),
        ("host cache 2", 10, 100),
    ]
    tree.host_cache.gone(1)
    seen = view(tree)
    assert (seen.slots, seen.used, seen.wanted) == (100, 10, 300)
    assert [one.used for one in seen.caches] == [0, 10]


def test_copies_of_engines_add_up_over_lives() -> None:
    tree = tree_of(stats(), copies(), copies(1), copies(prefill=True, loaded_blocks=0))
    names = [(one.prefill, one.worker) for one in view(tree).engines]
    assert names == [(False, 0), (False, 1), (True, 0)]
    assert (view(tree).loaded_tokens, view(tree).dropped) == (640, {"no_slot": 6})
    assert view(tree).loaded_bytes_per_s == 300, "over ten seconds"
    tree.worker_gone(0)
    tree.prefill_worker_gone(0)
    seen = view(tree)
    assert (seen.engines[0].loaded_bytes, seen.engines[0].load_s) == (1_000, 0.5)
    tree.apply(copies(loaded_blocks=1, loaded_bytes=100, dropped={"late": 1}), SECOND_NS)
    seen = view(tree, 1)
    assert (seen.engines[0].loaded_blocks, seen.engines[0].waited_s) == (11, 0.25)
    assert (seen.loaded_tokens, seen.dropped) == (672, {"no_slot": 6, "late": 1})
    assert seen.loaded_bytes_per_s == 310
    tree.apply(copies(prefill=True, loaded_bytes=7), SECOND_NS)
    assert view(tree, 1).engines[2].loaded_bytes == 1_007


def test_counters_that_begin_again_take_nothing_away() -> None:
    tree = tree_of(stats(), copies(), copies(loaded_blocks=1, loaded_bytes=100))
    assert view(tree).loaded_tokens == 10 * 32
    assert view(tree).loaded_bytes_per_s == 100


def test_what_its_links_refuse_is_an_alarm_as_of_other_processes() -> None:
    tree = tree_of(stats())
    assert tree.snapshot(0, {}, 0).alarms == []
    tree.apply(stats(refused_sends=3), 0)
    (alarm,) = tree.snapshot(0, {}, 0).alarms
    assert "3" in alarm.text


def test_engines_that_are_refused_are_an_alarm() -> None:
    assert tree_of(stats()).snapshot(0, {}, 0).alarms == []
    (alarm,) = tree_of(stats(refused=2)).snapshot(0, {}, 0).alarms
    assert (alarm.kind, "2 times" in alarm.text) == ("host cache", True)


def test_a_machine_whose_host_cache_knows_no_size_yet_hides_no_other() -> None:
    tree = tree_of(stats(), stats(machine=1))
    tree.host_cache.gone(1)
    assert (view(tree).slots, view(tree).slot_bytes) == (100, 4096)


def missing(tree: TreeState, *lines: str) -> list[str]:
    """Those of the lines that the page of metrics lacks."""
    page = exposition.render(Meter(), tree.snapshot(0, {}, 0), tree.prefill, None).decode()
    return [line for line in lines if line not in page.splitlines()]


def test_the_page_of_metrics_has_all_of_it() -> None:
    tree = tree_of(
        stats(refused_sends=3),
        copies(),
        copies(prefill=True),
        WorkerStats(0, 1, 0, 0.25, 1000, 500, 1000, 100, 0, 10, 0),
    )
    lines = (
        "dynamo_llm_host_cache_size_bytes 409600.0",
        "dynamo_llm_host_cache_used_bytes 163840.0",
        "dynamo_llm_host_cache_pinned_bytes 12288.0",
        "dynamo_llm_host_cache_lent_bytes 49152.0",
        "dynamo_llm_host_cache_wanted_blocks_total 200.0",
        "dynamo_llm_host_cache_found_blocks_total 150.0",
        "dynamo_llm_host_cache_written_blocks_total 60.0",
        "dynamo_llm_host_cache_duplicate_blocks_total 5.0",
        "dynamo_llm_host_cache_evicted_blocks_total 15.0",
        "dynamo_llm_host_cache_short_total 0.0",
        "dynamo_llm_host_cache_refused_engines_total 0.0",
        "dynamo_llm_host_cache_invalid_total 0.0",
        'dynamo_llm_host_cache_dropped_blocks_total{reason="no_slot"} 4.0',
        'dynamo_llm_host_cache_copied_blocks_total{direction="load",process="worker 0"} 10.0',
        'dynamo_llm_host_cache_copied_bytes_total{direction="store",process="worker 0"} 400.0',
        'dynamo_llm_host_cache_copied_seconds_total{direction="load",process="prefill worker 0"} '
        "0.5",
        'dynamo_llm_host_cache_wait_seconds_total{process="worker 0"} 0.125',
        f'dynamo_llm_prefix_hits_tokens_total{{tier="engine"}} {hits(tree)}',
        'dynamo_llm_prefix_hits_tokens_total{tier="host"} 640.0',
        'dynamo_llm_refused_sends_total{process="host cache"} 3.0',
    )
    assert not missing(tree, *lines)


def hits(tree: TreeState) -> float:
    return float(tree.snapshot(0, {}, 0).workers[0].prefix_cache_hits_tokens)


DISK = DiskStats(50, 30, 9, 8, 10, 0.5, 30, 1.5, 2, {"gone": 4})


def test_the_totals_of_the_disk_survive_the_host_cache() -> None:
    assert view(tree_of(stats())).disk is None
    tree = tree_of(stats(disk=DISK))
    seen = view(tree).disk
    assert seen is not None
    assert (seen.places, seen.used, seen.found, seen.dropped) == (50, 30, 8, {"gone": 4})
    assert (seen.read_bytes_per_s, seen.written_bytes_per_s) == (4096, 3 * 4096)
    tree.host_cache.gone(0)
    tree.apply(stats(disk=DiskStats(50, 1, 1, 1, 1, 0.25, 1, dropped={"late": 1})), 0)
    seen = view(tree).disk
    assert seen is not None
    assert (seen.used, seen.found, seen.read, seen.read_s, seen.written) == (1, 9, 11, 0.75, 31)
    assert seen.dropped == {"gone": 4, "late": 1}
    assert seen.read_bytes_per_s == (10 + 1) * 4096 / 10, "those of both in the last 10 s"
    assert seen.written_bytes_per_s == (30 + 1) * 4096 / 10
    assert tree.snapshot(0, {}, 0).alarms == []


def test_a_disk_that_is_not_used_any_more_is_an_alarm() -> None:
    tree = tree_of(stats(disk=DiskStats(off="16 copies in a row have failed (read_failed)")))
    (alarm,) = tree.snapshot(0, {}, 0).alarms
    assert alarm.kind == "disk cache"
    assert "16 copies in a row" in alarm.text


def test_the_page_of_metrics_has_the_disk() -> None:
    tree = tree_of(stats(disk=DISK))
    lines = (
        "dynamo_llm_disk_cache_size_bytes 204800.0",
        "dynamo_llm_disk_cache_used_bytes 122880.0",
        "dynamo_llm_disk_cache_off 0.0",
        "dynamo_llm_disk_cache_wanted_blocks_total 9.0",
        "dynamo_llm_disk_cache_found_blocks_total 8.0",
        "dynamo_llm_disk_cache_read_blocks_total 10.0",
        "dynamo_llm_disk_cache_read_seconds_total 0.5",
        "dynamo_llm_disk_cache_written_blocks_total 30.0",
        "dynamo_llm_disk_cache_write_seconds_total 1.5",
        "dynamo_llm_disk_cache_evicted_blocks_total 2.0",
        'dynamo_llm_disk_cache_dropped_blocks_total{reason="gone"} 4.0',
    )
    assert not missing(tree, *lines)


def test_without_a_host_cache_the_page_has_none_of_it() -> None:
    tree = tree_of()
    page = exposition.render(Meter(), tree.snapshot(0, {}, 0), tree.prefill, None)
    assert b"host_cache" not in page
    assert b"prefix_hits_tokens" not in page
