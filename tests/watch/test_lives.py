"""Totals and rates of processes whose node is lost for a moment, and of those that end."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from dynamo_cli.messages.host_cache import DiskStats, HostCacheStats, HostCopies
from dynamo_cli.messages.lifecycle import NODE_LOST
from dynamo_cli.messages.prefill import TransferStats
from dynamo_cli.messages.telemetry import EngineCounts, WorkerStats
from dynamo_cli.topology import ProcessId, Role
from dynamo_cli.units import SECOND_NS
from dynamo_cli.watch.meter import Meter
from dynamo_cli.watch.schema import Snapshot
from dynamo_cli.watch.state import TreeState

WORKER, PREFILL = ProcessId(Role.WORKER, 0), ProcessId(Role.PREFILL_WORKER, 0)
CACHE = ProcessId(Role.HOST_CACHE, 1)
LOST, DIED = f"{NODE_LOST}: silent for 3 s", "SIGKILL"
LATER_S = 30
"""When windows of 10 s have forgotten the first reports."""

FIGURES = (
    *("output_tokens", "prefix_cache_queries_tokens", "refused_sends", "steps", "drafts"),
    *("cache_wanted", "disk_read", "disk_dropped", "loaded_blocks", "loaded_tokens"),
    *("dropped", "stored_prefill", "placements", "saved"),
)


def reports(times: int = 1) -> list[Any]:
    """Reports of all processes that may run on other nodes, `times` as large in all counters."""
    n = times
    counts = EngineCounts((n, n), n, n, n, n, n, n, (n,))
    worker = WorkerStats(0, 3, 1, 0.5, 100 * n, 40 * n, 300 * n, 20 * n, n, n, n, counts=counts)
    disk = DiskStats(50, 30, 9 * n, 8 * n, 10 * n, 0.5 * n, 30 * n, n, n, {"gone": n})
    cache = HostCacheStats(
        *(100, 4096, 40, 3, 12, 200 * n, 150 * n, 60 * n, n, n, n, n, n), 0, n, disk, 1
    )
    copies = [
        HostCopies(prefill, 0, 10 * n, 1_000 * n, 0.5 * n, 4 * n, 40 * n, n, 32, {"late": n})
        for prefill in (False, True)
    ]
    moved = TransferStats(False, 0, {"remote:always": n}, {}, 2, {}, {}, {}, {}, [])
    saved = TransferStats(True, 0, {}, {}, 0, {"save": n}, {"save": n}, {"save": n}, {}, [])
    return [worker, cache, *copies, moved, saved]


def told(tree: TreeState, times: int, at_s: float = 0) -> TreeState:
    for report in reports(times):
        tree.apply(report, int(at_s * SECOND_NS))
    return tree


def unlink(tree: TreeState, reason: str) -> None:
    """What the frontend does when these links end."""
    for process in (WORKER, PREFILL, CACHE):
        tree.lives.unlinked(process, reason)
    tree.worker_gone(0)
    tree.prefill_worker_gone(0)
    tree.host_cache.gone(1)


def begun() -> TreeState:
    return told(TreeState(Meter(), ("tiny",), 0), 1)


def seen(tree: TreeState, at_s: float) -> Snapshot:
    return tree.snapshot(int(at_s * SECOND_NS), {}, 0)


def figures(tree: TreeState) -> dict[str, float]:
    """A total of every kind of counter."""
    snapshot = seen(tree, LATER_S)
    (worker,), cache, prefill = snapshot.workers, snapshot.host_cache, snapshot.prefill
    assert cache is not None
    assert cache.disk is not None
    assert prefill is not None
    values = (
        *(worker.output_tokens, worker.prefix_cache_queries_tokens, worker.refused_sends),
        *(worker.steps, tree.engine_totals.counts(0).step_tokens[1]),
        *(cache.wanted, cache.disk.read, cache.disk.dropped["gone"]),
        *(cache.engines[0].loaded_blocks, cache.loaded_tokens, cache.dropped["late"]),
        *(cache.engines[1].stored_blocks, prefill.placements["remote:always"]),
        prefill.copies["save"],
    )
    return dict(zip(FIGURES, values, strict=True))


ONCE = figures(begun())


def multiplied(times: int) -> dict[str, float]:
    return {name: times * value for name, value in ONCE.items()}


def rates(tree: TreeState) -> list[float]:
    snapshot = seen(tree, LATER_S)
    (worker,), cache = snapshot.workers, snapshot.host_cache
    assert cache is not None
    assert cache.disk is not None
    return [
        *(worker.prompt_tokens_per_s, worker.output_tokens_per_s),
        *(cache.loaded_bytes_per_s, cache.stored_bytes_per_s),
        *(cache.disk.read_bytes_per_s, cache.disk.written_bytes_per_s),
    ]


def test_a_node_that_is_lost_for_a_moment_doubles_nothing() -> None:
    assert all(ONCE.values())
    tree = begun()
    for _ in range(3):
        unlink(tree, LOST)
        assert figures(tree) == ONCE
        assert seen(tree, 0).workers[0].num_running_reqs == 0, "its load is not shown"
        told(tree, 1, LATER_S)
        assert figures(tree) == ONCE
        assert not any(rates(tree))
        assert seen(tree, LATER_S).workers[0].num_running_reqs == 3
    recent = seen(tree, LATER_S).workers[0].recent_queries_tokens
    assert recent == 100, "of the last minute, once"


def test_a_node_that_is_lost_again_before_its_processes_have_reported_doubles_nothing() -> None:
    tree = begun()
    unlink(tree, LOST)
    unlink(tree, LOST)
    assert figures(told(tree, 1)) == ONCE


def test_what_was_done_while_the_node_was_lost_is_added() -> None:
    tree = begun()
    unlink(tree, LOST)
    told(tree, 3, LATER_S)
    assert figures(tree) == multiplied(3)
    assert rates(tree)[1] == 2 * 20 / 10
    told(tree, 4, LATER_S)
    assert figures(tree) == multiplied(4)
    unlink(tree, LOST)
    assert figures(told(tree, 5)) == multiplied(5)


def test_a_process_that_began_anew_while_its_node_was_lost_is_added() -> None:
    tree = told(begun(), 5)
    unlink(tree, LOST)
    told(tree, 2)
    assert figures(tree) == multiplied(7)
    told(tree, 6)
    assert figures(tree) == multiplied(11), "also when it has done more than the one before"
    unlink(tree, LOST)
    assert figures(told(tree, 6)) == multiplied(11)


@pytest.mark.parametrize("times", [1, 3])
def test_a_process_that_ended_is_added(times: int) -> None:
    tree = begun()
    unlink(tree, DIED)
    assert figures(told(tree, times)) == multiplied(1 + times)


def test_a_process_that_ended_after_its_node_was_lost_is_added() -> None:
    tree = begun()
    unlink(tree, LOST)
    told(tree, 2)
    unlink(tree, DIED)
    assert figures(told(tree, 2)) == multiplied(4)


def test_one_smaller_counter_is_enough_for_a_new_process() -> None:
    tree = begun()
    unlink(tree, LOST)
    worker = msgspec.structs.replace(reports(1)[0], steps=0)
    tree.apply(worker, 0)
    assert figures(tree)["output_tokens"] == 40


def test_a_disk_that_was_not_there_before_is_counted_whole() -> None:
    tree = TreeState(Meter(), ("tiny",), 0)
    tree.apply(msgspec.structs.replace(reports(1)[1], disk=None), 0)
    unlink(tree, LOST)
    found = figures(told(tree, 1))
    assert [found[name] for name in ("cache_wanted", "disk_read")] == [200, 10]


def test_a_counter_that_is_missing_is_enough_too() -> None:
    tree = begun()
    unlink(tree, LOST)
    copies = HostCopies(False, 0, 20, 2_000, 1.0, 8, 80, 2.0, 32, {})  # `late` was 1
    tree.apply(copies, 0)
    cache = seen(tree, 0).host_cache
    assert cache is not None
    assert cache.engines[0].loaded_blocks == 10 + 20
