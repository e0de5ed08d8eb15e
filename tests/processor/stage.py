"""A real processor process, and its neighbours played by the test over real links.

vLLM's serving classes run over the tiny model's tokenizer; no engine runs anywhere: the test
answers as workers, router, frontend and supervisor would.
"""

from __future__ import annotations

import array
import json
import socket
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import orjson

from dynamo_cli.config import EngineConfig, MigrationRule, ProcessorConfig, SimulationConfig
from dynamo_cli.deaths import AT_ONCE_NS
from dynamo_cli.engines.mock import wire
from dynamo_cli.ipc.codec import Decoder
from dynamo_cli.ipc.control import Control
from dynamo_cli.ipc.switchboard import Switchboard, join
from dynamo_cli.messages.base import Message
from dynamo_cli.messages.flows import ToFrontend, ToRouter, ToWorker
from dynamo_cli.messages.lifecycle import LinkDown, Phase, PhaseChange, Rescued, Stop
from dynamo_cli.messages.request import (
    AddRequest,
    Chunks,
    Endpoint,
    EngineReady,
    Finish,
    ForProcessor,
    Move,
    Reply,
    RequestMoved,
    RequestRefused,
    StepOutputs,
    Submit,
    UtilityAnswer,
)
from dynamo_cli.messages.routing import Placed, RouteAnswer, RouteQuery
from dynamo_cli.messages.telemetry import ProcessorStats
from dynamo_cli.models import tiny
from dynamo_cli.supervisor import entry
from dynamo_cli.topology import FRONTEND, ROUTER, ProcessId, Role, links_of
from tests.support import child
from tests.support.preloaded import ENGINES

PROCESSOR = ProcessId(Role.PROCESSOR, 0)
CONTEXT, BLOCK = 512, 32
PATIENCE_S = 120.0
MOVES = MigrationRule(limit=2, timeout_s=5)

T = TypeVar("T", bound=Message)

_request = msgspec.msgpack.Decoder(wire.CoreRequest)


def patiently(poll: Callable[[], Any], done: Callable[[], Any]) -> None:
    """Poll until it is done; fail loudly instead of waiting for ever."""
    deadline_s = time.monotonic() + PATIENCE_S
    while not done():
        assert time.monotonic() < deadline_s, "nothing came"
        poll()


class Neighbour:
    """A process that has a link with the processor.

    Args:
        processor: the supervisor's end of the processor's control socket.
        receives: union of the messages that come from the processor.
        unasked: messages that come at any time; `take` skips them unless they are what it takes.
    """

    def __init__(
        self, process: ProcessId, processor: Control, receives: Any, unasked: type[Message]
    ) -> None:
        self.process = process
        self._processor, self._unasked = processor, unasked
        self._decode = Decoder(receives)
        self._inbox: deque[Message] = deque()
        self._control, theirs = Control.pair()
        self._board = Switchboard(theirs, self)
        self._generation = 0

    def link(self, generation: int) -> None:
        """Link it with the processor, as a newly started process."""
        self._generation = generation
        self._inbox.clear()
        a, b, spec = links_of(self.process, [PROCESSOR])[0]
        ends = {PROCESSOR: self._processor, self.process: self._control}
        join(ends[a], ends[b], a, b, spec=spec, generation=generation)
        patiently(self.poll, lambda: PROCESSOR in self._board.links)

    def die(self, reason: str = "SIGKILL") -> None:
        """Unlink it on both sides, as the supervisor does when a process dies."""
        self._processor.send(LinkDown(self.process.name, self._generation, reason))
        self._control.send(LinkDown(PROCESSOR.name, self._generation, reason))
        patiently(self.poll, lambda: PROCESSOR not in self._board.links)

    def send(self, message: Message) -> None:
        """Send, and wait until the processor has read it, since links have no common order."""
        assert self._board.send(PROCESSOR, message)
        patiently(self.poll, lambda: not sum(self._board.depth_bytes().values()))

    def poll(self) -> None:
        self._board.poll(0.01)

    def take(self, kind: type[T]) -> T:
        """Wait for the next message, which must be of that kind."""
        while True:
            patiently(self.poll, lambda: self._inbox)
            message = self._inbox.popleft()
            if isinstance(message, kind):
                return message
            assert isinstance(message, self._unasked), message

    def nothing_came(self) -> bool:
        """Whether no message has come, except those that come unasked."""
        self.poll()
        return all(isinstance(message, self._unasked) for message in self._inbox)

    def close(self) -> None:
        self._board.close()
        self._control.close()

    # -- the switchboard's handler -----------------------------------------------------------

    def on_message(self, peer: ProcessId, payload: bytes) -> None:
        self._inbox.append(self._decode(payload))

    def on_link(self, peer: ProcessId) -> None: ...

    def on_unlink(self, peer: ProcessId, reason: str) -> None: ...

    def on_control(self, message: Any) -> None: ...


