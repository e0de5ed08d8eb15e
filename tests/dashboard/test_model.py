"""What a dashboard knows after some events."""

from __future__ import annotations

import msgspec
import pytest

from dynamo_cli.dashboard import history, model
from dynamo_cli.dashboard.events import (
    ConnectionChange,
    Decided,
    Found,
    Lines,
    ProcessList,
    State,
    decode,
)
from dynamo_cli.dashboard.history import Flow, History
from dynamo_cli.dashboard.model import BoardState
from dynamo_cli.messages.lifecycle import Phase
from dynamo_cli.watch.decisions import Measurement
from dynamo_cli.watch.logs import LogView

from .made import decision, snapshot


def line(number: int) -> LogView:
    return LogView(number, 0.0, "worker 0", "INFO", f"line {number}")


# -- the stream ------------------------------------------------------------------------------


def test_what_a_newer_server_says_besides_is_ignored_and_nonsense_is_not() -> None:
    assert decode("weather", b"1") is None
    with pytest.raises(msgspec.DecodeError):
        decode("snapshot", b'{"version": "0.0.1"}')


def test_a_snapshot_survives_the_way() -> None:
    sent = snapshot(prefill_workers=1)
    assert decode("snapshot", msgspec.json.encode(sent)) == sent


# -- the state --------------------------------------------------------------------------------


def test_the_supervisors_table_shows_until_there_is_a_snapshot() -> None:
    state = BoardState()
    processes = snapshot().processes
    state.apply(ProcessList(processes[:2]), 0)
    board = state.board(0)
    assert (len(board.processes), board.snapshot, board.starting) == (2, None, True)
    state.apply(snapshot(), 1)
    assert len(state.board(1).processes) == len(processes)


def test_it_has_started_once_all_were_ready_and_stays_so() -> None:
    state, whole = BoardState(), snapshot()
    process = msgspec.structs.replace(whole.processes[0], phase=Phase.LOADING)
    partial = msgspec.structs.replace(whole, processes=[process, *whole.processes[1:]])
    for seen, starting in ((partial, True), (whole, False), (partial, False)):
        state.apply(seen, 0)
        assert state.board(0).starting is starting


def test_decisions_are_kept_in_order_once_each_and_measured_later() -> None:
    state = BoardState()
    state.apply(Decided([decision(2), decision(1)]), 100.0)
    state.apply(Decided([decision(3), decision(2)]), 101.0)
    state.apply(Found([Measurement(1, "engine-2", 64), Measurement(2, "unknown", 1)]), 101.0)
    rows = state.board(102.0).decisions
    assert [row.key for row in rows] == ["engine-1", "engine-2", "engine-3"]
    assert [row.at_s for row in rows] == [99.0, 99.0, 100.0]
    assert [row.decision.measured_tokens for row in rows] == [None, 64, None]


def test_a_request_that_moves_has_a_row_for_each_of_its_workers() -> None:
    state = BoardState()
    state.apply(Decided([decision(1, "a")]), 100.0)
    again = decision(2, "a", worker=1, moved="died", moved_from=0)
    for _ in range(2):  # a server tells it again after a lost connection
        state.apply(Decided([again]), 101.0)
    state.apply(Found([Measurement(1, "a", 64)]), 101.0)
    first, second = state.board(102.0).decisions
    assert [row.decision.worker for row in (first, second)] == [0, 1]
    assert first.key != second.key
    assert (first.decision.measured_tokens, second.decision.measured_tokens) == (None, 64)
    state.apply(Decided([decision(3 + n) for n in range(model.DECISIONS_KEPT)][::-1]), 102.0)
    assert len(state._latest) == model.DECISIONS_KEPT


def test_decisions_that_the_stream_left_out_are_counted() -> None:
    state = BoardState()
    state.apply(ConnectionChange(State.LIVE), 0)
    state.apply(Decided([decision(41)]), 0)  # decisions before the first do not count as missed
    state.apply(Decided([decision(50), decision(49)]), 0)
    assert state.board(0).missed == 7
    state.apply(ConnectionChange(State.LOST), 0)
    state.apply(ConnectionChange(State.LIVE), 0)
    state.apply(Decided([decision(1, "new")]), 0)
    assert state.board(0).missed == 7


