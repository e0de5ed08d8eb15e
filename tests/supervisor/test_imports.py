"""The zygote imports what an engine that it has forked has imported, if that does no harm."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

FORKING = """
import os, socket, sys, threading, time
from dynamo_cli.host import imports
from dynamo_cli.ipc.control import Control
from dynamo_cli.messages.flows import ToChild
from dynamo_cli.supervisor.zygote import Zygote

imports.DEVICES = (os.environ["DEVICE"],)
names = sys.argv[1].split(",")
ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
zygote = Zygote(Control(ours, ToChild))
if os.fork() == 0:
    zygote._learning.forked()
    for name in names:
        __import__(name)
    sys.modules["no_such_module"] = sys.modules[names[0]]  # one that cannot be imported again
    imports.tell()
    imports.tell()
    os._exit(0)
os.wait()

def stop():
    end = time.monotonic() + 20
    while names[-1] not in sys.modules and time.monotonic() < end:
        time.sleep(0.01)
    theirs.close()

threading.Thread(target=stop).start()
zygote.run()
print(",".join(name for name in names if name in sys.modules))
try:
    os.waitpid(-1, os.WNOHANG)
except ChildProcessError:
    print("no child is left")
"""

HARMFUL = {
    "a thread": "import threading, time; threading.Thread(target=time.sleep, args=[9]).start()",
    "a child": "import subprocess; child = subprocess.Popen(['cat'], stdin=subprocess.PIPE)",
    "a variable": "import os; os.environ['SOME_CHOICE'] = '1'",
    "a device": "import os; file = open(os.environ['DEVICE'])",
    "a thread that is not of Python": (
        "import ctypes, ctypes.util\n"
        "lib, made = ctypes.CDLL(None), ctypes.c_ulong()\n"
        "lib.pthread_create(ctypes.byref(made), None, lib.pause, None)"
    ),
    "CUDA": "import sys, types; sys.modules['torch'] = types.SimpleNamespace(cuda="
    "types.SimpleNamespace(is_initialized=lambda: True))",
}


def learned(folder: Path, modules: dict[str, str], said: str = "") -> list[str]:
    """What a zygote imports when a process tells these modules, and whether a process is left.
    `said`: what they write, once in that process and once in the zygote."""
    for name, text in modules.items():
        (folder / f"{name}.py").write_text(text + "\n")
    (folder / "device").touch()
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    run = subprocess.run(
        [sys.executable, "-c", FORKING, ",".join(modules)],
        env=os.environ | {"PYTHONPATH": path, "DEVICE": str(folder / "device")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.stderr == said * 2
    return run.stdout.splitlines()


def test_the_zygote_imports_what_a_forked_process_has_imported(tmp_path: Path) -> None:
    loud = "import sys; print('loud', file=sys.stderr, flush=True)"
    modules = {"first": "import wave", "other": loud, "last": ""}
    assert learned(tmp_path, modules, "loud\n") == ["first,other,last", "no child is left"]


@pytest.mark.parametrize("harm", HARMFUL)
def test_the_zygote_does_not_import_what_must_not_be_forked(tmp_path: Path, harm: str) -> None:
    modules = {"first": "", "needs": "import harmful", "harmful": HARMFUL[harm], "last": ""}
    assert learned(tmp_path, modules) == ["first,last", "no child is left"]


def test_who_was_not_forked_tells_nothing() -> None:
    tell = "from dynamo_cli.host import imports; imports.tell()"
    run = subprocess.run(
        [sys.executable, "-c", tell], capture_output=True, text=True, timeout=60, check=False
    )
    assert (run.returncode, run.stderr) == (0, "")
