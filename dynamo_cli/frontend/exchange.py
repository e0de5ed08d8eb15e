"""Sends requests to processors, matches the answers, and moves requests of lost processors."""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections.abc import Iterable

from dynamo_cli.config import Adapter, MigrationRule
from dynamo_cli.deaths import refusal
from dynamo_cli.errors import DynamoError, NotReady, Overloaded, PeerLost, Unavailable
from dynamo_cli.frontend.call import Call
from dynamo_cli.host import vital
from dynamo_cli.ipc.switchboard import Switchboard
from dynamo_cli.messages.admin import LoadAdapter, UnloadAdapter
from dynamo_cli.messages.lifecycle import Rescued, move_reason
from dynamo_cli.messages.request import (
    Abort,
    Ask,
    Chunks,
    Endpoint,
    Finish,
    ForProcessor,
    Head,
    Move,
    MoveReason,
    Question,
    Reply,
    RequestMoved,
    Submit,
    SubmitProbe,
)
from dynamo_cli.topology import ProcessId
from dynamo_cli.units import SECOND_NS
from dynamo_cli.watch.meter import Meter
from dynamo_cli.watch.queues import PendingAnswers

SLOW_READER = "slow_reader"
CLIENT_LEFT = "client_left"
SHUTDOWN = "shutdown"
POISON = "poison"
"""Reasons for which calls are aborted, as counters name them."""

PROBE_RETRY_S = 0.05
"""Pause before a probe whose processor was lost is sent again, seconds."""

SEED_BYTES = 16
"""Size of the random seed of a request, from which its ids are made; see `Submit`."""


