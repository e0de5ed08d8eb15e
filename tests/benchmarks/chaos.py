"""Kills and stops every process of a server under load: is anything lost, wrong, late or left?

    python -m tests.benchmarks.chaos [--engine mock|tiny] [--rounds 2] [--only worker,router]
    python -m tests.benchmarks.chaos --host-cache 1GiB --prefill-workers 0 --rounds 100 \
        --only "worker,processor,host cache" --signals SIGKILL --settle 0.2

For each role and for SIGKILL and SIGSTOP a server is started, steady load put on it, and a process
of that role killed or stopped, as often as `--rounds` says; each time the load goes on until all
processes are ready again. Every request is greedy, and its answer is compared with that of the same
request on the quiet server. Prints a table in Markdown; takes minutes, so it is run by hand.

With `--host-cache` the engines' own caches are so small that blocks are stored and loaded all the
time, and the moments of the kills are random.

Exits with 1 when a target is missed: no request fails (but for those of the frontend and of the
supervisor), every answer is exact, a stream on two real workers pauses for at most a second when
one is killed, every process comes back, the books of all processes are empty once nobody asks any
more (`tests.support.invariants`), and nothing is left in the end.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from signal import Signals
from typing import Any

import aiohttp

from tests.benchmarks.chaos_load import DOCUMENTS, SHAPES, Answer, Load, ask, difference
from tests.support.server import SMALL, Server, alive, children_of, unowned

TINY, MOCK = "tiny", "mock"
ENGINES = {
    TINY: ("--max-model-len", "1024", "--dtype", "float32", *SMALL),
    MOCK: ("--engine", "mock", "--max-model-len", "1024"),
}
SUPERVISOR, NOBODY = "supervisor", "nobody"
ROLES = (
    *(NOBODY, "worker", "processor", "router", "zygote", "prefill queue", "prefill worker"),
    *("host cache", "frontend", SUPERVISOR),
)
ALONE = ("router", "zygote", "prefill queue", "host cache", "frontend")
"""Roles with one process, whose name has no number."""

MAY_FAIL = ("frontend", SUPERVISOR)
GAP_S = 1.0
"""Target: the longest pause of a stream when one of two workers is killed."""

SMALL_CACHE = ("--block-size", "32", "--num-gpu-blocks-override", "48")
"""With a host cache: engines that hold a part of what runs, and little of what ran before."""

SETTLE_S, AFTER_S, QUIET_S, MOMENT_S = 2.0, 1.0, 3.0, 0.5
START_S = 300.0
GONE_S = 10.0
LEFT_S = 15.0
POLL_S = 0.02


@dataclass
class Row:
    """What one kind of incident led to, over all rounds.

    Attributes:
        in_flight: requests that ran at the moment.
        ended: requests that ended from then on.
        failed, refused: those that got no whole answer, and those that nobody was there to take.
        gap_s: the longest pause of a stream.
        ttft_s: the longest time to the first token of a stream.
        back_s: seconds until all processes were ready again, in each round; None if they never
            were. Of the supervisor: until all others were gone.
        copied: blocks that were stored in the host cache and loaded from there meanwhile.
        left: what stayed: processes and names in /dev/shm, and entries in the books of processes.
        errors: how requests failed.
    """

    role: str
    signal: str
    in_flight: int = 0
    ended: int = 0
    failed: int = 0
    refused: int = 0
    moved: int = 0
    wrong: int = 0
    gap_s: float = 0.0
    ttft_s: float = 0.0
    copied: Counter[str] = field(default_factory=Counter)
    back_s: list[float | None] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)

    def add(self, answers: list[Answer], right: dict[str, Any], since_s: float) -> None:
        """Count the answers that ended after `since_s`."""
        for answer in answers:
            self.ended += not answer.refused
            self.gap_s = max(self.gap_s, answer.gap_s(since_s))
            self.ttft_s = max(self.ttft_s, answer.ttft_s)
            if answer.error:
                self.failed += not answer.refused
                self.refused += answer.refused
                self.errors[answer.error[:160]] += 1
            elif answer.essence != right[answer.shape.name]:
                self.wrong += 1
                differs = difference(right[answer.shape.name], answer.essence)
                self.errors[f"wrong: {answer.shape.name}: {differs}"] += 1

    def misses(self, *, strict_gap: bool) -> list[str]:
        """The targets that were missed, in words."""
        found = []
        if self.role not in MAY_FAIL and (lost := self.failed + self.refused):
            found.append(f"{lost} requests failed")
        if self.wrong:
            found.append(f"{self.wrong} answers are wrong")
        killed = (self.role, self.signal) == ("worker", Signals.SIGKILL.name)
        if strict_gap and killed and self.gap_s > GAP_S:
            found.append(f"a stream paused for {self.gap_s:.2f} s")
        if None in self.back_s:
            found.append("not all processes came back")
        if self.left:
            found.append(f"left: {', '.join(self.left)}")
        return [f"{self.role}, {self.signal}: {one}" for one in found]


class Chaos:
    """One run.

    Args:
        options: of the command line.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self._args = (
            *("--workers", str(options.workers), "--processors", str(options.processors)),
            *("--router", "kv", "--worker-timeout", str(options.worker_timeout)),
            "--no-access-log",
            *(
                ("--prefill-workers", str(options.prefill_workers))
                if options.prefill_workers
                else ()
            ),
            *(("--host-cache", options.host_cache, *SMALL_CACHE) if options.host_cache else ()),
            *ENGINES[options.engine],
        )
        real = options.engine != MOCK
        shapes = (*SHAPES, *DOCUMENTS) if options.host_cache else SHAPES
        self._shapes = tuple(shape for shape in shapes if real or not shape.real)
        self._right: dict[str, Any] = {}

    def rows(self) -> list[Row]:
        """Let everything happen."""
        rows = []
        for role in self._options.only:
            for number in self._options.signals if role != NOBODY else (None,):
                row = Row(role, number.name if number else "")
                try:
                    asyncio.run(self._server(row, number))
                finally:  # also after Ctrl-C
                    print(line(row), flush=True)
                rows.append(row)
        return rows

    async def _server(self, row: Row, number: Signals | None) -> None:
        """A server for one kind of incident."""
        with Server(*self._args, ready=False) as server:
            server.wait_ready(START_S)
            server.take_census()
            known = children_of(server.process.pid)
            try:
                await self._learn(server)
                for turn in range(1 if row.role == SUPERVISOR else self._options.rounds):
                    await self._incident(server, row, number, turn)
                    known |= children_of(server.process.pid)
                row.left += _in_books(server)
            finally:
                known |= children_of(server.process.pid)
                _end(server, row)
                row.left += _left(server, known)
                if self._options.log and row.misses(strict_gap=False):
                    print(server.log[-self._options.log :], file=sys.stderr, flush=True)

    async def _learn(self, server: Server) -> None:
        """Ask each shape once, one after the other, while nothing else happens."""
        async with aiohttp.ClientSession(server.url) as session:
            for shape in self._shapes if not self._right else ():
                answer = await ask(session, shape)
                assert not answer.error, (shape.name, answer.error)
                self._right[shape.name] = answer.essence

    async def _incident(self, server: Server, row: Row, number: Signals | None, turn: int) -> None:
        before, copied = _moved(server), _copied(server)
        async with Load(server.url, self._shapes, self._options.clients) as load:
            moment_s = random.uniform(0, MOMENT_S) if self._options.host_cache else 0.0
            await asyncio.sleep(self._options.settle + moment_s)
            earlier, since_s = len(load.answers), time.monotonic()
            row.in_flight += len(load.open)
            if number is None:
                await asyncio.sleep(QUIET_S)
            elif row.role == SUPERVISOR:
                row.back_s.append(await _end_of_all(server, number))
            else:
                row.back_s.append(await self._one(server, row, number, turn))
            await asyncio.sleep(AFTER_S)
        row.add(load.answers[earlier:], self._right, since_s)
        if row.role != SUPERVISOR:
            after = _moved(server)
            row.moved += after - before if after >= before else after
            row.copied += _copied(server) - copied

    async def _one(self, server: Server, row: Row, number: Signals, turn: int) -> float | None:
        """Kill or stop a process, and wait until all are ready: how long that took."""
        name = row.role if row.role in ALONE else f"{row.role} {turn % self._count(row.role)}"
        pid, began_s = server.pid_of(name), time.monotonic()
        os.kill(pid, number)
        back_s = await _back(server, name, pid, began_s, self._options.patience)
        if back_s is None:
            print(f"{name} ({number.name}) was not replaced", file=sys.stderr)
        if number is Signals.SIGSTOP and alive(pid):
            if back_s is not None:
                row.left.append(f"{name}, stopped")
            os.kill(pid, signal.SIGKILL)
            await _back(server, name, pid, time.monotonic(), self._options.patience)
        return back_s

    def _count(self, role: str) -> int:
        """How many processes a role has."""
        return int(getattr(self._options, role.replace(" ", "_") + "s"))


