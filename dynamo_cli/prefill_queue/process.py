"""The loop of the prefill queue: takes jobs from decode workers, leases them to prefill workers."""

from __future__ import annotations

import socket
import time
from collections import Counter
from collections.abc import Iterable

from dynamo_cli.config import PrefillQueueConfig
from dynamo_cli.host.proctitle import set_title
from dynamo_cli.ipc.codec import Decoder
from dynamo_cli.ipc.switchboard import Switchboard
from dynamo_cli.messages.flows import ToChild, ToPrefillQueue
from dynamo_cli.messages.lifecycle import Phase, PhaseChange, SetPhase, Stop
from dynamo_cli.messages.prefill import (
    CancelJob,
    DropJob,
    Enlisted,
    JobEnded,
    JobFailed,
    PrefillQueueStats,
    PullJobs,
    PushJob,
    QueueState,
    RunJob,
)
from dynamo_cli.prefill_queue.jobs import (
    Abandoned,
    FailedJob,
    Job,
    JobOutcome,
    JobReason,
    QueueLimits,
    Room,
)
from dynamo_cli.prefill_queue.state import PrefillQueue
from dynamo_cli.topology import FRONTEND, ProcessId, Role
from dynamo_cli.units import SECOND_NS

STATS_INTERVAL_S = 0.25
TICK_S = 0.05
"""Poll interval, seconds, while there are jobs: reservations, leases and deadlines end by time."""

NOTHING_TOLD = QueueState(-1, -1)


def main(process: ProcessId, config: PrefillQueueConfig, control: socket.socket) -> None:
    """Run the prefill queue until it is told to stop."""
    Queue(process, config, control).run()


