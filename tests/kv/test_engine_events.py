"""The processor's hashes equal those of a real engine's events, also with adapters and salts."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.adapter import write
from tests.support.driver import result_of, tiny


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("adapter")
    return write(folder)


@pytest.mark.engine
def test_hashes_of_requests_equal_those_of_events(adapter: Path) -> None:
    result = result_of("tests.kv.engine_driver", tiny(), str(adapter), "7")
    assert result["wrong"] == []
    assert result["hits"] > 5_000  # some prompts were cached
    assert result["removed"] > 200  # and the cache was too small for all blocks
    assert result["parts"] > 100  # long prompts were hashed bit by bit
    # A million objects that all engines share stay shared. vLLM would look at each of them.
    assert result["thawed_by_the_end"] < 10_000
