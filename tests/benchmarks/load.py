"""Streams and one-token requests that share no prefix, sent by the client of `dynamo-llm bench`."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from dataclasses import dataclass, field

from dynamo_cli.lab.load.client import Heard, LoadClient, target
from dynamo_cli.lab.load.form import ApiPath, Form
from dynamo_cli.lab.load.workload import LoadRequest, words

PROMPT_WORDS = 60  # about 100 tokens with the tiny model's tokenizer

PROMPT_TOKENS = 137  # of so many words
LONG_PROMPTS = 5

_seeds = itertools.count(1)


@dataclass
class Sample:
    """Times of one run, in seconds."""

    ttft: list[float] = field(default_factory=list)
    itl: list[float] = field(default_factory=list)
    tokens: int = 0
    requests: int = 0
    wall_s: float = 0.0

    def add(self, heard: Heard) -> None:
        """Add a streamed answer.

        Raises:
            RuntimeError: the request failed.
        """
        if heard.error:
            raise RuntimeError(f"{heard.error}: {heard.message}")
        self.ttft.append(heard.ttft_s)
        self.itl += heard.gaps_s
        self.tokens += heard.usage.completion_tokens or 0
        self.requests += 1


def client_of(port: int, *, keep: bool = True) -> LoadClient:
    return LoadClient(target(f"127.0.0.1:{port}"), keep=keep)


def request(
    model: str,
    tokens: int,
    *,
    stream: bool = True,
    api: ApiPath = ApiPath.CHAT,
    count: int = PROMPT_WORDS,
) -> bytes:
    """Make a request for exactly `tokens` tokens, with a prompt that no prefix cache holds."""
    dice = random.Random(next(_seeds))
    content = f"{dice.randrange(1 << 30)} {words(dice, count)}"
    ask = LoadRequest([{"role": "user", "content": content}], tokens)
    return Form(model, api).body(ask, stream=stream)


async def streams(
    port: int,
    model: str,
    *,
    at_once: int,
    each: int,
    tokens: int,
    api: ApiPath = ApiPath.CHAT,
    count: int = PROMPT_WORDS,
) -> Sample:
    """Run `at_once` clients, each of which sends `each` streamed requests one after the other.

    Args:
        count: words of each prompt.
    """
    sample, client = Sample(), client_of(port)

    async def talk() -> None:
        for _ in range(each):
            sample.add(await client.stream(api, request(model, tokens, api=api, count=count)))

    await _timed(sample, client, [talk() for _ in range(at_once)])
    return sample


async def one_token(
    port: int, model: str, *, at_once: int, each: int, api: ApiPath = ApiPath.CHAT
) -> Sample:
    """Send requests for one token, not streamed, which are almost only overhead."""
    sample, client = Sample(), client_of(port)

    async def ask() -> None:
        for _ in range(each):
            await client.whole("POST", api, request(model, 1, stream=False, api=api))
            sample.requests += 1

    await _timed(sample, client, [ask() for _ in range(at_once)])
    return sample


async def burst(
    port: int, model: str, *, count: int, tokens: int, api: ApiPath = ApiPath.CHAT
) -> Sample:
    """Send streamed requests all at once, over connections that are open already."""
    client = client_of(port)
    bodies = [request(model, tokens, api=api) for _ in range(2 * count)]
    for wave in (bodies[:count], bodies[count:]):
        sample = Sample()
        for heard in await asyncio.gather(*(client.stream(api, body) for body in wave)):
            sample.add(heard)
    client.close()
    return sample


async def first_tokens(port: int, model: str, *, count: int, kept: bool) -> list[float]:
    """Return times to the first token, seconds, over one kept connection or over new ones."""
    sample, client = Sample(), client_of(port, keep=kept)
    for _ in range(count):
        sample.add(await client.stream(ApiPath.CHAT, request(model, 4)))
    client.close()
    return sample.ttft


async def long_prompts(
    port: int, model: str, tokens: int, shared: float, number: int
) -> list[float]:
    """Return times to the first token, seconds, of long prompts that are sent one by one.

    Args:
        tokens: length of each prompt with the tiny model's tokenizer.
        shared: part of it that all prompts of this number have in common: their system prompt.
        number: prompts of different numbers have nothing in common.
    """
    sample, client = Sample(), client_of(port)
    count = tokens * PROMPT_WORDS / PROMPT_TOKENS
    system = words(random.Random(f"{tokens} {number}"), round(count * shared))
    for place in range(LONG_PROMPTS + 1):
        dice = random.Random(next(_seeds))
        content = f"{dice.randrange(1 << 30)} {words(dice, round(count * (1 - shared)))}"
        messages = [{"role": "system", "content": system}] if shared else []
        ask = LoadRequest([*messages, {"role": "user", "content": content}], 4)
        heard = await client.stream(ApiPath.CHAT, Form(model).body(ask, stream=True))
        if place:  # the first one does not find what it shares
            sample.add(heard)
    client.close()
    return sample.ttft


async def _timed(sample: Sample, client: LoadClient, clients: list[object]) -> None:
    began = time.perf_counter()
    await asyncio.gather(*clients)  # type: ignore[call-overload]
    sample.wall_s = time.perf_counter() - began
    client.close()
