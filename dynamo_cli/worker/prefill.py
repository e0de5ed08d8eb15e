"""The worker that only prefills: it pulls jobs, computes prompts and hands over the KV blocks."""

from __future__ import annotations

import itertools
import logging
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from dynamo_cli.config import WorkerConfig
from dynamo_cli.errors import InternalError, InvalidRequest
from dynamo_cli.messages.flows import ToPrefillWorker
from dynamo_cli.messages.lifecycle import Phase, PhaseChange
from dynamo_cli.messages.prefill import (
    DropJob,
    Enlisted,
    JobEnded,
    PrefillDone,
    PullJobs,
    ReleaseTransfers,
    RunJob,
)
from dynamo_cli.messages.request import StepOutputs
from dynamo_cli.topology import FRONTEND, QUEUE, ProcessId, Role
from dynamo_cli.units import SECOND_NS
from dynamo_cli.worker.capacity import capacity
from dynamo_cli.worker.operations import Operations
from dynamo_cli.worker.process import REPORT_INTERVAL_S, Equipment, run
from dynamo_cli.worker.where_to_prefill import BATCHES_AHEAD

PULL_INTERVAL_S = 2.0
"""Longest time between two pulls. A pull also renews the leases of the jobs of this worker."""

TRANSFER_TTL_NS = 300 * SECOND_NS
"""Blocks that the decode worker has neither taken nor released after this time are freed."""

REFUSED = "refused"
"""Reason of a failed job: this prefill worker cannot run it, or sleeps."""

logger = logging.getLogger(__name__)


def main(process: ProcessId, config: WorkerConfig, control: socket.socket) -> None:
    """Run prefill worker `process` until it is told to stop."""
    run(process, config, control, PrefillWorker, ToPrefillWorker)


@dataclass(slots=True)
class _RunningJob:
    """A job in the engine.

    Attributes:
        job_id: its name between the processes.
        worker: index of the decode worker that the job is for.
        tokens: prompt tokens to compute, without those that the decode worker has.
        since_ns: when the job came, on the monotonic clock.
    """

    job_id: str
    worker: int
    tokens: int
    since_ns: int


