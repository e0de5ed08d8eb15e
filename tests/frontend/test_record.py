"""The record of requests: the fields of a line, how the file grows, and what is lost."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dynamo_cli.config import FrontendConfig
from dynamo_cli.errors import UsageError
from dynamo_cli.frontend.after import record, recorder
from dynamo_cli.frontend.after.recorder import OVERLAP, SEARCH_BYTES, Recorder
from dynamo_cli.kv import hashes
from dynamo_cli.messages.lifecycle import Fatal
from dynamo_cli.messages.request import Prompt, Submit, Timeline
from dynamo_cli.messages.set_up import SetUp
from dynamo_cli.units import SECOND_NS
from dynamo_cli.watch.timelines import RequestRecord

from .stage import Stage, answer, chunks, finish

MS = 1_000_000
BIG = (1 << 64) - 1
PROMPT = Prompt(70, 9, 32, hashes.pack([5, BIG]), "alice", -1)


def request(arrival_ms: float = 0.0) -> RequestRecord:
    arrival = round(arrival_ms * MS)
    return RequestRecord(
        request_id="secret",
        endpoint="/v1/completions",
        model="tiny",
        status=200,
        arrival_ns=arrival,
        ended_ns=arrival + 30 * MS,
        timeline=Timeline(first_token_ns=arrival + 12 * MS + 345),
    )


def test_a_line_has_lengths_and_hashes_and_no_text() -> None:
    prompts = (PROMPT, Prompt(3, 1, 32, b"", "", 0))
    first, second = map(json.loads, record.lines(request(1500), prompts, 1000 * MS, b"salt"))
    assert first.pop("session") not in ("", "alice")
    assert first == {
        "timestamp": 500.0,
        "input_length": 70,
        "output_length": 9,
        "hash_ids": [5, BIG],
        "block_size": 32,
        "model": "tiny",
        "e2e_ms": 30.0,
        "ttft_ms": 12.0,
        "priority": -1,
    }
    assert second["hash_ids"] == []
    assert "session" not in second


def test_sessions_are_told_apart_but_not_named() -> None:
    def session(name: str, salt: bytes) -> str:
        prompt = msgspec.structs.replace(PROMPT, session=name)
        (line,) = record.lines(request(), (prompt,), 0, salt)
        return str(json.loads(line)["session"])

    assert session("a", b"1") == session("a", b"1") != session("b", b"1")
    assert session("a", b"1") != session("a", b"2")


def read(path: Path) -> list[dict[str, Any]]:
    """The requests of a record."""
    found = [json.loads(line) for line in path.read_text().splitlines()]
    return [line for line in found if "set_up" not in line]


def test_a_record_begins_with_what_served(tmp_path: Path) -> None:
    path = tmp_path / "record"
    asked: list[SetUp] = []

    def set_up() -> SetUp:
        asked.append(SetUp(workers=2, num_blocks=90, router="kv"))
        return asked[-1]

    for _ in range(2):
        writer = Recorder(str(path), set_up)
        writer.add(request(), (PROMPT,))
        writer.add(request(), (PROMPT,))
        writer.close()
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    told = {"set_up": {"router": "kv", "workers": 2, "num_blocks": 90}}
    assert [lines[0], lines[3]] == [told, told]
    assert (len(lines), len(asked)) == (6, 2)


def test_a_server_without_requests_adds_nothing(tmp_path: Path) -> None:
    path = tmp_path / "record"
    Recorder(str(path), SetUp).close()
    assert path.read_bytes() == b""


def test_a_file_that_is_there_is_continued(tmp_path: Path) -> None:
    path = tmp_path / "record.jsonl"
    for _ in range(2):
        writer = Recorder(str(path), SetUp)
        for _ in range(3):
            writer.add(request(arrival_ms=writer._origin_ns / MS + 250), (PROMPT,))
        writer.close()
        assert (writer.recorded, writer.lost) == (3, {})
    times = [line["timestamp"] for line in read(path)]
    assert times == [250.0] * 6  # the second record goes on at the time of the last line
    assert path.stat().st_mode & 0o077 == 0
    later = Recorder(str(path), SetUp)
    later.add(request(arrival_ms=later._origin_ns / MS + 300), (PROMPT,))
    later.close()
    assert read(path)[-1]["timestamp"] == 300.0


@pytest.mark.parametrize("content", ["{}\n", "text", '{"timestamp": "x"}\n', "\n"])
def test_a_file_with_something_else_is_left_alone(tmp_path: Path, content: str) -> None:
    path = tmp_path / "other"
    path.write_text(content)
    with pytest.raises(UsageError, match="is not a record"):
        Recorder(str(path), SetUp)
    assert path.read_text() == content


def test_what_cannot_be_opened_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot record to .*no such file or directory\."):
        Recorder(str(tmp_path / "nowhere" / "record"), SetUp)


def test_what_the_disk_does_not_take_is_counted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "record"
    writer = Recorder(str(path), SetUp)
    write = os.write
    full = True
    monkeypatch.setattr(os, "write", lambda file, data: write(file, data[: 9 if full else None]))
    with caplog.at_level(logging.WARNING):
        writer.add(request(), (PROMPT,))
        writer.add(request(), (PROMPT,))
        while writer.lost[recorder.WRITE_FAILED] < 2:
            pass
    full = False
    writer.add(request(), (PROMPT,))
    writer.close()
    assert len(read(path)) == writer.recorded == 1  # no half lines
    head = json.loads(path.read_text().splitlines()[0])
    assert "set_up" in head, "the first request that is written brings it, whichever that is"
    state = writer.state()
    assert state.unrecorded == {recorder.WRITE_FAILED: 2}
    assert state.record_free_bytes is not None
    assert state.record_total_bytes is not None
    assert 0 < state.record_free_bytes <= state.record_total_bytes
    assert len(caplog.records) == 1
    assert "no space left" in caplog.text


def test_what_waits_is_bounded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(recorder, "MOST_WAITING", 0)
    writer = Recorder(str(tmp_path / "record"), SetUp)
    writer.add(request(), (PROMPT,))
    writer.close()
    assert writer.lost == {recorder.QUEUE_FULL: 1}


@pytest.mark.parametrize("block", [40, SEARCH_BYTES])
def test_the_last_seconds_begin_with_a_whole_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, block: int
) -> None:
    monkeypatch.setattr(recorder, "SEARCH_BYTES", block + OVERLAP)
    path = tmp_path / "record.jsonl"
    writer = Recorder(str(path), SetUp)
    assert writer.last(1) == b""
    writer._origin_ns = time.monotonic_ns() - 1000 * SECOND_NS
    for second in range(1000):
        writer.add(request(arrival_ms=writer._origin_ns / MS + 1000 * second), (PROMPT,))
    writer.close()
    for seconds in (100.5, 1e6):
        lines = [json.loads(line) for line in writer.last(seconds).splitlines()]
        first = max(900, 1000 - int(seconds)) if seconds < 1000 else 0
        assert [line["timestamp"] for line in lines] == [1000.0 * n for n in range(first, 1000)]
    monkeypatch.setattr(recorder, "MOST_BYTES", 2000)
    few = writer.last(1e6)
    assert 1000 < len(few) <= 2000
    assert json.loads(few.splitlines()[0])["input_length"] == 70


def test_the_record_is_given_to_who_asks(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with Stage(FrontendConfig(port=0, record=str(tmp_path / "record"))) as stage:
            submit, client = await stage.stream()
            stage.processor.send(chunks(submit, b"data: x\n\n"))
            stage.processor.send(msgspec.structs.replace(finish(submit), prompts=(PROMPT,)))
            while await client.chunk():
                pass
            while not (await stage.get("/dynamo/snapshot"))[2]["recorded_requests"]:
                pass
            status, headers, body = await stage.get("/dynamo/record?seconds=60")
            assert (status, headers["Content-Type"]) == (200, "application/x-ndjson")
            head, line = body.splitlines()
            assert "set_up" in json.loads(head), "it says what serves, wherever it begins"
            assert json.loads(line)["input_length"] == 70
        async with Stage() as stage:
            assert (await stage.get("/dynamo/snapshot"))[2]["recorded_requests"] is None
            status, _, content = await stage.get("/dynamo/record")
            assert status == 404
            assert "--record FILE" in content["error"]["message"]

    asyncio.run(scenario())


def test_the_frontend_records_what_ended_well(tmp_path: Path) -> None:
    path = tmp_path / "record"

    async def scenario() -> None:
        async with Stage(FrontendConfig(port=0, record=str(path))) as stage:
            submit, client = await stage.stream()
            stage.processor.send(chunks(submit, b"data: x\n\n"))
            stage.processor.send(msgspec.structs.replace(finish(submit), prompts=(PROMPT,)))
            while await client.chunk():
                pass
            asked = asyncio.create_task(stage.post())
            failed = await stage.processor.take(Submit)
            reply = answer(failed, status=400)
            stage.processor.send(
                msgspec.structs.replace(reply, error="bad_request", prompts=(PROMPT,))
            )
            assert (await asked)[0] == 400
            metrics = ""
            while "dynamo_llm_recorded_requests_total 1.0" not in metrics:
                metrics = (await stage.get("/metrics"))[2]

    asyncio.run(scenario())
    (line,) = read(path)
    assert 0 <= line["timestamp"] < 60_000
    assert 0 < line["ttft_ms"] <= line["e2e_ms"] < 60_000
    assert (line["input_length"], line["output_length"]) == (70, 9)


def test_a_record_that_cannot_be_ends_the_start(tmp_path: Path) -> None:
    async def scenario() -> None:
        config = FrontendConfig(port=1, record=str(tmp_path))
        async with Stage(config) as stage:
            stage.expected_exit_code = 2
            failure = await stage.report(Fatal)
            assert failure.error == "UsageError"
            assert "is a directory" in failure.message

    asyncio.run(scenario())
