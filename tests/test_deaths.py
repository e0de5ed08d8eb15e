"""Which deaths count against a request."""

from __future__ import annotations

import pytest

from dynamo_cli.deaths import RequestDeaths
from dynamo_cli.units import MS_NS, SECOND_NS

W0, W1, P0 = "worker 0", "worker 1", "processor 0"


@pytest.mark.parametrize(
    ("deaths", "count"),
    [
        ([(W0, 0, 1000)], 1),
        ([(W0, 7, 1000)], 1),
        ([(W0, 0, 1000), (W1, 0, 1100)], 2),
        ([(W0, 7, 1000), (W1, 7, 1100)], 2),
        ([(W0, 7, 1000), (P0, 7, 1100)], 2),
        ([(W0, 7, 1000), (W1, 8, 1100)], 1),
        ([(W0, 7, 1000), (W1, 8, 1100), (W0, 8, 2500)], 2),
        ([(W0, 7, 1000), (W0, 7, 1999)], 1),
        ([(W0, 7, 1000), (W0, 7, 2000)], 2),
        ([(W0, 7, 1000), (W1, 7, 1019)], 1),
        ([(W0, 3, 1000), (W0, 9, 1001), (W1, 9, 1500)], 2),
    ],
)
def test_deaths_without_a_token_in_between_add_up(
    deaths: list[tuple[str, int, int]], count: int
) -> None:
    seen = RequestDeaths()
    for process, tokens, at_ms in deaths:
        seen.add(process, tokens, at_ms * MS_NS)
    assert (seen.count, seen.fatal) == (count, count >= 2)


def test_a_token_that_nobody_counted_is_progress_once() -> None:
    seen = RequestDeaths()
    for at_ms, begun, count in ((1000, True, 1), (3000, True, 1), (5000, False, 2)):
        if begun:
            seen.begun()
        seen.add(P0, 0, at_ms * MS_NS)
        assert seen.count == count


def test_an_answer_that_begins_again_is_measured_anew() -> None:
    seen = RequestDeaths()
    for process, tokens, at_ms in ((W0, 100, 1000), (P0, 0, 3000), (W1, 50, 5000)):
        seen.add(process, tokens, at_ms * MS_NS)
    assert seen.count == 1


def test_what_engines_made_is_not_compared_with_what_clients_have() -> None:
    seen = RequestDeaths()
    seen.add("worker 0", 12, SECOND_NS, 1)  # a parser holds back eleven tokens
    seen.add("processor 0", None, 3 * SECOND_NS, 4)
    assert seen.count == 1, "the client got three more in between"
    seen.add("processor 1", None, 5 * SECOND_NS, 4)
    assert seen.fatal
