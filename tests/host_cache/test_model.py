"""The host cache among random engines that read, write and die, compared with plain facts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from hypothesis import event, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from dynamo_cli.host_cache.resting import REST_NS
from dynamo_cli.host_cache.state import HostCache
from dynamo_cli.kv.hashes import ROOT
from dynamo_cli.messages.host_cache import MISSING
from dynamo_cli.topology import ProcessId, Role

SLOTS = 6
SLOT_BYTES = 10
ENGINES = [ProcessId(Role.WORKER, index) for index in range(3)]
NUMBERS = st.integers(0, len(ENGINES) - 1)
MOST_LUCK = 5
LUCK = st.integers(0, MOST_LUCK)
"""Deaths happen less often than other things."""

PROMPTS = st.lists(st.integers(1, 3), min_size=1, max_size=5)
Path = tuple[int, ...]
"""A block: its number, after those of the blocks before it."""


def key(path: Path) -> bytes:
    return bytes(path)


def name(path: Path) -> int:
    return int.from_bytes(key(path)) if path else ROOT


def paths(prompt: list[int]) -> list[Path]:
    return [tuple(prompt[: depth + 1]) for depth in range(len(prompt))]


@dataclass
class Engine:
    """What an engine believes.

    Attributes:
        lent: slots that it may write to.
        busy: slots that it still writes to, by orders of an earlier host cache.
        reads: slots that it reads, with what must be in them, by request.
        old_reads: slots that it still reads, by answers of an earlier host cache.
    """

    open: bool = False
    lent: set[int] = field(default_factory=set)
    busy: set[int] = field(default_factory=set)
    reads: dict[str, dict[int, Path]] = field(default_factory=dict)
    old_reads: dict[int, Path] = field(default_factory=dict)

    def used(self) -> set[int]:
        """Slots that it may touch now."""
        return self.lent | self.busy | set(self.old_reads) | set(self.read_slots())

    def read_slots(self) -> Iterator[int]:
        for found in self.reads.values():
            yield from found


class CacheMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now_ns = 0
        self.dying: dict[int, int] = {}  # slots that ranks of dead engines write to, until when
        self.cache = self.make()
        self.cache.all_linked()
        self.engines: dict[int, Engine] = {}
        self.memory: dict[int, Path] = {}  # what was written last to a slot
        self.public: set[int] = set()
        self.evicted = 0  # by earlier host caches

    def make(self) -> HostCache:
        """A host cache that has just been started."""
        return HostCache(SLOTS * SLOT_BYTES, lambda: self.now_ns)

    def opened(self, number: int) -> Engine | None:
        engine = self.engines.get(number)
        return engine if engine is not None and engine.open else None

    # -- engines -------------------------------------------------------------------------------

    @initialize()
    def begin(self) -> None:
        for number in range(len(ENGINES)):
            self.start(number)
            self.open(number)
        self.lend()

    @rule(number=NUMBERS)
    def start(self, number: int) -> None:
        if number not in self.engines:
            self.engines[number] = Engine()
            self.cache.linked(ENGINES[number])

    @rule(number=NUMBERS)
    def open(self, number: int) -> None:
        engine = self.engines.get(number)
        if engine is not None and not engine.open:
            busy = sorted(engine.busy | set(engine.old_reads))
            assert self.cache.open(ENGINES[number], SLOT_BYTES, "flat", busy) == ""
            engine.open = True

    @rule(number=NUMBERS, luck=LUCK)
    def die(self, number: int, luck: int) -> None:
        if luck < MOST_LUCK:
            return
        if (engine := self.engines.pop(number, None)) is not None and engine.open:
            last = dict.fromkeys(engine.lent | engine.busy, self.now_ns + REST_NS)
            self.dying |= last
        self.cache.gone(ENGINES[number])

    @rule()
    def wait(self) -> None:
        self.now_ns += REST_NS // 3
        self.dying = {slot: until for slot, until in self.dying.items() if until > self.now_ns}

    @rule(number=NUMBERS, prompt=PROMPTS, request=st.sampled_from("ab"))
    def find(self, number: int, prompt: list[int], request: str) -> None:
        engine = self.opened(number)
        if engine is None:
            return
        keys = [key(path) for path in paths(prompt)]
        found = self.cache.find(ENGINES[number], request, keys)
        assert found is not None
        reads = engine.reads.setdefault(request, {})
        for slot, path in zip(found, paths(prompt), strict=True):
            assert (slot != MISSING) == (self.cache.blocks.get(key(path)) is not None)
            if slot != MISSING:
                assert self.memory[slot] == path
                reads[slot] = path

    @rule(number=NUMBERS, request=st.sampled_from("ab"))
    def read(self, number: int, request: str) -> None:
        if (engine := self.opened(number)) is not None:
            engine.reads.pop(request, None)
            self.cache.read(ENGINES[number], request)

    @rule(number=NUMBERS, prompt=PROMPTS, start=st.integers(0, 4))
    def write(self, number: int, prompt: list[int], start: int) -> None:
        """Write the end of a prompt, a part with each step, as far as there are slots for it."""
        rest = paths(prompt)[start:]
        while (engine := self.opened(number)) is not None and engine.lent and rest:
            self.write_part(engine, number, rest)
            rest = rest[1:]
            self.lend()

    def write_part(self, engine: Engine, number: int, rest: list[Path]) -> None:
        """Write as many blocks as there are slots."""
        chosen = list(zip(sorted(engine.lent), rest, strict=False))
        for slot, path in chosen:
            engine.lent.remove(slot)
            self.memory[slot] = path
        self.cache.wrote(
            ENGINES[number],
            [key(path) for _, path in chosen],
            [slot for slot, _ in chosen],
            [name(path) for _, path in chosen],
            [name(path[:-1]) for _, path in chosen],
        )

    @rule(number=NUMBERS, data=st.data())
    def give_back(self, number: int, data: st.DataObject) -> None:
        engine = self.opened(number)
        mine = sorted(engine.lent | engine.busy | set(engine.old_reads)) if engine else []
        if engine is None or not mine:
            return
        slots = set(data.draw(st.lists(st.sampled_from(mine), unique=True)))
        engine.lent -= slots
        engine.busy -= slots
        for slot in slots & set(engine.old_reads):
            del engine.old_reads[slot]
        self.cache.returned(ENGINES[number], sorted(slots))

    @rule()
    def lend(self) -> None:
        waits = any(not engine.open for engine in self.engines.values()) and self.cache.awaited
        lent = self.cache.lend()
        assert not (waits and lent)
        for process, slots in lent.items():
            self.engines[process.index].lent.update(slots)

    @rule(number=NUMBERS, slot=st.integers(-2, SLOTS + 2))
    def lie(self, number: int, slot: int) -> None:
        """Name a slot that is not one's own."""
        engine = self.opened(number)
        if engine is not None and slot not in engine.used():
            before = self.cache.invalid
            self.cache.wrote(ENGINES[number], [b"lie"], [slot])
            self.cache.returned(ENGINES[number], [slot])
            assert self.cache.invalid == before + 2
            assert self.cache.blocks.get(b"lie") is None

    # -- the host cache dies ---------------------------------------------------------------------

    @rule(luck=LUCK)
    def restart(self, luck: int) -> None:
        if luck == MOST_LUCK:
            self.evicted += self.cache.evicted
            self.replace()

    def replace(self) -> None:
        """All engines get a link to a new host cache; what they were doing goes on."""
        self.cache = self.make()
        self.dying.clear()  # a new host cache does not know of engines that have died before
        self.public.clear()
        for number, engine in self.engines.items():
            engine.open = False
            writing = set(sorted(engine.lent)[:2])  # the others are forgotten
            engine.busy, engine.lent = engine.busy | writing, set()
            for found in engine.reads.values():
                engine.old_reads |= found
            engine.reads.clear()
            self.cache.linked(ENGINES[number])
        self.cache.all_linked()

    @precondition(lambda self: any(engine.busy for engine in self.engines.values()))
    @rule(path=PROMPTS)
    def write_late(self, path: list[int]) -> None:
        """An order of the earlier host cache is carried out now."""
        for engine in self.engines.values():
            for slot in engine.busy:
                self.memory[slot] = (*path, 99)

    # -- what must always be so --------------------------------------------------------------------

    @invariant()
    def nobody_writes_where_another_reads_or_writes(self) -> None:
        for number, engine in self.engines.items():
            for other, its in self.engines.items():
                if number != other:
                    assert not (engine.lent | engine.busy) & its.used()
            assert not engine.lent & set(engine.read_slots())
            assert not engine.lent & set(engine.old_reads)
            assert not engine.lent & self.dying.keys()

    @invariant()
    def what_is_read_stays(self) -> None:
        for engine in self.engines.values():
            for found in (*engine.reads.values(), engine.old_reads):
                for slot, path in found.items():
                    assert self.memory[slot] == path

    @invariant()
    def no_slot_is_lost(self) -> None:
        cache = self.cache
        assert cache.lent + cache.free + cache.busy + len(cache.blocks) == cache.slots
        opened = [engine for engine in self.engines.values() if engine.open]
        assert cache.lent == sum(len(engine.lent) for engine in opened)
        assert cache.busy == len(set().union(*(e.busy | set(e.old_reads) for e in opened)))
        assert cache.blocks.pinned == len(set().union(*(e.read_slots() for e in opened)))

    @invariant()
    def the_router_is_told_of_prompts_from_their_beginning(self) -> None:
        change = self.cache.blocks.holdings.take()
        assert set(change.removed) <= self.public
        self.public = (self.public - set(change.removed)) | set(change.stored)
        known = set(self.memory.values())
        held = {path for path in known if self.cache.blocks.get(key(path)) is not None}
        assert self.public == {
            name(path)
            for path in held
            if all(path[:depth] in held for depth in range(1, len(path)))
        }

    def teardown(self) -> None:
        """Without engines everything is free again, and one engine can use all of it."""
        for engine in ENGINES:
            self.cache.gone(engine)
        self.now_ns += REST_NS
        cache = self.cache
        event(f"evicted: {min(self.evicted + cache.evicted, 5)}")
        cache.linked(ENGINES[0])
        cache.all_linked()
        assert cache.open(ENGINES[0], SLOT_BYTES, "flat") == ""
        assert cache.free + len(cache.blocks) == cache.slots
        assert (cache.lent, cache.busy, cache.blocks.pinned) == (0, 0, 0)
        written = 0
        while written < 2 * SLOTS:
            for slot in cache.lend()[ENGINES[0]]:
                cache.wrote(ENGINES[0], [f"new {written}".encode()], [slot])
                written += 1
        newest = [f"new {written - 1 - age}".encode() for age in range(SLOTS)]
        assert all(cache.blocks.get(key) is not None for key in newest)


CacheMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)
TestHostCache = CacheMachine.TestCase
