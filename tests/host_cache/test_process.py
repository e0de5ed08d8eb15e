"""The loop of the host cache over real links, whose other ends the test plays."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial

import pytest

from dynamo_cli.config import HostCacheConfig
from dynamo_cli.host_cache.process import STATS_INTERVAL_S, HostCacheProcess
from dynamo_cli.kv import hashes, slots
from dynamo_cli.messages.admin import Operate, Operated, Operation
from dynamo_cli.messages.base import Message
from dynamo_cli.messages.host_cache import (
    MISSING,
    BlocksFound,
    BlocksRead,
    BlocksWritten,
    CacheRefused,
    FindBlocks,
    HostCacheStats,
    OpenCache,
    SlotsLent,
    SlotsReturned,
)
from dynamo_cli.messages.lifecycle import PeerEnded, Phase, PhaseChange, SetPhase, Stop
from dynamo_cli.messages.routing import KvEvents, Resync
from dynamo_cli.topology import FRONTEND, HOST_CACHE, ROUTER, ProcessId, Role
from tests.ipc.peer import Middle, Peer, of

ONE, TWO = ProcessId(Role.WORKER, 0), ProcessId(Role.PREFILL_WORKER, 0)
HEARD = BlocksFound | CacheRefused | HostCacheStats | KvEvents | Operated | SlotsLent
SLOTS, SLOT_BYTES = 64, 4096
OPEN = OpenCache(SLOT_BYTES, "flat")


class Scene(Middle[HostCacheProcess]):
    """The host cache, and the processes around it."""

    def __init__(self) -> None:
        config = HostCacheConfig(SLOTS * SLOT_BYTES)
        super().__init__(HOST_CACHE, partial(HostCacheProcess, HOST_CACHE, config), HEARD)

    def ready(self) -> None:
        """Say, as the supervisor does, that the links to all earlier processes are there."""
        self.control.send(SetPhase(Phase.READY))
        self.turn()

    def answers(self, peer: Peer, *messages: Message) -> list[Message]:
        """Send messages; what comes back."""
        for message in messages:
            peer.send(message)
        self.turn()
        return peer.take()


@pytest.fixture
def scene() -> Iterator[Scene]:
    scene = Scene()
    yield scene
    scene.close()


def lent(messages: list[Message]) -> list[int]:
    return [slot for message in of(SlotsLent, messages) for slot in slots.unpack(message.slots)]


def found(*numbers: int) -> BlocksFound:
    return BlocksFound("r", slots.pack(numbers))


def written(numbers: list[int], *names: int) -> BlocksWritten:
    """Blocks of one prompt with these sequence hashes, from its beginning."""
    return BlocksWritten(
        [name.to_bytes(8) for name in names],
        slots.pack(numbers),
        hashes.pack(names),
        hashes.pack([hashes.ROOT, *names[:-1]]),
    )


KEYS = [name.to_bytes(8) for name in (7, 8, 9)]


def test_an_operator_resets_it(scene: Scene) -> None:
    one, frontend = scene.peer(ONE), scene.peer(FRONTEND)
    scene.ready()
    mine = lent(scene.answers(one, OPEN))
    scene.answers(one, written(mine[:2], 7, 8))
    (answer,) = of(Operated, scene.answers(frontend, Operate(5, Operation.RESET_PREFIX_CACHE)))
    assert answer == Operated(5, result=True)
    scene.turn()
    (missed,) = of(BlocksFound, scene.answers(one, FindBlocks("r", KEYS[:2])))
    assert missed.slots == slots.pack([MISSING, MISSING])


def test_while_it_is_closed_it_gives_nothing(scene: Scene) -> None:
    """Until the order to open comes, or the frontend that would send it has died."""
    one, frontend = scene.peer(ONE), scene.peer(FRONTEND)
    scene.ready()
    mine = lent(scene.answers(one, OPEN))
    order = Operate(5, Operation.RESET_PREFIX_CACHE, closed=True)
    assert of(Operated, scene.answers(frontend, order)) == [Operated(5, result=True)]
    assert scene.answers(one, SlotsReturned(slots.pack(mine))) == []
    frontend.die()
    scene.turn()
    assert len(lent(one.take())) == len(mine)


def test_what_one_engine_has_written_another_finds(scene: Scene) -> None:
    one, two, router = scene.peer(ONE), scene.peer(TWO), scene.peer(ROUTER)
    scene.ready()
    assert scene.answers(one, OPEN) == [], "the other one was there before the host cache"
    assert len(lent(scene.answers(two, OPEN))) == SLOTS // 8
    mine = lent(one.take())
    assert len(mine) == SLOTS // 8
    scene.answers(one, written(mine[:2], 7, 8))
    assert scene.answers(two, FindBlocks("r", KEYS)) == [found(*mine[:2], MISSING)]
    whole, change = of(KvEvents, router.take())
    assert (whole.worker, whole.whole, whole.stored) == (0, True, b"")
    assert (list(hashes.unpack(change.stored)), change.whole) == ([7, 8], False)


def test_a_question_is_answered_after_what_was_written_before_it(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine is told by another that its blocks are written; its own link may be read first."""
    one, two = scene.peer(ONE), scene.peer(TWO)
    scene.ready()
    scene.answers(one, OPEN)
    scene.answers(two, OPEN)
    mine = lent(one.take())
    heard = scene.process.on_message

    def on_message(peer: ProcessId, payload: bytes) -> None:
        heard(peer, payload)
        if peer == TWO:  # its link is read first
            one.send(written(mine[:2], 7, 8))

    monkeypatch.setattr(scene.process, "on_message", on_message)
    assert of(BlocksFound, scene.answers(two, FindBlocks("r", KEYS))) == [found(*mine[:2], MISSING)]


