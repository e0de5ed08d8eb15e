"""Random traffic for replays, made from a seed, in blocks of 64 tokens.

Prompts consist of segments; two prompts that begin with the same segments share their blocks.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from functools import partial

from xxhash import xxh3_64_intdigest

from dynamo_cli.lab.trace.trace import Trace, TraceRequest
from dynamo_cli.units import SECOND_NS

BLOCK = 64

Segment = tuple[str, int]
"""A segment of a prompt: its name and its number of tokens."""

Spoken = tuple[float, list[Segment], int]
"""A request: its arrival time in seconds, its prompt, and the tokens of its answer."""


def _hashes(segments: list[Segment]) -> tuple[int, ...]:
    """Return the hashes of the full blocks; each names its content and all before it."""
    spans, end = [], 0
    for name, tokens in segments:
        spans.append((end, end + tokens, name))
        end += tokens
    found, parent = [], 0
    for start in range(0, end - end % BLOCK, BLOCK):
        parts = [
            (name, max(start - low, 0), min(start + BLOCK, high) - low)
            for low, high, name in spans
            if low < start + BLOCK and high > start
        ]
        parent = xxh3_64_intdigest(repr(parts).encode(), parent)
        found.append(parent)
    return tuple(found)


def _trace(name: str, spoken: Iterator[Spoken], count: int) -> Trace:
    """Make a trace of the first `count` requests in the order of arrival."""
    requests = []
    for at_s, segments, answer in sorted(spoken, key=lambda one: one[0])[:count]:
        tokens = sum(length for _, length in segments)
        request = TraceRequest(round(at_s * SECOND_NS), tokens, answer, _hashes(segments))
        requests.append(request)
    return Trace(name, BLOCK, tuple(requests))


def _length(dice: random.Random, median: float, sigma: float) -> int:
    return max(2, round(dice.lognormvariate(math.log(median), sigma)))


def chats(
    dice: random.Random,
    count: int,
    *,
    rate: float,
    systems: int,
    system_tokens: int,
    turns: float,
    user_tokens: int,
    answer_tokens: int,
    think_s: float,
) -> Iterator[Spoken]:
    """Make conversations over system prompts, of which the first are used more than the others."""
    start_s, weights = 0.0, [1 / (place + 1) ** 1.2 for place in range(systems)]
    for chat in range(round(1.5 * count / turns) + 1):
        start_s += dice.expovariate(rate / turns)
        system = dice.choices(range(systems), weights)[0] if systems else chat
        segments, at_s = [(f"system {system} of {systems}", system_tokens)], start_s
        for turn in range(1 + round(dice.expovariate(1 / max(turns - 1, 1e-9)))):
            asked = (f"user {chat} {turn}", _length(dice, user_tokens, 0.8))
            answer = _length(dice, answer_tokens, 0.7)
            segments = [*segments, asked]
            yield at_s, segments, answer
            segments = [*segments, (f"answer {chat} {turn}", answer)]
            at_s += 1 + 0.02 * answer + dice.expovariate(1 / think_s)


def documents(dice: random.Random, count: int, *, rate: float) -> Iterator[Spoken]:
    """Make single questions about 400 documents, of which some are asked about repeatedly."""
    at_s, sizes = 0.0, [_length(dice, 5000, 0.6) for _ in range(400)]
    weights = [1 / (place + 1) for place in range(400)]
    for question in range(count):
        at_s += dice.expovariate(rate)
        chosen = dice.choices(range(400), weights)[0]
        prompt = [("system", 300), (f"document {chosen}", sizes[chosen])]
        yield (
            at_s,
            [*prompt, (f"question {question}", dice.randint(20, 200))],
            _length(dice, 150, 0.7),
        )


def strangers(dice: random.Random, count: int, *, rate: float) -> Iterator[Spoken]:
    """Make prompts that share nothing."""
    at_s = 0.0
    for number in range(count):
        at_s += dice.expovariate(rate)
        prompt = [(f"prompt {number}", _length(dice, 3000, 0.8))]
        yield at_s, prompt, _length(dice, 200, 0.7)


CHAT = partial(
    chats, rate=40, systems=4, system_tokens=1500, turns=6, user_tokens=120, answer_tokens=250
)
MAKERS: dict[str, Callable[[random.Random, int], Iterator[Spoken]]] = {
    "chats over 4 system prompts": partial(CHAT, think_s=20),
    "one hot system prompt": partial(
        CHAT, think_s=1, systems=1, system_tokens=800, turns=1.01, user_tokens=100
    ),
    "agents that loop": partial(
        CHAT,
        rate=6,
        systems=3,
        system_tokens=4000,
        turns=12,
        user_tokens=900,
        answer_tokens=90,
        think_s=3,
    ),
    "chats without a system prompt": partial(
        CHAT, systems=0, system_tokens=1, user_tokens=600, think_s=20
    ),
    "questions about documents": partial(documents, rate=12),
    "nothing shared": partial(strangers, rate=20),
}


def make(name: str, count: int, seed: int = 1) -> Trace:
    """Make traffic of a kind."""
    return _trace(name, MAKERS[name](random.Random(seed), count), count)


def bunched(trace: Trace, every_s: float) -> Trace:
    """Return the same requests, but let all of some seconds arrive at the same time."""
    step = round(every_s * SECOND_NS)
    requests = (
        TraceRequest(one.arrival_ns // step * step, one.input_tokens, one.output_tokens, one.hashes)
        for one in trace.requests
    )
    return Trace(f"{trace.name}, bunched", trace.block_size, tuple(requests))
