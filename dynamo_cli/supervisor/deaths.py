"""One line of the log for each death: who, how, what became of its requests, and what follows.

The processors say what became of the requests of a worker, the frontend of those of a processor.
Their numbers are awaited for a moment.
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
"""How long the line waits for the numbers."""

REPORTERS = {Role.WORKER: Role.PROCESSOR, Role.PROCESSOR: Role.FRONTEND}
"""Who sends `Rescued` when a process of this role is lost."""


def reporters(lost: ProcessId, living: Iterable[tuple[ProcessId, Phase]]) -> set[ProcessId]:
    """Those of the living processes that will say what became of the requests of `lost`."""
    role = REPORTERS.get(lost.role)
    return {process for process, phase in living if process.role is role and phase is Phase.READY}


@dataclass(slots=True)
class Death:
    """The death of a process.

    Attributes:
        why: how it ended, or the reason that it gave.
        then: what follows; may be empty.
        last_words: the log lines that may explain it.
        awaited: who has not said yet what became of its requests.
        moved, failed: what the others have said; None if nobody has.
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
        """Count what one of the awaited has said."""
        self.awaited.discard(reporter)
        self.moved = (self.moved or 0) + rescued.moved
        self.failed += rescued.failed

    @property
    def text(self) -> str:
        """The line; last words follow as lines of their own."""
        requests = ""
        if self.moved is not None:
            moved = "1 request" if self.moved == 1 else f"{self.moved} requests"
            requests = f"{moved} moved, {self.failed} failed"
        name = f"{self.process.name} (pid {self.pid})" if self.pid else self.process.name
        parts = (f"{name} died: {self.why.rstrip('.')}", requests, self.then)
        words = "".join(f"\n    {line}" for line in self.last_words)
        return "; ".join(filter(None, parts)) + (f"; its last words:{words}" if words else "")


class Deaths:
    """The deaths whose lines are not written yet.

    Args:
        notice: writes a line of this level and text.
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
            living: the other children; none while a run ends, when nobody can say more.
            then: what follows.
        """
        why = child.failure[1] if child.failure is not None else describe_exit(exit_code)
        words = [] if was_killed(exit_code) else child.last_words
        awaited = reporters(child.process, ((one.process, one.phase) for one in living))
        self.add(Death(child.process, child.pid, why, level, then, words, awaited))

    def add(self, death: Death) -> None:
        """Write the line of a death, as soon as everybody awaited has spoken."""
        self._open.append(death)
        self._write_complete()
        self._later(PATIENCE_S, lambda: self._write(death))

    def rescued(self, reporter: ProcessId, rescued: Rescued) -> None:
        """Count what a living process says about one that is lost."""
        for death in self._open:
            if death.process.name == rescued.process and reporter in death.awaited:
                death.add(reporter, rescued)
                break
        self._write_complete()

    def ended(self, process: ProcessId) -> None:
        """A process says nothing any more."""
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