async def _back(
    server: Server, name: str, pid: int, began_s: float, patience_s: float
) -> float | None:
    """Seconds until all processes are ready, this one with another pid; None: never."""
    while (took_s := time.monotonic() - began_s) < patience_s:
        try:
            health = (await asyncio.to_thread(server.get, "/health", 2.0))[1]
        except (OSError, ValueError):
            health = {"status": "", "processes": []}
        pids = {process["name"]: process["pid"] for process in health["processes"]}
        if health["status"] == "ok" and pids.get(name) not in (None, pid):
            return took_s
        await asyncio.sleep(POLL_S)
    return None


async def _end_of_all(server: Server, number: Signals) -> float | None:
    """Kill the supervisor, or stop it for a while before: seconds until all others are gone."""
    if number is Signals.SIGSTOP:
        server.signal(number)
        await asyncio.sleep(QUIET_S)
    below, began_s = children_of(server.process.pid), time.monotonic()
    server.signal(Signals.SIGKILL)
    while any(map(alive, below)):
        if time.monotonic() - began_s > GONE_S:
            return None
        await asyncio.sleep(POLL_S)
    return time.monotonic() - began_s


def _moved(server: Server) -> int:
    try:
        return sum(server.snapshot()["moves"]["moved"].values())
    except (OSError, ValueError):
        return 0  # the frontend is not back


