"""The router knows what will be evicted before a request begins."""

from __future__ import annotations

import pytest

from dynamo_cli.config import RouterConfig
from dynamo_cli.kv import hashes
from dynamo_cli.messages.request import EngineReady
from dynamo_cli.messages.routing import KvEvents, RouteQuery
from dynamo_cli.messages.telemetry import WorkerStats
from dynamo_cli.router.state import RouterState
from tests.benchmarks.pressure import SHAPES, Shape, Town

BLOCK = 4
SYSTEM, TALK, OTHER = list(range(4)), list(range(4, 7)), list(range(10, 16))


def chain(blocks: list[int]) -> list[int]:
    tokens = [block for block in blocks for _ in range(BLOCK)]
    return hashes.chain(hashes.pack_tokens(tokens), BLOCK)


def query(name: str, blocks: list[int]) -> RouteQuery:
    return RouteQuery(name, name, len(blocks) * BLOCK + 1, hashes.pack(chain(blocks)))


def router(usage: float, waiting: int = 0) -> RouterState:
    """One worker with 20 blocks, which holds all prompts; a request with `SYSTEM` runs there."""
    fresh = RouterState(RouterConfig("kv"))
    fresh.worker_up(EngineReady(0, ["generate"], 1000, BLOCK, 20, 8))
    held = hashes.pack(chain(SYSTEM + TALK) + chain(OTHER))
    fresh.caches.apply(KvEvents(0, 1, held, b"", True, 0, {}), 0)
    assert fresh.decide(0, query("running", [*SYSTEM, 99]), 0) is not None
    fresh.first_token("running", 0, 1)
    stats = WorkerStats(0, 1, waiting, usage, 0, 0, 0, 0, 0, 0, 0, sent_ns=1_000_000_000)
    fresh.ledger.report(stats)
    return fresh


def expected(state: RouterState, blocks: list[int], name: str = "new") -> int:
    decision = state.decide(0, query(name, blocks), 2_000_000_000)
    assert decision is not None
    return decision.overlap_blocks


@pytest.mark.parametrize(
    ("usage", "blocks", "kept", "why"),
    [
        (0.90, [*SYSTEM, *TALK, 7], 7, "there is room for the new blocks"),
        (1.00, [*SYSTEM, *TALK, 7], 4, "only what the running request uses stays"),
        (1.00, [*OTHER, 7], 0, "nobody uses any of it"),
        (0.75, [*SYSTEM, *TALK, *range(20, 40)], 7, "it waits, but nothing else takes blocks"),
    ],
)
def test_only_what_requests_use_stays_when_memory_is_short(
    usage: float, blocks: list[int], kept: int, why: str
) -> None:
    assert expected(router(usage), blocks) == kept, why


def test_what_will_be_computed_before_counts_as_used() -> None:
    state = router(1.0)
    assert expected(state, [*SYSTEM, *TALK, 7]) == 4
    assert expected(state, [*SYSTEM, *TALK, 8], "next") == 7
    state.end("new")
    state.end("next")
    state.end("running")
    assert expected(state, [*SYSTEM, *TALK, 7]) == 7  # all of it has ended: there is room


@pytest.mark.parametrize("name", ["96 talks, twice too many", "48 talks, batches of 16"])
def test_expected_and_found_agree_at_saturation(name: str) -> None:
    told = Town(SHAPES[name]).run(400, 300)
    assert max(told.ttft_s) > 1  # it is saturated
    assert told.expected / told.prompt == pytest.approx(told.found / told.prompt, abs=0.03)


def test_expected_and_found_agree_without_pressure() -> None:
    told = Town(Shape(talks=16)).run(100, 30)
    assert told.found > 0.8 * told.prompt
    assert told.expected == pytest.approx(told.found, rel=0.01)
