"""The header `traceparent` of W3C trace context: parsed and made. Pure except for random ids."""

from __future__ import annotations

import random
import re
from typing import NamedTuple

SAMPLED = 1

# version - trace id - span id - flags; later versions may append more.
_HEADER = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")

_dice = random.SystemRandom()


class TraceContext(NamedTuple):
    """One span of a trace.

    Attributes:
        trace_id: 128 bits, the same for all spans of a trace.
        span_id: 64 bits.
        sampled: whether the span is exported.
        parent_id: id of the parent span; 0 for a first span and for the span of a caller.
    """

    trace_id: int
    span_id: int
    sampled: bool
    parent_id: int = 0

    @property
    def header(self) -> str:
        """The value of the header `traceparent`."""
        return f"00-{self.trace_id:032x}-{self.span_id:016x}-{int(self.sampled):02x}"


def parse(header: str | None) -> TraceContext | None:
    """The caller's span; None if there is no header or it is not valid."""
    found = _HEADER.fullmatch(header.strip()) if header else None
    if found is None:
        return None
    version, trace, span, flags, more = found.groups()
    trace_id, span_id = int(trace, 16), int(span, 16)
    if version == "ff" or (version == "00" and more) or not trace_id or not span_id:
        return None
    return TraceContext(trace_id, span_id, bool(int(flags, 16) & SAMPLED))


def begin(header: str | None) -> TraceContext:
    """A new span: a child of the caller's, or the first one of a new trace."""
    caller = parse(header)
    span_id = new_span_id()
    if caller is None:
        return TraceContext(_dice.getrandbits(128) or 1, span_id, sampled=True)
    return TraceContext(caller.trace_id, span_id, caller.sampled, caller.span_id)


def new_span_id() -> int:
    """A random span id, which is never 0."""
    return _dice.getrandbits(64) or 1
