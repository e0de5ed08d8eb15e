"""Greedy answers have the same tokens as those of vLLM's own offline `LLM` (float32)."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from dynamo_cli.models import catalog
from tests.support.driver import result_of

if TYPE_CHECKING:  # its import takes two seconds
    import openai

pytestmark = pytest.mark.engine

PROMPTS = [
    "Once upon a time",
    "The capital of France is",
    "def fibonacci(number: int) -> int:\n",
    "1 2 3 4 5 6",
    "grüße, 世界!",
    " ".join(f"word{index}" for index in range(200)),
]
TOKENS = 40


def offline(path: str, **options: Any) -> list[list[int]]:
    """Return the token ids that vLLM itself generates, in a process of its own."""
    words = (json.dumps(PROMPTS), str(TOKENS), json.dumps(options))
    result: list[list[int]] = result_of("tests.api.offline_driver", path, *words)
    return result


def served(client: openai.OpenAI, model: str, *, stream: bool) -> list[list[int]]:
    """Return the token ids that the API answers, with all prompts at once."""
    ids: Any = {"extra_body": {"return_token_ids": True}}

    def ask(prompt: str) -> list[int]:
        options: Any = {"model": model, "prompt": prompt, "max_tokens": TOKENS, "temperature": 0}
        answer: Any = client.completions.create(stream=stream, **options, **ids)
        choices = [part.choices[0] for part in (answer if stream else [answer])]
        return [token for choice in choices for token in choice.token_ids or ()]

    with ThreadPoolExecutor(len(PROMPTS)) as pool:
        return list(pool.map(ask, PROMPTS))


def test_tiny(client: openai.OpenAI) -> None:
    expected = offline(catalog.resolve("tiny", lambda _: None).path)
    assert served(client, "tiny", stream=False) == expected
    assert served(client, "tiny", stream=True) == expected
