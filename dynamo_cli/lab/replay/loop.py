"""The replay: a discrete-event simulation with a router and simulated workers. Pure.

Of the events at one time, steps end first, then transferred KV blocks and requests arrive, then
idle workers begin a step. Only the steps of engines and the transfers of blocks take time;
decisions, messages and tokenization take none.
"""

from __future__ import annotations

import heapq
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from xxhash import xxh3_64_intdigest

from dynamo_cli.config import PlacementRule
from dynamo_cli.engines.mock.profile import PS, Profile, StepTimes
from dynamo_cli.engines.mock.request import SimRequest, StepResult
from dynamo_cli.host_cache.state import HostCache
from dynamo_cli.kv import hashes
from dynamo_cli.lab.replay.host_cache import ReplayHostCache
from dynamo_cli.lab.replay.prefill import ReplayPrefill
from dynamo_cli.lab.replay.routers import Factory
from dynamo_cli.lab.replay.worker import NS_PS, SimWorker
from dynamo_cli.lab.report import Gaps, Outcome
from dynamo_cli.lab.trace.trace import Trace, TraceRequest
from dynamo_cli.messages.routing import (
    REASON_NO_WORKER,
    FirstToken,
    RequestEnd,
    RouteQuery,
    RoutingDecision,
)
from dynamo_cli.topology import Role

STEP_ENDS, MOVED, ARRIVES, BEGINS = range(4)
"""Kinds of events, in the order in which they happen at one time."""

ALWAYS = PlacementRule()
TOO_LONG = "too_long"
OnRequestsOver = Callable[[int], None]
"""Called with the number of requests that are over."""


@dataclass(slots=True)
class Result:
    """The results of a replay.

    Attributes:
        outcomes: one for each request, in the order of the trace.
        gaps: times between tokens.
        busy_s: time that each worker computed.
        requests: number of requests that each worker was given.
        preemptions: number of preemptions on all workers.
        fallbacks: number of prompts that no prefill worker computed in time.
        loaded_tokens: prompt tokens that were loaded from the host cache.
        dropped_blocks: computed blocks for which the host cache had no slot.
        host: the host cache; None if there was none.
    """

    outcomes: list[Outcome]
    gaps: Gaps
    busy_s: list[float]
    requests: list[int]
    preemptions: int
    fallbacks: int
    loaded_tokens: int = 0
    dropped_blocks: int = 0
    host: HostCache | None = None

    @property
    def skew(self) -> float:
        """Computing time of the busiest worker relative to the mean; 1 is even."""
        mean_s = statistics.fmean(self.busy_s)
        return max(self.busy_s) / mean_s if mean_s else 1.0


@dataclass(slots=True)
class _Flight:
    """A request in flight."""

    place: int
    request: TraceRequest
    arrival_ps: int
    first_ps: int = 0
    worker: int | None = None
    sim: SimRequest | None = None


