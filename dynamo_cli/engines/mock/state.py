"""A simulated engine: vLLM's scheduler over simulated blocks, with times from a profile. Pure.

Each step gives one token to every request that decodes, then goes on with the one prompt that did
not fit into the last step, then begins as many waiting prompts as there is room for, by priority
and order of arrival. A block is allocated when its first token is computed, and others can find it
once it is full. When a running request needs a block and none is free, the running request that is
least urgent and came last is preempted: it returns to the queue and is computed again later.

    waiting --begin--> prefilling (at most one, the youngest) --> decoding --> finished
       ^                    |                                        |
       +----- preempted ----+----------------------------------------+

A step does not touch the requests that decode unless something happens to them: their numbers of
tokens follow from the number of steps, and an `Agenda` says in which step the next block of each
begins or becomes full. So the work for a step depends only on what changes in it, and `coast`
simulates any number of steps at once in which nothing changes.

The rules are those of vLLM's ``Scheduler`` (v1/core/sched/scheduler.py) with the scheduling policy
``priority``, which workers use.
"""

from __future__ import annotations

import itertools
from collections import deque

from dynamo_cli.engines.mock.agenda import Agenda
from dynamo_cli.engines.mock.blocks import Blocks, Observer
from dynamo_cli.engines.mock.profile import Profile, Speed
from dynamo_cli.engines.mock.request import SimRequest, StepResult, Totals


