"""The formats of traces, and the parsers of their lines. Pure.

    mooncake   JSON   timestamp (ms), input_length, output_length, hash_ids of 512 tokens
    qwen       JSON   the same in seconds and with 16 tokens; chat_id, parent_chat_id, turn, type
    record     JSON   written by --record: ms, and block_size in each line
    prompts    JSON   prompt or messages; optionally timestamp (ms) and max_tokens
    sharegpt   JSON   conversations: turns of a person and a model, as text
    azure      CSV    TIMESTAMP (a date), ContextTokens, GeneratedTokens
    burstgpt   CSV    Timestamp (s), Model, Request tokens, Response tokens, ...

Those of JSON have an object on each line, or are an array of objects. The last two have only
lengths, so no requests share a prefix.
"""

from __future__ import annotations

import csv
import sys
from array import array
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, TypeVar

import msgspec

from dynamo_cli.kv.hashes import ROOT
from dynamo_cli.units import MS_NS, SECOND_NS

MAX_TOKENS = 10_000_000
"""Bound for the length of a prompt or an answer, which is more than any model takes."""
MAX_BLOCK_SIZE = 1 << 20
MAX_TIME = 1e19
"""Bound for timestamps; nanoseconds since 1970 are below it."""
MASK = (1 << 64) - 1
ZERO = 0x9E3779B97F4A7C15
"""Stands for a block hash of 0 in a trace: as a sequence hash, 0 is the root of all prompts."""
MAX_PRIORITY = (1 << 62) - 1
TURNS = frozenset(("conversations", "conversation"))
"""Fields that have the turns of a conversation."""

_SHOWN_FIELDS, _SHOWN_LETTERS = 8, 100


class Format(StrEnum):
    """A format of traces, as listed above; `AUTO` is detected from the first line."""

    AUTO = "auto"
    MOONCAKE = "mooncake"
    QWEN = "qwen"
    RECORD = "record"
    PROMPTS = "prompts"
    SHAREGPT = "sharegpt"
    AZURE = "azure"
    BURSTGPT = "burstgpt"


class TimeUnit(StrEnum):
    """The unit of timestamps."""

    S = "s"
    MS = "ms"
    US = "us"
    NS = "ns"

    @property
    def ns(self) -> int:
        """Nanoseconds in one unit."""
        return {"s": SECOND_NS, "ms": MS_NS, "us": 1000, "ns": 1}[self.value]


Tokens = Annotated[int, msgspec.Meta(ge=1, le=MAX_TOKENS)]
OutputTokens = Annotated[int, msgspec.Meta(ge=0, le=MAX_TOKENS)]
Timestamp = Annotated[float, msgspec.Meta(ge=0, le=MAX_TIME)]


class TraceRow(msgspec.Struct, frozen=True, gc=False):
    """A request as given by a line.

    Attributes:
        timestamp: in the unit of the trace; None if the line has none.
        input_tokens, output_tokens: lengths of prompt and answer.
        hashes: block hashes; the last one may be that of a partial block.
        session: session of the client; empty if there is none.
        priority: smaller is served earlier.
        block_size: tokens per block; 0 if the line does not state it.
        random_ns: arrival since the start of the trace, used if there is no timestamp.
    """

    timestamp: float | None
    input_tokens: int
    output_tokens: int
    hashes: Sequence[int] = ()
    session: str = ""
    priority: int = 0
    block_size: int = 0
    random_ns: int = 0


Parser = Callable[[bytes], Sequence[TraceRow]]
"""Parses a line into its requests; none if it has no prompt or no answer.

It raises ValueError with a text that says what is wrong with the line.
"""


class _HashLine(msgspec.Struct):
    """A JSON line with lengths and hashes."""

    timestamp: Timestamp
    input_length: Tokens
    output_length: OutputTokens
    hash_ids: tuple[int, ...]
    block_size: Annotated[int, msgspec.Meta(ge=1, le=MAX_BLOCK_SIZE)] | None = None
    session: str = ""
    priority: Annotated[int, msgspec.Meta(ge=-MAX_PRIORITY, le=MAX_PRIORITY)] = 0


class _QwenLine(msgspec.Struct):
    timestamp: Timestamp
    input_length: OutputTokens
    output_length: OutputTokens
    hash_ids: tuple[int, ...] = ()


_decode_any = msgspec.json.Decoder(dict[str, Any]).decode
_decode_line = msgspec.json.Decoder(_HashLine).decode
_decode_qwen = msgspec.json.Decoder(_QwenLine).decode
Kind = TypeVar("Kind")


def told_by(line: bytes) -> Format:
    """Detect the format of a trace by its first line; Mooncake's if there is no clear sign.

    Raises:
        ValueError: it is none of the formats.
    """
    if line.strip() == b"{":
        raise ValueError(
            "an object begins here and goes on; a trace has an object on each line (jq -c . FILE), "
            "or is a JSON array"
        )
    if line.lstrip().startswith(b"{"):
        return _told_by_fields(strictly(_decode_any, line))
    for found, columns in _COLUMNS.items():
        if set(columns) <= set(_cells(line)):
            return found
    raise ValueError(
        "it is neither a JSON object nor the header of a CSV file of azure "
        f"({', '.join(_COLUMNS[Format.AZURE])}) or burstgpt "
        f"({', '.join(_COLUMNS[Format.BURSTGPT])}); another table needs its columns renamed"
    )


