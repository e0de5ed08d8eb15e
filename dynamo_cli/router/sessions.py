"""Keeps each session on the worker that has its conversation cached. Pure."""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

from dynamo_cli.kv import hashes
from dynamo_cli.kv.index import PrefixIndex
from dynamo_cli.messages.routing import RouteQuery
from dynamo_cli.router.policies import Choice

SESSION = "session"
MAX_SESSIONS = 10_000


class _Session(NamedTuple):
    """The last worker of a session, and the hash of the last full block of its prompt."""

    worker: int
    block: int


class Sessions:
    """The `MAX_SESSIONS` sessions that were used last.

    Args:
        index: which blocks each worker holds.
    """

    def __init__(self, index: PrefixIndex) -> None:
        self._index = index
        self._last: OrderedDict[str, _Session] = OrderedDict()

    def last_worker(self, query: RouteQuery) -> int | None:
        """Where the last request of the session went; None without a session."""
        last = self._last.get(query.session) if query.session else None
        return last.worker if last is not None else None

    def kept_together(self, query: RouteQuery, choice: Choice) -> Choice:
        """Return the choice of the session's last worker, or `choice` if that worker cannot take
        the request or has not the session's last prompt in its cache any more."""
        last = self._last.get(query.session) if query.session else None
        if last is None or not self._index.holds(last.worker, last.block):
            return choice
        if last.worker not in {candidate.worker for candidate in choice.candidates}:
            return choice
        return Choice(last.worker, choice.candidates, SESSION)

    def remember(self, query: RouteQuery, worker: int) -> None:
        """Note where a request of a session went."""
        if not query.session or not query.hashes:
            return
        self._last[query.session] = _Session(worker, hashes.unpack(query.hashes)[-1])
        self._last.move_to_end(query.session)
        if len(self._last) > MAX_SESSIONS:
            self._last.popitem(last=False)
