"""Where the time between the steps of an engine goes, and what its longest gaps are due to.

    python -m tests.benchmarks.steps MODEL [--vllm] [--streams 1,16,64] [--seconds 20] -- OPTIONS

starts a server, ours or with --vllm vLLM's own, with these options, and puts streams on it that
each send their next request when they have the last answer. No two prompts begin alike. For each
number of streams it prints what clients see, what the parts of a step take, and the gaps between
steps that are much longer than usual, by cause:

    prompts      prompts were computed in this step, as they must be somewhere; how many, and how
                 many steps have some, decides on which side of the p99 this is
    gc0..gc2     garbage collection of this generation
    the name of a part: it took longer than usual by the most
    wait         none of these: the device, or the operating system

On a GPU: python -m tests.benchmarks.steps /tmp/b/m8b --streams 16 -- --load-format dummy
On a CPU: python -m tests.benchmarks.steps tiny --streams 4 -- --enforce-eager
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import aiohttp

from tests.benchmarks.steps_probe import DEVICE, FOLDER

COMMAND = "import sys; from dynamo_cli.cli import main; sys.exit(main())"
VLLM = "vllm.entrypoints.launchers.api_server.entry"
START_S = 400
LONG = 1.5
"""A gap is long if it is so many times the median."""

PREEMPTIONS = "vllm:num_preemptions_total"
"""Counter of vLLM's server, and of ours."""

TOKENS = (256, 512, 1024, 1536, 2048, 4096)
"""Most tokens of the kinds of steps that are told apart."""