def test_all_that_is_kept_is_bounded() -> None:
    state = BoardState()
    for number in range(0, model.DECISIONS_KEPT + 500, 100):
        state.apply(Decided([decision(number + place) for place in range(100, 0, -1)]), 0)
    for number in range(model.LINES_KEPT + 10):
        state.apply(Lines([line(number)]), 0)
    for second in range(history.KEPT + 10):
        state.apply(msgspec.structs.replace(snapshot_of_now, uptime_s=float(second)), second)
    board = state.board(0)
    assert len(board.decisions) == model.DECISIONS_KEPT
    assert board.decisions[-1].decision.number == model.DECISIONS_KEPT + 500
    assert len(board.lines) == model.LINES_KEPT
    assert len(board.samples) == history.KEPT


snapshot_of_now = snapshot()


def test_lines_are_told_again_after_a_lost_connection_and_stand_there_once() -> None:
    state = BoardState()
    state.apply(ConnectionChange(State.LIVE), 0)
    state.apply(Lines([line(1), line(2)]), 0)
    state.apply(ConnectionChange(State.LOST, reason="gone"), 0)
    assert [one.number for one in state.board(0).lines] == [1, 2]
    state.apply(ConnectionChange(State.LIVE), 0)
    state.apply(Lines([line(1), line(2), line(3)]), 0)
    assert [one.number for one in state.board(0).lines] == [1, 2, 3]


def test_a_board_does_not_change_when_the_state_does() -> None:
    state = BoardState()
    state.apply(Decided([decision(1)]), 0)
    board = state.board(0)
    state.apply(Decided([decision(2)]), 0)
    state.apply(Lines([line(1)]), 0)
    assert (len(board.decisions), len(board.lines)) == (1, 0)


# -- the past --------------------------------------------------------------------------------


def test_a_second_is_one_sample_and_a_new_life_of_the_server_begins_anew() -> None:
    past = History()
    for at_s in (1.0, 1.25, 1.5, 2.0, 2.5, 7.0):
        past.add(snapshot(at_s=at_s))
    assert [sample.at_s for sample in past.samples()] == [1.0, 2.0, 7.0]
    past.add(snapshot(at_s=0.5))
    assert [sample.at_s for sample in past.samples()] == [0.5]


def test_flow_is_what_grew_over_the_last_seconds() -> None:
    past = History()
    assert past.flow() == Flow()
    first = snapshot(at_s=10.0, prefill_workers=1)
    assert first.router is not None
    assert first.prefill is not None
    past.add(first)
    past.add(
        msgspec.structs.replace(
            first,
            uptime_s=12.0,
            router=msgspec.structs.replace(first.router, decisions={0: 9, 1: 7}),
            prefill=msgspec.structs.replace(
                first.prefill, taken=13, depth_jobs=4, ended={"done": 8}
            ),
        )
    )
    assert past.flow() == Flow(decisions=3.0, pushed=3.0, pulled=2.0, notified=2.0)


# -- workers that differ ----------------------------------------------------------------------


def test_what_came_too_long_ago_or_before_the_connection_was_lost_is_out_of_date() -> None:
    state = BoardState("http://h:1")
    state.apply(ConnectionChange(State.LIVE), 100.0)
    assert state.board(200.0).stale_since_s is None, "nothing is shown yet"
    state.apply(snapshot(), 100.0)
    assert state.board(101.0).stale_since_s is None
    assert state.board(104.0).stale_since_s == 100.0
    state.apply(snapshot(), 105.0)
    assert state.board(106.0).stale_since_s is None
    state.apply(ConnectionChange(State.LOST, "http://h:1", "no server"), 106.0)
    assert state.board(106.0).stale_since_s == 105.0
