"""Options of serving for logs, traces and records: type, names and help of each."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from dynamo_cli.cli.declare import option
from dynamo_cli.plan.typed import LOG_FORMATS

LOG = "Log"


class LogLevel(StrEnum):
    """Lowest level of the log."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


if TYPE_CHECKING:
    LogFormat = str
else:
    LogFormat = Literal[LOG_FORMATS]


LowestLogLevel = Annotated[
    LogLevel | None,
    option(
        "--log-level",
        panel=LOG,
        help="Lowest level that is logged. Default: info, but error for the engines.",
    ),
]
LogForm = Annotated[
    LogFormat,
    option("--log-format", panel=LOG, help="Form of log lines. [b]json[/b]: one object per line."),
]
File = Annotated[
    Path | None,
    option(
        "--log-file",
        panel=LOG,
        metavar="FILE",
        help="Write the log, also while the dashboard is shown, to this file as well.",
    ),
]
FileSize = Annotated[
    str,
    option(
        "--log-file-size",
        panel=LOG,
        metavar="SIZE",
        help="Begin a new file at this size; the last five are kept as FILE.1 to FILE.5.",
    ),
]
AccessLog = Annotated[
    bool,
    option(
        "--access-log/--no-access-log",
        panel=LOG,
        help="Log a line for each answer; with the dashboard only in --log-file.",
    ),
]
OtlpEndpoint = Annotated[
    str | None,
    option(
        "--otlp-endpoint",
        panel=LOG,
        metavar="URL",
        help="Send an OpenTelemetry trace of each request to this URL (OTLP over HTTP).",
    ),
]
LogPrompts = Annotated[
    bool,
    option("--log-prompts", panel=LOG, help="Allow text of requests in the log."),
]
Record = Annotated[
    Path | None,
    option(
        "--record",
        panel=LOG,
        metavar="FILE",
        help="Append a line for each successful request: times, lengths and block hashes, no text. "
        "[b]bench --trace[/b] and [b]replay[/b] read it.",
    ),
]
