"""The host cache with a disk among random engines, copies and failures, compared with facts."""

from __future__ import annotations

from hypothesis import event, settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, rule

from dynamo_cli.host_cache.disk import (
    CORRUPT,
    DISK_FULL,
    MOST_FAILURES,
    READ_FAILED,
    WRITE_FAILED,
    Disk,
    DiskJob,
    Done,
)
from dynamo_cli.host_cache.state import HostCache
from dynamo_cli.kv.holdings import Holdings
from dynamo_cli.messages.host_cache import MISSING
from dynamo_cli.units import MS_NS
from tests.host_cache.test_model import (
    ENGINES,
    LUCK,
    MOST_LUCK,
    NUMBERS,
    PROMPTS,
    SLOT_BYTES,
    SLOTS,
    CacheMachine,
    Path,
    key,
    name,
    paths,
)

PLACES = 9
BLOCK_NS = 5 * MS_NS
HALF: Path = (255,)
"""What is in a slot or a place while something is being copied to it."""


def checksum(path: Path) -> int:
    return hash(path)


class DiskMachine(CacheMachine):
    def __init__(self) -> None:
        self.questions = 0
        self.seen_evicted = self.seen_found = 0
        super().__init__()

    def make(self) -> HostCache:
        """With an empty disk, whose copies have ended with those before."""
        self.reach = Holdings(block_size=0)
        cache = HostCache(SLOTS * SLOT_BYTES, lambda: self.now_ns, self.reach)
        self.disk = Disk(cache, PLACES * SLOT_BYTES, lambda: self.now_ns, self.reach)
        self.file: dict[int, Path] = {}
        self.jobs: dict[
            int, tuple[DiskJob, Path, bool]
        ] = {}  # with what is copied, and if it counts
        self.bad: set[int] = set()  # places that are not used any more
        self.full: set[int] = set()
        self.known: set[int] = set()
        self.asked: dict[tuple[int, str], list[Path]] = {}  # questions without an answer
        return cache

    @rule(number=NUMBERS)
    def open(self, number: int) -> None:
        super().open(number)
        if self.cache.slots:
            self.disk.opened()

    @rule(number=NUMBERS, luck=LUCK)
    def die(self, number: int, luck: int) -> None:
        if luck == MOST_LUCK:
            self.disk.waits.forget(ENGINES[number])
            self.asked = {one: path for one, path in self.asked.items() if one[0] != number}
        super().die(number, luck)

    # -- questions -----------------------------------------------------------------------------

    @rule(number=NUMBERS, prompt=PROMPTS, request=st.sampled_from("ab"))
    def find(self, number: int, prompt: list[int], request: str) -> None:
        engine = self.opened(number)
        if engine is None:
            return
        self.questions += 1
        asked = f"{request}{self.questions}"
        chosen = paths(prompt)
        keys = [key(path) for path in chosen]
        found = self.cache.find(ENGINES[number], asked, keys)
        assert found is not None
        engine.reads[asked] = {}
        self.told(number, asked, chosen, found)
        if self.disk.search(ENGINES[number], asked, keys, found, BLOCK_NS):
            self.asked[number, asked] = chosen
        self.start_copies()

    def told(self, number: int, asked: str, chosen: list[Path], found: list[int]) -> None:
        for slot, path in zip(found, chosen, strict=True):
            if slot != MISSING:
                assert self.memory[slot] == path
                self.engines[number].reads[asked][slot] = path

    @rule()
    def answer(self) -> None:
        """Answers that wait are given when all is there, and at the latest when it is time."""
        for process, asked, found in self.disk.waits.answers():
            chosen = self.asked.pop((process.index, asked))
            self.told(process.index, asked, chosen, found)
        due_ns = self.disk.waits.due_ns
        assert due_ns is None or self.now_ns < due_ns <= self.now_ns + len(ENGINES) * BLOCK_NS * 5

    @rule()
    def wait_a_little(self) -> None:
        self.now_ns += BLOCK_NS

    @rule(number=NUMBERS)
    def read_all(self, number: int) -> None:
        for asked in list(self.engines[number].reads) if self.opened(number) else ():
            self.stop_reading(number, asked)

    @rule(number=NUMBERS, data=st.data())
    def read(self, number: int, data: st.DataObject) -> None:
        engine = self.opened(number)
        if engine is None or not engine.reads:
            return
        self.stop_reading(number, data.draw(st.sampled_from(sorted(engine.reads))))

    def stop_reading(self, number: int, asked: str) -> None:
        del self.engines[number].reads[asked]
        self.asked.pop((number, asked), None)
        self.disk.waits.forget(ENGINES[number], asked)
        self.cache.read(ENGINES[number], asked)

    def write_part(self, engine, number: int, rest: list[Path]) -> None:  # type: ignore[no-untyped-def]
        chosen = list(zip(sorted(engine.lent), rest, strict=False))
        for slot, path in chosen:
            engine.lent.remove(slot)
            self.memory[slot] = path
        new = self.cache.wrote(
            ENGINES[number],
            [key(path) for _, path in chosen],
            [slot for slot, _ in chosen],
            [name(path) for _, path in chosen],
            [name(path[:-1]) for _, path in chosen],
        )
        self.disk.stored(new)
        self.start_copies()

    # -- copies --------------------------------------------------------------------------------

    def start_copies(self) -> None:
        for job in self.disk.jobs():
            assert 0 <= job.place < PLACES
            assert job.place not in self.bad
            if job.write:
                assert job.slot not in self.reading()
                self.jobs[job.number] = job, self.memory[job.slot], True
                self.file[job.place] = HALF
            else:
                assert checksum(self.file[job.place]) == job.checksum
                self.jobs[job.number] = job, self.file[job.place], True
                self.memory[job.slot] = HALF

    def reading(self) -> set[int]:
        return {job.slot for job, _, _ in self.jobs.values() if not job.write}

    @rule(data=st.data(), luck=LUCK)
    def copy(self, data: st.DataObject, luck: int) -> None:
        """A copy ends, sometimes with a failure."""
        if self.jobs:
            self.end(data.draw(st.sampled_from(sorted(self.jobs))), data if luck == 0 else None)
            self.start_copies()

    def end(self, number: int, data: st.DataObject | None = None) -> None:
        job, content, counts = self.jobs.pop(number)
        failure = ""
        if data is not None:
            kinds = [DISK_FULL, WRITE_FAILED] if job.write else [READ_FAILED, CORRUPT]
            failure = data.draw(st.sampled_from(kinds))
        if failure == DISK_FULL:
            self.full.add(job.place)
        elif failure:
            self.bad.add(job.place)
        elif job.write:
            assert not counts or self.memory[job.slot] == content, "it has changed meanwhile"
            self.file[job.place] = content
        else:
            assert not counts or self.file[job.place] == content
            self.memory[job.slot] = content
        self.disk.done(Done(job, failure, checksum(content)))

    @rule(data=st.data())
    def settle_but_one(self, data: st.DataObject) -> None:
        """All copies end, the first with a failure."""
        if self.jobs:
            self.end(min(self.jobs), data)
        self.settle()

    @rule()
    def settle(self) -> None:
        """All copies end well."""
        while self.jobs:
            self.end(min(self.jobs))
            self.start_copies()

    @rule(number=NUMBERS, first=st.integers(1, 3), settles=st.booleans())
    def fill(self, number: int, first: int, settles: bool) -> None:
        """Write so much that the memory drops other blocks."""
        for second in (1, 2, 3):
            self.write(number, [first, second, second], 0)
            if settles:
                self.settle()
            self.lend()

    @rule(number=NUMBERS, data=st.data())
    def find_on_disk(self, number: int, data: st.DataObject) -> None:
        """Ask for something that is there, and wait for it as long as nothing fails."""
        held = sorted(path for path in set(self.file.values()) if self.disk.blocks.get(key(path)))
        if held:
            self.find(number, list(data.draw(st.sampled_from(held))), "a")
        if data.draw(st.booleans()):
            self.settle()
            self.answer()

    @rule(luck=LUCK)
    def reset(self, luck: int) -> None:
        """Nothing that was there before is found afterwards, but what is being read."""
        if luck < MOST_LUCK:
            return
        self.disk.reset()
        self.jobs = {number: (job, path, False) for number, (job, path, _) in self.jobs.items()}
        assert not len(self.disk.blocks)

    # -- what must always be so ----------------------------------------------------------------

    @invariant()
    def nobody_uses_a_slot_that_the_disk_fills(self) -> None:
        reading = self.reading()
        assert self.cache.claimed == len(reading)
        for engine in self.engines.values():
            assert not engine.used() & reading
            writing = {job.slot for job, _, counts in self.jobs.values() if job.write and counts}
            assert not (engine.lent | engine.busy) & writing

    @invariant()
    def no_place_is_used_twice(self) -> None:
        used = [self.disk.blocks.get(key(path)) for path in set(self.file.values())]
        held = {block.slot for block in used if block is not None}
        assert len(held) == len(self.disk.blocks)
        written = [job.place for job, _, _ in self.jobs.values() if job.write]
        assert len(written) == len(set(written))
        assert not held & set(written)
        assert not held & self.bad

    @invariant()
    def no_slot_is_lost(self) -> None:
        cache = self.cache
        owned = cache.lent + cache.free + cache.busy + cache.claimed
        assert owned + len(cache.blocks) == cache.slots
        read = set().union(*(set(e.read_slots()) for e in self.engines.values() if e.open))
        written = {job.slot for job, _, counts in self.jobs.values() if job.write and counts}
        late = self.late()
        assert cache.blocks.pinned == len(read | written | late)

    def late(self) -> set[int]:
        """Slots of blocks that have come for questions that still wait for others."""
        slots = set()
        for (number, asked), _ in self.asked.items():
            wait = self.disk.waits._waits.get((ENGINES[number], asked))
            slots |= {slot for slot in wait.slots if slot != MISSING} if wait else set()
        return slots

    @invariant()
    def the_router_is_told_what_both_tiers_reach(self) -> None:
        change = self.reach.take()
        assert set(change.removed) <= self.known
        self.known = (self.known - set(change.removed)) | set(change.stored)
        contents = set(self.memory.values()) | set(self.file.values())
        tiers = (self.cache.blocks, self.disk.blocks)
        held = {path for path in contents if any(tier.get(key(path)) for tier in tiers)}
        assert self.known == {
            name(path)
            for path in held
            if all(path[:depth] in held for depth in range(1, len(path)))
        }

    def teardown(self) -> None:
        """When all copies have ended, each place is free, used, or not to be used any more."""
        for number in sorted(self.jobs):
            self.end(number)
        event(f"written: {min(self.disk.stats().written, 5)}")
        event(f"found: {min(self.disk.stats().found, 3)}")
        event(f"evicted: {min(self.disk.stats().evicted, 3)}")
        for engine in ENGINES:
            self.disk.waits.forget(engine)
        places = self.disk._places
        free = len(places._free) + len(places._missing) + (places.count - places._end)
        assert free + len(self.disk.blocks) + len(self.bad) == places.count
        assert self.disk.off == "" or sum(self.disk.dropped.values()) >= MOST_FAILURES
        super().teardown()


DiskMachine.TestCase.settings = settings(max_examples=80, stateful_step_count=60, deadline=None)
TestDisk = DiskMachine.TestCase
