"""What users say to a server: talks over shared system prompts, or the prompts of a trace. Pure.

Seeded: the same seed gives the same words; what has another seed or salt shares no block with it.
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
"""That a chat template adds to a message, about."""

RECENT_BLOCKS = 4096
"""Of a trace, whose words are kept."""

Range = tuple[int, int]
"""Smallest and largest, both possible."""

Message = dict[str, str]
"""Of a chat: role and content."""


class Ask(NamedTuple):
    """A request.

    Attributes:
        output_tokens: that the answer shall have.
        at_s: when a trace has it, from its first on; 0 where nothing says so.
        talk: that it belongs to; None when it stands alone.
    """

    messages: list[Message]
    output_tokens: int
    at_s: float = 0.0
    talk: Talk | None = None


class Workload(Protocol):
    """Where requests come from."""

    def next(self) -> Ask | None:
        """The next one; None: there is none, at least not now."""

    def answered(self, ask: Ask, text: str | None) -> None:
        """What was said to it; None when it failed."""


@dataclass(frozen=True)
class Turn:
    """What the user says next, and how many tokens the answer gets."""

    text: str
    answer_tokens: int


@dataclass(frozen=True)
class Conversation:
    """One user with one system prompt; each turn follows the answer to that before."""

    system: str
    turns: tuple[Turn, ...]


@dataclass(frozen=True)
class Shape:
    """A tree of prefixes. Lengths in tokens of the text alone, without the chat template's.

    Attributes:
        systems: system prompts: the first level.
        conversations: over each of them: the second.
        turns: of each conversation: how deep it goes.
    """

    systems: int
    conversations: int
    turns: int
    system_tokens: Range
    user_tokens: Range
    answer_tokens: Range

    @property
    def working_set_tokens(self) -> float:
        """About all that is said, with what is shared counted once."""
        turn = _middle(self.user_tokens) + _middle(self.answer_tokens) + 2 * TEMPLATE_TOKENS
        system = _middle(self.system_tokens) + TEMPLATE_TOKENS
        return self.systems * (system + self.conversations * self.turns * turn)


def conversations(
    shape: Shape, seed: str, tokens_per_word: float, salt: str = ""
) -> Iterator[Conversation]:
    """Without end; each system prompt in turn. The first of them fill the shape once.

    Args:
        seed: of all words and lengths.
        tokens_per_word: of the model's tokenizer, for `WORDS`.
        salt: another one gives other words of the same lengths.
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
    """A conversation under way."""

    conversation: Conversation
    messages: list[Message] = field(default_factory=list)
    said: int = 0

    @property
    def over(self) -> bool:
        return self.said == len(self.conversation.turns)

    def ask(self) -> Ask:
        """What the user says next."""
        if not self.messages:
            self.messages.append({"role": "system", "content": self.conversation.system})
        turn = self.conversation.turns[self.said]
        self.messages.append({"role": "user", "content": turn.text})
        return Ask(self.messages, turn.answer_tokens, talk=self)

    def hear(self, text: str) -> None:
        """What the model answered."""
        self.messages.append({"role": "assistant", "content": text})
        self.said += 1


class Talks:
    """Conversations at once.

    Who speaks next is left to chance, but it is one of that half who have waited longer: people
    think before they go on. One who has said all is replaced by the next; so is one whose request
    failed. When everybody waits for an answer, somebody new comes.

    Args:
        people: who talks, in the order in which they come.
        at_once: how many, as long as there are enough.
        endless: there is always somebody to ask.
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

    def next(self) -> Ask | None:
        if not self._waiting and self._endless:
            self._welcome()
        if not self._waiting:
            return None
        longer = (len(self._waiting) + 1) // 2
        return self._waiting.pop(self._dice.randrange(longer)).ask()

    def answered(self, ask: Ask, text: str | None) -> None:
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
    """The requests of a trace, with words that share prefixes as its own did.

    Args:
        scale: of all lengths: 0.1 makes prompts and answers a tenth as long.
        seed: of the words.
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

    def next(self) -> Ask | None:
        number, request = next(self._requests, (0, None))
        if request is None:
            return None
        message = {"role": "user", "content": self._text(number, request)}
        tokens = max(1, round(request.output_tokens * self._scale))
        return Ask([message], tokens, request.arrival_ns / SECOND_NS)

    def answered(self, ask: Ask, text: str | None) -> None:
        """A trace goes on whatever the answers are."""

    def _text(self, number: int, request: TraceRequest) -> str:
        """Words of its blocks, then some that are its own: the rest of it that has no hash."""
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
    """That many, in no order."""
    return " ".join(dice.choices(WORDS, k=count))


def _middle(limits: Range) -> float:
    return sum(limits) / 2
