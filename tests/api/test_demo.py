"""The demo model, a real one: its tokens, its English, and both when prompts go elsewhere."""

from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest

from dynamo_cli.models import catalog
from tests.api.conftest import FLOAT32
from tests.api.test_tokens import offline, served
from tests.disagg.mix import answers, differences, requests
from tests.support.server import SMALL, Server

pytestmark = pytest.mark.engine

ROOM = ("--kv-cache-memory-bytes", str(1 << 28), *SMALL[2:])
SHAPE = (*ROOM, *FLOAT32, "--block-size", "32", "--max-model-len", "2048")
AT_ONCE = 6


@pytest.fixture(scope="module")
def demo() -> Iterator[Server]:
    """Two workers in turn."""
    with Server(*SHAPE, "--workers", "2", "--router", "round-robin", model="demo") as server:
        yield server


def test_what_it_says_has_the_tokens_of_vllm(demo: Server) -> None:
    """Streams; `test_tiny` compares whole answers too."""
    expected = offline(str(catalog.resolve("demo", lambda _: None).path))
    with openai.OpenAI(base_url=f"{demo.url}/v1", api_key="none", max_retries=0) as client:
        assert served(client, "demo", stream=True) == expected


def test_it_speaks_english(demo: Server) -> None:
    with openai.OpenAI(base_url=f"{demo.url}/v1", api_key="none", max_retries=0) as client:
        answer = client.chat.completions.create(
            model="demo",
            messages=[{"role": "user", "content": "What is the capital of France?"}],
            max_tokens=20,
            temperature=0,
        )
    (choice,) = answer.choices
    assert choice.message.content == "The capital of France is Paris."
    assert choice.finish_reason == "stop"


def test_prompts_that_are_prefilled_elsewhere_have_the_same_answers(demo: Server) -> None:
    asked = list(requests(12, "demo", seed=2))
    expected = answers(demo, asked, AT_ONCE)
    with Server(*SHAPE, "--prefill-workers", "1", model="demo") as server:
        got = answers(server, asked, AT_ONCE)
        assert not differences(expected, got, asked)
        prefill = server.snapshot()["prefill"]
        assert prefill["placements"]["remote:always"] > 6
        assert prefill["fallbacks"] == {}
