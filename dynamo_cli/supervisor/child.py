"""The supervisor's handle of one child process: control socket, log pipe, phase and exit."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.context import SpawnProcess
from typing import Protocol

from dynamo_cli.config import ChildConfig
from dynamo_cli.errors import ChildFailed
from dynamo_cli.ipc.control import Control
from dynamo_cli.messages.flows import ToSupervisor
from dynamo_cli.messages.lifecycle import STALLED, Fork, Phase, ProcessState
from dynamo_cli.supervisor import entry
from dynamo_cli.supervisor.logs import Line, LogLines
from dynamo_cli.supervisor.orphans import exit_code_of, is_child
from dynamo_cli.topology import ProcessId

READ_BYTES = 1 << 16
LAST_READS = 256
"""The log pipe of a child that has ended is read at most this often, because its descendants may
go on writing."""

HUNG_UP_S = 0.2
"""Seconds from the end of a child's control socket until it counts as ended although its exit was
not seen. Within this time the exit of a child of this process is seen, and that of a zygote before
the end of the children that it has not forked."""


class Parent(Protocol):
    """What a `Child` calls to report to its supervisor."""

    def on_report(self, child: Child, message: ToSupervisor, descriptors: Sequence[int]) -> None:
        """A message has arrived on the control socket. The parent owns its descriptors."""

    def on_log(self, child: Child, line: Line) -> None:
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
    """

    process: ProcessId
    config: ChildConfig
    log_level: str
    device: str = ""
    gpus: tuple[str, ...] = ()
    sockets: tuple[socket.socket, ...] = ()


