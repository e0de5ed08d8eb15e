"""The router's state: what workers have cached, their load, and the choice of a worker. Pure."""

from __future__ import annotations

import heapq
import itertools
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Sequence

from dynamo_cli.config import KV_POLICY, TIME, RouterConfig
from dynamo_cli.kv import hashes
from dynamo_cli.kv.index import EVERYBODY, bits, workers_of
from dynamo_cli.messages.request import EngineReady
from dynamo_cli.messages.routing import (
    DECISION_BOUNDS_US,
    Measured,
    Placed,
    RouteQuery,
    RoutingDecision,
)
from dynamo_cli.router.caches import Caches
from dynamo_cli.router.decided import blocks_of, decided
from dynamo_cli.router.engine_order import EngineOrder
from dynamo_cli.router.ledger import Entry, Ledger
from dynamo_cli.router.loading import Loading
from dynamo_cli.router.policies import Choice, Policy, Request, WorkerLoad, policy_of
from dynamo_cli.router.promised import marks
from dynamo_cli.router.repeats import Repeats
from dynamo_cli.router.sessions import Sessions
from dynamo_cli.router.shortlist import WorkerRanking
from dynamo_cli.router.time_estimator import pairs
from dynamo_cli.router.waiting import Waiting
from dynamo_cli.topology import Role
from dynamo_cli.units import SECOND_NS

HEAD_START_NS = 3600 * SECOND_NS
"""A request that moves to another worker is due as if it had arrived this much earlier, because its
client has waited already, and its stream stands still."""

RESERVE_SHARE = 4
"""A worker takes as many requests as its largest batch has, and a quarter (1 / `RESERVE_SHARE`)
more, so that its engine always has a next request. All other requests wait in the router, which can
still choose any worker for them."""


