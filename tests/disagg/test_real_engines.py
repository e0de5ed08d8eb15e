"""Disaggregated serving with real engines gives the same answers, whatever processes die."""

from __future__ import annotations

import http.client
import json
import os
import random
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.disagg.mix import answers, differences, requests
from tests.kv_routing.talk import text
from tests.support.adapter import RANK, write
from tests.support.requests import complete, post
from tests.support.server import SMALL, Server, wait_until

pytestmark = pytest.mark.engine

PLAIN = ("--dtype", "float32", "--block-size", "32", "--max-model-len", "2048", *SMALL[2:])
COMMON = (*PLAIN, *SMALL[:2])
AT_ONCE = 6
REMOTE_STAGES = ("pushed", "leased", "prefilled")
MODELS = ("tiny", "adapter")
ASKED = list(requests(90, "tiny"))


@pytest.fixture(scope="module")
def aggregated() -> list[Any]:
    """The answers of a single engine without disaggregation."""
    with Server(*COMMON) as server:
        return answers(server, ASKED, AT_ONCE)


def prefill(server: Server) -> Any:
    return server.snapshot()["prefill"]


def nothing_is_left(server: Server) -> bool:
    """Whether there are no jobs, no requests away, no leases, no pinned blocks and no load."""
    snapshot = server.snapshot()
    view, cache = snapshot["prefill"], snapshot["host_cache"]
    busy = [one["num_running_reqs"] + one["num_waiting_reqs"] for one in snapshot["workers"]]
    kept = [view["kept"], cache["pinned"] if cache is not None else 0]
    return not any((view["depth_jobs"], view["in_flight_jobs"], view["away"], *kept, *busy))


@pytest.mark.parametrize(
    "shape",
    [
        ("--workers", "1", "--prefill-workers", "2"),
        ("--workers", "2", "--prefill-workers", "1", "--router", "kv"),
    ],
    ids=["2P1D", "1P2D"],
)
def test_the_answers_are_those_of_one_engine(shape: tuple[str, ...], aggregated: list[Any]) -> None:
    with Server(*shape, *COMMON) as server:
        got = answers(server, ASKED, AT_ONCE)
        assert not differences(aggregated, got, ASKED)
        wait_until(lambda: nothing_is_left(server), 5, "everything is released")
        remote = prefill(server)["placements"]["remote:always"]
        assert remote > 60
        assert prefill(server)["fallbacks"] == prefill(server)["failures"] == {}
        assert prefill(server)["copies"]["load"] > 60, "blocks"
        if "kv" in shape:
            shown = server.get("/dynamo/decisions?limit=50")[1]["decisions"]
            assert {one["prefill_worker"] for one in shown} == {None, 0}


def test_the_answers_are_the_same_over_nixl(aggregated: list[Any]) -> None:
    pytest.importorskip("nixl", reason="--kv-transfer nixl needs the package nixl")
    with Server("--prefill-workers", "1", "--kv-transfer", "nixl", *COMMON) as server:
        complete(server)
        server.take_census()  # NIXL connects at the first transfer, and stays connected
        some = ASKED[:60]  # of every kind too, and NIXL takes three times as long
        got = answers(server, some, AT_ONCE)
        assert not differences(aggregated[:60], got, some)
        wait_until(lambda: nothing_is_left(server), 10, "everything is released")
        assert prefill(server)["placements"]["remote:always"] > 20
        assert prefill(server)["fallbacks"] == {}


def nobody_gets_at_the_transfers(server: Server) -> None:
    """A regression: such a request ended a worker, and six of them the whole server."""
    processes = ("worker 0", "prefill worker 0", "processor 0")
    before = [server.pid_of(name) for name in processes]
    body = {"model": "tiny", "prompt": "hello", "max_tokens": 4}
    pull = {"do_remote_prefill": True, "transfer_id": "a", "slots": [0]}
    for one in (pull, {"do_remote_prefill": True}, {"do_remote_decode": True}):
        status, content = post(server, "/v1/completions", body | {"kv_transfer_params": one})
        assert (status, content["error"]["param"]) == (400, "kv_transfer_params")
    for name in ("kv_transfer_params", "ec_transfer_params", "kv_cache_report_mode"):
        status, content = post(server, "/v1/completions", body | {"vllm_xargs": {name: "full"}})
        assert (status, content["error"]["param"]) == (400, f"vllm_xargs.{name}")
    assert post(server, "/v1/completions", body)[0] == 200
    assert [server.pid_of(name) for name in processes] == before


def test_short_prompts_stay_at_home_when_told(aggregated: list[Any]) -> None:
    shape = ("--prefill-workers", "1", "--max-local-prefill-length", "60")
    with Server(*shape, *COMMON) as server:
        got = answers(server, ASKED[:60], 1)
        assert not differences(aggregated[:60], got, ASKED[:60])
        told = server.get("/dynamo/timeline?limit=60")[1]["timelines"]
        elsewhere = [one["stages_ms"] for one in told if one["prefill_worker"] == 0]
        assert len(elsewhere) > 5
        for stages in elsewhere:
            way = [name for name in stages if name in ("sent", *REMOTE_STAGES, "queued")]
            assert way == ["sent", *REMOTE_STAGES, "queued"]
        assert not [
            one for one in told if one["prefill_worker"] is None and "pushed" in one["stages_ms"]
        ]
        placements = prefill(server)["placements"]
        assert placements["local:short"] > 10
        assert placements["remote:long"] > 5
        assert set(placements) <= {
            *("local:short", "remote:long", "local:queue_full"),
            *("local:unsuitable", "local:sibling", "local:host_cache"),
        }
        nobody_gets_at_the_transfers(server)


