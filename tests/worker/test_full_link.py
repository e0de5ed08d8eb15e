"""A worker whose processor does not read loses outputs, and says whose."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from dynamo_cli.config import EngineConfig, SimulationConfig, WorkerConfig
from dynamo_cli.engines.mock import wire
from dynamo_cli.engines.mock.engine import MockEngine
from dynamo_cli.ipc.codec import Decoder
from dynamo_cli.ipc.switchboard import join
from dynamo_cli.messages.flows import FromWorker, ToWorker
from dynamo_cli.messages.request import (
    AddRequest,
    EngineReady,
    OutputsLost,
    RequestRefused,
    StepOutputs,
)
from dynamo_cli.units import KIB
from dynamo_cli.worker.decode import DecodeWorker
from dynamo_cli.worker.process import EngineProcess
from tests.ipc.support import HERE, THERE, Party, spec

TOKENS = b"\1\0\0\0" * 8
NEVER = 2000
"""Tokens: its answer does not end within the test."""

decode = Decoder(FromWorker)


class Pair:
    """A worker with a simulated engine, and a processor that reads when it is told to."""

    def __init__(self) -> None:
        self.processor, self.supervised = Party(HERE), Party(THERE)
        self.board, self.heard = self.processor.board()
        simulation = SimulationConfig("cpu-tiny", speedup=1e6)
        config = WorkerConfig(EngineConfig("tiny", "tiny", ("tiny",), simulation=simulation))
        self.worker = EngineProcess(THERE, config, self.supervised.theirs, DecodeWorker, ToWorker)
        small = spec(4 * KIB, 4 * KIB)
        a, b = self.processor.control, self.supervised.control
        join(a, b, HERE, THERE, spec=small, generation=1)
        self.board.poll(0)
        self.turn()

    def turn(self) -> None:
        """Of the worker's loop."""
        self.worker.advance(0)

    @property
    def engine(self) -> MockEngine:
        engine = self.worker._engine
        assert isinstance(engine, MockEngine)
        return engine

    def add(self, request_id: str, tokens: int, logprobs: int | None = None) -> None:
        sampling = wire.Sampling(max_tokens=tokens, logprobs=logprobs)
        nothing = dict.fromkeys(wire.CoreRequest.__struct_fields__[:9])
        known = {"request_id": request_id, "sampling_params": sampling, "arrival_time": 0.0}
        request = wire.CoreRequest(**(nothing | known))
        frames = [msgspec.msgpack.encode(request)]
        assert self.board.send(THERE, AddRequest(request_id, TOKENS, frames))

    def read(self) -> list[Any]:
        """All that the worker has for the processor."""
        while self.board.poll(0):
            self.worker._switchboard.poll(0)
        return [decode(payload) for payload in self.heard.payloads()]

    def close(self) -> None:
        self.worker._switchboard.close()
        self.board.close()
        self.processor.close()
        self.supervised.close()


def test_outputs_that_a_full_link_refuses_are_not_lost_in_silence(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("dynamo_cli.ipc.link.MAX_PENDING_BYTES", 1)
    pair = Pair()
    pair.add("long", NEVER)
    for _ in range(NEVER // 2):  # nobody reads
        pair.turn()
    assert not pair.engine.has_work()
    assert "is full" in caplog.text
    pair.add("refused", 1, logprobs=1)  # the link is as full as before
    pair.turn()
    ready, *rest = pair.read()
    assert isinstance(ready, EngineReady)
    *outputs, lost, refused = rest
    assert outputs
    assert all(isinstance(output, StepOutputs) for output in outputs)
    assert lost == OutputsLost(THERE.index)
    assert isinstance(refused, RequestRefused)
    pair.heard.events.clear()
    pair.add("later", 2)
    for _ in range(3):
        pair.turn()
    assert [type(message) for message in pair.read()] == [StepOutputs, StepOutputs]
    pair.close()


class Split(MockEngine):
    """Gives the output of each request in a message of its own, as if they were large."""

    def step(self) -> Iterator[tuple[int, StepOutputs]]:
        for client, message in super().step():
            outputs = msgspec.msgpack.decode(message.frames[0], type=wire.CoreOutputs).outputs
            for output in outputs:
                alone = msgspec.msgpack.encode(wire.CoreOutputs(outputs=[output]))
                yield client, StepOutputs([alone])


def test_of_outputs_in_several_messages_all_are_sent_or_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("dynamo_cli.engines.mock.engine.MockEngine", Split)
    pair = Pair()
    monkeypatch.setattr("dynamo_cli.ipc.link.MAX_PENDING_BYTES", 1)
    for name in ("a", "b", "c"):
        pair.add(name, NEVER)
    pair.turn()
    while pair.engine.has_work():  # nobody reads
        pair.turn()
    ready, *outputs, lost = pair.read()
    assert isinstance(ready, EngineReady)
    assert lost == OutputsLost(THERE.index)
    assert outputs
    assert len(outputs) % 3 == 0
    pair.close()