class Exchange:
    """Sends requests to processors and keeps all calls that have not ended.

    Args:
        switchboard: links to the processors.
        meter: counts tokens, their latencies, and aborts.
        migration: how requests move when their processor is lost.
    """

    def __init__(
        self,
        switchboard: Switchboard,
        meter: Meter,
        migration: MigrationRule = MigrationRule(),  # noqa: B008 - frozen
    ) -> None:
        self._switchboard = switchboard
        self._meter = meter
        self._migration = migration
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
            headers: the headers that the processor needs.
            api_id: the id of the request that the client knows.
            arrival_ns: when the request arrived, on the monotonic clock.

        Raises:
            NotReady: no processor can take the request.
        """
        seed, now_s = os.urandom(SEED_BYTES), time.time()
        submit = Submit(self._key(), api_id, endpoint, body, headers, seed, now_s)
        return self._send(submit, arrival_ns)

    def ask(self, question: Question, api_id: str) -> Call:
        """Ask the processor with the fewest calls something about the model.

        Raises:
            NotReady: no processor can take the question.
        """
        return self._send(Ask(self._key(), api_id, question), time.monotonic_ns())

    def load(self, now_ns: int) -> PendingAnswers:
        """Return how many calls have not ended, and which of them wait for their first token."""
        calls = self._calls.values()
        unstarted = [call.arrival_ns for call in calls if call.unstarted]
        oldest_s = (now_ns - min(unstarted)) / SECOND_NS if unstarted else 0.0
        submitted = sum(isinstance(call.message, Submit) for call in calls)
        return PendingAnswers(len(calls), submitted, len(unstarted), oldest_s)

    @property
    def processors(self) -> list[ProcessId]:
        """The processors that can take requests."""
        return list(self._loads)

    def reaches(self, processor: ProcessId, generation: int) -> bool:
        """Whether there is still this link to a processor, not one to its next life or none."""
        link = self._switchboard.links.get(processor)
        return link is not None and link.generation == generation

    def change_adapter(
        self, processor: ProcessId, change: type[LoadAdapter | UnloadAdapter], adapter: Adapter
    ) -> Call:
        """Have a processor load or unload an adapter, even if it does not take requests yet.

        Raises:
            Overloaded: too much is waiting for the processor.
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
            raise NotReady(
                "no processor can take requests right now; try again soon.", retry_after_s=1
            )
        return self._send_to(min(self._loads, key=self._loads.__getitem__), message, arrival_ns)

    def _send_to(self, processor: ProcessId, message: ForProcessor, arrival_ns: int) -> Call:
        call = Call(message, processor, arrival_ns)
        if not self._switchboard.send(processor, message):
            raise Overloaded(
                f"too many requests wait for {processor.name}; try again soon.", retry_after_s=1
            )
        self._calls[call.key] = call
        if processor in self._loads:
            self._loads[processor] += 1
        return call

    def close(self, call: Call, abort: str = "") -> None:
        """Forget a call; if `abort` gives a reason, tell its processor to stop working on it."""
        if self._calls.pop(call.key, None) is None:
            return
        if call.patience is not None:
            call.patience.cancel()
        elif call.processor in self._loads:
            self._loads[call.processor] -= 1
        if abort:
            call.abort = abort
            self._meter.aborts[abort] += 1
            self._switchboard.owe(call.processor, Abort(call.key, abort))

    def abort_all(self, reason: str, failure: DynamoError) -> None:
        """Fail every call now, and tell the processors to stop."""
        for call in list(self._calls.values()):
            self._end(call, failure, reason)

    # -- called by the process -------------------------------------------------------------

    def processor_up(self, processor: ProcessId) -> None:
        """Note that a processor can take requests, and send it those that wait for one."""
        self._loads.setdefault(processor, 0)
        self._any_processor.set()
        for call in [call for call in self._calls.values() if call.patience is not None]:
            self._place(call)

    def processor_down(self, processor: ProcessId, reason: str) -> None:
        """Move the requests of a lost processor; fail those that must not move.

        Probes and changes of adapters always fail: they concern that processor or are repeated.

        Args:
            reason: how the processor ended, for the errors.
        """
        self._loads.pop(processor, None)
        if not self._loads:
            self._any_processor.clear()
        failure = PeerLost(
            f"{processor.name} stopped while it held this request ({reason}); send it again.",
            retry_after_s=1,
        )
        # A call that waits for a processor left this one at an earlier death.
        left = [
            call
            for call in self._calls.values()
            if call.processor == processor and call.patience is None
        ]
        wanted = [call for call in left if isinstance(call.message, Submit | Ask)]
        for call in left:
            if call not in wanted:
                self._end(call, failure)
        unfinished = [call for call in wanted if not call.over]
        kind = move_reason(reason)
        moved = sum(self._leave(call, kind, failure) for call in unfinished)
        self._switchboard.report(Rescued(processor.name, moved, len(unfinished) - moved))

    def _leave(self, call: Call, reason: MoveReason, failure: PeerLost) -> bool:
        """Take a call away from its lost processor; False if it fails instead.

        It gets a new key, so that late messages of the lost processor match no call.
        """
        call.reason = reason
        if isinstance(call.message, Submit) and reason is MoveReason.DIED:
            now_ns = time.monotonic_ns()
            call.deaths.add(call.processor.name, None, now_ns, call.tokens)
        if len(call.moves) >= self._migration.limit:
            self._end(call, failure)
            return False
        if call.deaths.fatal:
            self._end(call, refusal(call.message.api_id, call.deaths.count))
            return False
        del self._calls[call.key]
        call.begin_again(self._key(), failure.message)
        self._calls[call.key] = call
        call.left_ns = time.monotonic_ns()
        call.patience = asyncio.get_running_loop().call_later(
            self._migration.timeout_s, self._give_up, call, failure
        )
        if self._loads:
            self._place(call)
        return True

    def _place(self, call: Call) -> None:
        """Send a call that waits for a processor to the one with the fewest calls."""
        assert call.patience is not None
        call.patience.cancel()
        call.patience = None
        source, target = call.processor, min(self._loads, key=self._loads.__getitem__)
        call.processor = target
        self._loads[target] += 1
        self._switchboard.owe(target, call.message)
        self._note(call, source, target.index)

    @vital.callback
    def _give_up(self, call: Call, failure: PeerLost) -> None:
        self._note(call, call.processor, None)
        self._end(call, failure)

    def _note(self, call: Call, source: ProcessId, target: int | None) -> None:
        move = Move(source.role, source.index, target, call.reason, call.tokens, call.left_ns)
        call.moves.append(move)
        self._meter.moves.add(call.message.api_id, move, time.monotonic_ns())

    def _end(self, call: Call, failure: DynamoError, abort: str = "") -> None:
        self.close(call, abort)
        call.fail(failure)

    def moved(self, message: RequestMoved) -> None:
        """Note that a request moved to another worker, or found none in time.

        If two processes have died while they ran it, it is refused as a poison request.
        """
        move = message.move
        self._meter.moves.add(message.api_id, move, time.monotonic_ns())
        if (call := self._calls.get(message.request_id)) is None:
            return
        call.worker_moves.append(move)
        if move.reason is MoveReason.DIED:
            process, made = f"{move.role} {move.source}", move.output_tokens
            call.deaths.add(process, made, move.left_ns, call.tokens)
            if call.deaths.fatal:
                self._end(call, refusal(message.api_id, call.deaths.count), POISON)

    def begun(self, keys: Iterable[str]) -> None:
        """Note that engines have begun to generate for these requests, which are not streamed."""
        for key in keys:
            if (call := self._calls.get(key)) is not None:
                call.begun = True
                call.deaths.begun()

    def answered(self, message: Reply | Head) -> None:
        """Take a whole answer, or the head of a stream."""
        call = self._calls.get(message.request_id)
        if call is None:
            return
        if call.left_ns and isinstance(message, Reply):
            call.resumed(time.monotonic_ns())
        if not call.answer.done():
            call.worker = message.worker
            call.answer.set_result(message)
        elif call.left_ns and message.worker is not None:
            call.worker = message.worker  # the stream is resumed there

    def chunks(self, message: Chunks) -> None:
        """Write new bytes to their streams, and note the end of one; this is the hot path."""
        now = time.monotonic_ns()
        for chunk in message.chunks:
            call = self._calls.get(chunk.request_id)
            if call is None:
                continue  # closed while the chunk was under way
            if chunk.tokens:
                self._time_tokens(call, chunk.tokens, now)
            call.chunks += 1
            call.size += len(chunk.data)
            call.output += chunk.output
            if not call.write(chunk.data):
                self.close(call, SLOW_READER)
        if message.finish is not None:
            self.finished(message.finish)

    def _time_tokens(self, call: Call, tokens: int, now_ns: int) -> None:
        meter = self._meter
        call.tokens += tokens
        if call.left_ns:
            call.resumed(now_ns)
        meter.recent_output.add(tokens, now_ns)
        if call.last_token_ns:
            meter.next_token((now_ns - call.last_token_ns) / SECOND_NS, now_ns, call.worker)
        else:
            call.first_token_ns = now_ns
            meter.first_token((now_ns - call.arrival_ns) / SECOND_NS, now_ns, call.worker)
        call.last_token_ns = now_ns

    def finished(self, message: Finish) -> None:
        """Note that a stream is complete."""
        call = self._calls.get(message.request_id)
        if call is not None and not call.finish.done():
            call.finish.set_result(message)
