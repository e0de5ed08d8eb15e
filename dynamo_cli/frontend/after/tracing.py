"""Sends finished requests as OpenTelemetry spans, from a thread of its own.

The spans of a request are made from its timeline after it has ended; before that, tracing only
makes an id for it.

    chat tiny                                            arrival ......................... ended
      receive     frontend            arrival, received
      tokenize    processor           received, prepared
      route       router              prepared, routed
      queue       worker              sent, scheduled
        or, with a prefill worker:
      prefill queue, remote prefill   pushed, leased; leased, prefilled
      queue       worker              queued, scheduled
      prefill     worker              scheduled, first token
      decode      worker              first token, last token

A request that moved to another process has an event in the first of these spans for each move.
"""

from __future__ import annotations

import logging
import queue
import sys
import threading
import time
from collections.abc import Iterator, Sequence

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags
from opentelemetry.util.types import AttributeValue

from dynamo_cli import __version__
from dynamo_cli.frontend.http.traceparent import TraceContext, new_span_id
from dynamo_cli.host import vital
from dynamo_cli.messages.request import Endpoint
from dynamo_cli.units import SECOND_NS
from dynamo_cli.watch import moves
from dynamo_cli.watch.meter import Meter
from dynamo_cli.watch.stages import stages
from dynamo_cli.watch.timelines import RequestRecord

SERVICE = "dynamo-llm"
OPERATIONS = {
    Endpoint.CHAT: "chat",
    Endpoint.COMPLETIONS: "text_completion",
    Endpoint.RESPONSES: "chat",
    Endpoint.MESSAGES: "chat",
    Endpoint.EMBEDDINGS: "embeddings",
}
"""Names of operations in the semantic conventions for generative AI."""

BATCH = 64
BATCH_S = 0.5
MAX_WAITING = 4096
TIMEOUT_S = 5.0
CLOSE_S = 2.0
SWITCH_S = 0.0005
"""Switch interval of threads while spans are made; Python's default of 5 ms delays tokens."""

logger = logging.getLogger(__name__)

Attributes = dict[str, AttributeValue]
Traced = tuple[RequestRecord, TraceContext]


def attributes(record: RequestRecord) -> Attributes:
    """Attributes of the span of a whole request, with names of the semantic conventions."""
    told: Attributes = {
        "http.request.method": "POST",
        "url.path": record.endpoint,
        "http.response.status_code": record.status,
        "gen_ai.provider.name": SERVICE,
        "gen_ai.request.model": record.model,
        "gen_ai.request.stream": record.streamed,
        "gen_ai.usage.input_tokens": record.usage.prompt_tokens,
        "gen_ai.usage.output_tokens": record.usage.output_tokens,
        "gen_ai.usage.cache_read.input_tokens": record.usage.cached_tokens,
        "dynamo.request_id": record.request_id,
    }
    if (operation := OPERATIONS.get(Endpoint(record.endpoint))) is not None:
        told["gen_ai.operation.name"] = operation
    if record.finish_reason:
        told["gen_ai.response.finish_reasons"] = (record.finish_reason,)
    if record.ttft_ns is not None:
        told["gen_ai.response.time_to_first_chunk"] = record.ttft_ns / SECOND_NS
    if record.worker is not None:
        told["dynamo.worker"] = record.worker
    if record.timeline.prefill_worker is not None:
        told["dynamo.prefill_worker"] = record.timeline.prefill_worker
    if record.error:
        told["error.type"] = record.error
    return told


def move_attributes(step: moves.MoveStep) -> Attributes:
    """Attributes of the event of a move; an unknown one is left out."""
    known: dict[str, AttributeValue | None] = {
        "from": step.source,
        "to": step.target,
        "reason": step.reason,
        "output_tokens": step.output_tokens,
        "gap_ms": step.gap_ms,
    }
    return {f"dynamo.move.{name}": value for name, value in known.items() if value is not None}


