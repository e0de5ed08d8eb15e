"""The host cache as the router sees it: what it holds, what loading costs, who is chosen."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dynamo_cli.config import RouterConfig
from dynamo_cli.ipc.codec import Decoder
from dynamo_cli.ipc.switchboard import join
from dynamo_cli.kv import hashes
from dynamo_cli.messages.flows import FromRouter
from dynamo_cli.messages.host_cache import DiskReads, HostCopies, Tier, holder
from dynamo_cli.messages.lifecycle import LinkDown, Stop
from dynamo_cli.messages.routing import (
    KvEvents,
    Measured,
    RequestEnd,
    Resync,
    RouteAnswer,
    RouteQuery,
)
from dynamo_cli.router import process as router_process
from dynamo_cli.router.loading import FIRST_GUESS, GUESS_TOKENS, Loading
from dynamo_cli.router.policies import KvPolicy, Request, WorkerLoad
from dynamo_cli.router.policies.kv import LOADED_COST
from dynamo_cli.router.report import router_stats
from dynamo_cli.router.state import RouterState
from dynamo_cli.router.time_estimator import UNMEASURED, Prices
from dynamo_cli.topology import HOST_CACHE, LINKS, ROUTER, ProcessId, Role
from dynamo_cli.units import MS_NS, SECOND_NS
from tests.ipc.support import Party
from tests.router.test_state import BLOCK, chain, events, holding, place, query, ready, state

LONG = tuple(range(1, 41))
"""A prompt of forty blocks."""


def in_host(router: RouterState, *blocks: int) -> None:
    assert router.host_cache.apply(events(0, 1, chain(*blocks), whole=True), 0)


def copies(worker: int, blocks: int, load_s: float, **more: Any) -> HostCopies:
    totals: dict[str, Any] = {
        "prefill": False,
        "loaded_bytes": 0,
        "stored_blocks": 0,
        "stored_bytes": 0,
        "store_s": 0.0,
        "block_tokens": BLOCK,
        "dropped": {},
    }
    return HostCopies(worker=worker, loaded_blocks=blocks, load_s=load_s, **(totals | more))


# -- what loading costs ------------------------------------------------------------------------


def test_until_it_is_measured_loading_takes_a_tenth_of_computing() -> None:
    assert Loading().token_s(3, UNMEASURED) == pytest.approx(FIRST_GUESS * UNMEASURED.token_s)
    slow = Prices(token_s=0.5)
    assert Loading().token_s(3, slow) == pytest.approx(FIRST_GUESS * 0.5)


def test_each_worker_has_its_own_time_and_a_new_one_that_of_all() -> None:
    loading = Loading()
    for report in range(1, 200):
        loading.copied(copies(0, 100 * report, 0.1 * report))
        loading.copied(copies(1, 100 * report, 0.3 * report))
    assert loading.token_s(0, UNMEASURED) == pytest.approx(0.001 / BLOCK, rel=0.2)
    assert loading.token_s(1, UNMEASURED) == pytest.approx(0.003 / BLOCK, rel=0.2)
    assert loading.token_s(7, UNMEASURED) == pytest.approx(0.002 / BLOCK, rel=0.2)
    loading.worker_down(1)
    assert loading.token_s(1, UNMEASURED) == loading.token_s(7, UNMEASURED)


def test_a_disk_that_becomes_slow_is_noticed_and_one_slow_copy_is_not_believed() -> None:
    loading = Loading()
    blocks, seconds = 0, 0.0
    for _ in range(50):
        blocks, seconds = blocks + 250, seconds + 0.25
        loading.copied(copies(0, blocks, seconds))
    quick = loading.token_s(0, UNMEASURED)
    blocks, seconds = blocks + 1, seconds + 0.05
    loading.copied(copies(0, blocks, seconds))
    assert loading.token_s(0, UNMEASURED) < 1.1 * quick
    for _ in range(50):
        blocks, seconds = blocks + 250, seconds + 2.5
        loading.copied(copies(0, blocks, seconds))
    assert loading.token_s(0, UNMEASURED) > 8 * quick


def test_totals_that_begin_again_are_new_and_prefill_workers_do_not_count() -> None:
    loading = Loading()
    loading.copied(copies(0, 1000, 1.0))
    loading.copied(copies(0, 1000, 1.0))
    loading.copied(copies(0, 500, 5.0))
    loading.copied(copies(0, 100_000, 0.0, prefill=True))
    seconds, tokens = 0.95 * 1.0 + 5.0, BLOCK * (0.95 * 1000 + 500)
    guessed_s = GUESS_TOKENS * FIRST_GUESS * UNMEASURED.token_s
    expected = (guessed_s + seconds) / (GUESS_TOKENS + tokens)
    assert loading.token_s(0, UNMEASURED) == pytest.approx(expected)


def test_the_totals_of_a_new_process_are_all_new_even_if_they_are_larger() -> None:
    loading = Loading()
    loading.copied(copies(0, 1000, 1.0))
    loading.worker_down(0)
    loading.copied(copies(0, 2000, 20.0))
    guessed_s = GUESS_TOKENS * FIRST_GUESS * UNMEASURED.token_s
    expected = (guessed_s + 20.0) / (GUESS_TOKENS + 2000 * BLOCK)
    assert loading.token_s(0, UNMEASURED) == pytest.approx(expected)


def test_a_worker_that_is_down_is_measured_anew() -> None:
    router = state(workers=2)
    router.loading.copied(copies(0, 1000, 1.0))
    router.loading.copied(copies(1, 1000, 9.0))
    others = router.loading.token_s(7, UNMEASURED)
    assert router.loading.token_s(0, UNMEASURED) < others
    router.worker_down(0)
    assert router.loading.token_s(0, UNMEASURED) == others


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 10**6), st.floats(0, 1e3)),
        max_size=30,
    )
)
def test_whatever_is_reported_loading_takes_a_time_between_the_extremes(
    reports: list[tuple[int, int, float]],
) -> None:
    loading = Loading()
    for worker, blocks, load_s in reports:
        loading.copied(copies(worker, blocks, load_s))
    for worker in range(5):
        assert 0 < loading.token_s(worker, UNMEASURED) < float("inf")


# -- the policies ------------------------------------------------------------------------------


def load(worker: int, overlap: int, in_host: int, **more: Any) -> WorkerLoad:
    more = {"expected_blocks": overlap, **more}
    return WorkerLoad(worker, overlap, num_blocks=1000, host_blocks=in_host, **more)


PLAIN = Prices(request_s=0.0, token_s=0.001, pair_s=0.0, decode_slowdown_s=0.0)
BLOCK_S = 16 * PLAIN.token_s


def asked(blocks: int = 10) -> Request:
    return Request(blocks * 16, blocks, 16, prices=PLAIN)


def test_what_is_loaded_costs_the_time_of_loading_and_no_prefill() -> None:
    loads = [load(0, 2, 8, load_s=0.5), load(1, 9, 8)]
    choice = KvPolicy("time", overlap_weight=2)(asked(), loads)
    first, second = (candidate.terms for candidate in choice.candidates)
    assert list(first)[:3] == ["wait_ms", "load_ms", "prefill_ms"]
    assert first["load_ms"] == pytest.approx(2 * 500)
    assert first["prefill_ms"] == pytest.approx(2 * 1000 * 2 * BLOCK_S)
    assert (second["load_ms"], second["prefill_ms"]) == (0, pytest.approx(2000 * BLOCK_S))


def test_without_a_host_cache_the_terms_are_as_before() -> None:
    (candidate,) = KvPolicy("time")(asked(), [load(0, 2, 0)]).candidates
    assert "load_ms" not in candidate.terms


def test_what_is_loaded_into_a_full_cache_evicts_too() -> None:
    full = {"cached_blocks": 1000, "load_s": 0.5}
    lossy = Request(160, 10, 16, prices=Prices(lost_share=0.5, busy_share=0.9))
    (candidate,) = KvPolicy("time")(lossy, [load(0, 0, 9, **full)]).candidates
    terms = candidate.terms
    delayed = terms["prefill_ms"] + terms["queueing_delay_ms"]
    assert terms["eviction_cost_ms"] == pytest.approx(500 + delayed)


def test_where_room_is_short_copies_of_a_prefix_cost_it() -> None:
    """Requests hold half of each cache for ten seconds; what is loaded takes a tenth of a cache."""
    prices = Prices(held_s=10.0)
    request = Request(1600, 100, 16, prices=prices)
    loads = [load(0, 0, 100, decode_blocks=500), load(1, 99, 100, decode_blocks=500, wait_s=0.9)]
    choice = KvPolicy("time")(request, loads)
    first, second = (candidate.terms["queueing_delay_ms"] for candidate in choice.candidates)
    assert first == pytest.approx(0.1 * 10_000 * 0.5 / (1 - 0.5))
    assert second == pytest.approx(first / 100), "it loads one block"
    assert choice.worker == 1
    idle = [msgspec.structs.replace(one, decode_blocks=50) for one in loads]
    assert KvPolicy("time")(request, idle).worker == 0


def test_a_copy_takes_room_whether_it_is_loaded_or_computed() -> None:
    """Else a full machine without the blocks would look cheaper than one that can load them."""
    request = Request(1600, 100, 16, prices=Prices(held_s=10.0))
    loads = [load(0, 0, 100, decode_blocks=500), load(1, 0, 0, decode_blocks=500)]
    candidates = KvPolicy("time")(request, loads).candidates
    loaded, computed = (one.terms["queueing_delay_ms"] for one in candidates)
    assert loaded == computed > 0


def test_where_requests_want_more_than_the_caches_have_a_copy_costs_most() -> None:
    request = Request(1600, 100, 16, prices=Prices(held_s=10.0))
    costs = [
        KvPolicy("time")(request, [load(0, 0, 100, decode_blocks=held)]).candidates[0].cost
        for held in (0, 500, 900, 1000, 5000)
    ]
    assert costs == sorted(costs)
    assert costs[3] == costs[4], "the caches cannot be more than full"


@pytest.mark.parametrize("cost", ["time", "blocks", "shares"])
def test_with_all_in_the_host_cache_the_load_decides(cost: str) -> None:
    busy = {"decode_blocks": 200, "active_requests": 9, "waiting_requests": 3, "wait_s": 1.0}
    loads = [load(0, 9, 9, **busy), load(1, 0, 9, load_s=0.01), load(2, 0, 9, **busy)]
    choice = KvPolicy(cost)(asked(), loads)
    assert (choice.worker, choice.reason) == (1, "cost")
    alone = [load(one.worker, one.overlap_blocks, 0, **busy) for one in (loads[0], loads[2])]
    assert KvPolicy(cost)(asked(), alone).worker == 0


@pytest.mark.parametrize("cost", ["time", "blocks", "shares"])
def test_a_worker_that_cannot_load_is_compared_with_those_that_can(cost: str) -> None:
    choice = KvPolicy(cost)(asked(), [load(0, 0, 0), load(1, 0, 9, load_s=0.001)])
    assert (choice.worker, choice.reason) == (1, "cost")
    first, second = (candidate.terms for candidate in choice.candidates)
    assert first.keys() == second.keys()
    assert ("load_ms" in second) == (cost == "time")


@pytest.mark.parametrize("cost", ["time", "blocks", "shares"])
def test_where_the_load_is_equal_no_copy_is_better_than_one(cost: str) -> None:
    loads = [load(0, 0, 9, load_s=0.001), load(1, 9, 9)]
    assert KvPolicy(cost)(asked(), loads).worker == 1


def test_in_blocks_a_loaded_one_counts_a_tenth() -> None:
    choice = KvPolicy("blocks")(asked(), [load(0, 2, 7)])
    assert choice.candidates[0].terms["prefill"] == pytest.approx(10 - 7 + 5 * LOADED_COST)
    choice = KvPolicy("shares")(asked(), [load(0, 2, 7)])
    spared = 7 - 5 * LOADED_COST
    assert choice.candidates[0].terms["overlap"] == pytest.approx(-2 * spared / 10)


# -- decisions ---------------------------------------------------------------------------------


def test_a_decision_says_what_is_on_the_engine_and_what_in_the_host_cache() -> None:
    router = state(workers=2)
    holding(router, 0, *LONG[:3])
    in_host(router, *LONG[:30])
    decision = router.decide(0, query("a", *LONG), 0)
    assert decision is not None
    assert (decision.worker, decision.overlap_blocks, decision.host_blocks) == (0, 3, 30)
    assert decision.predicted_tokens == 30 * BLOCK
    first, second = decision.candidates
    assert first.terms["load_ms"] == pytest.approx(27 / 30 * second.terms["load_ms"])
    entry = router.ledger.entries["a"]
    assert entry.prefill_tokens == 10 * BLOCK + 1
    assert entry.prefill_blocks == 11
    assert entry.load_ns == pytest.approx(MS_NS * first.terms["load_ms"], abs=1)


def on_disk(router: RouterState, *names: int) -> None:
    """The host cache can reach these, in memory or on its disk."""
    assert router.host_cache.apply(events(Tier.REACH, 1, chain(*names), whole=True), 0)


def test_blocks_on_disk_cost_the_time_to_read_them_and_to_load_them() -> None:
    router = state(workers=1)
    in_host(router, *LONG[:10])
    place_s = {}
    for block_s in (0.0, 1e-5):
        on_disk(router, *LONG[:30])
        router.loading.disk_read(DiskReads(block_s))
        decision = router.decide(0, query(f"{block_s}", *LONG), 0)
        assert decision is not None
        assert (decision.host_blocks, decision.disk_blocks) == (30, 20)
        assert decision.predicted_tokens == 30 * BLOCK
        place_s[block_s] = decision.candidates[0].terms["load_ms"] / 1000
        router.end(f"{block_s}")
    assert place_s[1e-5] - place_s[0.0] == pytest.approx(20 * 1e-5)


def test_blocks_on_disk_that_the_worker_has_itself_are_not_read() -> None:
    router = state(workers=1)
    holding(router, 0, *LONG[:25])
    in_host(router, *LONG[:10])
    on_disk(router, *LONG[:30])
    router.loading.disk_read(DiskReads(1e-5))
    decision = router.decide(0, query("a", *LONG), 0)
    assert decision is not None
    loaded = decision.candidates[0].terms["load_ms"] / 1000
    token_s = router.loading.token_s(0, router.ledger.estimator.prices)
    assert loaded == pytest.approx(5 * BLOCK * token_s + 5 * 1e-5)


def test_a_disk_that_is_slower_than_computing_has_nothing() -> None:
    router = state(workers=1)
    in_host(router, *LONG[:10])
    on_disk(router, *LONG[:30])
    router.loading.disk_read(DiskReads(1.0))
    decision = router.decide(0, query("a", *LONG), 0)
    assert decision is not None
    assert (decision.host_blocks, decision.disk_blocks) == (10, 0)
    router.loading.cache_down(0)  # the next host cache may have another disk
    decision = router.decide(0, query("b", *LONG), 0)
    assert decision is not None
    assert (decision.host_blocks, decision.disk_blocks) == (30, 20)


def test_a_worker_that_the_host_cache_refuses_has_only_its_own_blocks() -> None:
    router = state(workers=2)
    holding(router, 0, *LONG[:3])
    in_host(router, *LONG[:30])
    for refused in (True, False):  # another host cache may take it
        router.loading.copied(copies(0, 0, 0.0, refused=refused))
        router.loading.copied(copies(1, 0, 0.0, prefill=True, refused=True))
        decision = router.decide(0, query(f"refused {refused}", *LONG), 0)
        assert decision is not None
        assert (decision.worker, decision.host_blocks) == (int(refused), 30)
        router.end(f"refused {refused}")
    router.loading.copied(copies(0, 0, 0.0, refused=True))
    decision = router.decide(0, query("alone", *LONG, excluded=(1,)), 0)
    assert decision is not None
    assert (decision.host_blocks, decision.predicted_tokens) == (0, 3 * BLOCK)
    router.end("alone")
    router.worker_down(0)
    router.worker_up(ready(0))
    decision = router.decide(0, query("again", *LONG, excluded=(1,)), 0)
    assert decision is not None
    assert decision.host_blocks == 30


def test_a_block_is_worth_loading_only_for_workers_of_the_machine_that_holds_it() -> None:
    router = state(workers=0)
    for worker, machine in ((0, 1), (1, 2), (2, 2), (3, 3)):
        router.worker_up(msgspec.structs.replace(ready(worker), machine=machine))
    for machine, depth in ((1, 10), (2, 30)):
        held = msgspec.structs.replace(
            events(machine, 1, chain(*LONG[:depth]), whole=True),
            worker=holder(machine, Tier.MEMORY),
        )
        assert router.host_cache.apply(held, 0)
    decision = router.decide(0, query("a", *LONG), 0)
    assert decision is not None
    assert (decision.worker, decision.host_blocks) == (1, 30)
    loads = {one.worker: one.terms["load_ms"] for one in decision.candidates}
    assert loads[1] == loads[2] == pytest.approx(3 * loads[0])
    assert loads[3] == 0
    router.end("a")
    router.host_cache.worker_down(holder(2, Tier.MEMORY))
    decision = router.decide(0, query("b", *LONG), 0)
    assert decision is not None
    assert (decision.worker, decision.host_blocks) == (0, 10)
    router.worker_down(0)
    router.worker_up(msgspec.structs.replace(ready(0), machine=3))
    decision = router.decide(0, query("c", *LONG, excluded=(1, 2, 3)), 0)
    assert decision is not None
    assert (decision.worker, decision.host_blocks) == (0, 0), "it came back elsewhere"


def test_the_last_token_is_computed_even_if_the_host_cache_has_it() -> None:
    router = state(workers=1)
    in_host(router, 1, 2)
    decision = router.decide(0, query("a", 1, 2, extra=0), 0)
    assert decision is not None
    assert decision.host_blocks == 1


def test_loaded_tokens_are_predicted_and_found() -> None:
    router = state(workers=1)
    holding(router, 0, *LONG[:20])
    in_host(router, *LONG[:10])
    place(router, query("deeper on the engine", *LONG))
    in_host(router, *LONG[:30])
    place(router, query("deeper in the host cache", *LONG))
    assert router.first_token("deeper on the engine", 20 * BLOCK, 0) is not None
    found = router.first_token("deeper in the host cache", 30 * BLOCK, 0)
    assert found == Measured("deeper in the host cache", 30 * BLOCK)
    stats = router_stats(router, 0)
    assert (stats.predicted_tokens, stats.measured_tokens) == (50 * BLOCK, 50 * BLOCK)
    assert stats.over_predicted_requests == 0


def test_the_time_of_loading_is_no_time_of_prefill() -> None:
    """A prompt that is loaded in a second and computed in no time must not raise the price of
    computing."""
    router = state(workers=1)
    in_host(router, *LONG)
    for report in range(1, 100):
        router.loading.copied(copies(0, 40 * report, report))
    for number in range(100):
        now = 10 * number * SECOND_NS
        place(router, query(str(number), *LONG), now)
        load_ns = router.ledger.entries[str(number)].load_ns
        assert load_ns > 0.7 * SECOND_NS
        router.first_token(str(number), 40 * BLOCK, now + load_ns + 5 * MS_NS)
        router.end(str(number))
    assert router.ledger.estimator.prices.prefill_s(1, 1, 0) == pytest.approx(0.005, rel=0.2)


def test_a_prefill_begins_when_its_blocks_are_loaded() -> None:
    router = state(workers=1)
    in_host(router, *LONG)
    place(router, query("a", *LONG))
    entry, book = router.ledger.entries["a"], router.ledger.books[0]
    prices = router.ledger.estimator.prices
    alone_s = prices.prefill_s(1, entry.prefill_tokens, entry.prefill_pairs)
    assert book.wait_s(1, prices, 0) == pytest.approx(entry.load_ns / SECOND_NS + alone_s)
    assert book.wait_s(1, prices, entry.load_ns) == pytest.approx(alone_s)


def test_a_first_token_before_the_estimated_end_of_a_load_means_a_prefill_of_no_time() -> None:
    router = state(workers=1)
    in_host(router, *LONG)
    place(router, query("a", *LONG))
    entry = router.ledger.entries["a"]
    router.first_token("a", 40 * BLOCK, entry.load_ns // 2)
    assert entry.load_ns > 1
    assert entry.prefill_ns == 0


def test_what_the_host_cache_loses_is_computed_again() -> None:
    router = state(workers=1)
    in_host(router, *LONG)
    assert router.host_cache.apply(events(0, 2, removed=chain(*LONG)[10:]), 0)
    decision = router.decide(0, query("a", *LONG), 0)
    assert decision is not None
    assert decision.host_blocks == 10
    router.host_cache.worker_down(0)
    decision = router.decide(0, query("b", *LONG), 0)
    assert decision is not None
    assert decision.host_blocks == 0


@given(
    st.lists(st.integers(0, 12), min_size=1, max_size=4),
    st.integers(0, 12),
    st.integers(1, 12),
)
def test_a_prediction_is_the_deeper_of_the_two(held: list[int], host: int, prompt: int) -> None:
    router = state(workers=len(held))
    for worker, depth in enumerate(held):
        holding(router, worker, *LONG[:depth])
    in_host(router, *LONG[:host])
    decision = router.decide(0, query("a", *LONG[:prompt]), 0)
    assert decision is not None
    assert decision.worker is not None
    own = min(held[decision.worker], prompt)
    assert (decision.overlap_blocks, decision.host_blocks) == (own, min(host, prompt))
    assert decision.predicted_tokens == BLOCK * max(own, min(host, prompt))
    # Nobody computes what can be loaded.
    assert router.ledger.entries["a"].prefill_tokens == (
        prompt * BLOCK + 1 - decision.predicted_tokens
    )


# -- the process -------------------------------------------------------------------------------

WORKER, PROCESSOR = ProcessId(Role.WORKER, 0), ProcessId(Role.PROCESSOR, 0)


class Neighbours:
    """The processes around a router that runs in a thread of this one."""

    def __init__(self, router: Party) -> None:
        self._decode = Decoder(FromRouter | Resync)
        self._parties = [Party(process) for process in (WORKER, PROCESSOR, HOST_CACHE)]
        self.boards: dict[ProcessId, Any] = {}
        self._heard: dict[ProcessId, Any] = {}
        for party in self._parties:
            process = party.process
            spec = next(one for one in LINKS if {one.a, one.b} == {process.role, Role.ROUTER})
            assert spec.b is Role.ROUTER
            join(party.control, router.control, process, ROUTER, spec=spec, generation=1)
            self.boards[process], self._heard[process] = party.board()
            while ROUTER not in self.boards[process].links:
                self.boards[process].poll(None)

    def close(self) -> None:
        for board in self.boards.values():
            board.close()
        for party in self._parties:
            party.close()

    def send(self, process: ProcessId, message: Any) -> None:
        assert self.boards[process].send(ROUTER, message)

    def answer(self, process: ProcessId = PROCESSOR) -> Any:
        """The next message of the router to this process."""
        heard = self._heard[process]
        while not (payloads := heard.payloads()):
            self.boards[process].poll(10)
        heard.events = [event for event in heard.events if event[0] != "message"]
        assert len(payloads) == 1
        return self._decode(payloads[0])

    def ask(self, name: str) -> RouteAnswer:
        packed = hashes.pack(chain(*LONG))
        self.send(PROCESSOR, RouteQuery(name, name, len(LONG) * BLOCK + 1, packed))
        answer = self.answer()
        assert isinstance(answer, RouteAnswer)
        self.send(PROCESSOR, RequestEnd(name))
        return answer


@contextmanager
def router() -> Iterator[tuple[Party, Neighbours]]:
    party = Party(ROUTER)
    config = RouterConfig("kv")
    thread = threading.Thread(target=router_process.main, args=(ROUTER, config, party.theirs))
    thread.start()
    neighbours = Neighbours(party)
    try:
        yield party, neighbours
    finally:
        party.control.send(Stop())
        thread.join()
        neighbours.close()
        party.close()


def overlap_becomes(neighbours: Neighbours, blocks: int) -> None:
    """Messages of different peers have no order between them, so ask until the answer is right."""
    for number in range(1000):
        if neighbours.ask(f"{blocks} {number}").overlap_blocks == blocks:
            return
    raise AssertionError(f"the overlap never became {blocks}")


def test_the_events_of_the_host_cache_come_over_its_link_and_go_with_its_process() -> None:
    with router() as (party, neighbours):
        neighbours.send(WORKER, ready(0))
        neighbours.send(WORKER, KvEvents(0, 0, b"", b"", True, 0, {}))
        stored = hashes.pack(chain(*LONG[:30]))
        neighbours.send(HOST_CACHE, KvEvents(0, 1, stored, b"", True, 0, {}))
        neighbours.send(WORKER, copies(0, 100, 0.1))
        overlap_becomes(neighbours, 30)
        neighbours.send(HOST_CACHE, KvEvents(0, 3, b"", stored, False, 0, {}))
        assert isinstance(neighbours.answer(HOST_CACHE), Resync), "a batch is missing"
        neighbours.send(HOST_CACHE, KvEvents(0, 4, stored[: 8 * 20], b"", True, 0, {}))
        overlap_becomes(neighbours, 20)
        party.control.send(LinkDown(HOST_CACHE.name, 1, "killed"))
        overlap_becomes(neighbours, 0)
