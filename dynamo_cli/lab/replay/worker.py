"""A worker of the replay: a simulated engine, and the messages of its process. Pure."""

from __future__ import annotations

from dynamo_cli.engines.mock import report
from dynamo_cli.engines.mock.profile import PS, Profile
from dynamo_cli.engines.mock.request import SimRequest, StepResult
from dynamo_cli.engines.mock.state import SimEngine
from dynamo_cli.engines.mock.tier import MockHostCache
from dynamo_cli.kv.announcer import CacheAnnouncer
from dynamo_cli.lab.report import Gaps
from dynamo_cli.messages.host_cache import HostCopies
from dynamo_cli.messages.request import EngineReady
from dynamo_cli.messages.routing import KvEvents
from dynamo_cli.messages.telemetry import WorkerStats

NS_PS = 1000
STATS_INTERVAL_PS = PS // 4
"""As `REPORT_INTERVAL_S` in `worker.process`."""


class SimWorker:
    """One worker. Times are picoseconds since the start of the replay.

    A step is quiet if it only adds a token to each running request: nothing starts, ends or gets a
    new block. Several quiet steps can be simulated at once.

    Attributes:
        engine: its engine.
        until_ps: when its current step, or the last of several quiet steps, ends.
        busy_ps: time that it has computed.
        gaps: times between the tokens of its requests.
        tier: the host cache as its engine uses it; None if there is none.
    """

    def __init__(
        self, index: int, profile: Profile, *, leaps: bool = True, tier: MockHostCache | None = None
    ) -> None:
        self.index = index
        self.tier = tier
        self.engine = SimEngine(profile, tier=tier)
        self.until_ps = 0
        self.busy_ps = 0
        self.gaps = Gaps()
        self._leaps = leaps
        self._announcer = CacheAnnouncer(index, self.engine.blocks)
        self._busy = False
        self._since_ps = 0
        self._quiet = 0  # number of quiet steps that are simulated at once
        self._result: StepResult | None = None
        self._paused: dict[str, int] = {}  # time of the last token by preempted request
        self._stats_due_ps = 0
        self._stats_current = False

    def ready(self) -> EngineReady:
        """Return the message that the engine is ready."""
        return report.ready(self.index, self.engine.profile)

    def add(self, request: SimRequest, now_ps: int) -> bool:
        """Take a request; return whether `until_ps` has changed.

        An idle worker begins its step (`begin`) after all arrivals of this time.
        """
        cut = self._cut(now_ps)
        self.engine.add(request)
        self._stats_current = False
        if not self._busy:
            self.until_ps = now_ps
            return True
        return cut

    def abort(self, request_id: str) -> None:
        """Forget a request. If the current step computes it, that work is lost."""
        self.engine.abort(request_id)

    def _cut(self, now_ps: int) -> bool:
        """Keep only those quiet steps that have begun; return whether they are fewer now."""
        if not self._quiet:
            return False
        begun = self.engine.quiet_steps(now_ps - self._since_ps) if now_ps > self._since_ps else 0
        fewer = begun < self._quiet
        if fewer:
            self._quiet = begun
            self.until_ps = self._since_ps + self.engine.steps_ps(begun)
        self._coast()
        return fewer

    def _coast(self) -> None:
        """Apply the quiet steps to the engine: nothing can interrupt them any more."""
        if self._quiet:
            self._note_gaps(self._quiet)
            self.busy_ps += self.until_ps - self._since_ps
            self.engine.coast(self._quiet)
            self._quiet = 0

    def _note_gaps(self, steps: int) -> None:
        """Add the gaps of quiet steps, each of which is as long as the one before or slightly
        longer."""
        requests, ends = self.engine.num_decoding, self.engine.steps_ps

        def note(first: int, last: int) -> None:
            shortest = (ends(first + 1) - ends(first)) / PS
            longest = (ends(last + 1) - ends(last)) / PS
            if first == last or self.gaps.same(shortest, longest):
                self.gaps.add(shortest, (last - first + 1) * requests)
                return
            middle = (first + last) // 2
            note(first, middle)
            note(middle + 1, last)

        note(0, steps - 1)

    def begin(self, now_ps: int) -> bool:
        """Begin the next step, or several quiet steps; return False if there is nothing to do."""
        self._busy = self.engine.has_work()
        if not self._busy:
            return False
        self._since_ps = now_ps
        self._quiet = self._quiet_steps(now_ps)
        if self._quiet:
            self.until_ps = now_ps + self.engine.steps_ps(self._quiet)
            return True
        result = self.engine.step(now_ps)
        if result.idle:
            return self._await_loads()
        self._result = result
        self.until_ps = now_ps + result.duration_ps
        self.busy_ps += result.duration_ps
        self._note_step(result)
        return True

    def _quiet_steps(self, now_ps: int) -> int:
        """How many quiet steps to simulate at once: none must end a load or a report late."""
        due_ps = self._stats_due_ps
        if self.tier is not None and (load_ps := self.tier.next_ps) is not None:
            if load_ps <= now_ps:
                return 0
            due_ps = min(due_ps, load_ps)
        return self.engine.quiet_steps(due_ps - now_ps) if self._leaps else 0

    def _await_loads(self) -> bool:
        """Do nothing until the next load ends, or a request comes; returns whether one runs."""
        assert self.tier is not None
        self._busy = False
        if self.tier.next_ps is None:
            return False
        self.until_ps = self.tier.next_ps
        return True

    def _note_step(self, result: StepResult) -> None:
        if result.decoded:
            self.gaps.add(result.duration_ps / PS, result.decoded)
        for request in result.preempted:
            if request.produced:
                self._paused.setdefault(request.request_id, self._since_ps)
        for request in result.joined:
            paused_ps = self._paused.pop(request.request_id, None)
            if paused_ps is not None:
                self.gaps.add((self.until_ps - paused_ps) / PS)

    def end(self) -> StepResult | None:
        """End the step and return its result; None after quiet steps."""
        self._coast()
        result, self._result = self._result, None
        self._stats_current = False
        if self.tier is not None:
            self.tier.store()
        return result

    def holds(self) -> KvEvents:
        """Return all that the cache holds, which is the first message to a router."""
        return self._announcer.whole(self.until_ps // NS_PS)

    def events(self) -> KvEvents | None:
        """Return what the step changed in the cache; None if nothing."""
        return self._announcer.changes(self.until_ps // NS_PS)

    def copies(self) -> HostCopies | None:
        """Return the report on copies, which goes with that on load; None without host cache."""
        return self.tier.client.copies(self.index, prefill=False) if self.tier else None

    def stats(self, now_ps: int) -> WorkerStats | None:
        """Return the load report if it is due: once per interval while busy, and once when idle."""
        idle = not self.engine.has_work()
        if self._stats_current or (now_ps < self._stats_due_ps and not idle):
            return None
        self._stats_due_ps = now_ps + STATS_INTERVAL_PS
        self._stats_current = idle
        return report.stats(self.index, self.engine, now_ps // NS_PS)
