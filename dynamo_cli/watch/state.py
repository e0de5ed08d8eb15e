"""Makes a `Snapshot` of the reports of all processes. Pure: messages and a clock in."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from dynamo_cli import __version__
from dynamo_cli.messages.cluster import NodeTable
from dynamo_cli.messages.host_cache import HostCacheStats, HostCopies
from dynamo_cli.messages.lifecycle import Logged, Phase, ProcessState, ProcessTable
from dynamo_cli.messages.prefill import PrefillQueueStats, TransferStats
from dynamo_cli.messages.request import EngineReady
from dynamo_cli.messages.routing import Decisions, RouterStats
from dynamo_cli.messages.telemetry import ProcessorStats, WorkerStats
from dynamo_cli.topology import Role
from dynamo_cli.units import SECOND_NS
from dynamo_cli.watch.alarms import (
    Watch,
    no_place,
    no_router,
    of_gpus,
    of_host_cache,
    old_jobs,
    silence,
)
from dynamo_cli.watch.decisions import DecisionLog
from dynamo_cli.watch.engine_counts import EngineTotals
from dynamo_cli.watch.gpus import GpuReport, views
from dynamo_cli.watch.host import HostReport
from dynamo_cli.watch.host_cache import HostCacheState
from dynamo_cli.watch.host_cache_schema import HostCacheView
from dynamo_cli.watch.judge import Judge
from dynamo_cli.watch.lives import Lives
from dynamo_cli.watch.logs import LogRing
from dynamo_cli.watch.meter import Latency, Meter
from dynamo_cli.watch.node_schema import NodeView, node_views
from dynamo_cli.watch.prefill import PrefillState
from dynamo_cli.watch.processes import process_view
from dynamo_cli.watch.queues import PendingAnswers, queues
from dynamo_cli.watch.rates import WorkerRates, ratio
from dynamo_cli.watch.routing import RoutingState
from dynamo_cli.watch.schema import (
    AlarmView,
    PrefillView,
    ProcessView,
    RouterView,
    Snapshot,
    TrafficView,
    WorkerView,
)

ASLEEP = "asleep: POST /sleep was asked for; POST /wake_up ends that"
UNREACHED = "the frontend has no processor yet"


class TreeState:
    """All that the frontend knows of the tree.

    Args:
        meter: measurements of the frontend's own requests.
        models: names that the API answers to.
        started_ns: start of the frontend, CLOCK_MONOTONIC.

    Attributes:
        decisions: the last decisions of the router.
        logs: the last log lines of all processes.
        prefill: what is known of disaggregated prefill.
        host_cache: what is known of the host cache.
        engine_totals: what engines have reported, over all their restarts.
        lives: which processes go on reporting after their node was lost.
        url: where the frontend listens; empty before it does.
        draining: whether the frontend takes no new requests, whatever the table says.
        asleep: whether every ready worker sleeps.
        reached: whether the frontend has a processor for requests. A new frontend has none at
            first, although the table says that requests are served.
    """

    def __init__(self, meter: Meter, models: tuple[str, ...], started_ns: int) -> None:
        self._meter = meter
        self._models = models
        self._started_ns = started_ns
        self._table = ProcessTable([], serving=False, reason="starting")
        self._engines: dict[int, EngineReady] = {}
        self._nodes: list[NodeView] = []
        self._rates: defaultdict[int, WorkerRates] = defaultdict(WorkerRates)
        self._watch = Watch()
        self._judge = Judge()
        self._routing = RoutingState()
        self.prefill = PrefillState()
        self.host_cache = HostCacheState()
        self.engine_totals = EngineTotals()
        self.lives = Lives()
        self.decisions = DecisionLog()
        self.logs = LogRing()
        self.url = ""
        self.draining = self.asleep = False
        self.reached = True

    @property
    def models(self) -> tuple[str, ...]:
        """Names that the API answers to."""
        return self._models

    @property
    def up(self) -> bool:
        """Whether requests are taken. Engines may sleep: lists of models and tokens need none."""
        return self._table.serving and not self.draining

    @property
    def serving(self) -> bool:
        """Whether requests to the model can be served now."""
        return self.up and self.reached and not self.asleep

    @property
    def processes(self) -> list[ProcessState]:
        """Every process of the tree."""
        return self._table.processes

    @property
    def reason(self) -> str:
        """Why requests cannot be served, if they cannot."""
        if self.draining:
            return "shutting down"
        if self._table.serving and not self.reached:
            return UNREACHED
        return ASLEEP if self.asleep and self._table.serving else self._table.reason

    def apply(
        self,
        message: ProcessTable
        | EngineReady
        | WorkerStats
        | RouterStats
        | Decisions
        | PrefillQueueStats
        | TransferStats
        | HostCacheStats
        | HostCopies
        | Logged
        | NodeTable,
        now_ns: int,
    ) -> None:
        """Take a report of a process."""
        match message := self.lives.since_link(message):
            case ProcessTable():
                self._table = message
                self._watch.processes(message.processes)
                self._forget_workers()
                self._see_who_sleeps()
            case EngineReady(worker):
                self._engines[worker] = message
                self.engine_totals.ready(message)
            case WorkerStats(worker):
                before = self.engine_totals.now(worker)
                self.engine_totals.report(message)
                if before is None or before.asleep is not message.asleep:
                    self._see_who_sleeps()
                self._rates[worker].report(message, now_ns)
            case RouterStats():
                self._routing.router(message, now_ns)
                self._watch.router(message, now_ns)
            case Decisions():
                self.decisions.add(message)
            case PrefillQueueStats():
                self.prefill.queue(message, now_ns)
            case TransferStats():
                self.prefill.worker(message, now_ns)
            case HostCacheStats():
                self.host_cache.report(message, now_ns)
            case HostCopies():
                self.host_cache.copied(message, now_ns)
            case Logged():
                self.logs.add(message)
            case NodeTable():
                self._nodes = node_views(message)

    def _forget_workers(self) -> None:
        """Forget workers that are no longer part of the tree."""
        there = {state.index for state in self._table.processes if state.role is Role.WORKER}
        for known in (self._engines, self._rates):
            for worker in known.keys() - there:
                del known[worker]
        self.engine_totals.keep(there)

    def _see_who_sleeps(self) -> None:
        ready = [
            self.engine_totals.now(state.index)
            for state in self._table.processes
            if state.role is Role.WORKER and state.phase == Phase.READY
        ]
        self.asleep = bool(ready) and all(stats is not None and stats.asleep for stats in ready)

    def processor_stats(self, index: int, stats: ProcessorStats) -> None:
        """Take a report of a processor."""
        self._routing.processor(index, stats)

    def processor_gone(self, index: int) -> None:
        """Keep the totals of a processor whose process ended."""
        self._routing.processor_gone(index)

    def worker_gone(self, worker: int) -> None:
        """Keep the totals of a worker whose process ended; its load is gone."""
        self.engine_totals.gone(worker)
        self.prefill.worker_gone(worker, prefill=False)
        self.host_cache.engine_gone(worker, prefill=False)
        self._see_who_sleeps()
        self._rates[worker].gone()

    def router_gone(self) -> None:
        """Keep the totals of a router whose process ended."""
        self._routing.router_gone()

    def prefill_worker_gone(self, index: int) -> None:
        """Keep the totals of a prefill worker whose process ended."""
        self.prefill.worker_gone(index, prefill=True)
        self.host_cache.engine_gone(index, prefill=True)

    def snapshot(
        self,
        now_ns: int,
        links: dict[str, int],
        refused_sends: int,
        host: HostReport = HostReport(),  # noqa: B008 - frozen
        calls: PendingAnswers = PendingAnswers(),  # noqa: B008 - frozen
        gpus: GpuReport | None = None,
    ) -> Snapshot:
        """Return everything as of now.

        Args:
            now_ns: current time, CLOCK_MONOTONIC.
            links: unread bytes of the frontend's links, by peer.
            refused_sends: messages that the frontend's full links refused.
            host: what processes use and what the machine has left.
            calls: what the frontend waits for.
            gpus: the last report of the driver; None if engines have no GPUs.
        """
        router, prefill = self._routing.view(now_ns), self.prefill.view(now_ns)
        workers = [self._worker(index, now_ns) for index in self._worker_indices()]
        cache = self.host_cache.view(now_ns)
        self._watch.refused(refused_sends + _refused(workers, router, cache), now_ns)
        seen = views(gpus, self._table.processes, now_ns) if gpus else []
        snapshot = Snapshot(
            version=__version__,
            uptime_s=(now_ns - self._started_ns) / SECOND_NS,
            url=self.url,
            serving=self.serving,
            reason=self.reason,
            alarms=[*self._alarms(router, prefill, cache, now_ns), *of_gpus(gpus, seen, now_ns)],
            models=self._models,
            **_of_workers(self._table),
            processes=self._processes(host, now_ns),
            workers=workers,
            router=router,
            unrouted_requests=self._routing.unrouted(),
            prefill=prefill,
            links=links,
            refused_sends=refused_sends,
            unwritten_log_lines=self.logs.unwritten,
            processors=self._routing.processors(),
            calls=calls.open,
            gpus=seen,
            host_cache=cache,
            queues=queues(calls, self._routing.processors(), router, prefill, workers),
            host=host.host,
            **self._of_run(workers, now_ns),
        )
        return self._judge.judged(snapshot)

    def _of_run(self, workers: list[WorkerView], now_ns: int) -> dict[str, Any]:
        """Fields of the snapshot that are about requests, and about other nodes."""
        return {"nodes": self._nodes, **_of_requests(self._meter, workers, now_ns)}

    def _processes(self, host: HostReport, now_ns: int) -> list[ProcessView]:
        return [
            process_view(state, now_ns, None if state.node else host.processes.get(state.pid))
            for state in self._table.processes
        ]

    def _worker_indices(self) -> list[int]:
        known = {state.index for state in self._table.processes if state.role is Role.WORKER}
        return sorted(known | self.engine_totals.workers)

    def _worker(self, index: int, now_ns: int) -> WorkerView:
        stats, engine = self.engine_totals.now(index), self._engines.get(index)
        totals = self.engine_totals.counters(index)
        return WorkerView(
            worker=index,
            num_running_reqs=stats.num_running_reqs if stats else 0,
            num_waiting_reqs=stats.num_waiting_reqs if stats else 0,
            kv_cache_usage=stats.kv_cache_usage if stats else 0.0,
            kept_requests=stats.kept_requests if stats else 0,
            num_blocks=engine.num_blocks if engine else 0,
            block_size=engine.block_size if engine else 0,
            max_num_seqs=engine.max_num_seqs if engine else 0,
            hit_ratio=ratio(
                totals["prefix_cache_hits_tokens"], totals["prefix_cache_queries_tokens"]
            ),
            **totals,
            **self._rates[index].view(now_ns)._asdict(),
            **_latency(self._meter, index, now_ns),
            asleep=stats is not None and stats.asleep,
        )

    def _alarms(
        self,
        router: RouterView | None,
        prefill: PrefillView | None,
        host_cache: HostCacheView | None,
        now_ns: int,
    ) -> list[AlarmView]:
        found, unrouted = [], sum(self._routing.unrouted().values())
        if router is not None and router.silent_workers:
            found.append(silence(router.silent_workers, self._engines))
        if (away := no_router(self._table.processes, unrouted)) is not None:
            found.append(away)
        if prefill is not None and prefill.alarm:
            found.append(old_jobs(prefill, self._table.processes))
        if lost := self._meter.moves.recently_lost(now_ns):
            found.append(no_place(lost))
        found += of_host_cache(host_cache)
        return found + self._watch.alarms(now_ns)


def _refused(
    workers: list[WorkerView], router: RouterView | None, host_cache: HostCacheView | None
) -> int:
    """Messages that full links of these processes refused."""
    refused = sum(worker.refused_sends for worker in workers)
    refused += router.refused_sends if router else 0
    return refused + (host_cache.refused_sends if host_cache else 0)


def _latency(meter: Meter, worker: int, now_ns: int) -> dict[str, Any]:
    known = meter.workers.get(worker) or Latency()
    ttft_p50, ttft_p95 = known.ttft.percentiles(now_ns, 0.5, 0.95)
    (itl_p95,) = known.itl.percentiles(now_ns, 0.95)
    return {
        "ttft_p50_s": ttft_p50,
        "ttft_p95_s": ttft_p95,
        "itl_p95_s": itl_p95,
        "ttft_samples": len(known.ttft),
    }


def _of_workers(table: ProcessTable) -> dict[str, Any]:
    """How many workers there should be, and where there could be more."""
    return {"target_workers": table.workers, "offered_nodes": table.offered}


def _of_requests(meter: Meter, workers: list[WorkerView], now_ns: int) -> dict[str, Any]:
    """What became of requests, by field of the snapshot."""
    return {
        "traffic": _traffic(meter, workers, now_ns),
        "aborts": dict(meter.aborts),
        "errors": dict(meter.errors),
        "moves": meter.moves.view(now_ns),
        "stages": meter.stages.views(now_ns),
        "recent_errors": meter.failures.view(now_ns),
    }


def _traffic(meter: Meter, workers: list[WorkerView], now_ns: int) -> TrafficView:
    ttft_p50, ttft_p95, ttft_p99 = meter.recent_ttft.percentiles(now_ns, 0.5, 0.95, 0.99)
    itl_p50, itl_p95 = meter.recent_itl.percentiles(now_ns, 0.5, 0.95)
    return TrafficView(
        requests=sum(meter.requests.values()),
        in_flight=meter.in_flight,
        received=meter.received,
        prompt_tokens=meter.prompt_tokens,
        cached_tokens=meter.cached_tokens,
        output_tokens=meter.output_tokens,
        requests_per_s=meter.recent_requests.rate(now_ns),
        # Of the engines: usage is only known of requests that ended, which may be none for long.
        prompt_tokens_per_s=sum(worker.prompt_tokens_per_s for worker in workers),
        output_tokens_per_s=meter.recent_output.rate(now_ns),
        ttft_p50_s=ttft_p50,
        ttft_p95_s=ttft_p95,
        ttft_p99_s=ttft_p99,
        itl_p50_s=itl_p50,
        itl_p95_s=itl_p95,
        hit_ratio=ratio(meter.recent_cached.total(now_ns), meter.recent_prompt.total(now_ns)),
    )