def test_a_question_that_is_not_needed_any_more_is_not_answered(scene: Scene) -> None:
    one = scene.peer(ONE)
    scene.ready()
    scene.answers(one, OPEN)
    assert scene.answers(one, FindBlocks("r", KEYS), BlocksRead("r")) == []
    assert scene.process._cache.blocks.pinned == 0


def test_a_new_router_and_one_that_asks_get_everything(scene: Scene) -> None:
    one = scene.peer(ONE)
    scene.ready()
    mine = lent(scene.answers(one, OPEN))
    scene.answers(one, written(mine[:2], 7, 8))
    router = scene.peer(ROUTER)
    assert [list(hashes.unpack(m.stored)) for m in of(KvEvents, router.take())] == [[7, 8]]
    again = of(KvEvents, scene.answers(router, Resync()))
    assert [(list(hashes.unpack(m.stored)), m.whole) for m in again] == [([7, 8], True)]


def test_engines_without_sequence_hashes_share_blocks_too(scene: Scene) -> None:
    one = scene.peer(ONE)
    scene.ready()
    mine = lent(scene.answers(one, OPEN))
    scene.answers(one, BlocksWritten(KEYS[:1], slots.pack(mine[:1])))
    assert scene.answers(one, FindBlocks("r", KEYS[:2])) == [found(mine[0], MISSING)]


def test_an_engine_that_differs_is_refused_and_an_unknown_one_not_answered(scene: Scene) -> None:
    one, two = scene.peer(ONE), scene.peer(TWO)
    scene.ready()
    scene.answers(one, OPEN)
    (refusal,) = of(CacheRefused, scene.answers(two, OpenCache(SLOT_BYTES, "deep")))
    assert "laid out as deep" in refusal.reason
    assert lent(one.take()), "a refused engine keeps nobody waiting"
    assert scene.answers(two, FindBlocks("r", KEYS)) == []


