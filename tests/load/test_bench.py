"""`dynamo-llm bench` with a minimal server."""

from __future__ import annotations

import csv
import json
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from dynamo_cli.lab.load.client import UNREACHABLE, Heard
from dynamo_cli.lab.load.drive import GONE_REQUESTS, GONE_S, Refusals
from tests.load.fake import FakeServer, Manner
from tests.support.preloaded import LIGHT
from tests.support.server import COMMAND, free_port, wait_until

SPREAD = ("mean", "p50", "p90", "p95", "p99")
SMALL = ("--systems", "2", "--sessions", "2", "--turns", "3", "--warmup", "2")


def bench(
    *args: str, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    variables = {"PATH": "/usr/bin:/bin", "COLUMNS": "100"} | (environment or {})
    return LIGHT.run([COMMAND, "bench", *args], variables)


def test_a_closed_loop_of_talks() -> None:
    with FakeServer() as server:
        done = bench(server.url, *SMALL, "--requests", "30", "--concurrency", "3", "--json")
        assert done.returncode == 0, done.stderr
        data = json.loads(done.stdout)
        (run,) = data["runs"].values()
        assert (run["requests"], run["errors"]) == (30, {})
        assert run["hit_ratio"] == pytest.approx(0.5, abs=0.01)
        assert run["ttft_ms"]["p50"] > 0.9
        assert run["e2e_ms"]["mean"] > run["ttft_ms"]["mean"]
        assert run["output_tokens"] == sum(body["max_tokens"] for body in server.bodies[2:])
        assert len(server.bodies) == 32
        assert server.most_at_once == 3
        assert server.connections <= 5  # connections are kept
        first = server.bodies[0]
        assert (first["model"], first["ignore_eos"]) == ("first", True)
        systems = {body["messages"][0]["content"] for body in server.bodies}
        assert len(systems) == 2
        assert all(400 <= len(text.split()) <= 600 for text in systems)
        # Answers become part of the conversation, which goes on for three turns.
        longest = max(server.bodies, key=lambda body: len(body["messages"]))["messages"]
        assert [message["role"] for message in longest] == [
            "system",
            *["user", "assistant"] * 2,
            "user",
        ]
        assert longest[2]["content"].startswith("w0 w1 ")


def test_an_open_loop_does_not_wait() -> None:
    with FakeServer(Manner(token_s=0.02)) as server:
        options = ("--rate", "40", "--duration", "1", "--endpoint", "completions", "--csv")
        good = list[float]()
        while len(good) < 3 and not any(one > 90 for one in good):  # a busy machine may stand still
            began = time.monotonic()
            done = bench(server.url, *SMALL, *options, "--slo-ttft", "1000")
            assert done.returncode == 0, done.stderr
            assert time.monotonic() - began < 15
            (row,) = csv.DictReader(done.stdout.splitlines())
            assert 20 < float(row["requests"]) < 65
            good.append(float(row["goodput, %"]))
        assert good[-1] > 90, good
        assert server.most_at_once > 8  # 40 per second, of about half a second each
        assert all("prompt" in body for body in server.bodies)


def test_failed_requests_are_said_and_make_the_exit_code_1() -> None:
    with FakeServer(Manner(fail_each=5)) as server:
        done = bench(server.url, *SMALL, "--requests", "20", "--concurrency", "2", "--seed", "abc")
    assert done.returncode == 1
    assert "4 of 20 requests failed" in done.stderr
    first, second, *rows = done.stdout.splitlines()
    assert first == "2 clients; 20 requests; /v1/chat/completions"
    assert second.startswith("2 system prompts of ")
    assert second.endswith("--seed abc")
    names = {row.split("  ")[0].strip() for row in rows}
    every = {f"{of} {which}, ms" for of in ("TTFT", "TPOT", "ITL", "E2E") for which in SPREAD}
    assert every | {"duration, s", "output tokens", "prompt tokens"} <= names


def test_two_servers_in_turns() -> None:
    with FakeServer(Manner(token_s=0.001)) as one, FakeServer(Manner(token_s=0.1)) as two:
        options = ("--requests", "23", "--rounds", "3", "--concurrency", "1", "--warmup", "1")
        done = bench(one.url, two.url, *SMALL, *options, "--output-tokens", "2:4")
        assert done.returncode == 0, done.stderr
        assert len(one.bodies) == len(two.bodies) == 24
        rows = {line.split("  ")[0].strip(): line.split() for line in done.stdout.splitlines()}
        assert rows["requests"][1:4] == ["23", "23", "1.00"]
        assert float(rows["TTFT p50, ms"][5]) > 1.5
        lengths = [[body["max_tokens"] for body in side.bodies] for side in (one, two)]
        assert lengths[0] == lengths[1]  # the same load in other words
        texts = [{body["messages"][0]["content"] for body in side.bodies} for side in (one, two)]
        assert not texts[0] & texts[1]


@pytest.mark.parametrize("pace", [("--concurrency", "4"), ("--rate", "40")])
def test_a_server_that_is_gone_ends_the_measurement(pace: tuple[str, ...]) -> None:
    with FakeServer() as server:
        words = ("bench", server.url, *SMALL, *pace, "--requests", "1000000", "--json")
        running = subprocess.Popen(
            [COMMAND, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        wait_until(lambda: len(server.bodies) > 12, 30, "requests")
        server.manner.break_off = True  # so that no connection goes on
    out, err = running.communicate(timeout=60)
    assert running.returncode == 1, err
    data = json.loads(out)
    (run,) = data["runs"].values()  # what was measured before is shown
    assert run["requests"] >= 1
    assert run["errors"]["connection failed"] >= GONE_REQUESTS
    (said,) = [remark for remark in data["remarks"] if "is gone" in remark]
    address = server.url.removeprefix("http://")
    assert re.search(rf"^{address} is gone: it has refused \d+ connections in a row \(", said)


def test_a_server_that_is_gone_before_anything_succeeded_is_an_error() -> None:
    with FakeServer(Manner(fail=503)) as server:
        words = ("bench", server.url, *SMALL, "--requests", "1000000", "--warmup", "0")
        running = subprocess.Popen(
            [COMMAND, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        wait_until(lambda: len(server.bodies) > 3, 30, "requests")
        server.manner.break_off, server.manner.fail = True, 0
    out, err = running.communicate(timeout=60)
    assert (running.returncode, out) == (1, "")
    assert re.search(r"is gone: it has refused \d+ connections in a row", err)
    assert "Traceback" not in err


def test_only_refusals_in_a_row_and_for_a_while_count() -> None:
    refusals = Refusals()
    refused, answered = Heard(0.0, error=UNREACHABLE, message="refused"), Heard(0.0)
    for _ in range(GONE_REQUESTS):
        refusals.note(refused, 10.0)
    assert not refusals.last(10.0)  # all clients at once
    assert refusals.last(10.0 + GONE_S)
    refusals.note(answered, 12.0)
    for _ in range(GONE_REQUESTS - 1):
        refusals.note(refused, 12.0)
    assert not refusals.last(100.0)
    refusals.note(Heard(0.0, error="HTTP 503"), 12.0)  # it is there
    assert refusals.count == 0


def write_trace(path: Path) -> Path:
    """Write a trace of three requests within 0.6 s. The first two share two blocks, the last
    none."""
    rows = [(0, 25, 3, [1, 2, 3]), (200, 30, 4, [1, 2, 4]), (600, 10, 5, [9])]
    names = ("timestamp", "input_length", "output_length", "hash_ids")
    lines = [json.dumps(dict(zip(names, row, strict=True)) | {"block_size": 10}) for row in rows]
    path.write_text("\n".join(lines))
    return path


def test_a_trace_keeps_its_times_lengths_and_prefixes(tmp_path: Path) -> None:
    trace = write_trace(tmp_path / "trace.jsonl")
    with FakeServer() as server:
        done = bench(server.url, "--trace", str(trace), "--speed", "2", "--json")
        assert done.returncode == 0, done.stderr
        (run,) = json.loads(done.stdout)["runs"].values()
        assert run["requests"] == 3
        assert 0.3 <= run["duration_s"] < 1
        bodies = sorted(server.bodies, key=lambda body: int(body["max_tokens"]))
        assert [body["max_tokens"] for body in bodies] == [3, 4, 5]
        first, second, third = (body["messages"][0]["content"].split() for body in bodies)
        assert [len(first), len(second), len(third)] == [25, 30, 10]
        assert first[:20] == second[:20]
        assert first[20:] != second[20:25]
        assert third != first[:10]


def test_a_trace_can_be_shortened_and_hurried(tmp_path: Path) -> None:
    trace = write_trace(tmp_path / "trace.jsonl")
    with FakeServer() as server:
        short = ("--length-scale", "0.5", "--concurrency", "1", "--requests", "2")
        done = bench(server.url, "--trace", str(trace), *short, "--json")
        assert done.returncode == 0, done.stderr
        (run,) = json.loads(done.stdout)["runs"].values()
        assert (run["requests"], run["prompt_tokens"]) == (2, 12 + 15 + 2 * 2)
        assert [body["max_tokens"] for body in server.bodies] == [2, 2]


def test_the_same_seed_says_the_same() -> None:
    said = []
    for seed in (("--seed", "7"), ("--seed", "7"), ("--seed", "8"), ()):
        with FakeServer() as server:
            alone = ("--concurrency", "1", "--warmup", "1")
            bench(server.url, *SMALL, "--requests", "9", *alone, *seed)
            said.append([body["messages"][-1]["content"] for body in server.bodies])
    assert said[0] == said[1]
    assert not set(said[1]) & set(said[2])
    assert not set(said[0]) & set(
        said[3]
    )  # a new seed each time, so that no cache holds the prompts


def test_ctrl_c_shows_what_was_measured_so_far() -> None:
    with FakeServer(Manner(token_s=0.01)) as server:
        process = subprocess.Popen(
            [COMMAND, "bench", server.url, *SMALL, "--requests", "100000"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        while len(server.bodies) < 30:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
        assert process.returncode == 130
        assert "TTFT p99, ms" in out
        assert err == ""


def test_a_server_that_is_plain_openai_is_measured_too() -> None:
    with FakeServer(Manner(strict=True, usage=False)) as server:
        done = bench(server.url + "/v1/", *SMALL, "--requests", "5", "--json")
        assert done.returncode == 0, done.stderr
        data = json.loads(done.stdout)
        (run,) = data["runs"].values()
        assert (run["requests"], run["hit_ratio"]) == (5, None)
        assert run["output_tokens"] == sum(body["max_tokens"] for body in server.bodies[-5:])
        assert "ignore_eos" not in server.bodies[-1]
        assert [text for text in data["remarks"] if "ignore_eos" in text]
        assert [text for text in data["remarks"] if "1.3 tokens" in text]


def test_a_key_is_sent() -> None:
    with FakeServer(Manner(key="k")) as server:
        few = (*SMALL, "--requests", "3")
        assert bench(server.url, *few, "--api-key", "k").returncode == 0
        assert bench(server.url, *few, environment={"DYNAMO_LLM_API_KEY": "k,l"}).returncode == 0
        done = bench(server.url, *few)
        assert done.returncode == 1
        assert "HTTP 401: no key; give one of its keys with --api-key" in done.stderr


@pytest.mark.parametrize(
    ("manner", "kind"),
    [(Manner(fail=429), "HTTP 429"), (Manner(break_off=True), "connection lost")],
)
def test_when_everything_fails_it_says_why(manner: Manner, kind: str) -> None:
    with FakeServer(manner) as server:
        done = bench(server.url, *SMALL, "--requests", "4", "--concurrency", "2")
        assert done.returncode == 1
        assert len(done.stderr.splitlines()) == 1
        assert kind in done.stderr


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("ftp://a",), "not a URL like"),
        (("http://a:b",), "not a URL like"),
        (("a", "--rate", "1", "--concurrency", "1"), "choose one"),
        (("a", "--json", "--csv"), "choose one"),
        (("a", "--speed", "2"), "work only with --trace"),
        (("a", "--trace", "/nowhere"), "cannot read the trace"),
        (("a", "--user-tokens", "x"), "a range like 30:80"),
        (("a", "--output-tokens", "9:3"), "the smaller one first"),
        ((f"127.0.0.1:{free_port()}",), "connection failed"),
    ],
)
def test_what_cannot_be_is_one_line(args: tuple[str, ...], message: str) -> None:
    done = bench(*args)
    assert done.returncode in (1, 2)
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert message in done.stderr
