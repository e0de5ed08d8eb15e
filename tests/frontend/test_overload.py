"""Overload is told once when it begins and once when it ends, whatever is refused in between."""

from __future__ import annotations

import asyncio
import logging
from types import SimpleNamespace
from typing import Any

import pytest

from dynamo_cli.config import FrontendConfig
from dynamo_cli.errors import Overloaded
from dynamo_cli.frontend.after import overload
from dynamo_cli.frontend.after.ended import FinishedRequestFanout
from dynamo_cli.frontend.after.overload import CAUSES, QUIET_S, Episode, OverloadLog
from dynamo_cli.messages.set_up import SetUp
from dynamo_cli.watch.meter import Meter
from dynamo_cli.watch.timelines import RequestRecord


def test_refusals_one_soon_after_the_other_are_one_episode() -> None:
    episode = Episode()
    assert episode.refused("overloaded", 100.0)
    assert not any(episode.refused("too_many_requests", 100.0 + at) for at in range(20))
    assert episode.rest_s(119.0) == QUIET_S
    assert episode.rest_s(119.0 + QUIET_S) == 0.0
    assert episode.end() == (
        "not overloaded any more: 21 requests were refused in 19 s "
        "(too_many_requests 20, overloaded 1)"
    )
    assert episode.refused("overloaded", 500.0), "the next one is another episode"


def test_only_overload_is_told_and_only_once(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        log = OverloadLog()
        for kind in ("", "not_ready", "draining", *CAUSES, *CAUSES):
            log.failed(kind)

    with caplog.at_level(logging.WARNING):
        asyncio.run(scenario())
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "--max-inflight" in caplog.text


def test_the_end_of_an_episode_is_told_when_it_was_quiet_for_long_enough(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now_s = [100.0]
    waits: list[float] = []
    monkeypatch.setattr(overload, "time", SimpleNamespace(monotonic=lambda: now_s[0]))
    log = OverloadLog()
    monkeypatch.setattr(log, "_wait", waits.append)
    with caplog.at_level(logging.WARNING):
        log.failed("overloaded")
        now_s[0] += 12
        log.failed("overloaded")
        now_s[0] = 100 + QUIET_S
        log._look()
        assert len(caplog.records) == 1, "the last one was refused too recently"
        now_s[0] += waits[-1]
        log._look()
    assert waits == [QUIET_S, 12.0]
    assert caplog.records[-1].message.startswith("not overloaded any more: 2 requests")
    assert caplog.records[-1].levelname == "WARNING"


def test_it_hears_of_requests_and_of_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    fanout = FinishedRequestFanout(FrontendConfig(access_log=False), Meter(), SetUp)
    heard: list[str] = []
    monkeypatch.setattr(fanout, "_overload", SimpleNamespace(failed=heard.append))
    ended = RequestRecord("a", "/v1/completions", "m", 429, 0, 1, error="too_many_requests")
    visit: Any = SimpleNamespace(record=lambda _: ended, outcome=None, trace=None)
    fanout.finished(visit)
    fanout.turned_away(Overloaded("full"), "b")
    assert heard == ["too_many_requests", "overloaded"]
