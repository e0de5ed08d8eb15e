"""The supervisor's handle of one child process, here or on another node: phase and exit."""

from __future__ import annotations

import asyncio
import signal
import socket
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from dynamo_cli.config import ChildConfig
from dynamo_cli.errors import ChildFailed
from dynamo_cli.ipc.control import Controls
from dynamo_cli.messages.flows import ToSupervisor
from dynamo_cli.messages.lifecycle import STALLED, Phase, ProcessState
from dynamo_cli.supervisor.logs import TAIL_CHARS, OutputLine, cut
from dynamo_cli.topology import ProcessId


class Parent(Protocol):
    """What a `Child` calls to report to its supervisor."""

    def on_report(self, child: Child, message: ToSupervisor, descriptors: Sequence[int]) -> None:
        """A message has arrived on the control socket. The parent owns its descriptors."""

    def on_log(self, child: Child, line: OutputLine) -> None:
        """The child has written a line."""

    def on_exit(self, child: Child, exit_code: int | None) -> None:
        """The child has ended. `exit_code` is negative after a signal; None: nobody saw it."""


@dataclass(frozen=True, slots=True)
class Start:
    """What is needed to start a child.

    Attributes:
        device: where its engine runs, for people; empty when it has none.
        gpus: names of the GPUs of its engine.
        sockets: for a frontend, the sockets on which the previous one listened; else empty.
        clock_shift_ns: see `host.clock`; 0 on the head's machine.
    """

    process: ProcessId
    config: ChildConfig
    log_level: str
    device: str = ""
    gpus: tuple[str, ...] = ()
    sockets: tuple[socket.socket, ...] = ()
    clock_shift_ns: int = 0


class Child(ABC):
    """One process from its start to its exit; a restart makes a new `Child`.

    Attributes:
        control: the supervisor's end of its control socket.
        node: name of the node that it runs on; empty for this machine.
        phase, reason: its phase, and why it is in it, for people.
        pid: 0 until it is known.
        started_ns, since_ns: monotonic time of its start and of its last change of phase.
        ready_ns: monotonic time when it became ready; 0 if it never was.
        failure: set when it has named the reason for its exit: (class of errors.py, message).
        stalled: why it was killed for giving no sign of life; empty if it was not.
        gone: set when it has ended.
    """

    control: Controls
    node = ""

    def __init__(self, start: Start, parent: Parent) -> None:
        self.start = start
        self.process = start.process
        self._parent = parent
        self.pid = 0
        self.gone = asyncio.Event()
        self.failure: tuple[str, str] | None = None
        self.stalled = ""
        self.started_ns = self.since_ns = time.monotonic_ns()
        self.ready_ns = 0
        self.phase, self.reason = Phase.STARTING, ""

    @property
    def alive(self) -> bool:
        """Whether its exit has not been seen yet."""
        return not self.gone.is_set()

    @property
    def reachable(self) -> bool:
        """Whether it can get links now."""
        return True

    def join_beside(self, peer: Child, generation: int) -> bool:
        """Have a link made with a child of the same other node, without a relay.

        Returns:
            False if they are not together on another node.
        """
        return False

    @property
    @abstractmethod
    def last_words(self) -> list[str]:
        """Log lines that may explain its end, oldest first: none from before it was ready."""

    @property
    def ready_s(self) -> float | None:
        """How long ago it became ready; None if it never was."""
        return (time.monotonic_ns() - self.ready_ns) / 1e9 if self.ready_ns else None

    def forked(self, pid: int) -> None:
        """Note that it runs and has reported its pid."""
        self.pid = pid

    def move_to(self, phase: Phase, reason: str = "") -> None:
        """Record that it has entered a phase, and why: shortly, as all tables have the reason."""
        self.phase, self.since_ns = phase, time.monotonic_ns()
        self.reason = cut(reason, TAIL_CHARS)
        if phase is Phase.READY:
            self.ready_ns = self.ready_ns or self.since_ns

    def state(self, restarts: int) -> ProcessState:
        """Its row of the process table; `restarts` counts its earlier lives."""
        return ProcessState(
            name=self.process.name,
            role=self.process.role,
            index=self.process.index,
            phase=self.phase,
            reason=self.reason,
            pid=self.pid,
            since_ns=self.since_ns,
            started_ns=self.started_ns,
            restarts=restarts,
            device=self.start.device,
            gpus=self.start.gpus,
            node=self.node,
        )

    @property
    def is_ready(self) -> bool:
        """Whether its loop should be running, so that it can be asked for a sign of life."""
        return bool(self.pid) and self.phase in (Phase.READY, Phase.DRAINING)

    def give_up(self, why: str) -> None:
        """Kill it because it gives no sign of life.

        Args:
            why: how long it has been silent, for the log.
        """
        self.stalled = f"{STALLED}: {why}"
        self.failure = (ChildFailed.__name__, self.stalled)
        self.kill()

    @abstractmethod
    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Send it a signal if it still runs, or as soon as its pid is known."""

    def end(self) -> None:
        """Kill it; if it cannot be reached, count it as ended."""
        self.kill()

    @abstractmethod
    def discard(self) -> None:
        """Close everything of a child that could not be started."""