class Replay:
    """Replays one trace at one speed through one router. It can be run once.

    Args:
        trace: the requests; its block size must be that of the profile.
        factory: makes the router.
        profile: times and sizes of every engine.
        workers: number of workers.
        speed: factor for the rate of arrivals.
        seed: seed of the router's random choices.
        prefill_workers: number of prefill workers.
        rule: which prompts are sent to prefill workers.
        host_cache_bytes: size of the host cache that all workers share; 0 is none.
        leaps: whether steps in which nothing changes are simulated at once. This changes the
            duration of the replay, but not its results.
        progress: called after the end of each request.
    """

    def __init__(
        self,
        trace: Trace,
        factory: Factory,
        profile: Profile,
        workers: int,
        *,
        speed: float = 1.0,
        seed: int = 0,
        prefill_workers: int = 0,
        rule: PlacementRule = ALWAYS,
        host_cache_bytes: int = 0,
        leaps: bool = True,
        progress: OnRequestsOver = lambda done: None,
    ) -> None:
        self._trace = trace
        self._speed = speed
        self._progress = progress
        self._host = (
            ReplayHostCache(host_cache_bytes, profile, workers) if host_cache_bytes else None
        )
        tiers = self._host.tiers if self._host else [None] * workers
        self._workers = [
            SimWorker(index, profile, leaps=leaps, tier=tier) for index, tier in enumerate(tiers)
        ]
        self._prefill = ReplayPrefill(rule, profile, prefill_workers, leaps=leaps)
        self._all = [*self._workers, *self._prefill.workers]
        self._speeds = StepTimes.of(profile)
        self._router = factory([worker.engine for worker in self._workers], seed)
        # time, kind, place of a worker in `_all` or of a moved request in the trace, version
        self._heap: list[tuple[int, int, int, int]] = []
        # Of a worker's entries in the heap only that with the newest version counts.
        self._versions = [0] * len(self._all)
        self._given = [0] * workers
        self._fallbacks = self._loaded_tokens = 0
        self._flights: dict[str, _Flight] = {}
        self._outcomes: list[Outcome | None] = [None] * len(trace.requests)
        self._ended = 0

    def run(self) -> Result:
        """Run from the first arrival to the last token."""
        for worker in self._workers:
            self._router.ready(worker.ready())
            self._router.events(worker.holds(), 0)
        for worker in self._prefill.workers:
            self._router.events(worker.holds(), 0, Role.PREFILL_WORKER)
        if self._host is not None:
            self._host.lend()
            self._router.events(self._host.holds(), 0, Role.HOST_CACHE)
        arrivals = self._arrivals()
        following = next(arrivals, None)
        while self._heap or following is not None:
            if following is None or (
                self._heap and self._heap[0][:2] < (following.arrival_ps, ARRIVES)
            ):
                self._wake()
            else:
                self._arrive(following)
                following = next(arrivals, None)
        return self._result()

    def _arrivals(self) -> Iterator[_Flight]:
        for place, request in enumerate(self._trace.requests):
            yield _Flight(place, request, round(request.arrival_ns * NS_PS / self._speed))

    # -- requests --------------------------------------------------------------------------

    def _arrive(self, flight: _Flight) -> None:
        now_ps, request = flight.arrival_ps, flight.request
        request_id = str(flight.place)
        sim = SimRequest(
            request_id,
            request.input_tokens,
            request.output_tokens,
            list(request.hashes),
            partial(_name_output, flight.place),
            request.priority,
        )
        if not self._workers[0].engine.fits(sim):
            self._over(flight, now_ps, TOO_LONG)
            return
        flight.sim = sim
        self._flights[request_id] = flight
        query = RouteQuery(
            request_id,
            request_id,
            request.input_tokens,
            hashes.pack(request.hashes),
            request.session,
            request.priority,
        )
        decision = self._router.query(query, now_ps // NS_PS)
        if decision is not None:
            self._place(decision, now_ps)

    def _place(self, decision: RoutingDecision, now_ps: int) -> None:
        flight = self._flights[decision.request_id]
        assert flight.sim is not None
        if decision.worker is None:
            self._over(self._flights.pop(decision.request_id), now_ps, REASON_NO_WORKER)
            return
        flight.worker, flight.sim.priority = decision.worker, decision.engine_order
        self._given[decision.worker] += 1
        engine = self._workers[decision.worker].engine
        if self._prefill.workers and self._prefill.put(
            flight.sim, engine.cached_tokens(flight.sim), decision, now_ps
        ):
            self._lease(now_ps)
        else:
            self._add(flight, now_ps)

    def _add(self, flight: _Flight, now_ps: int) -> None:
        """Add a request to the engine of its worker."""
        assert flight.sim is not None and flight.worker is not None
        if self._workers[flight.worker].add(flight.sim, now_ps):
            self._schedule(flight.worker, now_ps)

    def _lease(self, now_ps: int) -> None:
        changed, failed = self._prefill.lease(now_ps)
        for worker in changed:
            self._schedule(len(self._workers) + worker.index, now_ps)
        for request_id in failed:
            self._fallbacks += 1
            self._add(self._flights[request_id], now_ps)

    def _moved(self, place: int, now_ps: int) -> None:
        """Add a request whose blocks were transferred; its last token is computed locally."""
        flight = self._flights[str(place)]
        assert flight.sim is not None
        flight.sim.remote_tokens = flight.sim.prompt_tokens - 1
        self._add(flight, now_ps)

    def _over(self, flight: _Flight, now_ps: int, error: str = "") -> None:
        request, arrival_ps = flight.request, flight.arrival_ps
        self._outcomes[flight.place] = Outcome(
            start_s=arrival_ps / PS,
            ttft_s=(flight.first_ps - arrival_ps) / PS if not error else 0.0,
            e2e_s=(now_ps - arrival_ps) / PS,
            prompt_tokens=request.input_tokens,
            cached_tokens=flight.sim.cached_tokens if flight.sim else None,
            output_tokens=request.output_tokens,
            error=error,
        )
        self._ended += 1
        self._progress(self._ended)

    # -- workers ---------------------------------------------------------------------------

    def _schedule(self, place: int, now_ps: int) -> None:
        """Wake a worker when its step ends. If that is now, it begins after all arrivals of this
        time."""
        until_ps = self._all[place].until_ps
        kind = BEGINS if until_ps == now_ps else STEP_ENDS
        self._versions[place] += 1
        heapq.heappush(self._heap, (until_ps, kind, place, self._versions[place]))

    def _wake(self) -> None:
        now_ps, kind, place, version = heapq.heappop(self._heap)
        if kind == MOVED:
            self._moved(place, now_ps)
            return
        if version != self._versions[place]:
            return
        if kind == STEP_ENDS and place < len(self._workers):
            self._end_step(self._workers[place], now_ps)
        elif kind == STEP_ENDS:
            self._end_prefill(self._all[place], now_ps)
        if self._versions[place] == version and self._all[place].begin(now_ps):
            self._schedule(place, now_ps)

    def _end_step(self, worker: SimWorker, now_ps: int) -> None:
        """Tell the router the results of a step, in the order in which a worker process sends
        them."""
        result, now_ns = worker.end(), now_ps // NS_PS
        if result is not None:
            if (message := worker.events()) is not None:
                self._router.events(message, now_ns)
            self._tell_host(now_ns)
            self._tell_tokens(result, now_ps)
        if (stats := worker.stats(now_ps)) is not None:
            self._router.stats(stats)
            if (copies := worker.copies()) is not None:
                self._router.copied(copies)
        if result is not None and result.finished:
            for decision in self._router.released(now_ns):
                self._place(decision, now_ps)

    def _tell_host(self, now_ns: int) -> None:
        """Let the host cache lend slots for those that were written, and tell the router."""
        if self._host is None:
            return
        self._host.lend()
        if (message := self._host.events(now_ns)) is not None:
            self._router.events(message, now_ns, Role.HOST_CACHE)

    def _end_prefill(self, worker: SimWorker, now_ps: int) -> None:
        """Transfer the blocks of computed prompts to their decode workers."""
        result = worker.end()
        if (message := worker.events()) is not None:
            self._router.events(message, now_ps // NS_PS, Role.PREFILL_WORKER)
        for sim in result.finished if result is not None else ():
            tokens = self._prefill.ended(worker.index, sim.request_id)
            if tokens is not None:
                then_ps = now_ps + self._speeds.transfer_ps(tokens)
                heapq.heappush(self._heap, (then_ps, MOVED, int(sim.request_id), 0))
        self._lease(now_ps)

    def _tell_tokens(self, result: StepResult, now_ps: int) -> None:
        for sim in result.joined:
            flight = self._flights[sim.request_id]
            if sim.fresh:
                flight.first_ps = now_ps
                assert sim.cached_tokens is not None
                self._loaded_tokens += sim.loaded_tokens
                message = FirstToken(sim.request_id, sim.cached_tokens)
                self._router.first_token(message, now_ps // NS_PS)
        for sim in result.finished:
            self._router.end(RequestEnd(sim.request_id))
            self._over(self._flights.pop(sim.request_id), now_ps)

    def _result(self) -> Result:
        gaps = Gaps()
        for worker in self._workers:
            gaps.merge(worker.gaps)
        return Result(
            [outcome for outcome in self._outcomes if outcome is not None],
            gaps,
            [worker.busy_ps / PS for worker in self._workers],
            self._given,
            sum(worker.engine.totals.preemptions for worker in self._workers),
            self._fallbacks,
            self._loaded_tokens,
            self._host.dropped_blocks if self._host else 0,
            self._host.cache if self._host else None,
        )


def _name_output(place: int, request: SimRequest, block: int) -> int:
    """Return the hash of a block with output, which differs from all others."""
    parent = request.hashes[block - 1] if block else hashes.ROOT
    return xxh3_64_intdigest(parent.to_bytes(8, "little"), place + 1)
