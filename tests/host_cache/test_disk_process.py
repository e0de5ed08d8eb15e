"""The host cache with a disk: real copies to a real file, and engines that the test plays."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from dynamo_cli.config import DiskCacheConfig, HostCacheConfig
from dynamo_cli.host.memory_file import MemoryFile, map_shared
from dynamo_cli.host.unnamed_file import open_best
from dynamo_cli.host_cache import disk_file
from dynamo_cli.host_cache.disk import MOST_FAILURES, DiskJob
from dynamo_cli.host_cache.disk_file import DiskFile
from dynamo_cli.host_cache.process import HostCacheProcess
from dynamo_cli.kv import hashes, slots
from dynamo_cli.messages.admin import Operate, Operated, Operation
from dynamo_cli.messages.base import Message
from dynamo_cli.messages.host_cache import (
    MISSING,
    BlocksFound,
    BlocksRead,
    BlocksWritten,
    CacheRefused,
    DiskReads,
    DiskStats,
    FindBlocks,
    HostCacheStats,
    OpenCache,
    SlotsLent,
    Tier,
)
from dynamo_cli.messages.lifecycle import Phase, SetPhase, Stop
from dynamo_cli.messages.routing import KvEvents
from dynamo_cli.topology import FRONTEND, HOST_CACHE, ROUTER, ProcessId, Role
from tests.ipc.peer import Middle, Peer, of

ONE = ProcessId(Role.WORKER, 0)
HEARD = BlocksFound | CacheRefused | DiskReads | HostCacheStats | KvEvents | Operated | SlotsLent
SLOTS, SLOT_BYTES, PLACES = 8, 4096, 24
PATIENT_US = 1_000_000


class Scene(Middle[HostCacheProcess]):
    """The host cache with a disk, one engine, and the memory that both share."""

    def __init__(self, folder: Path) -> None:
        self._file = MemoryFile("test", SLOTS * SLOT_BYTES)
        disk = DiskCacheConfig(str(folder), PLACES * SLOT_BYTES)
        config = HostCacheConfig(SLOTS * SLOT_BYTES, self._file.path, disk=disk)
        super().__init__(HOST_CACHE, partial(HostCacheProcess, HOST_CACHE, config), HEARD)
        self.memory = memoryview(map_shared(self._file.path))
        self.engine = self.peer(ONE)
        self.control.send(SetPhase(Phase.READY))
        self.turn()
        self.lent: list[int] = []
        self.written = 0
        self.say(OpenCache(SLOT_BYTES, "flat"))

    def close(self) -> None:
        super().close()
        self._file.close()

    def say(self, *messages: Message) -> list[Message]:
        """Send messages of the engine; what comes back at once."""
        for message in messages:
            self.engine.send(message)
        self.turn()
        return self.heard()

    def heard(self) -> list[Message]:
        came = self.engine.take()
        for message in of(SlotsLent, came):
            self.lent += slots.unpack(message.slots)
        return came

    def write(self, *names: int) -> None:
        """Write each block at the beginning of a prompt of its own; wait until it is on disk."""
        for name in names:
            slot = self.lent.pop()
            self.memory[slot * SLOT_BYTES : (slot + 1) * SLOT_BYTES] = bytes([name]) * SLOT_BYTES
            block, none = hashes.pack([name]), hashes.pack([hashes.ROOT])
            self.say(BlocksWritten([name.to_bytes(8)], slots.pack([slot]), block, none))
            self.settle()

    def settle(self) -> None:
        """Wait until no copy runs."""
        self.until(lambda: not self.disk._copies and not self.disk._queue)
        self.heard()

    def until(self, there: Callable[[], object]) -> None:
        end = time.monotonic() + 20
        while not there():
            assert time.monotonic() < end
            self.process.advance(0.01)

    @property
    def disk(self):  # type: ignore[no-untyped-def]
        assert self.process._disk_tier is not None
        return self.process._disk_tier.disk

    @property
    def stats(self) -> DiskStats:
        return self.disk.stats()

    def find(self, *names: int, name: str = "q") -> list[int]:
        """Ask for blocks, and wait for the answer."""
        came = self.say(FindBlocks(name, [one.to_bytes(8) for one in names], PATIENT_US))
        self.until(lambda: came.extend(self.heard()) or of(BlocksFound, came))
        (answer,) = of(BlocksFound, came)
        return list(slots.unpack(answer.slots))

    def content(self, slot: int) -> set[int]:
        return set(self.memory[slot * SLOT_BYTES : (slot + 1) * SLOT_BYTES])

    @property
    def in_memory(self) -> list[int]:
        return [n for n in range(1, 30) if self.process._cache.blocks.get(n.to_bytes(8))]


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    made = Scene(tmp_path)
    yield made
    made.close()


def hang(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Let no copy begin before the function is called that this returns."""
    held: list[DiskJob] = []
    monkeypatch.setattr(DiskFile, "begin", lambda _, job: held.append(job))

    def go_on() -> None:
        monkeypatch.undo()
        for job in held:
            scene.process._disk_tier._file.begin(job)  # type: ignore[union-attr]

    return go_on


