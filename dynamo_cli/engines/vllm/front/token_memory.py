"""Tokenizes text, and remembers the tokens of its segments.

The turns of a conversation and shared system prompts come again and again. A text is cut before
each special token of the template (`<|im_start|>` and the like). The tokenizer itself looks for
these first and treats what stands between them separately, so the tokens of the segments, one after
the other, are the tokens of the whole text.
"""

from __future__ import annotations

import re
import threading
from array import array
from collections import OrderedDict
from itertools import pairwise
from sys import getsizeof

from tokenizers import Tokenizer

from dynamo_cli.engines.vllm.front.pieces import Pieces

LIMIT_BYTES = 64 << 20
"""Bound of all remembered texts and tokens of a process."""

ENTRY_BYTES = 300
"""About how much memory an entry takes besides its text and tokens, bytes."""

LARGEST_PART = 8
"""A segment that would take more than this part of the memory is not remembered."""

TAIL = 32
"""Number of tokens at the end of a prompt that decide how the next token is decoded."""

UNFINISHED = "\N{REPLACEMENT CHARACTER}"
"""Ends a text whose last character is not complete."""


class TokenMemory:
    """A tokenizer that adds no special tokens of its own, and remembers.

    It can be used by several threads.

    Args:
        tokenizer: it is copied.
        limit_bytes: bound of what is remembered.

    Attributes:
        hits: number of segments that were remembered.
        misses: number of segments that were not.
    """

    def __init__(self, tokenizer: Tokenizer, limit_bytes: int = LIMIT_BYTES) -> None:
        self._tokenizer = Tokenizer.from_str(tokenizer.to_str())
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._pieces = Pieces(self._tokenizer)
        self._pattern, self._ids = _cuts(self._tokenizer)
        self._limit_bytes = limit_bytes
        self._held_bytes = 0
        self._lock = threading.Lock()
        self._known: OrderedDict[str, array[int]] = OrderedDict()
        self.hits = self.misses = 0

    @property
    def cuts(self) -> list[str]:
        """The tokens before which a text is cut."""
        return list(self._ids)

    @property
    def held_bytes(self) -> int:
        """About how much memory the remembered segments take, bytes."""
        return self._held_bytes

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text."""
        segments = self._segments(text)
        found = self._find(segments)
        tokens: array[int] = array("i")
        at = 0
        while at < len(segments):
            if (known := found[at]) is not None:
                tokens += known
                at += 1
                continue
            after = next((n for n in range(at, len(segments)) if found[n] is not None), None)
            unknown = segments[at:after]
            for segment, made in zip(unknown, self._make(unknown), strict=True):
                tokens += made
                self._keep(segment, made)
            at += len(unknown)
        return tokens.tolist()

    def _segments(self, text: str) -> list[str]:
        if self._pattern is None:
            return [text]
        cuts = [match.start() for match in self._pattern.finditer(text) if match[0] in self._ids]
        if not cuts or cuts[0]:
            cuts.insert(0, 0)
        return [text[begin:end] for begin, end in pairwise([*cuts, len(text)])]

    def _find(self, segments: list[str]) -> list[array[int] | None]:
        with self._lock:
            found = [self._known.get(segment) for segment in segments]
            for segment, known in zip(segments, found, strict=True):
                if known is not None:
                    self._known.move_to_end(segment)
        missing = found.count(None)
        self.hits, self.misses = self.hits + len(found) - missing, self.misses + missing
        return found

    def _make(self, segments: list[str]) -> list[array[int]]:
        """Return the tokens of segments that follow one another."""
        made = self._pieces.tokens("".join(segments))
        if len(segments) == 1:
            return [array("i", made)]
        # All but the first begin with a token that stands nowhere else.
        begins = [self._begin(segment) for segment in segments]
        known = [begin for begin in begins if begin is not None]
        if sum(map(made.count, set(known))) != len(known):
            return [array("i", self._pieces.tokens(segment)) for segment in segments]
        places, after = [0], 0 if begins[0] is None else 1
        for begin in begins[1:]:
            assert begin is not None
            places.append(made.index(begin, after))
            after = places[-1] + 1
        return [array("i", made[begin:end]) for begin, end in pairwise([*places, len(made)])]

    def _begin(self, segment: str) -> int | None:
        assert self._pattern is not None
        match = self._pattern.match(segment)
        return None if match is None else self._ids.get(match[0])

    def _keep(self, segment: str, tokens: array[int]) -> None:
        size = _size(segment, tokens)
        if size * LARGEST_PART > self._limit_bytes:
            return
        with self._lock:
            if segment in self._known:
                return
            self._known[segment] = tokens
            self._held_bytes += size
            while self._held_bytes > self._limit_bytes:
                self._held_bytes -= _size(*self._known.popitem(last=False))


def _size(segment: str, tokens: array[int]) -> int:
    return getsizeof(segment) + len(tokens) * tokens.itemsize + ENTRY_BYTES


def _cuts(tokenizer: Tokenizer) -> tuple[re.Pattern[str] | None, dict[str, int]]:
    """Return what finds the added tokens in a text, and those before which a text may be cut.

    The longest of those that begin at the same place is found, as by the tokenizer.
    """
    added = {
        number: token
        for number, token in tokenizer.get_added_tokens_decoder().items()
        # The others are looked for in the text between these, after it is normalized.
        if not token.normalized and token.content
    }
    safe = {
        token.content: number
        for number, token in added.items()
        if token.special and not (token.lstrip or token.single_word)
    }
    if not safe or tokenizer.encode_special_tokens or _is_random(tokenizer):
        return None, {}
    names = sorted((token.content for token in added.values()), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, names))), safe


def _is_random(tokenizer: Tokenizer) -> bool:
    """Whether the tokenizer makes other tokens of the same text each time."""
    return bool(getattr(tokenizer.model, "dropout", None))


def ending(tokenizer: Tokenizer, tokens: list[int], *, skip_special: bool) -> list[int]:
    """Return the end of a prompt, from which what follows is decoded as from the whole prompt.

    Decoders look at the beginning of a text (to remove a space) and at neighbours. So the end of a
    prompt is enough, unless it has no text or stops within a character.

    Args:
        skip_special: whether special tokens give no text.
    """
    if len(tokens) <= TAIL:
        return tokens
    tail = tokens[-TAIL:]
    text = tokenizer.decode(tail, skip_special_tokens=skip_special)
    return tokens if not text or text.endswith(UNFINISHED) else tail
