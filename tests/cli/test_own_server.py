"""A server that a command starts for itself: its address, its failure, its end."""

from __future__ import annotations

import time

import pytest

from dynamo_cli.cli import own_server
from dynamo_cli.errors import ServerFailed

SERVES = """
import os, signal, sys
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
sys.stderr.write(f"alone {os.getpgrp() == os.getpid()}\\n")
sys.stderr.write("now INFO frontend ready\\nnow INFO dynamo-llm serving on http://localhost:7/v1\\n")
sys.stderr.flush()
signal.sigwait([signal.SIGTERM])
sys.stderr.write("x" * 200_000 + "\\n")
"""


def test_it_says_where_it_serves_and_ends_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_server, "MAIN", SERVES)
    told: list[str] = []
    began = time.monotonic()
    with own_server.serving(["--model", "m"], told.append) as url:
        assert url == "http://localhost:7"
    assert told == ["alone True", "now INFO frontend ready"], "Ctrl-C must not reach it"
    assert time.monotonic() - began < own_server.ENDING_S


ECHOES = """
import os, signal, sys
sys.stderr.write(f"{' '.join(sys.argv[2:])}\\n")
sys.stderr.write("now INFO dynamo-llm serving on http://localhost:7/v1\\n")
sys.stderr.flush()
signal.pause()
"""


@pytest.mark.parametrize(
    ("variable", "options"),
    [
        ("DYNAMO_LLM_LOG_FORMAT", "--log-format text"),
        ("DYNAMO_LLM_LOG_LEVEL", "--log-level info"),
        ("DYNAMO_LLM_CONFIG", "--log-level info"),
    ],
)
def test_settings_do_not_hide_its_address(
    variable: str, options: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "json")
    monkeypatch.setattr(own_server, "MAIN", ECHOES)
    told: list[str] = []
    with own_server.serving([], told.append):
        assert options in told[0]


def test_its_reason_is_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    fails = "import sys; sys.exit('dynamo-llm: error: no such model.')"
    monkeypatch.setattr(own_server, "MAIN", fails)
    with (
        pytest.raises(ServerFailed, match=r"the server did not start: no such model\."),
        own_server.serving([], lambda _: None),
    ):
        pass
