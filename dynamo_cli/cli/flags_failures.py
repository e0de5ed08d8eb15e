"""Options of serving for when a process dies or stops: type, names and help of each."""

from __future__ import annotations

from typing import Annotated

from dynamo_cli.cli.declare import option
from dynamo_cli.plan import limits

FAILURES = "Failures"

MigrationLimit = Annotated[
    int,
    option(
        "--migration-limit",
        panel=FAILURES,
        min=0,
        most=limits.MAX_COUNT,
        metavar="N",
        help="How often a request may go on elsewhere when the process that has it dies; "
        "0 lets it fail.",
    ),
]
MigrationTimeout = Annotated[
    float,
    option(
        "--migration-timeout",
        panel=FAILURES,
        min=0,
        most=limits.MAX_SECONDS,
        metavar="SECONDS",
        help="How long such a request waits for a process that can take it.",
    ),
]
WorkerTimeout = Annotated[
    float,
    option(
        "--worker-timeout",
        panel=FAILURES,
        min=0,
        most=limits.MAX_SECONDS,
        metavar="SECONDS",
        help="A process that does nothing for so long although it has work is replaced; "
        "0 waits for ever.",
    ),
]
FirstTokenTimeout = Annotated[
    float,
    option(
        "--first-token-timeout",
        panel=FAILURES,
        min=0,
        most=limits.MAX_SECONDS,
        metavar="SECONDS",
        help="A request without its first token after so long is moved once, then fails; 0 is off.",
    ),
]
