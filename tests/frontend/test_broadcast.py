"""Many watchers cost as little as one, and long lists do not block the loop."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import suppress
from typing import Any

import pytest

from dynamo_cli.frontend.status import inspect
from dynamo_cli.frontend.status.broadcast import Broadcast
from dynamo_cli.messages.routing import Decisions, RoutingDecision
from dynamo_cli.watch.decisions import KEPT, DecisionLog
from dynamo_cli.watch.logs import LogRing
from tests.frontend.test_routing import decision

WATCHERS = 20


class Spied(DecisionLog):
    """Counts how often new decisions are collected."""

    looked = 0

    def views(self, *args: Any, after: int = 0, **more: Any) -> Any:
        self.looked += after > 0
        return super().views(*args, after=after, **more)


def many(count: int, start: int = 0) -> list[RoutingDecision]:
    return [decision(str(start + number)) for number in range(count)]


def numbers(told: list[bytes]) -> list[int]:
    """The numbers of the decisions that were written, in order."""
    events = b"".join(told).decode().split("\n\n")
    lists = [
        event.partition("data: ")[2] for event in events if event.startswith("event: decisions")
    ]
    return [one["number"] for text in lists for one in reversed(json.loads(text))]


def test_the_news_is_looked_for_once_for_all_who_watch_and_told_once_to_each() -> None:
    async def scenario() -> None:
        log = Spied()
        log.add(Decisions(many(5), [], 0))
        snapshots: Any = lambda: {"a": 1}  # noqa: E731
        broadcast = Broadcast(snapshots, log, LogRing(), time.monotonic_ns)
        told: list[list[bytes]] = [[] for _ in range(WATCHERS)]

        def writer(mine: list[bytes]) -> Any:
            return lambda data: mine.append(data) or True

        tasks = [
            asyncio.create_task(broadcast.watch(writer(mine), 0.25 if number else 1.0))
            for number, mine in enumerate(told)
        ]
        while not all(told):
            await asyncio.sleep(0)
        log.looked, began = 0, time.monotonic()
        added = 5
        while any(len(mine) < 3 for mine in told):
            log.add(Decisions(many(1, added), [], 0))
            added += 1
            await asyncio.sleep(0.05)
        looks = (time.monotonic() - began) / (inspect.MIN_INTERVAL_S / 2) + 1
        assert 0 < log.looked <= looks
        while any(numbers(mine)[-1] < added for mine in told):
            await asyncio.sleep(0.01)
        assert all(numbers(mine) == list(range(1, added + 1)) for mine in told)
        broadcast.close()
        await asyncio.gather(*tasks)

    asyncio.run(scenario())


def test_a_long_list_is_made_a_little_at_a_time() -> None:
    async def scenario() -> None:
        log = DecisionLog()
        log.add(Decisions(many(2000), [], 0))
        turns = 0

        async def others() -> None:
            nonlocal turns
            while True:
                turns += 1
                if turns == 3:  # decisions that come meanwhile are not in the answer
                    log.add(Decisions(many(KEPT, 2000), [], 1))
                await asyncio.sleep(0)

        beside = asyncio.create_task(others())
        body = await inspect.decisions(log, {"limit": "2000"}, 0)
        shown = json.loads(body)["decisions"]
        assert [one["number"] for one in shown] == list(range(2000, 0, -1))
        assert turns >= 2000 // inspect.PAGE
        beside.cancel()
        with suppress(asyncio.CancelledError):
            await beside

    asyncio.run(scenario())


@pytest.mark.parametrize("count", [0, 1, inspect.PAGE, inspect.PAGE + 1])
def test_lists_of_every_length_are_json(count: int) -> None:
    log = DecisionLog()
    log.add(Decisions(many(count), [], 3))
    body = json.loads(asyncio.run(inspect.decisions(log, {}, 0)))
    assert (len(body["decisions"]), body["dropped"]) == (count, 3)
