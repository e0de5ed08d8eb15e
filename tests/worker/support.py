"""An engine process over real links; its engine and its neighbours are played by the test."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any

import pytest

from dynamo_cli.config import EngineConfig, PlacementRule, WorkerConfig
from dynamo_cli.engines import start
from dynamo_cli.engines.cache_client import CacheClient
from dynamo_cli.engines.mock.block_pool import BlockPool
from dynamo_cli.engines.prepared import Prepared
from dynamo_cli.errors import DynamoError
from dynamo_cli.ipc import publisher
from dynamo_cli.ipc.codec import Decoder, encode
from dynamo_cli.ipc.switchboard import join
from dynamo_cli.messages.admin import Operate, Operation
from dynamo_cli.messages.base import Message
from dynamo_cli.messages.flows import (
    FromWorker,
    ToFrontend,
    ToHostCache,
    ToPrefillQueue,
    ToPrefillWorker,
    ToRouter,
    ToWorker,
)
from dynamo_cli.messages.lifecycle import LinkDown
from dynamo_cli.messages.prefill import PushJob, TransferStats
from dynamo_cli.messages.request import (
    AddRequest,
    CallUtility,
    EngineReady,
    StepOutputs,
    UtilityAnswer,
)
from dynamo_cli.messages.telemetry import WorkerStats
from dynamo_cli.topology import ProcessId, Role, links_of
from dynamo_cli.worker import copies, decode, handover, prefill
from dynamo_cli.worker.process import EngineProcess
from tests.ipc.support import Party

CAPACITY = "KV cache of 1,600 tokens, room for 0.8 requests of full length (2,048 tokens)"
FRONTEND, ROUTER = ProcessId(Role.FRONTEND), ProcessId(Role.ROUTER)
HOST_CACHE = ProcessId(Role.HOST_CACHE)
PROCESSOR, OTHER_PROCESSOR = ProcessId(Role.PROCESSOR, 0), ProcessId(Role.PROCESSOR, 1)
QUEUE = ProcessId(Role.PREFILL_QUEUE)
WORKER = ProcessId(Role.WORKER, 2)
PREFILL_WORKER = ProcessId(Role.PREFILL_WORKER, 3)
SECOND_NS = 1_000_000_000

HEARD: dict[Role, Any] = {
    Role.PROCESSOR: FromWorker,
    Role.ROUTER: ToRouter,
    Role.FRONTEND: ToFrontend,
    Role.PREFILL_QUEUE: ToPrefillQueue,
    Role.PREFILL_WORKER: ToPrefillWorker,
    Role.WORKER: ToWorker,
    Role.HOST_CACHE: ToHostCache,
}
"""What a neighbour of this role is sent."""


class Clock:
    """The time of the process, which passes when the test says so."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def monotonic(self) -> float:
        return self.now_s

    def monotonic_ns(self) -> int:
        return round(self.now_s * SECOND_NS)


class FakeDecodeSide:
    """Keeps what is started; `ABC#2` is a sibling of `ABC`. To prepare it takes `prepare_s`."""

    def __init__(self, engine: FakeEngine) -> None:
        self._engine = engine
        self.cached: dict[str, int] = {}
        self.known: dict[str, int | None] = {}
        self.forgotten: list[str] = []
        self.prepare_s = 0.0
        self.unsuitable: set[str] = set()
        self.room_tokens: int | None = None
        self.params: dict[str, Any] = {}
        self.started: list[str] = []
        self.unneeded: list[str] = []

    def prepare(self, client: int, message: AddRequest) -> Prepared:
        self._engine.check(message.request_id)
        self._engine.clock.now_s += self.prepare_s
        return Prepared(
            client=client,
            message=message,
            family=message.request_id.partition("#")[0],
            prompt_tokens=len(message.token_ids) // 4,
            priority=0,
            suitable=message.request_id not in self.unsuitable,
            begin=None,
        )

    def start(self, prepared: Prepared, kv_transfer_params: dict[str, Any] | None = None) -> None:
        self._engine.check(prepared.message.request_id)
        self._engine.running[prepared.message.request_id] = prepared.client
        self.params[prepared.message.request_id] = kv_transfer_params

    def cached_tokens(self, prepared: Prepared) -> int:
        return self.cached.get(prepared.message.request_id, 0)

    def known_tokens(self, prepared: Prepared, cached_tokens: int) -> int | None:
        return self.known.get(prepared.message.request_id, cached_tokens)

    def forget_known(self, request_id: str) -> None:
        self.forgotten.append(request_id)

    def take_started(self) -> list[str]:
        started, self.started = self.started, []
        return started

    def take_unneeded(self) -> list[str]:
        unneeded, self.unneeded = self.unneeded, []
        return unneeded

    def stats(
        self, *, placements: Mapping[str, int], fallbacks: Mapping[str, int], away: int, kept: int
    ) -> TransferStats:
        return transfer_stats(
            prefill=False, placements=placements, fallbacks=fallbacks, away=away, kept=kept
        )


