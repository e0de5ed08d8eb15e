"""Signals to the whole process group reach only the supervisor, whatever handlers others set."""

from __future__ import annotations

import subprocess
import sys

RANK = """
import signal, sys
signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # as vLLM's tensor-parallel ranks do
signal.signal(signal.SIGINT, lambda *_: sys.exit(1))
print("up", flush=True)
sys.stdin.read()
"""

CHILD = f"""
import os, signal, subprocess, sys
from dynamo_cli.supervisor import entry
entry._leave_signals_to_the_supervisor()
pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE)
rank = subprocess.Popen([sys.executable, "-c", {RANK!r}], **pipes)
rank.stdout.readline()
for number in (signal.SIGTERM, signal.SIGINT):
    os.killpg(0, number)
rank.stdin.close()
print("rank ended with", rank.wait())
"""


def test_a_child_and_what_it_starts_ignore_signals_to_their_group() -> None:
    done = subprocess.run(
        [sys.executable, "-c", CHILD],
        capture_output=True,
        text=True,
        start_new_session=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "rank ended with 0\n"), done.stderr
