"""Shows a run without a dashboard: as plain lines, as JSON lines, or errors only."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, TextIO

from dynamo_cli.cli.forms import LineForm, line
from dynamo_cli.host.outlet import Outlet
from dynamo_cli.host.rotation import RotatedFile
from dynamo_cli.messages.lifecycle import Phase, ProcessState
from dynamo_cli.supervisor.view import OWN_NAME, View

ACCESS = "request"
"""The text of an access log line; its fields describe the request."""


class Out(Protocol):
    """Takes text; never blocks and never raises.

    Attributes:
        lost: how many pieces of text were not written.
    """

    lost: int

    def write(self, text: str, /) -> None:
        """Write a piece of text soon."""


def outlet(stream: TextIO, form: LineForm = line) -> Outlet:
    """An outlet for lines of this form, which reports lost lines in the same form."""
    return Outlet(stream, lambda missing: _warning(form, _missing(missing)))


def log_file(path: Path, form: LineForm, limit_bytes: int) -> RotatedFile:
    """A log file for lines of this form, which is rotated when it gets larger than that.

    Raises:
        OSError: it cannot be opened for writing.
    """
    return RotatedFile(
        path,
        lambda missing: _warning(form, _missing(missing)),
        lambda error: _warning(form, f"this file cannot be rotated, and grows: {error}"),
        limit_bytes,
    )


def _warning(form: LineForm, text: str) -> str:
    return form(OWN_NAME, "WARNING", text, "{}") + "\n"


def _missing(count: int) -> str:
    lines = "a line of this log is" if count == 1 else f"{count} lines of this log are"
    return f"{lines} missing here: nobody read it, or it could not be written"


class PlainView:
    """A `View` that writes one line for everything, for logs, pipes and terminals.

    Args:
        log_level: lowest level of all lines; None means INFO, but WARNING for lines of children.
        form: makes a line.
    """

    def __init__(self, out: Out, log_level: str | None = None, form: LineForm = line) -> None:
        self._out = out
        self._level = _number(log_level or "INFO")
        self._log_level = _number(log_level or "WARNING")
        self._form = form
        self._phases: dict[str, str] = {}

    def processes(self, table: Sequence[ProcessState]) -> None:
        """Write a line for each process that has changed its phase, but for one that has died: the
        supervisor writes a line about that itself."""
        for state in table:
            if self._phases.get(state.name) != state.phase:
                self._phases[state.name] = state.phase
                if state.phase != Phase.BACKOFF:
                    self._say(state.name, "INFO", _phase_and_reason(state))

    def log(self, name: str, level: str, text: str) -> None:
        """Write a line of a child's log, if its level is high enough."""
        if _number(level) >= self._log_level:
            self._print(name, level, text)

    def access(self, name: str, fields: str) -> None:
        """Write the access log line of an answer."""
        self._say(name, "INFO", ACCESS, fields)

    def serving(self, url: str, curl: str) -> None:
        """Write the address of the server, and a command to try."""
        self.notice("INFO", f"serving on {url}")
        self.notice("INFO", f"try: {curl}")

    def notice(self, level: str, text: str) -> None:
        """Write a line of the supervisor itself."""
        self._say(OWN_NAME, level, text)

    def ending(self) -> None:
        """Does nothing: every line was written when it came."""

    @property
    def lost_lines(self) -> int:
        """How many lines could not be written."""
        return self._out.lost

    def _say(self, name: str, level: str, text: str, fields: str = "{}") -> None:
        if _number(level) >= self._level:
            self._print(name, level, text, fields)

    def _print(self, name: str, level: str, text: str, fields: str = "{}") -> None:
        # Words of a command line may contain bytes that are not text.
        text = text.encode(errors="replace").decode()
        self._out.write(self._form(name, level, text, fields) + "\n")


class NullView(PlainView):
    """A `View` that writes errors only."""

    def __init__(self, out: Out, form: LineForm = line) -> None:
        super().__init__(out, "ERROR", form)


class Views:
    """A `View` that shows everything in several other ones, such as a terminal and a log file."""

    def __init__(self, *views: View) -> None:
        self._views = views

    def processes(self, table: Sequence[ProcessState]) -> None:
        """See `View`, as for all methods."""
        for view in self._views:
            view.processes(table)

    def log(self, name: str, level: str, text: str) -> None:
        """See `View`."""
        for view in self._views:
            view.log(name, level, text)

    def access(self, name: str, fields: str) -> None:
        """See `View`."""
        for view in self._views:
            view.access(name, fields)

    def serving(self, url: str, curl: str) -> None:
        """See `View`."""
        for view in self._views:
            view.serving(url, curl)

    def notice(self, level: str, text: str) -> None:
        """See `View`."""
        for view in self._views:
            view.notice(level, text)

    def ending(self) -> None:
        """See `View`."""
        for view in self._views:
            view.ending()

    @property
    def lost_lines(self) -> int:
        """How many lines could not be written, in all together."""
        return sum(view.lost_lines for view in self._views)


def _phase_and_reason(state: ProcessState) -> str:
    return f"{state.phase} ({state.reason})" if state.reason else state.phase


def _number(level: str) -> int:
    return logging.getLevelNamesMapping().get(level.upper(), logging.INFO)
