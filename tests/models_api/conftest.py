"""A server with ``--enable-admin``, and a client that has its key."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support import adapter
from tests.support.server import SMALL, Server

KEY = "sesame"
BLOCK = 32
OPTIONS = (
    *SMALL,
    *("--dtype", "float32", "--block-size", str(BLOCK), "--max-model-len", "4096"),
    *("--router", "kv", "--debug-headers", "--processors", "2", "--drain-timeout", "20"),
    *("--served-model-name", "tiny", "--served-model-name", "also-tiny"),
    *("--enable-lora", "--max-lora-rank", str(adapter.RANK), "--max-loras", "4"),
    *("--enable-admin", "--api-key", KEY),
)


@dataclass(frozen=True)
class Answer:
    """An answer to a request."""

    status: int
    headers: Any
    body: Any

    @property
    def text(self) -> str:
        """The text of a completion."""
        assert self.status == 200, self.body
        said: str = self.body["choices"][0]["text"]
        return said

    @property
    def cached_tokens(self) -> int:
        """The number of prompt tokens found in the prefix cache."""
        cached: int = self.body["usage"]["prompt_tokens_details"]["cached_tokens"]
        return cached


@dataclass(frozen=True)
class Client:
    """A client with the key of the server."""

    server: Server
    key: str = KEY

    def ask(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=60)
        try:
            known = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"}
            data = None if body is None else json.dumps(body)
            connection.request(method, path, data, headers if headers is not None else known)
            answer = connection.getresponse()
            content = answer.read().decode()
            if answer.headers.get_content_type() == "application/json":
                return Answer(answer.status, answer.headers, json.loads(content))
            return Answer(answer.status, answer.headers, content)
        finally:
            connection.close()

    def get(self, path: str) -> Answer:
        return self.ask("GET", path)

    def post(self, path: str, body: Any = None) -> Answer:
        return self.ask("POST", path, body)

    def complete(self, model: str, prompt: str, tokens: int = 8) -> Answer:
        body = {"model": model, "prompt": prompt, "max_tokens": tokens, "temperature": 0}
        return self.post("/v1/completions", body | {"ignore_eos": True})

    def names(self) -> list[str]:
        """The names of all models."""
        return [model["id"] for model in self.get("/v1/models").body["data"]]


@pytest.fixture(scope="session")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Three LoRA adapters of the tiny model."""
    names = ("fixed", "one", "two")
    return {
        name: adapter.write(tmp_path_factory.mktemp(name), seed) for seed, name in enumerate(names)
    }


@pytest.fixture(scope="session")
def client(adapters: dict[str, Path]) -> Iterator[Client]:
    with Server(*OPTIONS, "--lora-modules", f"fixed={adapters['fixed']}") as running:
        yield Client(running)