class Worker(Neighbour):
    """A worker whose engine gives what the test says."""

    def ready(self) -> None:
        """Say that its engine is ready."""
        index = self.process.index
        self.send(EngineReady(index, ["generate"], CONTEXT, BLOCK, 100, 16))

    def give(
        self,
        added: AddRequest,
        tokens: int = 1,
        *,
        first: bool = False,
        finish: bool = False,
        cached: int = 0,
    ) -> None:
        """Send the outputs of a step: the first tokens of the prompt, as tokens of the answer."""
        prompt = array.array("i", added.token_ids)
        output = wire.Output(added.request_id, list(prompt[:tokens]))
        if finish:
            output.finish_reason = wire.LENGTH
        if first:
            output.prefill_stats = wire.PrefillStats(len(prompt), len(prompt), cached, cached, 0)
        frames = [msgspec.msgpack.encode(wire.CoreOutputs(outputs=[output]))]
        self.send(StepOutputs(frames))

    def complete(self, added: AddRequest) -> None:
        """Send the only token of an answer."""
        self.give(added, first=True, finish=True)

    def refuse(self, added: AddRequest, status: int) -> None:
        """Say that the engine does not take a request."""
        self.send(RequestRefused(added.request_id, "it is not wanted here", status))

    def answer_call(self, call_id: int, result: bool, error: str = "") -> None:
        """Send the result of a utility call, in vLLM's encoding of `UtilityOutput`."""
        frames = [msgspec.msgpack.encode([call_id, None, [None, result]])]
        self.send(UtilityAnswer(call_id, [] if error else frames, error))


def request_of(added: AddRequest) -> wire.CoreRequest:
    """Decode vLLM's request object, which does not contain the prompt."""
    return _request.decode(added.frames[0])


def body_of(reply: Reply) -> Any:
    return json.loads(reply.body)


def error_of(reply: Reply) -> Any:
    return body_of(reply)["error"]


def stream_to_its_end(stage: Stage, name: str) -> tuple[str, Finish]:
    """Return the text and the end of a stream whose head was taken already.

    The end comes with the last event and not after it: clients leave when they have that.
    """
    text = b""
    while True:
        match stage.frontend.take(Message):
            case Chunks(chunks, finish):
                text += b"".join(chunk.data for chunk in chunks if chunk.request_id == name)
                if finish is not None:
                    assert (finish.request_id, chunks[-1].request_id) == (name, name)
                    return text.decode(), finish
            case other:
                assert isinstance(other, ProcessorStats), other


