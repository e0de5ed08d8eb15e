"""Traces in each of their formats."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from dynamo_cli.errors import UsageError
from dynamo_cli.kv import hashes
from dynamo_cli.lab.trace import prompts, trace
from dynamo_cli.lab.trace.formats import ZERO, Format, Parser
from dynamo_cli.lab.trace.reading import read as read_trace


def written(folder: Path, *lines: object) -> Path:
    path = folder / "trace.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    return path


def line(timestamp: float, length: int, blocks: list[int], **more: object) -> dict[str, object]:
    return {"timestamp": timestamp, "input_length": length, "output_length": 2, **more} | {
        "hash_ids": blocks
    }


def test_mooncake_traces_keep_hashes_of_full_blocks_only(tmp_path: Path) -> None:
    path = written(tmp_path, line(2000, 1025, [0, 1, 9]), line(500, 513, [0, 7]))
    read = read_trace(path)
    assert read.block_size == 512
    assert [one.arrival_ns for one in read.requests] == [0, 1_500_000_000]
    assert [[*one.hashes] for one in read.requests] == [[ZERO], [ZERO, 1]]
    assert trace.infinite_hit_ratio(read) == pytest.approx(512 / 1538)


def test_access_records_say_their_block_size_and_session(tmp_path: Path) -> None:
    big = 2**64 - 1
    path = written(tmp_path, line(0, 40, [big, 5], block_size=16, session="s", priority=2))
    read = read_trace(path)
    assert (read.block_size, [*read.requests[0].hashes]) == (16, [big, 5])
    assert (read.requests[0].session, read.requests[0].priority) == ("s", 2)


def test_blocks_can_be_divided_and_share_what_they_shared(tmp_path: Path) -> None:
    read = read_trace(written(tmp_path, line(0, 1024, [1, 2]), line(1, 1024, [1, 3])))
    small = trace.with_block_size(read, 128)
    one, two = (request.hashes for request in small.requests)
    assert (len(one), one[:4] == two[:4], set(one[4:]) & set(two[4:])) == (8, True, set())
    assert trace.with_block_size(read, 512) is read
    with pytest.raises(UsageError, match="does not divide"):
        trace.with_block_size(read, 100)


def test_a_part_of_a_trace_begins_at_once(tmp_path: Path) -> None:
    read = read_trace(written(tmp_path, *(line(at, 10, []) for at in (0, 10, 30))))
    assert [one.arrival_ns for one in read.part(1, 3).requests] == [0, 20_000_000]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "has no requests"),
        ([{"timestamp": 1}], "line 1: .*input_length"),
        ([line(0, 5, []), line(0, 0, [])], "line 2: .*input_length"),
        ([line(0, 5, []), line(0, 5, [], block_size=16)], "the same block_size"),
    ],
)
def test_what_is_no_trace_is_refused(lines: list[object], message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        read_trace(written(tmp_path, *lines))
    with pytest.raises(UsageError, match="cannot read"):
        read_trace(tmp_path / "none")


def encode(text: str) -> list[int]:
    return [ord(letter) for letter in text]


def prompts_of(rate_per_s: float = 1.0, seed: int = 0) -> Callable[[Format], Parser]:
    times = prompts.Arrivals(rate_per_s, seed)
    return lambda form: prompts.Prompts(encode, block_size=8, output_tokens=3, arrivals=times)


def test_prompts_are_hashed_as_the_server_hashes_them(tmp_path: Path) -> None:
    lines = [
        {"prompt": "a" * 20, "timestamp": 100, "max_tokens": 7},
        {"prompt": [97] * 17, "timestamp": 50},
        {"messages": [{"role": "user", "content": "hello"}], "timestamp": 60},
    ]
    built = read_trace(written(tmp_path, *lines), engine_block_size=8, prompts=prompts_of())
    assert built.block_size == 8
    assert [one.arrival_ns // 10**6 for one in built.requests] == [0, 10, 50]
    ids, chat, text = built.requests
    assert ids.hashes == text.hashes
    assert [*ids.hashes] == hashes.chain(hashes.pack_tokens([97] * 16), 8)
    assert (ids.output_tokens, text.output_tokens) == (3, 7)
    assert chat.input_tokens == len("user\nhello\n")


def test_prompts_without_times_come_at_random_ones(tmp_path: Path) -> None:
    path = written(tmp_path, *({"prompt": "word"} for _ in range(200)))
    built = read_trace(path, prompts=prompts_of(rate_per_s=50.0, seed=1))
    assert built.duration_ns / 1e9 == pytest.approx(4.0, rel=0.3)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"prompt": ""}, "line 1: there is neither"),
        ({"prompt": [2**31]}, "line 1: Expected `int` <= 2147483647"),
        ({"prompt": [-1]}, "line 1: Expected `int` >= 0"),
        ({"prompt": "a", "max_tokens": 10**12}, "line 1: Expected `int` <= 10000000"),
        ({"prompt": "a", "timestamp": 0.5}, "line 1: the timestamp is not a whole number"),
    ],
)
def test_prompts_that_make_no_sense(line: object, message: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        read_trace(written(tmp_path, line), prompts=prompts_of())
    with pytest.raises(UsageError, match="line 1: it has text, and only replay"):
        read_trace(written(tmp_path, line))
