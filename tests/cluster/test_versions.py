"""What must be the same on every node, the clock there, and options that are refused."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

from dynamo_cli.supervisor.post import Versions
from tests.support.server import COMMAND


def test_other_releases_are_named() -> None:
    head = Versions("0.2.0", "0.32.0", "3.11")
    assert not head.differs(head)
    assert replace(head, vllm="0.33.0").differs(head) == "vLLM 0.33.0 (the head has 0.32.0)"
    assert "Python 3.12" in replace(head, tool="0.1", python="3.12").differs(head)


def test_a_process_on_another_machine_tells_the_time_of_the_head() -> None:
    hour = 3_600 * 10**9
    code = (
        "import time; from dynamo_cli.host import clock\n"
        "before = time.monotonic(), time.monotonic_ns()\n"
        f"clock.shift({hour})\n"
        f"assert 3600 <= time.monotonic() - before[0] < 3660\n"
        f"assert {hour} <= time.monotonic_ns() - before[1] < {hour} + 60 * 10**9\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_command_says_in_one_line_what_is_wrong() -> None:
    line = [COMMAND, "--model", "tiny", "--engine", "mock", "--ray", "ray://127.0.0.1:10001"]
    ended = subprocess.run(line, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 2
    assert "HOST:PORT" in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1, ended.stderr
