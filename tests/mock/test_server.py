"""The real command with simulated engines: the whole process tree without weights."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dynamo_cli.engines.mock.profile import Profile
from tests.support.driver import run
from tests.support.requests import Stream, post
from tests.support.server import COMMAND, Server, wait_until

pytestmark = pytest.mark.engine

PROFILE = Profile(
    name="test",
    source="made up",
    step_s=0.02,
    prefill_token_s=0.0002,
    decode_request_s=0.0001,
    transfer_s=0.01,
    block_size=32,
    num_blocks=400,
    max_num_seqs=16,
    max_num_batched_tokens=512,
    max_model_len=2048,
)
SPEEDUP = 2
WORDS = "one two three four five six seven eight nine ten "


@pytest.fixture(scope="module")
def profile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("profile") / "test.json"
    path.write_bytes(msgspec.json.encode(PROFILE))
    return path


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("record") / "record.jsonl"
    return path


@pytest.fixture(scope="module")
def server(profile: Path, record: Path) -> Iterator[Server]:
    engine = ("--engine", "mock", "--engine-profile", str(profile), "--speedup", str(SPEEDUP))
    with Server(*engine, "--workers", "8", "--router", "kv", "--record", str(record)) as running:
        yield running


@pytest.fixture(scope="module")
def sharing(profile: Path) -> Iterator[Server]:
    """Two workers in turn, and more memory than this machine has: nothing is kept in it."""
    engine = ("--engine", "mock", "--engine-profile", str(profile), "--speedup", str(SPEEDUP))
    options = ("--workers", "2", "--router", "round-robin", "--host-cache", "1TiB")
    with Server(*engine, *options) as running:
        yield running


def ask(server: Server, prompt: str, tokens: int = 8, **more: Any) -> Any:
    body = {"model": "tiny", "prompt": prompt, "max_tokens": tokens, **more}
    status, answer = post(server, "/v1/completions", body)
    assert status == 200, answer
    return answer


def cached(answer: Any) -> int:
    found: int = answer["usage"]["prompt_tokens_details"]["cached_tokens"]
    return found


def test_what_one_worker_has_computed_the_next_one_loads(sharing: Server) -> None:
    answers = [ask(sharing, WORDS * 20, 12) for _ in range(4)]
    tokens = answers[0]["usage"]["prompt_tokens"]
    assert [cached(answer) for answer in answers] == [0, *[(tokens - 1) // 32 * 32] * 3]
    assert len({answer["choices"][0]["text"] for answer in answers}) == 1


def test_answers_are_the_words_of_the_prompt_and_prefixes_are_found(server: Server) -> None:
    first, again = (ask(server, WORDS * 20, 12) for _ in range(2))
    assert first["choices"] == again["choices"]
    assert first["choices"][0]["text"].split()[:3] == ["one", "two", "three"]
    assert first["choices"][0]["finish_reason"] == "length"
    tokens = first["usage"]["prompt_tokens"]
    assert (cached(first), cached(again)) == (0, (tokens - 1) // 32 * 32)


def test_a_conversation_stays_with_its_worker(server: Server) -> None:
    found = []
    messages = [{"role": "user", "content": "hello " + WORDS * 10}]
    for _ in range(3):
        body = {"model": "tiny", "messages": messages, "max_tokens": 40}
        status, answer = post(server, "/v1/chat/completions", body)
        assert status == 200, answer
        found.append((cached(answer), answer["usage"]["prompt_tokens"]))
        messages += [answer["choices"][0]["message"], {"role": "user", "content": "more " * 20}]
    assert found[0][0] == 0
    assert all(hit > 0.5 * total for hit, total in found[1:])


def test_time_passes_as_the_profile_says(server: Server) -> None:
    begin = time.monotonic()
    ask(server, "time " * 100, 50)
    took_s = time.monotonic() - begin
    expected_s = (50 * 0.0201 + 0.0002 * 101) / SPEEDUP
    assert expected_s <= took_s < 1.5 * expected_s + 0.3


def test_many_at_once_are_spread_and_none_is_lost(server: Server) -> None:
    prompts = [f"{number} " * 40 for number in range(48)]
    with ThreadPoolExecutor(48) as pool:
        answers = list(pool.map(lambda prompt: ask(server, prompt, 10), prompts))
    assert all(answer["usage"]["completion_tokens"] == 10 for answer in answers)
    wait_until(lambda: _load(server) == 0, 3.0, "all is over")
    assert min(worker["steps"] for worker in server.snapshot()["workers"]) > 0


def _load(server: Server) -> int:
    workers = server.snapshot()["workers"]
    return sum(one["num_running_reqs"] + one["num_waiting_reqs"] for one in workers)


def test_an_answer_without_a_length_ends_by_itself(server: Server) -> None:
    body = {"model": "tiny", "messages": [{"role": "user", "content": "as long as you like"}]}
    status, answer = post(server, "/v1/chat/completions", body)
    assert status == 200
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["usage"]["completion_tokens"] == 256


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"logprobs": 2}, "leave out logprobs"),
        ({"response_format": {"type": "json_object"}}, "not support grammars"),
    ],
)
def test_what_needs_a_model_is_refused(server: Server, more: dict[str, Any], message: str) -> None:
    body = {"model": "tiny", "prompt": "a", "max_tokens": 2, **more}
    status, answer = post(server, "/v1/completions", body)
    assert (status, message in answer["error"]["message"]) == (400, True), answer


def test_a_client_that_leaves_frees_its_place(server: Server) -> None:
    with Stream(server, 1500):
        wait_until(lambda: _load(server) == 1, 3.0, "it runs")
    wait_until(lambda: _load(server) == 0, 3.0, "it was aborted")


def test_what_was_recorded_can_be_replayed(server: Server, record: Path, profile: Path) -> None:
    asked = [f"to be replayed {number} " * 20 for number in (1, 2, 1, 2)]
    for prompt in asked:
        ask(server, prompt)
    known = "to be replayed"
    assert known not in record.read_text()  # it has only lengths and hashes
    count = _settled(lambda: len(record.read_text().splitlines()) - 1)
    told = json.loads(record.read_text().splitlines()[0])["set_up"]
    assert (told["workers"], told["router"], told["num_blocks"]) == (8, "kv", PROFILE.num_blocks)
    assert count >= len(asked)
    done = subprocess.run(
        [COMMAND, "replay", str(record), "--profile", str(profile), "--json", "--workers", "2"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    runs = json.loads(done.stdout)["runs"]
    assert {run["requests"] for run in runs.values()} == {count}
    assert runs["kv at 1"]["hit_ratio"] > 0


def _settled(count: Callable[[], int]) -> int:
    """A number, once it has not changed for a while."""
    last, now = -1, count()
    while last != now:
        time.sleep(0.5)  # longer than the record waits with a line; nothing else tells of it
        last, now = now, count()
    return now


def test_prompts_are_prefilled_elsewhere(profile: Path) -> None:
    engine = ("--engine", "mock", "--engine-profile", str(profile))
    with Server(*engine, "--workers", "2", "--prefill-workers", "2", "--router", "kv") as server:
        with ThreadPoolExecutor(6) as pool:
            prompts = [f"{number} {WORDS * 20}" for number in range(6)]
            answers = list(pool.map(lambda prompt: ask(server, prompt, 5), prompts))
        assert all(answer["usage"]["completion_tokens"] == 5 for answer in answers)
        wait_until(lambda: _load(server) == 0, 3.0, "all is over")
        view = server.snapshot()["prefill"]
        assert view["placements"] == {"remote:always": 6}  # none is for a probe
        assert view["copies"] == {"simulated": 6}
        assert view["fallbacks"] == {}
        again = ask(server, f"0 {WORDS * 20}", 5)
        assert again["choices"] == answers[0]["choices"]
        assert cached(again) > 0


def test_a_prefill_worker_is_ready_when_jobs_go_to_it(profile: Path) -> None:
    engine = ("--engine", "mock", "--engine-profile", str(profile))
    with Server(*engine, "--prefill-workers", "1") as server:
        queue = server.pid_of("prefill queue")
        os.kill(queue, signal.SIGSTOP)  # so that decode workers hear of no prefill worker
        try:
            os.kill(server.pid_of("prefill worker 0"), signal.SIGKILL)
            wait_until(lambda: _phase(server, "prefill worker 0") == "warming up", 60, "it waits")
            assert server.get("/health")[1]["status"] == "degraded"
        finally:
            os.kill(queue, signal.SIGCONT)
        server.wait_ready()
        ask(server, WORDS, 5)
        wait_until(lambda: server.snapshot()["prefill"]["placements"], 5, "it is counted")
        assert server.snapshot()["prefill"]["placements"] == {"remote:always": 1}


def _phase(server: Server, name: str) -> str:
    phase: str = server.processes()[name]["phase"]
    return phase


def test_options_of_simulated_engines_belong_to_them() -> None:
    for args, message in (
        (("--speedup", "2"), "work only with --engine mock"),
        (("--engine", "mock", "--engine-profile", "abacus"), "no engine profile 'abacus'"),
        (("--engine", "mock", "--max-num-seqs", "many"), "takes a whole number"),
        (("--engine", "mock", "--max-num-batched-tokens", "1"), "cannot have these sizes"),
    ):
        done = subprocess.run(
            [COMMAND, "--model", "tiny", "--dry-run", *args],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode != 0
        assert message in done.stderr
        assert len(done.stderr.splitlines()) == 1


def test_messages_are_those_of_vllm() -> None:
    done = run("tests.mock.contract")
    assert done.returncode == 0, done.stderr
