"""Requests that ran on workers when they died are refused, and others are not."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from dynamo_cli.deaths import FATAL_DEATHS, MEMORY_NS
from dynamo_cli.errors import PeerLost, PoisonRequest
from dynamo_cli.frontend.http.poison import MOST_SUSPECTS, Suspects
from dynamo_cli.messages.request import (
    Abort,
    Finish,
    Move,
    MoveReason,
    Reply,
    RequestMoved,
    Submit,
    Usage,
)
from dynamo_cli.units import SECOND_NS

from .stage import PROCESSOR, UNMOVED, Stage, answer, chunks, finish, table

PATH, BODY = "/v1/completions", b'{"prompt": "boom"}'


def check(suspects: Suspects, now_ns: int = 0, body: bytes = BODY, path: str = PATH) -> None:
    suspects.check(path, body, "r1", now_ns)


def deadly(deaths: int = FATAL_DEATHS) -> Suspects:
    suspects = Suspects()
    for _ in range(deaths):
        suspects.died(PATH, BODY, 0)
    return suspects


def test_after_its_second_death_a_request_is_refused() -> None:
    suspects = deadly(1)
    check(suspects)
    suspects.died(PATH, BODY, 0)
    with pytest.raises(PoisonRequest, match="request r1 is refused"):
        check(suspects)


def test_only_the_same_request_is_refused() -> None:
    suspects = deadly()
    check(suspects, body=b"{}")
    check(suspects, path="/v1/chat/completions")


def test_a_request_that_was_answered_is_not_suspected() -> None:
    suspects = deadly(1)
    suspects.survived(PATH, BODY)
    suspects.died(PATH, BODY, 0)
    check(suspects)


def test_a_suspicion_ends() -> None:
    suspects = deadly()
    with pytest.raises(PoisonRequest):
        check(suspects, MEMORY_NS - 1)
    check(suspects, MEMORY_NS)
    assert not len(suspects)


def test_moves_between_workers_count_at_once() -> None:
    suspects = Suspects()
    suspects.died(PATH, BODY, 0, times=2)
    with pytest.raises(PoisonRequest):
        check(suspects)


def test_suspects_are_bounded() -> None:
    suspects = deadly()
    for number in range(MOST_SUSPECTS):
        suspects.died(PATH, b"%d" % number, 0)
    assert len(suspects) == MOST_SUSPECTS
    check(suspects)


def lost(submit: Submit) -> Reply:
    return Reply(submit.request_id, 503, "application/json", b"{}", error=PeerLost.code)


async def ask(stage: Stage, path: str = PATH) -> tuple[int, Any]:
    status, _, body = await stage.post(path, data=BODY)
    return status, body


async def fail_twice(stage: Stage, path: str = PATH) -> None:
    for _ in range(FATAL_DEATHS):
        asked = asyncio.create_task(ask(stage, path))
        stage.processor.send(lost(await stage.processor.take(Submit)))
        assert (await asked)[0] == 503


@pytest.mark.parametrize("path", [PATH, "/v1/messages"])
def test_a_poisonous_request_is_answered_and_counted(path: str) -> None:
    async def scenario() -> None:
        async with Stage() as stage:
            await fail_twice(stage, path)
            status, body = await ask(stage, path)
            assert status == 500
            assert "is refused" in body["error"]["message"]
            if path == PATH:
                assert body["error"]["code"] == "poison_request"
            page = (await stage.get("/metrics"))[2]
            assert 'dynamo_llm_errors_total{kind="poison_request"} 1.0' in page
            assert stage.processor.inbox.empty()
            asked = asyncio.create_task(stage.post(path, data=b'{"other":1}'))
            stage.processor.send(answer(await stage.processor.take(Submit)))
            assert (await asked)[0] == 200

    asyncio.run(scenario())


def test_streams_and_processors_that_die_count_too() -> None:
    async def scenario() -> None:
        async with Stage(UNMOVED) as stage:
            submit, client = await stage.stream()
            stage.processor.send(Finish(submit.request_id, Usage(), error=PeerLost.code))
            assert await client.chunk() == b""
            submit, client = await stage.stream()
            stage.processor.die()
            assert b"worker_lost" in await client.chunk()
            stage.processor = await stage.neighbour(PROCESSOR)
            stage.tell(table(serving=True))
            status, _, body = await stage.post(PATH, data=b"{}")
            while status == 503:  # the new processor takes no requests yet
                status, _, body = await stage.post(PATH, data=b"{}")
            assert status == 500
            assert body["error"]["code"] == "poison_request"

    asyncio.run(scenario())


def death(submit: Submit, source: int, tokens: int) -> RequestMoved:
    move = Move("worker", source, 1, MoveReason.DIED, tokens, source * 10 * SECOND_NS)
    return RequestMoved(submit.request_id, submit.api_id, move)


def test_a_request_that_moved_is_refused_after_its_second_death() -> None:
    async def scenario() -> None:
        async with Stage() as stage:
            asked = asyncio.create_task(stage.post(PATH, data=BODY))
            submit = await stage.processor.take(Submit)
            other, client = await stage.stream()
            for source in (1, 2):
                stage.processor.send(death(submit, source, 0))
                stage.processor.send(death(other, source, source))
            status, _, body = await asked
            assert (status, body["error"]["code"]) == (500, "poison_request")
            assert (await stage.processor.take(Abort)).request_id == submit.request_id
            assert (await ask(stage))[1]["error"]["code"] == "poison_request", "it is remembered"
            stage.processor.send(chunks(other, b"on it goes"))
            assert await client.chunk() == b"on it goes"
            stage.processor.send(finish(other))
            assert await client.chunk() == b""

    asyncio.run(scenario())
