"""How several GPUs of one host serve one model: ways to serve it, compared in turns.

    python -m tests.benchmarks.gpus COUNT --model FOLDER [--servers kv,vllm] [--loads talks,streams]
        [--rounds 3] [--cache-gb 8] [--host-cache 40GiB] [--rate 4,8] [--seconds 10] [--streams 64]
    python -m tests.benchmarks.gpus COUNT --model FOLDER --servers one,kv,vllm --starts

All servers run at the same time on the same GPUs, each with a KV cache of a fixed size, and are
loaded one after the other; the order turns around from round to round. Weights are random: only
shapes matter. Prints Markdown: for each load the figures of each server, and the ratio of each to
the first one within each round, as median and range.

Servers: `one` (one worker), `kv` (a worker per GPU), `host` (the same with a host cache), `packed`
(`host`, and the layers of a block lie side by side, so that it is copied in one piece), `blind`
(round-robin), `chunk4096` (`kv` with so many prompt tokens in a step while answers stream;
`chunk0`: as many as vLLM takes), `graphs1-8-64` (`kv` with CUDA graphs for these numbers of
tokens), `disagg` (half of the GPUs prefill; with the host cache, and with `packed-disagg` as in
`packed`), `nixl` (the same with NIXL), `vllm` (vLLM's own data parallel), `rust` (the same
with its frontend in Rust, where its build has that).
Loads: `talks` (conversations over system prompts, at each rate of --rate), `closed` (the same from
clients that wait for their answers), `apart` (prompts that share nothing), `streams` (as many
streams as asked for per GPU), `mixed` (short chats beside long prompts), `kill` (kill -9 of a
worker meanwhile).
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal
import statistics
import tempfile
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from dynamo_cli.host.gpus import read_gpus
from dynamo_cli.lab.load.bench import Bench, BenchPlan
from dynamo_cli.lab.load.client import target
from dynamo_cli.lab.load.form import ApiPath
from dynamo_cli.lab.load.pace import Bounds, Closed, Pace, Poisson
from dynamo_cli.lab.load.workload import WorkloadShape
from dynamo_cli.lab.report import NO_SLO, Summary
from tests.benchmarks.gpu_server import Facts, GpuServer
from tests.benchmarks.load import Sample, client_of, request, streams
from tests.benchmarks.servers import OURS

Figures = dict[str, float]
TALKS = WorkloadShape(12, 4, 6, (3000, 3000), (150, 250), (64, 128))
APART = WorkloadShape(4000, 1, 1, (500, 1500), (20, 40), (64, 128))
TALKS_PER_GPU, STREAMS_PER_GPU = 24, "1,64,128"
CHATS, CHAT_WORDS, CHAT_TOKENS = 8, 100, 128
LONG_WORDS, LONG_TOKENS, LONG_EVERY_S = 5000, 16, 0.8
COMPILED = ("VLLM_CACHE_ROOT", "TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR")
"""Variables that name the folders with compiled code."""


@dataclass
class Load:
    """One kind of load.

    Attributes:
        run: loads all servers once, in this order; gives the figures of each.
    """

    run: Callable[[dict[str, GpuServer], list[str], int], Coroutine[Any, Any, dict[str, Figures]]]


async def bench(
    servers: dict[str, GpuServer],
    order: list[str],
    seed: int,
    shape: WorkloadShape,
    pace: Pace,
    count: int,
) -> dict[str, Figures]:
    plan = BenchPlan(
        shape, pace, Bounds(requests=count), seed=str(seed), model="bench", warmup=count // 8
    )
    found = {}
    for name in order:
        server = servers[name]
        before, began_s = Facts(server), time.perf_counter()
        run = Bench(plan, {name: target(f"127.0.0.1:{server.port}")})
        await run.run()
        after, wall_s = Facts(server), time.perf_counter() - began_s
        found[name] = figures(run.summaries(NO_SLO)[name], after.cpu_s - before.cpu_s)
        found[name] |= after.since(before, wall_s)
    return found


def figures(summary: Summary, cpu_s: float) -> Figures:
    assert summary.ttft_ms is not None
    return {
        "found, %": 100 * (summary.hit_ratio or 0),
        "TTFT mean, ms": summary.ttft_ms.mean,
        "TTFT p50, ms": summary.ttft_ms.p50,
        "TTFT p99, ms": summary.ttft_ms.p99,
        "ITL p99, ms": summary.itl_p99_ms or 0.0,
        "requests/s": summary.requests_per_s,
        "tok/s": summary.output_tokens_per_s,
        "CPU ms/token": 1000 * cpu_s / max(1, summary.output_tokens),
        "failed": float(sum(summary.errors.values())),
    }


def sampled(sample: Sample, cpu_s: float) -> Figures:
    ttft, gaps = sorted(sample.ttft), sorted(sample.itl)
    return {
        "TTFT p50, ms": 1000 * ttft[len(ttft) // 2],
        "TTFT p99, ms": 1000 * ttft[int(len(ttft) * 0.99)],
        "ITL p50, ms": 1000 * gaps[len(gaps) // 2],
        "ITL p99, ms": 1000 * gaps[int(len(gaps) * 0.99)],
        "tok/s": sample.tokens / sample.wall_s,
        "CPU ms/token": 1000 * cpu_s / sample.tokens,
    }


def at_once(number: int) -> Load:
    async def run(servers: dict[str, GpuServer], order: list[str], seed: int) -> dict[str, Figures]:
        found = {}
        for name in order:
            before = servers[name].cpu_s()
            each = 6 if number == 1 else 2
            sample = await streams(
                servers[name].port, "bench", at_once=number, each=each, tokens=128
            )
            found[name] = sampled(sample, servers[name].cpu_s() - before)
        return found

    return Load(run)


def talking(shape: WorkloadShape, pace: Pace, count: int) -> Load:
    async def run(servers: dict[str, GpuServer], order: list[str], seed: int) -> dict[str, Figures]:
        return await bench(servers, order, seed, shape, pace, count)

    return Load(run)


async def beside(port: int, seconds: float) -> Figures:
    """Short chats that stream one after the other, and long prompts at fixed times."""
    short, long, client = Sample(), Sample(), client_of(port)
    end = time.perf_counter() + seconds

    async def talk() -> None:
        while time.perf_counter() < end:
            short.add(
                await client.stream(ApiPath.CHAT, request("bench", CHAT_TOKENS, count=CHAT_WORDS))
            )

    async def one_long() -> None:
        long.add(await client.stream(ApiPath.CHAT, request("bench", LONG_TOKENS, count=LONG_WORDS)))

    async def longs() -> None:
        running = []
        while time.perf_counter() < end:
            running.append(asyncio.create_task(one_long()))
            await asyncio.sleep(LONG_EVERY_S)
        await asyncio.gather(*running)

    await asyncio.gather(*(talk() for _ in range(CHATS)), longs())
    client.close()
    gaps, waits, first = sorted(short.itl), sorted(short.ttft), sorted(long.ttft)
    return {
        "chats: ITL p50, ms": 1000 * gaps[len(gaps) // 2],
        "chats: ITL p99, ms": 1000 * gaps[int(len(gaps) * 0.99)],
        "chats: TTFT p50, ms": 1000 * waits[len(waits) // 2],
        "chats: TTFT p99, ms": 1000 * waits[int(len(waits) * 0.99)],
        "long: TTFT p50, ms": 1000 * first[len(first) // 2],
        "long: TTFT p99, ms": 1000 * first[int(len(first) * 0.99)],
        "chats: tok/s": short.tokens / seconds,
    }


def mixed(seconds: float) -> Load:
    async def run(servers: dict[str, GpuServer], order: list[str], seed: int) -> dict[str, Figures]:
        return {name: await beside(servers[name].port, seconds) for name in order}

    return Load(run)


async def bereft(server: GpuServer, clients: int) -> Figures:
    """Kill a worker under load, and wait until it is back."""
    client, failed = client_of(server.port), []

    async def talk() -> None:
        for _ in range(2):
            heard = await client.stream(ApiPath.CHAT, request("bench", 256))
            failed.append(bool(heard.error))

    talks = [asyncio.create_task(talk()) for _ in range(clients)]
    await asyncio.sleep(2.0)
    os.kill(server.pid_of("worker 0"), signal.SIGKILL)
    killed = time.perf_counter()
    await asyncio.gather(*talks)
    client.close()
    while not await asyncio.to_thread(all_ready, server):
        await asyncio.sleep(0.1)
    back_s = time.perf_counter() - killed
    return {"requests": len(failed), "failed": sum(failed), "back after, s": back_s}


def all_ready(server: GpuServer) -> bool:
    return all(one["phase"] == "ready" for one in server.processes().values())


def kill(count: int) -> Load:
    """Kill a worker of ours; nothing of vLLM's comes back, so it is left out."""

    async def run(servers: dict[str, GpuServer], order: list[str], seed: int) -> dict[str, Figures]:
        ours = [name for name in order if servers[name].kind == OURS]
        return {name: await bereft(servers[name], 16 * count) for name in ours}

    return Load(run)


