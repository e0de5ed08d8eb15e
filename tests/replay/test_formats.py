"""JSON arrays, conversations, set-ups of records, and files that are refused by name."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from pathlib import Path

import pytest

from dynamo_cli.engines.mock import profile
from dynamo_cli.errors import UsageError
from dynamo_cli.frontend.after import record
from dynamo_cli.lab.replay.engines import Asked, engines
from dynamo_cli.lab.trace import conversations, lines, prompts
from dynamo_cli.lab.trace.formats import Format, Parser
from dynamo_cli.lab.trace.reading import read
from dynamo_cli.messages.set_up import SetUp

ROW = {"timestamp": 0, "input_length": 1024, "output_length": 5, "hash_ids": [1, 2]}
SET_UP = SetUp("0.2.0", ["demo"], "kv", 3, 0, 900, 32, 48, 1 << 30)


def rows(count: int) -> list[dict[str, object]]:
    return [ROW | {"timestamp": 10 * number} for number in range(count)]


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("chunk", [7, 1 << 16])
def test_an_array_is_read_as_its_lines(
    indent: int | None, chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "_CHUNK_BYTES", chunk)
    plain, array = tmp_path / "plain.jsonl", tmp_path / "array.json.gz"
    plain.write_text("\n".join(map(json.dumps, rows(40))))
    array.write_bytes(
        gzip.compress(b"\xef\xbb\xbf " + json.dumps(rows(40), indent=indent).encode())
    )
    assert read(array).requests == read(plain).requests


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "has no requests"),
        ("[1]", "entry 1: the entries of a JSON array are objects"),
        ("[" + json.dumps(ROW) + " {}]", "there is no comma after entry 1"),
        ('[{"timestamp": }]', "entry 1: Expecting value"),
        ('[{"timestamp": 1', "entry 1: "),
        ("[" + json.dumps(ROW), "cut off: its JSON array has no end"),
        (
            "[" + json.dumps(ROW) + ', {"a": ' + "[" * 99_999 + "]",
            "entry 2: it is nested too deeply",
        ),
        ("[" + json.dumps(ROW) + ', {"input_length": 5}]', "entry 2: .*`timestamp`"),
    ],
)
def test_arrays_with_faults_are_one_line(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "array.json"
    path.write_text(text)
    with pytest.raises(UsageError, match=message) as raised:
        read(path)
    assert len(str(raised.value).splitlines()) == 1


def test_a_long_array_is_never_in_memory_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "array.json"
    path.write_text(json.dumps([{"text": "x" * 1000}] * 20_000))
    tracemalloc.start()
    count = sum(1 for _ in lines.lines(path))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 20_000
    assert peak < path.stat().st_size / 20


def test_hashes_take_a_few_bytes_each(tmp_path: Path) -> None:
    """There may be thirty million: as integers in tuples they would take 40 bytes each."""
    path = tmp_path / "long.jsonl"
    blocks = 2000
    row = ROW | {"input_length": 512 * blocks}
    with path.open("w") as file:
        for number in range(50):
            hashes = [10**18 + blocks * number + block for block in range(blocks)]
            file.write(json.dumps(row | {"hash_ids": hashes}) + "\n")
    tracemalloc.start()
    found = read(path)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(found.requests) == 50
    assert held < 12 * 50 * blocks


def spoken(*turns: str) -> list[dict[str, str]]:
    return [{"from": who, "value": value} for who, value in (turn.split(": ") for turn in turns)]


def of_text(form: Format) -> Parser:
    assert form is Format.SHAREGPT
    times = prompts.Arrivals(1.0, 0)
    return conversations.Conversations(
        lambda text: list(text.encode()), block_size=4, arrivals=times
    )


def test_each_answer_of_a_conversation_is_a_request(tmp_path: Path) -> None:
    path = tmp_path / "sharegpt.json"
    talks = [
        {"id": "a", "conversations": spoken("human: Hi", "gpt: Hello", "human: More?", "gpt: No.")},
        {"id": "b", "conversations": spoken("gpt: Nobody asked", "human: So?")},
        {
            "conversation": [
                {"role": "user", "content": "x"},
                {"role": "assistant", "content": "yz"},
            ]
        },
    ]
    path.write_text(json.dumps(talks))
    found = read(path, prompts=of_text)
    assert "1 without prompt or answer are left out" in found.note
    assert "read as sharegpt: 3 requests" in found.note
    first, second = (one for one in found.requests if one.session == "a")
    assert (first.input_tokens, first.output_tokens) == (len("human\nHi\n"), len("Hello"))
    assert second.input_tokens == len("human\nHi\nHellohuman\nMore?\n")
    assert second.arrival_ns > first.arrival_ns
    assert second.hashes[: len(first.hashes)] == first.hashes


def test_conversations_of_many_turns_begin_less_often(tmp_path: Path) -> None:
    """The rate is that of requests."""
    arrivals = prompts.Arrivals(2.0, 7)
    parse = conversations.Conversations(lambda text: [1], block_size=4, arrivals=arrivals)
    line = json.dumps({"conversations": spoken(*("human: a", "gpt: b") * 10)}).encode()
    rows = [row for _ in range(400) for row in parse(line)]
    assert len(rows) == 4000
    assert rows[-10].random_ns / 1e9 == pytest.approx(4000 / 2.0, rel=0.15)


def test_turns_after_a_prompt_that_no_model_takes_are_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(conversations, "MAX_TOKENS", 3)
    parse = of_text(Format.SHAREGPT)
    turns = [{"from": "", "value": ""}, {"from": "gpt", "value": "ab"}]
    line = json.dumps({"conversations": [*turns, *turns]}).encode()
    assert [row.input_tokens for row in parse(line)] == [2]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"PAR1" + bytes(9), "is a Parquet file.*to_json"),
        (b'{"custom_id": "1", "body": {"messages": []}}', "OpenAI's batch API.*jq -c .body"),
        (b'{\n  "timestamp": 1\n}', "line 1: an object begins here and goes on.*jq -c . FILE"),
        (b'{"prompt_len": 5, "ts": 1}', r"no format has its fields \(prompt_len, ts\)"),
        (b'{"conversations": []}', "only replay can read that: replay FILE --tokenizer"),
        (b"id,when\n1,2\n", r"azure \(TIMESTAMP, ContextTokens, .*burstgpt \(Timestamp, Request"),
    ],
)
def test_other_formats_are_refused_with_what_to_do(
    content: bytes, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "trace"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=message):
        read(path)


def recorded(path: Path, *set_ups: SetUp) -> Path:
    row = json.dumps(ROW | {"block_size": 512}).encode() + b"\n"
    path.write_bytes(b"".join(record.heading(set_up) + 2 * row for set_up in set_ups))
    return path


def test_a_record_says_what_served(tmp_path: Path) -> None:
    path = recorded(tmp_path / "record.jsonl", SetUp(workers=1), SET_UP)
    found = read(path)
    assert len(found.requests) == 4
    assert found.set_up == SET_UP
    path.write_text('{"set_up": {"workers": -1}}\n')
    with pytest.raises(UsageError, match=r"line 1: .*workers"):
        read(path)


def test_the_engines_are_those_of_the_record_unless_others_are_named(tmp_path: Path) -> None:
    trace, gpu = read(recorded(tmp_path / "record.jsonl", SET_UP)), profile.load("gpu-8b")
    chosen = engines(Asked(), trace, gpu)
    assert (chosen.workers, chosen.host_cache_bytes) == (3, 1 << 30)
    assert (chosen.profile.num_blocks, chosen.profile.max_num_seqs) == (900 * 32 // 512, 48)
    assert "3 engines with 56 KV blocks of 512 tokens, as recorded" in chosen.words
    assert chosen.words.endswith("; host cache of 1.0 GiB")
    named = engines(Asked(5, 2, "gpu-8b", 70, ""), trace, gpu)
    assert (named.workers, named.prefill_workers, named.host_cache_bytes) == (5, 2, 0)
    assert (named.profile.num_blocks, named.words) == (
        70,
        "5 engines and 2 for prefill like gpu-8b",
    )


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (Asked(), "assumed: 8 engines like gpu-8b; --workers and --profile say otherwise"),
        (Asked(1), "1 engine, assumed to be like gpu-8b; --profile names another"),
        (Asked(profile="gpu-8b"), "assumed: 8 engines like gpu-8b; --workers says otherwise"),
        (Asked(4, profile="gpu-8b"), "4 engines like gpu-8b"),
        (Asked(4, 0, "gpu-8b", None, "2GiB"), "4 engines like gpu-8b; host cache of 2.0 GiB"),
    ],
)
def test_what_is_assumed_is_said(asked: Asked, words: str, tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text(json.dumps(ROW))
    assert engines(asked, read(path), profile.load("gpu-8b")).words == words
