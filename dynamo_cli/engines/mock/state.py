"""A simulated engine: vLLM's scheduler over simulated blocks, with times from a profile. Pure.

Each step gives one token to every request that decodes. Then it goes on with the one prompt that
did not fit into the last step, and then it begins as many waiting prompts as there is room for, by
priority and order of arrival. A block is allocated when its first token is computed, and other
requests can find it once it is full. If a running request needs a block and none is free, the
running request with the largest priority number that came last is preempted: it returns to the
queue and is computed again later.

    waiting --begin--> prefilling (at most one, the youngest) --> decoding --> finished
    ^ ^   |                 |                                        |
    | +---+--- loading      |                                        |
    +-------- preempted ----+----------------------------------------+

With a host cache (see `tier`), a request for which the host cache has more blocks than the engine's
own cache is loading for a while. Then it waits again, and keeps its blocks.

To be fast, a step does not touch the requests that only decode: their numbers of tokens follow from
the number of steps. An `Agenda` says in which step the next block of each request begins or becomes
full. So the work for a step depends only on what changes in it. `coast` simulates any number of
steps at once in which nothing changes.

The rules are those of vLLM's ``Scheduler`` (v1/core/sched/scheduler.py) with the scheduling policy
``priority``, which workers use.
"""

from __future__ import annotations

import itertools
from collections import deque

from dynamo_cli.engines.mock.agenda import Agenda
from dynamo_cli.engines.mock.block_pool import BlockPool, Observer
from dynamo_cli.engines.mock.kv_cache import Entered, KvCacheManager
from dynamo_cli.engines.mock.profile import Profile, StepTimes
from dynamo_cli.engines.mock.request import MockTotals, SimRequest, StepResult
from dynamo_cli.engines.mock.tier import MockHostCache
from dynamo_cli.engines.step_budget import StepBudget


