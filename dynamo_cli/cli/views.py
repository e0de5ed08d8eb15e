"""What people see of a run before the dashboard: plain lines, or a live table of the start."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import TextIO

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from dynamo_cli.messages import Phase, ProcessState

OWN_NAME = "dynamo-llm"
SECOND_NS = 1_000_000_000
REFRESH_PER_S = 4
STYLES = {"ERROR": "bold red", "CRITICAL": "bold red", "WARNING": "yellow"}
GLYPHS = {Phase.READY: "●", Phase.FAILED: "✗", Phase.BACKOFF: "↻", Phase.STOPPED: "■"}
BUSY_GLYPH = "○"


def line(name: str, level: str, text: str) -> str:
    """``2026-01-31 12:00:00 INFO     worker 0     text``."""
    return f"{time.strftime('%Y-%m-%d %H:%M:%S')} {level:<8} {name:<12} {text}"


class PlainView:
    """One line for everything: for logs, pipes and people who like it quiet.

    Args:
        log_level: of the engines' log; warnings of ours are shown in any case.
    """

    def __init__(self, out: TextIO, log_level: str = "WARNING") -> None:
        self._out = out
        self._log_level = log_level
        self._phases: dict[str, str] = {}

    def processes(self, table: Sequence[ProcessState]) -> None:
        for state in table:
            if self._phases.get(state.name) != state.phase:
                self._phases[state.name] = state.phase
                self._print(state.name, "INFO", _phase_and_reason(state))

    def log(self, name: str, level: str, text: str) -> None:
        if _is_shown(level, self._log_level):
            self._print(name, level, text)

    def serving(self, url: str, curl: str) -> None:
        self.notice("INFO", f"serving on {url}")
        self.notice("INFO", f"try: {curl}")

    def notice(self, level: str, text: str) -> None:
        self._print(OWN_NAME, level, text)

    def close(self) -> None:
        """Nothing is held."""

    def _print(self, name: str, level: str, text: str) -> None:
        self._out.write(line(name, level, text) + "\n")
        self._out.flush()


class NullView:
    """Errors only."""

    def __init__(self, out: TextIO) -> None:
        self._plain = PlainView(out)

    def processes(self, table: Sequence[ProcessState]) -> None: ...

    def log(self, name: str, level: str, text: str) -> None:
        if _number(level) >= logging.ERROR:
            self._plain.log(name, level, text)

    def serving(self, url: str, curl: str) -> None: ...

    def notice(self, level: str, text: str) -> None:
        self.log(OWN_NAME, level, text)

    def close(self) -> None: ...


class LiveView:
    """A table of all processes while they start, then one line with the URL, then plain lines.

    Args:
        log_level: as `PlainView` has it; lines appear above the table.
    """

    def __init__(self, console: Console, log_level: str = "WARNING") -> None:
        self._console = console
        self._log_level = log_level
        self._table: Sequence[ProcessState] = ()
        self._live: Live | None = None
        self._began_ns = time.monotonic_ns()

    def processes(self, table: Sequence[ProcessState]) -> None:
        self._table = table
        if self._live is None and not self._started(table):
            self._live = Live(
                console=self._console,
                get_renderable=self.render,
                refresh_per_second=REFRESH_PER_S,
                transient=True,
            )
            self._live.start()
        elif self._live is not None and self._started(table):
            self._end_live()

    def log(self, name: str, level: str, text: str) -> None:
        if _is_shown(level, self._log_level):
            self._print(name, level, text)

    def serving(self, url: str, curl: str) -> None:
        self._end_live()
        seconds = (time.monotonic_ns() - self._began_ns) / SECOND_NS
        self._console.print(f"[green]●[/] ready in {seconds:.1f} s on [b]{url}[/]", highlight=False)
        self._console.print(curl, highlight=False, markup=False, soft_wrap=True)

    def notice(self, level: str, text: str) -> None:
        self._print(OWN_NAME, level, text)

    def close(self) -> None:
        self._end_live()

    def render(self) -> Table:
        """The table as of now."""
        now = time.monotonic_ns()
        grid = Table(box=None, pad_edge=False, header_style="dim", expand=True)
        grid.add_column("process", no_wrap=True)
        grid.add_column("phase", no_wrap=True)
        grid.add_column("seconds", justify="right", no_wrap=True)
        grid.add_column("device", no_wrap=True)
        grid.add_column("", overflow="ellipsis", no_wrap=True, ratio=1)
        for state in self._table:
            grid.add_row(
                state.name,
                Text(f"{GLYPHS.get(Phase(state.phase), BUSY_GLYPH)} {state.phase}", _style(state)),
                f"{_busy_ns(state, now) / SECOND_NS:.1f}",
                state.device,
                Text(state.reason, "dim"),
            )
        return grid

    @staticmethod
    def _started(table: Sequence[ProcessState]) -> bool:
        return all(state.phase == Phase.READY for state in table)

    def _end_live(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _print(self, name: str, level: str, text: str) -> None:
        self._console.print(
            Text(line(name, level, text), STYLES.get(level, "")), highlight=False, soft_wrap=True
        )


def _phase_and_reason(state: ProcessState) -> str:
    return f"{state.phase} ({state.reason})" if state.reason else state.phase


def _style(state: ProcessState) -> str:
    if state.phase == Phase.READY:
        return "green"
    return "red" if state.phase in (Phase.FAILED, Phase.BACKOFF) else "yellow"


def _busy_ns(state: ProcessState, now_ns: int) -> int:
    """How long the start took, or takes already."""
    return (state.since_ns if state.phase == Phase.READY else now_ns) - state.started_ns


def _is_shown(level: str, log_level: str) -> bool:
    return _number(level) >= min(logging.WARNING, _number(log_level))


def _number(level: str) -> int:
    return logging.getLevelNamesMapping().get(level, logging.INFO)