def loads_of(options: argparse.Namespace) -> dict[str, Load]:
    count = options.count
    many = TALKS_PER_GPU * count
    found = {
        "closed": talking(TALKS, Closed(many), many * 6),
        "apart": talking(APART, Closed(32 * count), 400 * count),
        "mixed": mixed(options.seconds),
        "kill": kill(count),
    }
    for rate in map(float, options.rate.split(",")):
        talks = round(rate * count * options.seconds)
        found[f"talks {rate:g}"] = talking(TALKS, Poisson(rate * count), talks)
    for each in map(int, options.streams.split(",")):
        number = each * count if each > 1 else 1
        found[f"streams {number}"] = at_once(number)
    return found


def show(name: str, rounds: list[dict[str, Figures]], seconds: float) -> None:
    servers = list(rounds[0])
    print(f"\n### {name}: {len(rounds)} rounds, {seconds:.0f} s\n")
    columns = [*servers, *(f"{other} / {servers[0]}" for other in servers[1:])]
    print("| | " + " | ".join(columns) + " |")
    print("|---|" + "--:|" * (2 * len(servers) - 1))
    for figure in dict.fromkeys(figure for server in servers for figure in rounds[0][server]):
        values = {server: [one[server].get(figure) for one in rounds] for server in servers}
        cells = [middle(values[server]) for server in servers]
        cells += [ratio(values[other], values[servers[0]]) for other in servers[1:]]
        print(f"| {figure} | " + " | ".join(cells) + " |", flush=True)


