"""Boards as text: nothing is wider than the available width."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import msgspec
import pytest
from rich.text import Text

from dynamo_cli.dashboard import printed
from dynamo_cli.dashboard.draw import (
    cache,
    details,
    facts,
    multiples,
    nodes,
    overview,
    picture,
    prefill,
    top,
    trends,
    workers,
)
from dynamo_cli.dashboard.draw.decisions import DECISIONS
from dynamo_cli.dashboard.draw.gpus import GPUS, gpus_of
from dynamo_cli.dashboard.draw.nodes import NODES, nodes_of, processes_spec, workers_spec
from dynamo_cli.dashboard.draw.requests import REQUESTS
from dynamo_cli.dashboard.draw.table import Spec, fit
from dynamo_cli.dashboard.draw.tables import LOGS, PROCESSES
from dynamo_cli.dashboard.draw.workers import GPU_WORKERS, WORKERS, strips, workers_of
from dynamo_cli.dashboard.events import ConnectionChange, Decided, ProcessList, State
from dynamo_cli.dashboard.model import Board, BoardState, DecisionRow
from dynamo_cli.dashboard.widgets import requests, routing
from dynamo_cli.dashboard.widgets.overview import CURVES
from dynamo_cli.messages.lifecycle import Phase
from dynamo_cli.messages.routing import REASON_NO_WORKER
from dynamo_cli.router.policies import Request, WorkerLoad
from dynamo_cli.router.policies.timed import time_cost
from dynamo_cli.topology import Role
from dynamo_cli.watch.decisions import CandidateView
from dynamo_cli.watch.host_cache_schema import DiskCacheView, HostCacheShare, HostCacheView
from dynamo_cli.watch.load_schema import ErrorsView, QueuesView, StageView
from dynamo_cli.watch.moves import MoveStep
from dynamo_cli.watch.schema import AlarmView, MovesView
from dynamo_cli.watch.stages import STAGES

from .made import decision, snapshot
from .pictures import TIMELINE, Scene, draw
from .replay import Replay

STREAMS = (
    *("startup", "empty", "busy", "disaggregated", "degraded", "gpus", "moved", "host-cache"),
    *("overloaded", "lost", "nodes"),
    "eight",
)
WIDTHS = (78, 100, 118, 158, 300)


def board_of(stream: str) -> Board:
    replay = Replay(stream)
    return replay.state.board(replay.now_s)


def lines(text: Text) -> list[str]:
    return text.plain.split("\n")


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("stream", STREAMS)
def test_nothing_is_wider_than_its_room(stream: str, width: int) -> None:
    board = board_of(stream)
    texts = [
        picture.draw(board, width),
        overview.header(board, width, paused=True),
        overview.startup(board, width),
        cache.draw(board, width),
        prefill.draw(board, width),
        routing.summary(board, width),
        trends.draw(board.samples, cache.CURVES, width, 12, 300),
        top.draw(board, width, 40),
        multiples.draw(board, width, 20),
        Text("\n").join(strips(board, width, 9)),
    ]
    for text in texts:
        assert max(map(len, lines(text))) <= width
    tables: list[tuple[Spec[Any], Any]] = [
        (WORKERS, workers_of(board)),
        (GPU_WORKERS, workers_of(board)),
        (PROCESSES, board.processes),
        (GPUS, gpus_of(board)),
        (NODES, nodes_of(board)),
        (workers_spec(board), workers_of(board)),
        (processes_spec(board), board.processes),
        (DECISIONS, board.decisions),
        (LOGS, board.lines),
    ]
    for spec, items in tables:
        fitted = fit(spec.columns, width)
        for item in items:
            assert fitted.line(item).cell_len == len(fitted.head()) <= width


@pytest.mark.parametrize(
    "spec",
    [
        *(WORKERS, GPU_WORKERS, workers_spec(board_of("nodes")), GPUS, NODES),
        *(PROCESSES, processes_spec(board_of("nodes")), DECISIONS, REQUESTS, LOGS),
    ],
)
def test_the_columns_of_every_table_fit_every_width(spec: Spec[Any]) -> None:
    for width in range(77, 260):
        fitted = fit(spec.columns, width)
        assert len(fitted.head()) <= width
        for column, cells in fitted.columns:
            assert len(column.title) <= cells, (width, column.title)


def test_workers_are_drawn_in_words_with_their_gpus() -> None:
    row = workers_of(board_of("eight"))[1]
    text = facts.worker(row).plain
    for words in (
        *("24 running, 4 waiting", "12,000 blocks of 32 tokens", "95 % in use"),
        *("TTFT            p50 ", " over the last 10 s", "71 GiB", "690/700 W", "87 °C"),
        *("none since the start", "512 MiB of the host"),
    ):
        assert words in text, words
    assert "_" not in text, "field names are no words"
    line = fit(GPU_WORKERS.columns, 118).line(row).plain
    assert "99 %   71 GiB  690 W  87 °C 512 MiB gpu 1" in line


def test_nodes_are_drawn_with_all_that_their_relays_count() -> None:
    near, far = nodes_of(board_of("nodes"))
    narrow = fit(NODES.columns, 78).line(near).plain.split()
    assert " ".join(narrow) == "node-a ● up 1.2 ms 31 MiB 64 MiB 0 0 0 0"
    wide = fit(NODES.columns, 120).line(far).plain.split()
    assert " ".join(wide) == "node-b ● up 1.2 ms 31 MiB 64 MiB 48.2k 151k 3 2 0 14 0"
    lost = msgspec.structs.replace(far, up=False, silent_s=65.0)
    assert nodes.state(lost).plain == "✗ lost 1m05s"
    assert nodes.state(msgspec.structs.replace(lost, beat_s=None)).plain == "○ awaited"
    refused = msgspec.structs.replace(far, refused_connections=5, lost_log_lines=7)
    text = facts.node(refused).plain
    for words in (
        *("151,000 frames, 64 MiB", "48,200 frames, 31 MiB", "1.2 ms to the node and back"),
        *("3 times frames were lost", "2 times the relays", "5 connections", "14 frames came"),
        *("7 lines", "● up"),
    ):
        assert words in text, words


def test_with_nodes_the_tables_have_room_for_their_names() -> None:
    board = board_of("nodes")
    for width, named in ((77, " 0 @ node-a"), (100, "gpu 0 @ node-a"), (198, "gpu 0 @ node-a")):
        row = fit(workers_spec(board).columns, width).line(workers_of(board)[0]).plain
        assert named in row
    one = next(one for one in board.processes if one.name == "worker 1")
    for width in (70, 118):
        assert " 0 @ node-b" in fit(processes_spec(board).columns, width).line(one).plain


def test_strips_say_how_many_workers_they_leave_out() -> None:
    board = board_of("eight")
    assert len(strips(board, 60, 9)) == 9
    few = strips(board, 60, 5)
    assert len(few) == 5
    assert few[-1].plain == "and 5 more workers in tab 2"


@pytest.mark.parametrize(
    ("size", "beside", "below"),
    [
        ((38, 6), False, False),
        ((78, 20), False, False),
        ((118, 32), False, True),
        ((158, 44), True, False),
    ],
)
def test_strips_go_where_there_is_room(size: tuple[int, int], beside: bool, below: bool) -> None:
    board = board_of("eight")
    drawn = top.draw(board, *size).plain
    assert ("TTFT p95" in drawn) == beside
    assert top.below(board, *size) == below
    if size == (38, 6):
        assert "8/8 ready  run 128+12" in drawn
        assert max(map(len, drawn.split("\n"))) <= 38


def test_most_curves_are_shown_in_full_rows_of_as_many_columns_as_possible() -> None:
    board = board_of("busy")
    for width, height, titles in ((198, 40, 4), (118, 40, 4), (78, 40, 4), (198, 4, 3)):
        drawn = trends.draw(board.samples, cache.CURVES, width, height, 60).plain
        assert drawn.count("max ") == titles, (width, height)
    nine = trends.draw(board_of("eight").samples, CURVES, 158, 30, 60).plain.split("\n")
    assert sum(line.count("max ") for line in nine) == 8
    assert nine[0].count("max ") == 2


@pytest.mark.parametrize(
    ("terms", "margin", "drawn"),
    [
        ({"wait_ms": 1.0, "prefill_ms": 2.0}, 34.0, "34 ms"),
        ({"running_requests": 3.0, "weighted_waiting_requests": 4.0}, 1.0, "1 req"),
        ({"prefill": 1.0, "decode": 2.0, "incoming": 3.0}, 0.25, "0.25 blk"),
        ({"overlap": 1.0, "kv_usage": 0.1, "waiting": 0.0}, 0.5, "0.50 pt"),
        ({"last_used": 9.0}, 7.0, "–"),
        ({}, 0.0, "–"),
    ],
)
def test_a_cost_never_goes_without_its_unit(
    terms: dict[str, float], margin: float, drawn: str
) -> None:
    candidates = [CandidateView(worker, 0, 5.0 + worker, terms) for worker in (0, 1)]
    row = DecisionRow(0.0, decision(1, candidates=candidates, margin=margin))
    fitted = fit(DECISIONS.columns, 118)
    cells = {column.title: str(column.cell(row)) for column, _ in fitted.columns}
    assert cells["margin"] == drawn
    assert cells["costs of workers"].split()[-1] == (drawn.rsplit(maxsplit=1)[-1] if terms else "–")
    assert (cells["next"] == "1") == (drawn != "–")


@pytest.mark.parametrize("stream", STREAMS)
def test_every_box_of_the_picture_is_closed(stream: str) -> None:
    board = board_of(stream)
    drawn = picture.draw(board, 78)
    assert len(lines(drawn)) == picture.height(board)
    corners = [drawn.plain.count(corner) for corner in "╭╮╰╯"]
    boxes = (
        3
        + (
            stream
            in (
                "startup",
                "busy",
                "degraded",
                "gpus",
                "moved",
                "overloaded",
                "lost",
                "eight",
                "nodes",
            )
        )
        + 2 * (stream == "host-cache")
        + 4 * (stream == "disaggregated")
    )
    assert corners == [boxes] * 4


def with_host_cache(**fields: Any) -> Board:
    state = BoardState()
    state.apply(ConnectionChange(State.LIVE), 0)
    state.apply(snapshot(host_cache=True, **fields), 0)
    return state.board(0)


def with_host_cache_view(view: HostCacheView) -> Board:
    state = BoardState()
    state.apply(msgspec.structs.replace(snapshot(host_cache=True), host_cache=view), 0)
    return state.board(0)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(("prefill_workers", "boxes"), [(0, 5), (1, 7)])
def test_the_host_cache_has_a_box_and_arrows(prefill_workers: int, boxes: int, width: int) -> None:
    board = with_host_cache(prefill_workers=prefill_workers)
    drawn = lines(picture.draw(board, width))
    assert len(drawn) == picture.height(board)
    assert max(map(len, drawn)) <= width
    assert [sum(line.count(corner) for line in drawn) for corner in "╭╮╰╯"] == [boxes] * 4
    inside = next(line for line in drawn if "used" in line)
    assert "● ready  used 40 %  found 75 %" in inside
    if prefill_workers:
        assert "◄──" in drawn[1], "to the prefill workers beside it"
    else:
        assert "load 102 MiB/s" in drawn[3]
        assert "store 51 MiB/s" in drawn[4]


def test_the_cache_tab_shows_the_tiers() -> None:
    drawn = cache.draw(with_host_cache(), 100).plain
    for words in (
        "40 %  of 1.0 GiB",
        "75 %  of what was asked for, last minute",
        "50 %  of prompt tokens since the start",
        "900 blocks, 1.0 GiB at 2.0 GiB/s; now 102 MiB/s",
        "3.0 MiB read, 125 MiB lent to write, 15 blocks evicted",
        "no_slot 2 blocks",
    ):
        assert words in drawn, words
    narrow = cache.draw(with_host_cache(), 78).plain
    assert max(map(len, narrow.split("\n"))) <= 78
    assert "…" not in narrow, "nothing is cut off in the smallest terminal"


def test_figures_come_before_bars_where_there_is_little_room() -> None:
    tiny = cache.draw(board_of("host-cache"), 38).plain
    for pattern in (r"hit rate +last minute +since start", r"measured \D+\d+ %", r"used \D+\d+ %"):
        (line,) = (one for one in tiny.split("\n") if re.match(pattern, one))
        assert not re.search(r"\d…", line)
    shares = prefill.draw(board_of("disaggregated"), 38).plain
    assert re.search(r"^remote .* \d+ %", shares, re.MULTILINE)


def test_the_cache_tab_has_curves_of_the_host_cache() -> None:
    board = with_host_cache()
    for curves in (cache.CURVES, cache.UNROUTED_CURVES):
        drawn = trends.draw(board.samples, curves, 100, 20, 60).plain
        for words in (
            "found in the host cache 75 %",
            "loaded from the host 102 MiB/s",
            "stored on the host 51 MiB/s",
        ):
            assert words in drawn, words
    without = trends.draw(board_of("busy").samples, cache.CURVES, 100, 20, 60).plain
    assert "host" not in without


def test_the_host_cache_of_each_node_is_in_its_tab() -> None:
    seen = snapshot(host_cache=True)
    assert seen.host_cache is not None
    shares = [HostCacheShare(f"host cache {node}", 100, 25 * node, 0, 0) for node in (1, 2)]
    for caches, shown in ((shares, 2), (shares[:1], 0)):
        view = msgspec.structs.replace(seen.host_cache, caches=caches)
        drawn = lines(cache.draw(with_host_cache_view(view), 100))
        found = [line for line in drawn if re.match("cache [12] .* (25|50) % +used", line.strip())]
        assert len(found) == shown, "of a single one the other lines say it"


def test_two_times_of_many_seconds_fit_into_their_column() -> None:
    found = [workers._short_ms(value_s) for value_s in (0.0071, 0.9, 9.94, 9.96, 12.3, 130.0)]
    assert found == ["7.1", "900", "9.9k", "10k", "12k", "130k"]


def test_a_narrow_box_of_the_host_cache_has_whole_figures() -> None:
    seen = snapshot(host_cache=True, prefill_workers=1)
    assert seen.host_cache is not None
    disk = DiskCacheView(200, 50, 9, 8, 10, 0.5, 30, 1.5, 2, 0.0, 0.0, {}, "")
    view = msgspec.structs.replace(seen.host_cache, disk=disk)
    state = BoardState("http://h:1")
    state.apply(msgspec.structs.replace(seen, host_cache=view), 0)
    drawn = picture.draw(state.board(0), 78).plain
    (line,) = [one for one in drawn.splitlines() if "used" in one]
    assert "│ ● ready used 40 % found 75 %     │" in line, line


def test_engines_that_the_host_cache_refused_are_in_its_tab() -> None:
    seen = snapshot(host_cache=True)
    assert seen.host_cache is not None
    assert "refused" not in cache.draw(with_host_cache(), 100).plain
    refused = msgspec.structs.replace(seen.host_cache, refused=2)
    drawn = cache.draw(with_host_cache_view(refused), 100).plain
    assert "engines, 2 times: see the log" in drawn


def test_the_disk_below_the_host_cache_is_in_its_tab() -> None:
    seen = snapshot(host_cache=True)
    assert seen.host_cache is not None
    size = seen.host_cache.slot_bytes
    disk = DiskCacheView(200, 50, 9, 8, 10, 0.5, 30, 1.5, 2, 10.0 * size, 0.0, {"gone": 4}, "")
    for shown, box, lines in (
        (
            disk,
            "disk 25 %",
            ("on disk", "25 %", "disk reads", "disk writes", "not on disk gone 4 blocks"),
        ),
        (
            msgspec.structs.replace(disk, off="it fails"),
            "disk off",
            ("disk        not used: it fails",),
        ),
    ):
        view = msgspec.structs.replace(seen.host_cache, disk=shown)
        drawn = cache.draw(with_host_cache_view(view), 100).plain
        assert all(line in drawn for line in lines), drawn
        assert box in picture.draw(with_host_cache_view(view), 120).plain


def test_a_host_cache_that_nobody_has_opened_says_so() -> None:
    seen = snapshot(host_cache=True)
    assert seen.host_cache is not None
    unopened = msgspec.structs.replace(seen.host_cache, slots=0, slot_bytes=0)
    board = with_host_cache_view(unopened)
    assert "no engine has opened it yet" in cache.draw(board, 100).plain
    assert "used –" in picture.draw(board, 100).plain


@pytest.mark.parametrize(
    ("link", "seen", "says"),
    [
        (ConnectionChange(State.CONNECTING, "http://h:1"), None, "○ connecting"),
        (ConnectionChange(State.LOST, "http://h:1", "refused"), None, "✗ no connection"),
        (ConnectionChange(State.LIVE), ProcessList(snapshot().processes), "○ starting"),
        (ConnectionChange(State.LIVE), snapshot(), "● serving"),
        (ConnectionChange(State.LIVE), snapshot(serving=False, reason="starting"), "○ starting"),
    ],
)
def test_the_header_says_how_it_is(link: ConnectionChange, seen: Any, says: str) -> None:
    state = BoardState("http://h:1")
    state.apply(link, 0)
    if seen is not None:
        state.apply(seen, 0)
    assert says in overview.header(state.board(0), 120, paused=False).plain


def test_a_header_without_news_says_since_when_and_is_dim() -> None:
    state = BoardState("http://h:1")
    state.apply(ConnectionChange(State.LIVE), 0)
    state.apply(snapshot(), 0)
    late = overview.header(state.board(60), 120, paused=False)
    assert "✗ no news since 00:00:00" in late.plain
    state.apply(ConnectionChange(State.LOST, "http://h:1", "no server"), 61)
    lost = overview.header(state.board(61), 120, paused=False)
    assert "✗ no connection since 00:00:00" in lost.plain
    traffic = lost.split("\n")[1]
    assert all(any(str(span.style) == "dim" for span in one.spans) for one in (traffic,))
    assert "✗ what is shown is from 00:00:00" in overview.attention(state.board(61)).plain


def test_errors_of_the_last_minute_are_on_the_overview_and_in_a_line_of_watch() -> None:
    errors = ErrorsView(340, 8, 3, 4, {"worker_lost": 8, "NotFoundError": 4, "not_ready": 3})
    queues = QueuesView(0, 5, 40, 0, 16, 70, 12.0)
    state = BoardState("http://h:1")
    state.apply(ConnectionChange(State.LIVE), 0)
    state.apply(snapshot(recent_errors=errors, queues=queues), 0)
    board = state.board(0)
    told = overview.attention(board).plain
    assert "340 requests: 8 failed, 3 refused, 4 wrong requests of clients" in told
    assert "(worker_lost 8, NotFoundError 4, not_ready 3)" in told
    assert "nothing needs attention" not in told
    header = overview.header(board, 120, paused=False).plain
    assert "11 errors/min" in header
    assert "61 waiting" in header
    line = printed.watch_line(board).split()
    heads = printed.WATCH_HEAD.split()
    assert line[heads.index("wait")] == "61"
    assert (heads[-2], line[-2]) == ("err/m", "11"), "the same as in the header"


def test_advice_that_several_alarms_have_is_drawn_once() -> None:
    alarms = [AlarmView("saturated", "90 wait", "add workers."), AlarmView("old", "1 age", "wait.")]
    alarms.append(AlarmView("growing queue", "it grows", "add workers."))
    state = BoardState("http://h:1")
    state.apply(msgspec.structs.replace(snapshot(), alarms=alarms), 0)
    assert overview.attention(state.board(0)).plain.splitlines() == [
        "⚠ saturated: 90 wait. → add workers.",
        "⚠ old: 1 age. → wait.",
        "⚠ growing queue: it grows. → as for saturated",
    ]


def test_a_wrong_request_of_a_client_is_told_and_is_no_error_of_the_server() -> None:
    state = BoardState("http://h:1")
    state.apply(snapshot(recent_errors=ErrorsView(9, 0, 0, 4, {"NotFoundError": 4})), 0)
    assert "4 wrong requests of clients" in overview.attention(state.board(0)).plain
    assert "errors/min" not in overview.header(state.board(0), 120, paused=False).plain


def test_clients_that_left_are_told_and_need_no_attention() -> None:
    state = BoardState("http://h:1")
    state.apply(snapshot(recent_errors=ErrorsView(300, left=240)), 0)
    told = overview.attention(state.board(0)).plain
    assert "nothing needs attention" in told
    assert "the clients of 240 of 300 requests left in the last minute" in told


@pytest.mark.parametrize(
    ("used", "wanted", "text"),
    [(0.04, 0.9, "4/90 %"), (0.85, 0.9, "90 %"), (None, 0.9, "90 %"), (0.5, None, "–")],
)
def test_a_process_that_waits_for_a_core_does_not_seem_to_use_it(
    used: float | None, wanted: float | None, text: str
) -> None:
    seen = snapshot()
    processes = [
        msgspec.structs.replace(one, cpu_cores=used, cpu_demand=wanted) for one in seen.processes
    ]
    state = BoardState("http://h:1")
    state.apply(msgspec.structs.replace(seen, processes=processes), 0)
    assert picture.cpu(state.board(0), Role.FRONTEND) == text


@pytest.mark.parametrize(
    ("label", "value", "text"),
    [
        ("run+wait", "43+257", "r+w    43+257"),
        ("run+wait", "4+25", "run+wait 4+25"),
        ("CPU", "143/1620 %", "   143/1620 %"),
        ("took", "12.4/16.1 s", "p95    16.1 s"),
    ],
)
def test_figures_in_small_boxes_are_whole(label: str, value: str, text: str) -> None:
    assert picture._pair(label, value, 13).plain == text


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_times_of_stages_fit(width: int) -> None:
    stages = [StageView(name, 9, 0.012, 1.25) for name in STAGES]
    drawn = overview.times(snapshot(stages=stages), width)
    assert all(line.cell_len <= width for line in drawn.split("\n"))
    assert all(f"{name} 0/1.2 s" in drawn.plain for name in STAGES)


def test_rates_of_one_snapshot_are_not_known() -> None:
    state = BoardState("http://h:1")
    state.apply(snapshot(prefill_workers=1), 0)
    drawn = picture.draw(state.board(0), 120).plain
    assert "notify –" in drawn
    assert "pull –" in drawn


def test_a_process_that_is_not_ready_makes_it_degraded_and_no_server_says_why() -> None:
    state = BoardState()
    state.apply(ConnectionChange(State.LIVE), 0)
    state.apply(snapshot(), 0)
    state.apply(snapshot(serving=False, reason="no worker is ready"), 0)
    assert "✗ no worker is ready" in overview.header(state.board(0), 120, paused=False).plain


def test_curves_fill_their_width_and_take_the_shortest_span_that_shows_everything() -> None:
    board = board_of("busy")
    drawn = lines(trends.draw(board.samples, cache.CURVES[:1], 100, 6, 3600))
    assert drawn[-1].startswith("1m00s ago")
    filled = [row for row in drawn[1:-1] if row.strip()]
    assert {len(row) for row in filled} == {100}
    assert trends.draw(board.samples, cache.CURVES, 100, 1, 60).plain == ""


def test_a_decision_shows_who_won_by_how_much_and_what_was_found() -> None:
    state = BoardState()
    state.apply(Decided([decision(1, measured_tokens=64)]), 0)
    line = fit(DECISIONS.columns, 78).line(state.board(0).decisions[0]).plain
    for words in ("api-1", "250", "▆·", "→ 0     1    4 blk cost", "↓192/64"):
        assert words in line, words
    assert "12 16 blk" in fit(DECISIONS.columns, 118).line(state.board(0).decisions[0]).plain


def test_the_costs_of_candidates_fit_the_narrowest_terminal() -> None:
    terms = time_cost(Request(100, 4, 32), [WorkerLoad(0)], 1.0)[0]
    row = DecisionRow(
        0.0, decision(1, candidates=[CandidateView(0, 2, sum(terms.values()), terms)])
    )
    lines = details.decision(row, [], Text("")).plain.splitlines()
    assert max(map(len, lines)) <= 75, "80 cells without frame, padding and scroll bar"
    head = lines.index("candidates, cost and its terms, milliseconds")
    titles = [line.split() for line in lines[head + 1 : head + 3]]
    assert titles == [
        ["queueing", "eviction", "decode"],
        ["worker", "overlap", "cost", "wait", "prefill", "delay", "cost", "slowdown"],
    ]


def test_a_decision_says_what_comes_from_the_host_cache() -> None:
    load = WorkerLoad(0, overlap_blocks=2, expected_blocks=2, host_blocks=4, load_s=0.25)
    terms = time_cost(Request(100, 4, 32), [load], 1.0)[0]
    candidates = [CandidateView(0, 2, sum(terms.values()), terms)]
    made = decision(1, overlap_blocks=2, host_blocks=4, predicted_tokens=128, candidates=candidates)
    lines = details.decision(DecisionRow(0.0, made), [], Text("")).plain.splitlines()
    (place,) = (place for place, line in enumerate(lines) if line.startswith("cached"))
    assert "128 tokens predicted" in lines[place]
    assert "2 blocks in its cache, 2 more in the host cache" in lines[place + 1]
    head = lines.index("candidates, cost and its terms, milliseconds")
    assert lines[head + 2].split()[3:5] == ["wait", "load"]
    assert lines[head + 3].split()[5] == "250"
    assert max(map(len, lines)) <= 75
    deep = details.decision(
        DecisionRow(0.0, decision(1, overlap_blocks=6, host_blocks=4)), [], Text("")
    )
    assert "host cache" not in deep.plain


def test_a_request_that_moved_is_marked_and_found_by_that_word() -> None:
    row = DecisionRow(0.0, decision(2, worker=1, moved="died", moved_from=0, output_tokens=12))
    assert "⇄ 1" in fit(DECISIONS.columns, 78).line(row).plain
    assert "moved died" in DECISIONS.words(row)
    assert "moved" not in DECISIONS.words(DecisionRow(0.0, decision(1)))
    text = details.decision(row, [], Text("")).plain
    assert "⇄ from worker 0 (died), with 12 tokens of its answer" in text
    assert "⇄" not in details.decision(DecisionRow(0.0, decision(1)), [], Text("")).plain


def test_the_timeline_has_moves_in_the_order_of_time() -> None:
    lost = MoveStep("worker 1", None, "stalled", 20, 50.0, None)
    moves = [MoveStep("worker 0", "worker 1", "died", 9, 21.7, 18.4), lost]
    drawn = lines(details.timeline(msgspec.structs.replace(TIMELINE, moves=moves)))
    told = [line for line in drawn if "⇄" in line]
    assert [line.split("⇄ ")[1] for line in told] == [
        *("worker 0: died, 9 tokens", "goes on: worker 1"),
        *("worker 1: stalled, 20 tokens", "found no place"),
    ]
    assert told[1].split()[:3] == ["40.1", "ms", "+18.4"], "how long nobody computed"
    assert drawn.index(told[0]) > next(n for n, line in enumerate(drawn) if "first token" in line)


def test_the_overview_says_how_many_moved_and_why() -> None:
    moves = MovesView({"died": 12, "drained": 0}, {"died": 1}, 0.035)
    state = BoardState()
    state.apply(ConnectionChange(State.LIVE), 0)
    state.apply(snapshot(), 0)
    assert "⇄" not in overview.attention(state.board(0)).plain
    state.apply(snapshot(moves=moves), 0)
    assert lines(overview.attention(state.board(0)))[-1] == (
        "⇄ moved: 12 (died 12), found no place: 1 (died 1), longest gap 35 ms"
    )


def test_no_worker_is_told() -> None:
    state = BoardState()
    lost = decision(1, worker=None, candidates=[], reason=REASON_NO_WORKER)
    state.apply(Decided([decision(2, worker=0), lost]), 0)  # the newest first
    first, second = state.board(0).decisions
    assert (first.decision.worker, second.decision.worker) == (None, 0)
    assert "–" in fit(DECISIONS.columns, 100).line(first).plain
    won = next(column.order for column in DECISIONS.columns if column.title == "won")
    assert won is not None
    assert sorted([second, first], key=won) == [first, second]


def test_a_phase_has_a_glyph_and_a_word() -> None:
    board = board_of("degraded")
    text = overview.startup(board, 100).plain
    assert "● ready" in text
    assert "○ " in text
    assert {str(phase) for phase in Phase} >= {process.phase for process in board.processes}


def test_why_there_is_no_connection_is_drawn_once() -> None:
    state = BoardState("http://h:1")
    state.apply(ConnectionChange(State.LOST, reason="connection refused"), 0)
    board = state.board(0)
    drawn = overview.startup(board, 80).plain + overview.attention(board).plain
    assert drawn.count("connection refused") == 1


def test_without_colour_everything_is_grey(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    svg = asyncio.run(draw(Scene("degraded", "overview", ()), (80, 24)))
    styles = svg.partition("<style>")[2].partition("</style>")[0]
    unstyled = {"c5c8c6"}
    colours = set(re.findall(r"-r\d+ \{ fill: #([0-9a-f]{6})", styles)) - unstyled
    assert colours
    assert all(colour[:2] == colour[2:4] == colour[4:] for colour in colours), colours


@pytest.mark.parametrize("width", (*WIDTHS, 38))
@pytest.mark.parametrize("stream", STREAMS)
def test_no_figure_is_cut(stream: str, width: int) -> None:
    """Where there is little room, whole figures are left out."""
    board = board_of(stream)
    texts = [overview.header(board, width, paused=False), routing.summary(board, width)]
    texts += [requests.summary(board, width), multiples.draw(board, width, 20)]
    if width >= picture.LEAST_WIDTH:
        texts += [picture.draw(board, width), cache.draw(board, width), prefill.draw(board, width)]
    for text in texts:
        assert "…" not in text.plain


def test_the_state_of_the_server_is_in_every_header() -> None:
    long = msgspec.structs.replace(snapshot(), models=("m" * 90,))
    for width in (20, 38, 78, 200):
        board = BoardState("http://127.0.0.1:8181")
        board.apply(ConnectionChange(State.LIVE, "http://127.0.0.1:8181"), 0.0)
        board.apply(long, 0.0)
        first, _ = lines(overview.header(board.board(0.0), width, paused=False))
        assert "● serving" in first
        assert len(first) <= width


def test_one_block_is_no_plural() -> None:
    for margin, words in ((1.0, "1 block cheaper"), (-4.0, "4 blocks dearer")):
        row = DecisionRow(0.0, decision(1, margin=margin))
        assert words in details.decision(row, [], Text()).plain


def test_alarms_that_do_not_fit_have_one_line_each_and_say_which_key_shows_more() -> None:
    text = overview.attention(board_of("overloaded"))
    assert len(lines(text)) == 4
    assert overview.within(text, 78, 20) == text
    short = lines(overview.within(text, 78, 5))
    assert [line.split()[1] for line in short[:4]] == ["saturated:", "growing", "no", "kv"]
    assert short[4] == overview.MORE
    assert max(map(len, short)) <= 78
    assert [len(lines(overview.within(text, 78, room))) for room in (4, 2, 1, -3)] == [4, 2, 2, 2]
    fine = overview.attention(board_of("busy"))
    assert overview.within(fine, 78, 0) == fine, "a line that fits is no long list"
