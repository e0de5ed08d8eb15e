"""The dashboard application: header, tabs and keys. It draws at most four times a second."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from rich.text import Text
from textual import events
from textual.app import App, ComposeResult, SystemCommand
from textual.command import CommandPalette
from textual.driver import Driver
from textual.drivers.linux_driver import LinuxDriver
from textual.screen import Screen
from textual.widgets import ContentSwitcher, Input

from dynamo_cli.dashboard.asker import Asker
from dynamo_cli.dashboard.draw import overview
from dynamo_cli.dashboard.draw.palette import ON_DARK, ON_LIGHT
from dynamo_cli.dashboard.draw.trends import SPANS_S
from dynamo_cli.dashboard.driver import SteadyDriver
from dynamo_cli.dashboard.keys import BINDINGS
from dynamo_cli.dashboard.model import Board, BoardState
from dynamo_cli.dashboard.screens.confirm import Confirm
from dynamo_cli.dashboard.screens.detail import Detail
from dynamo_cli.dashboard.screens.help import Help
from dynamo_cli.dashboard.screens.opened import Opener
from dynamo_cli.dashboard.source import NO_SOURCE, Follow, Source
from dynamo_cli.dashboard.widgets.cache import CacheTab
from dynamo_cli.dashboard.widgets.filter_line import FilterLine
from dynamo_cli.dashboard.widgets.key_bar import KeyBar
from dynamo_cli.dashboard.widgets.logs import LogsTab
from dynamo_cli.dashboard.widgets.overview import OverviewTab
from dynamo_cli.dashboard.widgets.pane import Pane
from dynamo_cli.dashboard.widgets.prefill import PrefillTab
from dynamo_cli.dashboard.widgets.replay import ReplayTab
from dynamo_cli.dashboard.widgets.requests import RequestsTab
from dynamo_cli.dashboard.widgets.routing import RoutingTab
from dynamo_cli.dashboard.widgets.tab import Tab
from dynamo_cli.dashboard.widgets.tab_bar import TABS, TabBar
from dynamo_cli.dashboard.widgets.table import Table
from dynamo_cli.dashboard.widgets.workers import WorkersTab
from dynamo_cli.host import oserrors

FOLDER = Path(__file__).parent
UPDATE_INTERVAL_S, REQUESTS_INTERVAL_S = 0.25, 1.0
THEMES = ("textual-dark", "textual-light", "nord", "gruvbox", "atom-one-light", "dracula")


class Dashboard(App[None]):
    """The dashboard of one server.

    Args:
        state: what is known of the server; others may apply events to it too.
        source: asks the server.
        stop: stops the server; None if quitting must leave the server alone.
        clock: seconds since 1970.

    Attributes:
        failure: the exception that ended the dashboard; None if it was quit.
    """

    CSS_PATH = [str(path.relative_to(FOLDER)) for path in sorted(FOLDER.rglob("*.tcss"))]
    TITLE = "dynamo-llm"
    BINDINGS = BINDINGS

    def __init__(
        self,
        state: BoardState,
        *,
        source: Source = NO_SOURCE,
        stop: Callable[[], None] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__()
        self.ansi_theme_dark, self.ansi_theme_light = ON_DARK, ON_LIGHT
        self.animation_level = "none"
        self.failure: Exception | None = None
        self._state = state
        self._source = source
        self._opener = Opener(self, source.timelines)
        self._asker = Asker(self, state, source, clock)
        self._stop = stop
        self._clock = clock
        self._drawn = (-1, False)
        self._board = state.board(clock())
        self._paused = self._ending = False
        self._span = 1

    # -- drawing -----------------------------------------------------------------------------

    def compose(self) -> ComposeResult:
        """Create the widgets."""
        yield Pane(self._header, id="header", dims=False)
        yield TabBar()
        with ContentSwitcher(initial=TABS[0]):
            yield OverviewTab(self._span_s)
            yield WorkersTab()
            yield RoutingTab()
            yield CacheTab(self._span_s)
            yield PrefillTab(self._span_s)
            yield LogsTab()
            yield RequestsTab()
            yield ReplayTab()
        yield FilterLine()
        yield KeyBar()

    def on_mount(self) -> None:
        """Start drawing and listening."""
        self.set_interval(UPDATE_INTERVAL_S, self._update)
        self.set_interval(REQUESTS_INTERVAL_S, self._ask_for_requests)
        if self._source.follow is not None:
            self.run_worker(self._listen(self._source.follow), exit_on_error=True)
        self.action_open_tab(TABS[0])

    async def _listen(self, follow: Follow) -> None:
        async for event in follow():
            self._state.apply(event, self._clock())

    def _update(self) -> None:
        """Draw the board if anything is new."""
        new = (self._state.version, self._state.stale(self._clock()))
        if new != self._drawn and not self._paused:
            self._drawn = new
            self._board = self._state.board(self._clock())
            self._draw()

    def _draw(self) -> None:
        if self._ending or not self.is_running:  # timers still fire while widgets are removed
            return
        self._main.query_one("#header", Pane).show(self._board)
        self._tab.show(self._board)
        self._opener.refresh(self._board)

    def on_resize(self) -> None:
        """Draw for the new size."""
        self.call_after_refresh(self._draw)

    def _header(self, board: Board, width: int, _: int) -> Text:
        return overview.header(board, width, paused=self._paused)

    def _span_s(self) -> int:
        return SPANS_S[self._span]

    @property
    def _main(self) -> Screen[Any]:
        return self.screen_stack[0]

    @property
    def _tab(self) -> Tab:
        switcher = self._main.query_one(ContentSwitcher)
        return self._main.query_one(f"#{switcher.current}", Tab)

    # -- keys --------------------------------------------------------------------------------

    async def on_event(self, event: events.Event) -> None:
        """Do what a key says before the next key is looked at, whose widget may depend on that.

        Textual passes a key from widget to widget until one has an action for it. Meanwhile it
        gives the next keys to the widget that has the focus now.
        """
        if isinstance(event, events.Key) and not event.is_forwarded and await self._done(event):
            self.app_focus = True
            return
        await super().on_event(event)

    async def _done(self, key: events.Key) -> bool:
        """Do what a key says; False leaves it to Textual."""
        if isinstance(self.focused, FilterLine):
            if key.is_printable and key.character is not None:
                self.focused.write(key.character)
                return True
        elif isinstance(self.focused, Input):
            return False
        for priority in (True, False):
            if await self._check_bindings(key.key, priority=priority):
                return True
        return False

    def action_open_tab(self, name: str) -> None:
        """Open a tab and focus its table."""
        self._main.query_one(ContentSwitcher).current = name
        self._main.query_one(TabBar).show(name)
        self._main.set_focus(self._tab.table)
        self._line.close()
        self._ask_for_requests()
        self.call_after_refresh(self._draw)

    def action_help(self) -> None:
        """Show all keys."""
        self.push_screen(Help())

    def action_alarms(self) -> None:
        """Show all alarms in full."""
        self.push_screen(Detail("what needs attention", overview.attention(self._board)))

    def action_pause(self) -> None:
        """Stop showing new data, or show it again; data is collected all the time."""
        self._paused = not self._paused
        self._draw()
        if not self._paused:
            self._update()

    def action_zoom(self) -> None:
        """Draw curves over the next longer time span."""
        self._span = (self._span + 1) % len(SPANS_S)
        self._draw()

    def action_sort(self, step: int) -> None:
        """Sort the table by its next column, or by the one before."""
        if (table := self._table()) is not None:
            table.sort_beside(step)
            self.notify(f"sorted {table.order}", timeout=2)

    def action_sort_reset(self) -> None:
        """Show the rows in the order in which they came."""
        if (table := self._table()) is not None:
            table.sort_reset()
            self.notify(f"sorted {table.order}", timeout=2)

    def action_reverse(self) -> None:
        """Reverse the sort order."""
        if (table := self._table()) is not None:
            table.sort_reversed()

    def action_follow(self) -> None:
        """Follow the end of the table, or stop following it."""
        if (table := self._table()) is not None:
            table.toggle_follow()
            self._draw()

    def action_log_level(self) -> None:
        """Show only log lines of the next level and above."""
        if isinstance(self._tab, LogsTab):
            self._tab.next_level()

    def action_copy(self) -> None:
        """Copy the selected text, else the open details, else the row with the cursor."""
        text = self.screen.get_selected_text() or ""
        if not text and isinstance(self.screen, Detail):
            text = self.screen.copied
        elif not text and (table := self._tab.table) is not None:
            text = table.copied()
        if text:
            self.copy_to_clipboard(text)
            self.notify("copied", timeout=2)

    def action_next_theme(self) -> None:
        """Switch to the next theme."""
        place = THEMES.index(self.theme) if self.theme in THEMES else -1
        self.theme = THEMES[(place + 1) % len(THEMES)]

    def action_write_picture(self) -> None:
        """Write the screen to an SVG file, or let a browser download it."""
        name = time.strftime("dynamo-llm-%Y%m%d-%H%M%S.svg", time.localtime(self._clock()))
        if self.is_web:
            self.deliver_screenshot(name)
            return
        try:
            self.notify(f"written: {self.save_screenshot(name, '.')}")
        except OSError as error:
            self.notify(f"cannot write {name} here: {oserrors.reason(error)}", severity="error")

    def action_leave(self) -> None:
        """Quit. If that stops the server while requests are running, ask first."""
        running = self._board.snapshot.traffic.in_flight if self._board.snapshot else 0
        if self._stop is None or not running:
            self.action_interrupt()
            return
        some = "A request is" if running == 1 else f"{running} requests are"
        self.push_screen(Confirm(f"{some} running. Quitting stops the server."), self._answered)

    def exit(self, *result: Any, **how: Any) -> None:
        """End the dashboard; from now on keys do nothing, since widgets are being removed."""
        self._ending = True
        super().exit(*result, **how)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Return whether a key may do something now."""
        return not self._ending and super().check_action(action, parameters)

    def action_interrupt(self) -> None:
        """Do what Ctrl-C does without a dashboard: stop the server, or leave it if it is
        attached."""
        if self._stop is None:
            self.exit()
        else:
            self._stop()

    def _answered(self, yes: bool | None) -> None:
        if yes:
            self.action_interrupt()

    # -- filter ------------------------------------------------------------------------------

    @property
    def _line(self) -> FilterLine:
        return self._main.query_one(FilterLine)

    def action_filter(self) -> None:
        """Open the filter line."""
        if self._table() is not None:
            self._line.open()
            self._main.set_focus(self._line)

    def action_show_all(self) -> None:
        """Remove the filter."""
        self._line.close()
        if (table := self._tab.table) is not None:
            table.filter("")
            self._main.set_focus(table)

    def on_input_changed(self, event: Input.Changed) -> None:
        """Filter while words are typed."""
        if self._line.is_open and (table := self._tab.table) is not None:
            table.filter(event.value)

    def action_keep_filter(self) -> None:
        """Keep the filter and go back to the table."""
        self._main.set_focus(self._tab.table)
        if not self._line.value:
            self._line.close()

    def _table(self) -> Table[Any] | None:
        if (table := self._tab.table) is None:
            self.notify("there is no table in this tab", severity="warning", timeout=2)
        return table

    # -- details -----------------------------------------------------------------------------

    def on_table_opened(self, message: Table.Opened) -> None:
        """Show the details of a row."""
        self._opener.open(message.item, self._board)

    def on_table_sorted(self, message: Table.Sorted) -> None:
        """Say how a table is sorted after a click on a title."""
        self.notify(f"sorted {message.table.order}", timeout=2)

    def action_details(self) -> None:
        """Show the details of the row with the cursor."""
        if (table := self._table()) is not None:
            table.action_open()

    # -- requests and replay -----------------------------------------------------------------

    def _ask_for_requests(self) -> None:
        """Ask for new requests while their tab is open."""
        if not self._ending and self.is_running and isinstance(self._tab, RequestsTab):
            self._asker.ask_for_requests()

    def action_role_or_replay(self) -> None:
        """Logs: show only lines of the next role. Replay: start a replay, or stop it."""
        if isinstance(self._tab, LogsTab):
            self._tab.next_role()
        elif isinstance(self._tab, ReplayTab):
            self._asker.replay_or_stop(self._board)
            self._update()

    # -- the app itself ----------------------------------------------------------------------

    def get_system_commands(self, screen: Screen[Any]) -> Iterable[SystemCommand]:
        """Return the commands of the command palette."""
        for name in TABS:
            yield SystemCommand(
                f"Tab: {name}", f"open {name}", lambda n=name: self.action_open_tab(n)
            )
        yield SystemCommand("Pause", "stop or go on showing what is new", self.action_pause)
        yield SystemCommand("Alarms", "all of them in full", self.action_alarms)
        yield SystemCommand("Zoom", "curves over 1 minute, 5 minutes, 1 hour", self.action_zoom)
        yield SystemCommand("Theme", "choose colours", self.search_themes)
        yield SystemCommand("Picture", "write the screen to an SVG file", self.action_write_picture)
        yield SystemCommand("Help", "all keys", self.action_help)
        yield SystemCommand("Quit", "leave the dashboard", self.action_leave)

    def action_command_palette(self) -> None:
        """Open the list of commands. It has no id, unlike Textual's, so that it can be opened while
        another one closes."""
        if not isinstance(self.screen, CommandPalette):
            self.push_screen(CommandPalette())

    def notify(self, message: str, **options: Any) -> None:
        """Show a message instead of the one before, so that there is one at a time."""
        self.clear_notifications()
        super().notify(message, **options)

    def get_driver_class(self) -> type[Driver]:
        """Return the driver: `SteadyDriver` for a terminal, textual's own for a page of
        ``--web``."""
        found = super().get_driver_class()
        return SteadyDriver if found is LinuxDriver else found

    def _handle_exception(self, error: Exception) -> None:
        """End the dashboard without a traceback; the caller reports `failure` on one line."""
        self.failure = error
        super()._handle_exception(error)
        self._exit_renderables.clear()
