"""A trace: requests with their arrival times, lengths and block hashes."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import msgspec
from xxhash import xxh3_64_intdigest

from dynamo_cli.errors import UsageError
from dynamo_cli.messages.set_up import SetUp

MAX_BLOCKS = 30_000_000
"""Most hashes of a trace, over all its requests: more would take gigabytes."""


class TraceRequest(msgspec.Struct, frozen=True, gc=False):
    """A request of a trace.

    Attributes:
        arrival_ns: when it comes, nanoseconds since the start of the trace.
        input_tokens, output_tokens: lengths of prompt and answer.
        hashes: sequence hashes of the prompt's full blocks.
        session: session of the client; empty if there is none.
        priority: smaller is served earlier.
    """

    arrival_ns: int
    input_tokens: int
    output_tokens: int
    hashes: Sequence[int]
    session: str = ""
    priority: int = 0


class Trace(msgspec.Struct, frozen=True):
    """Requests in the order of their arrival.

    Attributes:
        name: name for tables.
        block_size: tokens per hash.
        requests: the requests.
        note: says, for people, how the file was understood.
        set_up: what served the requests, where a record says so.
    """

    name: str
    block_size: int
    requests: tuple[TraceRequest, ...]
    note: str = ""
    set_up: SetUp | None = None

    @property
    def duration_ns(self) -> int:
        """Arrival time of the last request."""
        return self.requests[-1].arrival_ns if self.requests else 0

    def part(self, start: int, end: int) -> Trace:
        """Return the requests start..end-1, with the first arriving at time 0."""
        chosen = self.requests[start:end]
        first_ns = chosen[0].arrival_ns if chosen else 0
        moved = (
            msgspec.structs.replace(request, arrival_ns=request.arrival_ns - first_ns)
            for request in chosen
        )
        return msgspec.structs.replace(self, requests=tuple(moved))


def infinite_hit_ratio(trace: Trace) -> float:
    """Return the share of prompt tokens that one cache without bound would hold."""
    known: set[int] = set()
    hits = total = 0
    for request in trace.requests:
        usable = (request.input_tokens - 1) // trace.block_size
        hits += trace.block_size * _leading(request.hashes[:usable], known)
        total += request.input_tokens
        known.update(request.hashes)
    return hits / total if total else 0.0


def _leading(hashes: Sequence[int], known: set[int]) -> int:
    for depth, block in enumerate(hashes):
        if block not in known:
            return depth
    return len(hashes)


def with_block_size(trace: Trace, block_size: int) -> Trace:
    """Return the trace with smaller blocks.

    Raises:
        UsageError: its blocks cannot be divided into blocks of this size, or there are too many.
    """
    if block_size == trace.block_size:
        return trace
    parts, rest = divmod(trace.block_size, block_size)
    if rest or not parts:
        raise UsageError(
            f"--block-size {block_size} does not divide the trace's blocks of "
            f"{trace.block_size} tokens."
        )
    blocks = parts * sum(len(request.hashes) for request in trace.requests)
    if blocks > MAX_BLOCKS:
        raise UsageError(
            f"--block-size {block_size} makes {blocks:,} blocks of the trace, and {MAX_BLOCKS:,} "
            "are the most; take larger ones."
        )
    divided = (
        msgspec.structs.replace(
            request,
            hashes=array("Q", (part for block in request.hashes for part in _split(block, parts))),
        )
        for request in trace.requests
    )
    return msgspec.structs.replace(trace, block_size=block_size, requests=tuple(divided))


def _split(block: int, parts: int) -> list[int]:
    """Return hashes for the parts of a block; the last one is the hash of the whole block."""
    seed = block.to_bytes(8, "little")
    return [xxh3_64_intdigest(seed, part) for part in range(1, parts)] + [block]
