"""The list of requests: what runs, what has ended, and what is drawn of it."""

from __future__ import annotations

import msgspec
import pytest

from dynamo_cli.dashboard.draw import requests as draw
from dynamo_cli.dashboard.draw.requests import REQUESTS
from dynamo_cli.dashboard.draw.table import fit
from dynamo_cli.dashboard.events import ConnectionChange, RequestTimelines, State
from dynamo_cli.dashboard.filters import parse
from dynamo_cli.dashboard.model import BoardState
from dynamo_cli.dashboard.requests import KEPT, RequestLog, RequestRow
from dynamo_cli.dashboard.screens.detail import Detail
from dynamo_cli.dashboard.source import Source
from dynamo_cli.watch.timelines import RequestState, TimelineView

from .eight import request, running
from .replay import EIGHT
from .test_keys import Seen, seeing


def test_a_request_keeps_its_row_when_it_ends() -> None:
    log = RequestLog()
    log.show([running(59)], 100.0)
    (before,) = log.rows()
    ended = msgspec.structs.replace(
        request(59), request_id="run-0059", number=1, age_s=request(59).age_s + 3
    )
    log.show([ended], 103.0)
    (after,) = log.rows()
    assert (after.key, after.running, before.running) == (before.key, False, True)
    assert log.last_number == 1


def test_the_times_of_a_row_are_those_of_its_request() -> None:
    waits, streams, ended = running(57), running(59), request(9)
    assert RequestRow(0.0, waits).waited_s == RequestRow(0.0, waits).took_s == waits.age_s
    assert RequestRow(0.0, streams).waited_s == 0.3
    assert RequestRow(0.0, ended).took_s == ended.stages_ms["ended"] / 1000 != ended.age_s
    nothing = msgspec.structs.replace(ended, ttft_ms=None)
    assert RequestRow(0.0, nothing).waited_s is None


def test_rows_do_not_tremble_and_the_highest_number_is_kept() -> None:
    log = RequestLog()
    first = msgspec.structs.replace(request(5), age_s=10.0, arrival_s=2.0)
    log.show([first], 100.0)
    assert log.rows()[0].at_s == 90.0
    later = msgspec.structs.replace(request(3), age_s=10.7, arrival_s=3.0)
    log.show([later], 101.0)
    assert [row.at_s for row in log.rows()] == [90.0, 91.0]
    assert log.last_number == 5
    log.show([], 102.0)
    assert len(log.rows()) == 2


def test_ended_requests_are_bounded_and_running_ones_come_last() -> None:
    log = RequestLog()
    views = [
        msgspec.structs.replace(request(1), request_id=str(n), number=n) for n in range(KEPT + 9)
    ]
    log.show([running(57), *reversed(views)], 0.0)
    rows = log.rows()
    assert len(rows) == KEPT + 1
    assert rows[-1].running
    assert log.last_number == KEPT + 8


def test_another_server_process_starts_a_new_list() -> None:
    state = BoardState()
    state.apply(RequestTimelines([request(5)]), 0.0)
    assert state.last_request == 5
    state.apply(ConnectionChange(State.LOST), 1.0)
    state.apply(ConnectionChange(State.LIVE), 2.0)
    assert (state.last_request, state.board(2.0).requests) == (0, ())


@pytest.mark.parametrize(
    ("text", "count"),
    [
        *(("running", 3), ("state:prefill", 1), ("error", 6), ("status:503", 6)),
        *(("worker:2 ended", 7), ("session:session-4", 7), ("slow", 10), ("ttft>1s", 10)),
    ],
)
def test_requests_are_found_by_what_matters(text: str, count: int) -> None:
    log = RequestLog()
    log.show([*map(running, (57, 58, 59)), *(request(n) for n in range(56, 0, -1))], 0.0)
    found = parse(text, REQUESTS.words, REQUESTS.fields)
    assert sum(map(found.accepts, log.rows())) == count


@pytest.mark.parametrize("width", [77, 118, 158, 198])
def test_a_line_fits(width: int) -> None:
    for view in (running(57), running(59), request(9)):
        assert fit(REQUESTS.columns, width).line(RequestRow(0.0, view)).cell_len <= width


def test_a_running_request_is_drawn_in_words_with_its_timeline() -> None:
    text = draw.detail(RequestRow(0.0, running(59))).plain
    for words in (
        *("runs: its tokens come", "40 tokens, 37 ms per token", "its worker was chosen"),
        *("now: its tokens come", "still running after 1.8 s, 40 tokens so far"),
    ):
        assert words in text, words
    waits = draw.detail(RequestRow(0.0, running(57))).plain
    assert "no worker was chosen yet" in waits
    failed = draw.detail(RequestRow(0.0, request(9))).plain
    assert "503 first_token_timeout" in failed


@pytest.mark.parametrize("state", RequestState)
def test_details_of_a_request_of_which_little_is_known_are_drawn(state: RequestState) -> None:
    """No worker, no prompt, no token: it was refused, or has only just come."""
    little = TimelineView(
        **{**msgspec.structs.asdict(request(1)), "state": state, "worker": None}
        | {"prompt_tokens": 0, "cached_tokens": 0, "output_tokens": 0, "ttft_ms": None}
        | {"stages_ms": {}, "finish_reason": ""}
    )
    row = RequestRow(0.0, little)
    assert "not known" in draw.detail(row).plain
    assert fit(REQUESTS.columns, 200).line(row).plain


def test_a_client_that_left_is_no_error() -> None:
    left = msgspec.structs.replace(
        request(1), state="left", status=499, error="client_left", stages_ms={"ended": 900.0}
    )
    row = RequestRow(0.0, left)
    assert not parse("error", REQUESTS.words, REQUESTS.fields).accepts(row)
    assert parse("left", REQUESTS.words, REQUESTS.fields).accepts(row)
    text = draw.detail(row).plain
    assert "its client left before the end of the answer" in text
    assert "503" not in text
    assert "answered" not in text


def test_the_tab_asks_for_requests_and_open_details_follow() -> None:
    asked: list[int] = []
    tokens = [40]

    async def requests(after: int) -> RequestTimelines:
        asked.append(after)
        return RequestTimelines([msgspec.structs.replace(running(59), output_tokens=tokens[-1])])

    async def scenario(seen: Seen) -> None:
        await seen.press("1")
        assert asked == [], "only while the tab is open"
        await seen.press("7")
        await seen.app.workers.wait_for_complete()
        assert asked[0] == 56, "those that are known are not asked for again"
        seen.app._update()
        await seen.press("enter")
        screen = seen.app.screen
        assert isinstance(screen, Detail)
        assert "40 tokens so far" in screen.copied
        tokens.append(80)
        while "80 tokens so far" not in screen.copied:
            seen.app._ask_for_requests()
            await seen.app.workers.wait_for_complete()
            seen.app._update()

    seeing(scenario, stream=EIGHT, source=Source(requests=requests))
