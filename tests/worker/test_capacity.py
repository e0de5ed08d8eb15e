"""How much fits into the KV cache, as the log says it."""

from __future__ import annotations

import pytest

from dynamo_cli.messages.request import EngineReady
from dynamo_cli.messages.telemetry import CacheFacts
from dynamo_cli.worker.capacity import capacity


def ready(num_blocks: int, cache: CacheFacts | None = None) -> EngineReady:
    return EngineReady(0, ["generate"], 4096, 16, num_blocks, 64, cache or CacheFacts())


@pytest.mark.parametrize(
    ("told", "words"),
    [
        (ready(4096), "65,536 tokens, room for 16 requests of full length (4,096 tokens)"),
        (ready(640), "10,240 tokens, room for 2.5 requests of full length (4,096 tokens)"),
        # Layers with a sliding window take fewer blocks: the engine itself knows what fits.
        (ready(640, CacheFacts(40_960, 12.3)), "40,960 tokens, room for 12 requests of full"),
    ],
)
def test_it_says_how_many_tokens_and_requests_fit(told: EngineReady, words: str) -> None:
    assert words in capacity(told)


def test_an_engine_without_a_cache_says_nothing() -> None:
    assert capacity(ready(0)) == ""
