"""The loop that workers and prefill workers share, around an engine that is played by the test."""

from __future__ import annotations

from typing import Any

import pytest

from dynamo_cli.config import PlacementRule
from dynamo_cli.engines.cache_client import CacheClient
from dynamo_cli.engines.mock.block_pool import BlockPool
from dynamo_cli.errors import Conflict, InternalError
from dynamo_cli.kv import hashes, slots
from dynamo_cli.messages.admin import Operate, Operated, Operation
from dynamo_cli.messages.host_cache import (
    BlocksFound,
    CacheRefused,
    FindBlocks,
    HostCopies,
    OpenCache,
    SlotsLent,
)
from dynamo_cli.messages.lifecycle import Phase, PhaseChange, SetPhase, Stop
from dynamo_cli.messages.prefill import PullJobs, QueueState
from dynamo_cli.messages.request import EngineReady
from dynamo_cli.messages.routing import KvEvents, Resync
from dynamo_cli.topology import ProcessId, Role
from dynamo_cli.worker import copies, process
from dynamo_cli.worker.prefill import PULL_INTERVAL_S
from tests.worker.support import (
    CAPACITY,
    FRONTEND,
    HOST_CACHE,
    PREFILL_WORKER,
    PROCESSOR,
    QUEUE,
    ROUTER,
    WORKER,
    Around,
    gives,
    request,
)

BOTH = pytest.mark.parametrize("prefill_worker", [False, True])


def store(blocks: BlockPool, *names: int) -> None:
    """Let the prefix cache hold these blocks."""
    blocks.name(blocks.allot(len(names)), names)


def stored(messages: list[Any]) -> list[tuple[list[int], bool]]:
    """Blocks that the router was told of, and whether these are all."""
    return [(list(hashes.unpack(one.stored)), one.whole) for one in messages]


@pytest.mark.parametrize(
    ("prefill_worker", "phase"),
    [
        (False, PhaseChange(Phase.PROBING, CAPACITY)),
        (True, PhaseChange(Phase.WARMING, "waiting for the prefill queue")),
    ],
)
def test_the_supervisor_hears_how_far_the_start_is(
    monkeypatch: pytest.MonkeyPatch, prefill_worker: bool, phase: PhaseChange
) -> None:
    with Around(monkeypatch, prefill_worker=prefill_worker) as around:
        assert around.reports() == [PhaseChange(Phase.LOADING), phase]


@BOTH
def test_it_ends_when_the_supervisor_says_so(
    monkeypatch: pytest.MonkeyPatch, prefill_worker: bool
) -> None:
    titles = []
    monkeypatch.setattr(process, "set_title", lambda *told: titles.append(told))
    with Around(monkeypatch, prefill_worker=prefill_worker) as around:
        around.party.control.send(SetPhase(Phase.READY))
        around.party.control.send(Stop())
        around.process.run()
        assert around.engine.closed
        assert titles == [(PREFILL_WORKER if prefill_worker else WORKER, Phase.READY)]


def test_what_a_step_gave_is_sent_before_the_engine_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    """And what the cache holds before that: the next request may come as soon as tokens do."""
    blocks = BlockPool(10)
    with Around(monkeypatch, PROCESSOR, ROUTER, holdings=blocks) as around:
        around[PROCESSOR].send(request("a"))
        around.engine.failed = [(PROCESSOR.index, "a", InternalError("it is broken"))]
        around.engine.outputs = [(PROCESSOR.index, gives(b"token"))]
        store(blocks, 7)
        events = around.engine.events
        events.clear()
        send = around.process._switchboard.send
        owe = around.process._switchboard.owe

        def note(how: Any) -> Any:
            def sent(peer: Any, message: Any) -> bool:
                events.append(type(message).__name__)
                return bool(how(peer, message))

            return sent

        monkeypatch.setattr(around.process._switchboard, "send", note(send))
        monkeypatch.setattr(around.process._switchboard, "owe", note(owe))
        around.turn()
        assert events[:5] == ["step", "KvEvents", "StepOutputs", "RequestRefused", "rest"]


