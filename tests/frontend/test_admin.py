"""Commands that change a running server: who may send them, what they do, how they fail."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine
from typing import Any

import msgspec
import pytest
from multidict import MultiDict

from dynamo_cli.config import FIRST_ADAPTER_NUMBER, Adapter, AdapterTable, FrontendConfig
from dynamo_cli.errors import (
    DynamoError,
    InternalError,
    InvalidRequest,
    NotFound,
    Overloaded,
    Unavailable,
)
from dynamo_cli.frontend.admin.adapters import MAX_CHARACTERS, Adapters
from dynamo_cli.frontend.admin.engines import EngineOperations
from dynamo_cli.frontend.admin.paths import LOAD_ADAPTER, UNLOAD_ADAPTER
from dynamo_cli.messages.admin import LoadAdapter, Operate, Operated, Operation, UnloadAdapter
from dynamo_cli.messages.lifecycle import AdaptersChanged, Rescale, Rescaled
from dynamo_cli.messages.request import Endpoint, Reply, Submit
from dynamo_cli.topology import HOST_CACHE, ProcessId
from tests.frontend.stage import PROCESSOR, UNMOVED, WORKER, Neighbour, Stage, answer, table
from tests.frontend.test_exchange import TWO, Scene, in_a_loop

KEY = "sesame"
HEADERS = {"Authorization": f"Bearer {KEY}"}
ADMIN = FrontendConfig(port=0, api_keys=(KEY,), admin=True)
LOAD, UNLOAD = LOAD_ADAPTER, UNLOAD_ADAPTER
CHANGES: dict[str, type[LoadAdapter | UnloadAdapter]] = {LOAD: LoadAdapter, UNLOAD: UnloadAdapter}
COMMANDS = [
    ("POST", LOAD),
    ("POST", UNLOAD),
    ("POST", "/sleep"),
    ("POST", "/wake_up"),
    ("GET", "/is_sleeping"),
    ("POST", "/reset_prefix_cache"),
    ("POST", "/dynamo/workers"),
    ("POST", "/dynamo/placement"),
]


@pytest.mark.parametrize(("method", "path"), COMMANDS)
def test_without_the_option_there_is_no_such_path(method: str, path: str) -> None:
    async def scenario() -> None:
        async with Stage(FrontendConfig(port=0, api_keys=(KEY,)), serving=False) as stage:
            status, _, body = await stage.ask(method, path, headers=HEADERS)
            assert status == 404
            assert "--enable-admin" in body["error"]["message"]

    asyncio.run(scenario())


@pytest.mark.parametrize(("method", "path"), COMMANDS)
def test_without_a_key_nobody_may(method: str, path: str) -> None:
    async def scenario() -> None:
        async with Stage(ADMIN, serving=False) as stage:
            status, _, body = await stage.ask(method, path)
            assert (status, body["error"]["code"]) == (401, "invalid_api_key")

    asyncio.run(scenario())


def test_the_number_of_workers_is_the_supervisors_to_change() -> None:
    async def scenario() -> None:
        async with Stage(ADMIN) as stage:
            shown = (await stage.get("/dynamo/workers", headers=HEADERS))[2]
            assert shown == {
                "count": 1,
                "target": 1,
                "workers": [{"name": "worker 0", "phase": "ready"}],
                "offered_nodes": [],
            }
            asked = asyncio.create_task(post(stage, "/dynamo/workers", {"count": 3}))
            assert (await stage.report(Rescale)).count == 3
            stage.tell(Rescaled(3))
            status, _, body = await asked
            assert (status, body["count"], body["target"]) == (202, 1, 3)
            body = (await post(stage, "/dynamo/workers", {"count": "9"}))[2]
            assert body["error"]["message"].endswith('not {"count":"9"}.')
            asked = asyncio.create_task(post(stage, "/dynamo/workers", {"count": 9}))
            await stage.report(Rescale)
            stage.tell(Rescaled(3, "Conflict", "there is no GPU for one more."))
            status, _, body = await asked
            assert (status, body["error"]["code"]) == (409, "conflict")
            stage.tell(msgspec.structs.replace(table(serving=True), offered={"node-b": 2}))
            shown = (await stage.get("/dynamo/workers", headers=HEADERS))[2]
            assert shown["offered_nodes"] == [{"node": "node-b", "gpus": 2}]

    asyncio.run(scenario())


async def post(stage: Stage, path: str, body: Any = None) -> tuple[int, Any, Any]:
    return await stage.post(path, data=json.dumps(body or {}).encode(), headers=HEADERS)


async def change(
    processor: Neighbour, path: str, error: type[DynamoError] | None = None
) -> Adapter:
    """A processor receives a change of an adapter and answers it, with an error if one is given."""
    asked = await processor.take(CHANGES[path])
    status, kind, body = 200, "", b"{}"
    if error is not None:
        told = error("it is broken")
        status, kind, body = told.http_status, told.kind, json.dumps(told.body()).encode()
    processor.send(Reply(asked.request_id, status, "application/json", body, error=kind))
    return asked.adapter


def test_an_adapter_reaches_the_processors_of_now_and_of_later() -> None:
    async def scenario() -> None:
        async with Stage(ADMIN) as stage:
            load = {"lora_name": "one", "lora_path": "/one"}
            asked = asyncio.create_task(post(stage, LOAD, load))
            one = Adapter("one", "/one", FIRST_ADAPTER_NUMBER)
            assert await change(stage.processor, LOAD) == one
            assert (await stage.report(AdaptersChanged)).table.adapters == (one,)
            assert (await asked)[0] == 200
            stage.processor.die()
            reborn = await stage.neighbour(PROCESSOR)
            stage.tell(table(serving=True))
            assert await change(reborn, LOAD) == one
            asked = asyncio.create_task(post(stage, UNLOAD, {"lora_name": "one"}))
            await stage.report(AdaptersChanged)
            assert await change(reborn, UNLOAD) == one
            assert (await asked)[0] == 200

    asyncio.run(scenario())


@pytest.mark.parametrize("error", [InvalidRequest, InternalError, NotFound, Unavailable])
def test_a_processor_that_cannot_load_an_adapter_serves_all_else(error: type[DynamoError]) -> None:
    async def scenario() -> None:
        two = (Adapter("one", "/one", 1000), Adapter("two", "/two", 1001))
        config = FrontendConfig(
            port=0, api_keys=(KEY,), admin=True, adapters=AdapterTable(two, 1001)
        )
        stage = Stage(config, serving=False)
        async with stage:
            processor = await stage.neighbour(PROCESSOR)
            stage.tell(table(serving=True))
            assert await change(processor, LOAD, error) == two[0]
            assert await change(processor, LOAD) == two[1]
            asked = asyncio.create_task(stage.post(headers=HEADERS))
            processor.send(answer(await processor.take(Submit)))
            assert (await asked)[0] == 200
            while "with 404" not in stage.log:
                await asyncio.sleep(0.005)
            stage.expected_log = stage.log
        assert "processor 0 answers requests for the adapter 'one' with 404" in stage.log
        assert "it is broken" in stage.log
        assert stage.log.count("\n") == 1

    asyncio.run(scenario())


def test_an_adapter_that_a_living_processor_has_not_loaded_is_not_there() -> None:
    async def scenario() -> None:
        async with Stage(ADMIN) as stage:
            load = {"lora_name": "one", "lora_path": "/one"}
            asked = asyncio.create_task(post(stage, LOAD, load))
            await change(stage.processor, LOAD, Unavailable)
            await change(stage.processor, UNLOAD)
            assert (await asked)[0] == 503
            assert (await stage.report(AdaptersChanged)).table.adapters == ()

    asyncio.run(scenario())


@in_a_loop
async def test_a_processor_whose_link_is_full_keeps_what_all_others_have() -> None:
    tables: list[AdapterTable] = []
    scene = Scene()
    adapters = Adapters(scene.exchange, AdapterTable(), tables.append)
    load, unload = b'{"lora_name": "one", "lora_path": "/one"}', b'{"lora_name": "one"}'
    scene.links.full.add(TWO)
    with pytest.raises(Overloaded, match="processor 1"):
        await answered(scene, adapters.load(load))
    assert tables[-1].adapters == ()
    scene.links.full.clear()
    await answered(scene, adapters.load(load))
    loaded = tables[-1].adapters
    assert [one.name for one in loaded] == ["one"]
    scene.links.full.add(TWO)
    with pytest.raises(Overloaded, match="processor 1"):
        await answered(scene, adapters.unload(unload))
    assert tables[-1].adapters == loaded
    scene.links.full.clear()
    await answered(scene, adapters.unload(unload))
    assert tables[-1].adapters == ()


async def answered(scene: Scene, change: Coroutine[Any, Any, str]) -> str:
    """Return the result of a change of adapters, to which all processors agree."""
    task = asyncio.ensure_future(change)
    while not task.done():
        sent, scene.links.sent = scene.links.sent, []
        for _, message in sent:
            assert isinstance(message, LoadAdapter | UnloadAdapter)
            scene.exchange.answered(Reply(message.request_id, 200, "application/json", b"{}"))
        await asyncio.sleep(0)
    return await task


def test_a_client_that_leaves_does_not_leave_a_change_half_done() -> None:
    async def scenario() -> None:
        async with Stage(ADMIN) as stage:
            load = {"lora_name": "one", "lora_path": "/one"}
            asked = asyncio.create_task(post(stage, LOAD, load))
            told = await stage.processor.take(LoadAdapter)
            asked.cancel()
            for _ in range(3):  # the frontend has seen that the connection is closed
                assert (await stage.get("/health"))[0] == 200
            stage.processor.send(Reply(told.request_id, 200, "application/json", b"{}"))
            assert (await stage.report(AdaptersChanged)).table.adapters == (told.adapter,)

    asyncio.run(scenario())


@pytest.mark.parametrize(("name", "most"), MAX_CHARACTERS.items())
def test_long_names_and_paths_of_adapters_are_refused(name: str, most: int) -> None:
    async def scenario() -> None:
        async with Stage(ADMIN) as stage:
            load = {"lora_name": "one", "lora_path": "/one"}
            status, _, body = await post(stage, LOAD, load | {name: "x" * (most + 1)})
            assert (status, body["error"]["param"]) == (400, name)
            assert f"{name} has {most + 1} characters, and {most} is" in body["error"]["message"]
            asked = asyncio.create_task(post(stage, LOAD, load | {name: "x" * most}))
            await change(stage.processor, LOAD)
            await stage.report(AdaptersChanged)
            assert (await asked)[0] == 200

    asyncio.run(scenario())


def test_a_number_is_never_given_twice() -> None:
    """With a used number, engines would take the new adapter for the old one."""

    async def scenario() -> None:
        async with Stage(ADMIN) as stage:
            numbers = []
            for error in (None, InvalidRequest, None):
                name = f"adapter {len(numbers)}"
                load = {"lora_name": name, "lora_path": "/x"}
                asked = asyncio.create_task(post(stage, LOAD, load))
                numbers.append((await change(stage.processor, LOAD, error)).number)
                if error:  # processors that have loaded it must unload it again
                    assert (await change(stage.processor, UNLOAD)).number == numbers[-1]
                changed = await stage.report(AdaptersChanged)
                assert changed.table.last_number == numbers[-1]
                status, _, body = await asked
                assert status == (400 if error else 200)
                assert not error or body["error"]["message"] == "it is broken"
            assert len(set(numbers)) == 3
            assert [adapter.name for adapter in changed.table.adapters] == [
                "adapter 0",
                "adapter 2",
            ]

    asyncio.run(scenario())


def test_the_next_life_knows_what_the_last_has_loaded() -> None:
    async def scenario() -> None:
        one = Adapter("one", "/one", 1005)
        config = FrontendConfig(
            port=0, api_keys=(KEY,), admin=True, adapters=AdapterTable((one,), 1007)
        )
        async with Stage(config, serving=False) as stage:
            processor = await stage.neighbour(PROCESSOR)
            stage.tell(table(serving=True))
            assert await change(processor, LOAD) == one
            load = {"lora_name": "two", "lora_path": "/two"}
            asked = asyncio.create_task(post(stage, LOAD, load))
            assert (await change(processor, LOAD)).number == 1008
            assert (await asked)[0] == 200

    asyncio.run(scenario())


async def with_host_cache(stage: Stage) -> Neighbour:
    """A host cache that the frontend knows of."""
    cache = await stage.neighbour(HOST_CACHE)
    told = table(serving=True)
    told.processes.append(
        msgspec.structs.replace(told.processes[0], name=HOST_CACHE.name, role=HOST_CACHE.role)
    )
    stage.tell(told)
    return cache


async def carry_out(cache: Neighbour, *, closed: bool, result: bool = True) -> None:
    """The host cache is asked to close, or to empty itself and open, and answers."""
    order = await cache.take(Operate)
    assert order.closed is closed
    cache.send(Operated(order.call_id, result=result))


def test_orders_reach_every_engine_and_answers_are_summed_up() -> None:
    async def scenario() -> None:
        async with Stage(ADMIN) as stage:
            worker = await stage.neighbour(WORKER)
            cache = await with_host_cache(stage)
            asked = asyncio.create_task(post(stage, "/reset_prefix_cache"))
            await carry_out(cache, closed=True)
            order = await worker.take(Operate)
            assert order.operation == Operation.RESET_PREFIX_CACHE
            worker.send(Operated(order.call_id, result=True))
            await carry_out(cache, closed=False, result=False)
            engines = {"worker 0": True, "host cache": False}
            assert (await asked)[2] == {"success": False, "engines": engines}
            asked = asyncio.create_task(post(stage, "/sleep?level=2&mode=wait"))
            order = await worker.take(Operate)
            assert (order.level, order.wait) == (2, True)
            worker.send(Operated(order.call_id, False, "Conflict", "it cannot."))
            status, _, body = await asked
            assert (status, body["error"]["message"]) == (409, "worker 0: it cannot.")
            asked = asyncio.create_task(stage.get("/is_sleeping", headers=HEADERS))
            await worker.take(Operate)
            worker.die()
            assert (await asked)[0] == 503

    asyncio.run(scenario())


def test_a_host_cache_that_is_started_again_during_a_reset_is_closed_too() -> None:
    """Else it would give blocks of an engine that is still to be reset to one that was reset."""

    async def scenario() -> None:
        async with Stage(ADMIN) as stage:
            worker = await stage.neighbour(WORKER)
            cache = await with_host_cache(stage)
            asked = asyncio.create_task(post(stage, "/reset_prefix_cache"))
            await carry_out(cache, closed=True)
            reset = await worker.take(Operate)
            cache.die()
            cache = await stage.neighbour(HOST_CACHE)
            await carry_out(cache, closed=True)
            worker.send(Operated(reset.call_id, result=True))
            await carry_out(cache, closed=False)
            engines = {"worker 0": True, "host cache": True}
            assert (await asked)[2] == {"success": True, "engines": engines}
            cache.die()
            cache = await stage.neighbour(HOST_CACHE)
            asked = asyncio.create_task(post(stage, "/reset_prefix_cache"))
            assert (await cache.take(Operate)).call_id, "it was not closed when it was linked"
            cache.die()
            assert (await asked)[0] == 503

    asyncio.run(scenario())


def test_a_host_cache_is_opened_again_if_closing_failed() -> None:
    async def scenario() -> None:
        async with Stage(ADMIN) as stage:
            await stage.neighbour(WORKER)
            cache = await with_host_cache(stage)
            asked = asyncio.create_task(post(stage, "/reset_prefix_cache"))
            order = await cache.take(Operate)
            cache.send(Operated(order.call_id, False, "Conflict", "it cannot."))
            await carry_out(cache, closed=False)
            assert (await asked)[0] == 409

    asyncio.run(scenario())


class _Answering:
    """Stands for the switchboard: each order is answered a little later, and noted."""

    def __init__(self) -> None:
        self.links = [WORKER, HOST_CACHE]
        self.engines = EngineOperations(self, lambda: self.links)  # type: ignore[arg-type]
        self.orders: list[tuple[str, ProcessId, bool]] = []

    def send(self, peer: ProcessId, order: Operate) -> bool:
        return self._note("sent", peer, order)

    def owe(self, peer: ProcessId, order: Operate) -> bool:
        return self._note("owed", peer, order)

    def _note(self, how: str, peer: ProcessId, order: Operate) -> bool:
        self.orders.append((how, peer, order.closed))
        told = Operated(order.call_id, result=True)
        asyncio.get_running_loop().call_soon(self.engines.answered, told)
        return True


def test_caches_are_reset_by_one_request_at_a_time_and_a_host_cache_hears_it_for_sure() -> None:
    async def scenario() -> None:
        board = _Answering()
        query: MultiDict[str] = MultiDict()
        await asyncio.gather(*(board.engines.reset_prefix_cache(query) for _ in range(2)))
        once = [("owed", HOST_CACHE, True), ("sent", WORKER, False), ("owed", HOST_CACHE, False)]
        assert board.orders == 2 * once

    asyncio.run(scenario())


@pytest.mark.parametrize("path", [Endpoint.MESSAGES, Endpoint.COUNT_TOKENS])
def test_messages_fail_in_anthropics_shape(path: str) -> None:
    async def scenario() -> None:
        async with Stage(FrontendConfig(port=0, api_keys=(KEY,)), serving=False) as stage:
            for headers, status, kind in (
                ({}, 401, "authentication_error"),
                ({"x-api-key": "wrong"}, 401, "authentication_error"),
                ({"x-api-key": KEY}, 503, "overloaded_error"),
            ):
                got, _, body = await stage.post(path, headers=headers)
                assert (got, body["type"], body["error"]["type"]) == (status, "error", kind)

    asyncio.run(scenario())


def test_a_stream_of_messages_breaks_off_in_anthropics_shape() -> None:
    async def scenario() -> None:
        async with Stage(UNMOVED) as stage:
            _, client = await stage.stream(Endpoint.MESSAGES)
            stage.processor.die()
            event, data = (await client.chunk()).decode().strip().split("\n")
            assert event == "event: error"
            body = json.loads(data.removeprefix("data: "))
            assert (body["type"], body["error"]["type"]) == ("error", "overloaded_error")

    asyncio.run(scenario())
