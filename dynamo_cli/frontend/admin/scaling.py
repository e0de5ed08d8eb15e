"""`/dynamo/workers`: shows and changes the number of workers."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

from dynamo_cli.errors import InvalidRequest, error_class
from dynamo_cli.frontend.http.admission import check_body, told
from dynamo_cli.messages.lifecycle import Phase, Rescale, Rescaled
from dynamo_cli.topology import Role
from dynamo_cli.watch.schema import Snapshot


class Scaling:
    """Asks the supervisor for more or fewer workers.

    Args:
        report: sends to the supervisor, which answers in the same order.
        snapshot: makes the current snapshot of the tree.
    """

    def __init__(self, report: Callable[[Rescale], None], snapshot: Callable[[], Snapshot]) -> None:
        self._report = report
        self._snapshot = snapshot
        self._asked: deque[asyncio.Future[Rescaled]] = deque()

    def show(self) -> dict[str, Any]:
        """The workers with their phases; ``count`` of them are ready, ``target`` is the goal.

        With ``--ray`` also the nodes that could get further ones, each with its free GPUs.
        """
        snapshot = self._snapshot()
        return _state(snapshot, snapshot.target_workers)

    async def change(self, body: bytes) -> dict[str, Any]:
        """Ask the supervisor for another number of workers.

        Args:
            body: ``{"count": N}``.

        Returns:
            as `show`, once the supervisor has accepted the new target.

        Raises:
            DynamoError: the number is refused; nothing is changed.
        """
        wanted = check_body(body)
        count = wanted.get("count")
        if set(wanted) != {"count"} or not isinstance(count, int) or isinstance(count, bool):
            raise InvalidRequest(
                'send {"count": N}, where N is the number of workers to run; not '
                + f"{told(wanted)}."
            )
        answer: asyncio.Future[Rescaled] = asyncio.get_running_loop().create_future()
        self._asked.append(answer)
        self._report(Rescale(count))
        rescaled = await answer
        if rescaled.error:
            raise error_class(rescaled.error)(rescaled.message)
        return _state(self._snapshot(), rescaled.workers)

    def answered(self, rescaled: Rescaled) -> None:
        """The supervisor has answered the oldest request, whose client may have left."""
        asked = self._asked.popleft()
        if not asked.done():
            asked.set_result(rescaled)


def _state(snapshot: Snapshot, target: int) -> dict[str, Any]:
    workers = [process for process in snapshot.processes if process.role == Role.WORKER]
    offered = snapshot.offered_nodes
    return {
        "count": sum(worker.phase == Phase.READY for worker in workers),
        "target": target,
        "workers": [{"name": worker.name, "phase": worker.phase} for worker in workers],
        "offered_nodes": [{"node": node, "gpus": gpus} for node, gpus in offered.items()],
    }