@BOTH
def test_a_router_learns_what_the_cache_holds(
    monkeypatch: pytest.MonkeyPatch, prefill_worker: bool
) -> None:
    """All of it when it is new or asks, else what a step changed."""
    blocks = BlockPool(10)
    store(blocks, 5)
    with Around(monkeypatch, QUEUE, prefill_worker=prefill_worker, holdings=blocks) as around:
        router = around.link(ROUTER)
        assert stored(router.heard(KvEvents)) == [([5], True)]
        around.engine.running["a"] = 0
        store(blocks, 6)
        around.turn()
        assert stored(router.heard(KvEvents)) == [([6], False)]
        around.turn()
        assert router.heard(KvEvents) == []
        router.send(Resync())
        assert stored(router.heard(KvEvents)) == [([5, 6], True)]


@BOTH
def test_changes_that_a_full_link_refused_come_later_with_all(
    monkeypatch: pytest.MonkeyPatch, prefill_worker: bool
) -> None:
    blocks = BlockPool(10)
    with Around(
        monkeypatch, QUEUE, ROUTER, prefill_worker=prefill_worker, holdings=blocks
    ) as around:
        around.engine.running["a"] = 0
        store(blocks, 5)
        link = around.process._switchboard.links[ROUTER]
        with monkeypatch.context() as full:
            full.setattr(link, "send", lambda *_, **__: False)
            around.turn()
        store(blocks, 6)
        around.turn()
        assert stored(around[ROUTER].heard(KvEvents)) == [([5, 6], True)]


@BOTH
def test_an_operator_puts_the_engine_to_sleep_and_wakes_it_up(
    monkeypatch: pytest.MonkeyPatch, prefill_worker: bool
) -> None:
    with Around(monkeypatch, FRONTEND, prefill_worker=prefill_worker) as around:
        frontend = around[FRONTEND]
        frontend.send(Operate(1, Operation.SLEEP))
        assert frontend.heard(Operated) == [Operated(1, result=True)]
        frontend.send(Operate(2, Operation.IS_SLEEPING))
        assert frontend.heard(Operated) == [Operated(2, result=True)]
        frontend.send(Operate(3, Operation.WAKE_UP))
        assert frontend.heard(Operated) == [Operated(3, result=False)]


@BOTH
def test_sleep_that_waits_begins_when_nothing_runs(
    monkeypatch: pytest.MonkeyPatch, prefill_worker: bool
) -> None:
    with Around(monkeypatch, FRONTEND, prefill_worker=prefill_worker) as around:
        around.engine.running["a"] = 0
        around[FRONTEND].send(Operate(1, Operation.SLEEP, wait=True))
        assert around[FRONTEND].heard(Operated) == []
        around.engine.running.clear()
        around.turn()
        assert around[FRONTEND].heard(Operated) == [Operated(1, result=True)]


@BOTH
def test_waking_up_keeps_awake_what_waits_to_sleep(
    monkeypatch: pytest.MonkeyPatch, prefill_worker: bool
) -> None:
    with Around(monkeypatch, FRONTEND, prefill_worker=prefill_worker) as around:
        around.engine.running["a"] = 0
        around[FRONTEND].send(Operate(1, Operation.SLEEP, wait=True))
        around[FRONTEND].send(Operate(2, Operation.WAKE_UP))
        told = around[FRONTEND].heard(Operated)
        assert told == [Operated(1, result=False), Operated(2, result=False)]
        around.engine.running.clear()
        around.turn()
        assert not around.engine.asleep


@BOTH
def test_what_the_engine_cannot_do_is_the_answer(
    monkeypatch: pytest.MonkeyPatch, prefill_worker: bool
) -> None:
    with Around(monkeypatch, FRONTEND, prefill_worker=prefill_worker) as around:
        around.engine.conflict = Conflict("start with --enable-sleep-mode.")
        around[FRONTEND].send(Operate(1, Operation.RESET_PREFIX_CACHE))
        told = around[FRONTEND].heard(Operated)
        assert told == [Operated(1, False, "Conflict", "start with --enable-sleep-mode.")]


