"""Requests in flight between HTTP handlers and processors."""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections.abc import Callable

from dynamo_cli.config import Adapter
from dynamo_cli.errors import DynamoError, NotReady, PeerLost, Unavailable
from dynamo_cli.ipc.switchboard import Switchboard
from dynamo_cli.messages.admin import LoadAdapter, UnloadAdapter
from dynamo_cli.messages.request import (
    Abort,
    Ask,
    Chunks,
    Endpoint,
    Finish,
    ForProcessor,
    Head,
    Question,
    Reply,
    Submit,
    SubmitProbe,
)
from dynamo_cli.topology import ProcessId
from dynamo_cli.units import SECOND_NS
from dynamo_cli.watch.meter import Meter

SLOW_READER = "slow_reader"
CLIENT_LEFT = "client_left"
SHUTDOWN = "shutdown"

PROBE_RETRY_S = 0.05


class Call:
    """One request: its answer as it comes.

    Attributes:
        answer: the whole `Reply`, or the `Head` of a stream.
        finish: done when a stream is complete.
        write: takes the bytes of a stream; False: its reader is too slow.
        first_token_ns: when the first tokens of a stream came; 0 before any.
        last_token_ns: when the newest ones did; 0 before any.
        worker: index of the one that serves it, once the answer has begun; else None.
        abort: why its processor was told to stop; empty when it was not.
    """

    def __init__(self, key: str, processor: ProcessId, arrival_ns: int) -> None:
        loop = asyncio.get_running_loop()
        self.key = key
        self.processor = processor
        self.arrival_ns = arrival_ns
        self.answer: asyncio.Future[Reply | Head] = loop.create_future()
        self.finish: asyncio.Future[Finish] = loop.create_future()
        self.first_token_ns = self.last_token_ns = 0
        self.worker: int | None = None
        self.abort = ""
        self._early: list[bytes] = []
        self.write: Callable[[bytes], bool] = self._keep

    def _keep(self, data: bytes) -> bool:
        """Bytes that come before the handler has sent the head, a turn of the loop later."""
        self._early.append(data)
        return True

    def write_to(self, sink: Callable[[bytes], bool]) -> None:
        """From now on the stream goes straight to `sink`; what came before goes first."""
        self.write = sink
        sink(b"".join(self._early))
        self._early.clear()

    def fail(self, failure: DynamoError) -> None:
        """The answer will not come (any further): whoever waits for it gets the failure."""
        for future in (self.answer, self.finish):
            if not future.done():
                future.set_exception(failure)
                future.exception()  # nobody may be waiting for it


