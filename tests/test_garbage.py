"""Garbage collection that does not stop a process for long."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

from dynamo_cli.host import garbage


class Thing:
    """Refers to itself, so that only a collection removes it."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture
def collections() -> Iterator[list[int]]:
    """The generations that are collected meanwhile; 2 are all objects."""
    thresholds, collected = gc.get_threshold(), list[int]()

    def note(phase: str, told: dict[str, Any]) -> None:
        if phase == "start":
            collected.append(told["generation"])

    gc.callbacks.append(note)
    yield collected
    gc.callbacks.remove(note)
    gc.set_threshold(*thresholds)


def test_many_objects_that_stay_are_not_looked_at_again_and_again(collections: list[int]) -> None:
    async def run() -> None:
        garbage.collect_seldom(asyncio.get_running_loop())
        collections.clear()
        kept = [[number] for number in range(300_000)]
        assert set(collections) == {0, 1}, len(kept)

    asyncio.run(run())


def test_old_garbage_goes_after_a_while(
    collections: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(garbage, "INTERVAL_S", 0.05)
    monkeypatch.setattr(garbage, "SHARE", 1.0)

    async def run() -> None:
        garbage.collect_seldom(asyncio.get_running_loop())
        thing = Thing()
        gone = weakref.ref(thing)
        gc.collect(1)  # it is old from now on
        del thing
        gc.collect(1)
        assert gone() is not None
        async with asyncio.timeout(10):
            while gone() is not None:
                await asyncio.sleep(0.01)

    asyncio.run(run())
    assert 2 in collections[1:]
