"""Options of the host cache: type, names and help of each."""

from __future__ import annotations

from typing import Annotated

from dynamo_cli.cli.declare import option
from dynamo_cli.plan import limits

HOST_CACHE = "Host cache"

Size = Annotated[
    str,
    option(
        "--host-cache",
        panel=HOST_CACHE,
        metavar="SIZE|auto",
        help="Memory of the host for KV blocks, which all engines share, such as 64GiB; "
        "[b]auto[/b]: half of what is available, less the weights of the model; 0: none.",
    ),
]
MinTokens = Annotated[
    int,
    option(
        "--host-cache-min-tokens",
        panel=HOST_CACHE,
        min=0,
        most=limits.MAX_COUNT,
        metavar="TOKENS",
        help="Prompts with fewer tokens are neither stored nor looked up there.",
    ),
]
Disk = Annotated[
    str,
    option(
        "--disk-cache",
        panel=HOST_CACHE,
        metavar="DIR:SIZE",
        help="Disk for KV blocks that the host cache has no room for, such as "
        "/var/cache/kv:200GiB; 0: none.",
    ),
]
