"""Shows a run without a dashboard: as plain lines, as JSON lines, or errors only."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TextIO

import orjson

from dynamo_cli.host.outlet import Outlet
from dynamo_cli.messages.lifecycle import Phase, ProcessState
from dynamo_cli.messages.logs import MOVED
from dynamo_cli.supervisor.view import OWN_NAME

ACCESS = "request"
"""The text of an access log line; its fields describe the request."""

Form = Callable[[str, str, str, str], str]
"""Makes a line from (process name, level, text, fields as a JSON object)."""


def line(name: str, level: str, text: str, fields: str = "{}") -> str:
    """A plain line: ``2026-01-31 12:00:00 INFO     worker 0     text key=value ...``."""
    told = orjson.loads(fields)
    if MOVED in told:
        told[MOVED] = ",".join(map(_move, told[MOVED]))
    more = "".join(f" {key}={_word(value)}" for key, value in told.items())
    return f"{time.strftime('%Y-%m-%d %H:%M:%S')} {level:<8} {name:<12} {text}{more}"


def json_line(name: str, level: str, text: str, fields: str = "{}") -> str:
    """A JSON line: an object with ts (ISO 8601, UTC), level, process, message, and the fields."""
    now = time.time()
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now))
    head = orjson.dumps(
        {
            "ts": f"{stamp}.{int(now % 1 * 1000):03d}Z",
            "level": level,
            "process": name,
            "message": text,
        }
    ).decode()
    return head if fields == "{}" else f"{head[:-1]},{fields[1:]}"


FORMS: dict[str, Form] = {"text": line, "json": json_line}


class Out(Protocol):
    """Takes text; never blocks and never raises.

    Attributes:
        lost: how many pieces of text were not written.
    """

    lost: int

    def write(self, text: str, /) -> None:
        """Write a piece of text soon."""


def outlet(stream: TextIO, form: Form = line) -> Outlet:
    """An outlet for lines of this form, which reports lost lines in the same form."""
    return Outlet(stream, lambda missing: form(OWN_NAME, "WARNING", _missing(missing), "{}") + "\n")


def _missing(count: int) -> str:
    lines = "a line of this log is" if count == 1 else f"{count} lines of this log are"
    return f"{lines} missing here: nobody read it, or it could not be written"


class PlainView:
    """A `View` that writes one line for everything, for logs, pipes and terminals.

    Args:
        log_level: lowest level of all lines; None means INFO, but WARNING for lines of children.
        form: makes a line.
    """

    def __init__(self, out: Out, log_level: str | None = None, form: Form = line) -> None:
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
        """Write the access log line of a request that has ended."""
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

    def __init__(self, out: Out, form: Form = line) -> None:
        super().__init__(out, "ERROR", form)


def _phase_and_reason(state: ProcessState) -> str:
    return f"{state.phase} ({state.reason})" if state.reason else state.phase


def _word(value: Any) -> str:
    """A value of a field, quoted if it contains spaces."""
    if isinstance(value, str) and value.isprintable() and not set(value) & set(' "='):
        return value or '""'
    return orjson.dumps(value).decode()


def _move(move: dict[str, Any]) -> str:
    """Write a move as ``worker0>worker1(died,12tokens,35ms)``.

    The parts are: the process that it left and the one that it went to (``none`` if no process
    could take it), the reason, the number of tokens of its answer, and the gap if a token followed.
    """
    source, target = (str(move[end] or "none").replace(" ", "") for end in ("from", "to"))
    gap = "" if move["gap_ms"] is None else f",{move['gap_ms']:.0f}ms"
    return f"{source}>{target}({move['reason']},{move['output_tokens']}tokens{gap})"


def _number(level: str) -> int:
    return logging.getLevelNamesMapping().get(level.upper(), logging.INFO)
