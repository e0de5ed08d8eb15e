"""A load generator that costs little: raw sockets, no JSON parsing on the way back."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import time
from dataclasses import dataclass, field

DONE = b"data: [DONE]"
EVENT = b"data: "
PROMPT_WORDS = 60  # about 100 tokens with the tiny model's tokenizer

# fmt: off
WORDS = (
    "river",
    "stone",
    "cloud",
    "paper",
    "light",
    "winter",
    "garden",
    "music",
    "harbour",
    "engine",
    "silver",
    "window",
    "mountain",
    "forest",
    "letter",
    "market",
    "bridge",
    "shadow",
    "summer",
    "table",
    "road",
    "number",
    "street",
    "island",
    "lamp",
    "keeper",
)
# fmt: on

_seeds = itertools.count(1)


@dataclass
class Sample:
    """Times of one run, in seconds."""

    ttft: list[float] = field(default_factory=list)
    itl: list[float] = field(default_factory=list)
    tokens: int = 0
    requests: int = 0
    wall_s: float = 0.0


def prompt() -> str:
    """Unlike every other, so that no prefix cache has it."""
    dice = random.Random(next(_seeds))
    return " ".join(dice.choice(WORDS) for _ in range(PROMPT_WORDS))


def chat(model: str, tokens: int, *, stream: bool) -> bytes:
    """A request that gives exactly `tokens` tokens."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": prompt()}],
        "max_tokens": tokens,
        "min_tokens": tokens,
        "ignore_eos": True,
        "temperature": 0,
        "stream": stream,
    }
    content = json.dumps(body).encode()
    head = (
        "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content


class Connection:
    """One client connection."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._writer: asyncio.StreamWriter | None = None

    async def stream(self, request: bytes, sample: Sample, tokens: int) -> None:
        """Send, read to the end, note when each arrival came."""
        reader, writer = await self._open()
        sent = last = time.perf_counter()
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        if b" 200 " not in head.split(b"\r\n", 1)[0]:
            raise RuntimeError(f"refused: {head!r} {await reader.read(1000)!r}")
        seen, tail = 0, b""
        while DONE not in tail:
            data = await reader.read(1 << 16)
            if not data:
                raise RuntimeError("the stream broke off")
            now = time.perf_counter()
            events, tail = (tail + data).count(EVENT), (tail + data)[-64:]
            # The first event only says who speaks; tokens begin with the second.
            if seen >= 2:
                sample.itl.append(now - last)
            elif seen + events >= 2:
                sample.ttft.append(now - sent)
            seen, last = seen + events, now
        while not tail.endswith(b"0\r\n\r\n"):
            tail = (tail + await reader.read(1 << 16))[-64:]
        sample.tokens += tokens
        sample.requests += 1

    async def whole(self, request: bytes, sample: Sample) -> None:
        """Send a request that is not streamed and read its answer."""
        reader, writer = await self._open()
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        if b" 200 " not in head.split(b"\r\n", 1)[0]:
            raise RuntimeError(f"refused: {head!r}")
        length = int(head.split(b"content-length:", 1)[1].split(b"\r\n", 1)[0])
        await reader.readexactly(length)
        sample.requests += 1

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._writer is None:
            self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        return self._reader, self._writer

    async def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            await self._writer.wait_closed()
            self._writer = None


async def streams(port: int, model: str, *, at_once: int, each: int, tokens: int) -> Sample:
    """`at_once` clients, each with `each` streamed requests one after the other."""
    sample = Sample()

    async def client() -> None:
        connection = Connection(port)
        for _ in range(each):
            await connection.stream(chat(model, tokens, stream=True), sample, tokens)
        await connection.close()

    await _timed(sample, [client() for _ in range(at_once)])
    return sample


async def one_token(port: int, model: str, *, at_once: int, each: int) -> Sample:
    """Requests that are nearly all overhead: one token, not streamed."""
    sample = Sample()

    async def client() -> None:
        connection = Connection(port)
        for _ in range(each):
            await connection.whole(chat(model, 1, stream=False), sample)
        await connection.close()

    await _timed(sample, [client() for _ in range(at_once)])
    return sample


async def first_tokens(port: int, model: str, *, count: int, kept: bool) -> list[float]:
    """Seconds to the first token, over one kept connection or over a new one each."""
    sample = Sample()
    connection = Connection(port)
    for _ in range(count):
        await connection.stream(chat(model, 4, stream=True), sample, 4)
        if not kept:
            await connection.close()
    await connection.close()
    return sample.ttft


async def _timed(sample: Sample, clients: list[object]) -> None:
    began = time.perf_counter()
    await asyncio.gather(*clients)  # type: ignore[call-overload]
    sample.wall_s = time.perf_counter() - began
