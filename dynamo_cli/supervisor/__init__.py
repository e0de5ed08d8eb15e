"""The supervisor: starts, joins, watches, restarts, drains and ends all other processes.

A `ServeConfig` comes in, and reports and log lines of the children. Process tables and lines for a
`View` go out, and in the end an exit code. Open `base_tree.py` first; `tree.py` adds changes of the
number of workers, and `cluster_tree.py` processes on other nodes (`nodes.py`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # children import this package
    from dynamo_cli.serve_config import ServeConfig
    from dynamo_cli.supervisor.view import View


def run(config: ServeConfig, view: View) -> int:
    """Serve until a signal or a failure; returns and raises what `Supervisor.run` does."""
    import asyncio  # noqa: PLC0415 - children import this package

    return asyncio.run(serve(config, view))


async def serve(config: ServeConfig, view: View) -> int:
    """The same as `run`, in an event loop that may do other work too."""
    from dynamo_cli.host.open_files import raise_limit  # noqa: PLC0415 - children import this
    from dynamo_cli.supervisor.host_memory import host_memory  # noqa: PLC0415 - likewise
    from dynamo_cli.supervisor.tree import Supervisor  # noqa: PLC0415

    raise_limit()  # each child takes several descriptors
    with host_memory(config) as plan:
        if plan.cluster is None:
            return await Supervisor(plan, view).run()
        from dynamo_cli.supervisor.cluster_tree import ClusterSupervisor  # noqa: PLC0415

        return await ClusterSupervisor(plan, view).run()
