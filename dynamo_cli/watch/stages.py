"""The stages of requests, and how long each takes. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from dynamo_cli.topology import ProcessId, Role
from dynamo_cli.units import SECOND_NS
from dynamo_cli.watch.histogram import Histogram
from dynamo_cli.watch.load_schema import StageView
from dynamo_cli.watch.timelines import RequestRecord
from dynamo_cli.watch.window import WindowSamples

STAGES = (
    *("receive", "tokenize", "route", "prefill queue", "remote prefill"),
    *("queue", "prefill", "decode"),
)
"""Names of all stages, in the order of a request's way."""

WINDOW_S = 60
SAMPLES = 1024
"""Most requests of a stage that percentiles are made of."""

# Upper bounds in seconds, from a routing decision to a long answer.
BOUNDS_S = (
    *(0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25),
    *(0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0),
)


class Stage(NamedTuple):
    """A stage of a request and the process it ran in; times in ns of the monotonic clock."""

    name: str
    process: str
    begin_ns: int
    end_ns: int


def stages(record: RequestRecord) -> Iterator[Stage]:
    """The stages that the request passed."""
    worker = _name(Role.WORKER, record.worker)
    places = (
        str(Role.FRONTEND),
        _name(Role.PROCESSOR, record.processor),
        str(Role.ROUTER),
        str(Role.PREFILL_QUEUE),
        _name(Role.PREFILL_WORKER, record.timeline.prefill_worker),
        *(worker, worker, worker),
    )
    for name, place, (begin_ns, end_ns) in zip(STAGES, places, _times(record), strict=True):
        if 0 < begin_ns <= end_ns:
            yield Stage(name, place, begin_ns, end_ns)


def _times(record: RequestRecord) -> tuple[tuple[int, int], ...]:
    """Begin and end of each of the `STAGES`; 0 for times that the request does not have."""
    at = record.timeline
    in_engine = at.queued_ns if at.pushed_ns else at.sent_ns
    return (
        (record.arrival_ns, at.received_ns),
        (at.received_ns, at.prepared_ns),
        (at.prepared_ns, at.routed_ns),
        (at.pushed_ns, at.leased_ns),
        (at.leased_ns, at.prefilled_ns),
        (in_engine, at.scheduled_ns),
        (at.scheduled_ns, at.first_token_ns),
        (at.first_token_ns, at.ended_ns),
    )


def _name(role: Role, index: int | None) -> str:
    """The name of a process; empty if there was none, since then its stage has no times."""
    return ProcessId(role, index).name if index is not None else ""


class StageTimes:
    """The times of all stages.

    Attributes:
        histograms: of all requests since the start, in seconds, by stage.
    """

    def __init__(self) -> None:
        self.histograms = {name: Histogram(BOUNDS_S) for name in STAGES}
        self._recent = {name: WindowSamples(WINDOW_S, SAMPLES) for name in STAGES}

    def add(self, record: RequestRecord) -> None:
        """Add the stages of a request that ended."""
        for name, (begin_ns, end_ns) in zip(STAGES, _times(record), strict=True):
            if 0 < begin_ns <= end_ns:
                took_s = (end_ns - begin_ns) / SECOND_NS
                self.histograms[name].observe(took_s)
                self._recent[name].add(took_s, record.ended_ns)

    def views(self, now_ns: int) -> list[StageView]:
        """Return the stages that requests passed lately, in the order of a request's way."""
        views = []
        for name, recent in self._recent.items():
            p50_s, p95_s = recent.percentiles(now_ns, 0.5, 0.95)
            if p50_s is not None and p95_s is not None:
                views.append(StageView(name, len(recent), p50_s, p95_s))
        return views
