"""Every key does what the help says, on a dashboard with a recorded stream."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from textual.pilot import Pilot
from textual.widgets import ContentSwitcher, Input

from dynamo_cli.dashboard.app import THEMES, Dashboard
from dynamo_cli.dashboard.events import ConnectionChange, Decided, Lines, State
from dynamo_cli.dashboard.screens.confirm import Confirm
from dynamo_cli.dashboard.screens.detail import Detail
from dynamo_cli.dashboard.screens.help import KEYS, Help
from dynamo_cli.dashboard.source import Source
from dynamo_cli.dashboard.widgets.pane import Pane
from dynamo_cli.dashboard.widgets.tab_bar import TABS
from dynamo_cli.dashboard.widgets.table import Table
from dynamo_cli.watch.load_schema import StageView
from dynamo_cli.watch.logs import LogView
from dynamo_cli.watch.schema import AlarmView
from dynamo_cli.watch.stages import STAGES

from .made import decision
from .pictures import timelines
from .replay import Replay, recorded

Scenario = Callable[["Seen"], Awaitable[None]]


class Seen:
    """A dashboard under test, as a user sees it."""

    def __init__(self, replay: Replay, app: Dashboard, pilot: Pilot[None]) -> None:
        self.replay = replay
        self.app = app
        self.pilot = pilot

    async def press(self, *keys: str) -> None:
        for key in keys:
            await self.pilot.press(key)
            await self.pilot.pause()

    async def hear(self, event: Any) -> None:
        """Apply more events and wait until they are drawn."""
        self.replay.state.apply(event, self.replay.now_s)
        self.app._update()
        await self.pilot.pause()

    @property
    def tab(self) -> str | None:
        return self.app.screen_stack[0].query_one(ContentSwitcher).current

    @property
    def table(self) -> Table[Any]:
        table = self.app._tab.table
        assert table is not None
        return table

    def text(self, pane: str) -> str:
        shown = self.app.screen_stack[0].query_one(pane, Pane)._shown
        return shown.plain if shown is not None else ""

    def rows(self) -> list[str]:
        """Return all rows of the table, also those outside of the visible part."""
        return [self.table._fitted.line(item).plain for item in self.table._rows]

    def screen(self) -> str:
        """Return the screen as text."""
        return "\n".join(strip.text for strip in self.app.screen._compositor.render_strips())


@asynccontextmanager
async def dashboard(
    stream: str = "busy", size: tuple[int, int] = (80, 24), **options: Any
) -> AsyncIterator[Seen]:
    replay = Replay(stream)
    app = Dashboard(replay.state, clock=replay.clock, **options)
    async with app.run_test(size=size) as pilot:
        await pilot.pause()
        yield Seen(replay, app, pilot)


def seeing(scenario: Scenario, stream: str = "busy", **options: Any) -> None:
    async def run() -> None:
        async with dashboard(stream, **options) as seen:
            await scenario(seen)

    asyncio.run(run())


@pytest.mark.parametrize(("key", "name"), list(zip("12345678", TABS, strict=True)))
def test_numbers_open_tabs(key: str, name: str) -> None:
    async def scenario(seen: Seen) -> None:
        await seen.press(key)
        assert seen.tab == name

    seeing(scenario)


def test_a_click_opens_a_tab_and_another_one_marks_a_row() -> None:
    async def scenario(seen: Seen) -> None:
        await seen.pilot.click("TabBar", offset=(28, 0))
        await seen.pilot.pause()
        assert seen.tab == "routing"
        await seen.pilot.click("#decisions-table", offset=(5, 3))
        assert seen.table.current is seen.table._rows[int(seen.table.scroll_offset.y) + 2]
        await seen.pilot.click("#decisions-table", offset=(5, 3), times=2)
        await seen.pilot.pause()
        assert isinstance(seen.app.screen, Detail)

    seeing(scenario)


def test_help_shows_every_key_and_escape_goes_back() -> None:
    async def scenario(seen: Seen) -> None:
        await seen.press("question_mark")
        assert isinstance(seen.app.screen, Help)
        assert all(key in seen.app.screen.copied for key, _ in KEYS)
        await seen.press("escape")
        assert not isinstance(seen.app.screen, Help)

    seeing(scenario)


def test_the_palette_has_the_commands_by_name() -> None:
    async def scenario(seen: Seen) -> None:
        titles = [command.title for command in seen.app.get_system_commands(seen.app.screen)]
        assert titles[:2] == ["Tab: overview", "Tab: workers"]
        await seen.press("ctrl+p", *"tab: cache", "enter")
        for _ in range(20):  # until the command is found
            await seen.pilot.pause(0.1)
            await seen.press("enter")
            if seen.tab == "cache":
                break
        assert seen.tab == "cache"

    seeing(scenario)


def test_a_filter_keeps_rows_with_all_words_until_escape() -> None:
    async def scenario(seen: Seen) -> None:
        await seen.press("3")
        every = seen.rows()
        await seen.press("slash", *"cost worker 1")
        assert seen.app.focused is seen.app.query_one("#filter", Input)
        some = seen.rows()
        assert 0 < len(some) < len(every)
        assert all(" cost " in row for row in some)
        await seen.press("enter")
        assert seen.app.focused is seen.table
        await seen.hear(
            Decided([decision(9001, "late", worker=1), decision(9000, reason="session")])
        )
        assert len(seen.rows()) == len(some) + 1
        await seen.press("escape")
        assert len(seen.rows()) == len(every) + 2

    seeing(scenario)


def test_a_filter_that_nothing_matches_says_so() -> None:
    async def scenario(seen: Seen) -> None:
        await seen.press("3", "slash", *"zzz")
        assert "nothing matches 'zzz'" in seen.screen()

    seeing(scenario)


def test_sorting_goes_through_the_columns_and_rows_stay_where_they_are_put() -> None:
    async def scenario(seen: Seen) -> None:
        await seen.press("2", "greater_than_sign")
        assert "▲" in seen.screen()
        await seen.press("S")
        assert "▼" in seen.screen()
        assert [row.split()[1] for row in seen.rows()] == ["1", "0"]
        await seen.press("3", *(3 * ["less_than_sign"]))  # by the prompt, the longest first
        lengths = [row.decision.prompt_tokens for row in seen.table._rows]
        assert lengths == sorted(lengths, reverse=True)
        order = [row.key for row in seen.table._rows]
        await seen.hear(Decided([decision(9000, "late", prompt_tokens=9)]))
        assert [row.key for row in seen.table._rows] == [*order, "late"]
        await seen.press("s")
        assert [row.key for row in seen.table._rows][-1] == "late"
        assert list(seen.table._rows) == list(seen.table._items)
        assert "▲" not in seen.screen()
        assert len(seen.app._notifications) == 1, "one message at a time"

    seeing(scenario)


def test_a_click_on_a_title_sorts_and_the_next_one_sorts_the_other_way() -> None:
    async def scenario(seen: Seen) -> None:
        await seen.press("3")
        title = seen.table._head().index("prompt")
        for descending in (True, False):
            await seen.pilot.click("#decisions-table", offset=(title, 0))
            await seen.pilot.pause()
            lengths = [row.decision.prompt_tokens for row in seen.table._rows]
            assert lengths == sorted(lengths, reverse=descending)
        order = list(seen.table._rows)
        await seen.pilot.click("#decisions-table", offset=(seen.table._head().index("time"), 0))
        assert list(seen.table._rows) == order, "the time is no column to sort by"

    seeing(scenario)


def test_a_filter_takes_conditions_on_fields_and_explains_wrong_ones() -> None:
    async def scenario(seen: Seen) -> None:
        await seen.press("3", "slash", *"worker:1 prompt>300")
        found = seen.table._rows
        assert 0 < len(found) < len(seen.table._items)
        assert all(row.decision.worker == 1 for row in found)
        assert all(row.decision.prompt_tokens > 300 for row in found)
        await seen.press("escape", "slash", *"prompts>300")
        assert "there is no field 'prompts' here; there are worker" in seen.screen()

    seeing(scenario)


def test_pause_stops_what_is_shown_and_not_what_is_kept() -> None:
    async def scenario(seen: Seen) -> None:
        await seen.press("3", "space")
        assert "‖ paused" in seen.text("#header")
        before = seen.rows()
        await seen.hear(Decided([decision(9000, "late")]))
        assert seen.rows() == before
        await seen.press("space")
        assert len(seen.rows()) == len(before) + 1
        assert "paused" not in seen.text("#header")

    seeing(scenario)


def test_a_list_follows_its_end_until_somebody_moves() -> None:
    async def scenario(seen: Seen) -> None:
        await seen.press("3")
        assert seen.table.current is seen.table._rows[-1]
        await seen.press("up", "up")
        current = seen.table.current
        await seen.hear(Decided([decision(9000, "late")]))
        assert seen.table.current is current
        assert seen.table._rows[-1].key == "late"
        await seen.press("end")
        await seen.hear(Decided([decision(9001, "later")]))
        assert seen.table.current is not None
        assert seen.table.current.key == "later"
        await seen.press("f")
        await seen.hear(Decided([decision(9002, "latest")]))
        assert seen.table.current.key == "later"
        await seen.press("home")
        assert seen.table.current is seen.table._rows[0]
        await seen.press("pagedown", "pageup", "down", "k", "j")
        assert seen.table.current is seen.table._rows[1]

    seeing(scenario)


def test_enter_opens_a_decision_with_costs_session_and_timeline() -> None:
    async def scenario(seen: Seen) -> None:
        first = decision(9000, "first", session="s1")
        await seen.hear(Decided([first]))
        seen.replay.now_s += 60
        await seen.hear(Decided([decision(9001, "second", session="s1", measured_tokens=160)]))
        await seen.press("3", "enter")
        await seen.app.workers.wait_for_complete()
        screen = seen.app.screen
        assert isinstance(screen, Detail)
        for words in (
            *("api-second", "because of cost", "192 tokens predicted, 160 found"),
            *("prefill", "decode", "12", "16"),
            *("first token", "template, tokenizer done", "ended with length, 30 tokens"),
        ):
            assert words in screen.copied, words
        earlier = screen.copied.split("earlier in this session")[1]
        assert earlier.count("→ 0") == 1
        await seen.press("y")
        assert seen.app.clipboard == screen.copied
        await seen.press("escape")
        assert not isinstance(seen.app.screen, Detail)

    seeing(scenario, source=Source(timelines=timelines))


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        (("2", "enter"), "blocks of 32 tokens"),
        (("2", "tab", "enter"), "of the host"),
        (("6", "enter"), "level"),
    ],
)
def test_enter_opens_workers_processes_and_lines(keys: tuple[str, ...], says: str) -> None:
    async def scenario(seen: Seen) -> None:
        await seen.press(*keys)
        assert isinstance(seen.app.screen, Detail)
        assert says in seen.app.screen.copied

    seeing(scenario)


def test_logs_by_level_and_role() -> None:
    def line(number: int, name: str, level: str) -> LogView:
        return LogView(10_000 + number, 0.0, name, level, f"{name} says {level}")

    async def scenario(seen: Seen) -> None:
        said = [
            line(1, "worker 0", "DEBUG"),
            line(2, "router", "WARNING"),
            line(3, "worker 1", "ERROR"),
        ]
        await seen.hear(Lines(said))
        await seen.press("6", "l", "l")
        assert "level WARNING +" in seen.text("#logs-summary")
        assert [row for row in seen.rows() if "says" in row and "DEBUG" in row] == []
        await seen.press("l")
        assert any("worker 1 says ERROR" in row for row in seen.rows())
        assert not any("router says" in row for row in seen.rows())
        await seen.press("l", "r")
        roles = set()
        while "role all" not in seen.text("#logs-summary"):
            names = {row.name.rstrip("0123456789 ") for row in seen.table._rows}
            assert len(names) == 1
            roles |= names
            await seen.press("r")
        assert {"worker", "router"} <= roles
        await seen.press("f")
        assert "not following" in seen.text("#logs-summary")

    seeing(scenario)


def test_zoom_changes_how_far_back_curves_go() -> None:
    async def scenario(seen: Seen) -> None:
        snapshot = seen.app._board.snapshot
        assert snapshot is not None
        for second in range(100, 4000):
            seen.replay.state.apply(msgspec.structs.replace(snapshot, uptime_s=float(second)), 0.0)
        await seen.hear(Lines([]))
        spans = []
        for _ in range(3):
            spans.append(seen.text("#trends").splitlines()[-1].split(" ago")[0])
            await seen.press("z")
        assert spans == ["5m00s", "1h00m", "1m00s"]

    seeing(scenario)


def test_copy_takes_the_row() -> None:
    async def scenario(seen: Seen) -> None:
        await seen.press("3", "y")
        assert seen.app.clipboard == seen.table._rows[-1].decision.request_id

    seeing(scenario)


def test_text_that_the_mouse_has_marked_is_copied() -> None:
    async def scenario(seen: Seen) -> None:
        await seen.press("3")
        await seen.pilot.mouse_down("#decisions-table", offset=(0, 2))
        await seen.pilot.hover("#decisions-table", offset=(8, 2))
        await seen.pilot.mouse_up("#decisions-table", offset=(8, 2))
        await seen.press("y")
        marked = seen.rows()[int(seen.table.scroll_offset.y) + 1]
        assert seen.app.clipboard.strip() == marked[:9].strip()

    seeing(scenario)


def test_themes_go_round() -> None:
    async def scenario(seen: Seen) -> None:
        seen_themes = [seen.app.theme]
        for _ in THEMES:
            await seen.press("t")
            seen_themes.append(seen.app.theme)
        assert seen_themes == [*THEMES, THEMES[0]]

    seeing(scenario)


def test_a_picture_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    async def scenario(seen: Seen) -> None:
        await seen.press("w")
        (file,) = tmp_path.glob("dynamo-llm-*.svg")
        assert "processors" in file.read_text()

    seeing(scenario)


def test_a_picture_that_cannot_be_written_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()

    async def scenario(seen: Seen) -> None:
        await seen.press("w")
        assert any("cannot write" in note.message for note in seen.app._notifications)

    try:
        seeing(scenario)
    finally:
        os.chdir(tmp_path)


@pytest.mark.parametrize("key", ["q", "ctrl+q", "ctrl+c"])
def test_quitting_an_attached_one_just_ends_it(key: str) -> None:
    async def scenario(seen: Seen) -> None:
        await seen.pilot.press(key)
        assert seen.app._exit

    seeing(scenario)


class Stops:
    """Counts how often the server was stopped."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> None:
        self.count += 1


