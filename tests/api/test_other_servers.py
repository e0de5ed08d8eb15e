"""Tests that need a server with other options: API keys, limits, and a pooling model."""

from __future__ import annotations

import pytest

from tests.support.requests import Stream
from tests.support.server import SMALL, Server, wait_until

pytestmark = pytest.mark.engine

TOKENS = 3000
"""Of a stream that must not end before the next request comes, however busy this machine is."""


def test_embeddings() -> None:
    import openai

    pooling = ("--runner", "pooling", "--convert", "embed")
    with (
        Server(*SMALL, *pooling) as server,
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client,
    ):
        answer = client.embeddings.create(model="tiny", input=["one", "two"])
        assert [len(item.embedding) for item in answer.data] == [64, 64]
        assert answer.data[0].embedding != answer.data[1].embedding
        assert answer.usage.prompt_tokens > 0
        with pytest.raises(openai.NotFoundError):
            client.completions.create(model="tiny", prompt="a")


def test_keys_and_limits_and_metrics() -> None:
    import openai

    key = {"DYNAMO_LLM_API_KEY": "right"}
    with (
        Server(*SMALL, "--max-inflight", "1", environment=key) as server,
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="right", max_retries=0) as client,
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="wrong", max_retries=0) as stranger,
    ):
        with pytest.raises(openai.AuthenticationError):
            stranger.models.list()
        stream = client.completions.create(
            model="tiny",
            prompt="a",
            max_tokens=TOKENS,
            stream=True,
            extra_body={"ignore_eos": True},
        )
        next(iter(stream))
        with pytest.raises(openai.RateLimitError) as caught:
            client.completions.create(model="tiny", prompt="a", max_tokens=1)
        assert int(caught.value.response.headers["Retry-After"]) > 0
        list(stream)
        for _ in range(2):
            client.completions.create(model="tiny", prompt="a" * 500, max_tokens=1)
        # A request is counted when it ends, a moment after its client has the whole answer.
        counted = 'dynamo_llm_requests_total{endpoint="/v1/completions",status="200"} 3.0'
        try:
            wait_until(lambda: counted in server.get("/metrics")[1], 5, "all are counted")
        except AssertionError as error:
            raise AssertionError(f"{error}: {server.log}") from error
        page = server.get("/metrics")[1]
        assert 'dynamo_llm_requests_total{endpoint="/v1/completions",status="429"} 1.0' in page
        assert _value(page, "dynamo_llm_output_tokens_total") == TOKENS + 2
        assert _value(page, "vllm:prefix_cache_hits_total") > 0
        prompts = _value(page, "vllm:prompt_tokens_total")  # that of the probe, too
        assert prompts >= 1 + 2 * 500
        both = prompts + _value(page, "vllm:generation_tokens_total")
        assert _value(page, "vllm:iteration_tokens_total_sum") == both
        assert _value(page, "vllm:request_queue_time_seconds_count") == 3
        assert _value(page, "vllm:cache_config_info") == 1
        assert _value(page, "vllm:prompt_tokens_by_source_total") == prompts


def _value(page: str, name: str) -> float:
    lines = [line for line in page.splitlines() if line.startswith(name)]
    return sum(float(line.rpartition(" ")[2]) for line in lines)


def test_streams_can_be_opened_while_others_run() -> None:
    """Run as many streams at once as there are processors times workers."""
    with (
        Server(*SMALL, "--workers", "2", "--processors", "2") as server,
        Stream(server, 300) as first,
        Stream(server, 300) as second,
        Stream(server, 300) as third,
    ):
        for stream in (first, second, third):
            assert stream.rest().endswith(b"data: [DONE]\n\n")
        workers = server.snapshot()["workers"]
        assert all(worker["output_tokens"] > 0 for worker in workers)