@BOTH
def test_the_router_hears_of_blocks_that_an_order_has_dropped(
    monkeypatch: pytest.MonkeyPatch, prefill_worker: bool
) -> None:
    blocks = BlockPool(10)
    with Around(
        monkeypatch, FRONTEND, ROUTER, prefill_worker=prefill_worker, holdings=blocks
    ) as around:
        store(blocks, 5)
        around[FRONTEND].send(Operate(1, Operation.RESET_PREFIX_CACHE))
        assert stored(around[ROUTER].heard(KvEvents)) == [([5], False)]


def copied(town: Around, peer: Any) -> list[int]:
    """The stored blocks of the reports that this peer has got."""
    return [one.stored_blocks for one in town[peer].heard(HostCopies)]


@BOTH
def test_copies_are_told_when_there_are_new_ones(
    monkeypatch: pytest.MonkeyPatch, prefill_worker: bool
) -> None:
    client = CacheClient(4096, "flat", 16)
    peers = (FRONTEND, ROUTER, HOST_CACHE)
    with Around(monkeypatch, *peers, prefill_worker=prefill_worker, cache_client=client) as town:
        town.later(1)
        assert [copied(town, peer) for peer in (FRONTEND, ROUTER)] == [[], [0]]
        town.later(1)
        client.stored.blocks = 3
        town.clock.now_s += copies.INTERVAL_S
        assert town.process._timeout_s() == 0
        town.turn()
        client.stored.blocks = 4
        town.turn()
        assert 0 < (town.process._timeout_s() or 0) <= copies.INTERVAL_S
        assert [copied(town, peer) for peer in (FRONTEND, ROUTER)] == [[3], [3]]
        town.later(copies.INTERVAL_S)
        assert [copied(town, peer) for peer in (FRONTEND, ROUTER)] == [[4], [4]]
        town.later(copies.INTERVAL_S)
        assert [copied(town, peer) for peer in (FRONTEND, ROUTER)] == [[], []]
        town[ROUTER].die()
        town.link(ROUTER)
        town.later(copies.INTERVAL_S)
        assert [copied(town, peer) for peer in (FRONTEND, ROUTER)] == [[], [4]]


def test_a_report_that_the_link_refuses_is_sent_again() -> None:
    heard: list[HostCopies] = []

    class Links:
        links = (ROUTER,)
        full = True

        def send(self, _: ProcessId, message: HostCopies) -> bool:
            heard.append(message)
            return not self.full

    links: Any = Links()
    process = ProcessId(Role.WORKER, 0)
    reports = copies.CopyReports(process, CacheClient(4096, "flat", 16), links)
    for links.full, seen in ((True, 1), (False, 2), (False, 2)):
        reports._due_s = 0.0
        reports.tick()
        assert len(heard) == seen


@BOTH
def test_what_the_host_cache_says_is_the_engine_s(
    monkeypatch: pytest.MonkeyPatch, prefill_worker: bool
) -> None:
    client = CacheClient(4096, "flat", 16, reserve=5)
    with Around(monkeypatch, FRONTEND, prefill_worker=prefill_worker, cache_client=client) as town:
        assert town.link(HOST_CACHE).read() == [OpenCache(4096, "flat", 5)]
        town[HOST_CACHE].send(SlotsLent(slots.pack([7, 9])))
        assert client.take(3) == [7, 9]
        assert client.find("r", [b"a"]) is None
        [asked] = town[HOST_CACHE].read()
        assert (type(asked), asked.keys) == (FindBlocks, [b"a"])
        town[HOST_CACHE].die()
        assert client.find("r", [b"a"]) == {}
        town.link(HOST_CACHE)
        [opened] = town[HOST_CACHE].read()
        assert sorted(slots.unpack(opened.busy)) == [7, 9]
        town[HOST_CACHE].send(CacheRefused("it is too small."))
        assert client.refused == "it is too small."


