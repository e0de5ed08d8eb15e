"""Slots of an arena: no slot is leased twice, and all are freed in the end."""

from __future__ import annotations

from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from dynamo_cli.engines.vllm.transfer.slots import EXPIRED, OWNER_GONE, RELEASED, Slots

CAPACITY = 12


def test_the_life_of_a_transfer() -> None:
    slots = Slots(4)
    first = slots.reserve("a", 0, 3, 10)
    assert first is not None
    assert len(set(first)) == 3
    assert slots.reserve("b", 1, 2, 20) is None
    assert (slots.used, slots.refused) == (3, 1)
    assert slots.release("a")
    assert not slots.release("a")
    assert slots.reserve("b", 1, 4, 30) is not None
    slots.owner_gone(0)
    assert slots.used == 4
    slots.owner_gone(1)
    slots.reserve("c", 1, 1, 40)
    slots.expire(40)
    assert slots.used == 1
    slots.expire(41)
    assert (slots.used, slots.most_used) == (0, 4)
    assert slots.ended == Counter({RELEASED: 1, OWNER_GONE: 1, EXPIRED: 1})


class SlotsMachine(RuleBasedStateMachine):
    """Compares random operations with a dict of the slots of each transfer."""

    names = st.sampled_from("abcdef")

    def __init__(self) -> None:
        super().__init__()
        self.slots = Slots(CAPACITY)
        self.given: dict[str, tuple[int, int, list[int]]] = {}
        self.now = 0

    @rule(name=names, owner=st.integers(0, 2), count=st.integers(0, CAPACITY + 1))
    def reserve(self, name: str, owner: int, count: int) -> None:
        self.now += 1
        room = CAPACITY - sum(len(slots) for _, _, slots in self.given.values())
        got = self.slots.reserve(name, owner, count, self.now)
        assert (got is not None) == (count <= room and name not in self.given)
        if got is not None:
            self.given[name] = (owner, self.now, got)

    @rule(name=names)
    def release(self, name: str) -> None:
        assert self.slots.release(name) == (self.given.pop(name, None) is not None)

    @rule(owner=st.integers(0, 2))
    def owner_gone(self, owner: int) -> None:
        self.slots.owner_gone(owner)
        self.given = {name: one for name, one in self.given.items() if one[0] != owner}

    @rule(age=st.integers(0, 5))
    def expire(self, age: int) -> None:
        self.slots.expire(self.now - age)
        self.given = {name: one for name, one in self.given.items() if one[1] >= self.now - age}

    @invariant()
    def no_slot_has_two_owners(self) -> None:
        taken = [slot for _, _, slots in self.given.values() for slot in slots]
        assert len(taken) == len(set(taken)) == self.slots.used
        assert set(taken) <= set(range(CAPACITY))


SlotsMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=30)
TestSlots = SlotsMachine.TestCase
