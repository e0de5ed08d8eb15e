"""A child that ends when its parent ends, however that comes about.

``python -m dynamo_cli.host.lifeline PARENT_PID MODULE ...`` runs another module in that way.
"""

from __future__ import annotations

import os
import runpy
import signal
import subprocess
import sys

from dynamo_cli.host.optional import die_with_parent

# -P keeps the current directory, and whatever modules lie there, off the import path.
PYTHON = (sys.executable, "-P")


def die_with(parent_pid: int, sent: signal.Signals) -> None:
    """Have the kernel send `sent` to this process when its parent ends."""
    die_with_parent(sent)
    if os.getppid() != parent_pid:  # it ended before the line above
        os._exit(1)


def end(process: subprocess.Popen[str], patience_s: float = 5.0) -> None:
    """Ends `process` if it still runs: asks first, and forces it after `patience_s`."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(patience_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


if __name__ == "__main__":
    die_with(int(sys.argv[1]), signal.SIGKILL)
    module = sys.argv[2]
    sys.argv = sys.argv[2:]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
