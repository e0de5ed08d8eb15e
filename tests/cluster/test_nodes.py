"""Workers on the nodes of a Ray cluster: answers, routing, and what a kill of each part leaves.

All tests share the nodes, and all but the first one a server with simulated engines; each leaves
it as it was.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.nodes import Nodes
from tests.support.server import SMALL, Server, alive, children_of, wait_until

WORKERS = 4
KEY = "key-of-the-operator"
BACK_S = 90.0
IMPORTED_S = 420.0
"""Both nodes import vLLM at the same time, with the cores of one machine."""


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    with Nodes("node-a", "node-b") as nodes:
        yield nodes


@pytest.fixture(scope="module")
def server(nodes: Nodes) -> Iterator[Server]:
    with serving(nodes) as server:
        yield server
        check_whole(server)
    wait_until(lambda: not nodes.outposts(), 5, "nothing is left on the nodes")


def serving(nodes: Nodes) -> Server:
    options = ("--engine", "mock", "--workers", str(WORKERS), "--router", "kv")
    options += ("--host-cache", "1GiB")
    admin = ("--enable-admin", "--api-key", KEY, "--ui", "plain")
    where = ("--ray", nodes.address)
    return Server(*options, *admin, *where, environment=nodes.environment, fresh=False)


def ask(server: Server, prompt: str, **more: Any) -> tuple[int, dict[str, str], bytes]:
    body = {"model": "tiny", "prompt": prompt, "max_tokens": 16, "temperature": 0, **more}
    request = urllib.request.Request(
        f"{server.url}/v1/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"},
    )
    try:
        with urllib.request.urlopen(request, timeout=90) as answer:
            return answer.status, dict(answer.headers), answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, {}, error.read()


def text_of(answer: tuple[int, dict[str, str], bytes]) -> str:
    assert answer[0] == 200, answer
    return str(json.loads(answer[2])["choices"][0]["text"])


def workers(server: Server) -> dict[str, Any]:
    return {name: one for name, one in server.processes().items() if name.startswith("worker")}


def ready(server: Server) -> int:
    return sum(one["phase"] == "ready" for one in workers(server).values())


def check_whole(server: Server) -> None:
    wait_until(lambda: ready(server) == WORKERS, BACK_S, f"all workers are ready\n{server.log}")


def on(server: Server, node: str) -> dict[str, int]:
    """Pids of the workers of a node."""
    return {
        name: one["pid"] for name, one in workers(server).items() if one["device"].endswith(node)
    }


def shown(server: Server, before: dict[str, int]) -> set[int]:
    """Which of these pids are still in the table of processes."""
    return set(before.values()) & {one["pid"] for one in workers(server).values()}


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def outpost_of(server: Server, node: str) -> int:
    """The outpost, which is the parent of its workers."""
    return parent_of(next(iter(on(server, node).values())))


def relay_of(server: Server, node: str) -> int:
    """The node's end of its relay."""
    return next(
        pid
        for pid in children_of(outpost_of(server, node))
        if b"relay" in Path(f"/proc/{pid}/cmdline").read_bytes()
    )


