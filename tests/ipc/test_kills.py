"""Either end of a link is killed hundreds of times: see `tests.ipc.kills`.

In a process of its own: a fork of one as large as that of the tests takes many times as long.
"""

from __future__ import annotations

import subprocess
import sys

KILLS = 400


def test_hundreds_of_kills() -> None:
    words = [sys.executable, "-m", "tests.ipc.kills", str(KILLS)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