def test_quitting_ones_own_server_asks_when_requests_run() -> None:
    stops = Stops()

    async def scenario(seen: Seen) -> None:
        assert recorded("busy")
        await seen.press("q")
        assert isinstance(seen.app.screen, Confirm)
        await seen.press("n")
        assert (stops.count, isinstance(seen.app.screen, Confirm)) == (0, False)
        await seen.press("q", "y")
        assert stops.count == 1
        await seen.press("ctrl+c")
        assert stops.count == 2

    seeing(scenario, stop=stops)


def test_quitting_ones_own_idle_server_does_not_ask() -> None:
    stops = Stops()

    async def scenario(seen: Seen) -> None:
        await seen.press("q")
        assert stops.count == 1

    seeing(scenario, "empty", stop=stops)


def test_drawing_while_it_goes_down_is_no_failure() -> None:
    async def scenario(seen: Seen) -> None:
        seen.app.set_interval(0.0005, seen.app._draw)

    for _ in range(5):
        seeing(scenario)


def test_a_lost_server_is_told_and_what_was_known_stays() -> None:
    async def scenario(seen: Seen) -> None:
        await seen.hear(
            ConnectionChange(State.LOST, "http://h:1", "no server at http://h:1: refused")
        )
        assert "✗ no connection" in seen.text("#header")
        assert "no server at http://h:1" in seen.text("#attention")
        assert "╭ workers" in seen.text("#picture")

    seeing(scenario)


