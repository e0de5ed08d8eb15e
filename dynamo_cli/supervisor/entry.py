"""The first lines that every child runs, whoever started it."""

from __future__ import annotations

import importlib
import logging
import os
import pickle
import signal
import socket
import sys
from dataclasses import dataclass

from dynamo_cli.config import ChildConfig
from dynamo_cli.errors import DynamoError
from dynamo_cli.host.lifeline import die_with
from dynamo_cli.host.optional import may_fail
from dynamo_cli.host.proctitle import set_title
from dynamo_cli.ipc.codec import encode
from dynamo_cli.messages.lifecycle import Fatal, Phase
from dynamo_cli.supervisor.logs import LineFormatter
from dynamo_cli.topology import ROLES, ProcessId, Role


@dataclass(frozen=True, slots=True)
class Birth:
    """What a child is told when it is born.

    Attributes:
        parent_pid: the process that starts it and that it must not outlive.
    """

    process: ProcessId
    config: ChildConfig
    parent_pid: int
    log_level: str

    def dump(self) -> bytes:
        return pickle.dumps(self)

    @staticmethod
    def load(data: bytes) -> Birth:
        birth = pickle.loads(data)
        assert isinstance(birth, Birth)
        return birth


def run(birth: Birth, control: socket.socket, log: socket.socket) -> None:
    """Become the process `birth` describes, until its ``main`` returns; then exit."""
    _leave_signals_to_the_supervisor()
    _log_to(log, birth.log_level)
    die_with(birth.parent_pid)
    set_title(birth.process, Phase.STARTING)
    if birth.process.role in (Role.FRONTEND, Role.PROCESSOR, Role.ROUTER):
        _leave_the_core_to_engines()
    try:
        module = importlib.import_module(ROLES[birth.process.role].module)
        module.main(birth.process, birth.config, control)
    except DynamoError as error:
        logging.getLogger(__name__).debug("ends because of", exc_info=error)
        _report(control, Fatal(type(error).__name__, error.message))
        sys.exit(error.exit_code)
    except Exception:  # the process's entry: what nobody named ends it, visibly
        logging.getLogger(__name__).exception("an error that nobody expected")
        sys.exit(70)


def _leave_the_core_to_engines() -> None:
    """A message that wakes this process shall not have it push an engine off its core.

    With the default policy it does, in the middle of a step, even where another core is free.
    """
    with may_fail("sched_setscheduler(SCHED_BATCH)", "messages may interrupt an engine's step"):
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def _leave_signals_to_the_supervisor() -> None:
    """Ctrl-C reaches the whole group of the terminal; only the supervisor acts on it.

    SIGTERM does so too, from `timeout` or systemd. The supervisor starts children with both signals
    blocked, so that neither can end a child that has not come this far. They stay blocked, for
    the processes that this one will start: tensor-parallel ranks set handlers that end them.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})


def _log_to(log: socket.socket, level: str) -> None:
    """All output of this process, of libraries in C too, becomes lines for the supervisor."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os.dup2(log.fileno(), 1)
    os.dup2(log.fileno(), 2)
    log.close()
    handler = logging.StreamHandler()
    handler.setFormatter(LineFormatter())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    # Ours are few, and each is worth reading.
    logging.getLogger("dynamo_cli").setLevel(min(logging.WARNING, logging.root.level))
    logging.captureWarnings(True)


def _report(control: socket.socket, message: Fatal) -> None:
    try:
        control.send(encode(message))
    except OSError:
        # The supervisor is gone or busy: the exit code and the log say the same.
        logging.getLogger(__name__).error("%s: %s", message.error, message.message)
