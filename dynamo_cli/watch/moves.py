"""Counts requests that moved to another process, with reasons, gaps and the last moves. Pure."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Sequence

import msgspec

from dynamo_cli.messages.request import Move, MoveReason
from dynamo_cli.topology import ProcessId, Role
from dynamo_cli.units import MS_NS, SECOND_NS
from dynamo_cli.watch.histogram import Histogram
from dynamo_cli.watch.schema import MovesView, RecentMove
from dynamo_cli.watch.window import WindowSum

RECENT = 32
"""Number of moves that the snapshot has in full."""

NOT_MOVED_MEMORY_S = 600
"""How long a request that no process could take raises an alarm, seconds."""

# Upper bounds in seconds, from one step of an engine to the default of --migration-timeout.
GAP_BOUNDS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 60.0)


class MoveStep(msgspec.Struct, frozen=True, rename={"source": "from", "target": "to"}):
    """One move of a request, as timelines and the access log have it.

    Attributes:
        source, target: names of the process that it left, and of the one that it went to; None: no
            process could take it. They are called ``from`` and ``to`` in JSON.
        reason: why it left, a `MoveReason`.
        output_tokens: number of tokens that its answer had at that time.
        at_ms: when it left, milliseconds after its arrival.
        gap_ms: time from then to its next token, milliseconds; None if no token came.
    """

    source: str
    target: str | None
    reason: str
    output_tokens: int
    at_ms: float
    gap_ms: float | None


class MoveLog:
    """Totals of moves, and the last ones.

    Attributes:
        moved: number of moves by reason; every reason is a key.
        not_moved: number of requests that no process could take in time, by reason.
        gaps: histogram of the gaps of moves, in seconds; see `gap_of`.
    """

    def __init__(self) -> None:
        self.moved: Counter[str] = Counter(dict.fromkeys(map(str, MoveReason), 0))
        self.not_moved: Counter[str] = self.moved.copy()
        self.gaps = Histogram(GAP_BOUNDS_S)
        self._longest_gap_s: float | None = None
        self._recent: deque[tuple[str, Move, int]] = deque(maxlen=RECENT)
        self._recently_lost = WindowSum(NOT_MOVED_MEMORY_S)

    def add(self, api_id: str, move: Move, now_ns: int) -> None:
        """Count a move, or a request that no process could take.

        Args:
            api_id: the id that clients know it by.
        """
        if move.target is None:
            self.not_moved[str(move.reason)] += 1
            self._recently_lost.add(1, now_ns)
        else:
            self.moved[str(move.reason)] += 1
        self._recent.append((api_id, move, now_ns))

    def ended(self, moves: Iterable[Move]) -> None:
        """Count the gaps of the moves of a request that has ended."""
        for move in moves:
            if (gap_ns := gap_of(move)) is not None:
                gap_s = gap_ns / SECOND_NS
                self.gaps.observe(gap_s)
                self._longest_gap_s = max(gap_s, self._longest_gap_s or 0.0)

    def recently_lost(self, now_ns: int) -> int:
        """Return how many requests no process could take in the last `NOT_MOVED_MEMORY_S`."""
        return int(self._recently_lost.total(now_ns))

    def view(self, now_ns: int) -> MovesView:
        """Return the totals, and the last moves, newest first."""
        recent = [_recent(*one, now_ns) for one in reversed(self._recent)]
        return MovesView(dict(self.moved), dict(self.not_moved), self._longest_gap_s, recent)


def gap_of(move: Move) -> int | None:
    """Return the gap of a move, nanoseconds; None if no token came afterwards.

    It lasts from the moment when it was known that the process would not go on with the request, to
    the next token. So it contains the time to compute the KV cache again.
    """
    return max(move.resumed_ns - move.left_ns, 0) if move.resumed_ns else None


def step(move: Move, arrival_ns: int) -> MoveStep:
    """Return a move as a step of a request that arrived at `arrival_ns`."""
    gap_ns = gap_of(move)
    return MoveStep(
        source=_name(move.role, move.source),
        target=None if move.target is None else _name(move.role, move.target),
        reason=str(move.reason),
        output_tokens=move.output_tokens,
        at_ms=round((move.left_ns - arrival_ns) / MS_NS, 3),
        gap_ms=None if gap_ns is None else round(gap_ns / MS_NS, 3),
    )


def merged(heard: Sequence[Move], told: Sequence[Move]) -> tuple[Move, ...]:
    """Return all moves of a request, oldest first, each once.

    Args:
        heard: the moves that were reported when they happened.
        told: the moves that came with the end of the request; only these have `resumed_ns`. Moves
            that were known to a processor which died are missing here.
    """
    known = Counter((move.role, move.source, move.left_ns) for move in told)
    missing = []
    for move in heard:
        key = (move.role, move.source, move.left_ns)
        if known[key]:
            known[key] -= 1
        else:
            missing.append(move)
    return tuple(sorted([*told, *missing], key=lambda move: move.left_ns))


def _recent(request_id: str, move: Move, at_ns: int, now_ns: int) -> RecentMove:
    return RecentMove(
        request_id=request_id,
        role=move.role,
        source=_name(move.role, move.source),
        target=None if move.target is None else _name(move.role, move.target),
        reason=str(move.reason),
        output_tokens=move.output_tokens,
        age_s=(now_ns - at_ns) / SECOND_NS,
    )


def _name(role: str, index: int) -> str:
    return ProcessId(Role(role), index).name
