"""Prefill workers of the replay, simulated, behind the real prefill queue. Pure."""

from __future__ import annotations

from dynamo_cli.config import PlacementRule
from dynamo_cli.engines.mock.profile import Profile
from dynamo_cli.engines.mock.request import SimRequest
from dynamo_cli.lab.replay.worker import NS_PS, SimWorker
from dynamo_cli.messages.routing import RoutingDecision
from dynamo_cli.prefill_queue.jobs import FailedJob, Job, QueueLimits, Room
from dynamo_cli.prefill_queue.state import PrefillQueue
from dynamo_cli.worker.away import DEADLINE_NS
from dynamo_cli.worker.where_to_prefill import BATCHES_AHEAD, decide


class ReplayPrefill:
    """The prefill queue and the prefill workers.

    Args:
        rule: which prompts are sent to prefill workers.
        profile: times and sizes of every engine.
        count: number of prefill workers.
        leaps: as in `Replay`.

    Attributes:
        workers: the prefill workers.
    """

    def __init__(
        self, rule: PlacementRule, profile: Profile, count: int, *, leaps: bool = True
    ) -> None:
        self.workers = [SimWorker(index, profile, leaps=leaps) for index in range(count)]
        self._rule = rule
        self._profile = profile
        self._queue: PrefillQueue[SimRequest] = PrefillQueue(QueueLimits())
        self._running: list[dict[str, int]] = [{} for _ in range(count)]  # tokens by job id

    def put(
        self, sim: SimRequest, cached_tokens: int, decision: RoutingDecision, now_ps: int
    ) -> bool:
        """Push a prompt to the queue.

        Args:
            sim: the request.
            cached_tokens: prompt tokens that the decode worker has cached.
            decision: the router's decision.
            now_ps: current time.

        Returns:
            whether a prefill worker computes it; False: the decode worker does.
        """
        assert decision.worker is not None
        depth, count = self._queue.depth_jobs, len(self.workers)
        where = decide(self._rule, sim.prompt_tokens, cached_tokens, depth, count)
        if not where.remote:
            return False
        now_ns = now_ps // NS_PS
        copy = SimRequest(
            sim.request_id, sim.prompt_tokens, 1, list(sim.hashes), sim.name_block, sim.priority
        )
        job = Job(
            job_id=sim.request_id,
            worker=decision.worker,
            prompt_tokens=sim.prompt_tokens - cached_tokens,
            priority=sim.priority,
            deadline_ns=now_ns + DEADLINE_NS,
            put_ns=now_ns,
            payload=copy,
            holder=decision.prefill_worker,
        )
        return self._queue.put(job) is None

    def lease(self, now_ps: int) -> tuple[list[SimWorker], list[str]]:
        """Let prefill workers pull the jobs that they have room for.

        Returns:
            workers whose step ends at another time now, and ids of requests whose deadline passed.
        """
        failed = [
            outcome.job_id
            for outcome in self._queue.expire(now_ps // NS_PS)
            if isinstance(outcome, FailedJob)
        ]
        for running, worker in zip(self._running, self.workers, strict=True):
            for job_id in failed:
                if running.pop(job_id, None) is not None:
                    worker.abort(job_id)
        rooms = {holder: self._room(running) for holder, running in enumerate(self._running)}
        changed: dict[int, SimWorker] = {}
        for holder, job in self._queue.share(rooms, now_ps // NS_PS):
            self._running[holder][job.job_id] = job.prompt_tokens
            worker = self.workers[holder]
            if worker.add(job.payload, now_ps):
                changed[holder] = worker
        for holder, running in enumerate(self._running):
            self._queue.renew(holder, list(running), now_ps // NS_PS)
        return list(changed.values()), failed

    def _room(self, running: dict[str, int]) -> Room:
        """As much as `worker.prefill` pulls: a few batches ahead."""
        jobs = self._profile.max_num_seqs - len(running)
        tokens = BATCHES_AHEAD * self._profile.max_num_batched_tokens - sum(running.values())
        return Room(max(jobs, 0), max(tokens, 0))

    def ended(self, holder: int, request_id: str) -> int | None:
        """Note the end of a prefill; return the tokens to transfer, or None if it had failed."""
        tokens = self._running[holder].pop(request_id, None)
        if tokens is not None:
            self._queue.acknowledge(request_id, holder)
        return tokens
