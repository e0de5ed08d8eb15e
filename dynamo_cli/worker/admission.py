"""Lets requests into the engine between its steps, a bounded part at a time. Pure.

Decoding a request and hashing the blocks of its prompt takes 0.4 ms per 1,000 tokens. For a few
requests that is less than the GPU needs for its current step. For a burst of requests it is more:
the GPU would have nothing to do, and all streams of the engine would stall.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass

from dynamo_cli.kv.hashes import TOKEN_BYTES
from dynamo_cli.messages.request import AddRequest
from dynamo_cli.units import MS_NS

LEAST_NS, MOST_NS, SHARE = 2 * MS_NS, 8 * MS_NS, 3
"""The time for requests between two steps of a busy engine: a third (1 / `SHARE`) of the time since
the last admission, at least `LEAST_NS` and at most `MOST_NS`. It is checked after each part of a
request, and a part takes at most a millisecond. If vLLM schedules a step ahead, the GPU works in
that time, and the loop needs the rest for the next step. If not, a burst makes steps 1.5 times as
long."""

BeginRequest = Callable[[int, AddRequest], Generator[None]]
"""Gives a request of this processor to the engine; stops after each part of the work."""


@dataclass(slots=True)
class _Waiting:
    client: int
    message: AddRequest
    parts: Generator[None] | None = None


class Admission:
    """Requests that have come, but are not in the engine yet, in the order in which they came.

    Args:
        begin: gives a request to the engine, or refuses it.
        clock: the time in nanoseconds.
        batch_limits: most requests and most tokens of one step.
    """

    def __init__(
        self, begin: BeginRequest, clock: Callable[[], int], batch_limits: tuple[int, int]
    ) -> None:
        self._begin = begin
        self._clock = clock
        self._most_requests, self._most_tokens = batch_limits
        self._waiting: deque[_Waiting] = deque()
        self._called_ns = 0
        self._was_busy = False

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, client: int, message: AddRequest) -> None:
        """Add a request of processor `client`."""
        self._waiting.append(_Waiting(client, message))

    def admit(self, *, busy: bool) -> None:
        """Give requests to the engine; called before each step.

        Args:
            busy: whether the engine has work. If so, this ends after a part of the time of a step,
                so that the streams go on. If not, only these requests wait for the next step, and
                as many of them are admitted as that step can run.
        """
        now_ns = self._clock()
        last_ns = now_ns - self._called_ns if busy and self._was_busy else 0
        self._called_ns, self._was_busy = now_ns, busy
        if busy:
            self._admit_until(now_ns + min(max(last_ns // SHARE, LEAST_NS), MOST_NS))
        else:
            self._admit_batch()

    def _admit_until(self, end_ns: int) -> None:
        while self._waiting:
            self._go_on()
            if self._clock() >= end_ns:
                return

    def _admit_batch(self) -> None:
        requests = tokens = 0
        while self._waiting and requests < self._most_requests and tokens < self._most_tokens:
            requests += 1
            tokens += len(self._waiting[0].message.token_ids) // TOKEN_BYTES
            while self._go_on():
                pass

    def _go_on(self) -> bool:
        """Do a part of the first request; returns whether there is more to do."""
        first = self._waiting[0]
        if first.parts is None:
            first.parts = self._begin(first.client, first.message)
        for _ in first.parts:
            return True
        self._waiting.popleft()
        return False

    def abort(self, request_ids: list[str]) -> None:
        """Forget these requests; unknown ids are ignored."""
        if self._waiting:
            gone = set(request_ids)
            self._keep(lambda one: one.message.request_id not in gone)

    def abort_client(self, client: int) -> list[str]:
        """Forget all requests of a processor, and return their ids."""
        lost = [one.message.request_id for one in self._waiting if one.client == client]
        self._keep(lambda one: one.client != client)
        return lost

    def _keep(self, wanted: Callable[[_Waiting], bool]) -> None:
        self._waiting = deque(one for one in self._waiting if wanted(one))
