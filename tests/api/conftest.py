"""One server of the tiny model for all tests of the API, and an `openai` client for it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.support.server import SMALL, Server

if TYPE_CHECKING:  # its import takes two seconds
    import openai

FLOAT32 = ("--dtype", "float32")
TOOLS = ("--enable-auto-tool-choice", "--tool-call-parser", "hermes")


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    with Server(
        *SMALL, *FLOAT32, *TOOLS, "--processors", "2", "--max-model-len", "2048"
    ) as running:
        yield running


@pytest.fixture(scope="session")
def client(server: Server) -> Iterator[openai.OpenAI]:
    import openai

    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as connected:
        yield connected
