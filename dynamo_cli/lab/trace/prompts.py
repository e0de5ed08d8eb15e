"""Reads prompts (texts, messages or token ids), one JSON object per line, and hashes their blocks.

The hashes are those of the server, except that no chat template is applied.
"""

from __future__ import annotations

import random
import sys
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import msgspec

from dynamo_cli.errors import UsageError
from dynamo_cli.kv import hashes
from dynamo_cli.lab.trace.formats import OutputTokens, Timestamp, TraceRow, strictly
from dynamo_cli.units import SECOND_NS

Encode = Callable[[str], Sequence[int]]
"""Converts text to token ids."""


TokenId = Annotated[int, msgspec.Meta(ge=0, le=(1 << 31) - 1)]


class PromptMessage(msgspec.Struct):
    """A message of a conversation."""

    role: str
    content: str


class PromptLine(msgspec.Struct):
    """A line with a prompt or messages.

    Attributes:
        prompt: text or token ids.
        messages: messages of a conversation, instead of a prompt.
        timestamp: a line without one arrives at a random time.
        max_tokens: length of the answer.
        session: session of the client; empty if there is none.
    """

    prompt: str | list[TokenId] = ""
    messages: list[PromptMessage] = []
    timestamp: Timestamp | None = None
    max_tokens: OutputTokens | None = None
    session: str = ""

    def text(self) -> str | list[int]:
        """Return the prompt, or the messages joined. The model's chat template is left out, because
        common prefixes are the same without it."""
        if not self.messages:
            return self.prompt
        return "".join(f"{one.role}\n{one.content}\n" for one in self.messages)


_decode = msgspec.json.Decoder(PromptLine).decode


def tokenizer(name: str, folder: str) -> Encode:
    """Load the tokenizer of a model.

    Args:
        name: the user's name of the model.
        folder: folder of the model, or its name at the hub.

    Raises:
        UsageError: it cannot be loaded.
    """
    try:
        from tokenizers import Tokenizer  # noqa: PLC0415 - comes with an engine
    except ImportError as error:
        raise UsageError("prompts need the package tokenizers: pip install tokenizers.") from error
    file = Path(folder) / "tokenizer.json"
    try:
        found = Tokenizer.from_file(str(file)) if file.exists() else Tokenizer.from_pretrained(name)
    # The library raises bare Exceptions for anything that is wrong with a file.
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UsageError(f"no tokenizer for {name!r}: {reason}.") from error
    return lambda text: list(found.encode(text).ids)


class Arrivals:
    """Random arrival times for requests without timestamps.

    Args:
        rate_per_s: mean rate.
        seed: seed of the times.
    """

    def __init__(self, rate_per_s: float, seed: int) -> None:
        self._rate_per_s, self._dice, self._now_ns = rate_per_s, random.Random(seed), 0

    def next_ns(self, requests: int = 1) -> int:
        """Return the time at which the next client comes, which sends this many requests."""
        self._now_ns += round(self._dice.expovariate(self._rate_per_s / requests) * SECOND_NS)
        return self._now_ns

    def pause_ns(self, mean_s: float) -> int:
        """Return a random time between an answer and the client's next message."""
        return round(self._dice.expovariate(1 / mean_s) * SECOND_NS)


class Prompts:
    """Parses lines with prompts.

    Args:
        encode: converts text to token ids.
        block_size: tokens per hash.
        output_tokens: length of an answer if the line does not give it.
        arrivals: times of requests without a timestamp.
    """

    def __init__(
        self, encode: Encode, *, block_size: int, output_tokens: int, arrivals: Arrivals
    ) -> None:
        self._encode, self._block_size, self._output_tokens = encode, block_size, output_tokens
        self._arrivals = arrivals

    def __call__(self, line: bytes) -> Sequence[TraceRow]:
        """Return the request of a line.

        Raises:
            ValueError: the line is not valid, or has no prompt.
        """
        told = strictly(_decode, line)
        text = told.text()
        tokens = self._encode(text) if isinstance(text, str) else text
        if not tokens:
            raise ValueError("there is neither prompt nor messages")
        row = TraceRow(
            told.timestamp,
            len(tokens),
            told.max_tokens or self._output_tokens,
            hashed(tokens, self._block_size),
            sys.intern(told.session),
            random_ns=self._arrivals.next_ns(),
        )
        return (row,)


def hashed(tokens: Sequence[int], block_size: int) -> Sequence[int]:
    """Return the hashes of the full blocks of a prompt."""
    return array("Q", hashes.chain(hashes.pack_tokens(tokens), block_size))
