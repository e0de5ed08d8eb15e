"""Options for what happens when a process dies or stalls: type, names and help of each."""

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
        help="How often a request may move to another process when its process dies; 0: it fails.",
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
        help="How long a request that has to move waits for a process that can take it.",
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
        help="Kill and restart a process that gives no sign of life for this time, or for ten "
        "times as long while it uses CPU time; 0: never.",
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
        help="Move a request that has no first token after this time to another worker, once; the "
        "next time it fails. 0: off.",
    ),
]
