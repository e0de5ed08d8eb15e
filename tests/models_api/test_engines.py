"""Sleep, wake up and reset of the prefix cache."""

from __future__ import annotations

import threading

import pytest

from tests.models_api.conftest import Answer, Client
from tests.support.server import wait_until

pytestmark = pytest.mark.engine

PROMPT = " ".join(f"reset{number}" for number in range(60))
LONG = 3900
"""Tokens of an answer that must not end before the engine is told to sleep, however busy this
machine is."""


def running(client: Client) -> int:
    return sum(
        worker["num_running_reqs"] for worker in client.get("/dynamo/snapshot").body["workers"]
    )


def test_a_sleeping_engine_says_so_and_wakes_up(client: Client) -> None:
    assert client.get("/is_sleeping").body == {"is_sleeping": False, "engines": {"worker 0": False}}
    assert client.post("/sleep?level=0").body == {"status": "sleeping", "level": 0}
    health = client.get("/health")
    assert (health.status, health.body["reason"][:6]) == (503, "asleep")
    assert client.get("/is_sleeping").body["is_sleeping"]
    refused = client.complete("tiny", "hello")
    assert refused.status == 503
    assert refused.body["error"]["code"] == "asleep"
    assert "POST /wake_up" in refused.body["error"]["message"]
    assert client.get("/dynamo/snapshot").body["recent_errors"]["refused_kinds"] == {"asleep": 1}
    assert client.post("/wake_up").body == {"status": "awake", "tags": None}
    assert client.get("/health").status == 200
    assert client.complete("tiny", "hello").status == 200


@pytest.mark.parametrize(("mode", "status"), [("abort", 503), ("wait", 200)])
def test_what_runs_is_aborted_or_waited_for(client: Client, mode: str, status: int) -> None:
    answers: list[Answer] = []
    thread = threading.Thread(target=lambda: answers.append(client.complete("tiny", "x", LONG)))
    thread.start()
    wait_until(lambda: running(client) == 1, 10, "it runs")
    assert client.post(f"/sleep?level=0&mode={mode}").status == 200
    thread.join()
    assert answers[0].status == status, answers[0].body
    assert client.post("/wake_up").status == 200
    assert client.complete("tiny", "hello").status == 200


def test_deeper_sleep_needs_a_gpu(client: Client) -> None:
    answer = client.post("/sleep")
    assert answer.status == 409
    assert "--enable-sleep-mode" in answer.body["error"]["message"]
    assert not client.get("/is_sleeping").body["is_sleeping"]
    assert client.complete("tiny", "hello").status == 200


@pytest.mark.parametrize("query", ["level=3", "level=x", "mode=keep"])
def test_other_ways_to_sleep_are_refused(client: Client, query: str) -> None:
    assert client.post(f"/sleep?{query}").status == 400


def test_the_prefix_cache_is_reset_and_the_router_knows(client: Client) -> None:
    client.complete("tiny", PROMPT)
    assert client.complete("tiny", PROMPT).cached_tokens > 0
    assert client.post("/reset_prefix_cache").body["success"]

    def indexed() -> int:
        workers = client.get("/dynamo/snapshot").body["router"]["workers"]
        return sum(worker["index_blocks"] for worker in workers)

    # The worker tells the router by a message of its own.
    wait_until(lambda: not indexed(), 5, "the router knows it")
    after = client.complete("tiny", PROMPT)
    assert after.cached_tokens == 0
    assert after.headers["X-Dynamo-Overlap-Blocks"] == "0"
    assert client.post("/reset_prefix_cache?reset_running_requests=maybe").status == 400
