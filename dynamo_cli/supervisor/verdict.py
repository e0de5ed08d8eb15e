"""What the state of the children means: can requests be served, and how one ended. Pure."""

from __future__ import annotations

import errno
import signal
from collections.abc import Iterable
from typing import NamedTuple

from dynamo_cli.errors import ChildFailed, DynamoError, error_class
from dynamo_cli.messages.lifecycle import Phase, ProcessState
from dynamo_cli.topology import Role

NEEDED = (Role.FRONTEND, Role.PROCESSOR, Role.WORKER)
"""Serving needs one ready process of each of these roles. It does not need the router."""


class Verdict(NamedTuple):
    """Whether requests can be served.

    Attributes:
        reason: why not, in one sentence.
        hopeless: whether this will stay so, because all processes of a needed role are given up.
    """

    serving: bool
    reason: str
    hopeless: bool = False


def judge(processes: Iterable[ProcessState]) -> Verdict:
    """Judge whether the tree can serve."""
    processes = list(processes)
    for role in NEEDED:
        of_role = [process for process in processes if process.role is role]
        phases = {process.phase for process in of_role}
        if Phase.READY in phases:
            continue
        if phases == {Phase.FAILED}:
            return Verdict(False, f"every {role} failed: {of_role[0].reason}", hopeless=True)
        waiting = ", ".join(
            f"{process.name} is {process.phase}"
            + (f" ({process.reason})" if process.reason else "")
            for process in of_role
        )
        return Verdict(False, waiting or f"{role} has not been started yet")
    return Verdict(True, "")


_HINTS = {
    signal.SIGKILL: "killed from outside, or by the kernel because memory ran out (see dmesg)",
    signal.SIGILL: "this processor lacks an instruction that the engine was built with",
    signal.SIGSEGV: "a crash in native code",
    signal.SIGABRT: "native code called abort",
    signal.SIGBUS: "memory could not be provided",
}


def failure_of(name: str, failure: tuple[str, str] | None, how: str) -> DynamoError:
    """The error that ends a start when a child ends.

    Args:
        name: name of the child.
        failure: `Child.failure`.
        how: how it ended, in words.
    """
    if failure is not None:
        return error_class(failure[0])(failure[1])
    return ChildFailed(f"{name} ended while it started ({how}); its log is above.")


def start_hint(error: OSError) -> str:
    """A remedy for when the system does not let a child start."""
    if error.errno in _LIMITS:
        return "Check this user's limits (ulimit -n, ulimit -u) and the free memory."
    return "It needs memfd_create, eventfd2, socketpair and clone, which a sandbox may refuse."


_LIMITS = (errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM)


def describe_exit(exit_code: int | None) -> str:
    """Describe an exit code, which is negative after a signal, and None if nobody saw it."""
    if exit_code is None:
        return "it is not known how"
    if exit_code >= 0:
        return f"exit code {exit_code}"
    number = -exit_code
    try:
        name = signal.Signals(number)
    except ValueError:
        return f"signal {number}"
    hint = _HINTS.get(name)
    return f"{name.name}: {hint}" if hint else name.name
