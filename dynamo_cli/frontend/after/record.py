"""The lines that ``--record`` writes: times, lengths and hashes of a request, never text. Pure.

The first line says what served (`messages.set_up`), and so does a line wherever a server continues
the file. After it there is one line of JSON per prompt. Most fields have the names of Mooncake's
traces. A request that moved to another process also has one line per prompt: its lengths are those
of the whole answer, and its times include the gaps of its moves.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec
from xxhash import xxh3_64_hexdigest

from dynamo_cli.errors import UsageError
from dynamo_cli.kv import hashes
from dynamo_cli.messages.request import Prompt
from dynamo_cli.messages.set_up import Heading, SetUp
from dynamo_cli.units import MS_NS
from dynamo_cli.watch.timelines import RequestRecord


class RecordLine(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """One prompt of a successful request.

    Attributes:
        timestamp: arrival of the request in milliseconds since the start of the record.
        input_length, output_length: tokens of the prompt and of its answer.
        hash_ids: sequence hashes of the prompt's full blocks; equal hashes mean equal prefixes.
        block_size: tokens per block.
        model: name of the model that the request asked for.
        e2e_ms: time from arrival to the end of the answer.
        ttft_ms: time from arrival to the first token; absent if there was none.
        session: a pseudonym of the client's session id; absent if there was none.
        priority: the request's priority; absent if it is 0.
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


def heading(set_up: SetUp) -> bytes:
    """The line that says what served the requests after it."""
    return msgspec.json.encode(Heading(set_up)) + b"\n"


class _Start(msgspec.Struct):
    timestamp: float


def lines(
    record: RequestRecord, prompts: tuple[Prompt, ...], origin_ns: int, salt: bytes
) -> Iterator[bytes]:
    """The lines of a request, one for each prompt.

    Args:
        origin_ns: time 0 of the record, on the monotonic clock.
        salt: makes the pseudonyms of sessions irreversible.
    """
    ttft_ns = record.ttft_ns
    for prompt in prompts:
        session = xxh3_64_hexdigest(salt + prompt.session.encode()) if prompt.session else ""
        line = RecordLine(
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


BEGIN = re.compile(rb'(?:^|\n)\{"timestamp":(-?\d+(?:\.\d+)?)')
"""The begin of a line, with its timestamp, which is always the first field."""


def end_ms(tail: bytes) -> float:
    """The timestamp of the last line of a record; 0.0 for an empty one.

    Args:
        tail: the last bytes of the file.

    Raises:
        UsageError: the last line is not one of a record.
    """
    if not tail:
        return 0.0
    *_, last = tail.rstrip(b"\n").split(b"\n")
    try:
        return msgspec.json.decode(last, type=_Start).timestamp
    except msgspec.DecodeError as error:
        raise UsageError("the file exists and is not a record") from error


def _ms(ns: int) -> float:
    return round(ns / MS_NS, 3)
