"""The messages of one answer, on their way to the frontend."""

from __future__ import annotations

from collections.abc import Callable

from dynamo_cli.engines.vllm.front.trace import RequestTrace
from dynamo_cli.messages.request import Chunk, Finish, Head, Reply

Tell = Callable[[Reply | Head | Chunk | Finish], None]


class Outgoing:
    """A streamed answer.

    Args:
        trace: the trace of its request.
        tell: sends a message to the frontend.
        head: makes the message that begins the stream.

    Attributes:
        begun: whether the client has the status of the answer, so that an error cannot change it.
    """

    __slots__ = ("_head", "_headed", "_tell", "_trace", "begun")

    def __init__(
        self, trace: RequestTrace, tell: Tell, head: Callable[[RequestTrace], Head]
    ) -> None:
        self._trace = trace
        self._tell = tell
        self._head = head
        self._headed = False
        self.begun = trace.replay is not None

    def event(self, data: bytes) -> None:
        """Send an event."""
        trace = self._trace
        if not self._headed:
            # The head waits for the first event: until then an error can have a status.
            self.open()
        self._tell(Chunk(trace.request_id, data, trace.take_new_tokens(), trace.given.take()))

    def open(self) -> None:
        """Send the beginning of the stream, if that has not been done."""
        if not self._headed:
            self._tell(self._head(self._trace))
            self._headed = self.begun = True
