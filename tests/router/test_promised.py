"""Promised prefixes, compared with a simple model."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from dynamo_cli.router.promised import DEPTHS, PER_DOUBLING, Promised, marks

TREE = st.lists(st.integers(0, 1), min_size=0, max_size=60)


def chain(path: list[int]) -> list[int]:
    """Return a hash for each prefix of a path through a tree; equal prefixes have equal hashes."""
    return [hash((depth, *path[: depth + 1])) for depth in range(len(path))]


def common(one: list[int], other: list[int]) -> int:
    alike = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))
    return sum(1 for _ in alike)


def test_depths_grow_with_a_prompt_in_even_shares() -> None:
    assert DEPTHS[:18] == (*range(1, 17), 18, 20)
    assert all(one < other for one, other in itertools.pairwise(DEPTHS))
    assert all(
        other - one <= max(one / PER_DOUBLING, 1) for one, other in itertools.pairwise(DEPTHS)
    )
    for blocks in (0, 1, 7, 8, 9, 100, 8_000):
        assert marks(range(1, blocks + 1)) == [depth for depth in DEPTHS if depth <= blocks]
    assert len(marks(range(8_000))) < 100


def test_nothing_is_promised_of_an_empty_prompt() -> None:
    promised = Promised()
    promised.add(0, marks([]))
    assert promised.leading(marks([])) == {}
    assert promised.leading(marks([7])) == {}


@given(st.lists(st.tuples(st.integers(0, 3), TREE, st.booleans()), max_size=12), TREE)
def test_what_is_promised_is_found_to_within_an_eighth(
    prompts: list[tuple[int, list[int], bool]], path: list[int]
) -> None:
    promised, left = Promised(), []
    for worker, prompt, stays in prompts:
        promised.add(worker, marks(chain(prompt)))
        if stays:
            left.append((worker, prompt))
    for worker, prompt, stays in prompts:
        if not stays:
            promised.remove(worker, marks(chain(prompt)))
    found = promised.leading(marks(chain(path)))
    for worker in range(4):
        depth = max((common(prompt, path) for at, prompt in left if at == worker), default=0)
        assert depth * (1 - 1 / PER_DOUBLING) <= found.get(worker, 0) <= depth
    for worker, prompt in left:
        promised.remove(worker, marks(chain(prompt)))
    assert len(promised) == 0
    assert promised.leading(marks(chain(path))) == {}
