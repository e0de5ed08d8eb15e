"""How much of the prompts came before, which is the limit of any cache."""

from __future__ import annotations

import random

from dynamo_cli.router.repeats import Repeats

SIZE = 16


def test_only_what_came_before_counts() -> None:
    repeats = Repeats()
    repeats.ask(50, [1, 2, 3], SIZE)
    assert (repeats.asked_tokens, repeats.repeated_tokens) == (50, 0)
    repeats.ask(70, [1, 2, 4, 5], SIZE)
    assert (repeats.asked_tokens, repeats.repeated_tokens) == (120, 32)
    repeats.ask(10, [], SIZE)
    assert (repeats.asked_tokens, repeats.repeated_tokens) == (130, 32)


def test_the_last_token_is_always_computed() -> None:
    repeats = Repeats()
    for _ in range(2):
        repeats.ask(32, [1, 2], SIZE)
    assert repeats.repeated_tokens == 16


def test_before_any_engine_has_told_its_block_size_nothing_is_known() -> None:
    repeats = Repeats()
    for _ in range(2):
        repeats.ask(32, [1, 2], 0)
    assert repeats.repeated_tokens == 0


def test_what_is_forgotten_is_counted_and_what_is_used_stays() -> None:
    repeats = Repeats(max_blocks=10)
    for number in range(100):
        repeats.ask(33, [1, 1000 + number], SIZE)
    assert repeats.repeated_tokens == 99 * SIZE
    assert 70 < repeats.forgotten_blocks < 95


def test_it_agrees_with_an_endless_memory_while_there_is_room() -> None:
    draw = random.Random(3)
    repeats, seen, expected = Repeats(), set[int](), 0
    for _ in range(200):
        tree, depth = draw.randrange(5), draw.randrange(1, 9)
        chain = [hash((tree, place)) for place in range(depth)]
        leading = 0
        while leading < len(chain) and chain[leading] in seen:
            leading += 1
        expected += leading * SIZE
        seen.update(chain)
        repeats.ask(len(chain) * SIZE + 1, chain, SIZE)
    assert repeats.repeated_tokens == expected
