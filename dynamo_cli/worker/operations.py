"""Carries out what an operator asks of an engine (sleep, wake up, reset) once the engine can."""

from __future__ import annotations

from collections.abc import Callable

from dynamo_cli.engines.seam import Engine
from dynamo_cli.errors import DynamoError
from dynamo_cli.messages.admin import Operate, Operated, Operation

ASLEEP = "the engine sleeps; POST /wake_up ends that."
"""Error of a request that arrives while the engine sleeps, if no other worker can take it."""

ABORTED = "the engine was put to sleep while it ran this request; send it again later."
"""Error of a request that ran when the engine was put to sleep, if no other worker can take it."""


class Operations:
    """Carries out the orders that an engine gets from the frontend.

    Args:
        engine: the engine of this process.
        abort_all: aborts all requests, and tells their senders this reason.
        idle: whether no request runs, neither in this engine nor as a prefill on another one.
        answer: sends an answer to the frontend.
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
        """Whether no requests are taken: the engine sleeps, or will when running requests end."""
        return bool(self._falling_asleep) or self._engine.asleep

    def apply(self, order: Operate) -> None:
        """Carry out an order: sleep when no request runs any more, any other order at once."""
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
        """Put the engine to sleep if that was asked for and nothing runs any more."""
        if self._falling_asleep and self._idle():
            waiting, self._falling_asleep = self._falling_asleep, []
            for order in waiting:
                self._do(order)

    def _drop_waiting(self) -> None:
        """Cancel orders to sleep that still wait, because an order to wake up has come."""
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
