"""The zygote imports what an engine that it has forked has imported, if that does no harm."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

FORKING = """
import os, socket, sys
from dynamo_cli.host import imports
from dynamo_cli.ipc.control import Control
from dynamo_cli.messages.flows import ToChild
from dynamo_cli.supervisor.zygote import Zygote

imports.DEVICES = (os.environ["DEVICE"],)
imports.all_alike = lambda: os.environ["ALIKE"] == "yes"
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

learning = zygote._learning
advance = learning.advance

def advanced(ready):
    advance(ready)
    if learning._told and not learning.busy and not learning._trial:
        theirs.close()  # it has nothing to do any more

learning.advance = advanced
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
    "types.SimpleNamespace(is_initialized=lambda: True), get_default_dtype=lambda: 1)",
    "a signal": "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)",
    "how errors in logs are told": "import logging; logging.raiseExceptions = False",
    "a process that is not asked to end": (
        "import os, time\nif os.fork() == 0:\n    time.sleep(3)\n    os._exit(0)"
    ),
}


def learned(folder: Path, modules: dict[str, str], said: str = "", alike: str = "yes") -> list[str]:
    """What a zygote imports when a process tells these modules, and whether a process is left.
    `said`: what they write; `alike`: whether the GPUs are of one model."""
    for name, text in modules.items():
        (folder / f"{name}.py").write_text(text + "\n")
    (folder / "device").touch()
    path = os.pathsep.join([str(folder), *filter(None, [os.environ.get("PYTHONPATH")])])
    run = subprocess.run(
        [sys.executable, "-c", FORKING, ",".join(modules)],
        env=os.environ | {"PYTHONPATH": path, "DEVICE": str(folder / "device"), "ALIKE": alike},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.stderr == said
    return run.stdout.splitlines()


def test_the_zygote_imports_what_a_forked_process_has_imported(tmp_path: Path) -> None:
    loud = "import sys; print('loud', file=sys.stderr, flush=True)"
    modules = {"first": "import wave", "other": loud, "last": ""}
    # It is said by the process that tells and by the zygote, not by the one that tries.
    assert learned(tmp_path, modules, "loud\n" * 2) == ["first,other,last", "no child is left"]


def test_modules_that_vllm_must_import_itself_are_not_told(tmp_path: Path) -> None:
    modules = {"nixl_bindings": "", "last": ""}
    assert learned(tmp_path, modules) == ["last", "no child is left"]


def test_nothing_is_imported_where_gpus_differ(tmp_path: Path) -> None:
    assert learned(tmp_path, {"first": "", "last": ""}, alike="no") == ["", "no child is left"]


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
