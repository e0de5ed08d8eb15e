"""What an operator asks of a worker's engine, at the moment at which it can be done."""

from __future__ import annotations

from collections.abc import Callable

from dynamo_cli.engines.seam import Engine
from dynamo_cli.errors import DynamoError
from dynamo_cli.messages.admin import Operate, Operated, Operation

ASLEEP = "the engine sleeps; POST /wake_up ends that."
ABORTED = "the engine was sent to sleep while it ran this request; send it again later."


class Operations:
    """Orders of the frontend.

    Args:
        engine: of this worker.
        abort_all: ends all that runs, with the reason given.
        idle: nothing is running, here or on behalf of this worker.
        answer: to the frontend.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        abort_all: Callable[[str], None],
        idle: Callable[[], bool],
        answer: Callable[[Operated], object],
    ) -> None:
        self._engine = engine
        self._abort_all = abort_all
        self._idle = idle
        self._answer = answer
        self._falling_asleep: list[Operate] = []

    @property
    def asleep(self) -> bool:
        """It takes no requests: it sleeps, or will when what runs is finished."""
        return bool(self._falling_asleep) or self._engine.asleep

    def apply(self, order: Operate) -> None:
        """Do it now, or when nothing runs any more."""
        match order.operation:
            case Operation.SLEEP:
                self._falling_asleep.append(order)
                if not order.wait:
                    self._abort_all(ABORTED)
                self.tick()
                return
            case Operation.WAKE_UP:
                self._drop_waiting()
        self._do(order)

    def tick(self) -> None:
        """Fall asleep when it is time."""
        if self._falling_asleep and self._idle():
            waiting, self._falling_asleep = self._falling_asleep, []
            for order in waiting:
                self._do(order)

    def _drop_waiting(self) -> None:
        """Who wakes up what has not fallen asleep yet keeps it awake."""
        waiting, self._falling_asleep = self._falling_asleep, []
        for order in waiting:
            self._answer(Operated(order.call_id, result=False))

    def _do(self, order: Operate) -> None:
        try:
            result = self._engine.operate(order)
        except DynamoError as error:
            self._answer(Operated(order.call_id, False, type(error).__name__, error.message))
        else:
            self._answer(Operated(order.call_id, result))
