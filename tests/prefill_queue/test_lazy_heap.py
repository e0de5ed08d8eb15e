"""The ranking compared with a sorted list."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from dynamo_cli.prefill_queue.lazy_heap import DEAD_ITEMS, LazyHeap

NAMES = st.sampled_from("abcdef")
ADDS = st.tuples(NAMES, st.integers(0, 3))
STEPS = st.lists(ADDS | NAMES | st.integers(0, 3), max_size=60)


@given(STEPS)
def test_a_ranking_is_a_sorted_list(steps: list[tuple[str, int] | str | int]) -> None:
    ranking, model = LazyHeap(), dict[str, tuple[int, int]]()
    for number, step in enumerate(steps):
        if isinstance(step, tuple):
            ranking.add(step[0], step[1], number)
            model[step[0]] = (step[1], number)
        elif isinstance(step, str):
            ranking.discard(step)
            model.pop(step, None)
        else:
            due = sorted((name for name in model if model[name][0] <= step), key=model.__getitem__)
            assert ranking.due(step) == due
            for name in due:
                del model[name]
        first = min(((*rank, name) for name, rank in model.items()), default=None)
        assert ranking.first() == first
        assert set(ranking) == set(model)
        assert len(ranking) == len(model)


def test_what_is_moved_takes_no_space() -> None:
    ranking = LazyHeap()
    ranking.add("first", 0, 0)
    for number in range(1, 10_000):
        ranking.add("moved", number, number)
    assert len(ranking._heap) <= 2 * len(ranking) + DEAD_ITEMS


def test_what_is_gone_takes_no_space_and_leaves_the_order() -> None:
    ranking = LazyHeap()
    for number in range(1_000):
        ranking.add(str(number), -number, number)
    for number in range(10, 1_000):
        ranking.discard(str(number))
    assert len(ranking._heap) <= 2 * len(ranking) + DEAD_ITEMS
    assert ranking.due(0) == [str(number) for number in reversed(range(10))]