def middle(values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{statistics.median(known):.4g}" if known else "-"


def ratio(values: list[float | None], base: list[float | None]) -> str:
    found = [value / one for value, one in zip(values, base, strict=True) if value and one]
    if not found:
        return "-"
    return f"{statistics.median(found):.2f} ({min(found):.2f} to {max(found):.2f})"


def starts(options: argparse.Namespace) -> None:
    """Start each server alone, with empty caches of compiled code and then with full ones."""
    for name in options.servers.split(","):
        with tempfile.TemporaryDirectory(prefix="compiled-") as folder:
            for caches in ("empty", "full"):
                variables = {variable: f"{folder}/{variable}" for variable in COMPILED}
                server = GpuServer(name, options.count, options, variables)
                try:
                    server.announce(f"{name}, {caches} caches")
                finally:
                    server.stop()


def measure(options: argparse.Namespace) -> None:
    began, loads = time.monotonic(), loads_of(options)
    wanted = [
        name
        for asked in options.loads.split(",")
        for name in loads
        if asked in (name, name.partition(" ")[0])
    ]
    servers: dict[str, GpuServer] = {}
    try:
        for name in options.servers.split(","):
            servers[name] = GpuServer(name, options.count, options)
            if len(servers) == 1 or not options.together:
                servers[name].announce(name)
        for name, server in list(servers.items())[1:] if options.together else ():
            server.announce(name)
        for server in servers.values():  # warm up what is compiled at the first use
            many = 32 * options.count
            asyncio.run(streams(server.port, "bench", at_once=many, each=1, tokens=16))
        for load in wanted:
            rounds: list[dict[str, Figures]] = []
            order, since = list(servers), time.monotonic()
            for number in range(options.rounds):
                if time.monotonic() - began > options.within:
                    break
                seed = random.Random(f"{load} {number}").randrange(1 << 30)
                result = asyncio.run(loads[load].run(servers, order, seed))
                rounds.append({name: result[name] for name in servers if name in result})
                order.reverse()
            if rounds:
                show(load, rounds, time.monotonic() - since)
    finally:
        for name, server in servers.items():
            print(f"{name}: ended with {server.stop()}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="How several GPUs serve one model.")
    parser.add_argument("count", type=int, help="number of GPUs")
    parser.add_argument("--model", required=True, help="folder of the model")
    parser.add_argument("--servers", default="kv,vllm", help="the first one is the base of ratios")
    parser.add_argument("--loads", default="talks,closed,apart,streams")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--cache-gb", type=float, default=8.0, help="KV cache of each engine")
    parser.add_argument("--host-cache", default="40GiB")
    parser.add_argument("--utilization", type=float, default=0.42, help="free part at a start")
    parser.add_argument("--rate", default="8", help="requests per second and GPU; several: 4,8")
    parser.add_argument("--streams", default=STREAMS_PER_GPU, help="per GPU, but for 1")
    parser.add_argument("--seconds", type=float, default=12.0, help="length of open loads")
    parser.add_argument("--starts", action="store_true", help="measure starts, and nothing else")
    parser.add_argument("--together", action="store_true", help="start all but the first at once")
    parser.add_argument("--within", type=float, default=3600.0, help="begin no round after this")
    options = parser.parse_args()
    names = [gpu.product for gpu in read_gpus()][: options.count]
    print(f"{names}, {os.cpu_count()} cores, {options.model}")
    starts(options) if options.starts else measure(options)


if __name__ == "__main__":
    main()
