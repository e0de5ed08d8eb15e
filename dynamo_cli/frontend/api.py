"""The HTTP API: one handler, a table of routes, every answer in OpenAI's shape."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

import msgspec
import orjson
from aiohttp import web

from dynamo_cli import __version__
from dynamo_cli.config import FrontendConfig
from dynamo_cli.errors import (
    DynamoError,
    Draining,
    InternalError,
    MethodNotAllowed,
    NotFound,
    NotReady,
)
from dynamo_cli.frontend import admission, metrics
from dynamo_cli.frontend.exchange import CLIENT_LEFT, SLOW_READER, Call, Exchange, SlowReader
from dynamo_cli.frontend.server import JSON, error_response, json_response
from dynamo_cli.messages import Endpoint, Phase, Reply
from dynamo_cli.telemetry.meter import Meter
from dynamo_cli.telemetry.snapshot import Snapshot
from dynamo_cli.telemetry.window import SECOND_NS

MODEL_PREFIX = Endpoint.MODELS + "/"

logger = logging.getLogger(__name__)

Route = Callable[["Visit"], Awaitable[web.StreamResponse]]


class Visit:
    """One HTTP request while it is here."""

    __slots__ = ("arrival_ns", "http", "id", "status")

    def __init__(self, http: web.BaseRequest) -> None:
        self.arrival_ns = time.monotonic_ns()
        self.http = http
        self.id = admission.request_id(http.headers.get("X-Request-ID"))
        self.status = 0


class Api:
    """Answers HTTP requests.

    Args:
        config: keys and limits.
        exchange: towards the processors.
        meter: counts what passes.
        snapshot: gives the state of the tree.

    Attributes:
        draining: new requests are turned away.
    """

    def __init__(
        self,
        config: FrontendConfig,
        exchange: Exchange,
        meter: Meter,
        snapshot: Callable[[], Snapshot],
    ) -> None:
        self._config = config
        self._exchange = exchange
        self._meter = meter
        self._snapshot = snapshot
        self.draining = False
        self._routes: dict[str, dict[str, Route]] = {
            **{str(endpoint): {"POST": self._generate} for endpoint in Endpoint},
            Endpoint.MODELS: {"GET": self._models},
            "/health": {"GET": self._health},
            "/metrics": {"GET": self._metrics},
            "/version": {"GET": self._version},
            "/dynamo/snapshot": {"GET": self._show_snapshot},
        }

    async def handle(self, http: web.BaseRequest) -> web.StreamResponse:
        """Answer one request; every failure becomes an answer."""
        visit = Visit(http)
        try:
            response = await self._route(visit)(visit)
        except DynamoError as error:
            response = self._failed(visit, error)
        except Exception:  # the request's own entry: it fails alone, loudly
            logger.exception("request %s failed", visit.id)
            failure = InternalError(f"internal error; the log has it under request id {visit.id}.")
            response = self._failed(visit, failure)
        if not response.prepared:
            response.headers["X-Request-ID"] = visit.id
        return response

    def _failed(self, visit: Visit, error: DynamoError) -> web.Response:
        response = error_response(error)
        if isinstance(error, MethodNotAllowed):
            response.headers["Allow"] = ", ".join(self._methods(visit.http.path))
        if isinstance(error, Draining):
            response.force_close()
        return response

    def _methods(self, path: str) -> dict[str, Route]:
        if path.startswith(MODEL_PREFIX):
            return {"GET": self._model}
        return self._routes.get(path, {})

    def _route(self, visit: Visit) -> Route:
        http = visit.http
        methods = self._methods(http.path)
        admission.check_key(http.path, http.headers.get("Authorization"), self._config.api_keys)
        if not methods:
            raise NotFound(f"there is no {http.path} here; see /v1/models or the README.")
        if http.method not in methods:
            allowed = ", ".join(methods)
            raise MethodNotAllowed(f"{http.path} takes {allowed}, not {http.method}.")
        return methods[http.method]

    # -- requests for the model --------------------------------------------------------------

    async def _generate(self, visit: Visit) -> web.StreamResponse:
        """Count a request around its handling."""
        endpoint = Endpoint(visit.http.path)
        status, counted = 499, False
        try:
            self._check_open()
            admission.check_load(self._meter.in_flight, self._config.max_inflight)
            self._meter.in_flight += 1
            counted = True
            response = await self._forward(visit, endpoint)
            status = visit.status or response.status
            return response
        except DynamoError as error:
            status = error.http_status
            raise
        finally:
            now = time.monotonic_ns()
            self._meter.in_flight -= counted
            self._meter.ended(endpoint, status, (now - visit.arrival_ns) / SECOND_NS, now)

    async def _forward(self, visit: Visit, endpoint: Endpoint) -> web.StreamResponse:
        body = await self._body(visit.http)
        headers = admission.forwarded(visit.http.headers, visit.id)
        call = self._exchange.submit(endpoint, body, headers, visit.id, visit.arrival_ns)
        abort = CLIENT_LEFT
        try:
            answer = await call.answer
            if isinstance(answer, Reply):
                response = _reply(answer)
                call.end(answer.usage, answer.error)
            else:
                response = await self._stream(visit, call, answer.content_type)
            abort = ""
            return response
        except SlowReader:
            abort = SLOW_READER
            raise asyncio.CancelledError from None
        except DynamoError:
            abort = ""
            raise
        finally:
            self._exchange.close(call, abort)
            self._meter.used(call.usage, call.error, time.monotonic_ns())

    async def _stream(self, visit: Visit, call: Call, content_type: str) -> web.StreamResponse:
        """Write a stream as it comes; an error in the middle is an event of its own."""
        response = web.StreamResponse(
            headers={
                "Content-Type": content_type,
                "Cache-Control": "no-cache",
                "X-Accel-Buffering": "no",
                "X-Request-ID": visit.id,
            }
        )
        await response.prepare(visit.http)
        try:
            async for data in call.data():
                await response.write(data)
        except DynamoError as error:
            visit.status = error.http_status
            await response.write(b"data: %b\n\ndata: [DONE]\n\n" % orjson.dumps(error.body()))
        except SlowReader:
            visit.status = 499
            if visit.http.transport is not None:
                visit.http.transport.abort()
            raise
        except ConnectionError:
            visit.status = 499
            raise asyncio.CancelledError from None  # the client left
        await response.write_eof()
        return response

    async def _body(self, http: web.BaseRequest) -> bytes:
        limit = self._config.max_body_bytes
        if http.content_length is not None and http.content_length > limit:
            raise admission.too_large(limit)
        try:
            body = await http.read()
        except web.HTTPRequestEntityTooLarge as error:
            raise admission.too_large(limit) from error
        admission.check_body(body)
        return body

    def _check_open(self) -> None:
        if self.draining:
            raise Draining("the server is shutting down.", retry_after_s=5)
        snapshot = self._snapshot()
        if not snapshot.serving:
            raise NotReady(f"not ready to serve: {snapshot.reason}.", retry_after_s=2)

    # -- the models --------------------------------------------------------------------------

    async def _models(self, visit: Visit) -> web.StreamResponse:
        return _reply(await self._ask_models(visit))

    async def _model(self, visit: Visit) -> web.StreamResponse:
        name = visit.http.path.removeprefix(MODEL_PREFIX)
        reply = await self._ask_models(visit)
        for model in orjson.loads(reply.body).get("data", []):
            if model["id"] == name:
                return json_response(model)
        raise NotFound(
            f"the model {name!r} does not exist; GET {Endpoint.MODELS} lists those that do."
        )

    async def _ask_models(self, visit: Visit) -> Reply:
        self._check_open()
        call = self._exchange.submit(Endpoint.MODELS, b"", [], visit.id, visit.arrival_ns)
        try:
            answer = await call.answer
        finally:
            self._exchange.close(call)
        assert isinstance(answer, Reply)
        return answer

    # -- the tree ----------------------------------------------------------------------------

    async def _health(self, visit: Visit) -> web.StreamResponse:
        snapshot = self._snapshot()
        whole = all(process.phase == Phase.READY for process in snapshot.processes)
        health = {
            "status": ("ok" if whole else "degraded") if snapshot.serving else "unavailable",
            "reason": snapshot.reason,
            "processes": msgspec.to_builtins(snapshot.processes),
        }
        response = json_response(health, 200 if snapshot.serving else 503)
        if not snapshot.serving:
            response.headers["Retry-After"] = "2"
        return response

    async def _metrics(self, visit: Visit) -> web.StreamResponse:
        text = metrics.render(self._meter, self._snapshot())
        return web.Response(body=text, headers={"Content-Type": metrics.CONTENT_TYPE})

    async def _version(self, visit: Visit) -> web.StreamResponse:
        return json_response({"name": "dynamo-llm", "version": __version__})

    async def _show_snapshot(self, visit: Visit) -> web.StreamResponse:
        return web.Response(body=msgspec.json.encode(self._snapshot()), content_type=JSON)


def _reply(answer: Reply) -> web.Response:
    return web.Response(
        body=answer.body, status=answer.status, headers={"Content-Type": answer.content_type}
    )
