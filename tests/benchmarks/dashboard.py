"""What the dashboard costs: its own CPU time, and its effect on serving.

    .venv/bin/python -m tests.benchmarks.dashboard cpu     no engines; minutes
    .venv/bin/python -m tests.benchmarks.dashboard serve   two servers, one under its dashboard

The dashboard runs on a pseudo-terminal that accepts all output. `cpu` sends it a recorded stream,
once without traffic and once with 500 decisions a second. `serve` measures two servers alternately,
one with `--ui dashboard` and one with `--ui plain`, under the same load.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import fcntl
import itertools
import os
import pty
import random
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec
from aiohttp import web

from dynamo_cli.dashboard.widgets.tab_bar import TABS
from tests.benchmarks import load
from tests.dashboard.replay import recorded
from tests.support.server import COMMAND, SMALL, Server, Serving, free_port

REQUESTS_PER_S = 500
INTERVAL_S = 0.25
SETTLE_S = 4.0
DRAWS = 500
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
ENGINES = ("--router", "kv", "--workers", "2")

Process = subprocess.Popen[bytes]


# -- a dashboard on a pseudo-terminal ----------------------------------------------------------


@contextlib.contextmanager
def on_terminal(command: list[str], width: int, height: int) -> Iterator[tuple[Process, int]]:
    """Run a command on a terminal whose output is read and discarded."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))
    process = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True
    )
    os.close(theirs)
    threading.Thread(target=_drain, args=(ours,), daemon=True).start()
    try:
        yield process, ours
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)
        os.close(ours)


def _drain(terminal: int) -> None:
    with contextlib.suppress(OSError):
        while os.read(terminal, 1 << 16):
            pass


def cpu_s(pid: int) -> float:
    """Return the CPU time that a process has used, seconds."""
    with open(f"/proc/{pid}/stat") as stat:  # noqa: PTH123 - shorter than with Path
        fields = stat.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


# -- its CPU -----------------------------------------------------------------------------------


class Simulated:
    """A stream like that of a frontend, made from recorded ones.

    Args:
        requests_per_s: decisions per second, each followed by its measurement; 0 sends only
            snapshots.
    """

    def __init__(self, requests_per_s: int) -> None:
        events = recorded("busy" if requests_per_s else "empty")
        self._snapshots = [content for _, name, content in events if name == "snapshot"]
        news = [content for _, name, content in recorded("busy") if name == "decisions"]
        self._decisions = [decision for content in news for decision in content]
        self._per_event = int(requests_per_s * INTERVAL_S)
        self._number = self._turns = 0
        self._began_s = time.monotonic()

    async def answer(self, http: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(http)
        with contextlib.suppress(ConnectionError):
            while True:
                await response.write(self._turn())
                await asyncio.sleep(INTERVAL_S)
        return response

    def _turn(self) -> bytes:
        uptime_s = round(time.monotonic() - self._began_s, 2)
        self._turns += 1
        snapshot = self._snapshots[self._turns % len(self._snapshots)]
        turn = _event("snapshot", snapshot | {"uptime_s": uptime_s})
        if not self._per_event:
            return turn
        decisions = [self._decision() for _ in range(self._per_event)][::-1]
        found = [
            {
                "number": one["number"],
                "engine_request_id": one["engine_request_id"],
                "measured_tokens": 64,
            }
            for one in decisions
        ]
        return turn + _event("decisions", decisions) + _event("measured", found)

    def _decision(self) -> dict[str, Any]:
        self._number += 1
        name = f"chat-{self._number}"
        plain: dict[str, Any] = self._decisions[self._number % len(self._decisions)]
        return plain | {"number": self._number, "request_id": name, "engine_request_id": name}


def _event(name: str, content: object) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), msgspec.json.encode(content))


def serve_simulated(requests_per_s: int, port: int) -> None:
    """Serve a simulated stream without end. Runs in a process of its own."""
    web.run_app(_server(requests_per_s), host="127.0.0.1", port=port, print=None)


async def _server(requests_per_s: int) -> web.Application:
    app = web.Application()
    app.router.add_get("/dynamo/stream", Simulated(requests_per_s).answer)
    return app


def measure_cpu(seconds: float, width: int, height: int) -> None:
    """Measure each tab and print a line for it."""
    print(f"dashboard alone, {width}x{height}, {seconds:.0f} s each: % of a core")
    print(f"{'':<10}{'idle':>8}{f'{REQUESTS_PER_S}/s':>8}")
    rows: dict[str, list[float]] = {name: [] for name in TABS}
    for requests_per_s in (0, REQUESTS_PER_S):
        port = free_port()
        serving = subprocess.Popen(
            [sys.executable, "-m", __spec__.name, "simulate", str(requests_per_s), str(port)]
        )
        command = [COMMAND, "top", "--url", f"http://127.0.0.1:{port}"]
        try:
            with on_terminal(command, width, height) as (process, terminal):
                time.sleep(SETTLE_S)
                for number, name in enumerate(TABS, 1):
                    os.write(terminal, str(number).encode())
                    time.sleep(1.0)
                    before, began = cpu_s(process.pid), time.monotonic()
                    time.sleep(seconds)
                    used = cpu_s(process.pid) - before
                    rows[name].append(100 * used / (time.monotonic() - began))
        finally:
            serving.terminate()
            serving.wait()
    for name, (idle, busy) in rows.items():
        print(f"{name:<10}{idle:>8.1f}{busy:>8.1f}")