def test_what_the_memory_has_dropped_comes_back_from_the_disk(scene: Scene) -> None:
    scene.write(*range(1, 15))
    assert 1 not in scene.in_memory
    assert scene.stats.used == scene.stats.written == 14
    found = scene.find(1, 2, 14, 29)
    assert [scene.content(slot) for slot in found[:3]] == [{1}, {2}, {14}]
    assert found[3] == MISSING
    assert scene.process._cache.blocks.pinned == 3
    assert (scene.stats.wanted, scene.stats.found, scene.stats.read) == (2, 2, 2)
    scene.say(BlocksRead("q"))
    assert scene.process._cache.blocks.pinned == 0
    assert scene.stats.written == 14, "what came from the disk is not written again"


def test_the_folder_stays_empty_and_the_file_is_private(scene: Scene, tmp_path: Path) -> None:
    """So nothing is left of it after kill -9, and no other server can read half a block."""
    scene.write(1)
    assert list(tmp_path.iterdir()) == []
    file = scene.process._disk_tier._file._file  # type: ignore[union-attr]
    assert os.fstat(file).st_nlink == 0
    assert os.fstat(file).st_mode & 0o077 == 0


def test_the_oldest_block_makes_room_on_disk(scene: Scene) -> None:
    scene.write(*range(1, PLACES + 4))
    assert (scene.stats.used, scene.stats.places, scene.stats.evicted) == (PLACES, PLACES, 3)
    assert scene.find(3) == [MISSING]
    assert scene.content(scene.find(4, name="r")[0]) == {4}


def test_a_block_that_was_damaged_is_not_found(scene: Scene) -> None:
    scene.write(*range(1, 15))
    place = scene.disk.blocks.get((1).to_bytes(8)).slot
    file = scene.process._disk_tier._file._file  # type: ignore[union-attr]
    page = scene.memory[:SLOT_BYTES]
    os.pwrite(file, page, place * SLOT_BYTES)
    found = scene.find(1, 2)
    assert found[0] == MISSING
    assert scene.content(found[1]) == {2}
    assert scene.stats.dropped == {"corrupt": 1}
    assert scene.find(1, name="again") == [MISSING]
    assert scene.stats.dropped == {"corrupt": 1}, "it is not read again"


def test_a_full_disk_makes_the_tier_smaller_until_there_is_room(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10 * SLOT_BYTES, before[1]))
    try:
        scene.write(*range(1, 15))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert scene.stats.used == 10
    assert scene.stats.dropped == {"disk_full": 1}
    assert scene.stats.off == "", "a full disk is no broken one"
    assert scene.content(scene.find(5)[0]) == {5}, "the oldest have made room"
    scene.disk._places._grows_ns = 0
    scene.write(15, 16)
    assert scene.stats.used == 12


