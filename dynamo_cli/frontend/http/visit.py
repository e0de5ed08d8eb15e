"""One HTTP request while it is being answered, and the record of it afterwards."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

from aiohttp import web

from dynamo_cli.errors import DynamoError
from dynamo_cli.frontend.call import Call
from dynamo_cli.frontend.http import admission
from dynamo_cli.frontend.http.traceparent import TraceContext
from dynamo_cli.messages.request import Finish, Reply, Usage
from dynamo_cli.messages.routing import RoutingDecision
from dynamo_cli.watch.moves import merged
from dynamo_cli.watch.timelines import CLIENT_CLOSED, RequestRecord, TimelineView, running


class Visit:
    """One HTTP request while it is being answered.

    Attributes:
        arrival_ns: when the request arrived, on the monotonic clock.
        id: the request's id, the client's own or a new one.
        status: the status for counters and logs; 0 until it is known.
        error: the kind of failure if `outcome` does not tell it; empty if there is none.
        model: name of the model in the body.
        prompt: prompts in the body as JSON; empty unless prompts are logged.
        call: the call to a processor, if one was asked.
        outcome: the end of the processor's answer, if there was one.
        cors: headers that let a web page of another site read the answer.
        trace: the request's span; without tracing that of its caller, or None.
        close_on_refusal: a refusal closes the connection, since the body is not read to its end.
    """

    __slots__ = (
        "arrival_ns",
        "call",
        "close_on_refusal",
        "cors",
        "error",
        "http",
        "id",
        "model",
        "outcome",
        "path",
        "prompt",
        "status",
        "trace",
    )

    def __init__(self, http: web.BaseRequest) -> None:
        self.arrival_ns = time.monotonic_ns()
        self.http = http
        self.path = http.path
        self.id = admission.request_id(http.headers.get("X-Request-ID"))
        self.status = 0
        self.error = self.model = self.prompt = ""
        self.cors: dict[str, str] = {}
        self.trace: TraceContext | None = None
        self.call: Call | None = None
        self.outcome: Reply | Finish | None = None
        self.close_on_refusal = "Expect" in http.headers

    def fail(self, error: DynamoError) -> None:
        """Note the kind of failure, as counters and logs name it."""
        self.error = error.kind

    @property
    def names(self) -> dict[str, str]:
        """Headers with the ids of the request, for the answer and for the processor."""
        trace = {"traceparent": self.trace.header} if self.trace is not None else {}
        return {"X-Request-ID": self.id, **trace}

    @property
    def headers(self) -> dict[str, str]:
        """Headers that every answer gets."""
        return self.names | self.cors

    def record(self, ended_ns: int) -> RequestRecord:
        """The record of the request for logs, timelines and traces."""
        call, outcome = self.call, self.outcome
        # Without an end, of which a processor tells, it is known how many tokens have come.
        told = outcome or Finish("", Usage(output_tokens=call.tokens if call else 0))
        return RequestRecord(
            request_id=self.id,
            endpoint=self.path,
            model=self.model,
            status=self.status or CLIENT_CLOSED,
            arrival_ns=self.arrival_ns,
            ended_ns=ended_ns,
            error=told.error or self.error or (call.abort if call else ""),
            finish_reason=told.finish_reason,
            worker=call.worker if call else None,
            processor=call.processor.index if call else None,
            streamed=isinstance(outcome, Finish) or bool(call and call.first_token_ns),
            usage=told.usage,
            first_byte_ns=call.first_token_ns if call else 0,
            timeline=told.timeline,
            moves=merged([*call.moves, *call.worker_moves], told.moves) if call else (),
            session=admission.session(self.http.headers),
        )

    def running(self, decision: RoutingDecision | None, now_ns: int) -> TimelineView:
        """The request as it is now, while it runs.

        Args:
            decision: the last routing decision for it; None if none was made.
        """
        call = self.call
        tokens, begun = (call.tokens, call.begun) if call else (0, False)
        return running(self.record(now_ns), decision, tokens, now_ns, begun=begun)


RouteHandler = Callable[[Visit], Awaitable[web.StreamResponse]]
"""Answers a request, or raises `DynamoError`."""
