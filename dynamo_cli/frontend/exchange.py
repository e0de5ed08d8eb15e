"""Matches requests that were sent to processors with the answers that come back."""

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
    Move,
    Question,
    Reply,
    RequestMoved,
    Submit,
    SubmitProbe,
)
from dynamo_cli.topology import ProcessId
from dynamo_cli.units import SECOND_NS
from dynamo_cli.watch.meter import Meter

SLOW_READER = "slow_reader"
CLIENT_LEFT = "client_left"
SHUTDOWN = "shutdown"
"""Reasons for which calls are aborted, as counters name them."""

PROBE_RETRY_S = 0.05


class Call:
    """One request that was sent to a processor, and its answer as it arrives.

    Attributes:
        key: the id under which the processor knows the request; never used twice.
        processor: the process that has the request.
        arrival_ns: when the request arrived, on the monotonic clock.
        answer: the whole `Reply`, or the `Head` of a stream.
        finish: the end of a stream.
        write: writes bytes of a stream to the client; False if the client reads too slowly.
        first_token_ns: when the first tokens of a stream arrived; 0 before that.
        last_token_ns: when the last tokens arrived; 0 before the first ones.
        worker: index of the worker that serves the request; None until the answer begins.
        abort: why the processor was told to stop; empty if it was not.
        moves: how it went from processor to processor, in the order of time.
        worker_moves: how it went from worker to worker, as far as that was told while it ran.
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
        self.moves: list[Move] = []
        self.worker_moves: list[Move] = []
        self._early: list[bytes] = []
        self.write: Callable[[bytes], bool] = self._keep

    def _keep(self, data: bytes) -> bool:
        """Keep bytes that arrive before the handler has sent the head of the response."""
        self._early.append(data)
        return True

    def write_to(self, sink: Callable[[bytes], bool]) -> None:
        """Send the stream to `sink` from now on, beginning with the bytes that were kept."""
        self.write = sink
        sink(b"".join(self._early))
        self._early.clear()

    def fail(self, failure: DynamoError) -> None:
        """Give the failure to whoever waits for the answer or for its end."""
        for future in (self.answer, self.finish):
            if not future.done():
                future.set_exception(failure)
                future.exception()  # marks it as retrieved, since nobody may be waiting for it


class Exchange:
    """Sends requests to processors and keeps all calls that have not ended.

    Args:
        switchboard: links to the processors.
        meter: counts tokens, their latencies, and aborts.
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
        """Send a client's request to the processor with the fewest calls.

        Args:
            headers: those that the processor needs.
            api_id: the id of the request that the client knows.
            arrival_ns: when the request arrived, on the monotonic clock.

        Raises:
            NotReady: no processor can take the request.
        """
        return self._send(Submit(self._key(), api_id, endpoint, body, headers), arrival_ns)

    def ask(self, question: Question, api_id: str) -> Call:
        """Ask the processor with the fewest calls something about the model.

        Raises:
            NotReady: no processor can take the question.
        """
        return self._send(Ask(self._key(), api_id, question), time.monotonic_ns())

    @property
    def open_calls(self) -> int:
        """Number of calls that have not ended, of every kind."""
        return len(self._calls)

    @property
    def processors(self) -> list[ProcessId]:
        """The processors that can take requests."""
        return list(self._loads)

    def reaches(self, processor: ProcessId) -> bool:
        """Whether there is a link to a processor."""
        return processor in self._switchboard.links

    def change_adapter(
        self, processor: ProcessId, change: type[LoadAdapter | UnloadAdapter], adapter: Adapter
    ) -> Call:
        """Have a processor load or unload an adapter, even if it does not take requests yet.

        Raises:
            NotReady: too much is waiting for the processor.
        """
        message = change(self._key(), f"adapter-{adapter.number}", adapter)
        return self._send_to(processor, message, time.monotonic_ns())

    async def probe(self, worker: int, timeout_s: float) -> Reply | Head:
        """The answer of a worker to a readiness probe.

        Waits until a processor takes requests. If that processor is lost, the probe is repeated,
        since the worker is not at fault.

        Raises:
            TimeoutError: there was no answer for `timeout_s` after the probe was sent.
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
        """A new key; it is unique over restarts too, so that late answers match no other call."""
        return f"{self._life}.{next(self._numbers):x}"

    def _send(self, message: ForProcessor, arrival_ns: int) -> Call:
        if not self._loads:
            raise NotReady("no processor can take requests right now.", retry_after_s=1)
        return self._send_to(min(self._loads, key=self._loads.__getitem__), message, arrival_ns)

    def _send_to(self, processor: ProcessId, message: ForProcessor, arrival_ns: int) -> Call:
        call = Call(message.request_id, processor, arrival_ns)
        if not self._switchboard.send(processor, message):
            raise NotReady(f"too many requests wait for {processor.name}.", retry_after_s=1)
        self._calls[call.key] = call
        if processor in self._loads:
            self._loads[processor] += 1
        return call

    def close(self, call: Call, abort: str = "") -> None:
        """Forget a call; if `abort` gives a reason, tell its processor to stop working on it."""
        if self._calls.pop(call.key, None) is None:
            return
        if call.processor in self._loads:
            self._loads[call.processor] -= 1
        if abort:
            call.abort = abort
            self._meter.aborts[abort] += 1
            self._switchboard.owe(call.processor, Abort(call.key, abort))

    def abort_all(self, reason: str, failure: DynamoError) -> None:
        """Fail every call now, and tell the processors to stop."""
        for call in list(self._calls.values()):
            self.close(call, reason)
            call.fail(failure)

    # -- called by the process -------------------------------------------------------------

    def processor_up(self, processor: ProcessId) -> None:
        """A processor can take requests."""
        self._loads.setdefault(processor, 0)
        self._any_processor.set()

    def processor_down(self, processor: ProcessId, reason: str) -> None:
        """A processor is gone: its calls fail."""
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

    def moved(self, message: RequestMoved) -> None:
        """A request goes on at another worker, or found none."""
        self._meter.moves.add(message.api_id, message.move, time.monotonic_ns())
        if (call := self._calls.get(message.request_id)) is not None:
            call.worker_moves.append(message.move)

    def answered(self, message: Reply | Head) -> None:
        """A processor has answered a call, or begins a stream."""
        call = self._calls.get(message.request_id)
        if call is not None and not call.answer.done():
            call.worker = message.worker
            call.answer.set_result(message)

    def chunks(self, message: Chunks) -> None:
        """Write new bytes to their streams; this is the hot path."""
        now = time.monotonic_ns()
        for chunk in message.chunks:
            call = self._calls.get(chunk.request_id)
            if call is None:
                continue  # closed while the chunk was under way
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
        """A stream is complete."""
        call = self._calls.get(message.request_id)
        if call is not None and not call.finish.done():
            call.finish.set_result(message)
