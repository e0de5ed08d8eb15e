"""One process of a tree, alone: the test plays its supervisor and its neighbours.

It runs what every child of a supervisor runs first. It is forked from a process that has imported
what it needs (`tests.support.preloaded`), and runs ``python -m tests.support.child BIRTH ...`` as
if a fresh Python did it.
"""

from __future__ import annotations

import base64
import os
import socket
import sys
from dataclasses import replace

from dynamo_cli.supervisor import entry
from tests.support.preloaded import Forked, Preloaded


def start(
    birth: entry.Birth, control: socket.socket, log: socket.socket, source: Preloaded
) -> Forked:
    """Start it; its ends of the sockets are closed here."""
    assert not birth.parent_pid, "this process is not its parent"
    words = ["-m", __name__, base64.b64encode(birth.dump()).decode()]
    with control, log:
        return source.fork(words, os.environ, control, log, log, *birth.sockets)


def main() -> None:
    """Take the sockets from where standard streams are, and further ones by their numbers."""
    birth = entry.Birth.load(base64.b64decode(sys.argv[1]))
    sockets = tuple(socket.socket(fileno=int(number)) for number in sys.argv[2:])
    control, log = (socket.socket(fileno=os.dup(number)) for number in (0, 1))
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    entry.run(replace(birth, sockets=sockets), control, log)


if __name__ == "__main__":
    main()