def _copied(server: Server) -> Counter[str]:
    """Blocks that all engines together have stored in the host cache and loaded from there."""
    try:
        cache = server.snapshot()["host_cache"]
    except (OSError, ValueError):
        cache = None
    copied: Counter[str] = Counter()
    for engine in cache["engines"] if cache else ():
        copied["stored"] += engine["stored_blocks"]
        copied["loaded"] += engine["loaded_blocks"]
    return copied


def _in_books(server: Server) -> list[str]:
    """What the processes of a server still hold although nobody asks it anything any more."""
    if server.process.poll() is not None:
        return []
    try:
        server.check_invariants()
    except (AssertionError, OSError) as error:
        return [str(error)]
    return []


def _end(server: Server, row: Row) -> None:
    """Ctrl-C, if it still runs."""
    if server.process.poll() is not None:
        return
    server.signal(Signals.SIGINT)
    try:
        server.wait()
    except subprocess.TimeoutExpired:
        row.left.append("the server, which does not end")
        server.kill()


def _left(server: Server, known: set[int]) -> list[str]:
    """Processes and names in /dev/shm that are there although the server has ended."""
    deadline = time.monotonic() + LEFT_S
    while time.monotonic() < deadline:
        pids = sorted(filter(alive, known))
        names = unowned(server._shared)
        if not pids and not names:
            return []
        time.sleep(POLL_S)
    return [*(f"process {pid}" for pid in pids), *map(str, names)]


NONE = "-"
TITLES = (
    *("times", "in flight", "ended", "failed", "refused", "moved", "wrong", "stored", "loaded"),
    *("longest gap, s", "longest TTFT, s", "back median, max, s", "left"),
)


def head() -> str:
    """The first two lines of the table."""
    return f"| role | signal | {' | '.join(TITLES)} |\n|---|---{'|--:' * len(TITLES)}|"


def line(row: Row) -> str:
    """A row of the table."""
    known = sorted(one for one in row.back_s if one is not None)
    back = f"{statistics.median(known):.1f}, {known[-1]:.1f}" if known else NONE
    if None in row.back_s:
        back += ", never"
    moved = NONE if row.role == SUPERVISOR else row.moved
    cells = (
        *(row.role, row.signal or NONE, len(row.back_s), row.in_flight, row.ended, row.failed),
        *(row.refused, moved, row.wrong, row.copied["stored"], row.copied["loaded"]),
        *(f"{row.gap_s:.2f}", f"{row.ttft_s:.2f}", back, len(row.left)),
    )
    return f"| {' | '.join(map(str, cells))} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--engine", choices=ENGINES, default=MOCK)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--processors", type=int, default=2)
    parser.add_argument("--prefill-workers", type=int, default=1)
    parser.add_argument("--clients", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--host-cache", default="", help="its size; none if not given")
    parser.add_argument("--settle", type=float, default=SETTLE_S, help="seconds before each time")
    parser.add_argument("--worker-timeout", type=float, default=3.0, help="seconds")
    parser.add_argument("--patience", type=float, default=60.0, help="seconds until who is back")
    parser.add_argument("--only", default=",".join(ROLES), help="roles, separated by commas")
    parser.add_argument("--signals", default="SIGKILL,SIGSTOP")
    parser.add_argument("--log", type=int, default=0, help="characters of a log after a miss")
    options = parser.parse_args()
    names = options.signals.split(",")
    if unknown := set(names) - set(Signals.__members__):
        parser.error(f"no such signals: {', '.join(sorted(unknown))}; SIGKILL and SIGSTOP are.")
    options.signals = [Signals[name] for name in names]
    options.only = options.only.split(",")
    if unknown := set(options.only) - set(ROLES):
        parser.error(f"no such roles: {', '.join(sorted(unknown))}")
    if not options.prefill_workers:
        options.only = [role for role in options.only if "prefill" not in role]
    if not options.host_cache:
        options.only = [role for role in options.only if role != "host cache"]
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {' '.join(sys.argv[1:])}\n")
    print(head(), flush=True)
    rows = Chaos(options).rows()
    strict = options.engine == TINY and options.workers > 1
    for row in rows:
        for error, count in row.errors.most_common(5):
            print(f"{row.role}, {row.signal}: {count} times: {error}", file=sys.stderr)
    missed = [one for row in rows for one in row.misses(strict_gap=strict)]
    print("\n" + ("\n".join(missed) or "every target is met"))
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
