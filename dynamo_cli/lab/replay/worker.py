"""A worker of the replay: a simulated engine, and what its process would send. Pure."""

from __future__ import annotations

from dynamo_cli.engines.mock import report
from dynamo_cli.engines.mock.profile import PS, Profile
from dynamo_cli.engines.mock.request import SimRequest, StepResult
from dynamo_cli.engines.mock.state import SimEngine
from dynamo_cli.lab.report import Gaps
from dynamo_cli.messages.request import EngineReady
from dynamo_cli.messages.routing import KvEvents
from dynamo_cli.messages.telemetry import WorkerStats
from dynamo_cli.worker.cache_announcer import CacheAnnouncer

NS_PS = 1000
STATS_INTERVAL_PS = PS // 4
"""As `REPORT_INTERVAL_S` in `worker.process`."""


class SimWorker:
    """One worker; times in picoseconds since the start of the replay.

    Attributes:
        engine: its engine.
        until_ps: when its present step, or the last of several quiet ones, ends.
        busy_ps: how long it has computed.
        gaps: between the tokens of its requests.
    """

    def __init__(self, index: int, profile: Profile, *, leaps: bool = True) -> None:
        self.index = index
        self.engine = SimEngine(profile)
        self.until_ps = 0
        self.busy_ps = 0
        self.gaps = Gaps()
        self._leaps = leaps
        self._announcer = CacheAnnouncer(index, self.engine.blocks)
        self._busy = False
        self._since_ps = 0
        self._quiet = 0  # steps that are made at once, and nothing happens in them
        self._result: StepResult | None = None
        self._paused: dict[str, int] = {}  # preempted request -> time of its last token
        self._stats_due_ps = 0
        self._stats_current = False

    def ready(self) -> EngineReady:
        return report.ready(self.index, self.engine.profile)

    def add(self, request: SimRequest, now_ps: int) -> bool:
        """Take a request; whether `until_ps` has changed.

        An idle worker begins when all that comes at this moment is there (`begin`).
        """
        cut = self._cut(now_ps)
        self.engine.add(request)
        self._stats_current = False
        if not self._busy:
            self.until_ps = now_ps
            return True
        return cut

    def abort(self, request_id: str) -> None:
        """Forget a request; what it computes at this moment is computed in vain."""
        self.engine.abort(request_id)

    def _cut(self, now_ps: int) -> bool:
        """Of the quiet steps only those are made that have begun; whether these are fewer."""
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
        """The quiet steps are decided: nothing can come between them any more."""
        if self._quiet:
            self._note_gaps(self._quiet)
            self.busy_ps += self.until_ps - self._since_ps
            self.engine.coast(self._quiet)
            self._quiet = 0

    def _note_gaps(self, steps: int) -> None:
        """Each of these steps is as long as the one before, or a little longer."""
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
        """The next step, or quiet steps, if there is anything to do; whether there is."""
        self._busy = self.engine.has_work()
        if not self._busy:
            return False
        self._since_ps = now_ps
        self._quiet = self.engine.quiet_steps(self._stats_due_ps - now_ps) if self._leaps else 0
        if self._quiet:
            self.until_ps = now_ps + self.engine.steps_ps(self._quiet)
            return True
        self._result = result = self.engine.step()
        self.until_ps = now_ps + result.duration_ps
        self.busy_ps += result.duration_ps
        self._note_step(result)
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
        """The step is over: what it did; None after quiet ones."""
        self._coast()
        result, self._result = self._result, None
        self._stats_current = False
        return result

    def holds(self) -> KvEvents:
        """All that is in the cache: what a router must know first."""
        return self._announcer.whole(self.until_ps // NS_PS)

    def events(self) -> KvEvents | None:
        """What the step changed in the cache."""
        return self._announcer.changes(self.until_ps // NS_PS)

    def stats(self, now_ps: int) -> WorkerStats | None:
        """The load, when it is due: at most every interval while busy, and once when idle."""
        idle = not self.engine.has_work()
        if self._stats_current or (now_ps < self._stats_due_ps and not idle):
            return None
        self._stats_due_ps = now_ps + STATS_INTERVAL_PS
        self._stats_current = idle
        return report.stats(self.index, self.engine, now_ps // NS_PS)
