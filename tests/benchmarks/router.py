"""What routing costs: the decision, the index, and a round trip to the router.

python -m tests.benchmarks.router [--quick]

Decision: `RouterState.decide` with all its parts (reading the hashes, index, policy, ledger), for
several numbers of workers, indexed blocks and prompt blocks, without and with a host cache. Half of
the prompts are cached by some workers, each to a different depth, and in part by the host cache.
It is measured in CPU time, so that other work on the machine counts little.
Round trip: a real router process, queried by a processor over a real link while every worker
streams events to it.
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing
import os
import random
import time
import tracemalloc
from array import array
from itertools import product
from typing import Any

from dynamo_cli.config import RouterConfig
from dynamo_cli.ipc.codec import Decoder, encode
from dynamo_cli.ipc.control import Control
from dynamo_cli.ipc.switchboard import Switchboard, join
from dynamo_cli.kv import hashes
from dynamo_cli.kv.index import PrefixIndex
from dynamo_cli.messages.flows import FromRouter
from dynamo_cli.messages.lifecycle import Stop
from dynamo_cli.messages.request import EngineReady
from dynamo_cli.messages.routing import KvEvents, RequestEnd, RouteAnswer, RouteQuery
from dynamo_cli.router import process as router_process
from dynamo_cli.router.state import RouterState
from dynamo_cli.topology import LINKS, ROUTER, ProcessId, Role

BLOCK = 16
WORKERS = (2, 8, 64, 1024)
INDEXED = (10_000, 100_000, 1_000_000)
PROMPTS = (10, 500, 8_000)
CONFIG = RouterConfig("kv")
PROCESSOR = ProcessId(Role.PROCESSOR)
BATCH_BLOCKS = 64
"""Blocks stored and removed by one message of a busy worker."""

SENDERS = 4
"""Processes that send the events of all workers."""


def u64(dice: random.Random, count: int) -> array[int]:
    return array("Q", dice.randbytes(8 * count))


def ready(worker: int) -> EngineReady:
    return EngineReady(worker, ["generate"], 200_000, BLOCK, 100_000, 0)


def percentile(values: list[float], rank: float) -> float:
    return sorted(values)[min(int(len(values) * rank), len(values) - 1)]


# -- pure ------------------------------------------------------------------------------------


def filled(
    dice: random.Random, workers: int, blocks: int, *, host: bool
) -> tuple[RouterState, array[int]]:
    """Make a router whose workers hold `blocks` blocks in sum, and a prompt of which they hold a
    part; with `host`, a host cache holds a part too."""
    state = RouterState(CONFIG)
    prompt = u64(dice, max(PROMPTS))
    for worker in range(workers):
        state.worker_up(ready(worker))
        state.caches.index.store(worker, u64(dice, blocks // workers))
        state.caches.index.store(worker, prompt[: dice.randrange(len(prompt))])
    if host:
        state.host_cache.worker_up(0)
        state.host_cache.index.store(0, prompt[: 3 * len(prompt) // 4])
    return state, prompt


def decisions(state: RouterState, prompt: array[int], blocks: int, count: int) -> list[float]:
    """Return the time of each decision, microseconds, for known and unknown prompts alternately."""
    dice = random.Random(2)
    queries = [
        RouteQuery(
            str(number),
            "",
            blocks * BLOCK + 1,
            (prompt[:blocks] if number % 2 else u64(dice, blocks)).tobytes(),
        )
        for number in range(min(count, 200))
    ]
    times = []
    for number in range(count):
        query = queries[number % len(queries)]
        start = time.thread_time_ns()
        state.decide(0, query, time.monotonic_ns())
        times.append((time.thread_time_ns() - start) / 1000)
        state.end(query.request_id)
    return times


def pure(count: int) -> None:
    print("\npure decision")
    print(
        f"| {'workers':>7} | {'indexed':>9} | host cache | {'prompt':>6} | p50 us | p99 us "
        "| decisions/s |"
    )
    print("|--:|--:|---|--:|--:|--:|--:|")
    for workers in WORKERS:
        for indexed, host in product(INDEXED, (False, True)):
            state, prompt = filled(random.Random(1), workers, indexed, host=host)
            gc.collect()
            gc.freeze()  # as in a router that has been up for a while
            for blocks in PROMPTS:
                times = decisions(state, prompt, blocks, count)
                p50, p99 = percentile(times, 0.5), percentile(times, 0.99)
                rate = 1e6 * len(times) / sum(times)
                print(
                    f"| {workers:7} | {indexed:9} | {'yes' if host else 'no':10} | {blocks:6} "
                    f"| {p50:6.1f} | {p99:6.1f} | {rate:11,.0f} |"
                )


# -- index -----------------------------------------------------------------------------------


def index_costs(blocks: int) -> None:
    """Measure event blocks applied per second and memory per block, with blocks of one and of eight
    workers, which are the last of all."""
    print("\nindex")
    print(
        "| workers | workers that hold each block | event blocks/s | bytes per block and worker |"
    )
    print("|--:|--:|--:|--:|")
    for workers, count in product(WORKERS[1:], (1, 8)):
        holders = range(workers - count, workers)
        content = [u64(random.Random(place), 64) for place in range(blocks // 64)]
        tracemalloc.start()
        index = PrefixIndex()
        for batch in content:
            for worker in holders:
                index.store(worker, hashes.unpack(batch.tobytes()))
        used, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        print(
            f"| {workers} | {count} | {events_per_s(content, holders):,.0f} "
            f"| {used / (blocks * count):.0f} |"
        )


def events_per_s(content: list[array[int]], holders: range) -> float:
    """Measure messages decoded and applied by the router's state, which store and then remove
    blocks."""
    decode = Decoder(KvEvents)
    payloads = []
    for worker in holders:
        sequence = 0
        for stored in (True, False):
            for batch in content:
                packed = batch.tobytes()
                payloads.append(
                    encode(
                        KvEvents(
                            worker,
                            sequence,
                            packed if stored else b"",
                            b"" if stored else packed,
                            sequence == 0,
                            0,
                            {},
                        )
                    )
                )
                sequence += 1
    state = RouterState(CONFIG)
    for worker in holders:
        state.worker_up(ready(worker))
    start = time.thread_time()
    for payload in payloads:
        state.caches.apply(decode(payload), 0)
    elapsed = time.thread_time() - start
    assert len(state.caches.index) == 0
    return 2 * len(holders) * sum(map(len, content)) / elapsed


# -- round trip --------------------------------------------------------------------------------


class Peer:
    """A processor or a worker of the router that runs in this process."""

    def __init__(self, control: Any) -> None:
        self.board = Switchboard(control, self)
        self.answers: list[RouteAnswer] = []
        self._decode = Decoder(FromRouter)

    def on_message(self, peer: ProcessId, payload: bytes) -> None:
        self.answers.append(self._decode(payload))

    def on_link(self, peer: ProcessId) -> None: ...

    def on_unlink(self, peer: ProcessId, reason: str) -> None: ...

    def on_control(self, message: Any) -> None: ...

    def linked(self) -> None:
        while ROUTER not in self.board.links:
            self.board.poll(None)


def linked_peers(router: Control, workers: int) -> tuple[Peer, list[Peer], list[Control]]:
    peers, controls = [], []
    for number, peer in enumerate(
        [PROCESSOR, *(ProcessId(Role.WORKER, worker) for worker in range(workers))]
    ):
        control, theirs = Control.pair()
        spec = next(spec for spec in LINKS if {spec.a, spec.b} == {peer.role, Role.ROUTER})
        if spec.a is peer.role:
            join(control, router, peer, ROUTER, spec=spec, generation=number)
        else:
            join(router, control, ROUTER, peer, spec=spec, generation=number)
        controls.append(control)
        peers.append(Peer(theirs))
        peers[-1].linked()
    return peers[0], peers[1:], controls


def stream_events(peers: dict[int, Peer], rate: float) -> None:
    """Send batches of events without end, like busy workers. Runs in a process of its own.

    Args:
        peers: by the number of the worker.
        rate: event blocks per second of each worker.
    """
    dice, sequence = random.Random(len(peers)), 1
    for worker, peer in peers.items():
        peer.board.send(ROUTER, ready(worker))
        peer.board.send(ROUTER, KvEvents(worker, 0, b"", b"", True, 0, {}))
    old = dict.fromkeys(peers, b"")
    while True:
        for worker, peer in peers.items():
            new = u64(dice, BATCH_BLOCKS).tobytes()
            now = time.monotonic_ns()
            peer.board.send(ROUTER, KvEvents(worker, sequence, new, old[worker], False, now, {}))
            old[worker] = new
            time.sleep(BATCH_BLOCKS * 2 / rate / len(peers))
            peer.board.poll(0)
        sequence += 1


def round_trips(workers: int, blocks: int, count: int, event_rate: float) -> list[float]:
    """Return the time of each round trip, microseconds."""
    spawn, fork = multiprocessing.get_context("spawn"), multiprocessing.get_context("fork")
    router, theirs = Control.pair()
    process = spawn.Process(target=router_process.main, args=(ROUTER, CONFIG, theirs))
    process.start()
    theirs.close()
    processor, others, _controls = linked_peers(router, workers)
    numbered = dict(enumerate(others))
    streams = [
        fork.Process(target=stream_events, args=(part, event_rate))
        for first in range(SENDERS)
        if (part := {worker: numbered[worker] for worker in range(first, workers, SENDERS)})
    ]
    for stream in streams:
        stream.start()
    time.sleep(0.5)
    times = []
    prompt = u64(random.Random(3), blocks).tobytes()
    for number in range(count):
        name = str(number)
        start = time.perf_counter_ns()
        processor.board.send(ROUTER, RouteQuery(name, name, blocks * BLOCK + 1, prompt))
        while not processor.answers:
            processor.board.poll(None)
        times.append((time.perf_counter_ns() - start) / 1000)
        processor.answers.clear()
        processor.board.send(ROUTER, RequestEnd(name))
    for stream in streams:
        stream.kill()
        stream.join()
    router.send(Stop())
    process.join()
    return times[count // 10 :]


def over_links(count: int) -> None:
    print("\nround trip from a processor, one query at a time")
    print("| workers | prompt blocks | event blocks/s, all workers | p50 us | p99 us |")
    print("|--:|--:|--:|--:|--:|")
    for workers, blocks, rate in (
        (2, 10, 0),
        (2, 500, 2_000),
        (8, 500, 10_000),
        (8, 8_000, 10_000),
        (1024, 500, 100_000),
    ):
        times = round_trips(workers, blocks, count, max(rate / workers, 1.0))
        p50, p99 = percentile(times, 0.5), percentile(times, 0.99)
        print(f"| {workers} | {blocks} | {rate} | {p50:.1f} | {p99:.1f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description="What routing costs.")
    parser.add_argument("--quick", action="store_true", help="a tenth of the repetitions")
    options = parser.parse_args()
    share = 10 if options.quick else 1
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    pure(5_000 // share)
    index_costs(1_000_000 // share)
    over_links(5_000 // share)


if __name__ == "__main__":
    main()
