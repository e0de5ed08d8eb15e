"""Real engines that share a host cache answer as one engine without, whatever dies."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from dynamo_cli.host.unnamed_file import in_memory
from tests.disagg.mix import answers, differences, requests
from tests.support.requests import complete, post
from tests.support.server import SMALL, Server, wait_until

pytestmark = pytest.mark.engine

COMMON = ("--dtype", "float32", "--block-size", "32", "--max-model-len", "2048", *SMALL)
LITTLE = ("--num-gpu-blocks-override", "70")
"""An engine's cache that holds one long prompt, so that the host cache is needed."""

ASKED = list(requests(90, "tiny", seed=5))
AT_ONCE = 6


@pytest.fixture(scope="module")
def alone() -> list[Any]:
    """The answers of one engine without a host cache."""
    with Server(*COMMON) as server:
        return answers(server, ASKED, AT_ONCE)


def test_workers_find_what_others_have_computed(alone: list[Any]) -> None:
    shape = ("--workers", "2", "--router", "kv", "--host-cache", "64MiB")
    with Server(*shape, *COMMON, *LITTLE) as server:
        assert not differences(alone, answers(server, ASKED, AT_ONCE), ASKED)
        assert not differences(alone, answers(server, ASKED, AT_ONCE), ASKED)
        body = {"model": "tiny", "prompt": "one two three " * 40, "max_tokens": 2}
        first = post(server, "/v1/completions", body)[1]["usage"]
        for worker in ("worker 0", "worker 1"):  # whoever has it in its own cache forgets it
            before = server.pid_of(worker)
            os.kill(before, signal.SIGKILL)
            wait_until(lambda b=before, w=worker: server.pid_of(w) not in (0, b), 30, "it is back")
            server.wait_ready()
        again = post(server, "/v1/completions", body)[1]["usage"]
        found = again["prompt_tokens_details"]["cached_tokens"]
        assert found > again["prompt_tokens"] - 64
        assert found > ((first.get("prompt_tokens_details") or {}).get("cached_tokens") or 0)
        view = server.snapshot()["host_cache"]
        assert view["loaded_tokens"] >= found
        assert view["invalid"] == view["refused"] == 0


@pytest.fixture
def disk(tmp_path: Path) -> str:
    """A folder that is on a disk, and a size."""
    folder = Path.cwd() if in_memory(str(tmp_path)) else tmp_path
    return f"{folder}:64MiB"


def test_whoever_dies_no_answer_changes(alone: list[Any], disk: str) -> None:
    shape = ("--workers", "2", "--router", "kv", "--host-cache", "4MiB", "--disk-cache", disk)
    with Server(*shape, *COMMON, *LITTLE) as server:
        complete(server)
        for victim in ("host cache", "worker 0"):
            with ThreadPoolExecutor(1) as pool:
                running = pool.submit(answers, server, ASKED, AT_ONCE)
                busy = lambda: server.snapshot()["traffic"]["in_flight"]  # noqa: E731
                wait_until(busy, 10, "requests are on their way")
                before = server.pid_of(victim)
                os.kill(before, signal.SIGKILL)
                got = running.result()
            assert not differences(alone, got, ASKED), victim
            wait_until(
                lambda b=before, v=victim: server.pid_of(v) not in (0, b), 30, f"{victim} is back"
            )
            server.wait_ready()
        tier = server.snapshot()["host_cache"]["disk"]
        assert tier["written"] > 100
        assert tier["off"] == ""
        assert tier["dropped"].keys() <= {"gone", "late", "slow"}
