"""The HTTP API: the table of routes, and one handler that turns every failure into an answer."""

from __future__ import annotations

import asyncio
import logging

import orjson
from aiohttp import web

from dynamo_cli.config import FrontendConfig
from dynamo_cli.errors import (
    Draining,
    DynamoError,
    InternalError,
    MethodNotAllowed,
    NotFound,
    PayloadTooLarge,
)
from dynamo_cli.frontend import openapi
from dynamo_cli.frontend.admin.paths import Admin, CommandHandler, JsonSource
from dynamo_cli.frontend.after.ended import FinishedRequestFanout
from dynamo_cli.frontend.http import admission, docs
from dynamo_cli.frontend.http.body import BodyReader
from dynamo_cli.frontend.http.nearest import nearest
from dynamo_cli.frontend.http.server import error_response, json_response
from dynamo_cli.frontend.http.visit import RouteHandler, Visit
from dynamo_cli.frontend.model_requests import (
    GENERATE_PATHS,
    MODEL_PREFIX,
    ModelRequests,
    response_of,
)
from dynamo_cli.frontend.status.pages import STREAM_PATH, StatusPages
from dynamo_cli.messages.request import Question
from dynamo_cli.origin import OriginGate, is_preflight
from dynamo_cli.watch.meter import Meter

logger = logging.getLogger(__name__)


class Api:
    """Answers HTTP requests.

    Args:
        config: API keys and allowed origins.
        bodies: reads the bodies of requests that change the running server.
        meter: counts requests and failures.
        fanout: gets each request for the model when it has ended.
        models: answers requests for the model.
        status: answers requests about the tree.
        admin: answers requests that change the running server.
    """

    def __init__(
        self,
        config: FrontendConfig,
        bodies: BodyReader,
        meter: Meter,
        fanout: FinishedRequestFanout,
        models: ModelRequests,
        status: StatusPages,
        admin: Admin,
    ) -> None:
        self._config = config
        self._bodies = bodies
        self._meter = meter
        self._fanout = fanout
        self._models = models
        self._admin = admin
        self._origins = OriginGate(config.origins, config.host)
        self._routes: dict[str, dict[str, RouteHandler]] = {
            **{path: {"POST": models.generate} for path in GENERATE_PATHS},
            Question.MODELS: {"GET": models.models},
            Question.OPENAPI: {"GET": self._openapi},
            openapi.DOCS_PATH: {"GET": self._docs},
            **{path: {"GET": route} for path, route in status.routes.items()},
        }
        for path, show in admin.views.items():
            self._routes[path] = {"GET": _shown(show)}
        for path, commands in admin.commands.items():
            methods = {method: self._routed(command) for method, command in commands.items()}
            self._routes[path] = self._routes.get(path, {}) | methods

    async def handle(self, http: web.BaseRequest) -> web.StreamResponse:
        """Answer one request and log it, and count it when it is one for the model."""
        visit = Visit(http)
        if visit.path in GENERATE_PATHS:
            self._meter.received += 1
            visit.trace = self._fanout.begin_trace(http.headers.get("traceparent"))
        try:
            response = await self._answer(visit)
            visit.status = visit.status or response.status
        finally:
            if visit.path in GENERATE_PATHS:
                self._fanout.finished(visit)
            else:
                self._fanout.answered(visit)
        return response

    async def _answer(self, visit: Visit) -> web.StreamResponse:
        """Answer a request; every failure becomes an answer too."""
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
            raise  # the client is gone
        except Exception:  # a request enters here: it fails alone, and the log says why
            logger.exception("request %s failed", visit.id)
            failure = InternalError(f"internal error; the log has it under request id {visit.id}.")
            response = self._refuse(visit, failure)
        if not response.prepared:
            response.headers.update(visit.headers)
        return response

    def _refuse(self, visit: Visit, error: DynamoError) -> web.Response:
        visit.fail(error)
        self._meter.failed(visit.error)
        response = error_response(error, visit.path)
        if isinstance(error, MethodNotAllowed):
            response.headers["Allow"] = ", ".join(self._methods(visit.path))
        if visit.close_on_refusal or isinstance(error, Draining | PayloadTooLarge):
            response.force_close()
        return response

    def _methods(self, path: str) -> dict[str, RouteHandler]:
        if path.startswith(MODEL_PREFIX):
            return {"GET": self._models.model}
        return self._routes.get(path, {})

    def _route(self, visit: Visit) -> RouteHandler:
        http = visit.http
        methods, method = self._methods(visit.path), http.method
        if not methods:
            raise NotFound(f"there is no {visit.path!a} here; {self._hint(visit.path)}")
        if method == "HEAD" and visit.path != STREAM_PATH:
            method = "GET"  # aiohttp leaves out the body
        if method not in methods:
            allowed = ", ".join(methods)
            raise MethodNotAllowed(f"{visit.path} takes {allowed}, not {http.method}.")
        self._admin.check_enabled(visit.path, method)
        admission.check_key(visit.path, http.headers, self._config.api_keys)
        return methods[method]

    def _hint(self, path: str) -> str:
        """Name the path that was meant, if there is one like it on this server."""
        paths = [
            known
            for known, methods in self._routes.items()
            if any(self._exists(known, method) for method in methods)
        ]
        meant = nearest(path, paths)
        return f"did you mean {meant}?" if meant else "the API is under /v1."

    def _routed(self, command: CommandHandler) -> RouteHandler:
        async def route(visit: Visit) -> web.StreamResponse:
            has_body = visit.http.method == "POST"
            body = await self._bodies.read_json(visit) if has_body else b""
            # A client that leaves must not leave a change half done.
            return await asyncio.shield(command(visit.http.query, body))

        return route

    # -- the description of the API ----------------------------------------------------------

    async def _openapi(self, visit: Visit) -> web.StreamResponse:
        reply = await self._models.ask(Question.OPENAPI, visit)
        if reply.status != 200:
            return response_of(reply)
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


def _shown(view: JsonSource) -> RouteHandler:
    async def route(visit: Visit) -> web.StreamResponse:
        return json_response(view())

    return route
