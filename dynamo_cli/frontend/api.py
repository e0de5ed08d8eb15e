"""The HTTP API: one handler, a table of routes, every answer in OpenAI's shape."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

import msgspec
import orjson
from aiohttp import web

from dynamo_cli import __version__, shapes
from dynamo_cli.config import FrontendConfig
from dynamo_cli.errors import (
    Draining,
    DynamoError,
    InternalError,
    MethodNotAllowed,
    NotFound,
    NotReady,
    PayloadTooLarge,
    PeerLost,
)
from dynamo_cli.frontend import openapi
from dynamo_cli.frontend.admin.paths import PLACEMENT, WORKERS, Admin, Command
from dynamo_cli.frontend.admin.prefill_bounds import Placement
from dynamo_cli.frontend.admin.scaling import Scaling
from dynamo_cli.frontend.after import access
from dynamo_cli.frontend.after.ended import Chronicle
from dynamo_cli.frontend.exchange import CLIENT_LEFT, Call, Exchange
from dynamo_cli.frontend.http import admission, docs
from dynamo_cli.frontend.http.body import BodyReader
from dynamo_cli.frontend.http.origin import JSON, OriginGate, check_json, is_preflight
from dynamo_cli.frontend.http.poison import Suspects
from dynamo_cli.frontend.http.server import error_response, json_response
from dynamo_cli.frontend.http.stream import EventStream
from dynamo_cli.frontend.http.visit import Visit
from dynamo_cli.frontend.metrics import exposition
from dynamo_cli.frontend.status import inspect
from dynamo_cli.frontend.status.broadcast import Broadcast
from dynamo_cli.messages.request import Endpoint, Head, Reply
from dynamo_cli.watch.meter import Meter
from dynamo_cli.watch.schema import Snapshot
from dynamo_cli.watch.state import TreeState

GENERATE_PATHS = frozenset(map(str, Endpoint)) - {
    Endpoint.MODELS,
    Endpoint.OPENAPI,
    Endpoint.LOAD_ADAPTER,
    Endpoint.UNLOAD_ADAPTER,
}
MODEL_PREFIX = Endpoint.MODELS + "/"
RETRY_AFTER_S = 2
EVENT_STREAM = "text/event-stream"

logger = logging.getLogger(__name__)

Route = Callable[[Visit], Awaitable[web.StreamResponse]]


class Api:
    """Answers HTTP requests.

    Args:
        config: keys and limits.
        exchange: towards the processors.
        meter: counts what passes.
        tree: whether requests can be served.
        snapshot: gives the state of the whole tree.
        placement: where prompts are prefilled.
        scaling: how many workers there are.
        admin: what changes the running server.
        chronicle: told of requests that ended.

    Attributes:
        broadcast: to those who watch the tree.
    """

    def __init__(
        self,
        config: FrontendConfig,
        exchange: Exchange,
        meter: Meter,
        tree: TreeState,
        snapshot: Callable[[], Snapshot],
        placement: Placement,
        scaling: Scaling,
        admin: Admin,
        chronicle: Chronicle,
    ) -> None:
        self._chronicle = chronicle
        self._placement = placement
        self._scaling = scaling
        self._admin = admin
        self._config = config
        self._exchange = exchange
        self._meter = meter
        self._tree = tree
        self._snapshot = snapshot
        self._suspects = Suspects()
        self._one_ended = asyncio.Event()
        self._origins = OriginGate(config.origins, config.host)
        self._bodies = BodyReader(config.max_body_bytes, config.body_timeout_s)
        self.broadcast = Broadcast(snapshot, tree.decisions, tree.logs, time.monotonic_ns)
        self._routes: dict[str, dict[str, Route]] = {
            **{path: {"POST": self._generate} for path in GENERATE_PATHS},
            Endpoint.MODELS: {"GET": self._models},
            Endpoint.OPENAPI: {"GET": self._openapi},
            openapi.DOCS_PATH: {"GET": self._docs},
            "/health": {"GET": self._health},
            "/metrics": {"GET": self._metrics},
            "/version": {"GET": self._version},
            "/dynamo/snapshot": {"GET": self._show_snapshot},
            "/dynamo/decisions": {"GET": self._decisions},
            "/dynamo/timeline": {"GET": self._show_timelines},
            "/dynamo/stream": {"GET": self._watch},
            PLACEMENT: {"GET": self._show_placement},
            WORKERS: {"GET": self._show_workers},
        }
        for path, commands in admin.commands.items():
            methods = {method: self._routed(command) for method, command in commands.items()}
            self._routes[path] = self._routes.get(path, {}) | methods

    async def handle(self, http: web.BaseRequest) -> web.StreamResponse:
        """Answer one request, and count it when it is one for the model."""
        visit = Visit(http)
        if visit.path in GENERATE_PATHS:
            self._meter.received += 1
            visit.trace = self._chronicle.begin_trace(http.headers.get("traceparent"))
        try:
            response = await self._answer(visit)
            visit.status = visit.status or response.status
        finally:
            if visit.path in GENERATE_PATHS:
                self._chronicle.ended(visit)
        return response

    async def idle(self) -> None:
        """Wait until no request for the model is in flight."""
        while self._meter.in_flight:
            self._one_ended.clear()
            await self._one_ended.wait()

    async def _answer(self, visit: Visit) -> web.StreamResponse:
        """Every failure becomes an answer."""
        try:
            self._origins.check(visit.http.headers)
            visit.cors = self._origins.answer_headers(visit.http.headers)
            if is_preflight(visit.http.method, visit.http.headers):
                response: web.StreamResponse = web.Response(
                    headers=self._origins.preflight(visit.http.headers)
                )
            else:
                response = await self._route(visit)(visit)
        except DynamoError as error:
            response = self._refuse(visit, error)
        except ConnectionError:
            raise  # nobody is left to be answered
        except Exception:  # the request's own entry: it fails alone, loudly
            logger.exception("request %s failed", visit.id)
            failure = InternalError(f"internal error; the log has it under request id {visit.id}.")
            response = self._refuse(visit, failure)
        if not response.prepared:
            response.headers.update(visit.headers)
        return response

    def _refuse(self, visit: Visit, error: DynamoError) -> web.Response:
        visit.error = _kind(error)
        self._meter.failed(visit.error)
        response = error_response(error, visit.path)
        if isinstance(error, MethodNotAllowed):
            response.headers["Allow"] = ", ".join(self._methods(visit.path))
        if visit.last or isinstance(error, Draining | PayloadTooLarge):
            response.force_close()
        return response

    def _methods(self, path: str) -> dict[str, Route]:
        if path.startswith(MODEL_PREFIX):
            return {"GET": self._model}
        return self._routes.get(path, {})

    def _route(self, visit: Visit) -> Route:
        http = visit.http
        methods = self._methods(visit.path)
        if not methods:
            raise NotFound(f"there is no {visit.path!a} here; the API is under /v1.")
        if http.method not in methods:
            allowed = ", ".join(methods)
            raise MethodNotAllowed(f"{visit.path} takes {allowed}, not {http.method}.")
        self._admin.check_enabled(visit.path, http.method)
        admission.check_key(visit.path, http.headers, self._config.api_keys)
        return methods[http.method]

    def _check_serving(self) -> None:
        if self._tree.draining:
            raise Draining("the server is shutting down.", retry_after_s=RETRY_AFTER_S)
        if not self._tree.up:
            raise NotReady(f"not ready: {self._tree.reason}.", retry_after_s=RETRY_AFTER_S)

    # -- requests for the model --------------------------------------------------------------

    async def _generate(self, visit: Visit) -> web.StreamResponse:
        self._check_serving()
        admission.check_headers(visit.http.headers)
        admission.check_load(self._meter.in_flight, self._config.max_inflight)
        body = await self._body(visit)
        self._look_into(visit, body)
        # It is in flight from here on: one that trickles in takes nobody's place.
        self._check_serving()
        admission.check_load(self._meter.in_flight, self._config.max_inflight)
        self._meter.in_flight += 1
        try:
            return await self._watched(visit, body)
        finally:
            self._meter.in_flight -= 1
            self._one_ended.set()

    async def _watched(self, visit: Visit, body: bytes) -> web.StreamResponse:
        """Have a request answered that did not run where workers died, or only once."""
        self._suspects.check(visit.path, body, visit.id, time.monotonic_ns())
        error = ""
        try:
            response = await self._forward(visit, body)
            error = visit.error or (visit.outcome.error if visit.outcome is not None else "")
        except PeerLost:
            error = PeerLost.code
            raise
        finally:
            if error == PeerLost.code:
                self._suspects.died(visit.path, body, time.monotonic_ns())
        if not error:
            self._suspects.survived(visit.path, body)
        return response

    def _look_into(self, visit: Visit, body: bytes) -> None:
        """What is told of a request. Raises `InvalidRequest` when it is no JSON object."""
        content = admission.skim_body(body)
        visit.model = admission.model_of(content)
        if self._config.log_prompts:
            visit.prompt = access.prompt_of(content)

    async def _body(self, visit: Visit) -> bytes:
        """What is sent; JSON, as far as its type says."""
        http = visit.http
        if http.can_read_body:
            check_json(http.headers)
        try:
            return await self._bodies.read(http)
        except DynamoError:
            visit.last = True  # there is more of it, and nobody will read that
            raise

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
        return _reply(answer)

    async def _stream(self, visit: Visit, call: Call, head: Head) -> web.StreamResponse:
        """Let a stream flow to the client; where it breaks off, an event of its own says why."""
        limit = self._config.max_pending_bytes
        stream = await EventStream.start(visit.http, head, visit.headers, limit)
        call.write_to(stream.write)
        try:
            finish = await call.finish
        except DynamoError as error:
            visit.status, visit.error = error.http_status, _kind(error)
            self._meter.failed(visit.error)
            told = error.body()["error"]
            stream.write(shapes.failure_event(visit.path, error.http_status, told))
        else:
            visit.outcome = finish
            self._meter.used(finish.usage, time.monotonic_ns())
            self._meter.failed(finish.error)
        return stream.response

    def _routed(self, command: Command) -> Route:
        async def route(visit: Visit) -> web.StreamResponse:
            body = await self._body(visit) if visit.http.method == "POST" else b""
            return await command(visit.http.query, body)

        return route

    # -- the models --------------------------------------------------------------------------

    async def _models(self, visit: Visit) -> web.StreamResponse:
        return _reply(await self._ask(Endpoint.MODELS, visit))

    async def _model(self, visit: Visit) -> web.StreamResponse:
        name = visit.path.removeprefix(MODEL_PREFIX)
        reply = await self._ask(Endpoint.MODELS, visit)
        if reply.status != 200:
            return _reply(reply)
        for model in orjson.loads(reply.body)["data"]:
            if model["id"] == name:
                return json_response(model)
        raise NotFound(
            f"the model {name!a} does not exist; GET {Endpoint.MODELS} lists those that do."
        )

    async def _openapi(self, visit: Visit) -> web.StreamResponse:
        reply = await self._ask(Endpoint.OPENAPI, visit)
        if reply.status != 200:
            return _reply(reply)
        known = orjson.loads(reply.body)
        has_keys = bool(self._config.api_keys)
        return json_response(openapi.complete(known, self._exists, has_keys=has_keys))

    async def _docs(self, visit: Visit) -> web.StreamResponse:
        return docs.page()

    def _exists(self, path: str, method: str) -> bool:
        try:
            self._admin.check_enabled(path, method)
        except NotFound:
            return False
        return method in self._methods(path)

    async def _ask(self, endpoint: Endpoint, visit: Visit) -> Reply:
        self._check_serving()
        call = self._exchange.submit(endpoint, b"", [], visit.id, visit.arrival_ns)
        try:
            answer = await call.answer
        finally:
            self._exchange.close(call)
        assert isinstance(answer, Reply)
        return answer

    # -- the tree ----------------------------------------------------------------------------

    async def _health(self, visit: Visit) -> web.StreamResponse:
        snapshot = self._snapshot()
        response = json_response(inspect.health(snapshot), 200 if snapshot.serving else 503)
        if not snapshot.serving:
            response.headers["Retry-After"] = str(RETRY_AFTER_S)
        return response

    async def _metrics(self, visit: Visit) -> web.StreamResponse:
        text = exposition.render(
            self._meter, self._snapshot(), self._tree.prefill, self._chronicle.recorder
        )
        return web.Response(body=text, headers={"Content-Type": exposition.CONTENT_TYPE})

    async def _version(self, visit: Visit) -> web.StreamResponse:
        return json_response({"name": "dynamo-llm", "version": __version__})

    async def _show_snapshot(self, visit: Visit) -> web.StreamResponse:
        return web.Response(body=msgspec.json.encode(self._snapshot()), content_type=JSON)

    async def _decisions(self, visit: Visit) -> web.StreamResponse:
        now = time.monotonic_ns()
        body = await inspect.decisions(self._tree.decisions, visit.http.query, now)
        return web.Response(body=body, content_type=JSON)

    async def _show_timelines(self, visit: Visit) -> web.StreamResponse:
        body = await inspect.timelines(
            self._chronicle.timelines, visit.http.query, time.monotonic_ns()
        )
        return web.Response(body=body, content_type=JSON)

    async def _show_placement(self, visit: Visit) -> web.StreamResponse:
        return json_response(self._placement.show())

    async def _show_workers(self, visit: Visit) -> web.StreamResponse:
        return json_response(self._scaling.show())

    async def _watch(self, visit: Visit) -> web.StreamResponse:
        interval_s = inspect.stream_interval_s(visit.http.query)
        head = Head(visit.id, 200, EVENT_STREAM)
        limit = self._config.max_pending_bytes
        stream = await EventStream.start(visit.http, head, visit.headers, limit)
        await self.broadcast.watch(stream.write, interval_s)
        return stream.response


def _reply(reply: Reply) -> web.Response:
    headers = {"Content-Type": reply.content_type, **dict(reply.headers)}
    return web.Response(body=reply.body, status=reply.status, headers=headers)


def _kind(error: DynamoError) -> str:
    """A failure's name in the counters."""
    return error.code or error.openai_type
