"""Answers requests for the model: forwards them to a processor and writes its answer."""

from __future__ import annotations

import asyncio
import time

import orjson
from aiohttp import web

from dynamo_cli import shapes
from dynamo_cli.config import FrontendConfig
from dynamo_cli.deaths import FATAL_DEATHS
from dynamo_cli.errors import DynamoError, NotFound, PeerLost, PoisonRequest
from dynamo_cli.frontend.after import access
from dynamo_cli.frontend.call import Call
from dynamo_cli.frontend.exchange import CLIENT_LEFT, Exchange
from dynamo_cli.frontend.http import admission
from dynamo_cli.frontend.http.body import BodyReader
from dynamo_cli.frontend.http.poison import Suspects
from dynamo_cli.frontend.http.server import json_response
from dynamo_cli.frontend.http.stream import EventStreamWriter
from dynamo_cli.frontend.http.visit import Visit
from dynamo_cli.messages.request import Endpoint, Finish, Head, Question, Reply
from dynamo_cli.watch.meter import Meter
from dynamo_cli.watch.state import TreeState

GENERATE_PATHS = frozenset(map(str, Endpoint))
"""Paths of requests that run the model, or its tokenizer."""

_DEATHS = {str(PeerLost.code): 1, str(PoisonRequest.code): FATAL_DEATHS}
"""By error code: how many deaths of processes a request that ends with this error stands for."""

MODEL_PREFIX = Question.MODELS + "/"


class ModelRequests:
    """Answers what only a processor can answer.

    Args:
        config: limits.
        exchange: sends requests to processors and receives their answers.
        bodies: reads request bodies.
        meter: counts requests in flight, tokens and failures.
        tree: says whether requests can be served.

    Attributes:
        running: the requests that run now.
    """

    def __init__(
        self,
        config: FrontendConfig,
        exchange: Exchange,
        bodies: BodyReader,
        meter: Meter,
        tree: TreeState,
    ) -> None:
        self._config = config
        self._exchange = exchange
        self._bodies = bodies
        self._meter = meter
        self._tree = tree
        self._suspects = Suspects()
        self._one_ended = asyncio.Event()
        self.running: set[Visit] = set()

    async def idle(self) -> None:
        """Wait until no request for the model is in flight."""
        while self._meter.in_flight:
            self._one_ended.clear()
            await self._one_ended.wait()

    def _check_serving(self) -> None:
        admission.check_serving(self._tree.up, self._tree.draining, self._tree.reason)

    # -- requests that run the model ---------------------------------------------------------

    async def generate(self, visit: Visit) -> web.StreamResponse:
        """Admit a request, have a processor answer it, and send the answer.

        Raises:
            DynamoError: it is refused, or fails before its answer begins.
        """
        self._check_serving()
        admission.check_headers(visit.http.headers)
        admission.check_load(self._meter.in_flight, self._config.max_inflight)
        body = await self._bodies.read_json(visit)
        self._note_content(visit, body)
        # A request counts as in flight from here on, so that slow bodies do not use up the limit.
        self._check_serving()
        admission.check_load(self._meter.in_flight, self._config.max_inflight)
        self._meter.in_flight += 1
        self.running.add(visit)
        try:
            return await self._guarded(visit, body)
        finally:
            self.running.discard(visit)
            self._meter.in_flight -= 1
            self._one_ended.set()

    def _note_content(self, visit: Visit, body: bytes) -> None:
        """Keep what logs tell of the body. Raises `InvalidRequest` if it is no JSON object."""
        content = admission.skim_body(body)
        visit.model = admission.model_of(content)
        if self._config.log_prompts:
            visit.prompt = access.prompt_of(content)

    async def _guarded(self, visit: Visit, body: bytes) -> web.StreamResponse:
        """Forward a request unless it is refused as poison, and note deaths while it runs."""
        self._suspects.check(visit.path, body, visit.id, time.monotonic_ns())
        error = ""
        try:
            response = await self._forward(visit, body)
            error = visit.error or (visit.outcome.error if visit.outcome is not None else "")
        except (PeerLost, PoisonRequest) as failure:
            error = failure.code or ""
            raise
        finally:
            if times := _DEATHS.get(error):
                self._suspects.died(visit.path, body, time.monotonic_ns(), times)
        if not error:
            self._suspects.survived(visit.path, body)
        return response

    async def _forward(self, visit: Visit, body: bytes) -> web.StreamResponse:
        """Have a processor answer."""
        call = self._exchange.submit(
            Endpoint(visit.path),
            body,
            admission.forwarded(visit.http.headers, visit.names),
            visit.id,
            visit.arrival_ns,
        )
        visit.call = call
        try:
            answer = await call.answer
            if isinstance(answer, Head):
                return await self._stream(visit, call, answer)
        except (asyncio.CancelledError, ConnectionError):
            self._exchange.close(call, CLIENT_LEFT)
            raise
        finally:
            self._exchange.close(call)
        visit.outcome = answer
        now = time.monotonic_ns()
        self._meter.used(answer.usage, now)
        self._meter.recent_output.add(answer.usage.output_tokens, now)
        self._meter.failed(answer.error)
        return response_of(answer)

    async def _stream(self, visit: Visit, call: Call, head: Head) -> web.StreamResponse:
        """Stream to the client; if the stream fails, its last event is the error."""
        limit = self._config.max_pending_bytes
        stream = await EventStreamWriter.start(visit.http, head, visit.headers, limit)
        call.write_to(stream.write)
        try:
            finish = await call.finish
        except asyncio.CancelledError:
            # With the handler, its future was cancelled, unless that had a result before.
            ended = call.finish
            if ended.done() and not ended.cancelled() and ended.exception() is None:
                # The client has left, but after the last event: it has the whole answer.
                self._finished(visit, ended.result())
                visit.status = head.status
                self._exchange.close(call)
            raise
        except DynamoError as error:
            visit.status = error.http_status
            visit.fail(error)
            self._meter.failed(visit.error)
            told = error.body()["error"]
            stream.write(shapes.failure_event(visit.path, error.http_status, told))
        else:
            self._finished(visit, finish)
        return stream.response

    def _finished(self, visit: Visit, finish: Finish) -> None:
        visit.outcome = finish
        self._meter.used(finish.usage, time.monotonic_ns())
        self._meter.failed(finish.error)

    # -- what the model is -------------------------------------------------------------------

    async def models(self, visit: Visit) -> web.StreamResponse:
        """Answer with the list of models that can be asked."""
        return response_of(await self.ask(Question.MODELS, visit))

    async def model(self, visit: Visit) -> web.StreamResponse:
        """Answer with one model. Raises `NotFound` if there is no such model."""
        name = visit.path.removeprefix(MODEL_PREFIX)
        reply = await self.ask(Question.MODELS, visit)
        if reply.status != 200:
            return response_of(reply)
        for model in orjson.loads(reply.body)["data"]:
            if model["id"] == name:
                return json_response(model)
        raise NotFound(
            f"the model {name!a} does not exist; GET {Question.MODELS} lists those that do."
        )

    async def ask(self, question: Question, visit: Visit) -> Reply:
        """Ask a processor something that needs no worker."""
        self._check_serving()
        call = self._exchange.ask(question, visit.id)
        try:
            answer = await call.answer
        finally:
            self._exchange.close(call)
        assert isinstance(answer, Reply)
        return answer


def response_of(reply: Reply) -> web.Response:
    """The HTTP response that carries a processor's whole answer."""
    headers = {"Content-Type": reply.content_type, **dict(reply.headers)}
    return web.Response(body=reply.body, status=reply.status, headers=headers)