class SimEngine:
    """One engine.

    Args:
        profile: how fast and how large it is.
        observer: is called with every single event of its cache.
        caching: whether prefix caching is on.
        tier: the host cache; None if there is none. It is not used without prefix caching.

    Attributes:
        totals: its counters.
        waiting: requests that have not begun, or were preempted.
    """

    def __init__(
        self,
        profile: Profile,
        observer: Observer | None = None,
        *,
        caching: bool = True,
        tier: MockHostCache | None = None,
    ) -> None:
        self.profile = profile
        self.totals = MockTotals()
        self._memory = KvCacheManager(
            BlockPool(profile.num_blocks, observer),
            profile.block_size,
            self.totals,
            caching=caching,
            tier=tier if caching else None,
        )
        self.waiting: deque[SimRequest] = deque()
        self._speed = StepTimes.of(profile)
        self._block_size = profile.block_size
        self._running: dict[int, SimRequest] = {}  # by rank, so in order
        self._prefilling: SimRequest | None = None  # the last of them, when there is one
        self._requests: dict[str, SimRequest] = {}
        self._ranks = itertools.count()
        self._arrivals = itertools.count()
        self._context = 0  # tokens in the cache of all requests that decode
        self._edges = Agenda(self._running)  # steps in which a block begins or becomes full
        self._ends = Agenda(self._running)  # steps in which a request gets its last token
        self._budget = StepBudget(profile.max_num_batched_tokens, profile.prefill_chunk_tokens)
        self._settled = True  # the next step can begin nothing that the last one could not

    @property
    def blocks(self) -> BlockPool:
        """Its KV cache."""
        return self._memory.blocks

    def share(self, blocks: BlockPool) -> None:
        """Use a KV cache that other engines use too; call this before the first request."""
        self._memory.blocks = blocks

    @property
    def tier(self) -> MockHostCache | None:
        """The host cache as it uses it; None if there is none."""
        return self._memory.tier

    # -- requests --------------------------------------------------------------------------

    def fits(self, request: SimRequest) -> bool:
        """Whether a request could ever run."""
        tokens = request.prompt_tokens + request.output_tokens
        return (
            tokens <= self.profile.max_model_len
            and self._memory.blocks_of(tokens - 1) <= self.blocks.usable
        )

    def add(self, request: SimRequest) -> None:
        """Queue a request that `fits`."""
        self._requests[request.request_id] = request
        request.arrival = next(self._arrivals)
        self._wait(request)
        self._settled = False

    def _wait(self, request: SimRequest) -> None:
        """Put a request into the queue by its `order`."""
        place = len(self.waiting)
        while place and request.order < self.waiting[place - 1].order:
            place -= 1
        self.waiting.insert(place, request)

    def abort(self, request_id: str) -> SimRequest | None:
        """Forget a request, whose blocks are free at once; returns it if it was there."""
        request = self._requests.pop(request_id, None)
        if request is None:
            return None
        if request.running:
            self._leave(request)
        elif not self._memory.forget(request):
            self.waiting.remove(request)
        self._settled = False
        return request

    def reset_cache(self, *, running: bool) -> bool:
        """Forget every prefix; False if requests hold blocks. `running` preempts them first."""
        while running and self._running:
            self._preempt()
            self._settled = False
        return self._memory.clear()

    def output_of(self, request: SimRequest) -> int:
        """Number of output tokens that a request has produced so far."""
        return request.produced + self._decoded(request)

    def _decoded(self, request: SimRequest) -> int:
        """Number of steps since a request began to decode."""
        if not request.running or request is self._prefilling:
            return 0
        return self.totals.steps - request.since

    def decoding(self) -> list[SimRequest]:
        """The requests that got a token in the last step and are not finished."""
        return [request for request in self._running.values() if request is not self._prefilling]

    def _streams(self) -> list[str]:
        """Ids of the requests that a long step would delay; empty if steps are not limited."""
        limited = self.profile.prefill_chunk_tokens
        return [one.request_id for one in self.decoding()] if limited else []

    @property
    def num_running(self) -> int:
        """Number of requests that are being prefilled or decode."""
        return len(self._running)

    @property
    def num_waiting(self) -> int:
        """Number of requests that have not begun, or were preempted, or are being loaded."""
        return len(self._requests) - len(self._running)

    @property
    def num_decoding(self) -> int:
        """Number of requests that decode."""
        return len(self._running) - (self._prefilling is not None)

    def has_work(self) -> bool:
        """Whether a step would do anything."""
        return bool(self._requests)

    def cached_tokens(self, request: SimRequest) -> int:
        """How many leading tokens of a request's prompt are in the cache now."""
        return self._block_size * len(self._memory.find(request))

    # -- steps -----------------------------------------------------------------------------

    def quiet_steps(self, within_ps: int) -> int:
        """How many of the next steps are quiet: they only give a token to each decoding request.

        Args:
            within_ps: counts only steps that begin within this time from now.
        """
        if not self._settled or self._prefilling is not None or not self._running:
            return 0
        steps = min(self._edges.next(), self._ends.next()) - self.totals.steps
        if not steps or self.steps_ps(steps) <= within_ps:
            return steps
        low, high = 1, steps
        while low < high:
            middle = (low + high) // 2
            if self.steps_ps(middle) < within_ps:
                low = middle + 1
            else:
                high = middle
        return low

    def steps_ps(self, steps: int) -> int:
        """How long this number of quiet steps takes, in picoseconds."""
        return self._speed.decode_steps_ps(steps, self.num_decoding, self._context)

    def coast(self, steps: int) -> None:
        """Make this many steps, which must be quiet."""
        tokens = steps * self.num_decoding
        self.totals.steps += steps
        self.totals.output_tokens += tokens
        self.totals.stepped(self.num_decoding, steps)
        self._context += tokens

    def step(self, now_ps: int = 0) -> StepResult:
        """Make one step; everything in it is decided as it begins.

        Args:
            now_ps: when it begins, in picoseconds; needed with a host cache.
        """
        result = StepResult(self._speed.step)
        # Loaded requests hold blocks, so they begin before requests that may have to wait for room.
        self.waiting.extendleft(reversed(self._memory.arrived(now_ps)))
        step, streams = self.totals.steps, self._streams()
        stopped = self._grow(result)
        budget = self._budget.tokens(step, streams) - self.num_decoding
        if not stopped:
            budget -= self._go_on(result, budget)
        result.decoded = self.num_decoding - len(result.joined) - len(result.stalled)
        result.duration_ps += self._speed.decode_ps(result.decoded, self._context)
        refused = not result.preempted and self._begin_waiting(result, budget, now_ps)
        result.idle = self.tier is not None and not (self._running or result.preempted)
        if result.idle:
            result.duration_ps = 0
        self._budget.spent(step, streams, result.decoded + result.prefilled)
        self._end_step(result)
        changed = result.finished or result.preempted or self._prefilling is not None
        self._settled = not changed and (refused or not self.waiting)
        return result

    def _grow(self, result: StepResult) -> bool:
        """Allocate blocks to the requests that decode, in order, and give hashes to full blocks.

        Returns:
            whether a request was preempted while it needed a block itself. Then this step gives no
            token to the requests after it.
        """
        size, now = self._block_size, self.totals.steps
        while (request := self._edges.take(now)) is not None:
            rank = request.rank
            computed = request.computed + self._decoded(request)
            if computed % size == 0:
                if not self._make_room(request, 1, result):
                    self._stall_after(rank, result)
                    return True
                request.blocks += self.blocks.allot(1)
            if (computed + 1) % size == 0:
                self._memory.name(request, computed // size, computed // size + 1)
            self._push_edge(request, now + 1, computed + 1)
        return False

    def _stall_after(self, rank: int, result: StepResult) -> None:
        """Let the running requests after this rank pause for a step."""
        for request in self._running.values():
            if request.rank < rank or request is self._prefilling:
                continue
            decoded = self._decoded(request)
            self._decode_from(
                request,
                self.totals.steps + 1,
                request.produced + decoded,
                request.computed + decoded,
            )
            result.stalled.append(request)

    def _push_edge(self, request: SimRequest, step: int, computed: int) -> None:
        """Note the next step, from this one on, in which a block begins or becomes full."""
        into = computed % self._block_size
        later = self._block_size - 1 - into if into else 0
        self._edges.add(step + later, request)

    def _make_room(self, request: SimRequest, blocks: int, result: StepResult) -> bool:
        """Preempt the last in order until enough blocks are free; False if `request` was one."""
        while self.blocks.free < blocks:
            last = self._preempt()
            result.preempted.append(last)
            if last is request:
                return False
        return True

    def _preempt(self) -> SimRequest:
        """Preempt the running request that is the last by `order`."""
        last = max(self._running.values(), key=lambda request: request.order)
        self._leave(last)
        last.preemptions += 1
        last.computed = 0
        self.totals.preemptions += 1
        self._wait(last)
        return last

    def _go_on(self, result: StepResult, budget: int) -> int:
        """Compute the next part of the prompt that was begun; returns its number of tokens."""
        request = self._prefilling
        if request is None:
            return 0
        tokens = min(request.tokens - request.computed, budget)
        missing = self._memory.missing(request, tokens)
        if not self._make_room(request, missing, result):
            return 0
        self._prefill(request, tokens, result)
        return tokens

    def _begin_waiting(self, result: StepResult, budget: int, now_ps: int) -> bool:
        """Begin waiting requests; returns whether the next one was refused for lack of room."""
        asking: list[SimRequest] = []  # the host cache has not answered; others go first
        refused = False
        while self.waiting and budget and not refused:
            request = self.waiting.popleft()
            full = len(self._running) >= self.profile.max_num_seqs
            match Entered.NO_ROOM if full else self._memory.enter(request, now_ps):
                case Entered.NO_ROOM:
                    self.waiting.appendleft(request)
                    refused = True
                case Entered.ASKS:
                    asking.append(request)
                case Entered.RUNS:
                    budget -= self._begin(request, result, budget)
        self.waiting.extendleft(reversed(asking))
        return refused and not asking

    def _begin(self, request: SimRequest, result: StepResult, budget: int) -> int:
        """Compute the first part of a prompt; returns its number of tokens."""
        request.running, request.rank = True, next(self._ranks)
        self._running[request.rank] = request
        if not request.preemptions:
            result.begun.append(request)
            self._memory.fill(request, max(request.remote_tokens - request.computed, 0))
        tokens = min(request.tokens - request.computed, budget)
        self._prefill(request, tokens, result)
        return tokens

    def _prefill(self, request: SimRequest, tokens: int, result: StepResult) -> None:
        """Compute this number of further tokens of a prompt."""
        result.duration_ps += self._speed.prefill_ps(tokens, request.computed)
        result.prefilled += tokens
        self._memory.fill(request, tokens)
        if request.computed == request.tokens:
            self._prefilling = None
            result.joined.append(request)
        else:
            self._prefilling = request

    def _end_step(self, result: StepResult) -> None:
        """Give each request its token, and remove those that got their last one."""
        now = self.totals.steps
        self.totals.steps += 1
        prompts = sum(one.prompt_tokens for one in result.joined if not one.produced)
        self.totals.output_tokens += result.decoded + len(result.joined)
        self.totals.stepped(result.decoded + len(result.joined) + prompts)
        self._context += result.decoded
        while (ended := self._ends.take(now)) is not None:
            result.finished.append(ended)
        for request in result.joined:
            self._join(request)
            if request.produced == request.output_tokens:
                result.finished.append(request)
        for request in result.finished:
            del self._requests[request.request_id]
            self._leave(request)

    def _join(self, request: SimRequest) -> None:
        """Let a request decode from the next step on; the end of its prefill gave it a token."""
        if not request.produced:
            self.totals.prompt_tokens += request.prompt_tokens
        self._context += request.computed
        self._decode_from(request, self.totals.steps, request.produced + 1, request.computed)

    def _decode_from(self, request: SimRequest, step: int, produced: int, computed: int) -> None:
        """Let a request that has `produced` tokens get one in each step from this one on."""
        request.since, request.produced, request.computed = step, produced, computed
        last = step + request.output_tokens - produced - 1
        self._ends.add(last, request)
        self._push_edge(request, step, computed)

    def _leave(self, request: SimRequest) -> None:
        """Remove a request from the running ones, and release its blocks."""
        if request is self._prefilling:
            self._prefilling = None
        else:
            decoded = self._decoded(request)
            request.produced += decoded
            request.computed += decoded
            self._context -= request.computed
        del self._running[request.rank]
        request.running = False
        self._memory.release(request)
