"""`/`, `/live`, `/health`, `/metrics`, `/version` and `/dynamo/*`: the state of the tree."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection

import msgspec
from aiohttp import web

from dynamo_cli import __version__
from dynamo_cli.errors import InternalError, NotFound
from dynamo_cli.frontend.after import record
from dynamo_cli.frontend.after.ended import FinishedRequestFanout
from dynamo_cli.frontend.http import landing
from dynamo_cli.frontend.http.admission import RETRY_AFTER_S
from dynamo_cli.frontend.http.server import json_response
from dynamo_cli.frontend.http.stream import EventStreamWriter
from dynamo_cli.frontend.http.visit import RouteHandler, Visit
from dynamo_cli.frontend.metrics import exposition
from dynamo_cli.frontend.status import inspect
from dynamo_cli.frontend.status.broadcast import Broadcast
from dynamo_cli.host import oserrors
from dynamo_cli.messages.request import Head
from dynamo_cli.origin import JSON
from dynamo_cli.watch.meter import Meter
from dynamo_cli.watch.schema import Snapshot
from dynamo_cli.watch.set_up import set_up
from dynamo_cli.watch.state import TreeState
from dynamo_cli.watch.timelines import TimelineView

EVENT_STREAM = "text/event-stream"
LINES = "application/x-ndjson"
STREAM_PATH = "/dynamo/stream"


class StatusPages:
    """Answers questions about the state of the tree; no processor is asked.

    Args:
        tree: the latest reports of all processes.
        meter: the frontend's own counters.
        snapshot: makes the current snapshot of the tree.
        fanout: has the timelines of finished requests, and counters of the recorder.
        running: the requests for the model that run now.
        max_pending_bytes: how much may wait for a slow reader of `/dynamo/stream`, but for a
            short time.
        has_keys: whether clients need an API key.

    Attributes:
        routes: the handler of each path; all of them answer GET.
    """

    def __init__(
        self,
        tree: TreeState,
        meter: Meter,
        snapshot: Callable[[], Snapshot],
        fanout: FinishedRequestFanout,
        running: Collection[Visit],
        max_pending_bytes: int,
        *,
        has_keys: bool = False,
    ) -> None:
        self._has_keys = has_keys
        self._tree = tree
        self._meter = meter
        self._snapshot = snapshot
        self._fanout = fanout
        self._running = running
        self._max_pending_bytes = max_pending_bytes
        self._broadcast = Broadcast(snapshot, tree.decisions, tree.logs, time.monotonic_ns)
        self.routes: dict[str, RouteHandler] = {
            "/": self._welcome,
            "/live": self._live,
            "/health": self._health,
            "/metrics": self._metrics,
            "/version": self._version,
            "/dynamo/snapshot": self._show_snapshot,
            "/dynamo/decisions": self._decisions,
            "/dynamo/timeline": self._timelines,
            STREAM_PATH: self._stream,
            "/dynamo/record": self._record,
        }

    def close(self) -> None:
        """End all answers to `/dynamo/stream`."""
        self._broadcast.close()

    async def _welcome(self, visit: Visit) -> web.StreamResponse:
        http = visit.http
        welcome = landing.Welcome(
            __version__,
            self._tree.models,
            self._tree.serving,
            self._tree.reason,
            f"{http.scheme}://{http.host}",
            self._has_keys,
        )
        return landing.page(welcome, http.headers.get("Accept", ""))

    async def _live(self, visit: Visit) -> web.StreamResponse:
        """Answer whatever the engines do: the process that asks wants to know of this one only."""
        return json_response({"status": "alive"})

    async def _health(self, visit: Visit) -> web.StreamResponse:
        snapshot = self._snapshot()
        response = json_response(inspect.health(snapshot), 200 if snapshot.serving else 503)
        if not snapshot.serving:
            response.headers["Retry-After"] = str(RETRY_AFTER_S)
        return response

    async def _metrics(self, visit: Visit) -> web.StreamResponse:
        tree, recorder = self._tree, self._fanout.recorder
        page = bytearray()
        for part in exposition.parts(
            self._meter, self._snapshot(), tree.prefill, recorder, tree.engine_totals
        ):
            page += part
            await asyncio.sleep(0)  # with many workers the whole page takes tens of milliseconds
        return web.Response(body=bytes(page), headers={"Content-Type": exposition.CONTENT_TYPE})

    async def _version(self, visit: Visit) -> web.StreamResponse:
        return json_response({"name": "dynamo-llm", "version": __version__})

    async def _show_snapshot(self, visit: Visit) -> web.StreamResponse:
        return web.Response(body=msgspec.json.encode(self._snapshot()), content_type=JSON)

    async def _decisions(self, visit: Visit) -> web.StreamResponse:
        now = time.monotonic_ns()
        body = await inspect.decisions(self._tree.decisions, visit.http.query, now)
        return web.Response(body=body, content_type=JSON)

    async def _timelines(self, visit: Visit) -> web.StreamResponse:
        now = time.monotonic_ns()
        body = await inspect.timelines(
            self._fanout.timelines, self._running_views, visit.http.query, now
        )
        return web.Response(body=body, content_type=JSON)

    def _running_views(self, now_ns: int) -> list[TimelineView]:
        """The requests that run, newest first."""
        newest = sorted(self._running, key=lambda visit: visit.arrival_ns, reverse=True)
        decisions = self._tree.decisions.latest({visit.id for visit in newest})
        return [visit.running(decisions.get(visit.id), now_ns) for visit in newest]

    async def _record(self, visit: Visit) -> web.StreamResponse:
        recorder = self._fanout.recorder
        seconds = inspect.record_seconds(visit.http.query)
        if recorder is None:
            raise NotFound("this server records no requests; start it with --record FILE.")
        try:
            body = await asyncio.to_thread(recorder.last, seconds)
        except OSError as error:
            raise InternalError(f"the record cannot be read: {oserrors.reason(error)}.") from error
        head = record.heading(set_up(self._snapshot())) if body else b""
        return web.Response(body=head + body, content_type=LINES)

    async def _stream(self, visit: Visit) -> web.StreamResponse:
        interval_s = inspect.stream_interval_s(visit.http.query)
        head = Head(visit.id, 200, EVENT_STREAM)
        limit = self._max_pending_bytes
        stream = await EventStreamWriter.start(visit.http, head, visit.headers, limit)
        await self._broadcast.watch(stream.write, interval_s)
        return stream.response
