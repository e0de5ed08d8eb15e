"""The simulated engine stores and removes the same blocks as vLLM, event by event."""

from __future__ import annotations

import pytest

from dynamo_cli.engines.vllm import versions
from tests.support.driver import result_of, tiny

IMITATED = "0.32"
"""The release that the simulated engine imitates. In vLLM 0.33, a request that has preempted itself
does not end the step for those after it, where requests have priorities; all else is the same."""


@pytest.mark.engine
@pytest.mark.parametrize(("kind", "seeds"), [("engine", "1"), ("scheduler", "2 3 4 5 6")])
def test_simulated_and_real_engine_tell_the_same(kind: str, seeds: str) -> None:
    if versions.release() != IMITATED:
        pytest.skip(f"the simulated engine imitates vLLM {IMITATED}")
    results = result_of("tests.mock.parity_driver", tiny(), kind, *seeds.split())
    for result in results:
        assert result["differs"] is None
        # The runs must have had enough of everything that could differ.
        assert result["requests"] > 100
        assert result["aborted"] > 5
        assert result["removed"] > 300
        assert result["cached"] > 2_000
        assert result["preemptions"] > 10
