"""The first code that every child process runs, whether it was spawned or forked."""

from __future__ import annotations

import importlib
import logging
import os
import pickle
import signal
import socket
import sys
from dataclasses import dataclass, replace

from dynamo_cli.config import ChildConfig
from dynamo_cli.errors import DynamoError
from dynamo_cli.host import clock
from dynamo_cli.host.lifeline import die_with, wait_for_adoption
from dynamo_cli.host.open_files import raise_limit
from dynamo_cli.host.optional import may_fail
from dynamo_cli.host.proctitle import set_title
from dynamo_cli.ipc.packet import send_at_once
from dynamo_cli.messages.base import Message
from dynamo_cli.messages.lifecycle import Fatal, Forked, Phase
from dynamo_cli.supervisor.logs import LineFormatter
from dynamo_cli.topology import ROLES, ProcessId, Role


@dataclass(frozen=True, slots=True)
class Birth:
    """What a child process gets at its start.

    Attributes:
        parent_pid: pid of the supervisor, which it must not outlive; 0 if it cannot become a child
            of the supervisor.
        log_level: name of the lowest level that it logs.
        sockets: for a frontend, the sockets on which the previous one listened; else empty.
        clock_shift_ns: see `host.clock`; 0 on the head's machine.
    """

    process: ProcessId
    config: ChildConfig
    parent_pid: int
    log_level: str
    sockets: tuple[socket.socket, ...] = ()
    clock_shift_ns: int = 0

    def dump(self) -> bytes:
        """Return it as bytes that the zygote passes on; the sockets are sent beside them."""
        return pickle.dumps(replace(self, sockets=()))

    @staticmethod
    def load(data: bytes) -> Birth:
        """Read the bytes that `dump` has made."""
        birth = pickle.loads(data)
        assert isinstance(birth, Birth)
        return birth


def run(birth: Birth, control: socket.socket, log: socket.socket, forked_by: int = 0) -> None:
    """Become the process that `birth` describes, and exit when its ``main`` returns.

    Args:
        forked_by: pid of the process that has forked this one, if it is to be adopted.
    """
    clock.shift(birth.clock_shift_ns)
    _leave_signals_to_the_supervisor()
    _log_to(log, birth.log_level)
    raise_limit()  # each link takes four descriptors
    set_title(birth.process, Phase.STARTING)
    if forked_by:
        wait_for_adoption(forked_by)
    if birth.parent_pid:
        die_with(birth.parent_pid)
    if forked_by:
        report(control, Forked(os.getpid()))
    if birth.process.role in (Role.FRONTEND, Role.PROCESSOR, Role.ROUTER, Role.HOST_CACHE):
        _leave_the_core_to_engines()
    try:
        module = importlib.import_module(ROLES[birth.process.role].module)
        module.main(birth.process, birth.config, control, *birth.sockets)
    except DynamoError as error:
        logging.getLogger(__name__).debug("ends because of", exc_info=error)
        report(control, Fatal(type(error).__name__, error.message))
        sys.exit(error.exit_code)
    except Exception:  # the entry of a process: an unexpected error ends it, and is logged
        logging.getLogger(__name__).exception("an unexpected error")
        sys.exit(70)


def _leave_the_core_to_engines() -> None:
    """Keep this process from preempting an engine when a message wakes it.

    With the default scheduling policy it would do so in the middle of an engine's step, even where
    another core is idle.
    """
    with may_fail("sched_setscheduler(SCHED_BATCH)", "messages may interrupt an engine's step"):
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def _leave_signals_to_the_supervisor() -> None:
    """Ignore SIGINT and SIGTERM, on which only the supervisor acts.

    Ctrl-C reaches every process of the terminal's group, and so does a SIGTERM from `timeout` or
    systemd. The supervisor starts children with both signals blocked, so that neither ends a child
    that has not come this far. They stay blocked for the processes that this one starts, because
    tensor-parallel ranks set handlers that would end them.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})


def _log_to(log: socket.socket, level: str) -> None:
    """Send all output of this process to the supervisor, including that of C libraries."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os.dup2(log.fileno(), 1)
    os.dup2(log.fileno(), 2)
    log.close()
    handler = logging.StreamHandler()
    handler.setFormatter(LineFormatter())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    # Our own messages are few, so warnings of ours are logged whatever the level is.
    logging.getLogger("dynamo_cli").setLevel(min(logging.WARNING, logging.root.level))
    logging.captureWarnings(True)


def report(control: socket.socket, message: Message) -> None:
    """Send a message to the supervisor; if the supervisor is gone or busy, log it instead."""
    try:
        send_at_once(control, message)
    except OSError:
        logging.getLogger(__name__).error("this cannot be sent to the supervisor: %s", message)
