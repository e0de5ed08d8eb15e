"""Reads conversations as text, as ShareGPT has them: a person and a model speak in turns.

    {"id": "a",
     "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]}

Each turn of the model is a request: everything before it is the prompt, and the turn is the answer.
``conversation`` with ``role`` and ``content`` is read too, as LMSYS-Chat-1M and WildChat have it.
These traces have no times. So conversations begin at random times, and a person waits
`PAUSE_S` in the mean before the next message.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import msgspec

from dynamo_cli.lab.trace.formats import MAX_TOKENS, TraceRow, strictly
from dynamo_cli.lab.trace.prompts import Arrivals, Encode, hashed

PAUSE_S = 30.0
"""Mean time from a message of a person to the next one, seconds."""

MODEL = frozenset(("gpt", "chatgpt", "bing", "bard", "claude", "assistant", "model"))
"""Names under which the model speaks; anybody else gives a part of the prompt."""


class Utterance(msgspec.Struct):
    """What one of both says."""

    who: str = msgspec.field(name="from", default="")
    value: str = ""
    role: str = ""
    content: str = ""


class ConversationLine(msgspec.Struct):
    """A line."""

    conversations: list[Utterance] = []
    conversation: list[Utterance] = []
    id: str | int = ""


_decode = msgspec.json.Decoder(ConversationLine).decode


class Conversations:
    """Parses lines with conversations.

    Args:
        encode: converts text to token ids.
        block_size: tokens per hash.
        arrivals: times at which conversations begin.
    """

    def __init__(self, encode: Encode, *, block_size: int, arrivals: Arrivals) -> None:
        self._encode, self._block_size, self._arrivals = encode, block_size, arrivals

    def __call__(self, line: bytes) -> Sequence[TraceRow]:
        """Return the requests of a conversation; none if the model says nothing.

        Raises:
            ValueError: the line is not valid.
        """
        told = strictly(_decode, line)
        prompts = self._prompts(told.conversations or told.conversation)
        if not prompts:
            return ()
        at_ns, rows = self._arrivals.next_ns(len(prompts)), []
        for prompt, answer_tokens in prompts:
            blocks = hashed(prompt, self._block_size)
            session = sys.intern(str(told.id))
            rows.append(
                TraceRow(None, len(prompt), answer_tokens, blocks, session, random_ns=at_ns)
            )
            at_ns += self._arrivals.pause_ns(PAUSE_S)
        return rows

    def _prompts(self, turns: Sequence[Utterance]) -> list[tuple[list[int], int]]:
        """Return the token ids before each turn of the model, and the length of the turn."""
        found: list[tuple[list[int], int]] = []
        before: list[int] = []
        for turn in turns:
            who, text = turn.who or turn.role, turn.value or turn.content
            answer = who.lower() in MODEL
            tokens = list(self._encode(text if answer else f"{who}\n{text}\n"))
            if answer and before and tokens and len(before) <= MAX_TOKENS:
                found.append((list(before), len(tokens)))
            before += tokens
        return found
