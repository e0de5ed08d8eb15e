"""Which deaths count against a request."""

from __future__ import annotations

import pytest

from dynamo_cli.deaths import Deaths
from dynamo_cli.units import MS_NS

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
    seen = Deaths()
    for process, tokens, at_ms in deaths:
        seen.add(process, tokens, at_ms * MS_NS)
    assert (seen.count, seen.fatal) == (count, count >= 2)
