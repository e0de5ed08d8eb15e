"""KV routing over real engines whose caches are too small for all conversations."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.kv_routing.talk import (
    BLOCK,
    CONVERSATIONS,
    ENGINE,
    ask,
    cached_share,
    conversations,
    rightly_predicted,
    talk,
)
from tests.support.server import Server, wait_until

pytestmark = pytest.mark.engine

MOST_KILLS = 8

KV = ("--router", "kv", "--debug-headers", *ENGINE)


@pytest.fixture(scope="module")
def kv() -> Iterator[Server]:
    """Two workers."""
    with Server("--workers", "2", *KV) as server:
        yield server


def test_it_finds_more_than_round_robin_and_predicts_what_is_found(kv: Server) -> None:
    first, second = talk(kv, 1), talk(kv, 2)
    for answers in (first, second):
        assert rightly_predicted(answers) >= 0.99
        assert {one.worker for one in answers} == {0, 1}
    with Server("--workers", "2", "--router", "round-robin", *ENGINE) as blind:
        assert cached_share(first) >= 1.5 * cached_share(talk(blind, 1))
    removed = kv.snapshot()["router"]["event_blocks"]["removed"]
    assert removed > 100  # the caches were too small for all blocks


def test_predictions_hold_after_a_worker_and_the_router_died() -> None:
    with Server("--workers", "3", *KV) as server:
        people = conversations(3)

        def turn() -> float:
            return rightly_predicted([person.turn(server) for person in people])

        assert min(turn(), turn()) >= 0.99
        for name in ("worker 1", "router", "worker 0"):
            kill(server, name)
            assert min(turn(), turn()) >= 0.99, name
        resyncs = server.snapshot()["router"]["resyncs"]
        assert resyncs["start"] >= 3 + 3 + 2


def kill(server: Server, name: str) -> None:
    """Kill a process and wait until it is ready again."""
    before = server.pid_of(name)
    os.kill(before, signal.SIGKILL)
    wait_until(lambda: server.pid_of(name) not in (0, before), 30, f"{name} is started again")
    server.wait_ready()


def test_a_session_stays_together(kv: Server) -> None:
    one = conversations(5)[0]
    first = one.turn(kv, **{"X-Session-ID": "s1"})
    second = one.turn(kv, **{"X-Session-ID": "s1"})
    assert second.worker == first.worker
    assert second.cached_tokens >= first.prompt_tokens // BLOCK * BLOCK

    def reasons() -> list[str]:
        shown = kv.get(f"/dynamo/decisions?limit=1&worker={first.worker}")[1]["decisions"]
        return [decision["reason"] for decision in shown]

    wait_until(lambda: reasons() == ["session"], 5, "the decision is shown with its reason")


def test_siblings_stay_together(kv: Server) -> None:
    for number in range(6):
        body = {"prompt": f"once {number}", "n": 4, "max_tokens": 30, "ignore_eos": True}
        answer, content = ask(kv, "/v1/completions", body | {"model": "tiny"})
        assert answer.worker in {0, 1}  # one, not a list of several
        assert len(content["choices"]) == 4
    wait_until(lambda: idle(kv), 5, "no load is left in the ledger")


def idle(server: Server) -> bool:
    router = server.snapshot()["router"]
    return not any(router["active_requests"].values())


def test_who_is_more_urgent_waits_less() -> None:
    with (
        Server("--workers", "1", *KV, "--max-num-seqs", "1") as server,
        ThreadPoolExecutor(8) as pool,
    ):
        ended: list[str] = []

        def request(name: str, priority: str, tokens: int = 30) -> None:
            body = {"model": "tiny", "prompt": name, "max_tokens": tokens, "ignore_eos": True}
            ask(server, "/v1/completions", body, {"X-Priority": priority})
            ended.append(name)

        # Long enough that all others come before they have ended, however busy this machine is.
        running = [pool.submit(request, f"first {number}", "0", 1900) for number in range(3)]
        wait_until(lambda: server.snapshot()["traffic"]["in_flight"] >= 2, 5, "they run")
        waiting = [pool.submit(request, f"patient {number}", "5") for number in range(4)]
        wait_until(lambda: server.snapshot()["traffic"]["in_flight"] >= 5, 5, "some wait")
        waiting.append(pool.submit(request, "urgent", "-5"))
        for one in running + waiting:
            one.result()
        assert ended.index("urgent") < min(ended.index(f"patient {n}") for n in (1, 2, 3))


@pytest.mark.parametrize("priority", [-(1 << 63), (1 << 63) - 1])
def test_any_priority_that_a_body_may_have_is_served(kv: Server, priority: int) -> None:
    before = kv.processes()["router"]["restarts"], kv.snapshot()["unrouted_requests"]
    body = {"model": "tiny", "prompt": "a", "max_tokens": 1, "priority": priority}
    ask(kv, "/v1/completions", body, {})
    after = kv.processes()["router"]["restarts"], kv.snapshot()["unrouted_requests"]
    assert after == before


def test_without_events_it_says_so_and_serves() -> None:
    with Server("--workers", "2", *KV, "--no-enable-prefix-caching") as server:
        answers = talk(server, 1, turns=1)
        assert {one.worker for one in answers} == {0, 1}
        assert all(one.cached_tokens == one.predicted_blocks == 0 for one in answers)
        wait_until(lambda: server.snapshot()["router"]["silent_workers"], 5, "a warning")
        wait_until(lambda: "alarm (no events)" in server.log, 5, "a line of the log")
        status, health = server.get("/health")
        assert status == 200
        assert "--no-enable-prefix-caching" in health["warnings"][0]


def test_the_router_dies_under_load_and_no_request_fails(kv: Server) -> None:
    over = threading.Event()

    def talk_on(seed: int) -> int:
        count = 0
        while not over.is_set():
            count += len(talk(kv, seed, 1))  # each of them with status 200
        return count

    def placed() -> int:
        return sum(kv.snapshot()["unrouted_requests"].values())

    with ThreadPoolExecutor(4) as pool:
        talks = [pool.submit(talk_on, seed) for seed in range(4)]
        try:
            # A router that is back at once may have missed no request.
            for number in range(MOST_KILLS):
                kill(kv, "router")
                if number and placed():
                    break
        finally:
            over.set()
        assert all(one.result() >= CONVERSATIONS for one in talks)
    wait_until(placed, 5, "it is told who was placed without the router")
