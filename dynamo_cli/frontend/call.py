"""One request that was sent to a processor."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec

from dynamo_cli.deaths import RequestDeaths
from dynamo_cli.errors import DynamoError
from dynamo_cli.messages.request import (
    Finish,
    ForProcessor,
    Head,
    Move,
    MoveReason,
    Reply,
    Resume,
    Submit,
)
from dynamo_cli.topology import ProcessId


class Call:
    """One request that was sent to a processor, and its answer as it arrives.

    Attributes:
        message: the message that was sent, or that the next processor is to get.
        processor: the process that has the request, or had it last.
        arrival_ns: when the request arrived, on the monotonic clock.
        answer: the whole `Reply`, or the `Head` of a stream.
        finish: the end of a stream.
        write: writes bytes of a stream to the client; False if the client reads too slowly.
        first_token_ns: when the first tokens of a stream arrived; 0 before that.
        last_token_ns: when the last tokens arrived; 0 before the first ones.
        worker: index of the worker that serves the request; None until the answer begins.
        abort: why the processor was told to stop; empty if it was not.
        moves: its moves from processor to processor, oldest first.
        worker_moves: its moves from worker to worker that were reported while it ran, oldest first.
        deaths: the deaths of processes that had it.
        tokens: number of tokens of its answer that have come.
        begun: whether an engine has begun to generate, of a request that is not streamed.
        chunks, size: number of chunks of its answer that have come, and of their bytes.
        output: the engine outputs from which these chunks were made, packed by the processor.
        reason: why it left its last processor.
        left_ns: when its last processor was lost, on the monotonic clock; 0 before any was lost,
            and again once the next token has come.
        patience: timer that ends its wait for a processor; None while it has one.
    """

    def __init__(self, message: ForProcessor, processor: ProcessId, arrival_ns: int) -> None:
        loop = asyncio.get_running_loop()
        self.message = message
        self.processor = processor
        self.arrival_ns = arrival_ns
        self.answer: asyncio.Future[Reply | Head] = loop.create_future()
        self.finish: asyncio.Future[Finish] = loop.create_future()
        self.first_token_ns = self.last_token_ns = 0
        self.worker: int | None = None
        self.abort = ""
        self.moves: list[Move] = []
        self.worker_moves: list[Move] = []
        self.deaths = RequestDeaths()
        self.tokens = self.chunks = self.size = self.left_ns = 0
        self.begun = False
        self.output = bytearray()
        self.reason = MoveReason.DIED
        self.patience: asyncio.TimerHandle | None = None
        self._early: list[bytes] = []
        self.write: Callable[[bytes], bool] = self._keep

    @property
    def key(self) -> str:
        """The id under which the processor knows the request; never used twice."""
        return self.message.request_id

    @property
    def over(self) -> bool:
        """Whether the whole answer has come, or nobody waits for it any more."""
        answer = self.answer
        if answer.cancelled():  # its handler was, because the client has left
            return True
        whole = answer.done() and not answer.exception() and isinstance(answer.result(), Reply)
        return whole or self.finish.done()

    @property
    def unstarted(self) -> bool:
        """Whether it is a request to the model for which no token has come."""
        begun = self.first_token_ns or self.deaths.has_begun
        return isinstance(self.message, Submit) and not begun and not self.over

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

    def begin_again(self, key: str, failure: str) -> None:
        """Make the message for the next processor, which resumes a stream after the last chunk.

        Args:
            key: the new key.
            failure: message of the error that the client gets if the stream cannot be resumed.
        """
        message = msgspec.structs.replace(self.message, request_id=key)
        if isinstance(message, Submit) and self.answer.done():
            resume = Resume(self.chunks, self.size, bytes(self.output), failure)
            message = msgspec.structs.replace(message, resume=resume)
        self.message = message

    def resumed(self, now_ns: int) -> None:
        """Note that the first token after the last move, or the whole answer, has come."""
        self.left_ns = 0
        for place, move in enumerate(self.moves):
            if not move.resumed_ns:
                self.moves[place] = msgspec.structs.replace(move, resumed_ns=now_ns)


def why_failed(answer: Reply | Head) -> str:
    """Return why the answer to a probe is an error; empty if it is none."""
    if isinstance(answer, Head):
        return "a probe was answered with a stream"
    if answer.status == 200:
        return ""
    return f"status {answer.status}: {answer.body.decode(errors='replace')}"
