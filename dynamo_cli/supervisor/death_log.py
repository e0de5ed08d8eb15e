"""Writes one log line for each death of a child: which, how, its requests, and what follows.

The processors report what became of the requests of a lost worker, and the frontend of those of a
lost processor. The line waits up to `PATIENCE_S` for these reports.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from dynamo_cli.messages.lifecycle import Phase, Rescued
from dynamo_cli.supervisor.child import Child
from dynamo_cli.supervisor.revival import was_killed
from dynamo_cli.supervisor.verdict import describe_exit
from dynamo_cli.topology import ProcessId, Role

PATIENCE_S = 1.0
"""How long the line of a death waits for reports about its requests, seconds."""

REPORTERS = {Role.WORKER: Role.PROCESSOR, Role.PROCESSOR: Role.FRONTEND}
"""The role of the processes that send `Rescued` when a process of the first role is lost."""


def reporters(lost: ProcessId, living: Iterable[tuple[ProcessId, Phase]]) -> set[ProcessId]:
    """Return the living processes that will report what became of the requests of `lost`."""
    role = REPORTERS.get(lost.role)
    return {process for process, phase in living if process.role is role and phase is Phase.READY}


@dataclass(slots=True)
class Death:
    """The death of a process.

    Attributes:
        why: how it ended, or the reason that it gave.
        level: level of the log line.
        then: what follows, for the log line; may be empty.
        last_words: its last log lines that may explain the death.
        awaited: the processes that have not reported yet what became of its requests.
        moved, failed: number of its requests that moved and that failed, over all reports so far;
            `moved` is None if there was no report.
    """

    process: ProcessId
    pid: int
    why: str
    level: str
    then: str = ""
    last_words: list[str] = field(default_factory=list)
    awaited: set[ProcessId] = field(default_factory=set)
    moved: int | None = None
    failed: int = 0

    def add(self, reporter: ProcessId, rescued: Rescued) -> None:
        """Add the report of one of the awaited processes."""
        self.awaited.discard(reporter)
        self.moved = (self.moved or 0) + rescued.moved
        self.failed += rescued.failed

    @property
    def text(self) -> str:
        """The log line; the last words follow as separate lines."""
        requests = ""
        if self.moved is not None:
            moved = "1 request" if self.moved == 1 else f"{self.moved} requests"
            requests = f"{moved} moved, {self.failed} failed"
        name = f"{self.process.name} (pid {self.pid})" if self.pid else self.process.name
        parts = (f"{name} died: {self.why.rstrip('.')}", requests, self.then)
        words = "".join(f"\n    {line}" for line in self.last_words)
        return "; ".join(filter(None, parts)) + (f"; its last log lines:{words}" if words else "")


class DeathLog:
    """The deaths whose log lines are not written yet.

    Args:
        notice: writes a log line with this level and text.
        later: calls a function after a number of seconds.
    """

    def __init__(
        self,
        notice: Callable[[str, str], None],
        later: Callable[[float, Callable[[], None]], object],
    ) -> None:
        self._notice = notice
        self._later = later
        self._open: list[Death] = []

    def died(
        self,
        child: Child,
        exit_code: int | None,
        living: Iterable[Child] = (),
        level: str = "ERROR",
        then: str = "",
    ) -> None:
        """Report the unwanted exit of a child.

        Args:
            exit_code: negative after a signal; None if nobody saw how it ended.
            living: the other children; none while the run ends, because then no report will come.
            then: what follows, for the log line.
        """
        why = child.failure[1] if child.failure is not None else describe_exit(exit_code)
        words = [] if was_killed(exit_code) else child.last_words
        awaited = reporters(child.process, ((one.process, one.phase) for one in living))
        self.add(Death(child.process, child.pid, why, level, then, words, awaited))

    def add(self, death: Death) -> None:
        """Write the line of a death, as soon as all awaited processes have reported."""
        self._open.append(death)
        self._write_complete()
        self._later(PATIENCE_S, lambda: self._write(death))

    def rescued(self, reporter: ProcessId, rescued: Rescued) -> None:
        """Add the report of a living process about a lost one."""
        for death in self._open:
            if death.process.name == rescued.process and reporter in death.awaited:
                death.add(reporter, rescued)
                break
        self._write_complete()

    def ended(self, process: ProcessId) -> None:
        """Stop waiting for the reports of a process that has ended."""
        for death in self._open:
            death.awaited.discard(process)
        self._write_complete()

    def flush(self) -> None:
        """Write all lines now."""
        for death in list(self._open):
            self._write(death)

    def _write_complete(self) -> None:
        for death in [death for death in self._open if not death.awaited]:
            self._write(death)

    def _write(self, death: Death) -> None:
        if any(death is one for one in self._open):
            self._open = [one for one in self._open if one is not death]
            self._notice(death.level, death.text)