# -- its effect on serving ------------------------------------------------------------------------


def measure_serving(starts: int, rounds: int, at_once: int, each: int, tokens: int) -> None:
    """Measure two servers alternately. They are restarted several times, because no two starts give
    equally fast servers."""
    found: list[Pairs] = []
    for number in range(starts):
        found.append(_one_start(number, rounds, at_once, each, tokens))
        _, _, ratio = _against(found[-1], _tokens_per_s)
        print(f"start {number + 1} of {starts}: tok/s ratio {ratio:.3f}", flush=True)
    print(f"{rounds} rounds each of {at_once} clients, {each} requests each, {tokens} tokens")
    for title, figure in (("TTFT p99, ms", _ttft_p99_ms), ("output tok/s", _tokens_per_s)):
        one, other, ratio = _against(_joined(found), figure)
        low, high = _interval([_against(_joined(drawn), figure)[2] for drawn in _drawn(found)])
        print(
            f"{title}: without {one:.1f}, with {other:.1f}, "
            f"ratio {ratio:.3f} (9 of 10 draws of the starts: {low:.3f} to {high:.3f})"
        )


def _one_start(number: int, rounds: int, at_once: int, each: int, tokens: int) -> Pairs:
    port = free_port()
    with_it = [COMMAND, "--model", "tiny", "--http-port", str(port), *SMALL, *ENGINES]
    pairs: list[tuple[load.Sample, load.Sample]] = []
    with contextlib.ExitStack() as stack:
        for shown in sorted((False, True), reverse=bool(number % 2)):
            if shown:
                stack.enter_context(on_terminal([*with_it, "--ui", "dashboard"], 160, 48))
                Serving(port).wait_ready()
            else:
                plain = stack.enter_context(Server(*SMALL, *ENGINES, fresh=True))
        ports = (plain.port, port)
        for turn in range(rounds + 1):
            samples = {
                server_port: _round(server_port, at_once, each, tokens)
                for server_port in (ports if turn % 2 else ports[::-1])
            }
            if turn:  # the first round warms up both servers
                pairs.append((samples[plain.port], samples[port]))
    return pairs


Pairs = Sequence[tuple[load.Sample, load.Sample]]
"""Pairs of figures without and with the dashboard, one for each round."""
Figure = Callable[[Sequence[load.Sample]], float]


def _against(pairs: Pairs, figure: Figure) -> tuple[float, float, float]:
    one, other = (figure(samples) for samples in zip(*pairs, strict=True))
    return one, other, other / one


def _joined(found: Sequence[Pairs]) -> Pairs:
    return [pair for pairs in found for pair in pairs]


def _drawn(found: Sequence[Pairs]) -> list[Sequence[Pairs]]:
    """Draw a bootstrap sample of the starts."""
    dice = random.Random(0)
    return [dice.choices(found, k=len(found)) for _ in range(DRAWS)]


def _interval(values: list[float]) -> tuple[float, float]:
    ordered = sorted(values)
    return ordered[len(ordered) // 20], ordered[-1 - len(ordered) // 20]


def _ttft_p99_ms(samples: Sequence[load.Sample]) -> float:
    ttft = sorted(itertools.chain.from_iterable(sample.ttft for sample in samples))
    return 1000 * ttft[int(0.99 * (len(ttft) - 1))]


def _tokens_per_s(samples: Sequence[load.Sample]) -> float:
    return sum(sample.tokens for sample in samples) / sum(sample.wall_s for sample in samples)


def _round(port: int, at_once: int, each: int, tokens: int) -> load.Sample:
    return asyncio.run(load.streams(port, "tiny", at_once=at_once, each=each, tokens=tokens))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    kinds = parser.add_subparsers(dest="kind", required=True)
    cpu = kinds.add_parser("cpu")
    cpu.add_argument("--seconds", type=float, default=10.0)
    cpu.add_argument("--size", default="80x24")
    serve = kinds.add_parser("serve")
    serve.add_argument("--starts", type=int, default=8)
    serve.add_argument("--rounds", type=int, default=10)
    serve.add_argument("--at-once", type=int, default=8)
    serve.add_argument("--each", type=int, default=20)
    serve.add_argument("--tokens", type=int, default=30)
    simulate = kinds.add_parser("simulate")
    simulate.add_argument("requests_per_s", type=int)
    simulate.add_argument("port", type=int)
    typed = parser.parse_args()
    if typed.kind == "cpu":
        width, height = map(int, typed.size.split("x"))
        measure_cpu(typed.seconds, width, height)
    elif typed.kind == "serve":
        measure_serving(typed.starts, typed.rounds, typed.at_once, typed.each, typed.tokens)
    else:
        serve_simulated(typed.requests_per_s, typed.port)


if __name__ == "__main__":
    main()