def test_an_answer_waits_no_longer_than_computing_would_take(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.write(*range(1, 15))
    go_on = hang(scene, monkeypatch)
    began = time.monotonic()
    came = scene.say(FindBlocks("q", [(1).to_bytes(8)], 50_000))
    assert of(BlocksFound, came) == []
    timeout_s = scene.process._timeout_s()
    assert timeout_s is not None
    assert timeout_s <= 0.05
    scene.until(lambda: came.extend(scene.heard()) or of(BlocksFound, came))
    assert time.monotonic() - began >= 0.05
    assert of(BlocksFound, came) == [BlocksFound("q", slots.pack([MISSING]))]
    assert scene.stats.dropped == {"late": 1}
    go_on()
    scene.settle()
    assert 1 in scene.in_memory, "it is there for the next one"
    assert scene.process._cache.blocks.pinned == 0


def test_a_copy_goes_on_after_a_part_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A system may write or read less than it was asked for."""
    monkeypatch.setattr(disk_file, "open_best", lambda one, **_: open_best(one, direct=False))
    scene = Scene(tmp_path)
    write, read = os.pwrite, os.preadv
    monkeypatch.setattr(os, "pwrite", lambda to, data, at: write(to, data[:1000], at))
    monkeypatch.setattr(os, "preadv", lambda of, rooms, at: read(of, [rooms[0][:1000]], at))
    scene.write(*range(1, 15))
    assert [scene.content(slot) for slot in scene.find(1, 2)] == [{1}, {2}]
    assert scene.stats.dropped == {}
    scene.close()


def test_the_end_of_a_copy_is_told(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = hang(scene, monkeypatch)
    frontend = scene.peer(FRONTEND)
    slot = scene.lent.pop()
    scene.say(BlocksWritten([b"key"], slots.pack([slot])))
    scene.process._report_due_s, scene.process._changed = 0.0, False
    frontend.take()
    go_on()
    scene.settle()
    (stats,) = of(HostCacheStats, frontend.take())
    assert stats.disk is not None
    assert stats.disk.used == 1


def test_at_the_end_no_more_copies_begin(scene: Scene) -> None:
    scene.control.send(Stop())
    scene.process.run()
    file = scene.process._disk_tier._file  # type: ignore[union-attr]
    with pytest.raises(RuntimeError, match="shutdown"):
        file.begin(DiskJob(write=True, number=1, slot=0, place=0))


def test_a_disk_that_is_slower_than_computing_is_not_read(scene: Scene) -> None:
    scene.write(*range(1, 15))
    came = scene.say(FindBlocks("q", [(1).to_bytes(8)], 1))
    assert of(BlocksFound, came) == [BlocksFound("q", slots.pack([MISSING]))], "at once"
    assert scene.stats.dropped == {"slow": 1}


def test_who_asks_for_nothing_on_disk_is_answered_at_once(scene: Scene) -> None:
    scene.write(1, 2)
    came = scene.say(FindBlocks("q", [n.to_bytes(8) for n in (1, 29)], PATIENT_US))
    assert len(of(BlocksFound, came)) == 1
    assert scene.stats.wanted == 0


def test_a_disk_that_fails_again_and_again_is_not_used_any_more(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    scene.write(1, 2)

    def fail(*_: object) -> int:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(disk_file.os, "pwrite", fail)
    scene.write(*range(3, 3 + MOST_FAILURES))
    monkeypatch.undo()
    assert scene.stats.dropped == {"write_failed": MOST_FAILURES}
    assert "write_failed" in scene.stats.off
    assert scene.stats.used == 0
    scene.write(25)
    assert scene.stats.written == 2
    assert [record.levelname for record in caplog.records] == ["WARNING", "ERROR"]
    assert "input/output error" in caplog.text


def test_without_a_folder_the_memory_alone_serves(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scene = Scene(tmp_path / "missing")
    try:
        scene.write(*range(1, 15))
        assert "no file can be made in" in scene.stats.off
        assert "no such file or directory" in scene.stats.off
        scene.peer(ProcessId(Role.WORKER, 1)).send(OpenCache(SLOT_BYTES, "flat"))
        scene.turn()
        assert len(caplog.records) == 1, "it is not tried again"
        assert scene.content(scene.find(14)[0]) == {14}
        assert scene.find(1, name="r") == [MISSING]
    finally:
        scene.close()


def test_a_reset_forgets_what_is_on_disk(scene: Scene) -> None:
    frontend = scene.peer(FRONTEND)
    scene.write(*range(1, 15))
    frontend.send(Operate(5, Operation.RESET_PREFIX_CACHE))
    scene.turn()
    assert of(Operated, frontend.take()) == [Operated(5, result=True)]
    assert scene.find(1, 14) == [MISSING, MISSING]
    assert scene.stats.used == 0


def test_the_router_is_told_what_each_tier_has_and_how_fast_the_disk_is(scene: Scene) -> None:
    scene.write(*range(1, 15))
    router = scene.peer(ROUTER)
    told = {message.worker: set(hashes.unpack(message.stored)) for message in events(router)}
    assert told == {Tier.MEMORY: set(scene.in_memory), Tier.REACH: set(range(1, 15))}
    scene.find(1)
    scene.process._report_due_s, scene.process._changed = 0.0, True
    scene.turn()
    (reads,) = of(DiskReads, router.take())
    assert 0 < reads.block_s < 20


def events(router: Peer) -> list[KvEvents]:
    return of(KvEvents, router.take())


def test_an_engine_that_dies_waits_for_nothing(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.write(*range(1, 15))
    go_on = hang(scene, monkeypatch)
    scene.say(FindBlocks("q", [n.to_bytes(8) for n in (1, 14)], PATIENT_US))
    scene.engine.die()
    scene.turn()
    go_on()
    scene.until(lambda: not scene.disk._copies)
    assert scene.process._cache.blocks.pinned == 0
    assert scene.process._cache.claimed == 0
