"""A child process on this machine: control socket, log pipe, and exit."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.context import SpawnProcess

from dynamo_cli.ipc.control import Control
from dynamo_cli.messages.lifecycle import Fork, Phase
from dynamo_cli.supervisor import entry
from dynamo_cli.supervisor.child import Child, Parent, Start
from dynamo_cli.supervisor.logs import LogLines
from dynamo_cli.supervisor.orphans import exit_code_of, is_child

READ_BYTES = 1 << 16
LAST_READS = 256
"""The log pipe of a child that has ended is read at most this often, because its descendants may
go on writing."""

HUNG_UP_S = 0.2
"""Seconds from the end of a child's control socket until it counts as ended although its exit was
not seen. Within this time the exit of a child of this process is seen, and that of a zygote before
the end of the children that it has not forked."""


class LocalChild(Child):
    """A child on this machine.

    Attributes:
        control: the supervisor's end of its control socket.
    """

    control: Control

    def __init__(self, start: Start, parent: Parent) -> None:
        super().__init__(start, parent)
        self.control, self._control_of_child = Control.pair()
        self._log, self._log_of_child = socket.socketpair()
        self._log.setblocking(False)
        self._lines = LogLines()
        self._spawned: SpawnProcess | None = None
        self._to_kill: signal.Signals | None = None
        self._loop = asyncio.get_running_loop()
        self.control.attach(self._loop.call_later)
        self._loop.add_reader(self.control.fileno(), self._read_control)
        self._loop.add_reader(self._log.fileno(), self._read_log)

    @property
    def last_words(self) -> list[str]:
        """Log lines that may explain its end, oldest first: none from before it was ready."""
        return list(self._lines.tail)

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
        super().forked(pid)
        if self._to_kill is not None:
            self.kill(self._to_kill)
        self._loop.call_soon(self.poll)  # after the messages that came with this one

    def _birth(self, parent_pid: int) -> entry.Birth:
        start = self.start
        return entry.Birth(
            self.process,
            start.config,
            parent_pid,
            start.log_level,
            start.sockets,
            start.clock_shift_ns,
        )

    def _let_go(self) -> None:
        """Close our copies of the child's ends, which keep the sockets open after its exit."""
        self._control_of_child.close()
        self._log_of_child.close()

    def move_to(self, phase: Phase, reason: str = "") -> None:
        """Record that it has entered a phase, and why."""
        super().move_to(phase, reason)
        if phase is Phase.READY:
            self._read_log()
            self._lines.tail.clear()

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
        for message, descriptors in self.control.receive(sys.maxsize):
            self._parent.on_report(self, message, descriptors)
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
