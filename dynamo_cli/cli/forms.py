"""Forms of log lines: plain, coloured, for systemd's journal, and JSON."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from typing import Any, TextIO

import orjson

from dynamo_cli.cli.terminal import DUMB
from dynamo_cli.host import journal
from dynamo_cli.messages.logs import MOVED

LineForm = Callable[[str, str, str, str], str]
"""Makes a line from (process name, level, text, fields as a JSON object)."""

JSON = "json"
"""The value of ``--log-format`` for lines that programs read."""

COLOURS = {"DEBUG": "2", "WARNING": "33", "ERROR": "31", "CRITICAL": "1;31"}
"""Parameters of the escape sequence (SGR) that colours a level. INFO has the terminal's colour."""


def line(name: str, level: str, text: str, fields: str = "{}") -> str:
    """A plain line: ``2026-01-31 12:00:00 INFO     worker 0     text key=value ...``."""
    return f"{_now()} {level:<8} {_what(name, text, fields)}"


def coloured_line(name: str, level: str, text: str, fields: str = "{}") -> str:
    """A plain line for a terminal: warnings and errors have a colour."""
    shown = f"{level:<8}"
    if colour := COLOURS.get(level):
        shown = f"\x1b[{colour}m{shown}\x1b[0m"
    return f"{_now()} {shown} {_what(name, text, fields)}"


def journal_line(name: str, level: str, text: str, fields: str = "{}") -> str:
    """A line for systemd's journal: it has a priority, and no time, which the journal adds.

    The journal takes each line for an entry of its own, so each line of a text has the priority.
    """
    mark = journal.priority(level)
    return "\n".join(f"{mark}{one}" for one in _what(name, text, fields).split("\n"))


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


def journal_json_line(name: str, level: str, text: str, fields: str = "{}") -> str:
    """A JSON line for systemd's journal, which takes the priority off again."""
    return journal.priority(level) + json_line(name, level, text, fields)


def form_of(
    log_format: str, stream: TextIO, environment: Mapping[str, str] = os.environ
) -> LineForm:
    """The form of lines that are written to a stream: colours are for terminals only.

    Args:
        log_format: one of `LOG_FORMATS`.
        environment: has the variables NO_COLOR, TERM and JOURNAL_STREAM.
    """
    if journal.reads(stream, environment):
        return journal_json_line if log_format == JSON else journal_line
    if log_format == JSON:
        return json_line
    dumb = environment.get("NO_COLOR") or environment.get("TERM") == DUMB
    return coloured_line if stream.isatty() and not dumb else line


def file_form(log_format: str) -> LineForm:
    """The form of lines in a file."""
    return json_line if log_format == JSON else line


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S")


def _what(name: str, text: str, fields: str) -> str:
    """A plain line without its time and level."""
    told = orjson.loads(fields)
    if MOVED in told:
        told[MOVED] = ",".join(map(_move, told[MOVED]))
    more = "".join(f" {key}={_word(value)}" for key, value in told.items())
    return f"{name:<12} {text}{more}"


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
