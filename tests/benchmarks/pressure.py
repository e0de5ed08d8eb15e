"""What the router expects in caches and what engines find there, when memory is short.

Clients hold talks: each sends its next message as soon as it has the last answer, or after a pause.
Talks share system prompts, and all of them together do not fit into the caches. Router and engines
are those of a replay, with simulated time.

    python -m tests.benchmarks.pressure [POLICY]
"""

from __future__ import annotations

import heapq
import itertools
import random
import sys
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import msgspec
from xxhash import xxh3_64_intdigest

from dynamo_cli.engines.mock.profile import PS, load
from dynamo_cli.engines.mock.request import SimRequest
from dynamo_cli.kv import hashes
from dynamo_cli.lab.replay.routers import SERVED
from dynamo_cli.lab.replay.worker import NS_PS, SimWorker
from dynamo_cli.messages.routing import FirstToken, RequestEnd, RouteQuery, RoutingDecision

ENDS, ASKS, BEGINS = range(3)
"""Kinds of events, in the order in which they happen at one time."""


@dataclass(frozen=True, slots=True)
class Shape:
    """A load. The defaults are two workers on GPUs with caches of 61,000 tokens.

    Attributes:
        talks: number of clients.
        systems: number of different system prompts.
        system, message, answer: tokens of a system prompt; of the shortest and the longest message;
            and of the shortest and the longest answer.
        turns: messages of a talk.
        pause_s: mean time between an answer and the next message.
        batch: most requests of a step.
    """

    talks: int = 48
    systems: int = 12
    system: int = 3000
    message: tuple[int, int] = (60, 200)
    answer: tuple[int, int] = (64, 200)
    turns: int = 8
    pause_s: float = 0.0
    batch: int = 256
    blocks: int = 3812
    workers: int = 2


@dataclass(slots=True, eq=False)
class Talk:
    """A client's talk: its tokens so far."""

    tokens: list[int]
    turn: int = 0
    asked_ps: int = 0
    expected: int = 0
    request: Any = None


@dataclass(slots=True)
class Told:
    """Sums over the requests that were counted."""

    prompt: int = 0
    expected: int = 0
    found: int = 0
    less: int = 0
    ttft_s: list[float] = field(default_factory=list)
    first_ps: int = 0
    last_ps: int = 0

    def __str__(self) -> str:
        times = sorted(self.ttft_s)
        spent_s = (self.last_ps - self.first_ps) / PS
        return (
            f"expected {self.expected / self.prompt:6.1%} found {self.found / self.prompt:6.1%} "
            f"less {self.less:4} of {len(times)}; TTFT mean {sum(times) / len(times):6.3f} "
            f"p50 {times[len(times) // 2]:6.3f} p99 {times[len(times) * 99 // 100]:6.3f} s; "
            f"{len(times) / spent_s:5.2f} requests/s"
        )