def test_a_terminal_that_changes_its_size_is_filled() -> None:
    async def scenario(seen: Seen) -> None:
        await seen.press("3")
        narrow = seen.rows()[0]
        await seen.pilot.resize_terminal(140, 40)
        await seen.pilot.pause()
        assert len(seen.rows()[0]) > len(narrow)
        for size in ((40, 10), (20, 5), (1, 1), (80, 24)):
            await seen.pilot.resize_terminal(*size)
            for key in "123456":
                await seen.press(key)

    seeing(scenario)


@pytest.mark.parametrize("tab", ["1", "3"])
def test_nothing_is_drawn_for_the_size_before(tab: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures: list[str] = []

    async def scenario(seen: Seen) -> None:
        await seen.press(tab)
        display = seen.app._display

        def noted(*args: Any) -> None:
            display(*args)
            lines = seen.screen().splitlines()
            pictures.append("\n".join([*lines[:3], *(lines[-8:-2] if tab == "3" else ())]))

        monkeypatch.setattr(seen.app, "_display", noted)
        for width in (140, 60, 100):
            await seen.pilot.resize_terminal(width, 24)
            await seen.pilot.pause()
            new = [one for one in pictures if len(one.partition("\n")[0]) == width]
            assert len(set(new)) == 1

    seeing(scenario)


def test_a_bug_ends_it_without_a_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    async def scenario(seen: Seen) -> None:
        broken = msgspec.structs.replace(decision(1), candidates=None)
        await seen.press("3")
        seen.replay.state.apply(Decided([broken]), 0.0)
        end_s = time.monotonic() + 10
        while seen.app.failure is None and time.monotonic() < end_s:
            await seen.pilot.pause(0.05)  # it is drawn a few times in a second

    with pytest.raises(TypeError):  # textual re-raises it in tests; users see `failure`
        seeing(scenario)
    captured = capsys.readouterr()
    assert "Traceback" not in captured.out + captured.err


@pytest.mark.parametrize("said", [["● nothing needs attention"], ["overload", "a shows all of it"]])
def test_what_needs_attention_is_seen_below_the_largest_picture(said: list[str]) -> None:
    """Of a server with a router, prefill workers and a host cache, in the usual terminal."""

    async def scenario(seen: Seen) -> None:
        known = seen.replay.state.board(seen.replay.now_s).snapshot
        assert known is not None
        stages = [StageView(name, 9, 0.012, 0.138) for name in STAGES]
        alarms = 5 * [AlarmView("overload", "requests wait", "add workers.")] if said[1:] else []
        await seen.hear(msgspec.structs.replace(known, stages=stages, alarms=alarms))
        shown = seen.screen()
        assert all(one in shown for one in ("host cache", "router", *said)), shown

    seeing(scenario, "disaggregated")


def test_a_screen_without_news_is_grey_until_they_come() -> None:
    async def scenario(seen: Seen) -> None:
        def colours(word: str, top: int = 3) -> set[str]:
            """The colours of parts with this word, below the header."""
            strips = seen.app.screen._compositor.render_strips()[top:]
            parts = [part for strip in strips for part in strip if word in part.text]
            return {str(part.style.color) for part in parts if part.style}

        await seen.press("2")
        (green,) = colours("● serving", top=0)
        assert colours("● ready") == {green}
        await seen.hear(ConnectionChange(State.LOST, "http://h:1", "no server"))
        assert colours("● ready").isdisjoint({green})
        await seen.press("1")
        assert colours("● ready").isdisjoint({green})
        assert "✗ what is shown is from" in seen.text("#attention")
        snapshot = seen.replay.state.board(seen.replay.now_s).snapshot
        await seen.hear(ConnectionChange(State.LIVE, "http://h:1"))
        await seen.hear(snapshot)
        assert colours("● ready") == {green}

    seeing(scenario)