INNER = ("schedule", "launch", "update")
PARTS = ("poll", "admit", "preprocess", "publish", "send", "tick", "rest")
"""Parts of a round of the loop, beside those of the step; `preprocess` is within `admit`."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("model", help="tiny, or a folder")
    parser.add_argument("--vllm", action="store_true", help="vLLM's own server instead")
    parser.add_argument("--streams", default="1,16,64")
    parser.add_argument("--seconds", type=float, default=20.0, help="for each number of streams")
    parser.add_argument("--prompt", type=span, default=(480, 480), help="tokens, or LEAST:MOST")
    parser.add_argument("--answer", type=span, default=(128, 128), help="tokens, or LEAST:MOST")
    parser.add_argument("--device", action="store_true", help="profile the GPU too")
    words = sys.argv[1:]
    end = words.index("--") if "--" in words else len(words)
    args = parser.parse_args(words[:end])
    args.options = words[end + 1 :]  # of the server
    with tempfile.TemporaryDirectory() as folder:
        server, url = start(args, Path(folder))
        try:
            asyncio.run(measure(args, url, Path(folder)))
        finally:
            server.send_signal(signal.SIGINT)
            server.wait(60)


def span(text: str) -> tuple[int, int]:
    """The least and the most of something."""
    least, _, most = text.partition(":")
    return int(least), int(most or least)


def start(args: argparse.Namespace, folder: Path) -> tuple[subprocess.Popen[bytes], str]:
    """Start the server with the probe in all of its processes; its log goes to standard error."""
    (folder / "sitecustomize.py").write_text(
        "from tests.benchmarks.steps_probe import install\ninstall()\n"
    )
    root = Path(__file__).parents[2]
    more = [str(folder), str(root), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(more), FOLDER: str(folder)}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    if args.vllm:
        words = ["-m", VLLM, "--model", args.model, "--host", "127.0.0.1", "--port", port]
        words += ["--served-model-name", "bench", "--disable-uvicorn-access-log"]
    else:
        words = ["-c", COMMAND, "--model", args.model, "--http-port", port, "--ui", "plain"]
        words += ["--served-model-name", "bench"]
    command = [sys.executable, *words, *args.options]
    server = subprocess.Popen(command, env=environment, cwd=root, stdout=sys.stderr)
    return server, f"http://127.0.0.1:{port}"


async def measure(args: argparse.Namespace, url: str, folder: Path) -> None:
    limits = aiohttp.ClientTimeout(total=None, sock_read=300)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(url, timeout=limits, connector=connector) as session:
        await until_ready(session)
        for streams in map(int, args.streams.split(",")):
            await put_load(session, args, streams, 3.0)
            marks, before = sizes(folder), await preemptions(session)
            seen = await put_load(session, args, streams, args.seconds)
            print(f"\n== {streams} streams, {'vLLM' if args.vllm else 'dynamo-llm'}")
            print(clients(seen), f"; {await preemptions(session) - before:.0f} preemptions", sep="")
            print(report(records(folder, marks)), flush=True)
            if args.device:
                await device(session, args, streams, folder)


async def device(
    session: aiohttp.ClientSession, args: argparse.Namespace, streams: int, folder: Path
) -> None:
    """Print how much of the time the GPU worked, from a profile of some hundred steps."""
    (folder / DEVICE).touch()
    await put_load(session, args, streams, args.seconds)
    for _ in range(20):
        for path in folder.glob("*.busy"):
            told = json.loads(path.read_text())
            path.unlink()
            print("device:", ", ".join(f"{name} {value:.4g}" for name, value in told.items()))
            return
        await asyncio.sleep(1)
    print("device: not told")


async def until_ready(session: aiohttp.ClientSession) -> None:
    end_s = time.monotonic() + START_S
    while time.monotonic() < end_s:
        try:
            async with session.post("/v1/completions", json=body([5], 1)) as answer:
                if answer.status == 200:
                    return
        except aiohttp.ClientError:
            pass
        await asyncio.sleep(0.5)
    raise SystemExit("the server does not become ready")


async def preemptions(session: aiohttp.ClientSession) -> float:
    """How often the engine has taken the blocks of a running request so far."""
    async with session.get("/metrics") as answer:
        lines = (await answer.text()).splitlines()
    return sum(float(one.split()[-1]) for one in lines if one.startswith(PREEMPTIONS))


def body(prompt: list[int], tokens: int) -> dict[str, Any]:
    return {
        "model": "bench",
        "prompt": prompt,
        "max_tokens": tokens,
        "ignore_eos": True,
        "stream": True,
    }


async def put_load(
    session: aiohttp.ClientSession, args: argparse.Namespace, streams: int, seconds: float
) -> list[list[float]]:
    """Return for each request the times at which it was sent and at which its events came."""
    end_s, seen = time.monotonic() + seconds, list[list[float]]()

    async def client() -> None:
        while time.monotonic() < end_s:
            prompt = [random.randrange(5, 900) for _ in range(random.randint(*args.prompt))]
            request = body(prompt, random.randint(*args.answer))
            times = [time.monotonic()]
            async with session.post("/v1/completions", json=request) as answer:
                answer.raise_for_status()
                async for line in answer.content:
                    if line.startswith(b"data: {"):
                        times.append(time.monotonic())
            seen.append(times)

    await asyncio.gather(*(client() for _ in range(streams)))
    return seen


def clients(seen: list[list[float]]) -> str:
    """What the clients saw."""
    first = [1000 * (times[1] - times[0]) for times in seen]
    lasted = max(times[-1] for times in seen) - min(times[0] for times in seen)
    between = [1000 * (b - a) for times in seen for a, b in itertools.pairwise(times[1:])]
    return (
        f"clients: {len(seen)} requests, {len(seen) / lasted:.2f} each second; TTFT mean "
        f"{statistics.mean(first):.1f} p50 {at(first, 0.5):.1f} ms; ITL p50 "
        f"{at(between, 0.5):.2f} p90 {at(between, 0.9):.2f} p99 {at(between, 0.99):.2f} "
        f"max {max(between):.1f} ms"
    )


def sizes(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in folder.glob("*.jsonl")}


def records(folder: Path, marks: dict[str, int]) -> list[dict[str, int]]:
    """The steps that were written since then, without gaps in which nothing ran."""
    found: list[dict[str, int]] = []
    for path in folder.glob("*.jsonl"):
        lines = path.read_bytes()[marks.get(path.name, 0) :].splitlines()
        found += [json.loads(line) for line in lines]
    return [one for one in found if one["gap"]]


def at(values: list[float], share: float) -> float:
    return sorted(values)[min(int(share * len(values)), len(values) - 1)] if values else 0.0


def report(steps: list[dict[str, int]]) -> str:
    """Tables of one load."""
    if len(steps) < 10:
        return "too few steps were written; give it more --seconds"
    for one in steps:
        spent = sum(one.get(name, 0) for name in INNER)
        one["wait"] = max(one.get("step", 0) - spent, 0)
        rest = sum(one.get(name, 0) for name in PARTS if name != "preprocess")
        one["other"] = max(one["gap"] - one.get("step", 0) - rest, 0)
    gaps = [one["gap"] / 1e6 for one in steps]
    prompts = [one for one in steps if one.get("prompts")]
    lines = [
        f"steps: {len(steps)}; gap p50 {at(gaps, 0.5):.2f} p90 {at(gaps, 0.9):.2f} "
        f"p99 {at(gaps, 0.99):.2f} max {max(gaps):.1f} ms; without prompts p99 "
        f"{at([one['gap'] / 1e6 for one in steps if not one.get('prompts')], 0.99):.2f} ms",
        f"steps with prompts: {len(prompts) / len(steps):.1%}, of "
        f"{statistics.mean(one['prompts'] for one in prompts) if prompts else 0:.1f} prompts and "
        f"{statistics.mean(one['tokens'] for one in prompts) if prompts else 0:.0f} tokens; "
        f"steps that did not wait for the device (it ran dry): "
        f"{sum(one['wait'] < 50_000 for one in steps) / len(steps):.1%}",
        f"{'part':12}{'p50 ms':>9}{'p99 ms':>9}{'max ms':>9}{'share':>8}",
    ]
    whole = sum(one["gap"] for one in steps)
    for name in (*INNER, "wait", *PARTS, "other", "gc0", "gc1", "gc2"):
        times = [one.get(name, 0) / 1e6 for one in steps]
        if any(times):
            share = 1e6 * sum(times) / whole
            lines.append(
                f"{name:12}{at(times, 0.5):9.3f}{at(times, 0.99):9.3f}{max(times):9.2f}{share:8.1%}"
            )
    return "\n".join([*lines, *by_tokens(steps), *long_gaps(steps)])


def by_tokens(steps: list[dict[str, int]]) -> list[str]:
    """How long steps take by their number of tokens. `answers` are those without prompt tokens."""
    kinds: defaultdict[str, list[dict[str, int]]] = defaultdict(list)
    for one in steps:
        most = next((most for most in TOKENS if one["tokens"] <= most), None)
        several = f"up to {most}" if most else f"above {TOKENS[-1]}"
        kinds["answers" if one["tokens"] <= one["requests"] else several].append(one)
    whole = sum(one["gap"] for one in steps)
    lines = [f"{'tokens':12}{'steps':>7}{'tokens':>9}{'mean ms':>9}{'share':>8}"]
    for kind in ("answers", *(f"up to {most}" for most in TOKENS), f"above {TOKENS[-1]}"):
        if found := kinds[kind]:
            tokens = statistics.mean(one["tokens"] for one in found)
            spent = sum(one["gap"] for one in found)
            mean_ms = spent / 1e6 / len(found)
            lines.append(f"{kind:12}{len(found):7}{tokens:9.0f}{mean_ms:9.2f}{spent / whole:8.1%}")
    return lines


def long_gaps(steps: list[dict[str, int]]) -> list[str]:
    """Gaps much longer than the median, by what was unusual in them."""
    names = (*INNER, "wait", *PARTS, "other")
    usual = {name: at([float(one.get(name, 0)) for one in steps], 0.5) for name in (*names, "gap")}
    causes: defaultdict[str, list[float]] = defaultdict(list)
    for one in steps:
        excess = one["gap"] - usual["gap"]
        if one["gap"] < LONG * usual["gap"]:
            continue
        collected = {name: one.get(name, 0) for name in ("gc0", "gc1", "gc2")}
        worst = max(collected, key=collected.__getitem__)
        if collected[worst] > excess / 2:
            cause = worst
        elif one.get("prompts"):
            cause = "prompts"
        else:
            cause = max(names, key=lambda name: one.get(name, 0) - usual[name])
        causes[cause].append(one["gap"] / 1e6)
    lines = [f"gaps above {LONG * usual['gap'] / 1e6:.2f} ms:"]
    for cause, gaps in sorted(causes.items(), key=lambda pair: -sum(pair[1])):
        lines.append(
            f"  {cause:12}{len(gaps):6} ({len(gaps) / len(steps):.2%} of steps), "
            f"p50 {at(gaps, 0.5):.2f} max {max(gaps):.1f} ms"
        )
    return lines


if __name__ == "__main__":
    main()
