"""On a GPU the layers of a block lie side by side, and blocks are copied whole in every layout."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.driver import result_of

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def told() -> Any:
    return result_of("tests.host_cache.packed_driver")


@pytest.mark.parametrize("layout", ["LBHNC", "LBNHC", "BLHNC", "BLNHC"])
def test_every_layer_of_a_block_comes_to_the_other_engine(told: Any, layout: str) -> None:
    assert all(told["moved"][layout])


def test_the_layout_is_packed_where_it_was_measured(told: Any) -> None:
    assert told["wanted"] == {
        "a CPU": "LBHNC",
        "an H100": "BLNHC",
        "an H100, MLA": "LBHNC",
        "an H100, state": "LBHNC",
        "a B200": "LBHNC",
    }
