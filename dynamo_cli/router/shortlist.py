"""Which workers are compared for a request if there are many. Pure.

The cost of one worker takes a microsecond or two. With up to `MOST_COMPARED` workers all are
compared. With more, these are, as far as they have room:

- the `IDLEST` with the fewest requests, of which those without a first token count for more, as
  with the policy ``least-loaded``; among equals the least recently used;
- the `DEEPEST` that hold most of the prompt, and as many that will have computed most of it. Of
  workers that hold equally much, those with the fewest requests, counted likewise.

What is left out has less of the prompt than those, and more to do. ``round-robin`` compares those
that were not used for the longest time, and ``random`` any.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import nsmallest
from typing import Protocol

from dynamo_cli.kv.index import workers_of
from dynamo_cli.messages.routing import weighted_requests

MOST_COMPARED = 64
IDLEST = DEEPEST = 16

WORKER_BITS, USED_BITS = 16, 40


class Load(Protocol):
    """What is read of a worker's book."""

    active_requests: int
    last_used: int

    @property
    def waiting_requests(self) -> int:
        """Requests without a first token."""
        ...

    @property
    def full(self) -> bool:
        """Whether the worker takes no more requests now."""
        ...


@dataclass(slots=True)
class WorkerRanking:
    """The workers that have room, in the order in which a policy tries them.

    Args:
        policy: name of the router's policy.

    Attributes:
        changed: workers whose load has changed since the last shortlist.
    """

    policy: str = ""
    changed: set[int] = field(default_factory=set)
    _ranks: dict[int, int] = field(default_factory=dict)
    _dice: random.Random = field(default_factory=lambda: random.Random(0))

    def _refresh(self, books: Mapping[int, Load]) -> None:
        """Take in the changes."""
        for worker in self.changed:
            if (book := books.get(worker)) is None or book.full:
                self._ranks.pop(worker, None)
            else:
                load = weighted_requests(book.active_requests, book.waiting_requests)
                used = (0 if self.policy == "round-robin" else load) << USED_BITS | book.last_used
                self._ranks[worker] = used << WORKER_BITS | worker
        self.changed.clear()

    def _first(self, count: int) -> list[int]:
        """The workers to try first."""
        if self.policy == "random":
            known = list(self._ranks)
            return self._dice.sample(known, min(count, len(known)))
        return [rank & (1 << WORKER_BITS) - 1 for rank in nsmallest(count, self._ranks.values())]

    def _deepest(self, groups: Iterable[tuple[int, int]], count: int) -> list[int]:
        """Those with the most blocks.

        Args:
            groups: as from `PrefixIndex.by_depth`.
            count: how many.
        """
        found: list[int] = []
        for _, group in groups:
            members = filter(self._ranks.__contains__, workers_of(group))
            found += nsmallest(count - len(found), members, key=self._ranks.__getitem__)
            if len(found) >= count:
                break
        return found

    def shortlist(
        self,
        books: Mapping[int, Load],
        by_prefix: Sequence[Iterable[tuple[int, int]]],
        excluded: Collection[int],
        last: int | None,
    ) -> Collection[int]:
        """The workers to compare: `books` if all are.

        Args:
            books: all workers.
            by_prefix: groups of workers by what they hold of the prompt, one for each index.
            excluded: workers that must not get the request.
            last: the worker that the request's session had last; None if there is none.
        """
        if len(books) <= MOST_COMPARED:
            return books
        self._refresh(books)
        room = len(excluded)
        found = dict.fromkeys(self._first(IDLEST + room))
        for groups in by_prefix:
            found |= dict.fromkeys(self._deepest(groups, DEEPEST + room))
        if last in self._ranks:
            found[last] = None
        return [worker for worker in found if worker not in excluded]
