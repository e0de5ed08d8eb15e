"""Prompts as text, for the replay: a JSON object per line, hashed as the server would."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from dynamo_cli.errors import UsageError
from dynamo_cli.kv import hashes
from dynamo_cli.replay.trace import MS_NS, Trace, TraceRequest

Encode = Callable[[str], Sequence[int]]
"""Text to token ids."""


class Message(msgspec.Struct):
    """Of a conversation."""

    role: str
    content: str


class PromptLine(msgspec.Struct):
    """A line: a prompt, or messages.

    Attributes:
        timestamp: milliseconds; lines without one come at random times.
        max_tokens: length of the answer.
    """

    prompt: str | list[int] = ""
    messages: list[Message] = []
    timestamp: float | None = None
    max_tokens: int | None = None
    session: str = ""

    def text(self) -> str | list[int]:
        """The messages without the model's template: what is shared is shared alike."""
        if not self.messages:
            return self.prompt
        return "".join(f"{one.role}\n{one.content}\n" for one in self.messages)


def tokenizer(name: str, folder: str) -> Encode:
    """The tokenizer of a model.

    Args:
        name: what the user calls it.
        folder: of the model, or the name that the hub knows it by.

    Raises:
        UsageError: there is none.
    """
    try:
        from tokenizers import Tokenizer  # noqa: PLC0415 - comes with an engine
    except ImportError as error:
        raise UsageError("prompts need the package tokenizers: pip install tokenizers.") from error
    file = Path(folder) / "tokenizer.json"
    try:
        found = Tokenizer.from_file(str(file)) if file.exists() else Tokenizer.from_pretrained(name)
    # The library raises bare Exceptions of its own making for whatever is wrong with a file.
    except Exception as error:
        raise UsageError(f"no tokenizer for {name!r}: {str(error).splitlines()[0]}.") from error
    return lambda text: list(found.encode(text).ids)


def build(
    path: Path,
    lines: Sequence[PromptLine],
    encode: Encode,
    *,
    block_size: int,
    output_tokens: int,
    rate_per_s: float,
    seed: int,
) -> Trace:
    """A trace of these prompts.

    Args:
        output_tokens: of answers whose length is not given.
        rate_per_s: of requests whose time is not given.
    """
    dice, later_ns, requests = random.Random(seed), 0, []
    first_ms = min((line.timestamp for line in lines if line.timestamp is not None), default=0.0)
    for number, line in enumerate(lines, 1):
        text = line.text()
        tokens = encode(text) if isinstance(text, str) else text
        if not tokens:
            raise UsageError(f"{path}, request {number}: there is neither prompt nor messages.")
        later_ns += round(dice.expovariate(rate_per_s) * 1000 * MS_NS)
        arrival_ns = later_ns
        if line.timestamp is not None:
            arrival_ns = round((line.timestamp - first_ms) * MS_NS)
        requests.append(
            TraceRequest(
                arrival_ns,
                len(tokens),
                max(line.max_tokens or output_tokens, 1),
                tuple(hashes.chain(hashes.pack_tokens(tokens), block_size)),
                line.session,
            )
        )
    requests.sort(key=lambda request: request.arrival_ns)
    return Trace(path.stem, block_size, tuple(requests))