class FakePrefillSide:
    """Keeps the jobs until the test says how they end."""

    def __init__(self, engine: FakeEngine) -> None:
        self._engine = engine
        self.ended: list[tuple[str, bytes, str]] = []
        self.released: list[str] = []
        self.owners_gone: list[int] = []
        self.expired_before_ns = 0

    def add(self, job: PushJob, owner: int) -> None:
        self._engine.check(job.job_id)
        self._engine.running[job.job_id] = owner

    def end(self, job_id: str, failed: str = "") -> None:
        """The next step is done with this job."""
        params = b"" if failed else json.dumps({"transfer_id": job_id}).encode()
        self.ended.append((job_id, params, failed))

    def take_ended(self) -> list[tuple[str, bytes, str]]:
        ended, self.ended = self.ended, []
        self._engine.events += [f"hand over {job_id}" for job_id, _, _ in ended]
        for job_id, _, _ in ended:
            self._engine.running.pop(job_id, None)
        return ended

    def release(self, transfer_ids: list[str]) -> None:
        self.released += transfer_ids

    def owner_gone(self, worker: int) -> None:
        self.owners_gone.append(worker)

    def expire(self, before_ns: int) -> None:
        self.expired_before_ns = before_ns

    def stats(self, *, prefill_s: Sequence[float], kept: int) -> TransferStats:
        return transfer_stats(prefill=True, prefill_s=list(prefill_s), kept=kept)


class FakeEngine:
    """An `engines.seam.Engine` that does what the test says.

    Attributes:
        events: what happened to it, in order.
        running: requests in it, each with its processor, or jobs with their decode workers.
        refuses: errors for requests, by id, when they are to be queued.
        outputs: what the next step gives.
        failed: requests that failed alone.
    """

    batch_limits = (4, 100)

    def __init__(self, holdings: BlockPool | None = None, clock: Clock | None = None) -> None:
        self.clock = clock or Clock()
        self.cache_client: CacheClient | None = None
        self.decode_side = FakeDecodeSide(self)
        self.prefill_side = FakePrefillSide(self)
        self.holdings = holdings
        self.events: list[Any] = []
        self.running: dict[str, int] = {}
        self.refuses: dict[str, DynamoError] = {}
        self.outputs: list[tuple[int, StepOutputs]] = []
        self.failed: list[tuple[int, str, DynamoError]] = []
        self.orders: list[Operation] = []
        self.conflict: DynamoError | None = None
        self.asleep = False
        self.closed = False

    def ready(self) -> EngineReady:
        return EngineReady(WORKER.index, ["generate"], 2048, 16, 100, 4)

    def has_work(self) -> bool:
        return bool(self.running)

    def check(self, request_id: str) -> None:
        """Raises what the test wants for this request."""
        if (error := self.refuses.get(request_id)) is not None:
            raise error

    def add(self, client: int, message: AddRequest) -> None:
        self.decode_side.start(self.decode_side.prepare(client, message))

    def abort(self, request_ids: list[str]) -> None:
        self.events += [f"abort {name}" for name in request_ids if name in self.running]
        for request_id in request_ids:
            self.running.pop(request_id, None)

    def abort_client(self, client: int) -> list[str]:
        lost = [request_id for request_id, owner in self.running.items() if owner == client]
        self.abort(lost)
        return lost

    def step(self) -> Iterator[tuple[int, StepOutputs]]:
        self.events.append("step")
        outputs, self.outputs = self.outputs, []
        yield from outputs

    def take_failed(self) -> list[tuple[int, str, DynamoError]]:
        failed, self.failed = self.failed, []
        for _, request_id, _ in failed:
            self.running.pop(request_id, None)
        return failed

    def rest(self) -> None:
        self.events.append("rest")

    def call(self, message: CallUtility) -> UtilityAnswer:
        return UtilityAnswer(message.call_id, [message.method.encode()])

    def operate(self, order: Operate) -> bool:
        if self.conflict is not None:
            raise self.conflict
        self.orders.append(order.operation)
        if order.operation in (Operation.SLEEP, Operation.WAKE_UP):
            self.asleep = order.operation is Operation.SLEEP
        return self.asleep

    def stats(self, refused_sends: int) -> WorkerStats:
        return WorkerStats(WORKER.index, len(self.running), 0, 0.0, 0, 0, 0, 0, 0, 0, refused_sends)

    def close(self) -> None:
        self.closed = True


def transfer_stats(*, prefill: bool, **counted: Any) -> TransferStats:
    """Counters of an engine that has moved nothing."""
    nothing: dict[str, Any] = {
        **dict.fromkeys(("placements", "fallbacks", "copies", "nbytes", "copy_s", "failures")),
        "away": 0,
        "prefill_s": [],
    }
    nothing = {name: {} if value is None else value for name, value in nothing.items()}
    return TransferStats(prefill=prefill, worker=0, **(nothing | counted))


