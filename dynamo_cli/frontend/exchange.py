"""Requests in flight between HTTP handlers and processors."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import deque
from collections.abc import AsyncIterator

from dynamo_cli.errors import DynamoError, NotReady, PeerLost
from dynamo_cli.ipc.switchboard import Switchboard
from dynamo_cli.messages import Abort, Chunks, Endpoint, Finish, Head, Reply, Submit, Usage
from dynamo_cli.telemetry.meter import Meter
from dynamo_cli.telemetry.window import SECOND_NS
from dynamo_cli.topology import ProcessId

SLOW_READER = "slow_reader"
CLIENT_LEFT = "client_left"
SHUTDOWN = "shutdown"


class SlowReader(Exception):
    """More of an answer waits than its reader may leave."""


class Call:
    """One request: its answer as it comes.

    Attributes:
        answer: the whole `Reply`, or the `Head` of a stream.
        processor: that works on it.
    """

    def __init__(self, key: str, processor: ProcessId, arrival_ns: int, max_pending: int) -> None:
        self.key = key
        self.processor = processor
        self.arrival_ns = arrival_ns
        self.answer: asyncio.Future[Reply | Head] = asyncio.get_running_loop().create_future()
        self.usage = Usage()
        self.error = ""
        self.last_token_ns = 0
        self._max_pending = max_pending
        self._pending_bytes = 0
        self._data: deque[bytes] = deque()
        self._failure: Exception | None = None
        self._ended = False
        self._news = asyncio.Event()

    def put(self, data: bytes) -> bool:
        """Keep bytes for the handler; False: too many wait already, the stream is over."""
        if self._pending_bytes + len(data) > self._max_pending:
            self.fail(SlowReader())
            return False
        self._data.append(data)
        self._pending_bytes += len(data)
        self._news.set()
        return True

    def end(self, usage: Usage, error: str) -> None:
        self.usage, self.error, self._ended = usage, error, True
        self._news.set()

    def fail(self, failure: Exception) -> None:
        """The answer will not come (any further)."""
        self._failure, self._ended = failure, True
        if not self.answer.done():
            self.answer.set_exception(failure)
            self.answer.exception()  # nobody may be waiting any more
        self._news.set()

    async def data(self) -> AsyncIterator[bytes]:
        """The stream, as it comes; what came together comes as one.

        Raises:
            SlowReader, DynamoError: it broke off.
        """
        while True:
            while self._data and not isinstance(self._failure, SlowReader):
                data = self._data.popleft() if len(self._data) == 1 else b"".join(self._data)
                self._data.clear()
                yield data
                self._pending_bytes -= len(data)
            if self._failure is not None:
                raise self._failure
            if self._ended:
                return
            self._news.clear()
            await self._news.wait()


class Exchange:
    """All calls, by the key under which their processor knows them.

    Args:
        switchboard: links to the processors.
        meter: gets tokens and their times.
        max_pending_bytes: of one stream that its reader does not take.
    """

    def __init__(self, switchboard: Switchboard, meter: Meter, max_pending_bytes: int) -> None:
        self._switchboard = switchboard
        self._meter = meter
        self._max_pending_bytes = max_pending_bytes
        self._calls: dict[str, Call] = {}
        self._loads: dict[ProcessId, int] = {}
        self._numbers = itertools.count(1)

    def __len__(self) -> int:
        return len(self._calls)

    def submit(
        self,
        endpoint: Endpoint,
        body: bytes,
        headers: list[tuple[str, str]],
        request_id: str,
        arrival_ns: int,
    ) -> Call:
        """Send a request to the processor with the fewest.

        Raises:
            NotReady: there is none.
        """
        return self._send(Submit(self._key(request_id), endpoint, body, headers, arrival_ns))

    def probe(self, worker: int) -> Call:
        """Send the readiness probe of a worker; raises `NotReady` as `submit` does."""
        key = self._key(f"probe-{worker}")
        now = time.monotonic_ns()
        return self._send(
            Submit(key, Endpoint.COMPLETIONS, b"", [], now, worker=worker, probe=True)
        )

    def _key(self, request_id: str) -> str:
        """Clients may use an id twice at a time; processors must not see that."""
        return (
            request_id if request_id not in self._calls else f"{request_id}~{next(self._numbers)}"
        )

    def _send(self, submit: Submit) -> Call:
        if not self._loads:
            raise NotReady("no processor can take requests right now.", retry_after_s=1)
        processor = min(self._loads, key=self._loads.__getitem__)
        call = Call(submit.request_id, processor, submit.arrival_ns, self._max_pending_bytes)
        if not self._switchboard.send(processor, submit):
            raise NotReady(f"{processor.name} has too much waiting.", retry_after_s=1)
        self._calls[call.key] = call
        self._loads[processor] += 1
        return call

    def close(self, call: Call, abort: str = "") -> None:
        """The handler is done with a call; `abort` says why its processor should stop working."""
        if self._calls.pop(call.key, None) is None:
            return
        if call.processor in self._loads:
            self._loads[call.processor] -= 1
        if abort:
            self._meter.aborts[abort] += 1
            self._switchboard.send(call.processor, Abort(call.key, abort))

    def fail_all(self, failure: DynamoError) -> None:
        """End every call now."""
        for call in list(self._calls.values()):
            call.fail(failure)

    # -- what processors say ---------------------------------------------------------------

    def processor_up(self, processor: ProcessId) -> None:
        self._loads.setdefault(processor, 0)

    def processor_down(self, processor: ProcessId, reason: str) -> None:
        self._loads.pop(processor, None)
        error = PeerLost(
            f"{processor.name} stopped while it held this request ({reason}). Send it again."
        )
        for call in [call for call in self._calls.values() if call.processor == processor]:
            call.error = "processor_lost"
            call.fail(error)

    def answered(self, message: Reply | Head) -> None:
        call = self._calls.get(message.request_id)
        if call is not None and not call.answer.done():
            call.answer.set_result(message)

    def chunks(self, message: Chunks) -> None:
        now = time.monotonic_ns()
        for chunk in message.chunks:
            call = self._calls.get(chunk.request_id)
            if call is None:
                continue
            if chunk.tokens:
                self._time_tokens(call, now)
            call.put(chunk.data)

    def _time_tokens(self, call: Call, now_ns: int) -> None:
        if call.last_token_ns:
            self._meter.next_token((now_ns - call.last_token_ns) / SECOND_NS, now_ns)
        else:
            self._meter.first_token((now_ns - call.arrival_ns) / SECOND_NS, now_ns)
        call.last_token_ns = now_ns

    def finished(self, message: Finish) -> None:
        if (call := self._calls.get(message.request_id)) is not None:
            call.end(message.usage, message.error)