def _told_by_fields(fields: Mapping[str, Any]) -> Format:
    if "prompt" in fields or "messages" in fields:
        return Format.PROMPTS
    if TURNS & fields.keys():
        return Format.SHAREGPT
    if "body" in fields:
        raise ValueError(
            "it is a request for OpenAI's batch API; take what is in it: jq -c .body FILE"
        )
    if not {"input_length", "hash_ids"} & fields.keys():
        names = ", ".join(sorted(fields)[:_SHOWN_FIELDS])[:_SHOWN_LETTERS] or "none"
        raise ValueError(
            f"no format has its fields ({names}); a request has input_length, output_length, "
            "hash_ids and timestamp, or prompt, or messages, or conversations"
        )
    if "parent_chat_id" in fields:
        return Format.QWEN
    return Format.RECORD if "block_size" in fields else Format.MOONCAKE


def parser(form: Format, first: bytes) -> Parser:
    """Return the parser of a format with lengths.

    Args:
        form: the format.
        first: first line of the trace, which is the header of a CSV file.

    Raises:
        ValueError: the header lacks a column.
    """
    match form:
        case Format.QWEN:
            return _qwen
        case Format.AZURE | Format.BURSTGPT:
            return _Csv(form, first)
        case _:
            return _mooncake


def strictly(decode: Callable[[bytes], Kind], line: bytes) -> Kind:
    """Decode a line of JSON.

    Raises:
        ValueError: the line is not valid.
    """
    try:
        return decode(line)
    except msgspec.MsgspecError as error:
        raise ValueError(str(error).replace("`$.", "`")) from error
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _mooncake(line: bytes) -> Sequence[TraceRow]:
    told = strictly(_decode_line, line)
    row = TraceRow(
        told.timestamp,
        told.input_length,
        max(told.output_length, 1),
        _named(told.hash_ids),
        sys.intern(told.session),
        told.priority,
        told.block_size or 0,
    )
    return (row,)


def _qwen(line: bytes) -> Sequence[TraceRow]:
    told = strictly(_decode_qwen, line)
    if not told.input_length or not told.output_length:
        return ()
    return (TraceRow(told.timestamp, told.input_length, told.output_length, _named(told.hash_ids)),)


def _named(hashes: tuple[int, ...]) -> Sequence[int]:
    """Return hashes of 64 bits; longer ones are truncated, and 0, which is no block, replaced.

    An array takes a fifth of the memory of a tuple: there may be tens of millions of them.
    """
    if hashes and (min(hashes) <= ROOT or max(hashes) > MASK):
        hashes = tuple((block & MASK) or ZERO for block in hashes)
    return array("Q", hashes) if hashes else ()


_COLUMNS = {
    Format.AZURE: ("TIMESTAMP", "ContextTokens", "GeneratedTokens"),
    Format.BURSTGPT: ("Timestamp", "Request tokens", "Response tokens"),
}


class _Csv:
    """Parses the rows of a CSV file, whose header names the columns in any order."""

    def __init__(self, form: Format, header: bytes) -> None:
        cells = _cells(header)
        if missing := [name for name in _COLUMNS[form] if name not in cells]:
            raise ValueError(
                f"a CSV file of {form} begins with its header, and this has no {missing[0]}"
            )
        self._places = [cells.index(name) for name in _COLUMNS[form]]
        self._time = _date if form is Format.AZURE else _seconds

    def __call__(self, line: bytes) -> Sequence[TraceRow]:
        cells = _cells(line)
        if len(cells) <= max(self._places):
            raise ValueError(f"{len(cells)} columns are too few")
        when, prompt, answer = (cells[place] for place in self._places)
        timestamp, tokens, output = self._time(when), _count(prompt), _count(answer)
        return (TraceRow(timestamp, tokens, output),) if tokens and output else ()


def _cells(line: bytes) -> list[str]:
    try:
        text = line.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise ValueError("it is not UTF-8") from error
    return [cell.strip() for cell in next(csv.reader([text]))]


def _date(text: str) -> float:
    """Return seconds since 1970; a date without time zone is in UTC."""
    try:
        date = datetime.fromisoformat(text)
    except ValueError as error:
        raise ValueError(f"{text[:40]!r} is not a date") from error
    return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()


def _seconds(text: str) -> float:
    try:
        time = float(text)
    except ValueError as error:
        raise ValueError(f"the timestamp {text[:40]!r} is not a number") from error
    if not 0 <= time <= MAX_TIME:
        raise ValueError(f"the timestamp {text[:40]!r} is not between 0 and {MAX_TIME:g}")
    return time


def _count(text: str) -> int:
    """Return a number of tokens; some tools write 12 as 12.0."""
    digits = text.removesuffix(".0")
    if not digits.isdecimal() or len(digits) > len(str(MAX_TOKENS)) or int(digits) > MAX_TOKENS:
        raise ValueError(f"{text[:40]!r} is not a number of tokens from 0 to {MAX_TOKENS}")
    return int(digits)
