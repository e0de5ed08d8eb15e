"""What people see of a run without a dashboard: plain lines, or errors only."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from typing import TextIO

from dynamo_cli.messages import ProcessState

OWN_NAME = "dynamo-llm"


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
        if is_shown(level, self._log_level):
            self._print(name, level, text)

    def serving(self, url: str, curl: str) -> None:
        self.notice("INFO", f"serving on {url}")
        self.notice("INFO", f"try: {curl}")

    def notice(self, level: str, text: str) -> None:
        self._print(OWN_NAME, level, text)

    def ending(self) -> None:
        """All was said when it happened."""

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

    def ending(self) -> None: ...

    def close(self) -> None: ...


def _phase_and_reason(state: ProcessState) -> str:
    return f"{state.phase} ({state.reason})" if state.reason else state.phase


def is_shown(level: str, log_level: str) -> bool:
    """Warnings are in any case, whatever was asked of the engines."""
    return _number(level) >= min(logging.WARNING, _number(log_level))


def _number(level: str) -> int:
    return logging.getLevelNamesMapping().get(level, logging.INFO)
