"""Overload is told once when it begins and once when it ends, whatever is refused in between."""

from __future__ import annotations

import asyncio
import logging

import pytest

from dynamo_cli.frontend.after.overload import CAUSES, QUIET_S, Episode, OverloadLog


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

    with caplog.at_level(logging.INFO):
        asyncio.run(scenario())
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "--max-inflight" in caplog.text
