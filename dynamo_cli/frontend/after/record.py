"""What ``--record`` keeps of a request: times, lengths and hashes, never text. Pure.

A line of JSON per prompt, with the names of Mooncake's traces and some of our own.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
from xxhash import xxh3_64_hexdigest

from dynamo_cli.errors import UsageError
from dynamo_cli.kv import hashes
from dynamo_cli.messages.request import Prompt
from dynamo_cli.units import MS_NS
from dynamo_cli.watch.timelines import RequestRecord


class Line(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """One prompt of a request that ended well.

    Attributes:
        timestamp: when the request came, in milliseconds from the start of the record.
        hash_ids: sequence hashes of the prompt's full blocks: equal ones mean equal prefixes.
        block_size: tokens per hash.
        ttft_ms: arrival to the first token.
        e2e_ms: arrival to the end of the answer.
        session: a name that stands for the client's own; absent when there was none.
    """

    timestamp: float
    input_length: int
    output_length: int
    hash_ids: list[int]
    block_size: int
    model: str
    e2e_ms: float
    ttft_ms: float | None = None
    session: str = ""
    priority: int = 0


class _Start(msgspec.Struct):
    timestamp: float


def lines(
    record: RequestRecord, prompts: tuple[Prompt, ...], origin_ns: int, salt: bytes
) -> Iterator[bytes]:
    """A request as lines.

    Args:
        origin_ns: where the record's time begins, on the clock of the request's.
        salt: that hides the names of sessions.
    """
    ttft_ns = record.ttft_ns
    for prompt in prompts:
        session = xxh3_64_hexdigest(salt + prompt.session.encode()) if prompt.session else ""
        line = Line(
            timestamp=_ms(record.arrival_ns - origin_ns),
            input_length=prompt.prompt_tokens,
            output_length=prompt.output_tokens,
            hash_ids=hashes.unpack(prompt.hashes).tolist(),
            block_size=prompt.block_size,
            model=record.model,
            e2e_ms=_ms(record.ended_ns - record.arrival_ns),
            ttft_ms=None if ttft_ns is None else _ms(ttft_ns),
            session=session,
            priority=prompt.priority,
        )
        yield msgspec.json.encode(line) + b"\n"


def end_ms(tail: bytes) -> float:
    """The time of the last line of a record whose end this is; 0.0 of an empty one.

    Raises:
        UsageError: it does not end like a record.
    """
    if not tail:
        return 0.0
    *_, last = tail.rstrip(b"\n").split(b"\n")
    try:
        return msgspec.json.decode(last, type=_Start).timestamp
    except msgspec.DecodeError as error:
        raise UsageError("it has something else in it") from error


def _ms(ns: int) -> float:
    return round(ns / MS_NS, 3)