class Queue:
    """The process of the prefill queue: a `PrefillQueue` and its links.

    Args:
        config: the age of the oldest waiting job at which an alarm is raised, and whether only
            prefill workers of the same machine may take a job.
    """

    def __init__(
        self, process: ProcessId, config: PrefillQueueConfig, control: socket.socket
    ) -> None:
        self._process = process
        self._alarm_ns = round(config.alarm_s * SECOND_NS)
        self._within = config.within_machine
        self._queue: PrefillQueue[PushJob] = PrefillQueue(QueueLimits())
        self._rooms: dict[int, Room] = {}  # from the last `PullJobs` of each prefill worker
        self._pulled_ns: dict[int, int] = {}  # when that came
        self._newcomers: set[int] = set()
        self._switchboard = Switchboard(control, self)
        self._decoder = Decoder(ToPrefillQueue)
        self._told = NOTHING_TOLD
        self._report_due_s = 0.0
        self._changed = True
        self._stopping = False

    def run(self) -> None:
        """Serve until the supervisor sends `Stop`."""
        self._switchboard.report(PhaseChange(Phase.READY))
        while not self._stopping:
            self.advance(TICK_S if self._busy() else None)
        self._switchboard.close()

    def advance(self, timeout_s: float | None) -> None:
        """Handle the messages that come within `timeout_s`, and do what is due by now."""
        self._switchboard.poll(timeout_s)
        now = time.monotonic_ns()
        self._tell(self._queue.expire(now))
        self._lease(now)
        self._tell_depth()
        self._enlist()
        self._report(now)

    def _busy(self) -> bool:
        return self._changed or bool(self._queue.view(0).in_flight_jobs or self._queue.depth_jobs)

    def _lease(self, now_ns: int) -> None:
        """Lease to every prefill worker the jobs that it has room for."""
        self._forget_silent(now_ns)
        for holder, job in self._queue.share(self._rooms, now_ns):
            peer = ProcessId(Role.PREFILL_WORKER, holder)
            self._switchboard.send(peer, RunJob(job.worker, job.payload))
        if not self._rooms:
            self._tell(self._queue.no_holders())
        elif self._within:
            self._tell(self._queue.only_on({room.machine for room in self._rooms.values()}))

    def _forget_silent(self, now_ns: int) -> None:
        """Count no longer on prefill workers that stand still; they count again when they pull.

        A pull renews leases. So without one for as long as a lease lasts, all leases of a prefill
        worker have expired, and those of further jobs would too.
        """
        limit_ns = now_ns - self._queue.limits.lease_ns
        for holder in [one for one, then_ns in self._pulled_ns.items() if then_ns < limit_ns]:
            self._forget_room(holder)

    def _forget_room(self, holder: int) -> None:
        self._rooms.pop(holder, None)
        self._pulled_ns.pop(holder, None)
        self._newcomers.discard(holder)

    def _tell(self, outcomes: Iterable[JobOutcome]) -> None:
        for outcome in outcomes:
            match outcome:
                case FailedJob(job_id, worker, reason):
                    peer = ProcessId(Role.WORKER, worker)
                    self._switchboard.owe(peer, JobFailed(job_id, reason))
                case Abandoned(job_id, holder):
                    peer = ProcessId(Role.PREFILL_WORKER, holder)
                    self._switchboard.owe(peer, DropJob(job_id))

    def _tell_depth(self) -> None:
        """Send the depth of the queue to decode workers, which decide by it where to prefill."""
        state = QueueState(self._queue.depth_jobs, len(self._rooms), self._by_machine())
        if state != self._told:
            workers = [peer for peer in self._switchboard.links if peer.role is Role.WORKER]
            told = [self._switchboard.send(peer, state) for peer in workers]  # each of them
            self._told = state if all(told) else NOTHING_TOLD

    def _by_machine(self) -> dict[int, tuple[int, int]] | None:
        """Jobs that wait and prefill workers of each machine, if jobs stay on their machine."""
        if not self._within:
            return None
        count = Counter(room.machine for room in self._rooms.values())
        return {one: (self._queue.depth_on(one), count[one]) for one in count}

    def _enlist(self) -> None:
        """Tell new prefill workers that every decode worker was told of them."""
        if self._told is NOTHING_TOLD:
            return  # a link was full; the next pull of a prefill worker causes another attempt
        for newcomer in list(self._newcomers):
            if self._switchboard.send(ProcessId(Role.PREFILL_WORKER, newcomer), Enlisted()):
                self._newcomers.remove(newcomer)

    def _report(self, now_ns: int) -> None:
        now = time.monotonic()
        if not self._changed or now < self._report_due_s:
            return
        view, queue = self._queue.view(now_ns), self._queue
        stats = PrefillQueueStats(
            depth_jobs=view.depth_jobs,
            depth_tokens=view.depth_tokens,
            in_flight_jobs=view.in_flight_jobs,
            in_flight_tokens=view.in_flight_tokens,
            oldest_age_s=view.oldest_age_ns / SECOND_NS,
            alarm=view.oldest_age_ns > self._alarm_ns,
            taken=queue.taken,
            ended={str(reason): count for reason, count in queue.ended.items()},
            refused={str(reason): count for reason, count in queue.refused.items()},
            returned={str(reason): count for reason, count in queue.returned.items()},
            waits_s=[wait / SECOND_NS for wait in queue.take_waits()],
            refused_sends=self._switchboard.refused_sends(),
        )
        self._switchboard.send(FRONTEND, stats)
        self._report_due_s = now + STATS_INTERVAL_S
        self._changed = bool(view.depth_jobs)

    # -- switchboard handler ---------------------------------------------------------------

    def on_message(self, peer: ProcessId, payload: bytes) -> None:
        """Handle a message of a decode worker or a prefill worker."""
        match self._decoder(payload):
            case PushJob() as push:
                self._put(peer.index, push)
            case CancelJob(job_id):
                self._tell(self._queue.cancel(job_id))
            case PullJobs() as room:
                if peer.index not in self._rooms:
                    self._newcomers.add(peer.index)
                now_ns = self._pulled_ns[peer.index] = time.monotonic_ns()
                self._rooms[peer.index] = Room(room.jobs, room.tokens, room.machine)
                self._tell(self._queue.renew(peer.index, room.held, now_ns))
            case JobEnded(job_id, ""):
                self._queue.acknowledge(job_id, peer.index)
            case JobEnded(job_id, failed):
                self._tell(self._queue.refuse(job_id, peer.index, failed))
        self._changed = True

    def _put(self, worker: int, push: PushJob) -> None:
        job = Job(
            job_id=push.job_id,
            worker=worker,
            prompt_tokens=push.prompt_tokens - push.skip_tokens,
            priority=push.priority,
            deadline_ns=push.deadline_ns,
            put_ns=time.monotonic_ns(),
            payload=push,
            holder=self._holder(push),
            machine=self._machine(push),
            stays=self._within,
        )
        refusal = self._queue.put(job)
        self._told = NOTHING_TOLD  # workers add what they push to the last depth that they heard
        if refusal is not None and refusal is not JobReason.DUPLICATE:
            peer = ProcessId(Role.WORKER, worker)
            self._switchboard.owe(peer, JobFailed(push.job_id, refusal))

    def _holder(self, push: PushJob) -> int | None:
        """The prefill worker that has the job's prefix cached, if it may take the job at all."""
        room = self._rooms.get(push.holder) if push.holder is not None else None
        near = room is not None and room.machine == push.machine
        return push.holder if near or not self._within else None

    def _machine(self, push: PushJob) -> int | None:
        """The machine whose prefill workers may take the job first, or always; None: all may.

        It is the machine of the decode worker. If jobs may leave their machine, machine 0 does not
        come first, nor does a machine without prefill workers.
        """
        near = any(room.machine == push.machine for room in self._rooms.values())
        return push.machine if self._within or (push.machine and near) else None

    def on_link(self, peer: ProcessId) -> None:
        """Send the depth again: the new peer does not know it."""
        self._told = NOTHING_TOLD
        self._changed = True

    def on_unlink(self, peer: ProcessId, reason: str) -> None:
        """Drop the jobs of a decode worker that is gone; return those a prefill worker held."""
        match peer.role:
            case Role.WORKER:
                self._tell(self._queue.worker_gone(peer.index))
            case Role.PREFILL_WORKER:
                self._forget_room(peer.index)
                self._tell(self._queue.holder_gone(peer.index))
        self._changed = True

    def on_control(self, message: ToChild) -> None:
        """Handle a message of the supervisor."""
        match message:
            case Stop():
                self._stopping = True
            case SetPhase(phase):
                set_title(self._process, phase)