class PrefillWorker:
    """A prefill worker's side towards the prefill queue and the decode workers.

    In the engine, and as the id of the transfer of its blocks, each lease of a job has a name of
    its own. A job whose lease has expired may be leased to this worker again, while the engine
    still has copies of the first time to end.
    """

    def __init__(self, equipment: Equipment) -> None:
        self._process = equipment.process
        self._machine = equipment.config.machine
        self._engine = equipment.engine
        self._prefills = equipment.engine.prefill_side
        self._switchboard = equipment.switchboard
        self._leases = itertools.count(1)
        self._running: dict[str, _RunningJob] = {}  # by their names in the engine
        self._prefill_s: list[float] = []
        self._pull_due_s = self._report_due_s = 0.0
        self._enlisted = False
        self.phase = PhaseChange(Phase.WARMING, "waiting for the prefill queue")
        self.operations = Operations(
            self._engine,
            abort_all=self._abort_all,
            idle=lambda: not self._engine.has_work(),
            answer=lambda answer: self._switchboard.owe(FRONTEND, answer),
        )

    # -- the loop --------------------------------------------------------------------------

    def admit(self) -> None:
        """See `Duty`: nothing to do, jobs go to the engine at once, since no streams run here."""

    def heard(self) -> None:
        """See `Duty`: nothing to do, jobs wait for the host cache inside the engine."""

    def stepped(self, outputs: Sequence[tuple[int, StepOutputs]]) -> None:
        """Notify decode workers. The outputs, one token of each prompt, are not needed."""
        self._notify()

    def _notify(self) -> None:
        """Tell decode workers which prompts are computed, and the queue which jobs have ended."""
        for name, params, failed in self._prefills.take_ended():
            running = self._running.pop(name, None)
            if running is None:
                self._prefills.release([name])  # it was dropped meanwhile
                continue
            now = time.monotonic_ns()
            self._prefill_s.append((now - running.since_ns) / SECOND_NS)
            peer = ProcessId(Role.WORKER, running.worker)
            job_id, prefill_worker = running.job_id, self._process.index
            done = PrefillDone(job_id, prefill_worker, params, running.since_ns, now)
            if not failed and not self._switchboard.owe(peer, done):
                self._prefills.release([name])  # the decode worker is gone
            self._switchboard.owe(QUEUE, JobEnded(job_id, failed))
            self._pull_due_s = 0.0

    def tick(self) -> None:
        """Notify decode workers; pull jobs and report, when either is due."""
        self._notify()
        now = time.monotonic()
        if now >= self._pull_due_s:
            self._pull(now)
        if now >= self._report_due_s:
            self._report(now)

    def idle_timeout_s(self) -> float:
        """See `Duty`: until the next pull or report is due."""
        return max(min(self._pull_due_s, self._report_due_s) - time.monotonic(), 0.0)

    def _pull(self, now_s: float) -> None:
        """Tell the queue how many jobs and tokens this worker can take now.

        This is sent when room was freed, and every `PULL_INTERVAL_S`.
        """
        jobs, tokens = self._engine.batch_limits
        jobs -= len(self._running)
        tokens = BATCHES_AHEAD * tokens - sum(one.tokens for one in self._running.values())
        held = [one.job_id for one in self._running.values()]
        room = PullJobs(max(jobs, 0), max(tokens, 0), held, self._machine)
        self._switchboard.send(QUEUE, room)
        self._pull_due_s = now_s + PULL_INTERVAL_S

    def _report(self, now_s: float) -> None:
        """Send the counters, and free blocks that were not taken within `TRANSFER_TTL_NS`."""
        self._prefills.expire(time.monotonic_ns() - TRANSFER_TTL_NS)
        stats = self._prefills.stats(prefill_s=self._prefill_s, kept=len(self._running))
        self._prefill_s = []
        self._switchboard.send(FRONTEND, stats)
        self._report_due_s = now_s + REPORT_INTERVAL_S

    # -- messages --------------------------------------------------------------------------

    def apply(self, peer: ProcessId, message: Any) -> None:
        """Act on a message of the prefill queue or a decode worker."""
        match message:
            case Enlisted():
                self._on_enlisted()
            case RunJob():
                self._add(message)
            case DropJob(job_id):
                for name in [name for name, one in self._running.items() if one.job_id == job_id]:
                    self._drop(name)
            case ReleaseTransfers(transfer_ids):
                self._prefills.release(transfer_ids)

    def _on_enlisted(self) -> None:
        """Report that this process is ready: from now on it gets jobs."""
        if not self._enlisted:
            self._enlisted = True
            self._switchboard.report(PhaseChange(Phase.READY, capacity(self._engine.ready())))

    def _add(self, message: RunJob) -> None:
        job = message.job
        if self.operations.asleep:
            self._switchboard.owe(QUEUE, JobEnded(job.job_id, REFUSED))
            return
        name = f"{job.job_id}~{next(self._leases)}"
        try:
            self._prefills.add(msgspec.structs.replace(job, job_id=name), message.worker)
        except (InvalidRequest, InternalError) as error:
            logger.warning("the prefill job %s is refused: %s", job.job_id, error.message)
            self._switchboard.owe(QUEUE, JobEnded(job.job_id, REFUSED))
            return
        tokens = job.prompt_tokens - job.skip_tokens
        now_ns = time.monotonic_ns()
        self._running[name] = _RunningJob(job.job_id, message.worker, tokens, now_ns)

    def _drop(self, name: str) -> None:
        """Forget a job, given by its name in the engine."""
        del self._running[name]
        self._engine.abort([name])
        self._prefills.release([name])
        self._pull_due_s = 0.0

    def _abort_all(self, _: str) -> None:
        """End all jobs as refused, so that the decode workers prefill these prompts themselves."""
        for name, one in list(self._running.items()):
            self._drop(name)
            self._switchboard.owe(QUEUE, JobEnded(one.job_id, REFUSED))

    # -- links -----------------------------------------------------------------------------

    def on_link(self, peer: ProcessId) -> None:
        """Pull at once: a new prefill queue does not know how much room there is."""
        self._pull_due_s = 0.0

    def on_unlink(self, peer: ProcessId, reason: str) -> None:
        """Drop the jobs of a prefill queue, or for a decode worker, that has ended."""
        match peer.role:
            case Role.PREFILL_QUEUE:
                for name in list(self._running):
                    self._drop(name)
            case Role.WORKER:
                self._prefills.owner_gone(peer.index)
                mine = [name for name, one in self._running.items() if one.worker == peer.index]
                for name in mine:
                    self._drop(name)
