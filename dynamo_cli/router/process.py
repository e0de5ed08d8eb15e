"""The router's loop: receive messages, apply them to the state, send its answers."""

from __future__ import annotations

import socket
import time

from dynamo_cli.config import RouterConfig
from dynamo_cli.host.proctitle import set_title
from dynamo_cli.ipc.codec import Decoder
from dynamo_cli.ipc.switchboard import Switchboard
from dynamo_cli.messages.flows import ToChild, ToRouter
from dynamo_cli.messages.host_cache import DiskReads, HostCopies, Tier, holder
from dynamo_cli.messages.lifecycle import Phase, PhaseChange, Retire, SetPhase, Stop
from dynamo_cli.messages.request import EngineReady
from dynamo_cli.messages.routing import (
    Decisions,
    FirstToken,
    KvEvents,
    Measured,
    Placed,
    RequestEnd,
    Resync,
    RouteAnswer,
    RouteQuery,
    RoutingDecision,
)
from dynamo_cli.messages.telemetry import WorkerStats
from dynamo_cli.router.report import router_stats
from dynamo_cli.router.state import RouterState
from dynamo_cli.topology import FRONTEND, ProcessId, Role

STATS_INTERVAL_S = 0.25
EXPIRY_INTERVAL_S = 5.0
MAX_NEWS = 2_000
"""Most decisions in one report to the frontend; more decisions are only counted."""


def main(process: ProcessId, config: RouterConfig, control: socket.socket) -> None:
    """Run the router until it is told to stop."""
    Router(process, config, control).run()


class Router:
    """The router process: `RouterState` and its links."""

    def __init__(self, process: ProcessId, config: RouterConfig, control: socket.socket) -> None:
        self._process = process
        self._state = RouterState(config)
        self._switchboard = Switchboard(control, self)
        self._decoder = Decoder(ToRouter)
        self._stopping = False
        self._queries: list[tuple[ProcessId, RouteQuery]] = []
        self._news: list[RoutingDecision] = []
        self._measured: list[Measured] = []
        self._dropped = 0
        self._report_due_s = 0.0
        self._expiry_due_s = 0.0
        self._changed = True

    def run(self) -> None:
        """Serve until `Stop` comes."""
        self._switchboard.report(PhaseChange(Phase.READY))
        while not self._stopping:
            self._switchboard.poll(self._timeout_s())
            self._decide()
            self._report()
        self._switchboard.close()

    def _timeout_s(self) -> float | None:
        if self._changed:
            return STATS_INTERVAL_S
        return EXPIRY_INTERVAL_S if self._state.ledger.entries else None

    def _decide(self) -> None:
        """Answer the queries of this poll, after its other messages: KV events that came with them
        count already."""
        queries, self._queries = self._queries, []
        for peer, query in queries:
            started = time.monotonic_ns()
            decision = self._state.decide(peer.index, query, started)
            if decision is not None:
                self._answer(peer.index, decision, started)
        for _, query in queries:
            self._state.remember(query)
        if self._state.waiting_requests:
            started = time.monotonic_ns()
            for processor, decision in self._state.released(started):
                self._answer(processor, decision, started)

    def _answer(self, processor: int, decision: RoutingDecision, started_ns: int) -> None:
        elapsed_ns = time.monotonic_ns() - started_ns
        answer = RouteAnswer(
            decision.request_id,
            decision.worker,
            max(decision.overlap_blocks, decision.host_blocks),
            decision.prefill_worker,
            decision.engine_order,
        )
        peer = ProcessId(Role.PROCESSOR, processor)
        if not self._switchboard.owe(peer, answer):
            self._state.end(decision.request_id)  # the processor is gone
        self._state.timed(elapsed_ns)
        if len(self._news) < MAX_NEWS:
            self._news.append(decision.timed(elapsed_ns))
        else:
            self._dropped += 1

    def _report(self) -> None:
        now = time.monotonic()
        if now >= self._expiry_due_s:
            self._state.ledger.expire(time.monotonic_ns())
            self._expiry_due_s = now + EXPIRY_INTERVAL_S
        if not self._changed or now < self._report_due_s:
            return
        if self._news or self._measured:
            news = Decisions(self._news, self._measured, self._dropped)
            if not self._switchboard.send(FRONTEND, news):
                self._dropped += len(self._news)
            self._news, self._measured = [], []
        stats = router_stats(self._state, self._switchboard.refused_sends())
        self._switchboard.send(FRONTEND, stats)
        self._report_due_s = now + STATS_INTERVAL_S
        self._changed = False

    # -- switchboard handler ---------------------------------------------------------------

    def on_message(self, peer: ProcessId, payload: bytes) -> None:
        """Apply a message; queries are kept until the poll is over."""
        match self._decoder(payload):
            case RouteQuery() as query:
                self._queries.append((peer, query))
            case FirstToken(request_id, cached_tokens):
                now = time.monotonic_ns()
                measured = self._state.first_token(request_id, cached_tokens, now)
                if measured is not None and len(self._measured) < MAX_NEWS:
                    self._measured.append(measured)
            case RequestEnd(request_id):
                self._end(request_id)
            case KvEvents() as message:
                if not self._state.caches_of(peer.role).apply(message, time.monotonic_ns()):
                    self._switchboard.owe(peer, Resync())
            case HostCopies() as copies:
                self._state.loading.copied(copies)
            case DiskReads() as reads:
                self._state.loading.disk_read(reads)
            case WorkerStats() as stats:
                self._state.ledger.report(stats)
            case Placed() as message:
                self._state.placed(peer.index, message, time.monotonic_ns())
            case EngineReady() as ready:
                self._state.worker_up(ready)
        self._changed = True

    def _end(self, request_id: str) -> None:
        self._queries = [pair for pair in self._queries if pair[1].request_id != request_id]
        self._state.end(request_id)

    def on_link(self, peer: ProcessId) -> None:
        """Report soon: the new peer may be a frontend, which knows nothing yet."""
        self._changed = True

    def on_unlink(self, peer: ProcessId, reason: str) -> None:
        """Forget all that a peer held or asked for, because the link to it is gone."""
        match peer.role:
            case Role.WORKER:
                self._state.worker_down(peer.index)
            case Role.PREFILL_WORKER:
                self._state.prefill_caches.worker_down(peer.index)
            case Role.HOST_CACHE:
                self._state.loading.cache_down(peer.index)
                for tier in Tier:
                    self._state.host_cache.worker_down(holder(peer.index, tier))
            case Role.PROCESSOR:
                self._queries = [pair for pair in self._queries if pair[0] != peer]
                self._state.processor_down(peer.index)
        self._changed = True

    def on_control(self, message: ToChild) -> None:
        """Do what the supervisor says."""
        match message:
            case Stop():
                self._stopping = True
            case Retire(worker):
                self._state.worker_retired(worker)
                self._changed = True
            case SetPhase(phase):
                set_title(self._process, phase)
