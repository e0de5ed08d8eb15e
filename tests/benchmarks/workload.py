"""What users say to a server: talks over shared system prompts, or prompts that share nothing.

Pure and seeded: the same seed gives the same words, another seed shares no block with it.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from tests.benchmarks.load import WORDS

Range = tuple[int, int]
"""Smallest and largest, both possible."""


TEMPLATE_TOKENS = 6
"""That a chat template adds to a message."""


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
    """How much is said. Lengths in tokens of the text alone, without the chat template's.

    Attributes:
        systems: system prompts.
        conversations: over each of them.
        turns: of each conversation.
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


SHARED = Shape(
    systems=12,
    conversations=2,
    turns=5,
    system_tokens=(400, 600),
    user_tokens=(30, 80),
    answer_tokens=(16, 32),
)
UNIFORM = Shape(
    systems=60,
    conversations=1,
    turns=1,
    system_tokens=(400, 600),
    user_tokens=(30, 80),
    answer_tokens=(16, 32),
)


def conversations(shape: Shape, seed: str, tokens_per_word: float) -> list[Conversation]:
    """Fresh ones.

    Args:
        seed: of all words and lengths.
        tokens_per_word: of the model's tokenizer, for `words(...)`.
    """
    dice = random.Random(seed)

    def text(tokens: Range) -> str:
        return words(dice, round(dice.randint(*tokens) / tokens_per_word))

    def turn() -> Turn:
        return Turn(text(shape.user_tokens), dice.randint(*shape.answer_tokens))

    systems = [text(shape.system_tokens) for _ in range(shape.systems)]
    return [
        Conversation(system, tuple(turn() for _ in range(shape.turns)))
        for system in systems
        for _ in range(shape.conversations)
    ]


def words(dice: random.Random, count: int) -> str:
    """That many, in no order."""
    return " ".join(dice.choices(WORDS, k=count))


def _middle(limits: Range) -> float:
    return sum(limits) / 2