class SimEngine:
    """One engine.

    Args:
        profile: how fast and how large it is.
        observer: is called with every single event of its cache.
        caching: whether prefix caching is on.

    Attributes:
        blocks: its KV cache.
        totals: its counters.
        waiting: requests that have not begun, or were preempted.
    """

    def __init__(
        self, profile: Profile, observer: Observer | None = None, *, caching: bool = True
    ) -> None:
        self.profile = profile
        self.blocks = Blocks(profile.num_blocks, observer)
        self.totals = Totals()
        self.waiting: deque[SimRequest] = deque()
        self._caching = caching
        self._speed = Speed.of(profile)
        self._block_size = profile.block_size
        self._running: dict[int, SimRequest] = {}  # by rank, so in order
        self._prefilling: SimRequest | None = None  # the last of them, when there is one
        self._requests: dict[str, SimRequest] = {}
        self._ranks = itertools.count()
        self._arrivals = itertools.count()
        self._context = 0  # cached tokens of all that decode
        self._edges = Agenda(self._running)  # a block begins or becomes full
        self._ends = Agenda(self._running)  # the last token comes
        self._settled = True  # the next step can begin nothing that the last one could not

    # -- requests --------------------------------------------------------------------------

    def fits(self, request: SimRequest) -> bool:
        """Whether a request could ever run."""
        tokens = request.prompt_tokens + request.output_tokens
        return (
            tokens <= self.profile.max_model_len
            and self._blocks_of(tokens - 1) <= self.blocks.usable
        )

    def add(self, request: SimRequest) -> None:
        """Queue a request that `fits`."""
        self._requests[request.request_id] = request
        request.arrival = next(self._arrivals)
        self._wait(request)
        self._settled = False

    def _wait(self, request: SimRequest) -> None:
        """Put it in the queue by its order: mostly last, or first when it was preempted."""
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
        else:
            self.waiting.remove(request)
        self._settled = False
        return request

    def reset_cache(self, *, running: bool) -> bool:
        """Forget every prefix; False if requests hold blocks. `running` preempts them first."""
        while running and self._running:
            self._preempt()
            self._settled = False
        return self.blocks.clear()

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

    @property
    def num_running(self) -> int:
        """Number of requests that are being prefilled or decode."""
        return len(self._running)

    @property
    def num_decoding(self) -> int:
        """Number of requests that decode."""
        return len(self._running) - (self._prefilling is not None)

    def has_work(self) -> bool:
        """Whether a step would do anything."""
        return bool(self._requests)

    def cached_tokens(self, request: SimRequest) -> int:
        """How many leading tokens of a request's prompt are in the cache now."""
        most = (request.prompt_tokens - 1) // self._block_size
        return self._block_size * len(self.blocks.find(request.hashes, most))

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
        self._context += tokens

    def step(self) -> StepResult:
        """Make one step; everything in it is decided as it begins."""
        result = StepResult(self._speed.step)
        stopped = self._grow(result)
        budget = self.profile.max_num_batched_tokens - self.num_decoding
        if not stopped:
            budget -= self._go_on(result, budget)
        result.decoded = self.num_decoding - len(result.joined) - len(result.stalled)
        result.duration_ps += self._speed.decode_ps(result.decoded, self._context)
        refused = not result.preempted and self._begin_waiting(result, budget)
        self._end_step(result)
        changed = result.finished or result.preempted or self._prefilling is not None
        self._settled = not changed and (refused or not self.waiting)
        return result

    def _grow(self, result: StepResult) -> bool:
        """Allocate blocks to the requests that decode, in order, and give hashes to full blocks.

        Returns:
            whether one of them was itself preempted; those after it then get no token in this step.
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
                self._name(request, computed // size, computed // size + 1)
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
        """Preempt the running request that is least urgent and came last."""
        last = max(self._running.values(), key=lambda request: request.order)
        self._leave(last)
        last.preemptions += 1
        last.computed = 0
        self.totals.preemptions += 1
        self._wait(last)
        return last

    def _go_on(self, result: StepResult, budget: int) -> int:
        """Compute the next part of the prompt that is under way; returns its number of tokens."""
        request = self._prefilling
        if request is None:
            return 0
        tokens = min(self._tokens(request) - request.computed, budget)
        missing = self._blocks_of(request.computed + tokens) - len(request.blocks)
        if not self._make_room(request, missing, result):
            return 0
        self._prefill(request, tokens, result)
        return tokens

    def _begin_waiting(self, result: StepResult, budget: int) -> bool:
        """Begin waiting requests; returns whether the next one was refused for lack of room."""
        while self.waiting and budget:
            request = self.waiting[0]
            if len(self._running) >= self.profile.max_num_seqs or not self._begin(request):
                return True
            self.waiting.popleft()
            if not request.preemptions:
                result.begun.append(request)
            tokens = min(self._tokens(request) - request.computed, budget)
            self._prefill(request, tokens, result)
            budget -= tokens
        return False

    def _begin(self, request: SimRequest) -> bool:
        """Let a request run with its cached prefix, if there is room for all of it."""
        self._name_all(request)
        found = self.blocks.find(request.hashes, self._usable(request))
        missing = self._blocks_of(self._tokens(request)) - len(found)
        if missing + self.blocks.idle(found) > self.blocks.free:
            return False
        self.blocks.hold(found)
        request.blocks = found
        request.computed = len(found) * self._block_size
        request.running, request.rank = True, next(self._ranks)
        self._running[request.rank] = request
        if not request.preemptions:
            if not request.resumed:  # the prompt of a resumed request was counted where it began
                request.cached_tokens = request.computed
                self.totals.queries += self._tokens(request)
                self.totals.hits += request.computed
            self._store(request, max(request.remote_tokens - request.computed, 0))
        return True

    def _prefill(self, request: SimRequest, tokens: int, result: StepResult) -> None:
        """Compute this number of further tokens of a prompt."""
        result.duration_ps += self._speed.prefill_ps(tokens, request.computed)
        self._store(request, tokens)
        if request.computed == self._tokens(request):
            self._prefilling = None
            result.joined.append(request)
        else:
            self._prefilling = request

    def _store(self, request: SimRequest, tokens: int) -> None:
        """Put further tokens of a prompt into the cache; there must be room for them."""
        full = request.computed // self._block_size
        request.computed += tokens
        missing = self._blocks_of(request.computed) - len(request.blocks)
        request.blocks += self.blocks.allot(missing)
        self._name(request, full, request.computed // self._block_size)

    def _end_step(self, result: StepResult) -> None:
        """Give each request its token, and remove those that got their last one."""
        now = self.totals.steps
        self.totals.steps += 1
        self.totals.output_tokens += result.decoded + len(result.joined)
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
        self.blocks.release(request.blocks)
        request.blocks = []

    # -- tokens and blocks -----------------------------------------------------------------

    def _tokens(self, request: SimRequest) -> int:
        """Tokens to compute before the next output token, for a request that does not decode."""
        return request.prompt_tokens + request.produced

    def _usable(self, request: SimRequest) -> int:
        """Most blocks that may come from the cache: the last token is always computed."""
        return (self._tokens(request) - 1) // self._block_size

    def _blocks_of(self, tokens: int) -> int:
        return -(-tokens // self._block_size)

    def _name_all(self, request: SimRequest) -> None:
        """Compute the hashes of all full blocks of a request, output included."""
        if not self._caching:
            request.hashes = []
            return
        full = self._tokens(request) // self._block_size
        while len(request.hashes) < full:
            request.hashes.append(request.name_block(request, len(request.hashes)))

    def _name(self, request: SimRequest, start: int, end: int) -> None:
        """Give hashes to blocks start..end-1 of a request, which are full."""
        if not self._caching:
            return
        while len(request.hashes) < end:
            request.hashes.append(request.name_block(request, len(request.hashes)))
        if start < end:
            self.blocks.name(request.blocks[start:end], request.hashes[start:end])
