"""What a relayed link costs beside a local one: round trips, rate and CPU time, in turns.

python -m tests.benchmarks.relays [--rounds N] [--round-trips N] [--messages N]

The relayed link goes through two relays, on this machine, with encryption.
"""

from __future__ import annotations

import argparse
import multiprocessing
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dynamo_cli.cluster_config import RelayConfig
from dynamo_cli.ipc.control import Control
from dynamo_cli.ipc.link import create_ring
from dynamo_cli.ipc.switchboard import join
from dynamo_cli.messages.cluster import RelayBound, RelayJoined, RelayUp
from dynamo_cli.messages.lifecycle import LinkUp, Stop
from dynamo_cli.relay import process as relay
from dynamo_cli.relay.wire import key_pair
from dynamo_cli.topology import ProcessId, Role
from tests.benchmarks.links import HERE, SPEC, THERE, Side, echo, round_trips, stream_s

SIZES_BYTES = (64, 4096, 64 * 1024)
SPAWN = multiprocessing.get_context("spawn")
TICKS = 100.0


def cpu_s(pids: list[int]) -> float:
    """CPU time of these processes so far."""
    total = 0.0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += (int(fields[11]) + int(fields[12])) / TICKS
    return total


def run_relay(config: RelayConfig, control: socket.socket) -> None:
    relay.main(ProcessId(Role.RELAY), config, control)


def wait_for(control: Control, kind: type) -> Any:
    while True:
        for message, _ in control.receive():
            if isinstance(message, kind):
                return message
        time.sleep(0.01)


@contextmanager
def relays() -> Iterator[tuple[Control, Control, list[int]]]:
    """Two relays that are connected: control sockets and pids."""
    (head, head_secret), (node, node_secret) = key_pair(), key_pair()
    ours, theirs = Control.pair()
    config = RelayConfig("127.0.0.1", 0, head, head_secret, node, listens=True)
    first = SPAWN.Process(target=run_relay, args=(config, theirs))
    first.start()
    port = wait_for(ours, RelayBound).port
    others, them = Control.pair()
    config = RelayConfig("127.0.0.1", port, node, node_secret, head, listens=False)
    second = SPAWN.Process(target=run_relay, args=(config, them))
    second.start()
    wait_for(ours, RelayJoined)
    wait_for(others, RelayJoined)
    assert first.pid is not None
    assert second.pid is not None
    yield ours, others, [first.pid, second.pid]
    for control, process in ((ours, first), (others, second)):
        control.send(Stop())
        process.join()


def half(end: Control, at: Control, peer: ProcessId, out_bytes: int, back_bytes: int) -> None:
    """A link between a process and its relay."""
    out, back = create_ring(out_bytes, "out"), create_ring(back_bytes, "back")
    end.send(LinkUp(peer.name, 1), (*out, *back))
    at.send(RelayUp(1), (*back, *out))


@contextmanager
def ends(relayed: tuple[Control, Control, list[int]] | None) -> Iterator[tuple[Side, int]]:
    """This process's side of a link, and the pid of the other process."""
    here, ours = Control.pair()
    there, theirs = Control.pair()
    process = SPAWN.Process(target=echo, args=(theirs,))
    process.start()
    theirs.close()
    if relayed is None:
        join(here, there, HERE, THERE, spec=SPEC, generation=1)
    else:
        head, node, _ = relayed
        half(here, head, THERE, SPEC.a_to_b_bytes, SPEC.b_to_a_bytes)
        half(there, node, HERE, SPEC.b_to_a_bytes, SPEC.a_to_b_bytes)
    assert process.pid is not None
    yield Side(ours), process.pid
    there.send(Stop())
    process.join()


def main() -> None:
    parser = argparse.ArgumentParser(description="What a relayed link costs.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--round-trips", type=int, default=2_000)
    parser.add_argument("--messages", type=int, default=20_000)
    options = parser.parse_args()
    print(f"{'link':>8} {'bytes':>8} {'p50 us':>8} {'p99 us':>8} {'messages/s':>12} {'CPU us':>8}")
    for _ in range(options.rounds):
        with ends(None) as (side, pid):
            measure("local", side, [pid], options)
        with relays() as pair, ends(pair) as (side, pid):
            measure("relayed", side, [pid, *pair[2]], options)


def measure(name: str, side: Side, pids: list[int], options: argparse.Namespace) -> None:
    """Print a line per size; CPU time is that of all processes, per message of a stream."""
    link = side.linked()
    for size in SIZES_BYTES:
        times = round_trips(side, link, size, options.round_trips)
        p50_us, p99_us = times[len(times) // 2] / 1000, times[len(times) * 99 // 100] / 1000
        before = cpu_s(pids) + time.process_time()
        taken_s = stream_s(side, link, size, options.messages)
        cpu_us = (cpu_s(pids) + time.process_time() - before) / options.messages * 1e6
        rate = options.messages / taken_s
        print(f"{name:>8} {size:8} {p50_us:8.1f} {p99_us:8.1f} {rate:12,.0f} {cpu_us:8.1f}")


if __name__ == "__main__":
    main()
