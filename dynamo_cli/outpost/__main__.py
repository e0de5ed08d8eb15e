"""Runs an outpost as a process of its own. It reads what it needs, a `Post`, from standard input.

It writes one line of JSON to standard output when it is ready, or when it cannot start.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys

import setproctitle

from dynamo_cli import PROGRAM
from dynamo_cli.errors import DynamoError
from dynamo_cli.host.open_files import raise_limit
from dynamo_cli.outpost.prepare import prepare
from dynamo_cli.outpost.process import serve
from dynamo_cli.supervisor.post import Post


def _report(error: DynamoError | None = None) -> None:
    found = {} if error is None else {"error": type(error).__name__, "message": error.message}
    os.write(1, json.dumps(found).encode() + b"\n")


def main() -> None:
    """Read the post, prepare the node, and serve until the head is gone."""
    setproctitle.setproctitle(f"{PROGRAM}: outpost")
    logging.basicConfig(level=logging.WARNING)
    raise_limit()  # each child takes several descriptors
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    try:
        post = prepare(Post.load(sys.stdin.buffer.read()))
    except DynamoError as error:
        _report(error)
        return
    _report()
    why = asyncio.run(serve(post))
    sys.stderr.write(why + "\n")


if __name__ == "__main__":
    main()
