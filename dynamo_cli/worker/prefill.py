"""The prefill worker's loop: pull jobs, fill the cache, hand over the blocks, say so."""

from __future__ import annotations

import logging
import socket
import time
from dataclasses import dataclass

from dynamo_cli.config import WorkerConfig
from dynamo_cli.engines import start
from dynamo_cli.engines.vllm.options.environment import select_devices
from dynamo_cli.errors import InternalError, InvalidRequest
from dynamo_cli.host.proctitle import set_title
from dynamo_cli.ipc.codec import Decoder
from dynamo_cli.ipc.switchboard import Switchboard
from dynamo_cli.messages.admin import Operate
from dynamo_cli.messages.flows import ToChild, ToPrefillWorker
from dynamo_cli.messages.lifecycle import Phase, PhaseChange, SetPhase, Stop
from dynamo_cli.messages.prefill import (
    DropJob,
    Enlisted,
    JobEnded,
    PrefillDone,
    PullJobs,
    ReleaseTransfers,
    RunJob,
)
from dynamo_cli.messages.routing import Resync
from dynamo_cli.topology import ProcessId, Role
from dynamo_cli.worker.operations import Operations
from dynamo_cli.worker.publisher import ROUTER, Publisher
from dynamo_cli.worker.where_to_prefill import BATCHES_AHEAD

INTERVAL_S = 0.25
PULL_INTERVAL_S = 2.0
SECOND_NS = 1_000_000_000
TRANSFER_TTL_NS = 300 * SECOND_NS
"""A decode worker that has not taken or released blocks by then never will."""

FRONTEND, QUEUE = ProcessId(Role.FRONTEND), ProcessId(Role.PREFILL_QUEUE)
REFUSED = "refused"

logger = logging.getLogger(__name__)


def main(process: ProcessId, config: WorkerConfig, control: socket.socket) -> None:
    """Run prefill worker `process` until it is told to stop."""
    select_devices(config.engine.devices)
    worker = PrefillWorker(process, config, control)
    worker.load()
    worker.run()


@dataclass(slots=True)
class _Running:
    worker: int
    tokens: int
    since_ns: int


