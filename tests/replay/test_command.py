"""``dynamo-llm replay``: tables, JSON, CSV, pictures, and what is refused."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

from dynamo_cli.engines.mock import profile
from dynamo_cli.errors import UsageError
from dynamo_cli.lab.replay import plan as plans
from dynamo_cli.lab.replay import plot
from dynamo_cli.lab.replay.ranking import ranking
from dynamo_cli.lab.replay.verdict import verdict
from dynamo_cli.lab.report import Gaps, Outcome, summarize
from dynamo_cli.models import tiny
from tests.support.preloaded import LIGHT
from tests.support.server import COMMAND


def replay(*args: object) -> subprocess.CompletedProcess[str]:
    return LIGHT.run([COMMAND, "replay", *map(str, args)], os.environ, timeout_s=100)


@pytest.fixture(scope="module")
def chats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a trace of five alternating conversations over 2,048 shared tokens."""
    path = tmp_path_factory.mktemp("trace") / "chats.jsonl"
    rows = []
    for turn in range(1, 9):
        for chat in range(5):
            blocks = [*range(4), *(100 * (chat + 1) + block for block in range(2 * turn))]
            rows.append(
                {
                    "timestamp": 700 * len(rows),
                    "input_length": 512 * len(blocks),
                    "output_length": 20,
                    "hash_ids": blocks,
                }
            )
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_one_table_has_all_speeds_in_eighty_columns(chats: Path) -> None:
    policies = ("--policy", "round-robin,least-loaded,kv,sglang,vllm-dp,pooled")
    done = replay(chats, "--workers", 4, "--speed", "0.5,1", "--slo-ttft", 100, *policies)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert "\N{HORIZONTAL ELLIPSIS}" not in done.stdout
    assert sum("policy" in line for line in lines) == 1
    assert sum(line.split()[:1] == ["least-loaded"] for line in lines) == 2
    assert "goodput" in done.stdout
    assert "4 engines, assumed to be like gpu-8b" in lines[0]
    words = " ".join(done.stdout.split())
    assert "40 requests are too few to choose by; here the mean TTFT of kv is 0." in words


def test_details_are_one_table_for_each_speed(chats: Path) -> None:
    policies = ("--policy", "round-robin,least-loaded,kv,sglang,vllm-dp,pooled")
    done = replay(chats, "--speed", "0.5,1", *policies, "--details")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("hit rate, %") == 4  # six policies do not fit beside each other
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "\N{HORIZONTAL ELLIPSIS}" not in done.stdout


def test_json_and_csv_and_pictures(chats: Path, tmp_path: Path) -> None:
    picture = tmp_path / "picture.svg"
    common = (chats, "--policy", "random,kv:ancestor,kv:shares", "--workers", 3, "--seed", 4)
    done = replay(*common, "--json", "--plot", picture)
    assert done.returncode == 0, done.stderr
    content = json.loads(done.stdout)
    assert list(content["runs"]) == ["random at 1", "kv:shares at 1"]
    assert content["runs"]["random at 1"]["requests"] == 40
    assert "the mean TTFT of kv:shares is 0." in content["verdict"]
    assert content["engines"] == "3 engines, assumed to be like gpu-8b; --profile names another"
    assert picture.read_text().startswith("<?xml")
    again = replay(*common, "--csv")
    rows = list(csv.DictReader(again.stdout.splitlines()))
    hit = content["runs"]["random at 1"]["hit_ratio"]
    assert float(rows[0]["hit rate, %"]) == pytest.approx(100 * hit)


def test_prefill_workers_take_long_prompts(chats: Path) -> None:
    common = (chats, "--policy", "least-loaded", "--workers", 2, "--json", "--speed", 20)
    plain = json.loads(replay(*common).stdout)["runs"]["least-loaded at 20"]
    done = replay(*common, "--prefill-workers", 2)
    assert done.returncode == 0, done.stderr
    aside = json.loads(done.stdout)["runs"]["least-loaded at 20"]
    assert aside["requests"] == 40
    assert aside["itl_ms"]["p99"] < plain["itl_ms"]["p99"] / 2


def test_a_host_cache_says_what_was_found_where(chats: Path) -> None:
    common = (chats, "--workers", 3, "--policy", "round-robin", "--kv-blocks", 40)
    plain, beside = (
        json.loads(replay(*common, "--json", "--host-cache", size).stdout)["runs"][
            "round-robin at 1"
        ]
        for size in ("0", "4x")
    )
    assert not any("host cache" in name for name in plain["more"])
    found = beside["more"]
    names = ("found on the engine, %", "loaded from the host cache, %", "computed, %")
    assert sum(found[name] for name in names) == pytest.approx(100)
    assert found["loaded from the host cache, %"] > 10
    assert beside["hit_ratio"] > 1.2 * plain["hit_ratio"]
    table = replay(*common, "--host-cache", "1.5 GiB", "--details").stdout
    assert "host cache of 1.5 GiB" in " ".join(table.split())
    assert "loaded from the host cache, %" in table


def test_a_multiple_is_one_of_the_caches_of_all_engines() -> None:
    engine = profile.load("gpu-8b")
    assert plans.host_cache_bytes("2.5x", engine, 3, 0) == int(2.5 * 3 * engine.kv_bytes)
    assert plans.host_cache_bytes("0x", engine, 3, 0) == 0


