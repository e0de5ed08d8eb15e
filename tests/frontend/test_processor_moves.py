"""A processor dies, and clients notice nothing: a real frontend and its connections."""

from __future__ import annotations

import asyncio

from dynamo_cli.messages.lifecycle import Phase, Rescued
from dynamo_cli.messages.request import Ask, Chunk, Chunks, Head, Submit
from dynamo_cli.topology import ProcessId, Role

from .stage import PROCESSOR, SSE, Stage, answer, chunks, finish, table


def test_requests_and_streams_go_on_in_the_next_life_of_the_only_processor() -> None:
    async def scenario() -> None:
        async with Stage() as stage:
            submit, client = await stage.stream()
            chunk = Chunk(submit.request_id, b"data: one\n\n", 1, b"given")
            stage.processor.send(Chunks([chunk]))
            assert await client.chunk() == b"data: one\n\n"
            asked = asyncio.create_task(stage.post("/v1/chat/completions"))
            first = await stage.processor.take(Submit)
            models = asyncio.create_task(stage.get("/v1/models"))
            await stage.processor.take(Ask)
            stage.processor.die()
            assert await stage.report(Rescued) == Rescued("processor 0", 3, 0)
            stage.tell(table(serving=False, processor=Phase.BACKOFF))
            reborn = await stage.neighbour(PROCESSOR)
            stage.tell(table(serving=True))
            again = await reborn.take(Submit)
            assert again.resume is not None
            assert (again.resume.chunks, again.resume.output) == (1, b"given")
            reborn.send(answer(whole := await reborn.take(Submit)))
            assert (whole.body, whole.seed, whole.resume) == (first.body, first.seed, None)
            assert (await asked)[0] == 200
            reborn.send(answer(await reborn.take(Ask)))
            assert (await models)[0] == 200
            reborn.send(Head(again.request_id, 200, SSE))
            reborn.send(chunks(again, b"data: two\n\n"))
            reborn.send(finish(again))
            assert await client.chunk() == b"data: two\n\n"
            assert await client.chunk() == b""
            page = (await stage.get("/metrics"))[2]
            assert 'dynamo_llm_requests_moved_total{reason="died"} 3.0' in page
            assert "dynamo_llm_errors_total{" not in page

    asyncio.run(scenario())


def test_a_client_that_leaves_while_its_request_waits_leaves_nothing() -> None:
    async def scenario() -> None:
        async with Stage() as stage:
            _, client = await stage.stream()
            stage.processor.die()
            assert await stage.report(Rescued) == Rescued("processor 0", 1, 0)
            client.leave()
            while (await stage.get("/dynamo/snapshot"))[2]["calls"]:
                await asyncio.sleep(0.005)
            other = await stage.neighbour(ProcessId(Role.PROCESSOR, 0))
            stage.tell(table(serving=True))
            asked = asyncio.create_task(stage.post())
            stage_submit = await other.take(Submit)
            assert stage_submit.resume is None
            other.send(answer(stage_submit))
            assert (await asked)[0] == 200

    asyncio.run(scenario())
