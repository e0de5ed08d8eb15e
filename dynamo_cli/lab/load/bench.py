"""Measures one load on one server, or alternately on two."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from dynamo_cli.errors import ServerFailed
from dynamo_cli.lab.load import probe, workload
from dynamo_cli.lab.load.client import LoadClient, Target
from dynamo_cli.lab.load.drive import Driver
from dynamo_cli.lab.load.form import ApiPath
from dynamo_cli.lab.load.pace import Bounds, Pace, words
from dynamo_cli.lab.load.workload import Talks, TracePrompts, Workload, WorkloadShape
from dynamo_cli.lab.report import MS, Slo, Summary, quantile
from dynamo_cli.lab.table import Ratios, compare
from dynamo_cli.lab.trace.trace import Trace

LATE_S = 0.05
"""Requests that are sent later than planned by more than this are reported."""


@dataclass(frozen=True)
class BenchPlan:
    """What is measured.

    Attributes:
        load: conversations of a shape, or a trace.
        pace: when requests are sent.
        bounds: when all rounds together end, for each server.
        scale: factor for all lengths of a trace.
        rounds: number of rounds.
        warmup: number of requests before the rounds, which are not counted.
        seed: seed of all words, lengths and times.
        model: name of the model; empty takes the first that each server lists.
        api: endpoint that is used.
        timeout_s: time limit of a whole answer.
    """

    load: WorkloadShape | Trace
    pace: Pace
    bounds: Bounds
    scale: float = 1.0
    rounds: int = 1
    warmup: int = 0
    seed: str = "0"
    model: str = ""
    api: ApiPath = ApiPath.CHAT
    timeout_s: float = 600.0

    @property
    def header(self) -> str:
        """The load in one line, for people."""
        size = [words(self.pace), self.bounds.words, f"/v1{self.api}"]
        if self.rounds > 1:
            size.append(f"{self.rounds} rounds")
        return f"{'; '.join(filter(None, size))}\n{self.load_words}; --seed {self.seed}"

    @property
    def load_words(self) -> str:
        """What is sent, for people."""
        if isinstance(self.load, Trace):
            scale = "" if self.scale == 1 else f", lengths times {self.scale:g}"
            return f"a trace of {len(self.load.requests)} requests{scale}"
        return self.load.words


RECENT = 50
"""The number of requests of which `LiveFigures` tells the time to the first token."""


class LiveFigures(NamedTuple):
    """Figures of a measurement that still runs; the time is the median of the last requests."""

    requests_per_s: float
    output_tokens_per_s: float
    ttft_ms: float


class Bench:
    """A measurement. Its results can be read while it runs, and afterwards.

    Args:
        plan: what is measured.
        servers: one or two servers by name.
        on_end: called after the end of each request.

    Attributes:
        drivers: drivers of the load, by the names of the servers.
        notices: remarks for people about the servers.
    """

    def __init__(
        self, plan: BenchPlan, servers: dict[str, Target], on_end: Callable[[], None] = lambda: None
    ) -> None:
        self._plan = plan
        self._clients = {
            name: LoadClient(server, timeout_s=plan.timeout_s) for name, server in servers.items()
        }
        self._on_end = on_end
        self.drivers: dict[str, Driver] = {}
        self.notices: list[str] = []

    async def run(self) -> None:
        """Measure everything.

        Raises:
            ServerFailed: a server does not answer like an OpenAI server.
        """
        plan = self._plan
        try:
            for name, client in self._clients.items():
                self.drivers[name] = await self._driver(name, client)
            for driver in self.drivers.values():
                await driver.warm(plan.warmup)
            order = list(self.drivers.values())
            for number in range(plan.rounds):
                for driver in order:
                    await driver.run(plan.bounds.part(number, plan.rounds))
                order.reverse()  # so that no server always comes second
        finally:
            for client in self._clients.values():
                client.close()

    async def _driver(self, name: str, client: LoadClient) -> Driver:
        plan = self._plan
        try:
            known = await probe.get_to_know(client, plan.model, plan.api)
        except ServerFailed as error:
            raise ServerFailed(f"{name}: {error.message}") from error
        self.notices += [f"{name}: {notice}" for notice in known.notices]
        # Two names may mean the same server: each gets words of its own, so that no prompt of one
        # is in the cache because of the other.
        load = self._workload(known.tokens_per_word, f"server {len(self.drivers)}")
        return Driver(client, known.form, load, plan.pace, plan.seed, self._on_end)

    def _workload(self, tokens_per_word: float, salt: str) -> Workload:
        load, scale, seed = self._plan.load, self._plan.scale, self._plan.seed
        if isinstance(load, Trace):
            return TracePrompts(load, tokens_per_word, scale=scale, seed=f"{seed} {salt}")
        people = workload.conversations(load, seed, tokens_per_word, salt)
        return Talks(people, load.systems * load.conversations, seed)

    # -- results ---------------------------------------------------------------------------

    @property
    def answered(self) -> int:
        """Number of requests that ended so far, including failed ones."""
        return sum(driver.answered for driver in self.drivers.values())

    @property
    def failed(self) -> int:
        """Number of requests that failed so far."""
        return sum(driver.failed for driver in self.drivers.values())

    @property
    def live(self) -> LiveFigures | None:
        """Figures of the round that runs; None before any request of it has succeeded."""
        running = [driver.rounds[-1] for driver in self.drivers.values() if driver.rounds]
        if not running:
            return None
        now = max(running, key=lambda round_: round_.began_s)
        ttfts = sorted(one.ttft_s for one in now.outcomes[-RECENT:] if not one.error)
        if not ttfts:
            return None
        per_s = 1 / max(now.elapsed_s, 1e-3)
        return LiveFigures(len(now.outcomes) * per_s, now.tokens * per_s, MS * quantile(ttfts, 0.5))

    def summaries(self, slo: Slo) -> dict[str, Summary]:
        """Return the summary of each server."""
        return {name: driver.summary(slo) for name, driver in self.drivers.items()}

    def rounds(self, slo: Slo) -> dict[str, list[Summary]]:
        """Return the summaries of each server, one for each round."""
        return {name: driver.summaries(slo) for name, driver in self.drivers.items()}

    def ratios(self, slo: Slo) -> Ratios | None:
        """Return ratios of the second server to the first, over the rounds that both finished."""
        if len(self.drivers) != 2:
            return None
        first, second = self.rounds(slo).values()
        both = min(len(first), len(second))
        return compare(first[:both], second[:both]) if both else None

    def remarks(self) -> list[str]:
        """Return `notices`, an example of each kind of failure, and whether requests were late."""
        found = list(self.notices)
        for name, driver in self.drivers.items():
            for kind, message in driver.examples.items():
                found.append(f"{name}: {kind}, for instance: {message}")
            if driver.late_s > LATE_S:
                found.append(
                    f"{name}: requests were sent up to {1000 * driver.late_s:.0f} ms late: "
                    "this machine could not keep up with the load that it makes"
                )
        return found