class Stage:
    """A processor with a frontend, a router and two workers; `open` and `close` around each test.

    Args:
        folder: for the model's files.
        rule: how requests move.
    """

    def __init__(self, folder: Path, rule: MigrationRule = MOVES) -> None:
        tiny.write(folder)
        simulation = SimulationConfig("cpu-tiny")
        options = ("--max-model-len", str(CONTEXT), "--enable-lora")
        engine = EngineConfig("tiny", str(folder), ("tiny",), options, simulation=simulation)
        config = ProcessorConfig(
            engine, routed=True, kv_routing=True, debug_headers=True, migration=rule
        )
        self.control, control = Control.pair()
        self._log, log = socket.socketpair()
        self._log.setblocking(False)
        self.log = ""
        birth = entry.Birth(PROCESSOR, config, 0, "WARNING")
        self.process = child.start(birth, control, log, ENGINES)
        self._reports: deque[Message] = deque()
        self._generation = self._requests = 0
        self.frontend = Neighbour(FRONTEND, self.control, ToFrontend, ProcessorStats)
        self.router = Neighbour(ROUTER, self.control, ToRouter, Placed)
        self.workers = [
            Worker(ProcessId(Role.WORKER, index), self.control, ToWorker, AddRequest)
            for index in range(2)
        ]
        self._up: list[Neighbour] = []
        for neighbour in (self.frontend, self.router, *self.workers):
            self.link(neighbour)
        patiently(self._hear, lambda: PhaseChange(Phase.READY) in self._reports)

    def open(self) -> None:
        """Link all neighbours."""
        for neighbour in (self.frontend, self.router, *self.workers):
            self.link(neighbour)
        self._hear()
        self._reports.clear()  # of the losses with which the last test ended

    def link(self, neighbour: Neighbour) -> None:
        """Link one neighbour; a worker's engine is ready at once."""
        self._generation += 1
        neighbour.link(self._generation)
        self._up.append(neighbour)
        if isinstance(neighbour, Worker):
            neighbour.ready()

    def kill(self, neighbour: Neighbour, reason: str = "SIGKILL") -> None:
        """Let a neighbour die."""
        neighbour.die(reason)
        self._up.remove(neighbour)

    def close(self) -> None:
        """Unlink all neighbours."""
        for neighbour in self._up:
            neighbour.die("the end of the test")
        self._up.clear()

    def nothing_is_left(self) -> list[Message]:
        """Wait until the processor reports that it keeps nothing; return its other messages."""
        others: list[Message] = []
        while True:
            message = self.frontend.take(Message)
            if not isinstance(message, ProcessorStats):
                others.append(message)
            elif not any(msgspec.structs.astuple(msgspec.structs.replace(message, begun=()))[2:]):
                return others

    def end(self) -> None:
        """Stop the process."""
        self.control.send(Stop())
        exit_code = self.process.wait(PATIENCE_S)
        self.read_log()
        for neighbour in (self.frontend, self.router, *self.workers):
            neighbour.close()
        self.control.close()
        self._log.close()
        assert exit_code == 0, self.log

    def let_time_pass(self) -> None:
        """Until another loss does not count as the same one."""
        since_ns = time.monotonic_ns()
        patiently(self.frontend.poll, lambda: time.monotonic_ns() - since_ns > 2 * AT_ONCE_NS)

    def read_log(self) -> str:
        try:
            while data := self._log.recv(1 << 16):
                self.log += data.decode()
        except BlockingIOError:
            pass  # that was all
        return self.log

    def report(self, kind: type[T]) -> T:
        """Wait for the next report to the supervisor, which must be of that kind."""
        patiently(self._hear, lambda: self._reports or self.control.closed)
        assert self._reports, self.read_log()
        message = self._reports.popleft()
        assert isinstance(message, kind), message
        return message

    def _hear(self) -> None:
        self._reports.extend(message for message, _ in self.control.receive())
        time.sleep(0.01)

    # -- steps that many tests have ----------------------------------------------------------

    def name(self) -> str:
        """Return a key that no other request has."""
        self._requests += 1
        return f"request-{self._requests}"

    def ask(self, endpoint: Endpoint = Endpoint.COMPLETIONS, **fields: Any) -> str:
        """Submit a client's request, and return its key."""
        asked: dict[str, Any] = {"prompt": "hello hello"}
        if endpoint is Endpoint.CHAT:
            asked = {"messages": [{"role": "user", "content": "hello hello"}]}
        body = {"model": "tiny", "max_tokens": 8} | asked | fields
        name = self.name()
        self.submit(Submit(name, f"api-{name}", endpoint, orjson.dumps(body), []))
        return name

    def submit(self, message: ForProcessor) -> None:
        self.frontend.send(message)

    def moved(self) -> Move:
        """Take what the frontend is told of a move."""
        return self.frontend.take(RequestMoved).move

    def rescued(self) -> tuple[str, int, int]:
        """Take what the supervisor is told of a loss: its name, requests moved and failed."""
        rescued = self.report(Rescued)
        return rescued.process, rescued.moved, rescued.failed

    def route(
        self, worker: int | None = 0, overlap: int = 0, skip: type[Message] = Placed
    ) -> RouteQuery:
        """Take a query of the processor, and answer it as the router with this worker.

        Args:
            skip: kind of message that may come before it.
        """
        while not isinstance(query := self.router.take(Message), RouteQuery):
            assert isinstance(query, skip | Placed), query
        self.answer(query, worker, overlap)
        return query

    def answer(self, query: RouteQuery, worker: int | None, overlap: int = 0) -> None:
        """Answer a query as the router."""
        self.router.send(RouteAnswer(query.request_id, worker, overlap))

    def place(self, worker: int = 0, **fields: Any) -> tuple[str, AddRequest]:
        """Bring a request to a worker; return its key, and what the worker was sent."""
        name = self.ask(**fields)
        self.route(worker)
        return name, self.workers[worker].take(AddRequest)
