"""Records streams of real servers, for the pictures in the tests and in the documentation.

Run by hand: ``.venv/bin/python -m tests.dashboard.record [NAME ...]``.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp

from dynamo_cli.event_stream import EventStreamParser
from tests.support.server import Server

FOLDER = Path(__file__).parent / "recorded"
INTERVAL_S = 1.0
MOST_DECISIONS, MOST_LINES = 120, 60
BEGAN_S = 1_767_268_800.0
"""Time at which every recording begins, seconds since 1970: a full hour."""
SMALL = ("--kv-cache-memory-bytes", "67108864", "--engine-threads", "1", "--block-size", "32")
LITTLE_ROOM = ("--block-size", "32", "--num-gpu-blocks-override", "260", "--max-model-len", "2048")
SIMULATED = ("--engine", "mock", *LITTLE_ROOM)
"""Simulated engines: a loaded machine changes less of what they show."""

NO_ROOM = (*SMALL, *LITTLE_ROOM)
WORDS = ("the", "cat", "sat", "on", "mats", "and", "saw", "nine", "red", "birds", "fly", "low")

Load = Callable[[Server], Awaitable[None]]


async def listen(server: Server, seconds: float, events: list[Any]) -> None:
    """Record a stream for some seconds; a server that does not listen yet is tried again."""
    end = time.monotonic() + seconds
    stream = EventStreamParser()
    while time.monotonic() < end:
        with suppress(aiohttp.ClientError, TimeoutError):
            async with asyncio.timeout(max(end - time.monotonic(), 0.1)):
                await _listen(server, stream, events)
        await asyncio.sleep(0.05)


async def _listen(server: Server, stream: EventStreamParser, events: list[Any]) -> None:
    url = f"{server.url}/dynamo/stream?interval={INTERVAL_S}"
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        async for data in answer.content.iter_any():
            for name, content in stream.feed(data):
                events.append([time.time(), name, json.loads(content)])


async def talk(server: Server, clients: int, prompt_words: int = 40) -> None:
    """Hold conversations over shared system prompts until cancelled."""
    dice = random.Random(7)
    systems = [_text(dice, 90) for _ in range(4)]
    async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as group:
        for number in range(clients):
            speaker = random.Random(number)
            group.create_task(
                _converse(session, server, speaker, systems[number % 4], prompt_words)
            )


async def _converse(
    session: aiohttp.ClientSession,
    server: Server,
    dice: random.Random,
    system: str,
    prompt_words: int,
) -> None:
    while True:
        messages = [{"role": "system", "content": system}]
        headers = {"X-Session-ID": f"session-{dice.randrange(1000)}"}
        for turn in range(4):
            messages.append({"role": "user", "content": _text(dice, prompt_words)})
            request_id = f"chat-{dice.randrange(10**6):06}-{turn}"
            said = await _say(session, server, messages, headers | {"X-Request-ID": request_id})
            messages.append({"role": "assistant", "content": said})
            await asyncio.sleep(dice.random() * 0.3)


async def _say(
    session: aiohttp.ClientSession,
    server: Server,
    messages: list[dict[str, str]],
    headers: dict[str, str],
) -> str:
    body = {"model": "tiny", "messages": messages, "max_tokens": 160, "stream": True}
    said = 0
    url = f"{server.url}/v1/chat/completions"
    async with session.post(url, json=body | {"ignore_eos": True}, headers=headers) as answer:
        async for line in answer.content:
            said += line.startswith(b"data: ")
    return "and so on " * (said // 3)


def _text(dice: random.Random, words: int) -> str:
    return " ".join(dice.choices(WORDS, k=words))


# -- what is recorded ------------------------------------------------------------------------


async def record_startup() -> list[Any]:
    events: list[Any] = []
    with Server(*SMALL, "--workers", "2", "--router", "kv", ready=False) as server:
        listening = asyncio.create_task(listen(server, 60.0, events))
        while not any(name == "snapshot" and content["serving"] for _, name, content in events):
            await asyncio.sleep(0.1)
        listening.cancel()
    ready = next(
        i for i, (_, name, one) in enumerate(events) if name == "snapshot" and one["serving"]
    )
    return events[:ready]


async def record_empty() -> list[Any]:
    events: list[Any] = []
    with Server(*SMALL) as server:
        await listen(server, 3.0, events)
    return events


async def record_busy() -> list[Any]:
    return await _under_load((*SIMULATED, "--workers", "2", "--router", "kv"), 10, 40, 24.0)


async def record_disaggregated() -> list[Any]:
    args = ("--router", "kv", "--workers", "2", "--prefill-workers", "1")
    bound = ("--max-local-prefill-length", "150")
    return await _under_load((*NO_ROOM, *args, *bound), 12, 60, 24.0)


async def _under_load(args: tuple[str, ...], clients: int, words: int, seconds: float) -> list[Any]:
    events: list[Any] = []
    with Server(*args) as server:
        load = asyncio.create_task(talk(server, clients, words))
        await listen(server, seconds, events)
        load.cancel()
        with suppress(asyncio.CancelledError):
            await load
    return events


async def record_degraded() -> list[Any]:
    """Record a server whose worker and router die, and whose engines send no events."""
    events: list[Any] = []
    args = ("--workers", "3", "--router", "kv", "--no-enable-prefix-caching")
    with Server(*NO_ROOM, *args) as server:
        load = asyncio.create_task(talk(server, 8))
        await listen(server, 8.0, events)
        load.cancel()
        with suppress(asyncio.CancelledError):
            await load
        for name in ("worker 1", "worker 2"):
            os.kill(server.pid_of(name), signal.SIGKILL)
        await listen(server, 2.5, events)
    return events


# -- what is kept ----------------------------------------------------------------------------


def tidied(events: list[Any]) -> dict[str, Any]:
    """Make a recording small, shift it to a fixed time, and remove what belongs to this machine."""
    shift_s = BEGAN_S - events[0][0]
    skip = {
        "decisions": _count(events, "decisions") - MOST_DECISIONS,
        "logs": _count(events, "logs") - MOST_LINES,
    }
    known: set[str] = set()
    kept = []
    for at_s, name, content in events:
        if (left := skip.get(name, 0)) > 0:
            skip[name] -= len(content)
            content = content[:-left] if name == "decisions" else content[left:]  # noqa: PLW2901
        if name == "decisions":
            known |= {one["engine_request_id"] for one in content}
        elif name == "measured":
            content = [one for one in content if one["engine_request_id"] in known]  # noqa: PLW2901
        elif name == "logs":
            content = [one | {"time_s": one["time_s"] + shift_s} for one in content]  # noqa: PLW2901
        if content:
            kept.append([round(at_s + shift_s, 2), name, _shortened(content)])
    return {"events": kept}


def _count(events: list[Any], wanted: str) -> int:
    return sum(len(content) for _, name, content in events if name == wanted)


def _shortened(content: Any) -> Any:
    """Round numbers to six digits and remove paths."""
    match content:
        case float():
            return round(content, 2) if content > 1e6 else float(f"{content:.6g}")
        case str():
            return re.sub(r"(?<![/:\w])/[\w.+-]+(?:/[\w.+-]*)+", "…", content)
        case list():
            return [_shortened(one) for one in content]
        case dict():
            return {name: _shortened(one) for name, one in content.items()}
    return content


RECORDS = {
    "startup": record_startup,
    "empty": record_empty,
    "busy": record_busy,
    "disaggregated": record_disaggregated,
    "degraded": record_degraded,
}


def main() -> None:
    for name in sys.argv[1:] or RECORDS:
        events = asyncio.run(RECORDS[name]())
        file = FOLDER / f"{name}.json"
        file.write_text(
            json.dumps(tidied(events), separators=(",", ":"), ensure_ascii=False) + "\n"
        )
        print(file.name, len(events), "events", file.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
