"""A real frontend process; the test plays its neighbours over real links."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import time
from contextlib import suppress
from types import TracebackType
from typing import Any, TypeVar

import aiohttp
from yarl import URL

from dynamo_cli.config import FrontendConfig, MigrationRule
from dynamo_cli.ipc.codec import Decoder
from dynamo_cli.ipc.control import Control
from dynamo_cli.ipc.switchboard import Switchboard, join
from dynamo_cli.messages.admin import Operate
from dynamo_cli.messages.base import Message
from dynamo_cli.messages.flows import ToProcessor
from dynamo_cli.messages.lifecycle import (
    Drain,
    LinkDown,
    Listening,
    Phase,
    PhaseChange,
    ProcessState,
    ProcessTable,
    Rescued,
    StillRunning,
    Stop,
)
from dynamo_cli.messages.prefill import SetPlacement
from dynamo_cli.messages.request import (
    Chunk,
    Chunks,
    Finish,
    ForProcessor,
    Head,
    Reply,
    Submit,
    Usage,
)
from dynamo_cli.supervisor import entry
from dynamo_cli.topology import FRONTEND, ProcessId, Role, links_of
from tests.support import child
from tests.support.preloaded import LIGHT

PROCESSOR = ProcessId(Role.PROCESSOR, 0)
WORKER = ProcessId(Role.WORKER, 0)
SSE = "text/event-stream"

PATIENCE_S = 30.0
UNMOVED = FrontendConfig(port=0, migration=MigrationRule(limit=0))
"""A frontend whose requests fail with their processor."""

T = TypeVar("T", bound=Message)


def patiently(what: Any) -> Any:
    """Wait for something, but not longer than `PATIENCE_S`."""
    return asyncio.wait_for(what, PATIENCE_S)


class Neighbour:
    """A process with a link to the frontend; messages from the frontend go to `inbox`."""

    def __init__(self, process: ProcessId, frontend: Control) -> None:
        self.process = process
        self.inbox: asyncio.Queue[Message] = asyncio.Queue()
        self._frontend = frontend
        self._decoder = Decoder(ToProcessor | SetPlacement | Operate)
        self._control, socket_ = Control.pair()
        self._board = Switchboard(socket_, self)
        self._board.attach(asyncio.get_running_loop())
        self._linked = asyncio.Event()

    async def link(self, generation: int) -> None:
        a, b, spec = links_of(self.process, [FRONTEND])[0]
        ends = {FRONTEND: self._frontend, self.process: self._control}
        join(ends[a], ends[b], a, b, spec=spec, generation=generation)
        await patiently(self._linked.wait())
        self._generation = generation

    def die(self, reason: str = "SIGKILL") -> None:
        """Tell the frontend, as the supervisor would, that this process is gone."""
        self._frontend.send(LinkDown(self.process.name, self._generation, reason))

    def send(self, message: Message) -> None:
        assert self._board.send(FRONTEND, message)

    async def take(self, kind: type[T]) -> T:
        """The next message of the frontend, which must be of this kind."""
        message = await patiently(self.inbox.get())
        assert isinstance(message, kind), message
        return message

    def close(self) -> None:
        self._board.close()
        self._control.close()

    def on_message(self, peer: ProcessId, payload: bytes) -> None:
        self.inbox.put_nowait(self._decoder(payload))

    def on_link(self, peer: ProcessId) -> None:
        self._linked.set()

    def on_unlink(self, peer: ProcessId, reason: str) -> None: ...

    def on_control(self, message: Any) -> None: ...


class Stage:
    """A frontend that serves, with one processor: ``async with Stage(...) as stage``.

    Args:
        config: the configuration of the frontend.
        serving: whether the frontend is told that everything is ready.
        sockets: what the frontend has listened at that it replaces.

    Attributes:
        listening: what the frontend listens at.
        log: what the frontend has logged, but for its alarms, which come after a second and so in
            some runs only.
        alarms: these lines.
        expected_log, expected_exit_code: what the frontend must have logged and returned at the
            end of a test that has not failed.
    """

    def __init__(
        self,
        config: FrontendConfig | None = None,
        serving: bool = True,
        sockets: tuple[socket.socket, ...] = (),
    ) -> None:
        self._sockets = sockets
        self._config = config or FrontendConfig(port=0)
        self._serving = serving
        self._neighbours: list[Neighbour] = []
        self._connections: list[asyncio.StreamWriter] = []
        self._generation = 0
        self.listening: tuple[socket.socket, ...] = ()
        self.log = self.alarms = self.expected_log = ""
        self.expected_exit_code = 0

    async def __aenter__(self) -> Stage:
        self.reports: asyncio.Queue[Message] = asyncio.Queue()
        self._reported: set[type[Message]] = set()
        self._loop = asyncio.get_running_loop()
        self.control, control = Control.pair()
        self._log, log = socket.socketpair()
        self._rest = b""
        self._log.setblocking(False)
        birth = entry.Birth(FRONTEND, self._config, 0, "WARNING", self._sockets)
        self.process = child.start(birth, control, log, LIGHT)
        self._loop.add_reader(self.control.fileno(), self._on_report)
        self._loop.add_reader(self._log.fileno(), self._on_log)
        if self._config.port == 0:
            await self._begin()
        return self  # a test that gives a port sees how the start goes

    async def _begin(self) -> None:
        assert (await self.report(PhaseChange)).phase is Phase.STARTING
        ready = await self.report(PhaseChange)
        assert ready.phase is Phase.READY
        self.url = ready.detail
        self.port = int(ready.detail.rpartition(":")[2])
        self.http = aiohttp.ClientSession(self.url, headers={"Content-Type": "application/json"})
        if self._serving:
            self.processor = await self.neighbour(PROCESSOR)
            self.tell(table(serving=True))
            while (await self.get("/health"))[0] != 200:
                await asyncio.sleep(0.005)

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        if hasattr(self, "http"):
            await self.http.close()
        self.tell(Stop())
        for connection in self._connections:
            connection.close()
            with suppress(ConnectionError):
                await connection.wait_closed()
        with suppress(subprocess.TimeoutExpired):
            await asyncio.to_thread(self.process.wait, PATIENCE_S)
        self._loop.remove_reader(self.control.fileno())
        self._on_log()
        self._loop.remove_reader(self._log.fileno())
        for neighbour in self._neighbours:
            neighbour.close()
        self.control.close()
        self._log.close()
        self._listen_no_more()
        self.process.kill()
        self.exit_code = self.process.wait()
        if kind is None:
            assert self.exit_code == self.expected_exit_code
            assert self.log == self.expected_log, self.log

    async def neighbour(self, process: ProcessId) -> Neighbour:
        """Link a process with the frontend, for the first time or after a restart."""
        neighbour = Neighbour(process, self.control)
        self._neighbours.append(neighbour)
        self._generation += 1
        await neighbour.link(self._generation)
        return neighbour

    def tell(self, message: Message) -> None:
        if isinstance(message, Drain):
            self._listen_no_more()
        self.control.send(message)

    def _listen_no_more(self) -> None:
        for one in self.listening:
            one.close()
        self.listening = ()

    async def report(self, kind: type[T]) -> T:
        """The next message to the supervisor, which must be of this kind.

        What became of the requests of a processor, and of what a drain waits for, is skipped
        unless it is asked for.
        """
        while True:
            message = await patiently(self.reports.get())
            if isinstance(message, kind):
                return message
            assert isinstance(message, Rescued | StillRunning), message

    def has_reported(self, kind: type[Message]) -> bool:
        """Whether such a message to the supervisor has come."""
        return kind in self._reported

    def _on_report(self) -> None:
        for message, descriptors in self.control.receive():
            if isinstance(message, Listening):
                self.listening = tuple(socket.socket(fileno=number) for number in descriptors)
            else:
                self._reported.add(type(message))
                self.reports.put_nowait(message)
        if self.control.closed:
            self._loop.remove_reader(self.control.fileno())

    def _on_log(self) -> None:
        try:
            while data := self._log.recv(1 << 16):
                self._rest += data
                *lines, self._rest = self._rest.split(b"\n")
                for line in lines:
                    self._heard(line.decode() + "\n")
            self._loop.remove_reader(self._log.fileno())
        except BlockingIOError:
            pass  # all is read

    def _heard(self, line: str) -> None:
        if "\x1falarm " in line:
            self.alarms += line
        else:
            self.log += line

    # -- the client's side -------------------------------------------------------------------

    async def get(self, path: str, **options: Any) -> tuple[int, Any, Any]:
        return await self.ask("GET", path, **options)

    async def post(self, path: str = "/v1/completions", **options: Any) -> tuple[int, Any, Any]:
        return await self.ask("POST", path, **({"data": b"{}"} | options))

    async def ask(self, method: str, path: str | URL, **options: Any) -> tuple[int, Any, Any]:
        """Send a request: status, headers and body of the answer, decoded if it is JSON."""
        async with self.http.request(method, path, **options) as response:
            body = await response.read()
            if response.content_type == "application/json" and method != "HEAD":
                return response.status, response.headers, json.loads(body)
            return response.status, response.headers, body.decode()

    async def raw(self, data: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open a connection of its own and send raw bytes on it."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self._connections.append(writer)
        writer.write(data)
        return reader, writer

    async def stream(self, path: str = "/v1/completions") -> tuple[Submit, Client]:
        """Begin a stream: what the processor got, and a client that has read the headers."""
        data = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{{}}"
        reader, writer = await self.raw(data.encode())
        submit = await self.processor.take(Submit)
        self.processor.send(Head(submit.request_id, 200, SSE))
        head = await patiently(reader.readuntil(b"\r\n\r\n"))
        return submit, Client(head.decode().lower(), reader, writer)


class Client:
    """Reads a stream from a socket of its own."""

    def __init__(
        self, head: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.head = head
        self.reader = reader
        self._writer = writer

    async def chunk(self) -> bytes:
        """The next chunk of the body; empty at the end."""
        size = int(await patiently(self.reader.readline()), 16)
        data: bytes = await patiently(self.reader.readexactly(size + 2))
        return data[:-2]

    def leave(self) -> None:
        self._writer.close()


def table(serving: bool, reason: str = "", **phases: Phase) -> ProcessTable:
    """A process table: every process is ready, except those in `phases`."""
    now = time.monotonic_ns()
    states = [
        ProcessState(
            name=process.name,
            role=process.role,
            index=process.index,
            phase=phases.get(process.role, Phase.READY),
            reason="",
            pid=1000,
            since_ns=now - 3_000_000_000,
            started_ns=now - 5_000_000_000,
            restarts=2,
        )
        for process in (FRONTEND, PROCESSOR, WORKER)
    ]
    return ProcessTable(states, serving, reason, workers=1)


def answer(request: ForProcessor, body: bytes = b'{"ok":true}', status: int = 200) -> Reply:
    return Reply(request.request_id, status, "application/json", body, Usage(7, 4, 3))


def chunks(submit: Submit, data: bytes, tokens: int = 1) -> Chunks:
    return Chunks([Chunk(submit.request_id, data, tokens)])


def last_chunk(submit: Submit, data: bytes) -> Chunks:
    """The last chunk of a stream, with its end."""
    return Chunks([Chunk(submit.request_id, data, 0)], finish(submit))


def finish(submit: Submit) -> Finish:
    return Finish(submit.request_id, Usage(10, 8, 2))
