"""Runs in the Ray actor of a node: starts the outpost, and ends it when Ray's raylet ends."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from tempfile import TemporaryFile

from dynamo_cli.host import lifeline
from dynamo_cli.supervisor.logs import TAIL_CHARS, cut
from dynamo_cli.supervisor.post import Versions

LOOK_S = 0.25
"""Seconds between two checks whether the raylet still runs."""


class Hand:
    """Starts the process of the outpost, which ends with this one."""

    def __init__(self) -> None:
        self._raylet = os.getppid()
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        """End this process when the raylet has ended, since nothing else does."""
        while os.getppid() == self._raylet:
            time.sleep(LOOK_S)
        os._exit(1)

    def start(self, post: bytes, head: tuple[str, str, str]) -> dict[str, str]:
        """Start the outpost; returns the class and the message of an error, if there is one.

        Args:
            post: a pickled `Post`; only the same release can read it.
            head: the versions of the head, to compare with those here.
        """
        if differs := Versions.here().differs(Versions(*head)):
            return {"error": "UsageError", "message": f"its releases differ: {differs}."}
        self._log = TemporaryFile("w+")  # noqa: SIM115 - it is open as long as the process
        command = lifeline.command_of("dynamo_cli.outpost")
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=self._log)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with self._process.stdin as given:
            given.write(post)
        line = self._process.stdout.readline()
        if not line:
            return {"error": "ChildFailed", "message": self.wait()}
        found: dict[str, str] = json.loads(line)
        return found

    def wait(self) -> str:
        """Wait for the end of the outpost; returns the last line of its output."""
        code = self._process.wait()
        self._log.seek(0)
        lines = self._log.read().strip().splitlines()
        return cut(lines[-1], TAIL_CHARS) if lines else f"the outpost has ended (exit code {code})"