class SpanMaker:
    """Makes spans from records of requests.

    Args:
        epoch_ns: difference between the time since 1970 and the monotonic clock, in nanoseconds.
    """

    def __init__(self, epoch_ns: int) -> None:
        self._epoch_ns = epoch_ns
        self._scope = InstrumentationScope(SERVICE, __version__)
        self._resource = Resource.create({"service.name": SERVICE, "service.version": __version__})

    def spans(self, record: RequestRecord, trace: TraceContext) -> Iterator[ReadableSpan]:
        """The span of the request, then those of its stages."""
        own = _context(trace.trace_id, trace.span_id)
        what = OPERATIONS.get(Endpoint(record.endpoint))
        yield self._span(
            f"{what} {record.model}" if what else f"POST {record.endpoint}",
            own,
            _context(trace.trace_id, trace.parent_id) if trace.parent_id else None,
            (record.arrival_ns, record.ended_ns),
            attributes(record),
            SpanKind.SERVER,
            self._moves(record),
            failed=record.status >= 500 or (record.status == 200 and bool(record.error)),
        )
        for stage in stages(record):
            yield self._span(
                stage.name,
                _context(trace.trace_id, new_span_id()),
                own,
                (stage.begin_ns, stage.end_ns),
                {"dynamo.process": stage.process},
            )

    def _moves(self, record: RequestRecord) -> list[Event]:
        return [
            Event(
                "moved",
                move_attributes(moves.step(move, record.arrival_ns)),
                move.left_ns + self._epoch_ns,
            )
            for move in record.moves
        ]

    def _span(
        self,
        name: str,
        context: SpanContext,
        parent: SpanContext | None,
        times_ns: tuple[int, int],
        attributes: Attributes,
        kind: SpanKind = SpanKind.INTERNAL,
        events: Sequence[Event] = (),
        *,
        failed: bool = False,
    ) -> ReadableSpan:
        begin_ns, end_ns = times_ns
        return ReadableSpan(
            name=name,
            context=context,
            parent=parent,
            resource=self._resource,
            attributes=attributes,
            events=events,
            kind=kind,
            status=Status(StatusCode.ERROR if failed else StatusCode.UNSET),
            start_time=begin_ns + self._epoch_ns,
            end_time=end_ns + self._epoch_ns,
            instrumentation_scope=self._scope,
        )


class Tracer:
    """Sends spans to an OTLP endpoint in a thread; spans that cannot be sent are counted.

    Args:
        endpoint: URL of a collector that takes OTLP over HTTP.
        meter: counts requests by the outcome of their spans: exported, failed or dropped.
    """

    def __init__(self, endpoint: str, meter: Meter) -> None:
        logging.getLogger("opentelemetry").setLevel(
            logging.CRITICAL
        )  # `_export` logs failures itself
        sys.setswitchinterval(SWITCH_S)
        self._endpoint = endpoint
        self._meter = meter
        self._exporter = OTLPSpanExporter(endpoint=endpoint, timeout=TIMEOUT_S)
        self._maker = SpanMaker(time.time_ns() - time.monotonic_ns())
        self._waiting: queue.Queue[Traced | None] = queue.Queue(MAX_WAITING)
        self._reachable = True
        self._thread = threading.Thread(target=self._run, name="traces", daemon=True)
        self._thread.start()

    def add(self, record: RequestRecord, trace: TraceContext) -> None:
        """Queue a finished request for the thread; never blocks."""
        try:
            self._waiting.put_nowait((record, trace))
        except queue.Full:
            self._meter.traces["dropped"] += 1

    def close(self) -> None:
        """Send what waits, for `CLOSE_S` at most."""
        try:
            self._waiting.put(None, timeout=CLOSE_S / 2)
            self._thread.join(CLOSE_S / 2)
        except queue.Full:
            pass  # the collector is too slow: what waits is lost
        self._exporter.shutdown()  # type: ignore[no-untyped-call]

    @vital.callback
    def _run(self) -> None:
        while (first := self._waiting.get()) is not None:
            batch, last = self._more(first)
            self._export(batch)
            if last:
                return

    def _more(self, first: Traced) -> tuple[list[Traced], bool]:
        """Collect a batch for `BATCH_S`; True if nothing can follow it."""
        batch, deadline = [first], time.monotonic() + BATCH_S
        while len(batch) < BATCH:
            try:
                more = self._waiting.get(timeout=max(deadline - time.monotonic(), 0.001))
            except queue.Empty:
                break
            if more is None:
                return batch, True
            batch.append(more)
        return batch, False

    def _export(self, batch: list[Traced]) -> None:
        spans = [span for traced in batch for span in self._maker.spans(*traced)]
        sent = self._exporter.export(spans) is SpanExportResult.SUCCESS
        self._meter.traces["exported" if sent else "failed"] += len(batch)
        if sent is not self._reachable:
            self._reachable = sent
            if sent:
                logger.warning("traces reach %s again", self._endpoint)
            else:
                logger.warning(
                    "traces do not reach %s; /metrics counts them as failed", self._endpoint
                )


def _context(trace_id: int, span_id: int) -> SpanContext:
    return SpanContext(trace_id, span_id, is_remote=False, trace_flags=TraceFlags.SAMPLED)  # type: ignore[arg-type]
