"""A real engine with a host cache answers as one without, however small its own cache is."""

from __future__ import annotations

from typing import Any

import pytest

from tests.host_cache.engine_driver import GPU_BLOCKS, HOST_BLOCKS
from tests.support.driver import result_of, tiny

pytestmark = pytest.mark.engine

DRIVER = "tests.host_cache.engine_driver"


@pytest.fixture(scope="module")
def plain() -> Any:
    return result_of(DRIVER, tiny(), "plain")


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("shared", ("--async-scheduling",)),
        ("between", ("--no-async-scheduling", "--max-num-batched-tokens", "64")),
        ("between", ("--async-scheduling",)),
    ],
    ids=["ahead", "in chunks", "ahead, loads between steps"],
)
def test_the_tokens_are_those_of_an_engine_without(
    kind: str, options: tuple[str, ...], plain: Any
) -> None:
    got = result_of(DRIVER, tiny(), kind, *options)
    assert got["joined"] > 5
    assert got["between"] > 0, "of whole prompts"
    assert (got["between"] > got["joined"] / 2) is (kind == "between")
    assert got["tokens"] == plain["tokens"]
    assert plain["preemptions"] > 0, "its own cache is too small for what runs"
    assert got["cached"] > 1.5 * plain["cached"]
    assert got["loaded"] > 2 * GPU_BLOCKS
    assert got["evicted"] > 0, "the host cache is too small, too"
    assert all(known == found for known, found in got["known"]), "before it is started"
    assert got["known"][4:] == 4 * [[288, 288]], "all full blocks"
    assert plain["known"][4:] == 4 * [[0, 0]]
    assert (got["reset"], got["known_after"], got["lacks"]) == ([True, True], 0, 0)
    assert (got["kept"], got["pinned"], got["invalid"]) == (0, 0, 0)
    assert got["slots"] == [HOST_BLOCKS, 0]
    assert got["published"] == got["reachable"] > HOST_BLOCKS // 2, "the router knows each of them"
    assert got["blocks"] - got["reachable"] <= HOST_BLOCKS // 10, "those before them were evicted"


def test_the_tokens_are_the_same_if_all_blocks_come_from_the_disk(plain: Any) -> None:
    got = result_of(DRIVER, tiny(), "disk")
    assert got["tokens"] == plain["tokens"]
    assert got["on_disk"] > 2 * GPU_BLOCKS
    assert got["cached"] > plain["cached"]
    assert (got["kept"], got["pinned"], got["invalid"]) == (0, 0, 0)
    assert got["slots"] == [HOST_BLOCKS, 0]
    assert got["disk"].keys() <= {"gone", "late", "slow"}


def test_the_tokens_are_the_same_if_the_layers_of_a_block_lie_side_by_side(plain: Any) -> None:
    got = result_of(DRIVER, tiny(), "packed")
    assert (plain["layout"], got["layout"]) == ("LBHNC", "BLHNC")
    assert got["tokens"] == plain["tokens"]
    assert got["loaded"] > 2 * GPU_BLOCKS
    assert got["cached"] > 1.5 * plain["cached"]
    assert (got["kept"], got["pinned"], got["invalid"]) == (0, 0, 0)
