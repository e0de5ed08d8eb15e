"""The zygote imports what a process that it has forked has imported."""

from __future__ import annotations

import subprocess
import sys

FORKING = """
import os, socket, sys, threading, time
from dynamo_cli.host import imports
from dynamo_cli.ipc.control import Control
from dynamo_cli.messages.flows import ToChild
from dynamo_cli.supervisor.zygote import Zygote

ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
zygote = Zygote(Control(ours, ToChild))
imports.PACKAGES = ("sympy.", "dynamo_cli.")
if os.fork() == 0:
    imports.forked(zygote._imports)
    import dynamo_cli.lab.report
    import wave
    sys.modules["sympy.no_such_module"] = wave  # one that cannot be imported again
    imports.tell()
    imports.tell()
    os._exit(0)
os.wait()

def stop():
    end = time.monotonic() + 20
    while "dynamo_cli.lab.report" not in sys.modules and time.monotonic() < end:
        time.sleep(0.01)
    theirs.close()

threading.Thread(target=stop).start()
zygote.run()
print([name in sys.modules for name in ("dynamo_cli.lab.report", "wave")])
"""


def test_the_zygote_imports_what_a_forked_process_has_imported() -> None:
    run = subprocess.run(
        [sys.executable, "-c", FORKING], capture_output=True, text=True, timeout=60, check=False
    )
    assert run.stdout == "[True, False]\n", run.stderr
    assert run.stderr == ""


def test_who_was_not_forked_tells_nothing() -> None:
    tell = "from dynamo_cli.host import imports; imports.tell()"
    run = subprocess.run(
        [sys.executable, "-c", tell], capture_output=True, text=True, timeout=60, check=False
    )
    assert (run.returncode, run.stderr) == (0, "")
