"""Requests of many kinds, whose greedy answers do not depend on where a prompt is prefilled."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tests.kv_routing.talk import text
from tests.support.requests import post
from tests.support.server import Server

SCHEMA = {
    "type": "json_schema",
    "json_schema": {
        "name": "pet",
        "schema": {
            "type": "object",
            "properties": {"age": {"type": "integer", "minimum": 0, "maximum": 99}},
            "required": ["age"],
            "additionalProperties": False,
        },
    },
}


def requests(
    count: int, model: str, seed: int = 0, adapter: str = ""
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Path and body of each request: one to hundreds of tokens, shared prefixes, all options.

    Args:
        adapter: name of a LoRA adapter that some of them use.
    """
    dice = random.Random(seed)
    shared = [text(dice, 40) for _ in range(3)]
    for number in range(count):
        words = dice.choice((0, 1, 3, 10, 30, 60, 120))
        prompt = dice.choice(("", *shared)) + text(dice, words) or "x"
        body: dict[str, Any] = {
            "model": model,
            "prompt": prompt,
            "max_tokens": dice.randrange(1, 30),
            "temperature": 0,
            "return_token_ids": True,
        }
        body |= dice.choice(
            (
                {},
                {},
                {},
                {"ignore_eos": True},
                {"n": 3, "temperature": 0.8, "seed": number},
                {"logprobs": 3},
                {"stop": ["e"]},
                # Log probabilities of the prompt keep the prefill local; not possible with LoRA.
                {} if adapter else {"echo": True, "logprobs": 1},
                {"response_format": SCHEMA, "max_tokens": 40},
                {"seed": number, "temperature": 0.7},
                {"stream": True},
                {"stream": True, "ignore_eos": True},
                {"model": adapter or model, "ignore_eos": True},
            )
        )
        yield "/v1/completions", body


def answers(server: Server, asked: list[tuple[str, dict[str, Any]]], at_once: int) -> list[Any]:
    """What is compared of each answer: token ids, text and finish reason."""
    with ThreadPoolExecutor(at_once) as pool:
        return list(pool.map(lambda one: _answer(server, *one), asked))


def _answer(server: Server, path: str, body: dict[str, Any]) -> Any:
    status, content = post(server, path, body)
    assert status == 200, (body, content)
    return said(content)


def said(content: Any) -> Any:
    """Token ids, text and finish reason of each choice, from a whole answer or a stream."""
    choices: dict[int, tuple[list[int], str, str]] = {}
    for part in content if isinstance(content, list) else [content]:
        for choice in part["choices"]:
            ids, text, _ = choices.get(choice["index"], ([], "", ""))
            choices[choice["index"]] = (
                ids + (choice["token_ids"] or []),
                text + choice["text"],
                choice["finish_reason"],
            )
    return sorted(choices.items())


def differences(left: list[Any], right: list[Any], asked: list[Any]) -> list[str]:
    """The requests with different answers, as text for people."""
    return [
        json.dumps([asked[place], one, other])
        for place, (one, other) in enumerate(zip(left, right, strict=True))
        if one != other
    ]
