"""Puts load on one server and keeps the results."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from dynamo_cli.errors import ServerFailed
from dynamo_cli.lab.load import pace
from dynamo_cli.lab.load.client import UNREACHABLE, Heard, LoadClient
from dynamo_cli.lab.load.form import Form
from dynamo_cli.lab.load.pace import AsRecorded, Bounds, Closed, Pace, Poisson
from dynamo_cli.lab.load.workload import LoadRequest, Workload
from dynamo_cli.lab.report import NO_SLO, Gaps, Outcome, Slo, Summary, summarize

WARM_CLIENTS = 4
REFUSED_PAUSE_S = 0.1
"""Pause of a client after a failed request."""

GONE_REQUESTS, GONE_S = 20, 2.0
"""A server is gone after so many refused connections in a row, over so many seconds: one that only
starts again is back sooner."""


@dataclass
class Refusals:
    """Connections that a server has refused in a row.

    Attributes:
        count: number of them.
        since_s: when the first one was, on the clock of `time.perf_counter`.
        reason: why the last one failed, in the words of the system.
    """

    count: int = 0
    since_s: float = 0.0
    reason: str = ""

    def note(self, heard: Heard, now_s: float) -> None:
        """Note how a request has ended."""
        if heard.error != UNREACHABLE:
            self.count = 0
            return
        self.since_s = self.since_s if self.count else now_s
        self.count += 1
        self.reason = heard.message

    def last(self, now_s: float) -> bool:
        """Whether the server is gone."""
        return self.count >= GONE_REQUESTS and now_s - self.since_s >= GONE_S


@dataclass
class Round:
    """One round of a measurement.

    Attributes:
        bounds: when it ends.
        began_s: when it began, on the clock of `time.perf_counter`.
        sent: number of requests sent so far.
        late_s: largest delay of a request behind its planned time.
        outcomes: requests that ended.
        tokens: tokens of their answers.
        gaps: times between tokens.
    """

    bounds: Bounds
    began_s: float = field(default_factory=time.perf_counter)
    sent: int = 0
    late_s: float = 0.0
    outcomes: list[Outcome] = field(default_factory=list)
    tokens: int = 0
    gaps: Gaps = field(default_factory=Gaps)

    @property
    def elapsed_s(self) -> float:
        """Time since it began."""
        return time.perf_counter() - self.began_s

    @property
    def full(self) -> bool:
        """Whether no more requests are to be sent."""
        requests, duration_s = self.bounds
        return (requests is not None and self.sent >= requests) or (
            duration_s is not None and self.elapsed_s >= duration_s
        )

    async def wait_until(self, due_s: float) -> None:
        """Sleep until `due_s` after the start, and note how late it is then."""
        wait_s = due_s - self.elapsed_s
        if wait_s > 0:
            await asyncio.sleep(wait_s)
        self.late_s = max(self.late_s, self.elapsed_s - due_s)


class Driver:
    """Puts load on one server, in one or more rounds.

    Args:
        client: sends the requests.
        form: how requests are written.
        workload: where requests come from.
        how: when requests are sent.
        seed: seed of random times.
        on_end: called after the end of each request.

    Attributes:
        rounds: all rounds, including one that was interrupted.
        examples: message of the first failure of each kind.
    """

    def __init__(
        self,
        client: LoadClient,
        form: Form,
        workload: Workload,
        how: Pace,
        seed: str,
        on_end: Callable[[], None] = lambda: None,
    ) -> None:
        self._client = client
        self._form = form
        self._workload = workload
        self._pace = how
        self._seed = seed
        self._on_end = on_end
        self._held: LoadRequest | None = None
        self._refusals = Refusals()
        self._gone = False
        self.rounds: list[Round] = []
        self.examples: dict[str, str] = {}

    async def warm(self, requests: int) -> None:
        """Send the first requests of the workload, which are not counted. Raises as `run`."""
        round_ = Round(Bounds(requests))
        async with asyncio.TaskGroup() as group:
            for _ in range(min(requests, WARM_CLIENTS)):
                group.create_task(self._client_loop(round_))
        self._check()

    async def run(self, bounds: Bounds) -> None:
        """Run one round, until all its requests have ended.

        Raises:
            ServerFailed: the server is gone; requests that had been sent have ended.
        """
        round_ = Round(bounds)
        self.rounds.append(round_)
        async with asyncio.TaskGroup() as group:
            match self._pace:
                case Closed(clients):
                    for _ in range(clients):
                        group.create_task(self._client_loop(round_))
                case Poisson(per_s):
                    await self._arrivals(round_, per_s, group)
                case AsRecorded(speed):
                    await self._recorded(round_, speed, group)
        self._check()

    def _check(self) -> None:
        if self._gone:
            count, why = self._refusals.count, self._refusals.reason
            raise ServerFailed(
                f"{self._client.name} is gone: it has refused {count} connections in a row ({why})."
            )

    async def _client_loop(self, round_: Round) -> None:
        while (ask := self._take(round_)) is not None:
            if not await self._one(round_, ask):
                await asyncio.sleep(REFUSED_PAUSE_S)

    async def _arrivals(self, round_: Round, per_s: float, group: asyncio.TaskGroup) -> None:
        for due_s in pace.poisson(per_s, f"{self._seed} round {len(self.rounds)}"):
            if round_.bounds.duration_s is not None and due_s > round_.bounds.duration_s:
                return
            await round_.wait_until(due_s)
            if (ask := self._take(round_)) is None:
                return
            group.create_task(self._one(round_, ask))

    async def _recorded(self, round_: Round, speed: float, group: asyncio.TaskGroup) -> None:
        first_s: float | None = None
        while (ask := self._take(round_)) is not None:
            first_s = ask.at_s if first_s is None else first_s
            due_s = (ask.at_s - first_s) / speed
            if round_.bounds.duration_s is not None and due_s > round_.bounds.duration_s:
                self._held = ask  # the next round begins with it
                return
            await round_.wait_until(due_s)
            group.create_task(self._one(round_, ask))

    def _take(self, round_: Round) -> LoadRequest | None:
        if round_.full or self._gone:
            return None
        ask, self._held = self._held or self._workload.next(), None
        round_.sent += ask is not None
        return ask

    async def _one(self, round_: Round, ask: LoadRequest) -> bool:
        """Send a request; return whether it succeeded."""
        heard = await self._client.stream(self._form.api, self._form.body(ask))
        self._workload.answered(ask, None if heard.error else heard.text)
        self._note(round_, heard)
        self._on_end()
        return not heard.error

    def _note(self, round_: Round, heard: Heard) -> None:
        outcome = heard.outcome(round_.began_s)
        round_.outcomes.append(outcome)
        round_.tokens += outcome.output_tokens
        now_s = time.perf_counter()
        self._refusals.note(heard, now_s)
        self._gone = self._gone or self._refusals.last(now_s)
        if heard.error:
            self.examples.setdefault(heard.error, heard.message)
            return
        for gap_s in heard.gaps_s:
            round_.gaps.add(gap_s)

    # -- results ---------------------------------------------------------------------------

    @property
    def answered(self) -> int:
        """Number of requests that ended, including failed ones."""
        return sum(len(round_.outcomes) for round_ in self.rounds)

    @property
    def failed(self) -> int:
        """Number of requests that failed."""
        return sum(bool(one.error) for round_ in self.rounds for one in round_.outcomes)

    @property
    def late_s(self) -> float:
        """Largest delay of a request behind its planned time, seconds."""
        return max((round_.late_s for round_ in self.rounds), default=0.0)

    def summaries(self, slo: Slo = NO_SLO) -> list[Summary]:
        """Return the summary of each round."""
        return [summarize(round_.outcomes, round_.gaps, slo) for round_ in self.rounds]

    def summary(self, slo: Slo = NO_SLO) -> Summary:
        """Summarize all rounds as if each had begun when the one before it ended."""
        outcomes: list[Outcome] = []
        gaps, shift_s = Gaps(), 0.0
        for round_ in self.rounds:
            outcomes += [
                msgspec.structs.replace(outcome, start_s=outcome.start_s + shift_s)
                for outcome in round_.outcomes
            ]
            gaps.merge(round_.gaps)
            shift_s = max((one.start_s + one.e2e_s for one in outcomes), default=shift_s)
        return summarize(outcomes, gaps, slo)
