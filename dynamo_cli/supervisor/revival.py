"""Decides what follows the death of a child while the tree serves: when it restarts. Pure."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from typing import NamedTuple

from dynamo_cli.messages.lifecycle import Phase
from dynamo_cli.serve_config import RestartPolicy

WAITS = "waiting for the zygote"
NO_ZYGOTE = "the zygote, which starts it, is given up"


@dataclass(slots=True)
class Restarts:
    """Decides when a child that died is started again.

    Attributes:
        policy: the delays, and how many failed lives in a row are too many.
        count: number of restarts so far.
    """

    policy: RestartPolicy
    count: int = 0
    _failed_lives: int = 0

    def next_delay_s(self, ready_s: float | None, *, killed: bool) -> float | None:
        """Return how many seconds to wait before the next start; None: give the child up.

        Args:
            ready_s: for how long it was ready; None if it never was.
            killed: whether a signal from outside ended it, so that the child is not at fault.
        """
        if ready_s is not None and (killed or ready_s >= self.policy.settled_s):
            self._failed_lives = 0
            delay = 0.0
        elif self._failed_lives < self.policy.limit:
            delay = self.policy.first_delay_s * 2.0**self._failed_lives
            self._failed_lives += 1
        else:
            return None
        self.count += 1
        return delay


_CRASHES = (
    signal.SIGILL,
    signal.SIGTRAP,
    signal.SIGABRT,
    signal.SIGBUS,
    signal.SIGFPE,
    signal.SIGSEGV,
    signal.SIGSYS,
)
"""Signals that a process gets because of its own faults, such as an invalid memory access."""


def was_killed(exit_code: int | None) -> bool:
    """Whether a signal from outside ended a process.

    Args:
        exit_code: negative after a signal; None if nobody saw how it ended.
    """
    return exit_code is not None and exit_code < 0 and -exit_code not in _CRASHES


class RestartDecision(NamedTuple):
    """What follows a death.

    Attributes:
        phase, reason: phase of the child from now on, and why it is in that phase.
        then: what follows, in words for the log.
        delay_s: seconds until it is started again; None if it is given up, or waits for the zygote.
    """

    phase: Phase
    reason: str
    then: str
    delay_s: float | None = None

    @property
    def level(self) -> str:
        """The level of the log line about the death."""
        return "ERROR" if self.phase is Phase.FAILED else "WARNING"


def next_step(
    how: str, delay_s: float | None, limit: int, zygote: Phase = Phase.READY
) -> RestartDecision:
    """Return what follows the death of a child.

    Args:
        how: how it ended, in words.
        delay_s: the result of `Restarts.next_delay_s`.
        limit: `RestartPolicy.limit`.
        zygote: the phase of the zygote if the child is forked from it, else `Phase.READY`.
    """
    if delay_s is None or zygote is Phase.FAILED:
        why = NO_ZYGOTE if delay_s is not None else f"{limit} restarts in a row did not help"
        return RestartDecision(Phase.FAILED, f"{how}, and {why}", f"it is given up: {why}")
    if zygote is not Phase.READY:
        return RestartDecision(Phase.BACKOFF, WAITS, "it starts again when there is a new zygote")
    when = f"in {delay_s:.1f} s" if delay_s else "at once"
    return RestartDecision(Phase.BACKOFF, how, f"it starts again {when}", delay_s)
