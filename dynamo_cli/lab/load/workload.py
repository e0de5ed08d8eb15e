"""What users ask: conversations over shared system prompts, or the prompts of a trace. Pure.

The same seed gives the same words; texts of different seeds or salts share no block.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple, Protocol

from dynamo_cli.lab.trace.trace import Trace, TraceRequest
from dynamo_cli.units import SECOND_NS

# fmt: off
WORDS = (
    "river", "stone", "cloud", "paper", "light", "winter", "garden", "music", "harbour", "engine",
    "silver", "window", "mountain", "forest", "letter", "market", "bridge", "shadow", "summer",
    "table", "road", "number", "street", "island", "lamp", "keeper",
)
# fmt: on

TEMPLATE_TOKENS = 6
"""Approximate number of tokens that a chat template adds to a message."""

RECENT_BLOCKS = 4096
"""Number of blocks of a trace whose words are kept."""

Range = tuple[int, int]
"""Smallest and largest value, both included."""

ChatMessage = dict[str, str]
"""A message of a chat: role and content."""


class LoadRequest(NamedTuple):
    """A request.

    Attributes:
        messages: the whole conversation so far.
        output_tokens: wanted length of the answer.
        at_s: when it comes in a trace, seconds since the start of the trace; otherwise 0.
        talk: conversation that it belongs to; None if it belongs to none.
    """

    messages: list[ChatMessage]
    output_tokens: int
    at_s: float = 0.0
    talk: Talk | None = None


class Workload(Protocol):
    """Where requests come from."""

    def next(self) -> LoadRequest | None:
        """Return the next request; None if there is none now."""

    def answered(self, ask: LoadRequest, text: str | None) -> None:
        """Take the answer to a request; None if it failed."""


@dataclass(frozen=True)
class Turn:
    """One turn of a conversation: what the user says, and how many tokens the answer gets."""

    text: str
    answer_tokens: int


@dataclass(frozen=True)
class Conversation:
    """The turns of one user over one system prompt; each follows the answer to the one before."""

    system: str
    turns: tuple[Turn, ...]


@dataclass(frozen=True)
class WorkloadShape:
    """A tree of prefixes. Lengths are tokens of the text, without those of the chat template.

    Attributes:
        systems: number of system prompts, the first level of the tree.
        conversations: number of conversations over each system prompt, the second level.
        turns: number of turns of each conversation, which is the depth of the tree.
        system_tokens, user_tokens, answer_tokens: lengths of system prompts, of what users say,
            and of answers.
    """

    systems: int
    conversations: int
    turns: int
    system_tokens: Range
    user_tokens: Range
    answer_tokens: Range

    @property
    def words(self) -> str:
        """The shape for people."""
        return (
            f"{self.systems} system prompts of {_range(self.system_tokens)} tokens, "
            f"{self.conversations} conversations over each of {self.turns} turns: "
            f"{_range(self.user_tokens)} tokens in, {_range(self.answer_tokens)} out"
        )

    @property
    def working_set_tokens(self) -> float:
        """Approximate number of tokens of all conversations, with shared prefixes counted once."""
        turn = _middle(self.user_tokens) + _middle(self.answer_tokens) + 2 * TEMPLATE_TOKENS
        system = _middle(self.system_tokens) + TEMPLATE_TOKENS
        return self.systems * (system + self.conversations * self.turns * turn)


def conversations(
    shape: WorkloadShape, seed: str, tokens_per_word: float, salt: str = ""
) -> Iterator[Conversation]:
    """Generate conversations without end, over one system prompt after the other.

    Args:
        shape: lengths and numbers; its first conversations fill the tree once.
        seed: seed of all words and lengths.
        tokens_per_word: mean number of tokens of one of `WORDS`.
        salt: changes the words, but not their lengths.
    """
    dice, wording = random.Random(seed), random.Random(f"{seed} {salt}")

    def text(tokens: Range) -> str:
        return words(wording, round(dice.randint(*tokens) / tokens_per_word))

    def turn() -> Turn:
        return Turn(text(shape.user_tokens), dice.randint(*shape.answer_tokens))

    systems = [text(shape.system_tokens) for _ in range(shape.systems)]
    while True:
        for system in systems:
            yield Conversation(system, tuple(turn() for _ in range(shape.turns)))


@dataclass(eq=False)
class Talk:
    """A conversation in progress.

    Attributes:
        messages: what was said so far.
        said: number of turns that are complete.
    """

    conversation: Conversation
    messages: list[ChatMessage] = field(default_factory=list)
    said: int = 0

    @property
    def over(self) -> bool:
        """Whether all turns are complete."""
        return self.said == len(self.conversation.turns)

    def ask(self) -> LoadRequest:
        """Begin the next turn and return its request."""
        if not self.messages:
            self.messages.append({"role": "system", "content": self.conversation.system})
        turn = self.conversation.turns[self.said]
        self.messages.append({"role": "user", "content": turn.text})
        return LoadRequest(self.messages, turn.answer_tokens, talk=self)

    def hear(self, text: str) -> None:
        """Complete a turn with the answer."""
        self.messages.append({"role": "assistant", "content": text})
        self.said += 1


class Talks:
    """Several conversations at the same time.

    The next request comes from a random one of that half of the conversations that have waited
    longer, because people think before they go on. A conversation that is complete, or whose
    request failed, is replaced by a new one. If all of them wait for an answer, a new one joins.

    Args:
        people: the conversations, in the order in which they join.
        at_once: number of conversations at the same time.
        seed: seed of the random choices.
        endless: whether a new conversation joins if all wait for an answer.
    """

    def __init__(
        self, people: Iterable[Conversation], at_once: int, seed: str, *, endless: bool = True
    ) -> None:
        self._people = iter(people)
        self._endless = endless
        self._dice = random.Random(seed)
        self._waiting: list[Talk] = []
        for _ in range(at_once):
            self._welcome()
        self._dice.shuffle(self._waiting)

    def next(self) -> LoadRequest | None:
        """Return the next request; None if no conversation can go on now."""
        if not self._waiting and self._endless:
            self._welcome()
        if not self._waiting:
            return None
        longer = (len(self._waiting) + 1) // 2
        return self._waiting.pop(self._dice.randrange(longer)).ask()

    def answered(self, ask: LoadRequest, text: str | None) -> None:
        """Let the conversation go on, or replace it if it is over or failed."""
        talk = ask.talk
        assert talk is not None
        if text is not None:
            talk.hear(text)
        if text is None or talk.over:
            self._welcome()
        else:
            self._waiting.append(talk)

    def _welcome(self) -> None:
        person = next(self._people, None)
        if person is not None:
            self._waiting.append(Talk(person))


class TracePrompts:
    """The requests of a trace, as texts that share prefixes as the recorded prompts did.

    Args:
        trace: the requests.
        tokens_per_word: mean number of tokens of one of `WORDS`.
        scale: factor for all lengths: 0.1 makes prompts and answers a tenth as long.
        seed: seed of the words.
    """

    def __init__(
        self,
        trace: Trace,
        tokens_per_word: float,
        *,
        scale: float = 1.0,
        seed: str = "",
    ) -> None:
        self._requests = enumerate(trace.requests)
        self._block_tokens = trace.block_size
        self._words_per_token = scale / tokens_per_word
        self._scale = scale
        self._seed = seed
        self._block = lru_cache(RECENT_BLOCKS)(self._words_of_block)

    def next(self) -> LoadRequest | None:
        """Return the next request of the trace; None at its end."""
        number, request = next(self._requests, (0, None))
        if request is None:
            return None
        message = {"role": "user", "content": self._text(number, request)}
        tokens = max(1, round(request.output_tokens * self._scale))
        return LoadRequest([message], tokens, request.arrival_ns / SECOND_NS)

    def answered(self, ask: LoadRequest, text: str | None) -> None:
        """Ignore the answer: a trace goes on whatever the answers are."""

    def _text(self, number: int, request: TraceRequest) -> str:
        """Make the prompt of a request: the words of its blocks, then words of its own for the
        rest that has no hash."""
        known = " ".join(self._block(block) for block in request.hashes).split()
        count = max(1, round(request.input_tokens * self._words_per_token))
        missing = count - len(known)
        if missing > 0:
            known += words(random.Random(f"{self._seed} rest {number}"), missing).split()
        return " ".join(known[:count])

    def _words_of_block(self, block: int) -> str:
        count = max(1, round(self._block_tokens * self._words_per_token))
        return words(random.Random(f"{self._seed} block {block}"), count)


def words(dice: random.Random, count: int) -> str:
    """Return `count` random words."""
    return " ".join(dice.choices(WORDS, k=count))


def _range(ends: Range) -> str:
    low, high = ends
    return str(low) if low == high else f"{low} to {high}"


def _middle(limits: Range) -> float:
    return sum(limits) / 2