@contextmanager
def under_load(server: Server, clients: int = 4) -> Iterator[Counter[int]]:
    """Streams without a pause; counts the answers by status, and 0 for a stream without an end."""
    statuses: Counter[int] = Counter()
    stopped = threading.Event()

    def run(number: int) -> None:
        turn = 0
        while not stopped.is_set():
            turn += 1
            try:
                status, _, body = ask(server, f"{number} asks {turn}", stream=True, max_tokens=64)
            except OSError:
                status, body = 0, b""
            whole = body.rstrip().endswith(b"[DONE]")
            statuses[status if whole or status != 200 else 0] += 1

    threads = [threading.Thread(target=run, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    try:
        wait_until(lambda: statuses[200] >= clients, 30, "the load runs")
        yield statuses
        answered = statuses[200]
        wait_until(lambda: statuses[200] > answered, 60, "answers still come")
    finally:
        stopped.set()
        for thread in threads:
            thread.join()
    assert set(statuses) == {200}, statuses


@pytest.mark.engine
@pytest.mark.timeout(600)
def test_real_engines_of_two_nodes_answer_alike(nodes: Nodes) -> None:
    """Each is forked from the zygote of its node."""
    options = ("--workers", "2", "--router", "kv", "--ray", nodes.address, *SMALL)
    environment = nodes.environment
    with Server(*options, environment=environment, fresh=False, ready_s=IMPORTED_S) as server:
        assert len(on(server, "node-a")) == len(on(server, "node-b")) == 1
        prompt = "The same words again and again. " * 40
        first = text_of(ask(server, prompt))
        others = [text_of(ask(server, f"Other words, number {turn}. " * 40)) for turn in range(3)]
        assert text_of(ask(server, prompt)) == first
        assert all(others)

        def found_as_predicted() -> bool:
            """The engine's blocks are known to the router a while after its answer."""
            assert text_of(ask(server, prompt)) == first
            (newest,) = server.get("/dynamo/decisions?limit=1")[1]["decisions"]
            return bool(newest["predicted_tokens"] == newest["measured_tokens"] > 0)

        wait_until(found_as_predicted, 20, "what was predicted was found")
    wait_until(lambda: not nodes.outposts(), 5, "nothing is left on the nodes")


def test_workers_of_both_nodes_answer_as_one_host_does(server: Server) -> None:
    assert len(on(server, "node-a")) == len(on(server, "node-b")) == WORKERS // 2
    with Server("--engine", "mock") as single:
        for prompt in ("one", "two words", "and three of them"):
            assert text_of(ask(server, prompt)) == text_of(ask(single, prompt))


def test_the_router_knows_what_each_node_holds(server: Server) -> None:
    prompts = [f"prompt number {number} " * 40 for number in range(6)]
    for prompt in (*prompts, *prompts):
        assert ask(server, prompt)[0] == 200
    decisions: list[dict[str, Any]] = []

    def all_reported() -> bool:
        decisions[:] = server.get("/dynamo/decisions?limit=6", key=KEY)[1]["decisions"]
        return all(one["measured_tokens"] for one in decisions)

    wait_until(all_reported, 20, "the last decisions are known, with what the engines found")
    assert {one["reason"] for one in decisions} == {"cost"}
    assert all(one["predicted_tokens"] == one["measured_tokens"] > 0 for one in decisions)
    assert len({one["worker"] % 2 for one in decisions}) == 2


def caches(server: Server) -> dict[str, dict[str, Any]]:
    found = server.get("/dynamo/snapshot", key=KEY)[1]["host_cache"]["caches"]
    return {one["process"]: one for one in found}


def test_each_node_has_a_host_cache_that_comes_back_if_it_is_killed(server: Server) -> None:
    table = server.processes()
    names = ("host cache 1", "host cache 2")
    assert [table[name]["device"] for name in names] == ["@ node-a", "@ node-b"]
    for number in range(8):
        assert ask(server, f"text number {number} " * 40)[0] == 200
    wait_until(lambda: all(caches(server)[name]["used"] for name in names), 20, "both hold blocks")
    pid = table["host cache 2"]["pid"]
    with under_load(server):
        os.kill(pid, signal.SIGKILL)

        def back() -> bool:
            one = server.processes()["host cache 2"]
            return bool(one["pid"] != pid and one["phase"] == "ready")

        wait_until(back, BACK_S, f"it is back\n{server.log}")
    assert caches(server)["host cache 1"]["used"]
    check_whole(server)


def test_a_killed_worker_comes_back_on_its_node(server: Server) -> None:
    name, pid = next(iter(on(server, "node-b").items()))
    with under_load(server):
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: on(server, "node-b").get(name) not in (pid, 0), BACK_S, "it is back")
        check_whole(server)


def reconnects(server: Server) -> int:
    """How often relays of all nodes have connected again."""
    nodes = server.get("/dynamo/snapshot", key=KEY)[1]["nodes"]
    return sum(int(node["reconnects"]) for node in nodes)


@pytest.mark.parametrize("end", ["head", "node"])
def test_a_killed_relay_moves_requests_and_leaves_the_engines(server: Server, end: str) -> None:
    before = on(server, "node-b")
    relays = {"head": server.pid_of("relay 1"), "node": relay_of(server, "node-b")}
    earlier = reconnects(server)
    with under_load(server):
        os.kill(relays[end], signal.SIGKILL)
        # The node may be back before anybody sees that it was lost.
        wait_until(lambda: reconnects(server) > earlier, 30, "the node is lost, and joined again")
        check_whole(server)
    assert on(server, "node-b") == before, server.log

    def seen() -> bool:
        nodes = {one["name"]: one for one in server.get("/dynamo/snapshot", key=KEY)[1]["nodes"]}
        node = nodes["node-b"]
        return bool(
            node["up"]
            and node["reconnects"]
            and node["received_bytes"] > node["received_frames"] > 0
            and 0 < node["beat_s"] < 60
        )

    wait_until(seen, 10, "the snapshot counts it")
    _, page = server.get("/metrics", key=KEY)
    assert 'dynamo_llm_relay_reconnects_total{node="node-b"}' in page
    assert 'dynamo_llm_requests_moved_total{reason="node_lost"} 0.0' not in page


@pytest.mark.parametrize("which", ["outpost", "actor"])
def test_a_killed_outpost_is_started_again(server: Server, which: str) -> None:
    before = on(server, "node-b")
    outpost = outpost_of(server, "node-b")
    with under_load(server):
        os.kill(outpost if which == "outpost" else parent_of(outpost), signal.SIGKILL)
        wait_until(lambda: not any(map(alive, before.values())), 5, "its engines end with it")
        wait_until(lambda: not shown(server, before), 30, f"the head knows it\n{server.log}")
        check_whole(server)


def plan(server: Server, count: int) -> None:
    """Ask for this number of workers."""
    request = urllib.request.Request(
        f"{server.url}/dynamo/workers",
        json.dumps({"count": count}).encode(),
        {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert answer.status == 202


def wait_for(server: Server, count: int) -> None:
    """Until there are so many workers, and all are ready."""
    wait_until(lambda: ready(server) == len(workers(server)) == count, BACK_S, f"{count} workers")


def scale(server: Server, count: int) -> None:
    plan(server, count)
    wait_for(server, count)


def test_a_stopped_outpost_is_lost_and_joins_again(server: Server) -> None:
    before = on(server, "node-b")
    outpost = outpost_of(server, "node-b")
    with under_load(server):
        os.kill(outpost, signal.SIGSTOP)
        try:
            wait_until(lambda: ready(server) == WORKERS // 2, 10, "the node is lost")
        finally:
            os.kill(outpost, signal.SIGCONT)
        check_whole(server)
    assert on(server, "node-b") == before, server.log


def test_a_stopped_relay_of_a_node_is_started_again_and_leaves_the_engines(server: Server) -> None:
    before = on(server, "node-b")
    with under_load(server):
        relay = relay_of(server, "node-b")
        os.kill(relay, signal.SIGSTOP)
        wait_until(lambda: not alive(relay), 20, "its outpost ends it")
        check_whole(server)
    assert on(server, "node-b") == before, server.log


def test_a_head_that_stands_still_for_a_while_keeps_the_engines(server: Server) -> None:
    """Its relays go on, so the nodes know that its machine is there."""
    before = on(server, "node-a") | on(server, "node-b")
    with under_load(server):
        os.kill(server.process.pid, signal.SIGSTOP)
        time.sleep(8)
        os.kill(server.process.pid, signal.SIGCONT)
        check_whole(server)
    assert on(server, "node-a") | on(server, "node-b") == before, server.log


def test_a_worker_that_retires_while_its_node_is_lost_ends_and_the_next_one_serves(
    server: Server,
) -> None:
    last = WORKERS - 1
    pid, outpost = on(server, "node-b")[f"worker {last}"], outpost_of(server, "node-b")
    with under_load(server):
        os.kill(outpost, signal.SIGSTOP)
        try:
            wait_until(lambda: ready(server) == WORKERS // 2, 10, "the node is lost")
            plan(server, last)
            os.kill(pid, signal.SIGKILL)  # so its links are not made again before it ends
        finally:
            os.kill(outpost, signal.SIGCONT)
        wait_for(server, last)

        def chosen() -> int:
            """How often the router has chosen the worker of this number."""
            router = server.get("/dynamo/snapshot", key=KEY)[1]["router"]
            return int(router["decisions"].get(str(last), 0))

        before = chosen()
        scale(server, WORKERS)
        wait_until(lambda: chosen() > before, 20, "the next one gets requests")


def test_a_killed_process_that_speaks_with_ray_takes_all_outposts_along(server: Server) -> None:
    before = on(server, "node-a") | on(server, "node-b")
    os.kill(server.pid_of("cluster"), signal.SIGKILL)
    wait_until(lambda: not any(map(alive, before.values())), 10, "all engines end with it")
    wait_until(lambda: not shown(server, before), 20, f"the head knows it\n{server.log}")
    check_whole(server)
    assert ask(server, "and now?")[0] == 200


def test_workers_are_added_on_the_nodes(server: Server) -> None:
    with under_load(server):
        scale(server, WORKERS + 2)
        assert len(on(server, "node-a")) == len(on(server, "node-b")) == WORKERS // 2 + 1
        scale(server, WORKERS)


def test_a_node_that_joins_later_is_offered_and_gets_the_next_worker(
    server: Server, nodes: Nodes
) -> None:
    def offered() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = server.get("/dynamo/workers", key=KEY)[1]["offered_nodes"]
        return found

    assert offered() == []
    nodes.add("node-later")
    wait_until(lambda: offered() == [{"node": "node-later", "gpus": 0}], 30, "it is offered")
    wait_until(lambda: "POST /dynamo/workers can put workers there" in server.log, 5, "the log")
    with under_load(server):
        scale(server, WORKERS + 1)
        assert len(on(server, "node-later")) == 1
        assert offered() == []
    scale(server, WORKERS)


def test_a_killed_raylet_takes_its_outpost_along_and_another_node_takes_its_place(
    server: Server, nodes: Nodes
) -> None:
    before = on(server, "node-b")
    with under_load(server):
        nodes.kill("node-b")
        wait_until(lambda: not any(map(alive, before.values())), 5, "its engines end with it")
        wait_until(lambda: ready(server) == WORKERS // 2, 20, "the head knows it")
        nodes.add("node-c")
        check_whole(server)


@pytest.mark.parametrize(("how", "limit_s"), [("killed", 5), ("silent", 7)])
def test_a_head_that_is_gone_leaves_nothing_on_the_nodes(
    nodes: Nodes, server: Server, how: str, limit_s: float
) -> None:
    """Nobody tells the nodes that the machine of a silent head has lost its power."""
    with serving(nodes) as second:
        own = {one["pid"] for one in workers(second).values()}
        assert len(own) == WORKERS, second.log
        if how == "silent":
            for pid in (second.process.pid, *children_of(second.process.pid)):
                os.kill(pid, signal.SIGSTOP)
        else:
            second.process.kill()
            second.process.wait()
        wait_until(lambda: not any(map(alive, own)), limit_s, "the engines end with the head")
        second.process.kill()
        second.process.wait()
    check_whole(server)
