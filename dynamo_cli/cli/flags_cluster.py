"""Options of running on several machines: type, names and help of each."""

from __future__ import annotations

from typing import Annotated

from dynamo_cli.cli.declare import option

CLUSTER = "Several machines"

Ray = Annotated[
    str | None,
    option(
        "--ray",
        panel=CLUSTER,
        metavar="auto|HOST:PORT",
        help="Run the workers on the nodes of this Ray cluster, and all else here; "
        "[b]auto[/b]: the cluster that this machine belongs to.",
    ),
]
