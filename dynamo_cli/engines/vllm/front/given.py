"""The outputs of engines for one stream, packed for the frontend, which keeps them.

If the processor is lost, the next one replays them to make the same events again (`resume.py`). A
token takes 16 bytes. Format, in words of 32 bits in the byte order of the host:

    group:  the parts of one `RequestOutput` of vLLM; the last part has the bit LAST
    part:   head, call, choice, [stop token], [cached tokens, added tokens], tokens
    head:   number of tokens << 5 | LAST | STOP | LENGTH | REASON | COUNTS
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from sys import byteorder
from typing import Any

from dynamo_cli.kv.hashes import TOKEN_BYTES

LAST, STOP, LENGTH, REASON, COUNTS = 1, 2, 4, 8, 16
"""Bits of the head of a part. LAST: it is the last one of its group. STOP, LENGTH or both: why its
answer ended. REASON: the token that stopped it follows. COUNTS: two counts of tokens follow."""

_SHIFT = 5
_ONE_HEADER = 1 << _SHIFT | LAST
_FINISHES = {"stop": STOP, "length": LENGTH, "repetition": STOP | LENGTH}
_NAMES = {bits: name for name, bits in _FINISHES.items()}


@dataclass(slots=True)
class Part:
    """New tokens of one answer.

    Attributes:
        call: number of the prompt within the API request.
        choice: number of the answer among the n answers to that prompt.
        finish: why the engine ended the answer, in vLLM's words; empty if it did not. An answer
            that a stop string ended has an empty one: the string is found again in the text.
        stop_token: the token that stopped the answer; None if vLLM names none.
        counts: in the first part of an answer, the number of tokens of the prompt that were cached,
            and of those that were added to the cache; None in other parts.
    """

    call: int
    choice: int
    tokens: list[int]
    finish: str = ""
    stop_token: int | None = None
    counts: tuple[int, int] | None = None


class OutputPacker:
    """Packs the outputs of one stream until the next chunk takes them."""

    __slots__ = ("_begun", "_call", "_choice", "_packed", "_prefix")

    def __init__(self) -> None:
        self._packed = b""
        self._begun: set[tuple[int, int]] = set()
        self._call = self._choice = -1
        self._prefix = b""

    def add(self, call: int, output: Any) -> None:
        """Add a `RequestOutput` of vLLM as one group.

        Args:
            call: number of the prompt within the API request.
        """
        parts = output.outputs
        first = parts[0]
        same = first.index == self._choice and call == self._call
        if same and len(parts) == 1 and first.finish_reason is None:
            self.add_tokens(first.token_ids)
            return
        for part in parts:
            self._add(call, part, output, LAST if part is parts[-1] else 0)
        self._call, self._choice = call, first.index
        self._prefix = array("i", [_ONE_HEADER, call, first.index]).tobytes()

    def add_tokens(self, tokens: Sequence[int]) -> None:
        """Add new tokens, which end nothing, of the answer that the group before was of."""
        if len(tokens) == 1:
            self._packed += self._prefix + tokens[0].to_bytes(TOKEN_BYTES, byteorder)
        else:
            head = len(tokens) << _SHIFT | LAST
            self._packed += array("i", [head, self._call, self._choice, *tokens]).tobytes()

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
        """Note a part that another processor has packed: its answer has begun, and has counts."""
        self._begun.add((part.call, part.choice))

    def take(self) -> bytes:
        """Return what was added since the last call."""
        packed, self._packed = self._packed, b""
        return packed


def groups(packed: bytes) -> Iterator[list[Part]]:
    """Unpack what `OutputPacker` has packed; yield the parts of each group."""
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
