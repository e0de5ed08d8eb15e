"""A frontend that replaces another goes on with its sockets, so that nobody is refused."""

from __future__ import annotations

import asyncio
import signal

import pytest

from dynamo_cli.config import FrontendConfig
from dynamo_cli.messages.lifecycle import Drain

from .stage import Stage, patiently
from .test_process import nobody_listens

HEALTH = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_who_connects_while_there_is_no_frontend_waits_for_the_next(host: str) -> None:
    async def scenario() -> None:
        config = FrontendConfig(host=host, port=0)
        async with Stage(config) as stage:
            stage.expected_exit_code = -signal.SIGKILL
            stage.process.kill()
            await asyncio.to_thread(stage.process.wait)
            reader, writer = await asyncio.open_connection(host, stage.port)
            writer.write(HEALTH)
            async with Stage(config, sockets=stage.listening) as other:
                assert other.url == stage.url
                assert (await patiently(reader.readline())).startswith(b"HTTP/1.1 ")
                assert (await other.get("/health"))[0] == 200
                writer.close()

    asyncio.run(scenario())


def test_when_it_drains_its_sockets_are_closed_too() -> None:
    async def scenario() -> None:
        async with Stage() as first:
            first.expected_exit_code = -signal.SIGKILL
            first.process.kill()
            async with Stage(sockets=first.listening) as stage:
                for one in first.listening:
                    one.close()
                stage.tell(Drain(5.0))
                await nobody_listens(stage)

    asyncio.run(scenario())
