"""Records snapshots of real servers with simulated engines, for the tests of alarms.

Run by hand: ``.venv/bin/python -m tests.watch.record [NAME ...]``. It takes four minutes.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import random
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp

from tests.support.server import Server

FOLDER = Path(__file__).parent / "recorded"
WORDS = ("the", "cat", "sat", "on", "mats", "and", "saw", "nine", "red", "birds", "fly", "low")
SIMULATED = ("--model", "tiny", "--engine", "mock", "--router", "kv")
NARROW = ("--max-num-seqs", "6", "--num-gpu-blocks-override", "600")
Trouble = Callable[[Server], Awaitable[None]]


class Load(NamedTuple):
    """Requests that come however long the answers take.

    Attributes:
        per_s: requests a second; those of a second come at once if `bursts` is set.
        words: length of prompts; every prompt is another one.
        tokens: length of answers.
        bursts: seconds between bursts; 0: at random times.
    """

    per_s: float
    words: int = 200
    tokens: int = 60
    bursts: float = 0.0


class Scene(NamedTuple):
    """A server, its load, what happens to it, and for how long it is recorded.

    Attributes:
        ready: whether the recording begins when the server is ready, not when it starts.
    """

    args: tuple[str, ...]
    load: Load
    seconds: float = 20.0
    trouble: Trouble | None = None
    ready: bool = True


async def send(session: aiohttp.ClientSession, url: str, text: str, tokens: int) -> None:
    """Send one request and read its answer, whatever it is."""
    messages = [{"role": "user", "content": text}]
    body = {"messages": messages, "max_tokens": tokens, "stream": True, "ignore_eos": True}
    with suppress(aiohttp.ClientError):
        async with session.post(f"{url}/v1/chat/completions", json=body) as answer:
            async for _ in answer.content.iter_any():
                pass


async def keep_up(server: Server, load: Load) -> None:
    """Send requests until cancelled."""
    dice = random.Random(7)
    text = " ".join(dice.choices(WORDS, k=load.words))
    connector = aiohttp.TCPConnector(limit=0)
    async with (
        aiohttp.ClientSession(connector=connector) as session,
        asyncio.TaskGroup() as group,
    ):
        while True:
            for _ in range(round(load.per_s * load.bursts) or 1):
                content = f"{dice.random()} {text}"  # what comes after it is new to every cache
                group.create_task(send(session, server.url, content, load.tokens))
            await asyncio.sleep(load.bursts or dice.expovariate(load.per_s))


async def listen(server: Server, seconds: float) -> list[Any]:
    """Take a snapshot a second."""
    seen, end = [], time.monotonic() + seconds
    async with aiohttp.ClientSession() as session:
        while time.monotonic() < end:
            with suppress(aiohttp.ClientConnectionError):  # it does not listen yet
                async with session.get(f"{server.url}/dynamo/snapshot") as answer:
                    seen.append(await answer.json())
            await asyncio.sleep(1.0)
    return seen


# -- troubles --------------------------------------------------------------------------------


async def kill(server: Server) -> None:
    """Kill a worker every few seconds; its requests must not move."""
    for number in range(4):
        await asyncio.sleep(3.0)
        os.kill(server.pid_of(f"worker {number % 2}"), signal.SIGKILL)


async def favour(server: Server) -> None:
    """Let the processor have a core whenever it wants one, whatever else this machine does."""
    for thread in Path(f"/proc/{server.pid_of('processor 0')}/task").iterdir():
        os.sched_setscheduler(int(thread.name), os.SCHED_RR, os.sched_param(1))


async def slow_down(server: Server) -> None:
    """Let a worker run for a fifth of the time."""
    pid = server.pid_of("worker 2")
    try:
        while True:
            os.kill(pid, signal.SIGSTOP)
            await asyncio.sleep(0.4)
            os.kill(pid, signal.SIGCONT)
            await asyncio.sleep(0.1)
    finally:
        os.kill(pid, signal.SIGCONT)


SCENES = {
    "calm": Scene((*SIMULATED, "--workers", "8"), Load(12.0), 25.0),
    "bursts": Scene((*SIMULATED, "--workers", "2", *NARROW), Load(4.0, 60, 10, 7.0), 25.0),
    "overload": Scene((*SIMULATED, "--workers", "2", *NARROW), Load(12.0, 900, 400), 50.0),
    # To be recorded while other programs use all cores.
    "contention": Scene((*SIMULATED, "--workers", "2", *NARROW), Load(12.0, 900, 400), 50.0),
    "deaths": Scene(
        (*SIMULATED, "--workers", "2", "--migration-limit", "0"), Load(8.0, 60, 300), 18.0, kill
    ),
    "refusals": Scene(
        (*SIMULATED, "--workers", "2", *NARROW, "--max-inflight", "8"), Load(10.0, 60, 200), 15.0
    ),
    "early": Scene((*SIMULATED, "--workers", "2"), Load(20.0, 60, 10), 40.0, ready=False),
    "tokenizer": Scene(
        (*SIMULATED, "--workers", "4", "--processors", "1"),
        Load(20.0, 10_000, 5, 60.0),
        40.0,
        favour,
    ),
    "slow": Scene(
        (*SIMULATED[:4], "--router", "round-robin", "--workers", "4"),
        Load(20.0, 60, 40),
        25.0,
        slow_down,
    ),
}


async def record(scene: Scene) -> list[Any]:
    with Server(*scene.args, ready=scene.ready) as server:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(keep_up(server, scene.load))]
            if scene.trouble is not None:
                tasks.append(group.create_task(scene.trouble(server)))
            seen = await listen(server, scene.seconds)
            for task in tasks:
                task.cancel()
    return seen


def shortened(content: Any) -> Any:
    """Round numbers to four digits."""
    match content:
        case float():
            return float(f"{content:.4g}") if content < 1e5 else round(content)
        case list():
            return [shortened(one) for one in content]
        case dict():
            return {name: shortened(one) for name, one in content.items()}
    return content


def main() -> None:
    for name in sys.argv[1:] or SCENES:
        seen = asyncio.run(record(SCENES[name]))
        data = json.dumps(shortened(seen), separators=(",", ":")).encode()
        file = FOLDER / f"{name}.json.gz"
        file.write_bytes(gzip.compress(data, mtime=0))
        kinds = sorted({alarm["kind"] for one in seen for alarm in one["alarms"]})
        odd = sorted({remark for one in seen for remark in one["odd"]})
        print(name, len(seen), "snapshots", file.stat().st_size, "bytes", kinds, odd)


if __name__ == "__main__":
    main()
