"""Requests of a decode worker that are away: a prefill worker computes their prompts. Pure.

Every request that is kept here leaves in exactly one way: its KV blocks arrive, it is prefilled
locally after all, or it is aborted. The requests of one API request with n > 1 are siblings, a
family: they have the same prompt, which is prefilled once. The first of them, the leader, is sent
away. The others wait for its first token and then find the prompt in the local prefix cache.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from dynamo_cli.units import SECOND_NS

DEADLINE_NS = 30 * SECOND_NS
"""A prefill that takes longer than this is done locally after all."""

LATE_NS = 2 * SECOND_NS
"""Grace period after the deadline, within which the prefill queue should report the failure."""

LATE = "late"
"""Why a prefill is done locally: neither queue nor prefill worker answered in time."""

T = TypeVar("T")


@dataclass(slots=True)
class _Away(Generic[T]):
    """A request that is away; `deadline_ns` is on the monotonic clock."""

    request: T
    family: str
    deadline_ns: int


@dataclass(slots=True)
class RemotePrefills(Generic[T]):
    """The requests that are away, and their siblings.

    Attributes:
        fallbacks: how many prefills were done locally after all, by reason.
    """

    fallbacks: Counter[str] = field(default_factory=Counter)
    _away: dict[str, _Away[T]] = field(default_factory=dict)
    _leaders: dict[str, str] = field(default_factory=dict)  # family -> request
    _siblings: dict[str, dict[str, T]] = field(default_factory=dict)  # leader -> its siblings

    def __len__(self) -> int:
        return len(self._away)

    @property
    def kept(self) -> int:
        """Number of entries beside the requests that are away: leaders of families, siblings."""
        return len(self._leaders) + sum(map(len, self._siblings.values()))

    def send(self, request_id: str, family: str, request: T, deadline_ns: int) -> None:
        """Note that the prefill of this request was handed to the queue.

        Args:
            family: siblings of one prompt have the same.
            deadline_ns: when the queue gives the prefill up, on the monotonic clock.
        """
        self._away[request_id] = _Away(request, family, deadline_ns)
        self._leaders[family] = request_id
        self._siblings[request_id] = {}

    def join(self, request_id: str, family: str, request: T) -> bool:
        """Let a request wait for the leader of its family; False if the family has none."""
        leader = self._leaders.get(family)
        if leader is None:
            return False
        self._siblings[leader][request_id] = request
        return True

    def done(self, request_id: str) -> T | None:
        """Take the request whose prefill is over; None if it is not away any more."""
        away = self._away.pop(request_id, None)
        return away.request if away is not None else None

    def failed(self, request_id: str, reason: str) -> T | None:
        """Take a request that is to be prefilled locally; None if it is not away any more."""
        request = self.done(request_id)
        if request is not None:
            self.fallbacks[reason] += 1
        return request

    def all_failed(self, reason: str) -> list[T]:
        """Take all requests, to be prefilled locally, because the queue is gone."""
        failed = [self.failed(request_id, reason) for request_id in list(self._away)]
        return [request for request in failed if request is not None]

    def late(self, now_ns: int) -> list[T]:
        """Take the requests that neither queue nor prefill worker has answered for in time."""
        late = [rid for rid, away in self._away.items() if away.deadline_ns + LATE_NS < now_ns]
        failed = [self.failed(request_id, LATE) for request_id in late]
        return [request for request in failed if request is not None]

    def started(self, request_id: str) -> list[T]:
        """Take the siblings of a request that has its first token or has ended, to start them."""
        siblings = self._siblings.pop(request_id, {})
        for family in [name for name, leader in self._leaders.items() if leader == request_id]:
            del self._leaders[family]
        return list(siblings.values())

    def of(self, wanted: Callable[[T], bool]) -> list[str]:
        """Ids of the requests and siblings for which `wanted` returns True."""
        away = ((request_id, one.request) for request_id, one in self._away.items())
        siblings = (pair for group in self._siblings.values() for pair in group.items())
        return [request_id for request_id, request in (*away, *siblings) if wanted(request)]

    def abort(self, request_id: str) -> bool:
        """Forget a request. Returns whether its prefill is to be cancelled."""
        for siblings in self._siblings.values():
            siblings.pop(request_id, None)
        return self._away.pop(request_id, None) is not None
