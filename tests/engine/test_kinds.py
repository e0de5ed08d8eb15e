"""No kind of sampling makes other streams stall, nor needs a compiler."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.support.server import SMALL, Server

STALL_S = 0.5
SERVERS = 3
KINDS: list[tuple[str, dict[str, Any]]] = [
    ("greedy", {"temperature": 0}),
    ("random", {"temperature": 1.5}),
    ("top_k", {"top_k": 3}),
    ("top_p", {"top_p": 0.4}),
    ("both", {"top_k": 9, "top_p": 0.9}),
    ("min_p", {"min_p": 0.2}),
    ("seed", {"seed": 4}),
    ("penalties", {"presence_penalty": 1, "frequency_penalty": 1, "repetition_penalty": 1.3}),
    ("logit_bias", {"logit_bias": {"5": 3}}),
    ("allowed", {"allowed_token_ids": [5, 6, 7]}),
    ("bad_words", {"bad_words": ["the"]}),
    ("min_tokens", {"min_tokens": 2}),
    ("stop", {"stop": ["e"]}),
    ("stop ids", {"stop_token_ids": [5]}),
    ("n", {"n": 2}),
    ("logprobs", {"logprobs": 3}),
    ("echo", {"echo": True, "logprobs": 1}),
    ("prompt_logprobs", {"prompt_logprobs": 2}),
    ("beam", {"use_beam_search": True, "n": 2, "temperature": 0}),
    ("json", {"structured_outputs": {"json": {"type": "object"}}, "max_tokens": 8}),
    ("regex", {"structured_outputs": {"regex": "[ab]{2}"}}),
    ("choice", {"structured_outputs": {"choice": ["yes", "no"]}}),
]


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A folder with the programs with which vLLM looks at the machine, and no compiler."""
    for name in ("lscpu", "env", "sh"):
        if (found := shutil.which(name)) is not None:
            (tmp_path / name).symlink_to(found)
    return tmp_path


def ask(server: Server, body: dict[str, Any]) -> Any:
    data = json.dumps({"model": "tiny", "prompt": "Once", "max_tokens": 3} | body).encode()
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{server.url}/v1/completions", data, headers)
    return urllib.request.urlopen(request, timeout=60)


class Stream(threading.Thread):
    """A long stream, and for how long the engine computed without giving it a token.

    On a busy machine every process pauses now and then, but uses no CPU time meanwhile.
    """

    def __init__(self, server: Server, pid: int) -> None:
        super().__init__(daemon=True)
        self._server, self._pid = server, pid
        self.begun, self.enough = threading.Event(), threading.Event()
        self.worst_s = 0.0

    def run(self) -> None:
        body = {"stream": True, "max_tokens": 8000, "ignore_eos": True}
        with ask(self._server, body) as answer:
            last = (0.0, 0.0)
            for line in answer:
                if not line.startswith(b"data:"):
                    continue
                now = (time.monotonic(), cpu_s(self._pid))
                if self.begun.is_set():
                    self.worst_s = max(self.worst_s, min(now[0] - last[0], now[1] - last[1]))
                last = now
                self.begun.set()
                if self.enough.is_set():
                    return

    def worst_while(self, work: Any) -> float:
        """The longest such time between two tokens while `work` is done, seconds."""
        self.start()
        assert self.begun.wait(30)
        work()
        self.enough.set()
        self.join(30)
        return self.worst_s


def cpu_s(pid: int) -> float:
    """CPU time of a process and of those that it has started and waited for, such as compilers."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.engine
def test_no_kind_of_sampling_stops_a_stream(programs: Path) -> None:
    """What an engine does once, it does in each new server; a busy machine delays any of them."""
    suspects = dict(KINDS)
    for _ in range(SERVERS):
        none = {"PATH": str(programs), "CXX": "", "CC": ""}
        with Server(*SMALL, "--max-model-len", "8192", environment=none, fresh=False) as server:
            suspects = {name: suspects[name] for name in stalling(server, suspects)}
        if not suspects:
            return
    assert not suspects, "streams stall while such a request is new"


def stalling(server: Server, kinds: dict[str, dict[str, Any]]) -> list[str]:
    """Those kinds of sampling during which a stream stalls."""
    pid = server.pid_of("worker 0")

    def each(body: dict[str, Any]) -> None:
        with ask(server, body) as answer:
            assert answer.status == 200
            assert json.loads(answer.read())["choices"]

    worst = {
        name: Stream(server, pid).worst_while(lambda kind=kind: each(kind))
        for name, kind in kinds.items()
    }
    assert server.pid_of("worker 0") == pid
    return [name for name, worst_s in worst.items() if worst_s >= STALL_S]