class RouterState:
    """Chooses workers, and reserves the load of each request in the same step.

    Args:
        config: the policy and its parameters.
        policy: a policy that replaces the one that the configuration names.

    Attributes:
        caches: what workers hold.
        prefill_caches: what prefill workers hold.
        host_cache: what the host cache of each machine holds, by `holder`; empty if there is none.
        loading: how long workers take to load blocks from the host cache.
        ledger: the load that was placed on each worker.
        repeats: how much of the prompts had come in earlier prompts.
        decisions: how often each worker was chosen.
        prompt_tokens: prompt tokens of the requests whose prefill is over.
        predicted_tokens, measured_tokens: how many of `prompt_tokens` the router expected in the
            worker's cache or the host cache, and how many the engine found there.
        over_predicted_requests: requests of which the engine found less than predicted.
    """

    def __init__(self, config: RouterConfig, policy: Policy | None = None) -> None:
        self.config = config
        self._policy: Policy = policy or policy_of(config)
        self._predicts = config.policy == KV_POLICY
        self._times = self._predicts and config.kv_cost == TIME
        self.caches, self.prefill_caches, self.host_cache = Caches(), Caches(), Caches()
        self.loading = Loading()
        self.ledger = Ledger(ranking=WorkerRanking(config.policy))
        self.repeats = Repeats()
        self.decisions: Counter[int] = Counter()
        self.prompt_tokens = self.predicted_tokens = self.measured_tokens = 0
        self.over_predicted_requests = 0
        self.decision_us = [0] * (len(DECISION_BOUNDS_US) + 1)
        self.decision_total_us = 0.0
        self._block_size = 0
        self._waiting: list[Waiting] = []
        self._retired: set[int] = set()
        self._engine_order = EngineOrder()
        self._sessions = Sessions(self.caches.index)
        self._order = itertools.count(1)
        self._numbers = itertools.count()

    # -- decisions -------------------------------------------------------------------------

    def decide(self, processor: int, query: RouteQuery, now_ns: int) -> RoutingDecision | None:
        """Choose a worker and reserve the request's load there.

        Returns:
            the decision, whose worker is None if no worker may ever take the request; None if it
            must wait for room or behind an older query: then `released` returns it later.
        """
        self.ledger.end(query.request_id)  # an earlier answer, which the processor did not take
        asked = Waiting(
            not query.moved, query.priority, next(self._numbers), now_ns, processor, query
        )
        if not self._anybody(query):
            return self._nobody(asked, now_ns)
        held_up = any(not self._excludes(waiting.query) for waiting in self._waiting)
        if not held_up and (decision := self._try(asked, now_ns)):
            return decision
        heapq.heappush(self._waiting, asked)
        return None

    def released(self, now_ns: int) -> list[tuple[int, RoutingDecision]]:
        """Decide the waiting queries that a worker can take now, in order.

        A query that no worker can take holds up those behind it, unless it excludes a worker that
        is up: then that worker can take others.

        Returns:
            pairs of processor and decision.
        """
        decided, kept = [], []
        while self._waiting:
            first = self._waiting[0]
            if not self._anybody(first.query):
                decision: RoutingDecision | None = self._nobody(first, now_ns)
            else:
                decision = self._try(first, now_ns)
            if decision is not None:
                decided.append((first.processor, decision))
            elif self._excludes(first.query):
                kept.append(first)
            else:
                break
            heapq.heappop(self._waiting)
        for waiting in kept:
            heapq.heappush(self._waiting, waiting)
        return decided

    def _excludes(self, query: RouteQuery) -> bool:
        """Whether this query excludes a worker that is up."""
        return not self.ledger.books.keys().isdisjoint(query.excluded)

    @property
    def waiting_requests(self) -> int:
        """Queries that no worker can take yet."""
        return len(self._waiting)

    def _anybody(self, query: RouteQuery) -> bool:
        """Whether there is a worker that may take this request, now or later."""
        return not self.ledger.books.keys() <= set(query.excluded)

    def _nobody(self, asked: Waiting, now_ns: int) -> RoutingDecision:
        return self._decision(asked, None, now_ns, asked.query.priority)

    def _try(self, asked: Waiting, now_ns: int) -> RoutingDecision | None:
        """Choose a worker and reserve the load there; None if no worker can take the request."""
        request = self._request(asked.query)
        loads = self._loads(request, asked.query, now_ns)
        return self._place(asked, request, loads, now_ns) if loads else None

    def _request(self, query: RouteQuery) -> Request:
        # The next worker of a request that moves computes its output tokens so far too.
        tokens = query.prompt_tokens + query.output_tokens
        return Request(
            tokens,
            blocks_of(tokens, self._block_size),
            self._block_size,
            hashes.unpack(query.hashes) if query.hashes else (),
            self.ledger.estimator.prices,
        )

    def _loads(self, request: Request, query: RouteQuery, now_ns: int) -> list[WorkerLoad]:
        """The loads of the workers that can take the request now."""
        usable = self._usable(request)
        prompt = marks(usable)
        groups = self.caches.index.by_depth(usable), self.ledger.promised.by_depth(prompt)
        books, last = self.ledger.books, self._sessions.last_worker(query)
        compared = self.ledger.ranking.shortlist(books, groups, query.excluded, last)
        among = EVERYBODY if compared is books else bits(compared)
        cached = self.caches.index.leading(usable, among)
        cached = self.ledger.remaining(cached, request.prompt_blocks, prompt)
        promised = self.ledger.promised.leading(prompt, among)
        size, prices = self._block_size, request.prices
        held = self.host_cache.index.leading(usable) if self.host_cache.feeds else {}
        loads = []
        for worker in compared:
            book = books[worker]
            if book.full or worker in query.excluded:
                continue
            overlap = cached.get(worker, 0)
            expected = max(overlap, promised.get(worker, 0))
            found = self.loading.loadable(worker, held, size, prices)
            load = WorkerLoad(
                worker=worker,
                overlap_blocks=overlap,
                active_requests=book.active_requests,
                waiting_requests=book.waiting_requests,
                prefill_blocks=book.prefill_blocks,
                decode_blocks=book.occupied_blocks,
                num_blocks=book.num_blocks,
                last_used=book.last_used,
                expected_blocks=expected,
                cached_blocks=self.caches.index.blocks[worker],
                wait_s=book.wait_s(request.prompt_blocks - expected, request.prices, now_ns),
                host_blocks=found.reach,
                disk_blocks=found.disk,
                load_s=self.loading.load_s(worker, found, expected, size, prices),
            )
            loads.append(load)
        return loads

    def _usable(self, request: Request) -> Sequence[int]:
        """Sequence hashes of the blocks that can be found in a cache. An engine always computes the
        last token, so the block with that token is left out."""
        if not request.blocks:
            return ()
        return request.blocks[: (request.prompt_tokens - 1) // self._block_size]

    def _prefill_worker(self, query: RouteQuery) -> int | None:
        """The prefill worker that has most of the prompt cached; None if none has any of it."""
        if not query.hashes or not self.prefill_caches.feeds:
            return None
        groups = self.prefill_caches.index.by_depth(hashes.unpack(query.hashes))
        return next((workers_of(group)[0] for _, group in groups), None)

    def _place(
        self, asked: Waiting, request: Request, loads: list[WorkerLoad], now_ns: int
    ) -> RoutingDecision:
        query = asked.query
        choice = self._sessions.kept_together(query, self._policy(request, loads))
        winner = next(load for load in loads if load.worker == choice.worker)
        entry = self._entry(asked, request, winner, now_ns)
        engine_order = self._place_in_order(asked, request, entry)
        decision = self._decision(asked, choice, now_ns, engine_order, winner)
        self.ledger.reserve(query.request_id, entry)
        self.ledger.books[choice.worker].last_used = next(self._order)
        self.decisions[choice.worker] += 1
        self._sessions.remember(query, choice.worker)
        return decision

    def _place_in_order(self, asked: Waiting, request: Request, entry: Entry) -> int:
        """The engine order of a request: by its due time if costs are in time, else its
        priority."""
        if not self._times:
            return asked.priority
        prefill_s = request.prices.prefill_s(1, entry.prefill_tokens, entry.prefill_pairs)
        nobody_waits = self.ledger.nobody_waits
        arrival_ns = asked.since_ns - (HEAD_START_NS if asked.query.moved else 0)
        return self._engine_order.due(asked.priority, arrival_ns, prefill_s, nobody_waits)

    def _entry(self, asked: Waiting, request: Request, load: WorkerLoad, now_ns: int) -> Entry:
        size, tokens = self._block_size, request.prompt_tokens
        cached = load.reached_blocks * size
        computed = max(tokens - cached, 0)
        found = max(load.overlap_blocks, load.host_blocks)
        return Entry(
            processor=asked.processor,
            worker=load.worker,
            prefill_blocks=max(request.prompt_blocks - found, 0),
            decode_blocks=request.prompt_blocks,
            full_blocks=tokens // size if size else 0,
            prompt_tokens=tokens,
            # A request that moves may find blocks of its answer in the cache too: no prediction.
            predicted_tokens=found * size if self._predicts and not asked.query.moved else None,
            placed_ns=now_ns,
            alive_ns=now_ns,
            prefill_tokens=computed,
            prefill_pairs=pairs(computed, cached),
            load_ns=round(load.load_s * SECOND_NS),
            marks=marks(request.blocks),
        )

    def _decision(
        self,
        asked: Waiting,
        choice: Choice | None,
        now_ns: int,
        engine_order: int,
        winner: WorkerLoad | None = None,
    ) -> RoutingDecision:
        return decided(
            asked.query,
            choice,
            policy=self.config.policy,
            block_size=self._block_size,
            winner=winner,
            since_ns=asked.since_ns,
            now_ns=now_ns,
            prefill_worker=self._prefill_worker(asked.query),
            engine_order=engine_order,
        )

    def remember(self, query: RouteQuery) -> None:
        """Note a prompt for the statistics of repeats, after the query was answered, which does not
        wait for this."""
        if self._predicts and not query.moved:
            blocks = hashes.unpack(query.hashes)
            repeated = self.repeats.ask(query.prompt_tokens, blocks, self._block_size)
            self.ledger.estimator.asked(query.prompt_tokens, repeated)

    def timed(self, elapsed_ns: int) -> None:
        """Note how long a decision took."""
        elapsed_us = elapsed_ns / 1000
        self.decision_us[bisect_left(DECISION_BOUNDS_US, elapsed_us)] += 1
        self.decision_total_us += elapsed_us

    # -- requests --------------------------------------------------------------------------

    def placed(self, processor: int, message: Placed, now_ns: int) -> None:
        """Note a sign of life of a request, or a request that this router did not place."""
        known = self.ledger.entries.get(message.request_id)
        if known is not None and known.worker == message.worker:
            known.alive_ns = now_ns
            return
        blocks = blocks_of(message.prompt_tokens, self._block_size)
        entry = Entry(
            processor=processor,
            worker=message.worker,
            prefill_blocks=0 if message.prefilled else blocks,
            decode_blocks=blocks,
            full_blocks=0,
            prompt_tokens=message.prompt_tokens,
            predicted_tokens=None,
            placed_ns=now_ns,
            alive_ns=now_ns,
            waiting=not message.prefilled,
        )
        self.ledger.reserve(message.request_id, entry)

    def first_token(self, request_id: str, cached_tokens: int, now_ns: int) -> Measured | None:
        """Note a first token; return the cached tokens if the router had predicted them.

        `cached_tokens` are the prompt tokens that the engine did not compute.
        """
        entry = self.ledger.first_token(request_id, now_ns)
        if entry is None:
            return None
        if entry.full_blocks and (feed := self.caches.feeds.get(entry.worker)) is not None:
            feed.finished += 1
        if entry.predicted_tokens is None:
            return None
        self.ledger.estimator.prefilled(
            entry.prompt_tokens, cached_tokens, entry.prefill_ns / SECOND_NS
        )
        self.prompt_tokens += entry.prompt_tokens
        self.predicted_tokens += entry.predicted_tokens
        self.measured_tokens += cached_tokens
        self.over_predicted_requests += entry.predicted_tokens > cached_tokens
        return Measured(request_id, cached_tokens)

    def end(self, request_id: str) -> None:
        """Forget a request that has ended, or whose query needs no answer any more."""
        if self.ledger.end(request_id) is None:
            self._forget_waiting(lambda waiting: waiting.query.request_id == request_id)

    def _forget_waiting(self, unwanted: Callable[[Waiting], bool]) -> None:
        if any(map(unwanted, self._waiting)):
            self._waiting = [waiting for waiting in self._waiting if not unwanted(waiting)]
            heapq.heapify(self._waiting)

    def caches_of(self, role: Role) -> Caches:
        """The caches to which the KV events of a process with this role belong."""
        others = {Role.PREFILL_WORKER: self.prefill_caches, Role.HOST_CACHE: self.host_cache}
        return others.get(role, self.caches)

    # -- workers ---------------------------------------------------------------------------

    def worker_up(self, ready: EngineReady) -> None:
        """Let a worker whose engine is ready take requests; its KV events say what it holds."""
        self._block_size = ready.block_size
        if ready.worker in self._retired:
            return
        self.loading.worker_up(ready.worker, ready.machine)
        reserve = max(ready.max_num_seqs // RESERVE_SHARE, 1)
        limit = ready.max_num_seqs + reserve if ready.max_num_seqs else 0
        self.ledger.worker_up(ready.worker, ready.num_blocks, limit)
        self.caches.worker_up(ready.worker)

    def worker_retired(self, worker: int) -> None:
        """Choose this worker no more, because it is to be stopped."""
        self._retired.add(worker)
        self.ledger.close(worker)

    def worker_down(self, worker: int) -> None:
        """Forget a worker whose process ended, with its load and its blocks."""
        self._retired.discard(worker)
        self.ledger.worker_down(worker)
        self.caches.worker_down(worker)
        self.loading.worker_down(worker)

    def processor_down(self, processor: int) -> None:
        """Forget the requests and queries of a processor that ended."""
        self.ledger.processor_down(processor)
        self._forget_waiting(lambda waiting: waiting.processor == processor)

    def silent_workers(self) -> list[int]:
        """Workers that have sent no KV events although they must have stored blocks."""
        silent = (worker for worker, feed in self.caches.feeds.items() if feed.silent)
        return sorted(silent) if self._predicts else []
