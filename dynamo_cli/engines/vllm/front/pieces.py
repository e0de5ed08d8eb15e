"""Tokenizes a long new text in several threads at once.

A tokenizer of the byte-level kind first divides a text into words by a pattern, and then makes the
tokens of each word without looking at the others. In all patterns below a word never goes on over
a space between two letters. So a text may be cut before such a space, and the tokens of the pieces,
one after the other, are the tokens of the whole text. Other tokenizers get their texts whole.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, pairwise
from typing import Any

import orjson
from tokenizers import Tokenizer

PIECE_CHARS = 4096
"""Least characters of a piece, which take about 2 ms."""

CORES_PER_THREAD, MOST_THREADS = 4, 8
"""There is a thread for so many cores of the machine, and with less than two of them none."""

_ENDINGS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_BEFORE = r"[^\r\n\p{L}\p{N}]?"
_SPACES = r"|\s*[\r\n]+|\s+(?!\S)|\s+"


def _llama(digits: str) -> str:
    """Of Llama 3, and Qwen 2 and 3."""
    signs = r"| ?[^\s\p{L}\p{N}]+[\r\n]*"
    return rf"{_ENDINGS}|{_BEFORE}\p{{L}}+|{digits}{signs}{_SPACES}"


def _cased(endings: str, digits: str) -> str:
    """Of gpt-oss, and Mistral since 2024."""
    words = f"{_BEFORE}{_UPPER}*{_LOWER}+{endings}|{_BEFORE}{_UPPER}+{_LOWER}*{endings}"
    signs = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*"
    return f"{words}|{digits}{signs}{_SPACES}"


PATTERNS = frozenset(
    {
        _llama(r"\p{N}{1,3}"),
        _llama(r"\p{N}"),
        _cased(f"{_ENDINGS}?", r"\p{N}{1,3}"),
        _cased("", r"\p{N}"),
    }
)
"""Patterns that divide texts into words, beside that of GPT-2, which `tokenizers` has built in."""

_CUT = re.compile(r"(?<=[A-Za-z]) (?=[A-Za-z])")


class Pieces:
    """Makes the tokens of texts, of long ones in several threads.

    Args:
        tokenizer: adds no special tokens of its own.
        threads: how many; None: by the cores of the machine.
        least: characters of a piece.
    """

    def __init__(
        self, tokenizer: Tokenizer, threads: int | None = None, least: int = PIECE_CHARS
    ) -> None:
        self._tokenizer = tokenizer
        self._least = least
        self.threads = _threads() if threads is None else threads
        if self.threads < 2 or not can_be_cut(tokenizer):
            self.threads = 1
        self._pool = ThreadPoolExecutor(self.threads) if self.threads > 1 else None

    def tokens(self, text: str) -> list[int]:
        """Return the tokens of a text."""
        pieces = list(self.cut(text))
        if self._pool is None or len(pieces) == 1:
            return self._tokens(text)
        return list(chain.from_iterable(self._pool.map(self._tokens, pieces)))

    def cut(self, text: str) -> Iterator[str]:
        """The pieces of a text, about as many as there are threads."""
        size = max(self._least, -(-len(text) // self.threads))
        cuts = [0]
        while len(text) - cuts[-1] > size and (found := _CUT.search(text, cuts[-1] + size)):
            cuts.append(found.start())
        return (text[begin:end] for begin, end in pairwise([*cuts, len(text)]))

    def _tokens(self, text: str) -> list[int]:
        # The function for batches is the one that leaves out the offsets and releases the GIL.
        encoding = self._tokenizer.encode_batch_fast([text], add_special_tokens=False)[0]
        ids: list[int] = encoding.ids
        return ids


def can_be_cut(tokenizer: Tokenizer) -> bool:
    """Whether texts may be cut before a space between two letters."""
    made: dict[str, Any] = orjson.loads(tokenizer.to_str())
    added = tokenizer.get_added_tokens_decoder().values()
    if any(" " in one.content or one.lstrip or one.rstrip or one.single_word for one in added):
        return False
    normal = made["normalizer"] is None or made["normalizer"]["type"] == "NFC"
    return normal and made["model"]["type"] == "BPE" and _divides(made["pre_tokenizer"])


def _divides(step: dict[str, Any] | None) -> bool:
    """Whether a step before the model, or one of its steps, divides texts at such spaces, and all
    others keep what it has divided."""
    if step is None:
        return False
    steps = step["pretokenizers"] if step["type"] == "Sequence" else [step]
    kinds = [one["type"] for one in steps]
    if not set(kinds) <= {"ByteLevel", "Split", "Digits"}:
        return False
    return any(map(_is_known, steps)) and all(
        one["type"] != "Split" or _is_known(one) for one in steps
    )


def _is_known(step: dict[str, Any]) -> bool:
    match step:
        case {"type": "ByteLevel"}:
            return bool(step["use_regex"])
        case {"type": "Split", "pattern": {"Regex": pattern}}:
            isolated = step["behavior"] == "Isolated" and not step["invert"]
            return isolated and pattern in PATTERNS
    return False


def _threads() -> int:
    return min(MOST_THREADS, len(os.sched_getaffinity(0)) // CORES_PER_THREAD)