class Neighbour:
    """The other end of a link with the process."""

    def __init__(self, peer: ProcessId, around: Around) -> None:
        self.peer = peer
        self._around = around
        self._party = Party(peer)
        self._decode = Decoder(HEARD[peer.role])
        self.board, self._recorder = self._party.board()
        self._generation = 0

    def link(self) -> None:
        """Join it with the process, for the first time or again."""
        self._generation += 1
        [(a, b, spec)] = links_of(self.peer, [self._around.id])
        ends = {self.peer: self._party.control, self._around.id: self._around.party.control}
        join(ends[a], ends[b], a, b, spec=spec, generation=self._generation)
        self.board.poll(0)
        self._around.turn()

    def send(self, message: Message) -> None:
        """Send to the process, which takes it in a turn of its loop."""
        assert self.board.send(self._around.id, message)
        self._around.turn()

    def read(self) -> list[Any]:
        """All that the process has sent since the last call."""
        while self.board.poll(0):
            pass
        payloads = self._recorder.payloads()
        self._recorder.events.clear()
        return [self._decode(payload) for payload in payloads]

    def heard(self, kind: type) -> list[Any]:
        """As `read`, only messages of this type."""
        return [message for message in self.read() if isinstance(message, kind)]

    def die(self) -> None:
        """As the supervisor tells it to the process."""
        self._around.party.control.send(LinkDown(self.peer.name, self._generation, "killed"))
        self._around.turn()

    def close(self) -> None:
        self.board.close()
        self._party.close()


class Around:
    """An engine process, all its neighbours, and the supervisor's end of its control socket.

    Args:
        prefill_worker: the process is one; otherwise it is a worker.
        rule: a worker's; None without prefill workers.
        holdings: what the engine's prefix cache holds.
        cache_client: the engine's side of the host cache.
        machine: the one that it runs on.
        peers: who is linked from the start.
    """

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        *peers: ProcessId,
        prefill_worker: bool = False,
        rule: PlacementRule | None = None,
        holdings: BlockPool | None = None,
        cache_client: CacheClient | None = None,
        machine: int = 0,
    ) -> None:
        self.id = PREFILL_WORKER if prefill_worker else WORKER
        self.clock = Clock()
        self.engine = FakeEngine(holdings, self.clock)
        self.engine.cache_client = cache_client
        monkeypatch.setattr(start, "build", lambda *_, **__: self.engine)
        for module in (copies, decode, handover, prefill, publisher):
            monkeypatch.setattr(module, "time", self.clock)
        self.party = Party(self.id)
        engine = EngineConfig("tiny", "/tiny", ("tiny",))
        config = WorkerConfig(engine, placement=rule, machine=machine)
        duty: Any = prefill.PrefillWorker if prefill_worker else decode.DecodeWorker
        messages: Any = ToPrefillWorker if prefill_worker else ToWorker
        self.process = EngineProcess(self.id, config, self.party.theirs, duty, messages)
        self.neighbours: dict[ProcessId, Neighbour] = {}
        for peer in peers:
            self.link(peer).read()

    def __enter__(self) -> Around:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        for neighbour in self.neighbours.values():
            neighbour.close()
        self.process._switchboard.close()
        self.party.close()

    def __getitem__(self, peer: ProcessId) -> Neighbour:
        return self.neighbours[peer]

    def link(self, peer: ProcessId) -> Neighbour:
        """A new neighbour, or a next life of one."""
        if peer not in self.neighbours:
            self.neighbours[peer] = Neighbour(peer, self)
        self.neighbours[peer].link()
        return self.neighbours[peer]

    def turn(self, times: int = 1) -> None:
        """Rounds of the process's loop, which do not wait."""
        for _ in range(times):
            self.process.advance(0)

    @contextmanager
    def full_link(
        self, monkeypatch: pytest.MonkeyPatch, peer: ProcessId, message: Message
    ) -> Iterator[None]:
        """The link to a neighbour that does not read is full of this message."""
        link, data = self.process._switchboard.links[peer], encode(message)
        with monkeypatch.context() as full:
            full.setattr("dynamo_cli.ipc.link.MAX_PENDING_BYTES", 0)
            while link.send(data):
                pass
            yield

    def heard_late(self, peer: ProcessId, kind: type[Any]) -> list[str]:
        """Jobs of messages of this kind, as a neighbour reads again what waits for it."""
        told: list[str] = []
        for _ in range(3):
            told += [one.job_id for one in self[peer].heard(kind)]
            self.turn()
        return told

    def later(self, seconds: float) -> None:
        """Let time pass, and the process notice it."""
        self.clock.now_s += seconds
        self.turn()

    def reports(self) -> list[Any]:
        """What the process has told the supervisor since the last call."""
        return [message for message, _ in self.party.control.receive()]


def request(request_id: str, tokens: int = 10, *, probe: bool = False) -> AddRequest:
    """A request with a prompt of so many tokens."""
    return AddRequest(request_id, b"\1\0\0\0" * tokens, [b"frame"], probe=probe)


def texts(messages: list[Any]) -> list[bytes]:
    """The frames of step outputs."""
    return [message.frames[0] for message in messages if isinstance(message, StepOutputs)]


def gives(text: bytes) -> StepOutputs:
    """Outputs of a step; what is in them only a processor can read."""
    return StepOutputs([text])