class Exchange:
    """All calls, by the key under which their processor knows them.

    Args:
        switchboard: links to the processors.
        meter: gets tokens and their times, and aborts.
    """

    def __init__(self, switchboard: Switchboard, meter: Meter) -> None:
        self._switchboard = switchboard
        self._meter = meter
        self._calls: dict[str, Call] = {}
        self._loads: dict[ProcessId, int] = {}
        self._any_processor = asyncio.Event()
        self._life, self._numbers = f"{os.getpid():x}.{time.monotonic_ns():x}", itertools.count(1)

    def submit(
        self,
        endpoint: Endpoint,
        body: bytes,
        headers: list[tuple[str, str]],
        api_id: str,
        arrival_ns: int,
    ) -> Call:
        """Send a client's request to the processor that has the fewest.

        Raises:
            NotReady: there is none, or it takes no more.
        """
        return self._send(Submit(self._key(), api_id, endpoint, body, headers), arrival_ns)

    def ask(self, question: Question, api_id: str) -> Call:
        """Ask any processor something about the model.

        Raises:
            NotReady: there is none, or it takes no more.
        """
        return self._send(Ask(self._key(), api_id, question), time.monotonic_ns())

    @property
    def open_calls(self) -> int:
        """Of every kind."""
        return len(self._calls)

    @property
    def processors(self) -> list[ProcessId]:
        """Those that take requests."""
        return list(self._loads)

    def reaches(self, processor: ProcessId) -> bool:
        """Whether there is a link to it."""
        return processor in self._switchboard.links

    def change_adapter(
        self, processor: ProcessId, change: type[LoadAdapter | UnloadAdapter], adapter: Adapter
    ) -> Call:
        """Have one processor load or unload an adapter; it need not take requests yet.

        Raises:
            NotReady: it takes no more.
        """
        message = change(self._key(), f"adapter-{adapter.number}", adapter)
        return self._send_to(processor, message, time.monotonic_ns())

    async def probe(self, worker: int, timeout_s: float) -> Reply | Head:
        """The answer of a worker to a readiness probe.

        Waits for a processor, and asks again when one is lost: that is not the worker's fault.

        Raises:
            TimeoutError: a processor was asked, and nothing came for so long.
        """
        while True:
            await self._any_processor.wait()
            try:
                async with asyncio.timeout(timeout_s):
                    return await self._probe_once(worker)
            except Unavailable:
                await asyncio.sleep(PROBE_RETRY_S)

    async def _probe_once(self, worker: int) -> Reply | Head:
        probe = SubmitProbe(self._key(), f"probe-{worker}", worker)
        call = self._send(probe, time.monotonic_ns())
        try:
            return await call.answer
        finally:
            self.close(call)

    def _key(self) -> str:
        """No call ever had it, of this life or another: what comes late meets nobody."""
        return f"{self._life}.{next(self._numbers):x}"

    def _send(self, message: ForProcessor, arrival_ns: int) -> Call:
        if not self._loads:
            raise NotReady("no processor can take requests right now.", retry_after_s=1)
        return self._send_to(min(self._loads, key=self._loads.__getitem__), message, arrival_ns)

    def _send_to(self, processor: ProcessId, message: ForProcessor, arrival_ns: int) -> Call:
        call = Call(message.request_id, processor, arrival_ns)
        if not self._switchboard.send(processor, message):
            raise NotReady(f"{processor.name} has too much waiting.", retry_after_s=1)
        self._calls[call.key] = call
        if processor in self._loads:
            self._loads[processor] += 1
        return call

    def close(self, call: Call, abort: str = "") -> None:
        """Nothing more is wanted of a call; `abort` says why its processor should stop working."""
        if self._calls.pop(call.key, None) is None:
            return
        if call.processor in self._loads:
            self._loads[call.processor] -= 1
        if abort:
            call.abort = abort
            self._meter.aborts[abort] += 1
            self._switchboard.owe(call.processor, Abort(call.key, abort))

    def abort_all(self, reason: str, failure: DynamoError) -> None:
        """End every call now, here and in the processors."""
        for call in list(self._calls.values()):
            self.close(call, reason)
            call.fail(failure)

    # -- what processors say ---------------------------------------------------------------

    def processor_up(self, processor: ProcessId) -> None:
        """It can take requests."""
        self._loads.setdefault(processor, 0)
        self._any_processor.set()

    def processor_down(self, processor: ProcessId, reason: str) -> None:
        """It is gone, and with it what it worked on."""
        self._loads.pop(processor, None)
        if not self._loads:
            self._any_processor.clear()
        failure = PeerLost(
            f"{processor.name} stopped while it held this request ({reason}); send it again.",
            retry_after_s=1,
        )
        for call in [call for call in self._calls.values() if call.processor == processor]:
            self.close(call)
            call.fail(failure)

    def answered(self, message: Reply | Head) -> None:
        call = self._calls.get(message.request_id)
        if call is not None and not call.answer.done():
            call.worker = message.worker
            call.answer.set_result(message)

    def chunks(self, message: Chunks) -> None:
        """Write what has come to the streams it is for: the hot path."""
        now = time.monotonic_ns()
        for chunk in message.chunks:
            call = self._calls.get(chunk.request_id)
            if call is None:
                continue  # aborted while this was under way
            if chunk.tokens:
                self._time_tokens(call, chunk.tokens, now)
            if not call.write(chunk.data):
                self.close(call, SLOW_READER)

    def _time_tokens(self, call: Call, tokens: int, now_ns: int) -> None:
        meter = self._meter
        meter.recent_output.add(tokens, now_ns)
        if call.last_token_ns:
            meter.next_token((now_ns - call.last_token_ns) / SECOND_NS, now_ns, call.worker)
        else:
            call.first_token_ns = now_ns
            meter.first_token((now_ns - call.arrival_ns) / SECOND_NS, now_ns, call.worker)
        call.last_token_ns = now_ns

    def finished(self, message: Finish) -> None:
        call = self._calls.get(message.request_id)
        if call is not None and not call.finish.done():
            call.finish.set_result(message)
