"""The ring compared with a deque under random operations."""

from __future__ import annotations

from collections import deque

from hypothesis import given, settings
from hypothesis import strategies as st

from dynamo_cli.ipc.ring import Ring

from .support import ring

CAPACITY = 512
LARGEST = CAPACITY // 2 - 8

Push = tuple[int, bool]
PUSHES = st.tuples(st.integers(0, LARGEST), st.booleans())
DRAINS = st.integers(1, CAPACITY)
STEPS = st.lists(PUSHES | DRAINS, max_size=80)

Model = deque[tuple[bytes, bool]]


@settings(max_examples=150)
@given(steps=STEPS, fill=st.integers(0, 255))
def test_a_ring_is_a_deque_with_an_end(steps: list[Push | int], fill: int) -> None:
    with ring(CAPACITY) as (writer, reader, _):
        model: Model = deque()
        for number, step in enumerate(steps):
            if isinstance(step, int):
                take(reader, model, step)
            else:
                length, more = step
                put(writer, model, bytes([(fill + number) % 256]) * length, more)
        assert reader.drain() == list(model)
        assert writer.used_bytes() == 0


def put(writer: Ring, model: Model, payload: bytes, more: bool) -> None:
    """Push; it may fail only if there is too little space for the record and its padding."""
    used = writer.used_bytes()
    if writer.push(payload, more):
        model.append((payload, more))
    else:
        assert used + 2 * (8 + len(payload) + 7) > CAPACITY
        assert writer.used_bytes() == used
    assert sum(8 + len(payload) for payload, _ in model) <= writer.used_bytes() <= CAPACITY


def take(reader: Ring, model: Model, max_bytes: int) -> None:
    """Drain; records come in order, up to the one that reaches the limit."""
    taken = reader.drain(max_bytes)
    assert taken == [model.popleft() for _ in taken]
    assert sum(8 + len(payload) for payload, _ in taken[:-1]) < max_bytes
