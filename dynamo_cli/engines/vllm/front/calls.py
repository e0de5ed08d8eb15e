"""vLLM's utility calls: calls of methods of EngineCore by name, on all workers at once."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

from vllm.v1.engine import UtilityOutput
from vllm.v1.serial_utils import MsgpackDecoder, MsgpackEncoder

from dynamo_cli.engines.vllm.front.workers import Workers
from dynamo_cli.errors import InternalError, PeerLost
from dynamo_cli.messages.request import CallUtility, UtilityAnswer


class UtilityCalls:
    """Makes utility calls, and keeps those that workers have not answered.

    Args:
        workers: links to the workers.
    """

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self._open: dict[int, tuple[int, asyncio.Future[Any]]] = {}
        self._numbers = itertools.count()
        self._encoder = MsgpackEncoder()
        self._answers = MsgpackDecoder(UtilityOutput)

    def __len__(self) -> int:
        return len(self._open)

    async def of_all(self, method: str, *args: Any) -> list[Any]:
        """Call a method on all workers that take requests, and return their results.

        The result of a worker that is lost before it answers is left out.

        Raises:
            InternalError: the method failed on a worker.
        """
        results = await asyncio.gather(
            *(self._of(worker, method, args) for worker in sorted(self._workers.ready_workers())),
            return_exceptions=True,
        )
        for result in results:
            if isinstance(result, BaseException) and not isinstance(result, PeerLost):
                raise result
        return [result for result in results if not isinstance(result, PeerLost)]

    async def _of(self, worker: int, method: str, args: tuple[Any, ...]) -> Any:
        call_id = next(self._numbers)
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._open[call_id] = (worker, future)
        try:
            frames = [bytes(frame) for frame in self._encoder.encode(args)]
            if not self._workers.send(worker, CallUtility(call_id, method, frames)):
                raise PeerLost(f"worker {worker} cannot be reached.")
            return await future
        finally:
            del self._open[call_id]

    def answered(self, message: UtilityAnswer) -> None:
        """Give a worker's answer to the task that waits for it."""
        _, future = self._open.get(message.call_id, (None, None))
        if future is None or future.done():
            return
        if message.error:
            future.set_exception(InternalError(message.error))
        else:
            future.set_result(self._answers.decode(message.result).result.result)

    def lost(self, worker: int, error: PeerLost) -> None:
        """Fail the calls to a worker that is gone."""
        for owner, future in self._open.values():
            if owner == worker and not future.done():  # its task may be cancelled already
                future.set_exception(error)