class Asking:
    """A worker that asks the host cache about each request as it comes.

    Attributes:
        answers: what the host cache has of each request, which it says as soon as it is asked.
        waits: how long the loop might wait for messages, each time.
        found: what was known of the requests when the step began.
    """

    def __init__(self, town: Around, monkeypatch: pytest.MonkeyPatch) -> None:
        assert town.engine.cache_client is not None
        self.answers: dict[str, bytes] = {}
        self.waits: list[float | None] = []
        self.found: list[dict[str, dict[bytes, int] | None]] = []
        self._town = town
        self._client = town.engine.cache_client
        board, engine = town.process._switchboard, town.engine
        self._send, self._poll, self._step = board.send, board.poll, engine.step
        monkeypatch.setattr(board, "send", self.send)
        monkeypatch.setattr(board, "poll", self.poll)
        monkeypatch.setattr(engine, "step", self.step)

    def ask(self, name: str) -> dict[bytes, int] | None:
        return self._client.find(name, [b"k"])

    def send(self, peer: ProcessId, message: Any) -> bool:
        sent = self._send(peer, message)
        if isinstance(message, FindBlocks):
            found = self.answers.get(message.name.partition("#")[0])
            if found is not None:
                board = self._town[HOST_CACHE].board
                assert board.send(self._town.id, BlocksFound(message.name, found))
        return sent

    def poll(self, timeout_s: float | None) -> Any:
        self.waits.append(timeout_s)
        return self._poll(timeout_s)

    def step(self) -> Any:
        self.found.append({name: self.ask(name) for name in self._town.engine.running})
        return self._step()


def test_a_new_request_has_its_answer_before_the_next_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """And no other: what was asked before does not make it wait, nor what is not answered."""
    client = CacheClient(4096, "flat", 16)
    with Around(monkeypatch, FRONTEND, PROCESSOR, HOST_CACHE, cache_client=client) as town:
        asking = Asking(town, monkeypatch)
        start = town.engine.decode_side.start
        monkeypatch.setattr(
            town.engine.decode_side,
            "start",
            lambda prepared: (start(prepared), asking.ask(prepared.message.request_id)),
        )
        town[PROCESSOR].send(request("slow"))
        assert asking.found == [{"slow": None}]
        assert all(0 < (wait or 0) <= process.HEAR_S for wait in asking.waits[1:])
        monkeypatch.setattr(process, "HEAR_S", 5.0)
        asking.answers["a"] = slots.pack([3])
        asking.waits.clear()
        town[PROCESSOR].send(request("a"))
        assert asking.found[1:] == [{"slow": None, "a": {b"k": 3}}]
        assert len(asking.waits) == 2, "for the request and for its answer"
        town.turn()
        assert asking.waits[2:] == [0], "nothing new was asked"


def test_a_prompt_is_placed_before_the_next_step(monkeypatch: pytest.MonkeyPatch) -> None:
    rule = PlacementRule(conditional=True, max_local_prefill_length=100)
    client = CacheClient(4096, "flat", 16)
    peers = (FRONTEND, PROCESSOR, QUEUE, HOST_CACHE)
    with Around(monkeypatch, *peers, rule=rule, cache_client=client) as town:
        town[QUEUE].send(QueueState(0, 1))
        asking = Asking(town, monkeypatch)
        asking.answers["a"] = slots.pack([3])

        def known(prepared: Any, _: int) -> int | None:
            found = asking.ask(prepared.message.request_id)
            return None if found is None else 400 * len(found)

        monkeypatch.setattr(town.engine.decode_side, "known_tokens", known)
        town[PROCESSOR].send(request("a", tokens=500))
        assert asking.found == [{"a": {b"k": 3}}]


@BOTH
def test_on_another_machine_it_uses_the_host_cache_there(
    monkeypatch: pytest.MonkeyPatch, prefill_worker: bool
) -> None:
    client = CacheClient(4096, "flat", 16, reserve=5)
    there = ProcessId(Role.HOST_CACHE, 2)
    with Around(
        monkeypatch,
        *(FRONTEND, ROUTER, QUEUE),
        prefill_worker=prefill_worker,
        cache_client=client,
        machine=2,
    ) as town:
        assert town.link(there).read() == [OpenCache(4096, "flat", 5)]
        assert client.find("r", [b"a"]) is None
        assert len(town[there].heard(FindBlocks)) == 1
        if prefill_worker:
            town.later(PULL_INTERVAL_S)
            assert {one.machine for one in town[QUEUE].heard(PullJobs)} == {2}
        else:
            town[ROUTER].die()
            assert [one.machine for one in town.link(ROUTER).heard(EngineReady)] == [2]
        town[there].die()
        assert client.find("r", [b"a"]) == {}
