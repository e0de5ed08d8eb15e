"""Scaling workers up and down under load: no request fails, and nothing is left behind."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest

from tests.models_api.conftest import Client
from tests.support.server import alive, wait_until

pytestmark = pytest.mark.engine

SCALED_S = 60.0
WORKERS = "/dynamo/workers"
LONG = 3900
"""Tokens of answers that must not end before a worker is told to retire, however busy this machine
is."""


@dataclass
class Load:
    """The answers to several clients that send requests without a pause.

    Attributes:
        statuses: number of answers by status; 0 counts requests without an answer.
        workers: number of answers by worker.
    """

    statuses: Counter[int] = field(default_factory=Counter)
    workers: Counter[str] = field(default_factory=Counter)
    stopped: threading.Event = field(default_factory=threading.Event)

    def run(self, client: Client, number: int) -> None:
        turn = 0
        while not self.stopped.is_set():
            turn += 1
            try:
                answer = client.complete("tiny", f"{number} asks for the {turn}th time", 24)
            except OSError:
                self.statuses[0] += 1
                continue
            self.statuses[answer.status] += 1
            self.workers[answer.headers.get("X-Dynamo-Worker", "")] += 1


@contextmanager
def under_load(client: Client, clients: int = 4) -> Iterator[Load]:
    load = Load()
    threads = [threading.Thread(target=load.run, args=(client, each)) for each in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield load
    finally:
        load.stopped.set()
        for thread in threads:
            thread.join()


def scale(client: Client, count: int) -> float:
    """Scale to a number of workers, and wait until they are ready; returns the seconds."""
    began = time.monotonic()
    answer = client.post(WORKERS, {"count": count})
    assert answer.status == 202, answer.body
    assert answer.body["target"] == count

    def reached() -> bool:
        state = client.get(WORKERS).body
        return bool(state["count"] == len(state["workers"]) == state["target"] == count)

    wait_until(reached, SCALED_S, f"there are {count} workers")
    return time.monotonic() - began


def test_workers_come_and_go_and_no_request_fails(client: Client) -> None:
    with under_load(client) as load:
        wait_until(lambda: load.statuses[200] > 20, 30, "one worker answers")
        up = scale(client, 3)
        wait_until(lambda: len(load.workers) == 3, 30, "three workers answer")
        pids = [client.server.pid_of(f"worker {index}") for index in (1, 2)]
        down = scale(client, 1)
        before = sum(load.statuses.values())
        wait_until(lambda: sum(load.statuses.values()) > before + 20, 30, "one worker answers")
    assert set(load.statuses) == {200}, load.statuses
    print(f"1 -> 3 in {up:.2f} s, 3 -> 1 in {down:.2f} s, {load.statuses[200]} answers")
    assert not any(map(alive, pids))
    snapshot = client.get("/dynamo/snapshot").body
    assert [worker["worker"] for worker in snapshot["workers"]] == [0]
    assert snapshot["target_workers"] == 1


def test_the_requests_of_one_that_retires_go_on_elsewhere(client: Client) -> None:
    scale(client, 2)
    answers = []
    threads = [
        threading.Thread(target=lambda: answers.append(client.complete("tiny", "long", LONG)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    wait_until(lambda: busy(client) == {0, 1}, 20, "both workers have something to do")
    assert client.post(WORKERS, {"count": 1}).status == 202
    wait_until(lambda: phase(client, "worker 1") == "draining", 5, "it drains")
    short = client.complete("tiny", "short")
    assert short.headers["X-Dynamo-Worker"] == "0"
    for thread in threads:
        thread.join()
    assert [answer.status for answer in answers] == [200] * 4
    assert {answer.headers["X-Dynamo-Worker"] for answer in answers} == {"0"}
    wait_until(lambda: phase(client, "worker 1") == "", 20, "it is gone")


def busy(client: Client) -> set[int]:
    """The workers that run requests."""
    workers = client.get("/dynamo/snapshot").body["workers"]
    return {worker["worker"] for worker in workers if worker["num_running_reqs"]}


def phase(client: Client, name: str) -> str:
    """The phase of a process; empty if there is no such process."""
    process = client.server.processes().get(name)
    return process["phase"] if process else ""


@pytest.mark.parametrize("body", [{}, {"count": "2"}, {"count": 0}, {"count": True}, {"n": 2}])
def test_what_is_no_number_of_workers(client: Client, body: dict[str, object]) -> None:
    answer = client.post(WORKERS, body)
    assert answer.status == 400
    assert "count" in answer.body["error"]["message"]
    assert client.get(WORKERS).body["target"] == 1
