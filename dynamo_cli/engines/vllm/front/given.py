"""What engines gave to the answer of a stream, packed for the frontend, which keeps it.

If the processor is lost, the next one makes the same events again of it (`resume.py`). It costs
16 bytes per token, packed in the one place where vLLM's serving classes receive outputs.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from sys import byteorder
from typing import Any

from dynamo_cli.kv.hashes import TOKEN_BYTES

LAST, STOP, LENGTH, REASON, COUNTS = 1, 2, 4, 8, 16
"""Bits of the first word of a part: it is the last of its group; why its answer ended; whether the
token that stopped it follows; whether counts of cached tokens follow."""

_SHIFT = 5
_ONE_HEADER = 1 << _SHIFT | LAST
_FINISHES = {"stop": STOP, "length": LENGTH, "repetition": STOP | LENGTH}
_NAMES = {bits: name for name, bits in _FINISHES.items()}


@dataclass(slots=True)
class Part:
    """New tokens of one answer.

    Attributes:
        call: which of the request's prompts it belongs to.
        choice: which of the n answers to that prompt.
        finish: why the engine ended it, in vLLM's words, else empty. Stop strings are found again
            in the text.
        stop_token: the token that stopped it, if that is told.
        counts: for the first part of an answer, tokens of the prompt that were cached, and those
            that were added to the cache.
    """

    call: int
    choice: int
    tokens: list[int]
    finish: str = ""
    stop_token: int | None = None
    counts: tuple[int, int] | None = None


class Given:
    """Packs what comes, until the next chunk takes it."""

    __slots__ = ("_begun", "_call", "_choice", "_packed", "_prefix")

    def __init__(self) -> None:
        self._packed = b""
        self._begun: set[tuple[int, int]] = set()
        self._call = self._choice = -1
        self._prefix = b""

    def add(self, call: int, output: Any) -> None:
        """Add one of vLLM's `RequestOutput`; all of it makes one group. This is the hot path.

        Args:
            call: which of the request's prompts it belongs to.
        """
        parts = output.outputs
        first = parts[0]
        tokens = first.token_ids
        if (
            first.index == self._choice
            and call == self._call
            and len(tokens) == 1 == len(parts)
            and first.finish_reason is None
        ):
            self._packed += self._prefix + tokens[0].to_bytes(TOKEN_BYTES, byteorder)
            return
        for part in parts:
            self._add(call, part, output, LAST if part is parts[-1] else 0)
        self._call, self._choice = call, first.index
        self._prefix = array("i", [_ONE_HEADER, call, first.index]).tobytes()

    def _add(self, call: int, part: Any, output: Any, head: int) -> None:
        words: list[int] = []
        key = (call, part.index)
        if part.finish_reason is not None and not isinstance(part.stop_reason, str):
            head |= _FINISHES.get(part.finish_reason, 0)
            if part.stop_reason is not None:
                head |= REASON
                words.append(part.stop_reason)
        if key not in self._begun:
            self._begun.add(key)
            head |= COUNTS
            words += (output.num_cached_tokens or 0, output.num_cache_creation_tokens or 0)
        head |= len(part.token_ids) << _SHIFT
        self._packed += array("i", [head, call, part.index, *words, *part.token_ids]).tobytes()

    def begun(self, part: Part) -> None:
        """Note a part that another processor has packed."""
        self._begun.add((part.call, part.choice))

    def take(self) -> bytes:
        """Return what was added since the last time."""
        packed, self._packed = self._packed, b""
        return packed


def groups(packed: bytes) -> Iterator[list[Part]]:
    """Read what `Given` has packed: the parts of each group."""
    words, at = array("i", packed), 0
    group: list[Part] = []
    while at < len(words):
        head, part = words[at], Part(words[at + 1], words[at + 2], [])
        at += 3
        part.finish = _NAMES.get(head & (STOP | LENGTH), "")
        if head & REASON:
            part.stop_token, at = words[at], at + 1
        if head & COUNTS:
            part.counts, at = (words[at], words[at + 1]), at + 2
        end = at + (head >> _SHIFT)
        part.tokens, at = words[at:end].tolist(), end
        group.append(part)
        if head & LAST:
            yield group
            group = []
