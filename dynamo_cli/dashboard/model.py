"""Makes the board that all widgets draw. Pure: events and a clock in."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

from dynamo_cli.dashboard.events import (
    ConnectionChange,
    Decided,
    Event,
    Found,
    Lines,
    ProcessList,
    RequestTimelines,
    State,
)
from dynamo_cli.dashboard.experiment import Experiment
from dynamo_cli.dashboard.history import Flow, History, Sample, WorkerSample
from dynamo_cli.dashboard.requests import RequestLog, RequestRow
from dynamo_cli.messages.lifecycle import Phase
from dynamo_cli.watch.decisions import DecisionView, Measurement
from dynamo_cli.watch.logs import LogView
from dynamo_cli.watch.schema import ProcessView, Snapshot

STALE_S = 3.0
"""Snapshots come four times a second. After so long without one, the last one is out of date."""

DECISIONS_KEPT, LINES_KEPT = 10_000, 2_000


@dataclass(frozen=True, slots=True)
class DecisionRow:
    """A row of the list of decisions.

    Attributes:
        at_s: when the decision was made, seconds since 1970.
        decision: the decision.
    """

    at_s: float
    decision: DecisionView

    @property
    def key(self) -> str:
        """Identifies the row: a request that moves is decided on again."""
        one = self.decision
        return f"{one.engine_request_id}@{one.number}" if one.moved else one.engine_request_id


@dataclass(frozen=True, slots=True)
class Board:
    """All that can be shown, at one moment.

    Attributes:
        now_s: that moment, seconds since 1970.
        link: state of the connection.
        snapshot: the last snapshot; None before any.
        processes: the last process table, from the snapshot or from the supervisor.
        samples: one sample a second of up to an hour, oldest first.
        worker_samples: samples of the last minutes by worker, oldest first.
        requests: requests that ended, oldest first, then those that run.
        experiment: the replay of the last hour.
        flow: rates along the arrows of the picture.
        decisions: routing decisions, oldest first.
        missed: number of decisions that the stream left out.
        lines: log lines of all processes, oldest first.
        odd: remarks on workers that differ from the others, the strongest first.
        starting: whether the tree has never been completely ready.
        stale_since_s: when the last snapshot came, seconds since 1970, if that is too long ago or
            there is no connection; None if what is shown is true now.
    """

    now_s: float
    link: ConnectionChange
    snapshot: Snapshot | None
    processes: tuple[ProcessView, ...]
    samples: tuple[Sample, ...]
    flow: Flow
    decisions: tuple[DecisionRow, ...]
    missed: int
    lines: tuple[LogView, ...]
    odd: tuple[str, ...]
    starting: bool
    worker_samples: Mapping[int, tuple[WorkerSample, ...]] = field(default_factory=dict)
    requests: tuple[RequestRow, ...] = ()
    experiment: Experiment = field(default_factory=Experiment)
    stale_since_s: float | None = None


class BoardState:
    """All that the dashboard knows of the tree.

    Args:
        url: address of the server; empty if it is not known yet.

    Attributes:
        version: number that grows with every event.
    """

    def __init__(self, url: str = "") -> None:
        self._link = ConnectionChange(State.CONNECTING, url)
        self._snapshot: Snapshot | None = None
        self._processes: tuple[ProcessView, ...] = ()
        self._history = History()
        self._decisions: OrderedDict[str, DecisionRow] = OrderedDict()  # by key
        self._latest: dict[str, str] = {}  # keys by the engine's request id
        self._last_number = self._missed = 0
        self._lines: deque[LogView] = deque(maxlen=LINES_KEPT)
        self._starting = True
        self._requests = RequestLog()
        self._experiment = Experiment()
        self._seen_s = 0.0
        self.version = 0

    @property
    def last_request(self) -> int:
        """Number of the last request that is known to have ended; 0 before any."""
        return self._requests.last_number

    def apply(self, event: Event, now_s: float) -> None:
        """Take an event."""
        self.version += 1
        match event:
            case ConnectionChange():
                self._connect(event)
            case Snapshot():
                self._seen_s = now_s
                self._show(event)
            case Decided(decisions):
                self._decide(decisions, now_s)
            case Found(measurements):
                self._find(measurements)
            case Lines(lines):
                self._lines.extend(lines)
            case ProcessList(processes):
                self._processes = tuple(processes)
            case RequestTimelines(timelines):
                self._requests.show(timelines, now_s)
            case Experiment():
                self._experiment = event

    def stale(self, now_s: float) -> bool:
        """Whether the last snapshot says no more what is true now."""
        late = now_s - self._seen_s > STALE_S
        return self._snapshot is not None and (self._link.state is State.LOST or late)

    def board(self, now_s: float) -> Board:
        """Return the board as of now."""
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
            odd=tuple(snapshot.odd) if snapshot else (),
            starting=self._starting,
            worker_samples=self._history.workers(),
            requests=self._requests.rows(),
            experiment=self._experiment,
            stale_since_s=self._seen_s if self.stale(now_s) else None,
        )

    def _connect(self, link: ConnectionChange) -> None:
        if link.state is State.LIVE and self._link.state is not State.LIVE:
            self._lines.clear()  # after a connect, the server sends the last lines again
            self._last_number = 0
            self._requests = RequestLog()  # another process may count from 1 again
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
            row = DecisionRow(now_s - decision.age_s, decision)
            if row.key not in self._decisions:
                self._decisions[row.key] = row
                self._latest[decision.engine_request_id] = row.key
        while len(self._decisions) > DECISIONS_KEPT:
            key, oldest = self._decisions.popitem(last=False)
            if self._latest.get(oldest.decision.engine_request_id) == key:
                del self._latest[oldest.decision.engine_request_id]

    def _find(self, measurements: list[Measurement]) -> None:
        for found in measurements:
            key = self._latest.get(found.engine_request_id, "")
            if (row := self._decisions.get(key)) is not None:
                decision = msgspec.structs.replace(
                    row.decision, measured_tokens=found.measured_tokens
                )
                self._decisions[row.key] = DecisionRow(row.at_s, decision)
