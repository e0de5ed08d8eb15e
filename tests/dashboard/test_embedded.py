"""The dashboard of a server in the same process: which lines are printed, and when."""

from __future__ import annotations

import asyncio
import io
import os
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from dynamo_cli.cli import terminal
from dynamo_cli.cli.launch import wants_dashboard
from dynamo_cli.cli.terminal import is_interactive
from dynamo_cli.cli.views import PlainView
from dynamo_cli.dashboard import embedded
from dynamo_cli.dashboard.embedded import Embedded
from dynamo_cli.errors import ChildFailed, UsageError
from dynamo_cli.messages.lifecycle import Phase
from dynamo_cli.topology import FRONTEND, ProcessId, Role

from .made import state

WORKER = ProcessId(Role.WORKER, 0)

Serving = Callable[[Embedded], Coroutine[Any, Any, int]]


def serve(serving: Serving, out: io.StringIO | None = None) -> tuple[int, str]:
    """Run a server with its dashboard; return the exit code and the plain lines.

    Args:
        serving: the server.
        out: where plain lines go, for tests in which the server fails.
    """
    out = out or io.StringIO()

    async def run() -> int:
        view = Embedded(PlainView(out))
        screenless = view._app.run_async
        view._app.run_async = lambda: screenless(headless=True, size=(80, 24))  # type: ignore[method-assign]
        return await view.beside(serving(view))

    code = asyncio.run(run())
    return code, out.getvalue()


async def shown(view: Embedded) -> None:
    """Wait until the dashboard has drawn its widgets."""
    app, drawn = view._app, asyncio.Event()
    while not (app.is_running and app.screen_stack and app.screen_stack[0].query("#filter")):
        await asyncio.sleep(0.01)
    app.screen_stack[0].call_after_refresh(drawn.set)
    await drawn.wait()


async def closed(view: Embedded) -> None:
    """Wait until the dashboard has given the terminal back."""
    while view._open:
        await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("ui", "in_terminal", "wanted"),
    [
        *(("auto", True, True), ("auto", False, False), ("dashboard", True, True)),
        *(("plain", True, False), ("none", True, False)),
    ],
)
def test_when_there_is_a_dashboard(ui: str, in_terminal: bool, wanted: bool) -> None:
    assert wants_dashboard(ui, in_terminal, as_json=False) is wanted
    assert not wants_dashboard("auto", in_terminal, as_json=True)


class Tty(io.StringIO):
    def isatty(self) -> bool:
        return True

    def fileno(self) -> int:
        return 0


@pytest.mark.parametrize(
    ("piped", "group_in_front", "term", "interactive"),
    [
        *(("", 0, "xterm", True), ("", 1, "xterm", False), ("", 0, "dumb", False)),
        *(("stdin", 0, "xterm", False), ("stdout", 0, "xterm", False)),
        ("stderr", 0, "xterm", False),
    ],
)
def test_pipes_jobs_in_the_background_and_dumb_terminals_get_no_dashboard(
    piped: str, group_in_front: int, term: str, interactive: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(sys, name, io.StringIO() if name == piped else Tty())
    monkeypatch.setattr(os, "tcgetpgrp", lambda _: os.getpgrp() + group_in_front)
    monkeypatch.setenv("TERM", term)
    found = is_interactive()
    monkeypatch.undo()
    assert found is interactive


def test_a_terminal_that_controls_no_jobs_will_do() -> None:
    ours, theirs = os.openpty()
    assert terminal._in_front(theirs)
    os.close(ours)
    os.close(theirs)


def test_a_dashboard_needs_a_terminal() -> None:
    with pytest.raises(UsageError, match="--ui plain needs none"):
        wants_dashboard("dashboard", False, as_json=False)


def test_phases_show_before_any_frontend_answers() -> None:
    async def serving(view: Embedded) -> int:
        view.processes([state(FRONTEND, Phase.STARTING), state(WORKER, Phase.LOADING)])
        await shown(view)
        view._app._update()
        board = view._app._board
        assert [process.phase for process in board.processes] == ["starting", "loading weights"]
        assert board.starting
        view.ending()
        return 7

    assert serve(serving) == (7, "")


def test_what_belongs_to_the_end_is_said_after_it_and_the_rest_is_not() -> None:
    async def serving(view: Embedded) -> int:
        view.serving("http://x", "curl")
        view._said.append((0.0, lambda: view._plain.notice("WARNING", "long ago")))
        view.notice("ERROR", "worker 0 died")
        view.log("worker 0", "INFO", "too quiet to be shown")
        await shown(view)
        view.ending()
        view.notice("INFO", "for running requests")
        await closed(view)
        view.notice("WARNING", "stopping at once")
        return 0

    code, said = serve(serving)
    assert code == 0
    words = ["worker 0 died", "for running requests", "stopping at once"]
    assert [line.partition("dynamo-llm   ")[2] for line in said.splitlines()] == words


def test_a_start_that_fails_tells_all_of_it_and_the_failure_passes() -> None:
    async def serving(view: Embedded) -> int:
        view._said.append((0.0, lambda: view._plain.notice("WARNING", "a while ago")))
        await shown(view)
        view.notice("ERROR", "worker 0 ended while it started")
        view.ending()
        raise ChildFailed("its log is above")

    out = io.StringIO()
    with pytest.raises(ChildFailed):
        serve(serving, out)
    words = ["a while ago", "worker 0 ended while it started"]
    assert [line.partition("dynamo-llm   ")[2] for line in out.getvalue().splitlines()] == words


def test_a_dashboard_that_fails_does_not_end_the_server() -> None:
    async def serving(view: Embedded) -> int:
        await shown(view)
        view._app.call_later(lambda: 1 / 0)
        await closed(view)
        view.notice("INFO", "still here")
        return 0

    code, said = serve(serving)
    assert code == 0
    assert "the dashboard failed (ZeroDivisionError: division by zero at test_embedded.py:" in said
    assert said.splitlines()[-1].endswith("still here")
    assert "Traceback" not in said


@pytest.mark.parametrize("end", ["exit", "cancel", "panic"])
def test_however_a_dashboard_ends_plain_lines_go_on_and_say_so(end: str) -> None:
    async def serving(view: Embedded) -> int:
        await shown(view)
        view.notice("WARNING", "said before")
        match end:
            case "exit":
                view._app.exit()
            case "cancel":
                for task in asyncio.all_tasks() - {asyncio.current_task()}:
                    task.cancel()
            case "panic":
                view._app.panic("what a terminal does not like")
        await closed(view)
        view.notice("INFO", "still here")
        return 0

    code, said = serve(serving)
    assert code == 0
    lines = said.splitlines()
    assert lines[0].endswith("said before")
    assert any("the dashboard has ended; serving goes on" in line for line in lines)
    assert lines[-1].endswith("still here")


def test_it_finds_the_frontend_at_an_address_that_means_all() -> None:
    assert embedded._here("http://0.0.0.0:8181") == "http://127.0.0.1:8181"
    assert embedded._here("http://[::]:8181") == "http://[::1]:8181"
