"""The addresses of copied blocks are those that vLLM computes."""

from __future__ import annotations

import pytest

from tests.support.driver import result_of

pytestmark = pytest.mark.engine


def test_the_addresses_are_those_of_vllm() -> None:
    for theirs, ours in result_of("tests.host_cache.copy_addresses_driver"):
        assert ours == theirs
