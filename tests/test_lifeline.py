"""Helper processes that report in JSON lines, and that end with whoever started them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from typing import Any

import pytest

from dynamo_cli.host.lifeline import PYTHON, run_reporting
from tests.support.server import alive, wait_until


def script(text: str) -> list[str]:
    return [*PYTHON, "-c", text]


def test_its_reports_make_the_result_and_its_log_is_kept() -> None:
    text = (
        "import sys\n"
        "print(f'[{sys.stdin.read()}]', flush=True)\n"
        "print('{\"a\": 2}')\n"
        "sys.stderr.write('words')\n"
        "sys.exit(3)\n"
    )
    ended = run_reporting(script(text), list, "1")
    assert (ended.found, ended.exit_code, ended.log) == ([[1], {"a": 2}], 3, "words")


def test_input_that_it_does_not_read_is_no_error() -> None:
    ended = run_reporting(script("import os; os.close(0)"), list, "x" * (1 << 20))
    assert (ended.found, ended.exit_code) == ([], 0)


def test_it_is_ended_when_its_reports_cannot_be_read() -> None:
    pids = []

    def refuse(reports: Iterable[Any]) -> None:
        pids.append(next(iter(reports)))
        raise ValueError("refused")

    text = "import os, time\nprint(os.getpid(), flush=True)\ntime.sleep(600)"
    with pytest.raises(ValueError, match="refused"):
        run_reporting(script(text), refuse)
    assert not alive(pids[0])


HELPER = (
    "import subprocess, sys\n"
    "from dynamo_cli.host.lifeline import command_of\n"
    "helper = subprocess.Popen(command_of('http.server', '--bind', '127.0.0.1', '0'),\n"
    "    stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)\n"
    "print(helper.pid, flush=True)\n"
    "sys.stdin.read()\n"
)
SPAWNED = (
    "import multiprocessing, sys, time\n"
    "from dynamo_cli.host.lifeline import bind_spawned\n"
    "class Slow:\n"
    "    def __reduce__(self):\n"
    "        return time.sleep, (600,)\n"  # as imports may take long
    "bind_spawned()\n"
    "child = multiprocessing.get_context('spawn').Process(target=print, args=(Slow(),))\n"
    "child.start()\n"
    "print(child.pid, flush=True)\n"
    "sys.stdin.read()\n"
)


@pytest.mark.parametrize("parent", [HELPER, SPAWNED])
def test_it_ends_with_its_parent(parent: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", parent], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        helper = int(process.stdout.readline())
        assert alive(helper)
        os.kill(process.pid, signal.SIGKILL)
    wait_until(lambda: not alive(helper), 20, "the helper ends")