def test_what_a_dead_engine_had_is_free_and_is_lent_again(scene: Scene) -> None:
    one, frontend = scene.peer(ONE), scene.peer(FRONTEND)
    scene.ready()
    scene.answers(one, OPEN)
    stats = report(scene, frontend)
    assert (stats.slots, stats.slot_bytes, stats.lent) == (SLOTS, SLOT_BYTES, SLOTS // 4)
    one.die()
    scene.turn()
    assert report(scene, frontend).lent == 0
    two = scene.peer(TWO)
    assert len(lent(scene.answers(two, OPEN))) == SLOTS // 4


def test_an_engine_without_a_link_keeps_its_slots_until_it_has_ended(scene: Scene) -> None:
    one, frontend = scene.peer(ONE), scene.peer(FRONTEND)
    scene.ready()
    mine = lent(scene.answers(one, OPEN))
    scene.answers(one, written(mine[:2], 7, 8), FindBlocks("r", KEYS))
    one.part()
    scene.turn()
    stats = report(scene, frontend)
    assert (stats.lent, stats.pinned) == (SLOTS // 4 - 2, 2)
    again = scene.peer(ONE)
    busy = slots.pack([mine[0], mine[5]])
    theirs = lent(scene.answers(again, OpenCache(SLOT_BYTES, "flat", busy=busy)))
    assert not set(theirs) & set(mine)
    assert report(scene, frontend).pinned == 1
    again.part()
    scene.control.send(PeerEnded(ONE.name))
    scene.turn()
    stats = report(scene, frontend)
    assert (stats.lent, stats.pinned, stats.invalid) == (0, 0, 0)


def test_it_wakes_up_only_for_what_is_due(scene: Scene) -> None:
    one, frontend = scene.peer(ONE), scene.peer(FRONTEND)
    scene.ready()
    report(scene, frontend)
    assert scene.process._timeout_s() == STATS_INTERVAL_S, "it says in the log who is awaited"
    scene.answers(one, OPEN)
    assert scene.process._timeout_s() == STATS_INTERVAL_S, "there is something to report"
    report(scene, frontend)
    assert scene.process._timeout_s() is None
    one.die()
    scene.turn()
    report(scene, frontend)
    assert scene.process._timeout_s() == STATS_INTERVAL_S, "slots are lent again after a while"


def test_questions_of_a_dead_engine_are_dropped(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = scene.peer(ONE)
    scene.ready()
    scene.answers(one, OPEN)
    heard = scene.process.on_message

    def on_message(peer: ProcessId, payload: bytes) -> None:
        heard(peer, payload)
        scene.process.on_unlink(peer, "SIGKILL")

    monkeypatch.setattr(scene.process, "on_message", on_message)
    scene.answers(one, FindBlocks("r", KEYS))
    assert scene.process._cache.invalid == 0


def test_a_new_host_cache_keeps_off_the_slots_that_engines_still_use(scene: Scene) -> None:
    one = scene.peer(ONE)
    busy = list(range(4))
    opened = scene.answers(one, OpenCache(SLOT_BYTES, "flat", busy=slots.pack(busy)))
    assert opened == [], "there may be links that it has not heard of yet"
    scene.ready()
    mine = lent(one.take())
    assert len(mine) == SLOTS // 4
    assert not set(mine) & set(busy)
    scene.answers(one, SlotsReturned(slots.pack(busy)))
    assert scene.process._cache.busy == 0


def test_slots_are_pinned_until_they_were_read(scene: Scene) -> None:
    one, frontend = scene.peer(ONE), scene.peer(FRONTEND)
    scene.ready()
    mine = lent(scene.answers(one, OPEN))
    scene.answers(one, written(mine[:2], 7, 8), FindBlocks("r", KEYS))
    stats = report(scene, frontend)
    assert (stats.used, stats.pinned, stats.wanted, stats.found) == (2, 2, 3, 2)
    scene.answers(one, BlocksRead("r"))
    assert report(scene, frontend).pinned == 0


def report(scene: Scene, frontend: Peer) -> HostCacheStats:
    """The next report to the frontend."""
    scene.process._report_due_s, scene.process._changed = 0.0, True
    scene.turn()
    return of(HostCacheStats, frontend.take())[-1]


def test_reports_come_at_most_four_times_a_second(scene: Scene) -> None:
    frontend, one = scene.peer(FRONTEND), scene.peer(ONE)
    scene.ready()
    scene.answers(one, OPEN)
    frontend.take()
    scene.process._report_due_s = time.monotonic() + 1_000
    scene.answers(one, FindBlocks("r", KEYS))
    assert frontend.take() == []
    assert report(scene, frontend).wanted == 3


def test_the_log_names_the_engine_without_whose_word_nothing_is_stored(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    one = scene.peer(ONE)
    scene.peer(TWO)
    scene.ready()
    scene.answers(one, OPEN)
    assert not caplog.records
    scene.process._warning_due_s = 0.0
    scene.turn()
    scene.turn()
    (record,) = caplog.records
    assert "until prefill worker 0 has said" in record.getMessage()


def test_it_reports_that_it_is_ready_and_ends_when_it_is_told_to(scene: Scene) -> None:
    scene.control.send(Stop())
    scene.process.run()
    assert list(scene.control.receive()) == [(PhaseChange(Phase.READY), [])]
