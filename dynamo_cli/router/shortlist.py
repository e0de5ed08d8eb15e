"""Selects the workers whose costs are compared for a request, if there are many. Pure.

To compute the cost of one worker takes one or two microseconds. Up to `MOST_COMPARED` workers, all
are compared. If there are more, only these are compared, if they have room:

- the `IDLEST` workers with the fewest requests, of which those without a first token count for
  more, as with the policy ``least-loaded``; among equals those chosen least recently;
- the `DEEPEST` workers that hold most of the prompt, and as many that will have computed most of
  it; among equals those with the fewest requests, counted in the same way.

Every other worker has less of the prompt than the second ones, and more requests than the first.
With ``round-robin``, the first ones are those chosen least recently, and with ``random`` any.
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
    """What this module reads of a `WorkerBook`."""

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
        """Compute the ranks of the changed workers."""
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
        """The workers with room that hold the most leading blocks.

        Args:
            groups: workers by number of blocks, as from `PrefixIndex.by_depth`.
            count: how many workers to return at most.
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
        """Return the workers to compare; `books` itself if all are to be compared.

        Args:
            books: all workers.
            by_prefix: for each index, the groups of workers that `PrefixIndex.by_depth` gives.
            excluded: workers that must not get the request.
            last: the last worker of the request's session, compared too; None if there is none.
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
