"""A server that a command starts for itself, and ends when it ends."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

from dynamo_cli.cli.settings import FILE_VARIABLE, variable_of
from dynamo_cli.cli.terminal import say
from dynamo_cli.errors import ServerFailed
from dynamo_cli.plan.typed import LOG_FORMATS

MAIN = (
    "import os, sys; from dynamo_cli.host.lifeline import die_with; "
    "die_with(int(sys.argv.pop(1)), __import__('signal').SIGTERM); "
    "from dynamo_cli.cli import main; main()"
)
"""The program of the server: it drains when the process that has started it ends."""

SERVING = re.compile(r"serving on (\S+)/v1$")
ENDING_S = 15.0
"""How long the server may take to end, seconds; it has no requests to finish then."""

LAST_LINES = 5


@contextmanager
def serving(words: Sequence[str], tell: Callable[[str], None]) -> Iterator[str]:
    """Start a server and wait until it answers requests; end it afterwards.

    Args:
        words: its options.
        tell: shows a line of its log while it starts.

    Yields:
        its address.

    Raises:
        ServerFailed: it did not start; the message has the reason that it gave.
    """
    with subprocess.Popen(
        [sys.executable, "-P", "-c", MAIN, str(os.getpid()), *words, *_readable(os.environ)],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        process_group=0,  # Ctrl-C is for the command alone
    ) as server:
        try:
            yield _address(server, tell)
        finally:
            _end(server)


def _readable(environment: Mapping[str, str]) -> list[str]:
    """Options with which the server logs its address as `SERVING` has it, whatever the settings
    of the environment say."""
    options = ["--ui", "plain", "--log-format", LOG_FORMATS[0], "--no-access-log"]
    if environment.keys() & {variable_of("log-level"), FILE_VARIABLE}:
        options += ["--log-level", "info"]
    return [*options, "--http-port", "0"]


def _address(server: subprocess.Popen[str], tell: Callable[[str], None]) -> str:
    assert server.stderr is not None
    last: deque[str] = deque(maxlen=LAST_LINES)
    for line in server.stderr:
        text = line.rstrip()
        last.append(text)
        if found := SERVING.search(text):
            threading.Thread(target=_pass_on, args=(server,), daemon=True).start()
            return found[1]
        tell(text)
    reason = last[-1].partition("error: ")[2] if last else ""
    raise ServerFailed(f"the server did not start: {reason or 'see its lines above'}")


def _pass_on(server: subprocess.Popen[str]) -> None:
    """Read its log to the end, so that it never waits; show what it warns of."""
    assert server.stderr is not None
    for line in server.stderr:
        if " WARNING " in line or " ERROR " in line:
            say(line.rstrip())


def _end(server: subprocess.Popen[str]) -> None:
    server.send_signal(signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        server.wait(ENDING_S)
        return
    server.kill()
