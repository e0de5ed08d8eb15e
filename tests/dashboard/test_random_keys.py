"""Keys that come faster than screens: whatever is pressed, and whenever the dashboard ends, it ends
without an error."""

from __future__ import annotations

import asyncio
import random

import pytest
from textual import events
from textual.command import CommandPalette

from dynamo_cli.dashboard.app import Dashboard
from dynamo_cli.dashboard.events import ConnectionChange, State
from dynamo_cli.dashboard.screens.detail import Detail

from .replay import EIGHT, Replay
from .test_keys import Seen, seeing

KEYS = (
    *"12345678asSfrlzytw/?qynkj<> ",
    *("enter", "escape", "up", "down", "tab", "pageup", "end", "ctrl+p", "q", "y", "a", "enter"),
)
AT_ONCE = 25
"""Keys that are pressed before the dashboard handles the first."""


def typed(app: Dashboard, key: str) -> None:
    """Put a key into the queue of the application, as the terminal's thread does."""
    character = key if len(key) == 1 else None
    app.post_message(events.Key("space" if key == " " else key, character))


async def press(batches: list[list[str]], *, asks: bool) -> None:
    """Press several keys at once, again and again, until the dashboard has ended.

    Args:
        asks: whether quitting asks first, as for a server of one's own.
    """
    replay = Replay("busy")
    stop = (lambda: asyncio.get_running_loop().call_soon(app.exit)) if asks else None
    app = Dashboard(replay.state, clock=replay.clock, stop=stop)  # type: ignore[arg-type]
    app.save_screenshot = lambda *_, **__: "here"  # type: ignore[method-assign, assignment]
    async with app.run_test(size=(80, 24)) as pilot:
        for number, batch in enumerate(batches):
            for key in batch:
                typed(app, key)
            replay.state.apply(ConnectionChange(State.LIVE, "http://a"), replay.now_s)
            if not app.is_running:
                break
            await pilot.resize_terminal(60 + 20 * number, 20 + number)
        for key in ("a", "?", "enter"):
            typed(app, key)
        app.exit()


@pytest.mark.parametrize(
    ("keys", "value", "focus"),
    [
        (["3", "slash", *"cost"], "cost", "filter"),
        (["3", "slash", *"cost", "enter", "j", "j"], "cost", "decisions-table"),
        (["3", "slash", *"cost", "enter", "slash", "z"], "z", "filter"),
        (["3", "slash", *"cost", "escape", "slash", "z"], "z", "filter"),
        (["3", "slash", *"zx", "backspace", *"12"], "z12", "filter"),
        (["3", "?", "escape", "slash", "a"], "a", "filter"),
        (["2", "3", "j", "slash", "/"], "/", "filter"),
        (["3", "enter", "escape", "slash", "enter"], "", "decisions-table"),
    ],
)
def test_keys_that_come_at_once_do_what_they_do_one_after_the_other(
    keys: list[str], value: str, focus: str
) -> None:
    async def scenario(seen: Seen) -> None:
        for key in keys:
            typed(seen.app, key)
        await seen.pilot.pause()
        line = seen.app._line
        assert line.value == value
        assert line.is_open is bool(value)
        assert seen.table.filtered == value
        focused = seen.app.focused
        assert focused is not None
        assert focused.id == focus
        assert seen.tab == "routing"
        assert seen.app.screen is seen.app._main

    seeing(scenario)


@pytest.mark.parametrize("seed", range(4))
def test_no_keys_break_it(seed: int) -> None:
    dice = random.Random(seed)
    batches = [dice.choices(KEYS, k=dice.randint(1, AT_ONCE)) for _ in range(4)]
    asyncio.run(press(batches, asks=bool(seed % 2)))


def test_tables_with_and_without_columns_to_sort_by_take_the_same_keys() -> None:
    async def scenario(seen: Seen) -> None:
        for tab in "12345678":
            await seen.press(tab, "<", ">", "S", "s", "f", "y", "up", "enter", "escape")
        assert seen.app.failure is None

    seeing(scenario, stream=EIGHT)


@pytest.mark.parametrize("stream", ["busy", EIGHT])
def test_each_row_can_be_opened(stream: str) -> None:
    async def scenario(seen: Seen) -> None:
        opened = 0
        for tab in "237":
            await seen.press(tab, "end")
            for _ in range(6):
                await seen.press("enter")
                opened += isinstance(seen.app.screen, Detail)
                await seen.press("escape", "up")
        assert opened >= 8

    seeing(scenario, stream=stream)


@pytest.mark.parametrize("keys", ["qya", "qyy", "a?qqy"])
def test_keys_while_it_quits_break_nothing(keys: str) -> None:
    asyncio.run(press([list(keys)], asks=True))


def test_the_commands_can_be_opened_while_they_close() -> None:
    async def scenario(seen: Seen) -> None:
        for _ in range(5):
            await seen.press("ctrl+p")
            closing = seen.app.screen
            assert isinstance(closing, CommandPalette)
            closing._action_escape()
            seen.app.action_command_palette()
            assert seen.app.screen is not closing
            await seen.press("escape")

    seeing(scenario)
