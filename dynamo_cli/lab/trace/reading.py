"""Reads a file into a trace: finds its format, its block size and the unit of its timestamps.

Nothing is guessed. A format is recognized by its fields. Lines with only lengths and hashes must
fit Mooncake's format, with milliseconds and blocks of 512 tokens; otherwise the user must say what
they are.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, TypeVar

import msgspec

from dynamo_cli.errors import UsageError
from dynamo_cli.lab.trace import formats, lines
from dynamo_cli.lab.trace.block_sizes import BlockSizeRange, bounds, far_off, said
from dynamo_cli.lab.trace.formats import Format, Parser, TimeUnit, TraceRow
from dynamo_cli.lab.trace.trace import MAX_BLOCKS, Trace, TraceRequest
from dynamo_cli.messages.set_up import Heading, SetUp
from dynamo_cli.units import SECOND_NS

MAX_REQUESTS = 2_000_000
YEAR_NS = 366 * 24 * 3600 * SECOND_NS
MAX_SPAN_NS = YEAR_NS
"""A trace that lasts longer than this has its timestamps in another unit."""
BLOCK_SIZES = {Format.MOONCAKE: 512, Format.QWEN: 16}
SECONDS = (Format.QWEN, Format.AZURE, Format.BURSTGPT)
ASSUMED_MS = (Format.MOONCAKE, Format.PROMPTS)
"""Formats whose fields are also used by other tools, with other units."""
CSV = (Format.AZURE, Format.BURSTGPT)
TEXT = (Format.PROMPTS, Format.SHAREGPT)
HEADING = b'{"set_up":'
NAMES = {
    TimeUnit.S: "seconds",
    TimeUnit.MS: "milliseconds",
    TimeUnit.US: "microseconds",
    TimeUnit.NS: "nanoseconds",
}
Result = TypeVar("Result")
_decode_heading = msgspec.json.Decoder(Heading).decode


@dataclass(frozen=True, slots=True)
class TraceHints:
    """What the user says about a trace.

    Attributes:
        form: its format.
        block_size: tokens per hash, used if the trace does not state it.
        time_unit: unit of its timestamps; None is that of its format.
    """

    form: Format = Format.AUTO
    block_size: int | None = None
    time_unit: TimeUnit | None = None


TOLD_NOTHING = TraceHints()


def read(
    path: Path,
    told: TraceHints = TOLD_NOTHING,
    *,
    engine_block_size: int = BLOCK_SIZES[Format.QWEN],
    prompts: Callable[[Format], Parser] | None = None,
) -> Trace:
    """Read a trace of any format.

    Args:
        path: file; ``-`` is standard input.
        told: what the user says about it.
        engine_block_size: block size of traces that say nothing about blocks.
        prompts: makes the parser of a format with text; None if text is not supported.

    Raises:
        UsageError: it cannot be read, a line is not valid, or its meaning is not certain.
    """
    where = lines.called(path)
    placed = _Headings(where, lines.lines(path))
    first = next(placed, None)
    if first is None:
        raise UsageError(f"the trace {where} has no requests.")
    form = _checked(where, first[0], lambda: _form(told, first[1]))
    parse = _checked(where, first[0], lambda: _parser(form, first[1], prompts))
    rows = _Rows(where, form, assumed=told.form is Format.AUTO and form in ASSUMED_MS)
    for place, line in placed if form in CSV else itertools.chain((first,), placed):
        rows.take(place, _checked(where, place, lambda: parse(line)))  # noqa: B023 - called now
    if not rows.rows:
        raise UsageError(f"the trace {where} has no requests.")
    size = rows.block_size(told.block_size, engine_block_size)
    unit = rows.time_unit(told.time_unit, size)
    return rows.trace(lines.name_of(path), size, unit, placed.set_up)


class _Headings:
    """The lines of a trace without those that say what served it.

    Attributes:
        set_up: the last set-up so far; None before any.
    """

    def __init__(self, where: str, placed: Iterator[tuple[str, bytes]]) -> None:
        self.set_up: SetUp | None = None
        self._where, self._placed = where, placed

    def __iter__(self) -> Iterator[tuple[str, bytes]]:
        return self

    def __next__(self) -> tuple[str, bytes]:
        place, line = next(self._placed)
        while line.startswith(HEADING):
            self.set_up = _checked(self._where, place, lambda: _set_up(line))  # noqa: B023
            place, line = next(self._placed)
        return place, line


def _set_up(line: bytes) -> SetUp:
    return formats.strictly(_decode_heading, line).set_up


def _form(told: TraceHints, first: bytes) -> Format:
    return formats.told_by(first) if told.form is Format.AUTO else told.form


def _parser(form: Format, first: bytes, prompts: Callable[[Format], Parser] | None) -> Parser:
    if form not in TEXT:
        return formats.parser(form, first)
    if prompts is None:
        raise ValueError(
            "it has text, and only replay can read that: replay FILE --tokenizer MODEL"
        )
    return prompts(form)


def _checked(where: str, place: str, step: Callable[[], Result]) -> Result:
    """Return the result of a step; a ValueError becomes an error with the place in the file."""
    try:
        return step()
    except ValueError as error:
        raise UsageError(f"{where}, {place}: {error}.") from error


class _Rows:
    """The requests of a trace as given by its lines, and what follows from all of them together.

    Args:
        where: name of the trace for errors.
        form: its format.
        assumed: whether the format is only assumed.
    """

    def __init__(self, where: str, form: Format, *, assumed: bool) -> None:
        self.rows: list[TraceRow] = []
        self._where, self._form, self._assumed = where, form, assumed
        self._fit = BlockSizeRange()
        self._blocks = 0
        self._left_out = 0
        self._fraction_at = ""

    def take(self, place: str, rows: Sequence[TraceRow]) -> None:
        """Add the requests of the line at `place`; none is a line without prompt or answer.

        Raises:
            UsageError: they contradict the other lines, or the trace is too long.
        """
        self._left_out += not rows
        for row in rows:
            self._take(place, row)

    def _take(self, place: str, row: TraceRow) -> None:
        self.rows.append(row)
        self._blocks += len(row.hashes)
        if len(self.rows) > MAX_REQUESTS or self._blocks > MAX_BLOCKS:
            raise UsageError(
                f"{self._where}, {place}: more than {MAX_REQUESTS:,} requests or "
                f"{MAX_BLOCKS:,} blocks are too many; give a part, as head -n cuts it."
            )
        if self._form is Format.MOONCAKE and not row.block_size:
            self._fit.add(place, row.input_tokens, len(row.hashes))
        if row.timestamp is not None and row.timestamp % 1 and not self._fraction_at:
            self._fraction_at = place
        self._check_size(place, row)

    def _check_size(self, place: str, row: TraceRow) -> None:
        """Check a line against the block size that it or the format states."""
        first = self.rows[0].block_size
        if row.block_size != first:
            self._fail(f"all lines must have the same block_size; the first has {first}", place)
        if self._form is Format.RECORD and not first:
            self._fail("a record has block_size in each line", place)
        size = row.block_size or (BLOCK_SIZES[Format.QWEN] if self._form is Format.QWEN else 0)
        tokens, blocks = row.input_tokens, len(row.hashes)
        if size and far_off(tokens, blocks, size):
            self._fail(
                f"{blocks} hash_ids for {tokens} tokens do not fit blocks of {size} tokens; "
                f"{said(*bounds(tokens, blocks))} would fit",
                place,
            )

    def _fail(self, reason: str, place: str = "") -> NoReturn:
        raise UsageError(f"{self._where}{place and ', '}{place}: {reason}.")

    def block_size(self, named: int | None, engine: int) -> int:
        """Return the number of tokens per hash.

        Args:
            named: the user's ``--block-size``, which may be that of the trace or, if the trace has
                larger blocks, that of the engines.
            engine: block size of the engines, used if neither the trace nor the user gives one.
        """
        if size := self.rows[0].block_size:
            return size
        if self._form is not Format.MOONCAKE:
            return BLOCK_SIZES.get(self._form, named or engine)
        fit, usual = self._fit, BLOCK_SIZES[Format.MOONCAKE]
        if fit.broken_at:
            self._fail(
                f"its hash_ids fit no blocks that fit the lines before: {fit}", fit.broken_at
            )
        if named and fit.allows(named):
            return named
        if fit.allows(usual):
            return usual
        if fit.only is None or not (self._assumed or named):
            self._fail(f"its hash_ids fit {fit}, not {named or usual}: say --block-size N")
        return fit.only

    def time_unit(self, named: TimeUnit | None, block_size: int) -> TimeUnit:
        """Return the unit of the timestamps.

        Args:
            named: the user's ``--time-unit``.
            block_size: tokens per hash.
        """
        if named is not None and self._form is Format.AZURE:
            self._fail("a trace of azure has dates, so --time-unit does not apply")
        if named is not None:
            return named
        if self._assumed and block_size != BLOCK_SIZES.get(self._form, block_size):
            self._fail(
                f"its blocks of {block_size} tokens are not Mooncake's, so its timestamps need "
                f"not be milliseconds: say --format qwen (seconds), or --time-unit s or ms"
            )
        if self._assumed and self._fraction_at:
            self._fail(
                "the timestamp is not a whole number, so it may not be in milliseconds: "
                "say --time-unit s or ms",
                self._fraction_at,
            )
        return TimeUnit.S if self._form in SECONDS else TimeUnit.MS

    def trace(self, name: str, block_size: int, unit: TimeUnit, set_up: SetUp | None) -> Trace:
        """Return the trace, in the order of its arrival times, which begin at 0; it can be called
        once."""
        times = [row.timestamp for row in self.rows if row.timestamp is not None]
        start, end = min(times, default=0.0), max(times, default=0.0)
        if (end - start) * unit.ns > MAX_SPAN_NS:
            self._fail(
                f"it takes {(end - start) * unit.ns / YEAR_NS:.3g} years if its timestamps are "
                f"{NAMES[unit]}; say what they are: --time-unit s, ms, us or ns"
            )
        requests = []
        self.rows.reverse()
        while self.rows:  # a million of them are not kept twice
            requests.append(_request(self.rows.pop(), start, unit, block_size))
        requests.sort(key=lambda request: request.arrival_ns)
        trace = Trace(name, block_size, tuple(requests), set_up=set_up)
        return msgspec.structs.replace(trace, note=self._note(trace))

    def _note(self, trace: Trace) -> str:
        note = (
            f"read as {self._form}: {len(trace.requests)} requests in "
            f"{trace.duration_ns / SECOND_NS:,.1f} s, blocks of {trace.block_size} tokens"
        )
        if self._left_out:
            note += f"; {self._left_out} without prompt or answer are left out"
        return note


def _request(row: TraceRow, start: float, unit: TimeUnit, block_size: int) -> TraceRequest:
    since = None if row.timestamp is None else round((row.timestamp - start) * unit.ns)
    full = row.input_tokens // block_size
    return TraceRequest(
        arrival_ns=row.random_ns if since is None else since,
        input_tokens=row.input_tokens,
        output_tokens=row.output_tokens,
        hashes=row.hashes if len(row.hashes) <= full else row.hashes[:full],
        session=row.session,
        priority=row.priority,
    )
