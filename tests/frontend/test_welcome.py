"""A processor gets the adapters, and then requests, only in the life that has said it is ready."""

from __future__ import annotations

import asyncio

import msgspec

from dynamo_cli.messages.admin import LoadAdapter
from dynamo_cli.messages.lifecycle import Phase
from dynamo_cli.messages.request import Submit
from dynamo_cli.topology import ProcessId, Role
from dynamo_cli.watch.state import UNREACHED

from .stage import PROCESSOR, Stage, answer, table
from .test_admin import ADMIN, HEADERS, LOAD, change, post

OTHER = ProcessId(Role.PROCESSOR, 1)
ADAPTER = {"lora_name": "one", "lora_path": "/one"}


async def tell(stage: Stage, phase: Phase, restarts: int = 0) -> None:
    """Say that processor 0 is in this phase and the other one ready; wait until it is known."""
    told, replace = table(serving=True), msgspec.structs.replace
    (first,) = (one for one in told.processes if one.role == Role.PROCESSOR)
    first = replace(first, phase=phase, restarts=restarts)
    second = replace(first, name=OTHER.name, index=OTHER.index, phase=Phase.READY)
    others = [one for one in told.processes if one.role != Role.PROCESSOR]
    stage.tell(replace(told, processes=[*others, first, second]))
    while True:
        _, _, health = await stage.get("/health", headers=HEADERS)
        known = {one["name"]: one for one in health["processes"]}
        if OTHER.name in known and known[PROCESSOR.name]["restarts"] == restarts:
            return
        await asyncio.sleep(0.005)


def test_a_life_that_is_not_ready_gets_nothing_that_was_meant_for_an_earlier_one() -> None:
    async def scenario() -> None:
        async with Stage(ADMIN) as stage:
            other = await stage.neighbour(OTHER)
            await tell(stage, Phase.READY)
            load = asyncio.create_task(post(stage, LOAD, ADAPTER))
            await change(stage.processor, LOAD)
            slow = await other.take(LoadAdapter)
            stage.processor.die()
            second = await stage.neighbour(PROCESSOR)
            await tell(stage, Phase.READY, 1)  # its welcome waits for the change to end
            second.die()
            third = await stage.neighbour(PROCESSOR)
            await tell(stage, Phase.IMPORTING, 2)
            other.send(answer(slow))
            assert (await load)[0] == 200
            asked = [asyncio.create_task(stage.post(headers=HEADERS)) for _ in range(2)]
            for _ in asked:
                other.send(answer(await other.take(Submit)))
            assert [(await one)[0] for one in asked] == [200, 200]
            assert third.inbox.empty()
            stage.tell(table(serving=True))
            assert (await change(third, LOAD)).name == ADAPTER["lora_name"]

    asyncio.run(scenario())


def test_a_new_frontend_serves_when_it_has_a_processor_and_not_before() -> None:
    """The tree is ready all the time when only the frontend is started again."""

    async def scenario() -> None:
        async with Stage(serving=False) as stage:
            stage.tell(table(serving=True))
            while not (health := (await stage.get("/health"))[2])["processes"]:
                await asyncio.sleep(0.005)
            assert (health["status"], health["reason"]) == ("unavailable", UNREACHED)
            status, _, refused = await stage.post()
            assert (status, refused["error"]["code"]) == (503, "not_ready")
            assert "no processor can take requests" in refused["error"]["message"]

            processor = await stage.neighbour(PROCESSOR)
            stage.tell(table(serving=True))
            while (await stage.get("/health"))[0] != 200:
                await asyncio.sleep(0.005)
            asked = asyncio.create_task(stage.post())
            processor.send(answer(await processor.take(Submit)))
            assert (await asked)[0] == 200

    asyncio.run(scenario())
