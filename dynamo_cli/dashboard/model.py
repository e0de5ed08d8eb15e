"""Folds events into the board that all widgets draw. Pure: events and a clock in."""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass

import msgspec

from dynamo_cli.dashboard.events import Decided, Event, Found, Lines, Link, State, Table
from dynamo_cli.dashboard.history import Flow, History, Sample
from dynamo_cli.dashboard.oddities import oddities
from dynamo_cli.messages.lifecycle import Phase
from dynamo_cli.watch.decisions import DecisionView, Measurement
from dynamo_cli.watch.logs import LogView
from dynamo_cli.watch.schema import ProcessView, Snapshot

DECISIONS_KEPT, LINES_KEPT = 10_000, 2_000


@dataclass(frozen=True, slots=True)
class Row:
    """A decision in the list.

    Attributes:
        at_s: when it was made, seconds since 1970.
    """

    at_s: float
    decision: DecisionView

    @property
    def key(self) -> str:
        return self.decision.engine_request_id


@dataclass(frozen=True, slots=True)
class Board:
    """All that can be shown, at one moment.

    Attributes:
        now_s: that moment, seconds since 1970.
        snapshot: the last that came; None before any.
        processes: the last table, from the snapshot or from the supervisor.
        samples: one a second, oldest first, of up to an hour.
        decisions: oldest first.
        missed: decisions that the stream left out.
        lines: of all logs, oldest first.
        odd: what is odd about single workers, the oddest first.
        starting: it has never been ready as a whole.
    """

    now_s: float
    link: Link
    snapshot: Snapshot | None
    processes: tuple[ProcessView, ...]
    samples: tuple[Sample, ...]
    flow: Flow
    decisions: tuple[Row, ...]
    missed: int
    lines: tuple[LogView, ...]
    odd: tuple[str, ...]
    starting: bool


class BoardState:
    """What is known of the tree.

    Args:
        url: of the server, as far as it is known yet.

    Attributes:
        version: grows with every event.
    """

    def __init__(self, url: str = "") -> None:
        self._link = Link(State.CONNECTING, url)
        self._snapshot: Snapshot | None = None
        self._processes: tuple[ProcessView, ...] = ()
        self._history = History()
        self._decisions: OrderedDict[str, Row] = OrderedDict()
        self._last_number = self._missed = 0
        self._lines: deque[LogView] = deque(maxlen=LINES_KEPT)
        self._starting = True
        self.version = 0

    def apply(self, event: Event, now_s: float) -> None:
        """Something was heard."""
        self.version += 1
        match event:
            case Link():
                self._connect(event)
            case Snapshot():
                self._show(event)
            case Decided(decisions):
                self._decide(decisions, now_s)
            case Found(measurements):
                self._find(measurements)
            case Lines(lines):
                self._lines.extend(lines)
            case Table(processes):
                self._processes = tuple(processes)

    def board(self, now_s: float) -> Board:
        """As of now."""
        snapshot = self._snapshot
        return Board(
            now_s=now_s,
            link=self._link,
            snapshot=snapshot,
            processes=self._processes,
            samples=self._history.samples(),
            flow=self._history.flow(),
            decisions=tuple(self._decisions.values()),
            missed=self._missed,
            lines=tuple(self._lines),
            odd=tuple(oddities(snapshot)) if snapshot else (),
            starting=self._starting,
        )

    def _connect(self, link: Link) -> None:
        if link.state is State.LIVE and self._link.state is not State.LIVE:
            self._lines.clear()  # a newcomer hears the last ones again
            self._last_number = 0
        self._link = link

    def _show(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        self._processes = tuple(snapshot.processes)
        self._history.add(snapshot)
        whole = all(process.phase == Phase.READY for process in snapshot.processes)
        self._starting = self._starting and not (whole and snapshot.serving)

    def _decide(self, decisions: list[DecisionView], now_s: float) -> None:
        first = decisions[-1].number
        if self._last_number and first > self._last_number + 1:
            self._missed += first - self._last_number - 1
        self._last_number = decisions[0].number
        for decision in reversed(decisions):
            key = decision.engine_request_id
            if key not in self._decisions:
                self._decisions[key] = Row(now_s - decision.age_s, decision)
        while len(self._decisions) > DECISIONS_KEPT:
            self._decisions.popitem(last=False)

    def _find(self, measurements: list[Measurement]) -> None:
        for found in measurements:
            if (row := self._decisions.get(found.engine_request_id)) is not None:
                decision = msgspec.structs.replace(
                    row.decision, measured_tokens=found.measured_tokens
                )
                self._decisions[row.key] = Row(row.at_s, decision)
