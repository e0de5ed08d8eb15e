"""What is written to disk and read from there, when, and how long that may take."""

from __future__ import annotations

import pytest

from dynamo_cli.engines.prefill_pace import LEAST_TOKENS, PrefillPace
from dynamo_cli.host_cache.disk import (
    CORRUPT,
    DISK_FULL,
    GUESSED_BLOCK_NS,
    MOST_FAILURES,
    MOST_WAIT_NS,
    MOST_WRITES,
    READ_FAILED,
    WRITE_FAILED,
    Disk,
    DiskJob,
    Done,
)
from dynamo_cli.host_cache.places import FULL_REST_NS, Places
from dynamo_cli.host_cache.service_time import GUESS_NS, STALE_NS, ServiceTime
from dynamo_cli.host_cache.state import HostCache
from dynamo_cli.kv.holdings import Holdings
from dynamo_cli.messages.host_cache import MISSING
from dynamo_cli.topology import ProcessId, Role
from dynamo_cli.units import MS_NS, SECOND_NS

ONE = ProcessId(Role.WORKER, 0)
SLOTS, SLOT_BYTES = 40, 10


class Scene:
    """A disk below a memory, with a clock, and copies that the test ends."""

    def __init__(self, places: int = 100) -> None:
        self.now_ns = 0
        reach = Holdings(0)
        self.memory = HostCache(SLOTS * SLOT_BYTES, lambda: self.now_ns, reach)
        self.memory.all_linked()
        self.memory.open(ONE, SLOT_BYTES, "flat")
        self.disk = Disk(self.memory, places * SLOT_BYTES, lambda: self.now_ns, reach)
        self.disk.opened()
        self.questions = 0

    def write(self, *names: int, failure: str = "") -> None:
        """Write blocks that begin prompts to the memory, and all of them to the disk."""
        for name in names:
            slot = (self.memory.lend().get(ONE) or sorted(self.memory._engines[ONE].lent))[0]
            new = self.memory.wrote(ONE, [key(name)], [slot], [name], [0])
            self.disk.stored(new)
            self.end(self.disk.jobs(), failure)

    def end(self, jobs: list[DiskJob], failure: str = "", each_ns: int = 0) -> None:
        for job in jobs:
            self.now_ns += each_ns
            self.disk.done(Done(job, failure))
            jobs += self.disk.jobs()

    def find(self, *names: int, block_ns: int = 10 * MS_NS) -> tuple[bool, list[int]]:
        """Ask for blocks; whether the answer waits, and what is known of it."""
        self.questions += 1
        keys = [key(name) for name in names]
        found = self.memory.find(ONE, str(self.questions), keys)
        assert found is not None
        return self.disk.search(ONE, str(self.questions), keys, found, block_ns), found

    def measure(self, each_ns: int, names: range) -> None:
        """Let reads take so long."""
        for name in names:
            assert self.find(name, block_ns=SECOND_NS)[0]
            self.end(self.disk.jobs(), each_ns=each_ns)
            self.disk.waits.answers()
            self.memory.read(ONE, str(self.questions))


def key(name: int) -> bytes:
    return name.to_bytes(4)


def test_a_block_is_not_evicted_from_disk_while_it_is_read() -> None:
    scene = Scene(places=SLOTS)
    scene.write(*range(1, SLOTS + 1), *range(101, 111))
    oldest = scene.disk.blocks.get(key(11))
    assert oldest is not None
    assert scene.memory.blocks.get(key(11)) is None
    waits, _ = scene.find(11)
    assert waits
    (read,) = scene.disk.jobs()
    scene.write(*range(201, 201 + 2 * SLOTS))
    assert scene.disk.blocks.get(key(11)) is oldest
    scene.disk.done(Done(read))
    assert scene.memory.blocks.get(key(11)) is not None


@pytest.mark.parametrize("failure", ["", READ_FAILED])
def test_a_place_that_is_read_at_a_reset_is_free_once_and_only_after_the_read(failure: str) -> None:
    scene = Scene(places=2 * SLOTS)
    scene.write(*range(1, 2 * SLOTS + 1))
    assert scene.find(1)[0]
    (read,) = scene.disk.jobs()
    scene.disk.reset()
    assert read.place not in scene.disk._places._free
    scene.disk.done(Done(read, failure))
    bad = {read.place} if failure else set()
    assert set(scene.disk._places._free) == set(range(2 * SLOTS)) - bad
    assert len(scene.disk._places._free) == 2 * SLOTS - len(bad)
    assert scene.memory.claimed == 0
    assert scene.memory.blocks.get(key(1)) is None, "it was read before the reset"