class Town:
    """Clients, a router and workers.

    Args:
        shape: the load.
        policy: name of the router's policy, as in a replay.
    """

    def __init__(self, shape: Shape, policy: str = "kv", seed: int = 1) -> None:
        profile = msgspec.structs.replace(
            load("gpu-8b"), num_blocks=shape.blocks, max_num_seqs=shape.batch
        )
        self.told = Told()
        self._shape = shape
        self._dice = random.Random(seed)
        self._size = profile.block_size
        self._workers = [SimWorker(place, profile, leaps=False) for place in range(shape.workers)]
        self._router: Any = SERVED[policy]([worker.engine for worker in self._workers], seed)
        for worker in self._workers:
            self._router.ready(worker.ready())
            self._router.events(worker.holds(), 0)
        self._asked: dict[str, Talk] = {}
        self._names = itertools.count()
        self._order = itertools.count()
        self._versions = [0] * shape.workers
        self._heap: list[tuple[int, int, int, Any]] = []
        for _ in range(shape.talks):
            self._push(self._dice.randrange(PS), ASKS, self._new())

    def run(self, requests: int, skipped: int) -> Told:
        """Run until so many requests have their first token after the first `skipped` ones."""
        first = itertools.count()
        while len(self.told.ttft_s) < requests:
            now_ps, kind, _, what = heapq.heappop(self._heap)
            if kind == ASKS:
                self._ask(what, now_ps)
                continue
            place, version = what
            if version != self._versions[place]:
                continue
            if kind == ENDS:
                self._end(self._workers[place], now_ps, first, skipped)
            if version == self._versions[place] and self._workers[place].begin(now_ps):
                self._schedule(place, now_ps)
        return self.told

    def _push(self, at_ps: int, kind: int, what: Any) -> None:
        heapq.heappush(self._heap, (at_ps, kind, next(self._order), what))

    def _schedule(self, place: int, now_ps: int) -> None:
        self._versions[place] += 1
        until_ps = self._workers[place].until_ps
        kind = BEGINS if until_ps == now_ps else ENDS
        self._push(until_ps, kind, (place, self._versions[place]))

    def _words(self, count: int) -> list[int]:
        return [self._dice.getrandbits(30) for _ in range(count)]

    def _new(self) -> Talk:
        system = self._dice.randrange(self._shape.systems)
        return Talk(random.Random(system).choices(range(1 << 30), k=self._shape.system))

    def _ask(self, talk: Talk, now_ps: int) -> None:
        talk.turn += 1
        talk.tokens = talk.tokens + self._words(self._dice.randint(*self._shape.message))
        talk.asked_ps, name = now_ps, str(next(self._names))
        blocks = hashes.chain(hashes.pack_tokens(talk.tokens), self._size)
        answer = self._dice.randint(*self._shape.answer)
        naming = partial(_name_output, int(name))
        talk.request = SimRequest(name, len(talk.tokens), answer, list(blocks), naming)
        self._asked[name] = talk
        query = RouteQuery(name, name, len(talk.tokens), hashes.pack(blocks))
        if (decision := self._router.query(query, now_ps // NS_PS)) is not None:
            self._place(decision, now_ps)

    def _place(self, decision: RoutingDecision, now_ps: int) -> None:
        talk = self._asked[decision.request_id]
        talk.expected = decision.overlap_blocks * self._size
        talk.request.priority = decision.engine_order
        assert decision.worker is not None
        if self._workers[decision.worker].add(talk.request, now_ps):
            self._schedule(decision.worker, now_ps)

    def _end(self, worker: SimWorker, now_ps: int, first: Any, skipped: int) -> None:
        result, now_ns = worker.end(), now_ps // NS_PS
        assert result is not None
        if (changes := worker.events()) is not None:
            self._router.events(changes, now_ns)
        for sim in result.joined:
            if sim.fresh:
                self._router.first_token(FirstToken(sim.request_id, sim.cached_tokens or 0), now_ns)
                if next(first) >= skipped:
                    self._count(self._asked[sim.request_id], sim, now_ps)
        for sim in result.finished:
            self._router.end(RequestEnd(sim.request_id))
            self._go_on(self._asked.pop(sim.request_id), sim.output_tokens, now_ps)
        if (stats := worker.stats(now_ps)) is not None:
            self._router.stats(stats)
        for decision in self._router.released(now_ns) if result.finished else ():
            self._place(decision, now_ps)

    def _count(self, talk: Talk, sim: SimRequest, now_ps: int) -> None:
        told, found = self.told, sim.cached_tokens or 0
        told.prompt += sim.prompt_tokens
        told.expected += talk.expected
        told.found += found
        told.less += found < talk.expected
        told.ttft_s.append((now_ps - talk.asked_ps) / PS)
        told.first_ps, told.last_ps = told.first_ps or now_ps, now_ps

    def _go_on(self, talk: Talk, answer: int, now_ps: int) -> None:
        """The client sends its next message, or begins another talk."""
        if talk.turn == self._shape.turns:
            talk = self._new()
        else:
            talk.tokens = talk.tokens + self._words(answer)
        pause_s = self._dice.expovariate(1 / self._shape.pause_s) if self._shape.pause_s else 0.0
        self._push(now_ps + round(pause_s * PS), ASKS, talk)


def _name_output(number: int, request: SimRequest, block: int) -> int:
    parent = request.hashes[block - 1] if block else hashes.ROOT
    return xxh3_64_intdigest(parent.to_bytes(8, "little"), number + 1)


SHAPES = {
    "48 talks fill the caches": Shape(),
    "96 talks, twice too many": Shape(talks=96),
    "96 long talks, short system prompts": Shape(talks=96, system=300, turns=20),
    "48 talks of long messages": Shape(message=(400, 1200), turns=6),
    "32 talks of long messages": Shape(talks=32, message=(400, 1200), turns=6),
    "64 talks with pauses of 2 s": Shape(talks=64, message=(200, 600), turns=6, pause_s=2.0),
    "48 talks, batches of 16": Shape(batch=16),
    "24 talks, which fit": Shape(talks=24),
}


def main(policy: str = "kv") -> None:
    for name, shape in SHAPES.items():
        print(f"{name:36}{Town(shape, policy).run(640, 160)}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