def test_prompts_need_a_tokenizer(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text("\n".join(json.dumps({"prompt": "the same words " * 20}) for _ in range(6)))
    refused = replay(path)
    assert refused.returncode != 0
    assert "--tokenizer" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    (tmp_path / "tiny").mkdir()
    tiny.write(tmp_path / "tiny")
    done = replay(path, "--tokenizer", tmp_path / "tiny", "--workers", 1, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["runs"]["kv at 1"]["hit_ratio"] > 0.5
    turns = [{"from": "human", "value": "hello " * 40}, {"from": "gpt", "value": "well " * 9}] * 3
    path.write_text(json.dumps([{"id": "a", "conversations": turns}]))
    done = replay(
        path, "--tokenizer", tmp_path / "tiny", "--workers", 1, "--policy", "kv", "--json"
    )
    assert "read as sharegpt: 3 requests" in done.stderr
    assert json.loads(done.stdout)["runs"]["kv at 1"]["hit_ratio"] > 0.3


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["none.jsonl"], "cannot read the trace"),
        (["--policy", "best"], "no policy 'best'; there are random, round-robin"),
        (["--policy", ","], "at least one"),
        (["--speed", "fast"], "--speed is numbers"),
        (["--speed", "0"], "from 0.0001 to 1e+06"),
        (["--speed", "1e-320"], "from 0.0001 to 1e+06"),
        (["--speed", "nan"], "from 0.0001 to 1e+06"),
        (["--workers", "1000000000"], "a whole number from 1 to 4096"),
        (["--kv-blocks", "1000000000000"], "to 10000000; not "),
        (["--rate", "inf"], "a number from 0.001 to 1000000"),
        (["--profile", "abacus"], "no engine profile 'abacus'"),
        (["--block-size", "100"], "does not divide"),
        (["--host-cache", "some"], "--host-cache takes a size like 64GiB, 500MiB"),
        (["--host-cache", "-1x"], "--host-cache takes a size like 64GiB, 500MiB"),
        (
            ["--host-cache", "1MiB"],
            "has no room for a block of 512 tokens of simulated engines, which takes 64 MiB",
        ),
        (["--host-cache", "900000000TiB"], "simulated engines, which have at most 20,000,000"),
        (["--host-cache", "1x", "--prefill-workers", "1"], "cannot be replayed together yet"),
        (["--json", "--csv"], "choose one"),
        (["--plot", "picture.pdf"], "writes .svg or .png"),
    ],
)
def test_bad_input_is_one_line(args: list[str], message: str, chats: Path) -> None:
    done = replay(*args) if args[0].endswith("jsonl") else replay(chats, *args)
    assert done.returncode != 0
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def load(count: int = 1000, **ttft_s: float) -> dict[str, object]:
    return {
        name.replace("_", "-"): summarize([Outcome(0.0, time_s, time_s + 1)] * count, Gaps())
        for name, time_s in ttft_s.items()
    }


@pytest.mark.parametrize(
    ("loads", "expected"),
    [
        ([load(least_loaded=1.0, kv=0.99)], "It does not matter"),
        ([load(least_loaded=1.0, kv=0.5)], "Use --router kv: mean TTFT 0.50 and p99 TTFT 0.50"),
        ([load(least_loaded=1.0, kv=0.5), load(least_loaded=1.0, kv=2.0)], "It does not matter"),
        (
            [load(least_loaded=1.0, kv=3.0)],
            "Use --router least-loaded: .* none is more than 5 % faster",
        ),
        ([load(round_robin=1.0, kv=0.5)], "times those of round-robin"),
        ([load(kv=1.0, peer=0.1)], "name a second one"),
        ([load(50, least_loaded=1.0, kv=0.5)], "50 requests are too few to choose by; here the"),
        ([load(50, least_loaded=1.0, kv=2.0)], "here none has a lower TTFT than least-loaded"),
        ([load(300, least_loaded=1.0, kv=0.5)], "hint from 300 requests.* on the 4 slowest"),
        ([load(0, least_loaded=1.0, kv=0.5)], "No advice is possible"),
    ],
)
def test_verdicts(loads: list[dict[str, object]], expected: str) -> None:
    said = verdict(loads, ["random", "round-robin", "least-loaded", "kv"])
    assert re.search(expected, said)
    sure = min(one.requests for one in loads[0].values()) >= 1000
    assert sure is ("Record 1,000 or more" not in said and "No advice" not in said)


def test_the_best_of_each_column_is_marked_unless_it_is_a_bound() -> None:
    one, other = load(least_loaded=1.0, kv=0.5, pooled=0.1), load(least_loaded=1.0, kv=1.0)
    lines = printed(ranking([one], [1.0], 80, ["pooled"]))
    marked = {line.split()[0]: line.count("*") for line in lines if line and "─" not in line}
    assert (marked["least-loaded"], marked["pooled"]) == (0, 0)
    assert marked["kv"] == 4  # three times to the first token, and that to the end
    assert "*" not in "".join(printed(ranking([other], [1.0], 80)))  # all are equal
    narrow = printed(ranking([one], [1.0], 40))
    assert max(map(len, narrow)) <= 40
    assert "p99" in "".join(narrow)
    assert "skew" not in "".join(narrow), "what says least is left out first"
    slow = printed(ranking([load(kv=200.0, least_loaded=300.0)], [1.0], 80))
    assert re.search(r"\*200(\.0)? ", "".join(slow)), "in seconds, not in 200,000 ms"


def printed(table: Table) -> list[str]:
    console = Console(width=80, file=io.StringIO(), color_system=None)
    console.print(table)
    return console.file.getvalue().splitlines()


def test_pictures_need_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plot.check(tmp_path / "picture.png")
    with pytest.raises(UsageError, match="there is no folder"):
        plot.check(tmp_path / "none" / "picture.png")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UsageError, match=r"pip install 'dynamo-llm\[plot\]'"):
        plot.check(tmp_path / "picture.png")
