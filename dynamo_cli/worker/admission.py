"""Lets requests into the engine between its steps, a bounded part at a time. Pure.

To read a request and to hash the blocks of its prompt takes 0.4 ms per 1,000 tokens. While a
GPU computes a step there is time for that. But a burst of prompts at once would take longer than
what the GPU has to do, and all streams of the engine would stand still meanwhile.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass

from dynamo_cli.kv.hashes import TOKEN_BYTES
from dynamo_cli.messages.request import AddRequest
from dynamo_cli.units import MS_NS

LEAST_NS, MOST_NS, SHARE = 2 * MS_NS, 8 * MS_NS, 3
"""After a third (1 / `SHARE`) of the time of the last step, within these limits, no further request
or part of one is begun before the next step. A part takes a millisecond at most. Where steps are
scheduled ahead, the GPU is busy meanwhile, and the loop needs the rest of the time for the step
after that; elsewhere a burst makes steps half as long again at most."""

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
            busy: whether the engine has work. If so, this ends after a part of the time of a step.
                Otherwise nobody waits for the next step but these requests, and it takes as many
                as the step can run.
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
