"""Load with known right answers: clients that ask the same requests again and again.

All of them are greedy, so an answer that was given while processes died must be that of the quiet
server, token for token.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import aiohttp

TIMEOUT_S = 120.0
PAUSE_S = 0.1
"""After a failure, so that a client does not fail a thousand times while nobody listens."""

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
LONG = " ".join(f"far away {number}" for number in range(40))
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 20}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


@dataclass(frozen=True)
class Shape:
    """A request.

    Attributes:
        body: all but the model.
        real: whether it needs a real engine: simulated ones have no grammars and probabilities.
    """

    name: str
    path: str
    body: dict[str, Any]
    real: bool = False


def _said(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


_MADE = {"temperature": 0, "ignore_eos": True}
SHAPES = (
    Shape("completion", COMPLETIONS, _MADE | {"prompt": "once upon a time", "max_tokens": 60}),
    Shape(
        *("stream", COMPLETIONS),
        _MADE | {"prompt": "there was", "max_tokens": 200, "stream": True},
    ),
    Shape(
        *("logprobs", COMPLETIONS),
        _MADE | {"prompt": "a king", "max_tokens": 120, "stream": True, "logprobs": 2},
        real=True,
    ),
    Shape(
        *("two prompts", COMPLETIONS),
        _MADE | {"prompt": ["who had", "three sons"], "max_tokens": 80},
    ),
    Shape("long prompt", COMPLETIONS, _MADE | {"prompt": LONG, "max_tokens": 60, "stream": True}),
    Shape("chat", CHAT, _MADE | {"messages": _said("tell me more"), "max_tokens": 60}),
    Shape(
        *("chat stream", CHAT),
        _MADE | {"messages": _said("and then?"), "max_tokens": 150, "stream": True},
    ),
    Shape(
        *("schema", CHAT),
        {
            "messages": _said("who is it?"),
            "temperature": 0,
            "max_tokens": 100,
            "stream": True,
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "person", "schema": SCHEMA, "strict": True},
            },
        },
        real=True,
    ),
)


DOCUMENTS = tuple(
    Shape(
        *(f"document {number}", COMPLETIONS),
        _MADE
        | {
            "prompt": [10 + (7 * number + place * place) % 150 for place in range(300)],
            "max_tokens": 8 + 9 * number,
            "stream": True,
        },
    )
    for number in range(8)
)
"""Prompts of nine blocks of 32 tokens, which small caches do not hold together."""


@dataclass
class Answer:
    """What came of one request.

    Attributes:
        times_s: when pieces of a stream came, on the clock of `time.monotonic`.
        essence: what must be the same whenever it is asked; None if it failed.
        error: why it failed; empty if it did not.
        refused: whether nobody was there to take it.
    """

    shape: Shape
    began_s: float
    times_s: list[float] = field(default_factory=list)
    essence: Any = None
    error: str = ""
    refused: bool = False

    @property
    def ttft_s(self) -> float:
        """Until the first piece of a stream; 0.0 if none came."""
        return self.times_s[0] - self.began_s if self.times_s else 0.0

    def gap_s(self, since_s: float) -> float:
        """The longest time between two pieces of which the later came after `since_s`."""
        gaps = (later - earlier for earlier, later in pairwise(self.times_s) if later > since_s)
        return max(gaps, default=0.0)


async def ask(session: aiohttp.ClientSession, shape: Shape) -> Answer:
    """Send a request and read its answer to the end."""
    answer = Answer(shape, time.monotonic())
    streamed = bool(shape.body.get("stream"))
    more = {"stream_options": {"include_usage": True}} if streamed else {}
    try:
        async with session.post(shape.path, json=shape.body | {"model": "tiny"} | more) as got:
            pieces = []
            async for piece in got.content.iter_any():
                if b"data: {" in piece:
                    answer.times_s.append(time.monotonic())
                pieces.append(piece)
        body = b"".join(pieces)
        if got.status != 200:
            answer.error = f"HTTP {got.status}: {body[:300].decode(errors='replace')}"
        else:
            answer.essence = essence(events(body) if streamed else [json.loads(body)])
    except aiohttp.ClientConnectorError as error:
        answer.error, answer.refused = str(error), True
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
        answer.error = f"{type(error).__name__}: {error}"
    return answer


def events(body: bytes) -> list[Any]:
    """The objects of a stream. Raises ValueError if it is not whole, or tells an error."""
    *parts, done = [part.removeprefix(b"data: ") for part in body.split(b"\n\n") if part]
    if done != b"[DONE]":
        raise ValueError(f"the stream ended with {done[:300]!r}")
    told = [json.loads(part) for part in parts]
    for one in told:
        if "error" in one:
            raise ValueError(f"the stream told {json.dumps(one['error'])[:300]}")
    return told


def essence(told: list[Any]) -> Any:
    """What is the same in every answer to the same greedy request, streamed or not.

    How a stream is cut into events is not, nor is how much of the prompt was cached.
    """
    choices: dict[int, dict[str, Any]] = {}
    usage: dict[str, int] = {}
    for one in told:
        for choice in one["choices"]:
            known = choices.setdefault(
                choice["index"], {"text": "", "tokens": [], "finish_reason": None}
            )
            said = choice.get("delta") or choice.get("message") or {}
            known["text"] += choice.get("text") or said.get("content") or ""
            known["tokens"] += (choice.get("logprobs") or {}).get("tokens") or []
            known["finish_reason"] = choice.get("finish_reason") or known["finish_reason"]
        if one.get("usage"):
            usage = {name: one["usage"][name] for name in ("prompt_tokens", "completion_tokens")}
    return {"choices": choices, "usage": usage}


def difference(right: Any, said: Any) -> str:
    """Where an answer is another than the right one, in a few words."""
    if right["usage"] != said["usage"]:
        return f"usage {said['usage']}, not {right['usage']}"
    for index, choice in right["choices"].items():
        other = said["choices"].get(index)
        if other is None:
            return f"no choice {index}"
        for name, value in choice.items():
            if value != other[name]:
                return f"{name} of choice {index}{_where(value, other[name])}"
    return "more choices"


def _where(right: Any, said: Any) -> str:
    if not right or not said or type(right) is not type(said) or isinstance(right, int):
        return f": {said!r}, not {right!r}"
    pairs = enumerate(zip(right, said, strict=False))
    at = next(
        (place for place, (one, other) in pairs if one != other), min(map(len, (right, said)))
    )
    part = slice(max(at - 10, 0), at + 20)
    return f" from {at} of {len(right)} on: {said[part]!r}, not {right[part]!r}"


class Load:
    """Clients that ask one shape after the other until they are told to stop.

    Args:
        url: of the server.
        shapes: what they ask.
        clients: how many of them there are.

    Attributes:
        answers: of requests that have ended.
        open: when each request that runs was begun, by its number.
    """

    def __init__(self, url: str, shapes: tuple[Shape, ...], clients: int) -> None:
        self._url = url
        self._shapes = shapes
        self._clients = clients
        self.answers: list[Answer] = []
        self.open: dict[int, float] = {}
        self._numbers = itertools.count()
        self._over = asyncio.Event()

    async def __aenter__(self) -> Load:
        self._tasks = [
            asyncio.create_task(self._client(self._from(number))) for number in range(self._clients)
        ]
        return self

    async def __aexit__(self, *_: object) -> None:
        """Let what runs end; `ask` has a time limit."""
        self._over.set()
        await asyncio.gather(*self._tasks)

    def _from(self, number: int) -> Iterator[Shape]:
        shift = number % len(self._shapes)
        return itertools.cycle(self._shapes[shift:] + self._shapes[:shift])

    async def _client(self, shapes: Iterator[Shape]) -> None:
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        async with aiohttp.ClientSession(self._url, timeout=timeout) as session:
            while not self._over.is_set():
                number = next(self._numbers)
                self.open[number] = time.monotonic()
                answer = await ask(session, next(shapes))
                del self.open[number]
                self.answers.append(answer)
                if answer.error:
                    await asyncio.sleep(PAUSE_S)
