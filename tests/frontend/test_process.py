"""The frontend process: start, probe, drain, stop, and what it tells of the tree."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from dynamo_cli.config import FrontendConfig
from dynamo_cli.frontend import process
from dynamo_cli.frontend.process import Frontend
from dynamo_cli.ipc.codec import encode
from dynamo_cli.ipc.control import Control
from dynamo_cli.messages.lifecycle import (
    Drain,
    Drained,
    Fatal,
    Phase,
    PhaseChange,
    Probe,
    ProbeResult,
    ProcessState,
    ProcessTable,
    StillRunning,
    Stop,
)
from dynamo_cli.messages.prefill import PrefillQueueStats
from dynamo_cli.messages.request import Abort, EngineReady, Head, Submit, SubmitProbe
from dynamo_cli.messages.routing import RouterStats
from dynamo_cli.messages.telemetry import WorkerStats
from dynamo_cli.topology import FRONTEND, QUEUE, ROUTER, ProcessId, Role
from dynamo_cli.units import KIB
from dynamo_cli.watch.judge import Judge
from dynamo_cli.watch.schema import Snapshot

from .stage import PROCESSOR, SSE, WORKER, Stage, answer, chunks, finish, patiently, table


def test_a_port_that_is_taken_ends_it_with_what_to_do() -> None:
    async def scenario() -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            async with Stage(FrontendConfig(port=port)) as stage:
                stage.expected_exit_code = 1
                assert (await stage.report(PhaseChange)).phase is Phase.STARTING
                failure = await stage.report(Fatal)
                assert failure.error == "PortInUse"
                assert f"127.0.0.1:{port}: address already in use" in failure.message
                assert "--http-port" in failure.message

    asyncio.run(scenario())


def test_a_host_that_does_not_exist_ends_it_too() -> None:
    async def scenario() -> None:
        async with Stage(FrontendConfig(host="host.invalid", port=1)) as stage:
            stage.expected_exit_code = 1
            await stage.report(PhaseChange)
            assert (await stage.report(Fatal)).error == "PortInUse"

    asyncio.run(scenario())


def test_stop_ends_it_at_once_whatever_runs() -> None:
    async def scenario() -> None:
        async with Stage() as stage:
            _, _client = await stage.stream()
            stopped = time.monotonic()
        assert time.monotonic() - stopped < 2

    asyncio.run(scenario())


def test_a_probe_waits_for_a_processor_and_reports() -> None:
    async def scenario() -> None:
        config = FrontendConfig(port=0, first_answer_timeout_s=4.0)
        async with Stage(config, serving=False) as stage:
            stage.tell(Probe(3))
            with pytest.raises(TimeoutError):  # however long the wait for a processor takes
                await asyncio.wait_for(stage.report(ProbeResult), 4.5)
            processor = await stage.neighbour(PROCESSOR)
            stage.tell(table(serving=False))
            probe = await processor.take(SubmitProbe)
            assert (probe.worker, probe.api_id) == (3, "probe-3")
            processor.send(answer(probe))
            assert await stage.report(ProbeResult) == ProbeResult(3, "")

            stage.tell(Probe(3))
            processor.send(answer(await processor.take(SubmitProbe), b"no tokens", 500))
            assert await stage.report(ProbeResult) == ProbeResult(3, "status 500: no tokens")
            assert "dynamo_llm_requests_total{" not in (await stage.get("/metrics"))[2]

    asyncio.run(scenario())


def test_a_probe_whose_processor_dies_is_sent_again_and_one_without_answer_fails() -> None:
    async def scenario() -> None:
        async with Stage(FrontendConfig(port=0, first_answer_timeout_s=4.0)) as stage:
            stage.tell(Probe(0))
            await stage.processor.take(SubmitProbe)
            stage.processor.die()
            reborn = await stage.neighbour(PROCESSOR)
            stage.tell(table(serving=False))
            await reborn.take(SubmitProbe)
            assert await stage.report(ProbeResult) == ProbeResult(0, "no answer within 4 s")

    asyncio.run(scenario())


async def nobody_listens(stage: Stage) -> None:
    """Wait until the frontend refuses connections."""
    while True:
        try:
            (await stage.raw(b""))[1].close()
        except (ConnectionRefusedError, ConnectionResetError):
            return
        await asyncio.sleep(0.01)


def test_drain_finishes_what_runs_and_turns_newcomers_away() -> None:
    async def scenario() -> None:
        async with Stage() as stage:
            submit, client = await stage.stream()
            kept, writer = await stage.raw(b"GET /version HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await patiently(kept.readuntil(b"}"))
            stage.tell(Drain(10.0))
            await nobody_listens(stage)
            writer.write(
                b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}"
            )
            head, _, body = (await patiently(kept.read())).partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 503 ")
            assert b"\r\nconnection: close" in head.lower()
            assert json.loads(body)["error"]["code"] == "draining"

            stage.processor.send(chunks(submit, b"the end"))
            assert await client.chunk() == b"the end"
            report = await stage.report(StillRunning)
            assert report.in_flight == 1
            assert 9.0 < report.left_s <= 10.0
            assert not stage.has_reported(Drained)
            stage.processor.send(finish(submit))
            assert await client.chunk() == b""
            assert await stage.report(Drained) == Drained(0)

    asyncio.run(scenario())


def test_drain_ends_what_is_left_when_time_is_over() -> None:
    async def scenario() -> None:
        async with Stage() as stage:
            waiting = asyncio.create_task(stage.post())
            held = await stage.processor.take(Submit)
            submit, client = await stage.stream()
            stage.tell(Drain(0.2))
            aborts = {(await stage.processor.take(Abort)) for _ in range(2)}
            assert aborts == {Abort(s.request_id, "shutdown") for s in (held, submit)}
            assert b'"draining"' in await client.chunk()
            assert await client.chunk() == b""
            status, _, content = await waiting
            assert (status, content["error"]["code"]) == (503, "draining")
            assert await stage.report(Drained) == Drained(2)

    asyncio.run(scenario())


def test_a_drain_can_be_cut_short() -> None:
    async def scenario() -> None:
        async with Stage() as stage:
            submit, client = await stage.stream()
            stage.tell(Drain(600.0))
            await nobody_listens(stage)
            stage.tell(Drain(0.0))  # nobody is left to answer it
            assert await stage.processor.take(Abort) == Abort(submit.request_id, "shutdown")
            assert b'"draining"' in await client.chunk()
            assert await client.chunk() == b""
            await stage.report(Drained)

    asyncio.run(scenario())


def test_drain_waits_until_the_last_bytes_are_out() -> None:
    size = 32_000_000  # far more than the kernel keeps for a connection

    async def scenario() -> None:
        async with Stage(FrontendConfig(port=0, max_pending_bytes=2 * size)) as stage:
            reader, _writer = await stage.raw(
                b"POST /v1/completions HTTP/1.0\r\nContent-Length: 2\r\n\r\n{}"
            )
            submit = await stage.processor.take(Submit)
            stage.processor.send(Head(submit.request_id, 200, SSE))
            stage.processor.send(chunks(submit, b"x" * size))
            stage.processor.send(finish(submit))
            stage.tell(Drain(5.0))
            await nobody_listens(stage)
            begin = await patiently(reader.readexactly(size // 10))
            assert not stage.has_reported(Drained), "it has drained with bytes left to send"
            assert len(begin + await patiently(reader.read())) > size
            assert await stage.report(Drained) == Drained(0)

    asyncio.run(scenario())


def stats_of(life: int) -> WorkerStats:
    """What worker 0 reports in its first or second life."""
    return WorkerStats(
        worker=0,
        num_running_reqs=3,
        num_waiting_reqs=2,
        kv_cache_usage=0.25,
        prefix_cache_queries_tokens=100 * life,
        prefix_cache_hits_tokens=60 * life,
        prompt_tokens=100 * life,
        output_tokens=50,
        preemptions=1,
        steps=9,
        refused_sends=4,
    )


@contextlib.asynccontextmanager
async def seen_tree() -> AsyncIterator[tuple[Stage, Any]]:
    """A frontend that has heard of two lives of a worker, and of a router; with its snapshot."""
    async with Stage(FrontendConfig(port=0, served_names=("a model", "alias"))) as stage:
        worker = await stage.neighbour(WORKER)
        worker.send(EngineReady(0, ["generate"], 4096, 16, 512, 8))
        worker.send(stats_of(1))
        worker.die()
        reborn = await stage.neighbour(WORKER)
        reborn.send(stats_of(2))
        router = await stage.neighbour(ROUTER)
        router.send(RouterStats("least-loaded", {0: 5}, {0: 1}, 6))
        snapshot = (await stage.get("/dynamo/snapshot"))[2]
        while not snapshot["router"] or snapshot["workers"][0]["steps"] < 18:
            snapshot = (await stage.get("/dynamo/snapshot"))[2]
        yield stage, snapshot


def test_the_snapshot_shows_the_tree() -> None:
    async def scenario() -> None:
        async with seen_tree() as (stage, snapshot):
            assert snapshot["url"] == stage.url
            assert snapshot["models"] == ["a model", "alias"]
            names = [row["name"] for row in snapshot["processes"]]
            assert names == ["frontend", "processor 0", "worker 0"]
            view = snapshot["workers"][0]
            found = (view["num_blocks"], view["prefix_cache_hits_tokens"], view["hit_ratio"])
            assert found == (512, 180, 0.6)
            assert snapshot["router"]["decisions"] == {"0": 5}

    asyncio.run(scenario())


LABELS = '{engine="0",model_name="a model"}'
SHOWN = (
    f"vllm:num_requests_running{LABELS} 3.0",
    f"vllm:num_requests_waiting{LABELS} 2.0",
    f"vllm:kv_cache_usage_perc{LABELS} 0.25",
    f"vllm:prefix_cache_queries_total{LABELS} 300.0",
    f"vllm:prefix_cache_hits_total{LABELS} 180.0",
    f"vllm:prompt_tokens_total{LABELS} 300.0",
    f"vllm:generation_tokens_total{LABELS} 100.0",
    f"vllm:num_preemptions_total{LABELS} 2.0",
    'dynamo_llm_running_requests{worker="0"} 3.0',
    'dynamo_llm_prefix_cache_hits_tokens_total{worker="0"} 180.0',
    'dynamo_llm_refused_sends_total{process="worker 0"} 8.0',
    'dynamo_llm_refused_sends_total{process="router"} 6.0',
    'dynamo_llm_router_decisions_total{policy="least-loaded",worker="0"} 5.0',
    'dynamo_llm_process_restarts_total{process="worker 0"} 2.0',
    'dynamo_llm_link_depth_bytes{peer="worker 0"} 0.0',
    "dynamo_llm_serving 1.0",
)


def test_the_metrics_show_the_tree() -> None:
    async def scenario() -> None:
        async with seen_tree() as (stage, _):
            page = (await stage.get("/metrics"))[2].splitlines()
            assert [line for line in SHOWN if line not in page] == []

    asyncio.run(scenario())


def test_a_table_of_a_thousand_workers_that_all_restart_is_shown() -> None:
    why = "SIGKILL: killed from outside, or by the kernel because memory ran out (see dmesg)"

    def worker(index: int) -> ProcessState:
        name = f"worker {index}"
        times = (time.monotonic_ns(), time.monotonic_ns(), 1)
        return ProcessState(name, Role.WORKER, index, Phase.BACKOFF, why, 12345, *times, "cpu")

    async def scenario() -> None:
        async with Stage() as stage:
            large = ProcessTable([worker(index) for index in range(1024)], False, why, 1024)
            assert len(encode(large)) > 128 * KIB
            stage.tell(large)
            while (await stage.get("/health"))[0] == 200:
                await asyncio.sleep(0.005)
            rows = (await stage.get("/dynamo/snapshot"))[2]["processes"]
            assert [row["name"] for row in rows] == [f"worker {index}" for index in range(1024)]
            assert {row["reason"] for row in rows} == {why}

    asyncio.run(asyncio.wait_for(scenario(), 60))


def test_what_a_process_reported_is_forgotten_when_it_is_gone() -> None:
    async def scenario() -> None:
        async with Stage() as stage:
            router, queue = await stage.neighbour(ROUTER), await stage.neighbour(QUEUE)
            router.send(RouterStats("kv", {0: 5}, {0: 1}, 0, index_entries=7))
            queue.send(PrefillQueueStats(2, 200, 1, 100, 0.5, False, 3, {}, {}, {}, [], 0))
            snapshot = (await stage.get("/dynamo/snapshot"))[2]
            while not (snapshot["router"] and snapshot["prefill"]):
                snapshot = (await stage.get("/dynamo/snapshot"))[2]
            router.die()
            queue.die()
            while snapshot["router"]["index_entries"] or snapshot["prefill"]["depth_jobs"]:
                snapshot = (await stage.get("/dynamo/snapshot"))[2]
            assert snapshot["router"]["decisions"] == {"0": 5}, "totals are kept"
            assert set(snapshot["links"]) == {"processor 0"}

    asyncio.run(scenario())


def test_a_processor_gets_requests_only_once_it_is_ready() -> None:
    def both(phase: Phase) -> ProcessTable:
        whole = table(serving=True)
        added = msgspec.structs.replace(whole.processes[1], name="processor 1", index=1)
        added = msgspec.structs.replace(added, phase=phase)
        return msgspec.structs.replace(whole, processes=[*whole.processes, added])

    async def phase_is(stage: Stage, phase: Phase) -> None:
        while phase not in [
            process["phase"]
            for process in (await stage.get("/health"))[2]["processes"]
            if process["name"] == "processor 1"
        ]:
            await asyncio.sleep(0.005)

    async def scenario() -> None:
        async with Stage() as stage:
            second = await stage.neighbour(ProcessId(Role.PROCESSOR, 1))
            stage.tell(both(Phase.LOADING))
            await phase_is(stage, Phase.LOADING)
            asked = [asyncio.create_task(stage.post()) for _ in range(2)]
            for _ in asked:
                stage.processor.send(answer(await stage.processor.take(Submit)))
            assert [status for status, _, _ in await asyncio.gather(*asked)] == [200, 200]
            assert second.inbox.empty()
            stage.tell(both(Phase.READY))
            await phase_is(stage, Phase.READY)
            asked = [asyncio.create_task(stage.post()) for _ in range(2)]
            both_busy = [(one, await one.take(Submit)) for one in (stage.processor, second)]
            for processor, submit in both_busy:
                processor.send(answer(submit))
            assert [status for status, _, _ in await asyncio.gather(*asked)] == [200, 200]

    asyncio.run(scenario())


def test_it_looks_for_alarms_although_nobody_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = 0

    def judged(judge: Judge, snapshot: Snapshot) -> Snapshot:
        nonlocal looks
        looks += 1
        return snapshot

    monkeypatch.setattr(Judge, "judged", judged)
    monkeypatch.setattr(process, "LOOK_S", 0.01)

    async def scenario() -> None:
        here, there = Control.pair()
        frontend = Frontend(FRONTEND, FrontendConfig(port=0), there)
        running = asyncio.create_task(frontend.run(()))
        while looks < 3 and not running.done():
            await asyncio.sleep(0.005)
        frontend.on_control(Stop())
        await running
        here.close()

    asyncio.run(asyncio.wait_for(scenario(), 20))


@pytest.mark.parametrize("draining", [False, True])
def test_a_frontend_that_drains_accepts_nobody_from_inherited_sockets(draining: bool) -> None:
    """They are closed by then, and to accept from one would be a failure."""
    begun: list[str] = []

    class Listener:
        async def start_serving(self) -> None:
            begun.append("serving")

    async def scenario() -> None:
        serving = asyncio.Event()
        serving.set()
        tree = SimpleNamespace(draining=draining)
        one: Any = SimpleNamespace(_serving=serving, _tree=tree, _listeners=[Listener()])
        await Frontend._accept(one)

    asyncio.run(scenario())
    assert begun == ([] if draining else ["serving"])
