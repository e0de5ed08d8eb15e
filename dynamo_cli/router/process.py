"""The router's loop: receive, apply to the state, send what the state answers."""

from __future__ import annotations

import socket
import time

from dynamo_cli.config import RouterConfig
from dynamo_cli.ipc.codec import Decoder
from dynamo_cli.ipc.switchboard import Switchboard
from dynamo_cli.messages import (
    EngineReady,
    FirstToken,
    Phase,
    PhaseChange,
    RequestEnd,
    RouteQuery,
    SetPhase,
    Stop,
    ToChild,
    ToRouter,
)
from dynamo_cli.proctitle import set_title
from dynamo_cli.router.state import RouterState
from dynamo_cli.topology import ProcessId, Role

STATS_INTERVAL_S = 0.25
FRONTEND = ProcessId(Role.FRONTEND)


def main(process: ProcessId, config: RouterConfig, control: socket.socket) -> None:
    """Run the router until it is told to stop."""
    Router(process, config, control).run()


class Router:
    """`RouterState` and its links."""

    def __init__(self, process: ProcessId, config: RouterConfig, control: socket.socket) -> None:
        self._process = process
        self._state = RouterState(config.policy)
        self._switchboard = Switchboard(control, self)
        self._decoder = Decoder(ToRouter)
        self._stopping = False
        self._stats_due_s = 0.0
        self._changed = True

    def run(self) -> None:
        self._switchboard.report(PhaseChange(Phase.READY))
        while not self._stopping:
            self._switchboard.poll(STATS_INTERVAL_S if self._changed else None)
            self._report_stats()
        self._switchboard.close()

    def _report_stats(self) -> None:
        now = time.monotonic()
        if self._changed and now >= self._stats_due_s:
            self._switchboard.send(FRONTEND, self._state.stats(self._switchboard.refused_sends()))
            self._stats_due_s = now + STATS_INTERVAL_S
            self._changed = False

    # -- switchboard handler ---------------------------------------------------------------

    def on_message(self, peer: ProcessId, payload: bytes) -> None:
        match self._decoder(payload):
            case RouteQuery() as query:
                started = time.perf_counter_ns()
                decision = self._state.decide(peer.index, query)
                self._switchboard.send(peer, decision.timed(time.perf_counter_ns() - started))
            case FirstToken(request_id):
                self._state.first_token(request_id)
            case RequestEnd(request_id):
                self._state.end(request_id)
            case EngineReady(worker):
                self._state.worker_up(worker)
        self._changed = True

    def on_link(self, peer: ProcessId) -> None:
        self._changed = True

    def on_unlink(self, peer: ProcessId, reason: str) -> None:
        match peer.role:
            case Role.WORKER:
                self._state.worker_down(peer.index)
            case Role.PROCESSOR:
                self._state.processor_down(peer.index)
        self._changed = True

    def on_control(self, message: ToChild) -> None:
        match message:
            case Stop():
                self._stopping = True
            case SetPhase(phase):
                set_title(self._process, phase)
