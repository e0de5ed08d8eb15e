"""Traces of requests: when each came, how long it was, and what it shared with others."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec
from xxhash import xxh3_64_intdigest

from dynamo_cli.errors import UsageError

MS_NS = 1_000_000
MOONCAKE_BLOCK_SIZE = 512
MASK = (1 << 64) - 1

Line = TypeVar("Line")


class TraceRequest(msgspec.Struct, frozen=True, gc=False):
    """A request of a trace.

    Attributes:
        arrival_ns: since the start of the trace.
        input_tokens, output_tokens: lengths of prompt and answer.
        hashes: sequence hashes of the prompt's full blocks.
        session: of the client; empty when it has none.
        priority: smaller comes first.
    """

    arrival_ns: int
    input_tokens: int
    output_tokens: int
    hashes: tuple[int, ...]
    session: str = ""
    priority: int = 0


class Trace(msgspec.Struct, frozen=True):
    """Requests in the order in which they came.

    Attributes:
        block_size: tokens per hash.
    """

    name: str
    block_size: int
    requests: tuple[TraceRequest, ...]

    @property
    def duration_ns(self) -> int:
        return self.requests[-1].arrival_ns if self.requests else 0

    def part(self, start: int, end: int) -> Trace:
        """Requests start..end-1, from time 0 on."""
        chosen = self.requests[start:end]
        first_ns = chosen[0].arrival_ns if chosen else 0
        moved = (
            msgspec.structs.replace(request, arrival_ns=request.arrival_ns - first_ns)
            for request in chosen
        )
        return Trace(self.name, self.block_size, tuple(moved))


class _Line(msgspec.Struct):
    """A line of a trace of lengths and hashes; times in milliseconds."""

    timestamp: float
    input_length: Annotated[int, msgspec.Meta(ge=1)]
    output_length: int
    hash_ids: list[int]
    block_size: int = MOONCAKE_BLOCK_SIZE
    session: str = ""
    priority: int = 0


def read_lines(path: Path) -> list[bytes]:
    """Its lines with something in them.

    Raises:
        UsageError: it cannot be read, or there are none.
    """
    try:
        lines = [line for line in path.read_bytes().splitlines() if line.strip()]
    except OSError as error:
        raise UsageError(f"cannot read the trace {path}: {error.strerror}.") from error
    if not lines:
        raise UsageError(f"the trace {path} has no requests.")
    return lines


def parse(path: Path, lines: Iterable[bytes], kind: type[Line]) -> list[Line]:
    """Each line as such an object.

    Raises:
        UsageError: one is none.
    """
    decode, parsed = msgspec.json.Decoder(kind).decode, []
    for number, line in enumerate(lines, 1):
        try:
            parsed.append(decode(line))
        except msgspec.MsgspecError as error:
            raise UsageError(f"{path}, request {number}: {error}.") from error
    return parsed


def read(path: Path) -> Trace:
    """A trace in Mooncake's format, or an access record of ours.

    Raises:
        UsageError: it cannot be read, or a line makes no sense.
    """
    lines = parse(path, read_lines(path), _Line)
    block_size = lines[0].block_size
    if any(line.block_size != block_size or line.block_size < 1 for line in lines):
        raise UsageError(f"{path}: all requests must have the same block_size, at least 1.")
    lines.sort(key=lambda line: line.timestamp)
    start = lines[0].timestamp
    requests = tuple(_request(line, start, block_size) for line in lines)
    return Trace(path.stem, block_size, requests)


def _request(line: _Line, start: float, block_size: int) -> TraceRequest:
    full = line.input_length // block_size
    return TraceRequest(
        arrival_ns=round((line.timestamp - start) * MS_NS),
        input_tokens=line.input_length,
        output_tokens=max(line.output_length, 1),
        hashes=tuple(block & MASK for block in line.hash_ids[:full]),
        session=line.session,
        priority=line.priority,
    )


def infinite_hit_ratio(trace: Trace) -> float:
    """Share of the prompt tokens that one cache without bound would have."""
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
    """The same trace with smaller blocks.

    Raises:
        UsageError: its blocks cannot be divided like that.
    """
    if block_size == trace.block_size:
        return trace
    parts, rest = divmod(trace.block_size, block_size)
    if rest or not parts:
        raise UsageError(
            f"--block-size {block_size} does not divide the trace's blocks of "
            f"{trace.block_size} tokens."
        )
    divided = (
        msgspec.structs.replace(
            request, hashes=tuple(part for block in request.hashes for part in _split(block, parts))
        )
        for request in trace.requests
    )
    return Trace(trace.name, block_size, tuple(divided))


def _split(block: int, parts: int) -> list[int]:
    """Hashes of the parts of a block; the whole keeps its name in the last."""
    seed = block.to_bytes(8, "little")
    return [xxh3_64_intdigest(seed, part) for part in range(1, parts)] + [block]