@pytest.fixture(scope="module")
def frail() -> Iterator[Server]:
    """A server for tests that kill its processes."""
    with Server("--prefill-workers", "2", *COMMON) as server:
        yield server


@pytest.mark.parametrize("victim", ["prefill worker 0", "prefill queue", "host cache"])
def test_who_dies_takes_no_request_along(victim: str, frail: Server, aggregated: list[Any]) -> None:
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(answers, frail, ASKED, AT_ONCE)
        wait_until(lambda: prefill(frail)["away"], 10, "requests are on their way")
        before = frail.pid_of(victim)
        os.kill(before, signal.SIGKILL)
        got = running.result()
    assert not differences(aggregated, got, ASKED)
    wait_until(lambda: frail.pid_of(victim) not in (0, before), 30, f"{victim} starts again")
    frail.wait_ready()
    wait_until(lambda: nothing_is_left(frail), 10, "everything is released")
    remote = prefill(frail)["placements"]["remote:always"]
    assert not differences(aggregated[:20], answers(frail, ASKED[:20], 1), ASKED[:20])
    assert prefill(frail)["placements"]["remote:always"] > remote


def test_a_client_that_leaves_leaves_nothing_behind(frail: Server) -> None:
    dice = random.Random(4)
    for number in range(20):
        body = {"model": "tiny", "prompt": text(dice, 300), "max_tokens": 500, "ignore_eos": True}
        connection = http.client.HTTPConnection("127.0.0.1", frail.port, timeout=10)
        headers = {"Content-Type": "application/json"}
        connection.request("POST", "/v1/completions", json.dumps(body | {"stream": True}), headers)
        # Each leaves at another stage: tokenized, queued, prefilled, loaded, decoded.
        time.sleep(0.004 * number)
        connection.close()
    wait_until(lambda: nothing_is_left(frail), 10, "everything is released")


def cached(server: Server) -> Any:
    return server.snapshot()["host_cache"]


def counted(server: Server, number: int) -> None:
    """Wait until so many blocks have been written; if they are not, show what happened instead."""
    try:
        wait_until(lambda: cached(server)["written"] == number, 20, f"block {number} is counted")
    except AssertionError as error:
        seen = f"{cached(server)}\n{prefill(server)}\n{server.log}"
        raise AssertionError(f"{error}\n{seen}") from None


def all_that_fits_is_handed_over(server: Server) -> None:
    """One prompt of a block at a time: each finds a slot, since the next one is lent before the
    report that counts the last block, and blocks that nobody reads make room."""
    dice = random.Random(5)
    wait_until(lambda: cached(server)["lent"] == 2, 10, "each engine is lent a slot")
    for number in range(1, 9):
        prompt = [dice.randrange(10, 200) for _ in range(40)]
        body = {"model": "tiny", "prompt": prompt, "max_tokens": 4, "ignore_eos": True}
        assert post(server, "/v1/completions", body)[0] == 200
        counted(server, number)
        wait_until(lambda: nothing_is_left(server), 5, "everything is released")
    wait_until(lambda: prefill(server)["copies"] == {"save": 8, "load": 8}, 5, "all are counted")
    assert prefill(server)["failures"] == {}


def test_without_room_for_blocks_prompts_are_prefilled_at_home(aggregated: list[Any]) -> None:
    shape = ("--prefill-workers", "1", "--host-cache", str(4 << 15))  # four blocks
    with Server(*shape, *COMMON) as server:
        all_that_fits_is_handed_over(server)
        got = answers(server, ASKED[:60], AT_ONCE)
        assert not differences(aggregated[:60], got, ASKED[:60])
        wait_until(lambda: nothing_is_left(server), 5, "everything is released")
        assert prefill(server)["placements"]["local:no_room"] > 10


def test_a_decode_worker_that_dies_takes_no_request_along(aggregated: list[Any]) -> None:
    with Server("--workers", "2", "--prefill-workers", "1", *COMMON) as server:
        with ThreadPoolExecutor(1) as pool:
            running = pool.submit(answers, server, ASKED, AT_ONCE)
            wait_until(lambda: prefill(server)["away"], 10, "requests are on their way")
            os.kill(server.pid_of("worker 1"), signal.SIGKILL)
            got = running.result()
        assert not differences(aggregated, got, ASKED)
        server.wait_ready()
        wait_until(lambda: nothing_is_left(server), 10, "everything is released")


def test_with_lora_the_answers_are_those_of_one_engine(tmp_path: Path) -> None:
    lora = ("--enable-lora", "--max-lora-rank", str(RANK), "--lora-modules")
    shape = (*COMMON, *lora, f"adapter={write(tmp_path)}")
    asked = list(requests(40, "tiny", seed=3, adapter="adapter"))
    with Server(*shape) as server:
        expected = answers(server, asked, AT_ONCE)
        alone = {name: [one for one in asked if one[1]["model"] == name] for name in MODELS}
        for name, some in alone.items():  # adapters do not change answers of others in the batch
            got = [answer for answer, one in zip(expected, asked, strict=True) if one in some]
            assert not differences(got, answers(server, some, AT_ONCE), some), name
        of_the_prompt = {"model": "tiny", "prompt": "a", "prompt_logprobs": 1}
        status, content = post(server, "/v1/completions", of_the_prompt)
        assert (status, "--enable-lora" in content["error"]["message"]) == (400, True)
    with Server(*shape, "--prefill-workers", "1") as server:
        assert not differences(expected, answers(server, asked, AT_ONCE), asked)
        assert prefill(server)["placements"]["remote:always"] > 25
        assert prefill(server)["fallbacks"] == {}