class PrefillWorker:
    """One engine that only prefills, and its links."""

    def __init__(self, process: ProcessId, config: WorkerConfig, control: socket.socket) -> None:
        self._process = process
        self._config = config
        self._switchboard = Switchboard(control, self)
        self._decoder = Decoder(ToPrefillWorker)
        self._running: dict[str, _Running] = {}
        self._prefill_s: list[float] = []
        self._pull_due_s = self._report_due_s = 0.0
        self._stopping = self._loaded = self._enlisted = False

    def load(self) -> None:
        """Build the engine and run one token through it."""
        self._switchboard.report(PhaseChange(Phase.LOADING))
        index, config = self._process.index, self._config
        self._engine = start.build(index, config.engine, kv_events=config.kv_events)
        self._publisher = Publisher(index, self._engine.holdings, self._switchboard)
        self._publisher.publish()
        self._operations = Operations(
            self._engine,
            abort_all=self._abort_all,
            idle=lambda: not self._engine.has_work(),
            answer=lambda answer: self._switchboard.owe(FRONTEND, answer),
        )
        self._loaded = True
        self._switchboard.report(PhaseChange(Phase.WARMING, "waiting for the prefill queue"))

    def run(self) -> None:
        while not self._stopping:
            self._switchboard.poll(0 if self._engine.has_work() else self._idle_timeout_s())
            stepped = self._engine.has_work()
            if stepped:
                for _ in self._engine.step():
                    pass  # a token that nobody waits for
                self._publisher.publish()
            self._hand_over()
            if stepped:
                self._engine.rest()
            self._operations.tick()
            self._pull()
            self._report()
        self._engine.close()
        self._switchboard.close()

    def _idle_timeout_s(self) -> float:
        return max(min(self._pull_due_s, self._report_due_s) - time.monotonic(), 0.0)

    def _hand_over(self) -> None:
        """Notify decode workers of prompts whose blocks they can take now."""
        for job_id, params, failed in self._engine.take_prefills():
            running = self._running.pop(job_id, None)
            if running is None:
                self._engine.release([job_id])  # dropped meanwhile
                continue
            now = time.monotonic_ns()
            self._prefill_s.append((now - running.since_ns) / SECOND_NS)
            peer = ProcessId(Role.WORKER, running.worker)
            done = PrefillDone(job_id, self._process.index, params, running.since_ns, now)
            if not failed and not self._switchboard.send(peer, done):
                self._engine.release([job_id])
            self._switchboard.owe(QUEUE, JobEnded(job_id, failed))
            self._pull_due_s = 0.0

    def _pull(self) -> None:
        """Say how much room there is: when that changes, and now and then."""
        now = time.monotonic()
        if now < self._pull_due_s:
            return
        jobs, tokens = self._engine.batch_limits
        jobs -= len(self._running)
        tokens = BATCHES_AHEAD * tokens - sum(one.tokens for one in self._running.values())
        self._switchboard.send(QUEUE, PullJobs(max(jobs, 0), max(tokens, 0), list(self._running)))
        self._pull_due_s = now + PULL_INTERVAL_S

    def _report(self) -> None:
        now = time.monotonic()
        if now < self._report_due_s:
            return
        self._engine.expire_transfers(time.monotonic_ns() - TRANSFER_TTL_NS)
        stats = self._engine.transfer_stats(prefill_s=self._prefill_s, kept=len(self._running))
        self._prefill_s = []
        self._switchboard.send(FRONTEND, stats)
        self._report_due_s = now + INTERVAL_S

    # -- switchboard handler ---------------------------------------------------------------

    def on_message(self, peer: ProcessId, payload: bytes) -> None:
        match self._decoder(payload):
            case Enlisted():
                self._on_enlisted()
            case RunJob() as message:
                self._add(message)
            case DropJob(job_id):
                self._drop(job_id)
            case ReleaseTransfers(job_ids):
                self._engine.release(job_ids)
            case Resync():
                self._publisher.resync()
            case Operate() as order:
                self._operations.apply(order)
                self._publisher.publish()

    def _on_enlisted(self) -> None:
        """Who hears that it is ready can rely on its getting jobs from then on."""
        if not self._enlisted:
            self._enlisted = True
            self._switchboard.report(PhaseChange(Phase.READY))

    def _abort_all(self, _: str) -> None:
        """The decode workers go on without."""
        for job_id in list(self._running):
            self._drop(job_id)
            self._switchboard.owe(QUEUE, JobEnded(job_id, REFUSED))

    def _add(self, message: RunJob) -> None:
        job = message.job
        if self._operations.asleep:
            self._switchboard.owe(QUEUE, JobEnded(job.job_id, REFUSED))
            return
        try:
            self._engine.add_prefill(job, message.worker)
        except (InvalidRequest, InternalError) as error:
            logger.warning("prefill %s: %s", job.job_id, error.message)
            self._switchboard.owe(QUEUE, JobEnded(job.job_id, REFUSED))
            return
        tokens = job.prompt_tokens - job.skip_tokens
        self._running[job.job_id] = _Running(message.worker, tokens, time.monotonic_ns())

    def _drop(self, job_id: str) -> None:
        if self._running.pop(job_id, None) is not None:
            self._engine.abort([job_id])
            self._engine.release([job_id])
            self._pull_due_s = 0.0

    def on_link(self, peer: ProcessId) -> None:
        self._pull_due_s = 0.0
        if peer == ROUTER and self._loaded:
            self._publisher.resync()

    def on_unlink(self, peer: ProcessId, reason: str) -> None:
        if not self._loaded:
            return
        match peer.role:
            case Role.PREFILL_QUEUE:
                for job_id in list(self._running):
                    self._drop(job_id)
            case Role.WORKER:
                self._engine.owner_gone(peer.index)
                mine = [rid for rid, one in self._running.items() if one.worker == peer.index]
                for job_id in mine:
                    self._drop(job_id)

    def on_control(self, message: ToChild) -> None:
        match message:
            case Stop():
                self._stopping = True
            case SetPhase(phase):
                set_title(self._process, phase)
