"""The worker's loop around an engine that is played by the test."""

from __future__ import annotations

from typing import Any

import pytest

from dynamo_cli.config import EngineConfig, PlacementRule, WorkerConfig
from dynamo_cli.engines import start
from dynamo_cli.engines.prepared import Prepared
from dynamo_cli.errors import DynamoError, InternalError, InvalidRequest
from dynamo_cli.ipc.control import Control
from dynamo_cli.messages.base import Message
from dynamo_cli.messages.request import AddRequest, RequestRefused, StepOutputs
from dynamo_cli.messages.telemetry import WorkerStats
from dynamo_cli.topology import FRONTEND, ProcessId, Role
from dynamo_cli.worker import process
from dynamo_cli.worker.decode import DecodeWorker
from dynamo_cli.worker.prefill import PrefillWorker
from dynamo_cli.worker.process import EngineProcess

WORKER, PROCESSOR = ProcessId(Role.WORKER, 0), ProcessId(Role.PROCESSOR, 0)
CONFIG = WorkerConfig(EngineConfig("tiny", "/tiny", ("tiny",)), placement=PlacementRule())


class Engine:
    """Writes down in which order it is used."""

    def __init__(self, events: list[Any]) -> None:
        self.events = events
        self.holdings = None
        self.batch_limits = (1, 1)
        self.failed: list[tuple[int, str, DynamoError]] = []

    def has_work(self) -> bool:
        return "rest" not in self.events

    def step(self) -> Any:
        self.events.append("step")
        yield 0, StepOutputs([b"token"])

    def rest(self) -> None:
        self.events.append("rest")

    def take_failed(self) -> list[tuple[int, str, DynamoError]]:
        return self.failed

    def take_prefills(self) -> list[tuple[str, bytes, str]]:
        self.events.append("hand over")
        return []

    def stats(self, refused_sends: int) -> WorkerStats:
        return WorkerStats(0, 0, 0, 0.0, 0, 0, 0, 0, 0, 0, refused_sends)

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: []


class Board:
    """Takes what is sent."""

    def __init__(self, events: list[Any]) -> None:
        self.events = events
        self.links = [PROCESSOR, FRONTEND]
        self.full = False

    def send(self, peer: ProcessId, message: Any) -> bool:
        return not self.full and self.owe(peer, message)

    def owe(self, peer: ProcessId, message: Any) -> bool:
        self.events.append(message)
        return True

    def refused_sends(self) -> int:
        return 0

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: None


def loaded(kind: Any, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Engine]:
    events: list[Any] = []
    engine = Engine(events)
    monkeypatch.setattr(start, "build", lambda *_, **__: engine)
    ours, theirs = Control.pair()
    monkeypatch.setattr(process, "Switchboard", lambda *_: Board(events))
    worker = EngineProcess(WORKER, CONFIG, theirs, kind, Message)
    theirs.close()
    ours.close()
    events.clear()
    return worker, engine


def test_what_a_step_gave_is_sent_before_the_engine_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    worker, engine = loaded(DecodeWorker, monkeypatch)
    engine.failed = [(0, "bad", InternalError("it is broken"))]
    worker._step()
    assert [
        type(event).__name__ if event not in ("step", "rest") else event for event in engine.events
    ] == [
        "step",
        "StepOutputs",
        "RequestRefused",
        "rest",
    ]
    failed = engine.events[2]
    assert isinstance(failed, RequestRefused)
    assert (failed.request_id, failed.http_status) == ("bad", 500)
    assert "it is broken" in failed.message


def test_prompts_that_are_away_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    worker, engine = loaded(DecodeWorker, monkeypatch)
    worker._duty._handover._remote.send("a", "a", None, 0)
    worker._duty._report_stats()
    told = next(event for event in engine.events if isinstance(event, WorkerStats))
    assert told.num_away_reqs == 1
    assert not told.idle


@pytest.mark.parametrize("error", [InvalidRequest("it is wrong"), InternalError("it is broken")])
def test_what_cannot_start_any_more_is_refused_alone(
    monkeypatch: pytest.MonkeyPatch, error: DynamoError
) -> None:
    """Also where its processor does not read at the moment."""
    worker, engine = loaded(DecodeWorker, monkeypatch)
    worker._switchboard.full = True
    started = []

    def start(prepared: Prepared, params: Any) -> None:
        started.append(prepared.message.request_id)
        if prepared.message.request_id == "bad":
            raise error

    engine.__dict__["start"] = start
    for name in ("bad", "sibling"):
        message = AddRequest(name, b"", [])
        prepared = Prepared(0, message, "family", 10, 0, suitable=True, begin=None)
        if name == "bad":
            worker._duty._handover._remote.send(name, "family", prepared, 10**18)
        else:
            assert worker._duty._handover._remote.join(name, "family", prepared)
    worker._duty._handover.queue_gone()
    refused = next(event for event in engine.events if isinstance(event, RequestRefused))
    assert (refused.request_id, refused.http_status) == ("bad", error.http_status)
    assert started == ["bad", "sibling"]


def test_a_prefill_worker_hands_over_before_it_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    worker, engine = loaded(PrefillWorker, monkeypatch)

    def poll(_: float) -> None:
        worker._stopping = True

    worker._switchboard.poll = poll
    worker._duty._pull_due_s = worker._duty._report_due_s = float("inf")
    worker.run()
    assert engine.events[:3] == ["step", "hand over", "rest"]
