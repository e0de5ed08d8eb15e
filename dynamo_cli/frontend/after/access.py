"""The access log: one line for each answer that leaves the port, whatever gave it.

Only what monitors and dashboards ask every few seconds has no line as long as it succeeds.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections import deque
from http import HTTPStatus
from typing import Any

import msgspec

from dynamo_cli.errors import DynamoError
from dynamo_cli.frontend.http.admission import PROMPTS
from dynamo_cli.frontend.http.traceparent import TraceContext
from dynamo_cli.host import vital
from dynamo_cli.messages.logs import MOVED, access_line
from dynamo_cli.units import MS_NS
from dynamo_cli.watch import moves
from dynamo_cli.watch.meter import Meter
from dynamo_cli.watch.timelines import RequestRecord

FLUSH_S = 0.05
"""How long lines are collected before they are written together."""

BATCH_BYTES = 16 * 1024
"""Bound on one write, so that the pipe takes it whole and no other line is mixed in."""

MAX_PENDING_BYTES = 1024 * 1024
MAX_PROMPT = 4096
"""Number of characters of a prompt that are logged."""

POLLED, POLLED_PREFIX = frozenset({"/live", "/health", "/metrics"}), "/dynamo/"
"""Paths that programs read every few seconds."""

MAX_PATH = 256
"""Number of characters of a path that are logged."""

_encode = msgspec.json.Encoder().encode


def fields(
    record: RequestRecord, method: str, trace: TraceContext | None = None, prompt: str = ""
) -> dict[str, Any]:
    """The fields of a request for the model, without its text unless `prompt` is given."""
    ttft_ns = record.ttft_ns
    told: dict[str, Any] = {
        "id": record.request_id,
        "method": method,
        "endpoint": record.endpoint,
        "status": record.status,
        "model": _printable(record.model),
        "worker": record.worker,
        "prompt_tokens": record.usage.prompt_tokens,
        "cached_tokens": record.usage.cached_tokens,
        "output_tokens": record.usage.output_tokens,
        "ttft_ms": None if ttft_ns is None else round(ttft_ns / MS_NS, 1),
        "total_ms": _total_ms(record),
        "finish_reason": record.finish_reason,
    }
    if record.error:
        told["error"] = record.error
    if record.timeline.prefill_worker is not None:
        told["prefill_worker"] = record.timeline.prefill_worker
    if record.moves:
        told[MOVED] = [_move(moves.step(move, record.arrival_ns)) for move in record.moves]
    if trace is not None:
        told["trace_id"] = f"{trace.trace_id:032x}"
    if prompt:
        told["prompt"] = prompt[:MAX_PROMPT]
    return told


def is_poll(record: RequestRecord, method: str) -> bool:
    """Whether a monitor or a dashboard got what it reads again and again."""
    read = method in ("GET", "HEAD") and record.status < HTTPStatus.BAD_REQUEST
    return read and (record.endpoint in POLLED or record.endpoint.startswith(POLLED_PREFIX))


def plain_fields(record: RequestRecord, method: str) -> dict[str, Any]:
    """The fields of any other request: a page of a monitor, a wrong path, a command."""
    told = {
        "id": record.request_id,
        "method": method,
        "endpoint": _printable(record.endpoint[:MAX_PATH]),
        "status": record.status,
        "total_ms": _total_ms(record),
    }
    return told | ({"error": record.error} if record.error else {})


def refused_fields(error: DynamoError, request_id: str) -> dict[str, Any]:
    """The fields of an answer to what was no request: invalid HTTP, or one connection too many."""
    return {
        "id": request_id,
        "method": None,
        "endpoint": None,
        "status": error.http_status,
        "error": error.kind,
    }


def _printable(text: str) -> str:
    """Text of a client, without anything that a terminal would obey."""
    return text if text.isprintable() else ascii(text)


def _total_ms(record: RequestRecord) -> float:
    return round((record.ended_ns - record.arrival_ns) / MS_NS, 1)


def _move(step: moves.MoveStep) -> dict[str, Any]:
    """A move as the line shows it, without its time: the line has a time of its own."""
    return {
        "from": step.source,
        "to": step.target,
        "reason": step.reason,
        "output_tokens": step.output_tokens,
        "gap_ms": step.gap_ms,
    }


def prompt_of(content: dict[str, Any]) -> str:
    """The prompts in a body, as JSON."""
    return _encode({name: content[name] for name in PROMPTS if name in content}).decode(
        errors="replace"
    )


class AccessLog:
    """Writes lines to the log pipe, many at a time and without ever blocking.

    Args:
        pipe: the write end of the log pipe; its blocking mode is left as it is.
        meter: counts lines that were dropped because too many waited.
    """

    def __init__(self, pipe: socket.socket, meter: Meter) -> None:
        self._pipe = pipe
        self._meter = meter
        self._lines: deque[bytes] = deque()
        self._pending_bytes = 0
        self._timer: asyncio.TimerHandle | None = None

    @classmethod
    def of_this_process(cls, meter: Meter) -> AccessLog:
        """An access log that writes to stderr, which is the log pipe."""
        return cls(socket.socket(fileno=os.dup(2)), meter)

    def add(self, told: dict[str, Any]) -> None:
        """Add a line with these fields."""
        line = access_line(_encode(told))
        if self._pending_bytes + len(line) > MAX_PENDING_BYTES:
            self._meter.lost_access_lines += 1
            return
        self._lines.append(line)
        self._pending_bytes += len(line)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(FLUSH_S, self._flush_later)

    def close(self) -> None:
        """Write the lines that the pipe takes now, and drop the rest."""
        if self._timer is not None:
            self._timer.cancel()
        self._flush()
        self._pipe.close()

    @vital.callback
    def _flush_later(self) -> None:
        self._timer = None
        self._flush()
        if self._lines:
            self._timer = asyncio.get_running_loop().call_later(FLUSH_S, self._flush_later)

    def _flush(self) -> None:
        while self._lines:
            batch = self._batch()
            try:
                sent = self._pipe.send(batch, socket.MSG_DONTWAIT)
            except BlockingIOError:
                sent = 0  # the pipe is full: lines stay here, up to the bound
            except BrokenPipeError:
                return  # the supervisor is gone, and this process ends too
            self._pending_bytes -= sent
            if sent < len(batch):
                self._lines.appendleft(batch[sent:])
                return

    def _batch(self) -> bytes:
        """Take the next lines, at least one, up to `BATCH_BYTES`."""
        batch = [self._lines.popleft()]
        size = len(batch[0])
        while self._lines and (size := size + len(self._lines[0])) <= BATCH_BYTES:
            batch.append(self._lines.popleft())
        return b"".join(batch)
