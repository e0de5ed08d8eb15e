"""The requests that run, and the last that ended. Pure."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from dynamo_cli.watch.timelines import ENDED, TimelineView

KEPT = 5_000
"""Number of ended requests that are kept."""


@dataclass(frozen=True, slots=True)
class RequestRow:
    """A row of the list of requests.

    Attributes:
        at_s: when the request came, seconds since 1970.
        view: the request.
    """

    at_s: float
    view: TimelineView

    @property
    def running(self) -> bool:
        """Whether the request has not ended."""
        return self.view.state not in ENDED

    @property
    def key(self) -> str:
        """Identifies the row; a client can use an id again."""
        return f"{self.view.request_id}@{self.view.arrival_s}"

    @property
    def waited_s(self) -> float | None:
        """Time to the first token, seconds; the time waited so far while there is none."""
        if self.view.ttft_ms is not None:
            return self.view.ttft_ms / 1000
        return self.view.age_s if self.running else None

    @property
    def took_s(self) -> float:
        """Time from arrival to the end, or until now, seconds."""
        if self.running:
            return self.view.age_s
        return self.view.stages_ms.get("ended", 0.0) / 1000


class RequestLog:
    """The requests of one server.

    Attributes:
        last_number: number of the last request that is known to have ended; 0 before any.
    """

    def __init__(self) -> None:
        self._ended: OrderedDict[str, RequestRow] = OrderedDict()
        self._running: list[RequestRow] = []
        self._start_s: float | None = None
        self.last_number = 0

    def show(self, timelines: list[TimelineView], now_s: float) -> None:
        """Take the requests that run, and new ones that ended, each newest first."""
        self._running = []
        for view in reversed(timelines):
            if self._start_s is None:  # once, so that the times of rows do not tremble
                self._start_s = now_s - view.age_s - view.arrival_s
            row = RequestRow(self._start_s + view.arrival_s, view)
            if row.running:
                self._running.append(row)
            else:
                self._ended[row.key] = row
                self.last_number = max(self.last_number, view.number)
        while len(self._ended) > KEPT:
            self._ended.popitem(last=False)

    def rows(self) -> tuple[RequestRow, ...]:
        """Return all of them: those that ended, in this order, then those that run."""
        return (*self._ended.values(), *self._running)
