"""Traces in other units, in public formats and through pipes, and traces that are refused."""

from __future__ import annotations

import gzip
import json
import os
import threading
from pathlib import Path

import pytest

from dynamo_cli.errors import UsageError
from dynamo_cli.lab.trace import reading
from dynamo_cli.lab.trace.block_sizes import BlockSizeRange
from dynamo_cli.lab.trace.formats import Format, TimeUnit
from dynamo_cli.lab.trace.reading import TraceHints, read
from tests.replay.test_command import replay

Rows = list[dict[str, object]]
QWEN = {"chat_id": 159, "parent_chat_id": -1, "type": "text", "turn": 1}


def mooncake() -> Rows:
    """Write six requests over shared blocks of 512 tokens, in milliseconds."""
    rows = [(0, 2048), (180, 512), (361, 2048), (500, 1536), (777, 2560), (901, 1024)]
    return [
        {
            "timestamp": at,
            "input_length": tokens,
            "output_length": 9,
            "hash_ids": [*range(1, -(-tokens // 512)), 100 + at],
        }
        for at, tokens in rows
    ]


def in_small_blocks() -> Rows:
    """Write the same requests in seconds and with blocks of 16 tokens."""
    return [
        row
        | {
            "timestamp": row["timestamp"] / 1000,
            "hash_ids": [
                32 * row["hash_ids"][block // 32] + block % 32
                for block in range(-(-row["input_length"] // 16))
            ],
        }
        for row in mooncake()
    ]


def written(path: Path, rows: Rows) -> Path:
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def lines(path: Path, *rows: str) -> Path:
    path.write_text("\n".join(rows) + "\n")
    return path


def test_the_same_trace_in_both_units_gives_the_same_report(tmp_path: Path) -> None:
    options = ("--policy", "kv", "--workers", 2, "--block-size", 16, "--json")
    big = replay(written(tmp_path / "trace.jsonl", mooncake()), *options)
    assert big.returncode == 0, big.stderr
    report = json.loads(big.stdout)
    assert report["runs"]["kv at 1"]["hit_ratio"] > 0.1
    rows = in_small_blocks()
    small = replay(written(tmp_path / "trace.jsonl", [row | QWEN for row in rows]), *options)
    assert json.loads(small.stdout) == report
    assert "read as qwen: 6 requests in 0.9 s, blocks of 16 tokens" in small.stderr
    bare = written(tmp_path / "trace.jsonl", rows)
    refused = replay(bare, *options)
    assert (refused.returncode, len(refused.stderr.splitlines())) == (2, 1)
    assert "--format qwen" in refused.stderr
    told = replay(bare, *options, "--time-unit", "s")
    assert json.loads(told.stdout) == report


@pytest.mark.parametrize(
    ("told", "message"),
    [
        (TraceHints(), "blocks of 16 tokens are not Mooncake's.*--format qwen"),
        (TraceHints(block_size=16), "--time-unit s or ms"),
        (
            TraceHints(Format.MOONCAKE),
            "its hash_ids fit blocks of 16 tokens, not 512: say --block-size",
        ),
        (TraceHints(Format.RECORD), "line 1: a record has block_size"),
        (TraceHints(Format.AZURE), "line 1: a CSV file of azure begins with its header"),
    ],
)
def test_other_units_are_refused(told: TraceHints, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        read(written(tmp_path / "trace.jsonl", in_small_blocks()), told)


@pytest.mark.parametrize(
    "told",
    [
        TraceHints(Format.QWEN),
        TraceHints(time_unit=TimeUnit.S),
        TraceHints(block_size=16, time_unit=TimeUnit.S),
        TraceHints(Format.MOONCAKE, 16, TimeUnit.S),
    ],
)
def test_what_is_told_is_done(told: TraceHints, tmp_path: Path) -> None:
    found = read(written(tmp_path / "trace.jsonl", in_small_blocks()), told)
    assert (found.block_size, found.duration_ns) == (16, 901 * 10**6)
    assert [len(one.hashes) for one in found.requests] == [128, 32, 128, 96, 160, 64]


def test_fractions_of_milliseconds_are_asked_about(tmp_path: Path) -> None:
    rows = mooncake()
    rows[2]["timestamp"] = 361.5
    path = written(tmp_path / "trace.jsonl", rows)
    with pytest.raises(UsageError, match="line 3: the timestamp is not a whole number"):
        read(path)
    assert read(path, TraceHints(time_unit=TimeUnit.MS)).duration_ns == 901 * 10**6
    assert read(path, TraceHints(time_unit=TimeUnit.S)).duration_ns == 901 * 10**9


@pytest.mark.parametrize("format_", ["qwen", "record"])
def test_a_size_that_a_trace_names_must_be_so(format_: str, tmp_path: Path) -> None:
    more = QWEN if format_ == "qwen" else {"block_size": 16}
    path = written(tmp_path / "trace.jsonl", [row | more for row in mooncake()])
    message = (
        "line 1: 4 hash_ids for 2048 tokens do not fit blocks of 16 .* 410 to 682 tokens would"
    )
    with pytest.raises(UsageError, match=message):
        read(path)


@pytest.mark.parametrize(
    ("lengths", "fits"),
    [
        ([(2100, 5)], (351, 524)),
        ([(2100, 4)], (421, 699)),
        ([(521, 33)], (16, 16)),
        ([(512, 1), (513, 2)], (257, 512)),
        ([(100, 0)], (1, 1 << 62)),
    ],
)
def test_lengths_tell_the_size_of_blocks(
    lengths: list[tuple[int, int]], fits: tuple[int, int]
) -> None:
    fit = BlockSizeRange()
    for line, (tokens, blocks) in enumerate(lengths, 1):
        fit.add(line, tokens, blocks)
    assert (fit.lowest, fit.highest) == fits
    for size in (15, 16, 17, 256, 257, 350, 351, 512, 513, 524, 525):
        fitting = all(
            blocks in (0, tokens // size, -(-tokens // size)) for tokens, blocks in lengths
        )
        assert fit.allows(size) is fitting, size
    fit.add(9, 10_000, 7)
    fit.add(10, 10_000, 70)
    assert fit.broken_at


def test_public_tables(tmp_path: Path) -> None:
    azure = lines(
        tmp_path / "azure.csv",
        "\ufeffTIMESTAMP,ContextTokens,GeneratedTokens",
        "2023-11-16 18:17:03.9799600,4808,10",
        "2023-11-16 18:17:04.4799600,100,0",
        "2023-11-16 18:17:05.4799600+00:00,200,20",
    )
    found = read(azure)
    assert [one.input_tokens for one in found.requests] == [4808, 200]
    assert found.duration_ns == pytest.approx(1.5e9, abs=1e3)
    assert "read as azure: 2 requests" in found.note
    assert "1 without prompt or answer are left out" in found.note
    burst = lines(
        tmp_path / "burst.csv",
        "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type",
        "5,ChatGPT,472,18,490,Conversation log",
        "45.5,GPT-4,1087.0,230.0,1317,API log",
    )
    found = read(burst)
    assert found.duration_ns == 40_500_000_000
    assert [one.input_tokens for one in found.requests] == [472, 1087]
    done = replay(burst, "--workers", 1, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["runs"]["kv at 1"]["hit_ratio"] == 0
    with pytest.raises(UsageError, match="has dates"):
        read(azure, TraceHints(time_unit=TimeUnit.S))


BURST = "Timestamp,Request tokens,Response tokens"
LINE = '{"timestamp": 0, "input_length": 5, "output_length": 1, "hash_ids": []'


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([LINE + "}", LINE.replace("0", "1e308", 1) + "}"], "line 2: .* at `timestamp`"),
        ([LINE + "}", "", LINE.replace("0", "-1", 1) + "}"], "line 3: .* at `timestamp`"),
        ([LINE.replace("0", "NaN", 1) + "}"], "line 1: JSON is malformed"),
        ([LINE.replace("0", "1e999", 1) + "}"], "line 1: .*out of range"),
        ([LINE + "}", LINE.replace("0", "1e14", 1) + "}"], "takes 3.16e.03 years .*--time-unit"),
        ([LINE.replace("5", "1" + 30 * "0") + "}"], "line 1: .* at `input_length`"),
        ([LINE.replace("1", "1" + 12 * "0") + "}"], "line 1: .* at `output_length`"),
        ([LINE.replace(" 1,", " -1,") + "}"], "line 1: .* at `output_length`"),
        ([LINE + f', "priority": {10**30}}}'], "line 1: .* at `priority`"),
        ([LINE + f', "block_size": {10**9}}}'], "line 1: .* at `block_size`"),
        ([LINE + ', "x": ' + "[" * 99_999], "line 1: it is nested too deeply"),
        (["[1]"], "entry 1: the entries of a JSON array are objects"),
        (["a,b"], "line 1: it is neither"),
        ([BURST, "inf,1,1"], "line 2: the timestamp 'inf' is not between"),
        ([BURST, "nan,1,1"], "line 2: the timestamp 'nan' is not between"),
        ([BURST, "x,1,1"], "line 2: the timestamp 'x' is not a number"),
        ([BURST, "1,1e9,1"], "line 2: '1e9' is not a number of tokens"),
        ([BURST, f"1,1{'0' * 5000},1"], "line 2: '1000.* is not a number of tokens"),
        ([BURST, "1,1"], "line 2: 2 columns are too few"),
        ([BURST], "has no requests"),
    ],
)
def test_numbers_without_bound_are_errors(rows: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message) as raised:
        read(lines(tmp_path / "trace.jsonl", *rows))
    assert len(str(raised.value).splitlines()) == 1


def test_a_trace_that_is_too_large_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "MAX_REQUESTS", 5)
    path = written(tmp_path / "trace.jsonl", mooncake())
    with pytest.raises(UsageError, match=r"line 6: more than 5 requests .* give a part"):
        read(path)
    monkeypatch.setattr(reading, "MAX_REQUESTS", 6)
    monkeypatch.setattr(reading, "MAX_BLOCKS", 10)
    with pytest.raises(UsageError, match=r"line 4: .* 10 blocks are too many"):
        read(path)
    endless = tmp_path / "endless"
    endless.write_bytes(b"x" * (40 << 20))
    with pytest.raises(UsageError, match="line 1: longer than 32 MiB"):
        read(endless)


@pytest.mark.parametrize("packed", [False, True])
def test_pipes_are_read_once(packed: bool, tmp_path: Path) -> None:
    rows = "\n".join(map(json.dumps, mooncake())).encode()
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    content = gzip.compress(rows) if packed else rows
    writer = threading.Thread(target=pipe.write_bytes, args=(content,))
    writer.start()
    found = read(pipe)
    writer.join(timeout=10)
    assert found.requests == read(written(tmp_path / "plain", mooncake())).requests


def test_broken_and_foreign_archives(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"  # the format is not told by the name
    content = gzip.compress(os.urandom(9999))
    for broken in (content[:999], content[:99] + b"xyz" + content[99:]):
        path.write_bytes(broken)
        with pytest.raises(UsageError, match="cut off or not gzip"):
            list(reading.lines.lines(path))
    path.write_bytes(b"\x28\xb5\x2f\xfd1234")
    with pytest.raises(UsageError, match=r"only gzip can be read directly; give <\(zstdcat FILE\)"):
        read(path)