class Child:
    """One process from its start to its exit; a restart makes a new `Child`.

    Attributes:
        control: the supervisor's end of its control socket.
        phase, reason: its phase, and why it is in it, for people.
        pid: 0 until it is known.
        started_ns, since_ns: monotonic time of its start and of its last change of phase.
        ready_ns: monotonic time when it became ready; 0 if it never was.
        failure: set when it has named the reason for its exit: (class of errors.py, message).
        stalled: why it was killed for giving no sign of life; empty if it was not.
        gone: set when it has ended.
    """

    def __init__(self, start: Start, parent: Parent) -> None:
        self.start = start
        self.process = start.process
        self.control, self._control_of_child = Control.pair()
        self._log, self._log_of_child = socket.socketpair()
        self._log.setblocking(False)
        self._parent = parent
        self._lines = LogLines()
        self._spawned: SpawnProcess | None = None
        self._to_kill: signal.Signals | None = None
        self.pid = 0
        self.gone = asyncio.Event()
        self.failure: tuple[str, str] | None = None
        self.stalled = ""
        self.started_ns = self.since_ns = time.monotonic_ns()
        self.ready_ns = 0
        self.phase, self.reason = Phase.STARTING, ""
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self.control.fileno(), self._read_control)
        self._loop.add_reader(self._log.fileno(), self._read_log)

    @property
    def alive(self) -> bool:
        """Whether its exit has not been seen yet."""
        return not self.gone.is_set()

    @property
    def last_words(self) -> list[str]:
        """Log lines that may explain its end, oldest first: none from before it was ready."""
        return list(self._lines.tail)

    @property
    def ready_s(self) -> float | None:
        """How long ago it became ready; None if it never was."""
        return (time.monotonic_ns() - self.ready_ns) / 1e9 if self.ready_ns else None

    def spawn(self) -> None:
        """Start it as a fresh Python process."""
        birth = self._birth(os.getpid())
        process = multiprocessing.get_context("spawn").Process(
            target=entry.run, args=(birth, self._control_of_child, self._log_of_child)
        )
        with _signals_blocked():
            process.start()
        assert process.pid is not None
        self._spawned, self.pid = process, process.pid
        self._let_go()

    def fork_from(self, zygote: Child, *, adopted: bool) -> None:
        """Have the zygote fork it; the message `Forked` will bring its pid.

        Args:
            adopted: whether it becomes a child of this process.
        """
        birth = self._birth(os.getpid() if adopted else 0)
        sockets = (self._control_of_child, self._log_of_child, *birth.sockets)
        descriptors = [one.fileno() for one in sockets]
        zygote.control.send(Fork(self.process.name, birth.dump()), descriptors)
        self._let_go()

    def forked(self, pid: int) -> None:
        """Note that a forked child runs and has reported its pid."""
        self.pid = pid
        if self._to_kill is not None:
            self.kill(self._to_kill)
        self._loop.call_soon(self.poll)  # after the messages that came with this one

    def _birth(self, parent_pid: int) -> entry.Birth:
        start = self.start
        return entry.Birth(self.process, start.config, parent_pid, start.log_level, start.sockets)

    def _let_go(self) -> None:
        """Close our copies of the child's ends, which keep the sockets open after its exit."""
        self._control_of_child.close()
        self._log_of_child.close()

    def move_to(self, phase: Phase, reason: str = "") -> None:
        """Record that it has entered a phase, and why."""
        self.phase, self.reason, self.since_ns = phase, reason, time.monotonic_ns()
        if phase is Phase.READY:
            self.ready_ns = self.ready_ns or self.since_ns
            self._read_log()
            self._lines.tail.clear()

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

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Send it a signal if it still runs, or as soon as its pid is known."""
        if not self.pid:
            self._to_kill = number
        elif self.alive:
            with suppress(ProcessLookupError):  # its exit is about to be seen
                os.kill(self.pid, number)

    def poll(self) -> None:
        """Act on its exit, if it has ended and is a child of this process."""
        code: int | None = None
        if not self.alive:
            return
        if self._spawned is not None:
            code = self._spawned.exitcode
        elif self.pid:
            with suppress(ChildProcessError):
                code = exit_code_of(self.pid)
        if code is not None:
            self.ended(code)

    def ended(self, exit_code: int | None) -> None:
        """Handle its exit: read what is left in its sockets, close them, and tell the parent."""
        if not self.alive:
            return
        self._read_control()
        for _ in range(LAST_READS):
            if not self._read_log():
                break
        self.gone.set()
        for line in self._lines.end():
            self._parent.on_log(self, line)
        if self._spawned is not None:
            self._spawned.join()
            self._spawned.close()
        self._close()
        self._parent.on_exit(self, exit_code)

    def discard(self) -> None:
        """Close everything of a child that could not be started."""
        self.gone.set()
        self._let_go()
        self._close()

    def _close(self) -> None:
        self._loop.remove_reader(self.control.fileno())
        self._loop.remove_reader(self._log.fileno())
        self.control.close()
        self._log.close()

    def _read_control(self) -> None:
        for message, descriptors in self.control.receive():
            self._parent.on_report(self, message, descriptors)
        if self.control.closed:
            self._loop.remove_reader(self.control.fileno())
            self._loop.call_later(HUNG_UP_S, self._hung_up)

    def _hung_up(self) -> None:
        """Take it for ended if its exit cannot be seen: it never ran, or has another parent."""
        if self.alive and self._spawned is None and not is_child(self.pid):
            self.kill()
            self.ended(None)

    def _read_log(self) -> bool:
        """Read a part of what is there, so that a child that never stops writing blocks nobody.

        Returns:
            whether there may be more.
        """
        try:
            data = self._log.recv(READ_BYTES)
        except BlockingIOError:
            return False
        except ConnectionResetError:  # reported once, before the data that is left
            return True
        if not data:
            self._loop.remove_reader(self._log.fileno())
        for line in self._lines.feed(data):
            self._parent.on_log(self, line)
        return bool(data)


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """Block SIGINT and SIGTERM. A child inherits this, so neither ends it while it starts."""
    signals = {signal.SIGINT, signal.SIGTERM}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