def test_few_blocks_are_written_at_a_time_and_those_that_are_gone_not_at_all() -> None:
    scene = Scene()
    slots = scene.memory.lend()[ONE]
    new = scene.memory.wrote(ONE, [key(n) for n in range(1, 11)], slots)
    scene.disk.stored(new)
    jobs = scene.disk.jobs()
    assert len(jobs) == MOST_WRITES
    assert scene.memory.blocks.pinned == MOST_WRITES
    scene.memory.reset()
    scene.end(jobs)
    assert scene.disk.stats().dropped == {"gone": 10 - MOST_WRITES}
    assert scene.disk.stats().written == MOST_WRITES
    scene.disk.stored(new * 10)
    assert len(scene.disk._queue) == SLOTS, "no longer than the memory"
    assert scene.disk.stats().dropped == {"gone": 10 - MOST_WRITES + 10 * len(new) - SLOTS}


def test_a_block_that_is_being_written_is_not_written_again() -> None:
    """Nor one that was written; after a reset it is, and the older copy counts for nothing."""
    scene = Scene()
    new = scene.memory.wrote(ONE, [key(1)], scene.memory.lend()[ONE][:1])

    def write() -> list[DiskJob]:
        scene.disk.stored(new)
        return scene.disk.jobs()

    (old,) = write()
    assert write() == []
    scene.disk.reset()
    scene.disk.reset()
    assert (scene.memory.blocks.pinned, new[0].pins) == (0, 0)
    (young,) = write()
    scene.disk.done(Done(old))
    assert write() == []
    assert scene.disk._places._free == [old.place]
    scene.disk.done(Done(young))
    assert write() == []
    assert (scene.disk.stats().used, scene.memory.blocks.pinned) == (1, 0)


def test_a_place_that_cannot_be_written_is_not_used_again_after_a_reset_either() -> None:
    scene = Scene()
    scene.disk.stored(scene.memory.wrote(ONE, [key(1)], scene.memory.lend()[ONE][:1]))
    (write,) = scene.disk.jobs()
    scene.disk.reset()
    scene.disk.done(Done(write, WRITE_FAILED))
    assert scene.disk._places._free == []


def test_a_block_that_is_asked_for_stays_on_disk_longer() -> None:
    scene = Scene(places=4)
    scene.write(1, 2, 3, 4)
    assert not scene.find(1)[0], "it is in memory, too"
    scene.write(5)
    assert [scene.disk.blocks.get(key(n)) is None for n in (1, 2)] == [False, True]


def test_two_questions_wait_for_one_read() -> None:
    scene = Scene()
    scene.write(*range(1, 2 * SLOTS))
    assert scene.find(1)[0]
    assert scene.find(1, 2)[0]
    jobs = scene.disk.jobs()
    assert len(jobs) == 2
    scene.end(jobs)
    answers = {name: slots for _, name, slots in scene.disk.waits.answers()}
    assert answers["1"][0] == answers["2"][0] != MISSING
    assert scene.memory.blocks.pinned == 2
    assert scene.memory.found == scene.disk.stats().found == 3
    for name in ("1", "2"):
        scene.memory.read(ONE, name)
    assert scene.memory.blocks.pinned == 0


