"""Fans a finished request out to counters, timelines, access log, record and traces."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from dynamo_cli.config import FrontendConfig
from dynamo_cli.errors import DynamoError
from dynamo_cli.frontend.after import access
from dynamo_cli.frontend.after.access import AccessLog
from dynamo_cli.frontend.after.overload import OverloadLog
from dynamo_cli.frontend.after.recorder import Recorder
from dynamo_cli.frontend.http import traceparent
from dynamo_cli.frontend.http.traceparent import TraceContext
from dynamo_cli.frontend.http.visit import Visit
from dynamo_cli.messages.set_up import SetUp
from dynamo_cli.watch.load_schema import HostView
from dynamo_cli.watch.meter import Meter
from dynamo_cli.watch.timelines import TimelineLog

if TYPE_CHECKING:
    from dynamo_cli.frontend.after.tracing import Tracer


class FinishedRequestFanout:
    """Fans a finished request out to counters, timelines, access log, record and traces.

    Args:
        config: whether requests are logged, recorded and traced.
        meter: counts requests, and what could not be logged or traced.
        set_up: says what serves, for the record.

    Attributes:
        timelines: the timelines of the last requests.
        recorder: records successful requests; None without ``--record``.

    Raises:
        UsageError: the file of ``--record`` cannot be written.
    """

    def __init__(self, config: FrontendConfig, meter: Meter, set_up: Callable[[], SetUp]) -> None:
        self._meter = meter
        self._access = AccessLog.of_this_process(meter) if config.access_log else None
        self._tracer = _tracer(config.otlp_endpoint, meter) if config.otlp_endpoint else None
        self.recorder = Recorder(config.record, set_up) if config.record else None
        self.timelines = TimelineLog()
        self._overload = OverloadLog()

    def begin_trace(self, header: str | None) -> TraceContext | None:
        """A new span for a request; without tracing, the caller's span, which is passed on."""
        if self._tracer is None:
            return traceparent.parse(header)
        return traceparent.begin(header)

    def finished(self, visit: Visit) -> None:
        """Fan out a request that has ended; its timeline is kept if it reached a processor."""
        record = visit.record(time.monotonic_ns())
        self._meter.ended(record)
        self._overload.failed(record.error)
        if record.processor is not None:
            self.timelines.add(record)
        if self._access is not None:
            method = visit.http.method
            self._access.add(access.fields(record, method, visit.trace, visit.prompt))
        if self.recorder is not None and visit.outcome is not None and not record.error:
            self.recorder.add(record, visit.outcome.prompts)
        if self._tracer is not None and visit.trace is not None and visit.trace.sampled:
            self._tracer.add(record, visit.trace)

    def answered(self, visit: Visit) -> None:
        """Log a request that was not for the model."""
        if self._access is not None:
            told, method = visit.record(time.monotonic_ns()), visit.http.method
            if not access.is_poll(told, method):
                self._access.add(access.plain_fields(told, method))

    def turned_away(self, error: DynamoError, request_id: str) -> None:
        """Count and log a connection or a head that is refused before there is a request."""
        self._meter.failed(error.kind)
        self._overload.failed(error.kind)
        if self._access is not None:
            self._access.add(access.refused_fields(error, request_id))

    def record_state(self) -> HostView:
        """The state of the record; nothing is known without ``--record``."""
        return self.recorder.state() if self.recorder is not None else HostView()

    @property
    def recorded(self) -> int | None:
        """Number of requests that were recorded since the start; None without ``--record``."""
        return self.recorder.recorded if self.recorder is not None else None

    def close(self) -> None:
        """Write what is still queued, for a few seconds at most."""
        if self.recorder is not None:
            self.recorder.close()
        if self._access is not None:
            self._access.close()
        if self._tracer is not None:
            self._tracer.close()


def _tracer(endpoint: str, meter: Meter) -> Tracer:
    from dynamo_cli.frontend.after.tracing import Tracer  # noqa: PLC0415 - loaded with tracing only

    return Tracer(endpoint, meter)
