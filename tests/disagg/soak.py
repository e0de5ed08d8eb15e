"""Kills every kind of process of disaggregation, twenty times each, with real engines.

    python -m tests.disagg.soak [--servers 5] [--no-stops]

It takes minutes, so it is run by hand; `test_real_engines.py` has each case once. Answers must be
the same as those of a single engine. Only requests of a killed decode worker may fail, with 503.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tests.disagg.mix import answers, differences, requests, said
from tests.disagg.test_real_engines import AT_ONCE, COMMON, nothing_is_left, prefill
from tests.support.requests import post
from tests.support.server import Server, stopped, wait_until

SHAPE = ("--workers", "2", "--prefill-workers", "2")
VICTIMS = ("prefill worker 0", "prefill worker 1", "prefill queue", "worker 1")
KILLS = 4
"""Kills of one process per server. After more within five minutes the supervisor gives it up."""

ASKED = list(requests(60, "tiny", seed=1))
STUCK = 24
"""Number of requests whose prefill is stopped until its deadline of 30 s."""


def main() -> None:
    parser = argparse.ArgumentParser(description="Kill what prefills, again and again.")
    parser.add_argument("--servers", type=int, default=5)
    parser.add_argument("--no-stops", action="store_true", help="only kills")
    options = parser.parse_args()
    with Server(*COMMON) as server:
        expected = answers(server, ASKED, AT_ONCE)
    told: Counter[str] = Counter()
    for number in range(options.servers):
        with Server(*SHAPE, *COMMON) as server:
            for _ in range(KILLS):
                for victim in VICTIMS:
                    told[f"{victim} killed"] += 1
                    told.update(_kill(server, victim, expected))
            _note(server, told)
        print(f"server {number + 1} of {options.servers}: {dict(told)}", flush=True)
    for victims in () if options.no_stops else (VICTIMS[:2], VICTIMS[2:3]):
        with Server(*SHAPE, *COMMON) as server:
            _stop(server, victims, expected)
            _note(server, told)
        print(f"{' and '.join(victims)} stopped: {dict(told)}", flush=True)


def _kill(server: Server, victim: str, expected: list[Any]) -> Counter[str]:
    """Kill a process while requests are in flight, and return how these ended."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        running = [pool.submit(post, server, *one) for one in ASKED]
        wait_until(lambda: prefill(server)["away"], 10, "requests are on their way")
        time.sleep(random.uniform(0, 0.1))
        before = server.pid_of(victim)
        os.kill(before, signal.SIGKILL)
        heard = [one.result() for one in running]
    ends = Counter(
        _judge(victim, *one, wanted) for one, wanted in zip(heard, expected, strict=True)
    )
    wait_until(lambda: server.pid_of(victim) not in (0, before), 30, f"{victim} starts again")
    server.wait_ready()
    wait_until(lambda: nothing_is_left(server), 10, "everything is released")
    return Counter({f"{victim}: {end}": count for end, count in ends.items()})


def _judge(victim: str, status: int, content: Any, wanted: Any) -> str:
    """How an answer ended; requests may fail only when a decode worker is killed."""
    broken = isinstance(content, list) and "error" in content[-1]
    if status == 503 or broken:
        assert victim == "worker 1", (victim, status, content)
        return "told that it was lost"
    assert (status, said(content)) == (200, wanted), (victim, status, content, wanted)
    return "right"


def _stop(server: Server, victims: tuple[str, ...], expected: list[Any]) -> None:
    """Stop these processes until the deadline passes; the answers must be right all the same."""
    with stopped([server.pid_of(victim) for victim in victims]):
        began = time.monotonic()
        got = answers(server, ASKED[:STUCK], STUCK)
        assert time.monotonic() - began < 60
    assert not differences(expected[:STUCK], got, ASKED[:STUCK])
    wait_until(lambda: nothing_is_left(server), 20, "everything is released")
    got = answers(server, ASKED, AT_ONCE)
    assert not differences(expected, got, ASKED)


def _note(server: Server, told: Counter[str]) -> None:
    view = prefill(server)
    for kind in ("fallbacks", "failures", "returned"):
        told.update({f"{kind} {reason}": count for reason, count in view[kind].items()})


if __name__ == "__main__":
    main()