def test_a_long_prompt_is_read_as_far_as_the_longest_wait_allows() -> None:
    scene = Scene(places=400)
    scene.write(*range(1, 3 * SLOTS))
    scene.measure(MOST_WAIT_NS // 4, range(1, 9))
    waits, _ = scene.find(*range(10, 30), block_ns=SECOND_NS)
    assert waits
    assert 2 <= len(scene.disk.jobs()) <= 6
    assert scene.disk.stats().dropped["slow"] >= 14
    assert scene.disk.waits.due_ns == scene.now_ns + MOST_WAIT_NS


def test_what_is_being_read_leaves_less_time_for_others() -> None:
    scene = Scene(places=400)
    scene.write(*range(1, 3 * SLOTS))
    scene.measure(MOST_WAIT_NS // 4, range(1, 9))
    assert scene.find(10, block_ns=SECOND_NS)[0]
    assert scene.find(*range(11, 30), block_ns=SECOND_NS)[0], "some of them"
    assert not scene.find(30, block_ns=SECOND_NS)[0]


def test_an_engine_that_does_not_know_its_pace_waits_as_long_as_most_would_compute() -> None:
    scene = Scene()
    scene.write(*range(1, 2 * SLOTS))
    assert scene.find(1, block_ns=0)[0]
    assert scene.disk.waits.due_ns == scene.now_ns + GUESSED_BLOCK_NS


def test_reads_that_are_slower_than_computing_are_not_begun_but_tried_again_later() -> None:
    scene = Scene()
    scene.write(*range(1, 2 * SLOTS))
    scene.measure(20 * MS_NS, range(1, 9))
    assert not scene.find(10, block_ns=10 * MS_NS)[0]
    assert scene.find(11, block_ns=60 * MS_NS)[0]
    assert not scene.find(12, block_ns=20 * MS_NS)[0], "it would come after that one"
    scene.end(scene.disk.jobs())
    scene.now_ns += STALE_NS + 1
    assert scene.find(13, block_ns=10 * MS_NS)[0]


def test_no_read_begins_while_one_hangs() -> None:
    scene = Scene()
    scene.write(*range(1, 2 * SLOTS))
    assert scene.find(1)[0]
    scene.now_ns += 2 * SECOND_NS
    assert scene.find(2) == (False, [MISSING])
    assert [slots for _, _, slots in scene.disk.waits.answers()] == [[MISSING]]


def test_late_blocks_are_counted_and_nobody_answers_what_was_forgotten() -> None:
    scene = Scene()
    scene.write(*range(1, 2 * SLOTS))
    assert scene.find(1, 2)[0]
    assert scene.find(3)[0]
    scene.disk.waits.forget(ONE, "2")
    scene.now_ns += MOST_WAIT_NS
    assert [name for _, name, _ in scene.disk.waits.answers()] == ["1"]
    assert scene.disk.stats().dropped == {"late": 2}


def test_reads_take_at_most_a_quarter_of_the_memory() -> None:
    scene = Scene(places=400)
    scene.write(*range(1, 3 * SLOTS))
    assert scene.find(*range(1, 2 * SLOTS), block_ns=SECOND_NS)[0]
    assert len(scene.disk.jobs()) == scene.memory.claimed == SLOTS // 4
    stats = scene.disk.stats()
    assert stats.dropped["slow"] == stats.wanted - SLOTS // 4


def test_places_that_exist_are_taken_before_the_file_grows() -> None:
    places = Places(3)
    assert [places.take(0), places.take(0)] == [0, 1]
    places.put(0)
    assert [places.take(0), places.take(0), places.take(0)] == [0, 2, None]


def test_a_file_that_cannot_grow_tries_again_after_a_while() -> None:
    places = Places(2)
    assert places.take(0) == 0
    places.full_at(0, 0)
    assert (places.full, places.take(FULL_REST_NS - 1)) == (True, None)
    assert (places.take(FULL_REST_NS), places.full) == (0, False)


def test_a_disk_that_stays_full_is_tried_again_and_one_that_fails_is_not() -> None:
    scene = Scene()
    for name in range(1, 2 * MOST_FAILURES):
        scene.write(name, failure=DISK_FULL)
        scene.now_ns += FULL_REST_NS
    assert scene.disk.off == ""
    assert scene.disk.stats().dropped == {"disk_full": 2 * MOST_FAILURES - 1}
    scene.write(100)
    assert scene.disk.stats().used == 1
    scene.write(*range(101, 101 + MOST_FAILURES), failure=WRITE_FAILED)
    assert scene.disk.off
    assert scene.disk.stats().used == 0


def test_speed_counts_time_in_which_anything_is_done_once() -> None:
    now = [0]
    speed = ServiceTime(lambda: now[0])
    assert (speed.unit_s, speed.within(10 * GUESS_NS)) == (None, 10)
    for _ in range(300):
        speed.begin()
        speed.begin()
        now[0] += 20 * MS_NS
        speed.end(ok=True)
        speed.end(ok=True)
        now[0] += SECOND_NS  # nothing to do
    assert (speed.units, speed.spent_ns) == (600, 6 * SECOND_NS)
    assert 99 <= speed.within(SECOND_NS) <= 101
    assert speed.unit_s is not None
    assert 0.0098 < speed.unit_s < 0.0102


def test_an_engines_pace_is_that_of_steps_with_many_prompt_tokens() -> None:
    pace = PrefillPace()
    pace.scheduled(1)
    pace.stepped(30 * MS_NS, ended=True)
    assert pace.us(16) == 0, "such a step is no prefill"
    pace.stepped(SECOND_NS, ended=False)  # waits for the host cache
    pace.scheduled(LEAST_TOKENS)
    pace.stepped(MS_NS, ended=False)
    assert pace.us(16) == 0, "it still runs"
    pace.scheduled(LEAST_TOKENS)
    pace.stepped(2 * LEAST_TOKENS * 50_000 - MS_NS, ended=True)
    assert pace.us(16) == 800
    pace.stepped(SECOND_NS, ended=True)
    assert pace.us(16) == 800


@pytest.mark.parametrize("failure", [READ_FAILED, CORRUPT])
def test_a_disk_whose_reads_fail_is_not_used_any_more(failure: str) -> None:
    scene = Scene()
    names = range(1, MOST_FAILURES + 5)
    scene.write(*names)
    while (slot := scene.memory.blocks.evict()) is not None:
        scene.memory._free.append(slot)
    for name in names:
        if scene.find(name, block_ns=SECOND_NS)[0]:
            scene.end(scene.disk.jobs(), failure)
            scene.disk.waits.answers()
        scene.memory.read(ONE, str(scene.questions))
    assert scene.disk.off
    assert scene.disk.stats().used == scene.disk.stats().read == scene.memory.claimed == 0
    assert scene.find(names[0]) == (False, [MISSING])
