"""`bench`, `--record` and `profile` with a real engine."""

from __future__ import annotations

import json
import os
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dynamo_cli.engines.mock.profile import PS, Profile, StepTimes
from dynamo_cli.lab.trace import reading, trace
from tests.support.preloaded import ENGINES, LIGHT, Preloaded
from tests.support.server import COMMAND, SMALL, Server, wait_until

pytestmark = pytest.mark.engine

BLOCK, TRIES = 32, 3


def command(*args: str, source: Preloaded = LIGHT) -> subprocess.CompletedProcess[str]:
    return source.run([COMMAND, *args], os.environ)


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("record") / "record.jsonl"


@pytest.fixture(scope="module")
def server(record: Path) -> Iterator[Server]:
    with Server("--record", str(record), "--block-size", str(BLOCK), *SMALL) as server:
        yield server


def lines(record: Path, count: int) -> list[dict[str, Any]]:
    """The requests of the record; its first line says what served them."""
    wait_until(lambda: len(record.read_text().splitlines()) > count, 5, "all is recorded")
    head, *found = [json.loads(line) for line in record.read_text().splitlines()]
    assert (head["set_up"]["workers"], head["set_up"]["block_size"]) == (1, BLOCK)
    return found


def template_tokens(server: Server) -> int:
    """How many tokens the chat template puts around a message."""
    body = json.dumps({"model": "tiny", "messages": [{"role": "user", "content": ""}]})
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{server.url}/tokenize", body.encode(), headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        count: int = json.load(answer)["count"]
    return count


def test_what_bench_measures_is_what_the_server_records(server: Server, record: Path) -> None:
    shape = ("--systems", "3", "--sessions", "2", "--turns", "3", "--concurrency", "4")
    done = command("bench", server.url, *shape, "--requests", "24", "--warmup", "0", "--json")
    assert done.returncode == 0, done.stderr
    (run,) = json.loads(done.stdout)["runs"].values()
    found = lines(record, 26)[2:]  # after the two requests by which bench examines the server
    assert (run["requests"], run["errors"], len(found)) == (24, {}, 24)
    assert run["output_tokens"] == sum(line["output_length"] for line in found)
    assert run["prompt_tokens"] == sum(line["input_length"] for line in found)
    assert all(16 <= line["output_length"] <= 32 for line in found)
    assert {line["model"] for line in found} == {"tiny"}
    # Equal hashes mean equal prefixes, and the cache is large enough for all of them. So it found
    # what an infinite cache would find.
    assert run["hit_ratio"] > 0.4
    again = reading.read(record)
    assert again.block_size == BLOCK
    assert trace.infinite_hit_ratio(again) == pytest.approx(run["hit_ratio"], abs=0.1)
    # The times of server and client differ by the time on the network.
    seen = sum(line["ttft_ms"] for line in found) / len(found)
    assert 0 < seen <= run["ttft_ms"]["mean"]


def test_a_record_can_be_sent_again(server: Server, record: Path) -> None:
    template = template_tokens(server)
    pairs: list[tuple[int, int]] = []
    # Prompts are other words, of about as many tokens, in one message: its template comes on top.
    # Words are random, so a short prompt may have too many or too few tokens, but not each time.
    for _ in range(TRIES):
        pairs = sent_again(server, record)
        if all(two - template == pytest.approx(one, rel=0.2, abs=12) for one, two in pairs):
            return
    raise AssertionError((template, pairs))


def sent_again(server: Server, record: Path) -> list[tuple[int, int]]:
    """Send ten requests of the record again; the lengths of prompts then and now, by length."""
    before = len(lines(record, 1))
    again = ("--trace", str(record), "--speed", "4", "--requests", "10", "--json")
    done = command("bench", server.url, *again)
    assert done.returncode == 0, done.stderr
    (run,) = json.loads(done.stdout)["runs"].values()
    assert (run["requests"], run["errors"]) == (10, {})
    found = lines(record, before + 12)
    # Lines are written when answers end, but a trace is sent in the order of arrival.
    old = sorted(found[:before], key=lambda line: line["timestamp"])[:10]
    new = found[before + 2 :]
    assert sorted(line["output_length"] for line in new) == sorted(
        line["output_length"] for line in old
    )
    asked, sent = (sorted(line["input_length"] for line in some) for some in (old, new))
    return list(zip(asked, sent, strict=True))


def test_nothing_of_the_text_is_recorded(server: Server, record: Path) -> None:
    secret = "the unspeakable password"
    body = json.dumps({"prompt": secret * 20, "max_tokens": 2, "n": 2, "model": "tiny"})
    before = len(lines(record, 1))
    headers = {"Content-Type": "application/json", "X-Session-ID": "alice"}
    request = urllib.request.Request(f"{server.url}/v1/completions", body.encode(), headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        assert answer.status == 200
    last = lines(record, before + 1)[-1]
    assert last["output_length"] == 4  # tokens of both answers to the prompt
    assert len(last["hash_ids"]) == last["input_length"] // BLOCK
    text = record.read_text()
    assert "alice" not in text
    assert "unspeakable" not in text
    assert last["session"]


def decode_slope_s(profile: Profile) -> float:
    """By how much a step of 64 long answers takes longer than one of a short answer, seconds."""
    speed = StepTimes.of(profile)
    return (speed.decode_ps(64, 64 * 1000) - speed.decode_ps(1, 10)) / PS


def test_a_profile_of_the_engine_is_close_to_it(tmp_path: Path) -> None:
    file = tmp_path / "tiny.json"
    options = ("--model", "tiny", "--block-size", str(BLOCK), *SMALL)
    slopes_s: list[float] = []
    close = False
    # What else the machine does in these seconds may be in the figures, but not each time.
    while len(slopes_s) < TRIES and not close:
        file.unlink(missing_ok=True)
        done = command("profile", *options, "--output", str(file), "--seconds", "3", source=ENGINES)
        assert done.returncode == 0, done.stderr
        assert "TTFT mean" in done.stdout
        profile = msgspec.json.decode(file.read_bytes(), type=Profile)
        assert (profile.name, profile.block_size) == ("tiny", BLOCK)
        # For this model, the cost of one more token is within the noise of a step.
        slopes_s.append(decode_slope_s(profile))
        speed = StepTimes.of(profile)
        prefill_s = (speed.prefill_ps(1000, 0) - speed.prefill_ps(10, 0)) / PS
        close = 0 <= slopes_s[-1] < 1 and 0 < profile.step_s < 0.1 and 0 < prefill_s < 1
    assert close, (slopes_s, profile.step_s, prefill_s)
    again = command("profile", *options, "--output", str(file))
    assert again.returncode == 2
    assert "--force overwrites it" in again.stderr
    assert len(again.stderr.splitlines()) == 1
