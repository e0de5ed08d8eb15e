"""A server with JSON logs and tracing, and a receiver of its traces."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.otlp import Receiver
from tests.support.server import SMALL, Server

SHAPE = (
    *("--workers", "2", "--router", "kv", "--prefill-workers", "1"),
    *("--max-local-prefill-length", "60", "--max-model-len", "2048", "--block-size", "32"),
)


@pytest.fixture(scope="session")
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


@pytest.fixture(scope="session")
def server(receiver: Receiver, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that logs everything as JSON, sends traces to the receiver, and has a record."""
    record = ("--record", str(tmp_path_factory.mktemp("record") / "record.jsonl"))
    told = ("--log-level", "debug", "--log-format", "json", "--otlp-endpoint", receiver.url)
    with Server(*SHAPE, *SMALL, *told, *record) as running:
        yield running
