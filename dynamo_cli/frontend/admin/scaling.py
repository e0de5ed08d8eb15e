"""`/dynamo/workers`: how many workers there are, and are to be."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from dynamo_cli.errors import InvalidRequest, error_class
from dynamo_cli.frontend.http.admission import check_body
from dynamo_cli.messages.lifecycle import Phase, Rescale, Rescaled
from dynamo_cli.topology import Role
from dynamo_cli.watch.schema import ProcessView, Snapshot


class Scaling:
    """Asks the supervisor for more or fewer workers.

    Args:
        report: sends to the supervisor, which answers in order.
        snapshot: gives the state of the tree.
    """

    def __init__(self, report: Callable[[Rescale], None], snapshot: Callable[[], Snapshot]) -> None:
        self._report = report
        self._snapshot = snapshot
        self._asked: deque[asyncio.Future[Rescaled]] = deque()

    def show(self) -> dict[str, Any]:
        """Workers by phase: ``count`` are ready, ``target`` are to be."""
        snapshot = self._snapshot()
        return _state(snapshot.processes, snapshot.target_workers)

    async def change(self, body: bytes) -> dict[str, Any]:
        """Ask for another number.

        Returns:
            as `show`, as soon as the supervisor has taken it for its target.

        Raises:
            DynamoError: it cannot be; nothing is changed.
        """
        wanted = check_body(body)
        count = wanted.get("count")
        if set(wanted) != {"count"} or not isinstance(count, int) or isinstance(count, bool):
            raise InvalidRequest('send {"count": N}: how many workers there are to be.')
        answer: asyncio.Future[Rescaled] = asyncio.get_running_loop().create_future()
        self._asked.append(answer)
        self._report(Rescale(count))
        rescaled = await asyncio.shield(answer)  # who leaves must not take another's answer
        if rescaled.error:
            raise error_class(rescaled.error)(rescaled.message)
        return _state(self._snapshot().processes, rescaled.workers)

    def answered(self, rescaled: Rescaled) -> None:
        """The supervisor has answered the oldest question."""
        self._asked.popleft().set_result(rescaled)


def _state(processes: Sequence[ProcessView], target: int) -> dict[str, Any]:
    workers = [process for process in processes if process.role == Role.WORKER]
    return {
        "count": sum(worker.phase == Phase.READY for worker in workers),
        "target": target,
        "workers": [{"name": worker.name, "phase": worker.phase} for worker in workers],
    }
