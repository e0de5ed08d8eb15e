"""A stream goes on at another processor with the same bytes, wherever the first one dies."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dynamo_cli.messages.request import Endpoint
from tests.support.driver import Talk

pytestmark = pytest.mark.engine

TEXT = "Hello wörld, this is an answer. It has a few wörds; and it ends."
CALL = '<tool_call>\n{"name": "f", "arguments": {"city": "Bern"}}\n</tool_call>'
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
CLAUDE_TOOLS = [{"name": "f", "input_schema": {"type": "object"}}]
SCHEMA = {"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "object"}}}
ASK = [{"role": "user", "content": "hello"}]
USAGE = {"include_usage": True, "continuous_usage_stats": True}
AT_THE_END = {"include_usage": True}
CHAT, COMPLETIONS = Endpoint.CHAT, Endpoint.COMPLETIONS


class Streams:
    """`tests.processor.resumes` in a process of its own."""

    def __init__(self, folder: Path, *args: str) -> None:
        self._log = folder / "log"
        (folder / "model").mkdir()
        with self._log.open("w") as log:
            self._talk = Talk(log, "tests.processor.resumes", str(folder / "model"), *args)

    def went_on(
        self, endpoint: Endpoint, script: str, body: dict[str, Any], **more: Any
    ) -> dict[str, Any]:
        """Let a stream go on at every place; return what it was."""
        fields: dict[str, Any] = {"model": "tiny", "stream": True, "max_tokens": 100}
        asked = {"endpoint": endpoint, "script": script, "body": fields | body, **more}
        line = self._talk.ask(msgspec.json.encode(asked).decode())
        assert line, self._log.read_text()
        result: dict[str, Any] = msgspec.json.decode(line)
        return result

    def close(self) -> None:
        self._talk.end()


@pytest.fixture(scope="module")
def streams(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Streams]:
    tools = ("--enable-auto-tool-choice", "--tool-call-parser", "hermes")
    streams = Streams(tmp_path_factory.mktemp("resumes"), *tools, "--enable-prompt-tokens-details")
    yield streams
    streams.close()


def check(result: dict[str, Any], *texts: str, places: int = 8) -> None:
    assert result["different"] == []
    assert result["errors"] == [""]
    assert result["places"] >= places
    for text in texts:
        assert text in result["text"]


@pytest.mark.parametrize("burst", [1, 3])
@pytest.mark.parametrize(
    ("body", "texts"),
    [
        ({"stream_options": USAGE}, ['"finish_reason":"stop"', '"cached_tokens"']),
        ({"stream_options": USAGE, "max_tokens": 12}, ['"finish_reason":"length"']),
        ({"n": 2, "stream_options": USAGE}, ['"index":1']),
        ({"logprobs": True, "top_logprobs": 2}, ['"top_logprobs"']),
        ({"stop": ["has a few"]}, ['"stop_reason":"has a few"']),
        ({"n": 2, "stop": ["ello"], "stream_options": USAGE}, ['"index":1']),
        ({"return_token_ids": True}, ['"token_ids"']),
        ({"echo": True, "add_generation_prompt": False}, []),
    ],
)
def test_chat(streams: Streams, body: dict[str, Any], texts: list[str], burst: int) -> None:
    result = streams.went_on(CHAT, TEXT, {"messages": ASK} | body, burst=burst)
    check(result, *texts, places=2)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Streams]:
    """A front half without parsers, where most events are made as outputs arrive."""
    streams = Streams(tmp_path_factory.mktemp("plain"))
    yield streams
    streams.close()


@pytest.mark.parametrize("burst", [1, 3])
@pytest.mark.parametrize(
    ("body", "texts"),
    [
        ({}, ['"finish_reason":"stop"']),
        ({"stream_options": AT_THE_END}, ['"usage":{']),
        ({"max_tokens": 12}, ['"finish_reason":"length"']),
        ({"stop": ["has a few"]}, ['"stop_reason":"has a few"']),
    ],
)
def test_a_chat_without_parsers(
    plain: Streams, body: dict[str, Any], texts: list[str], burst: int
) -> None:
    check(plain.went_on(CHAT, TEXT, {"messages": ASK} | body, burst=burst), *texts, places=4)


@pytest.mark.parametrize("burst", [1, 3])
@pytest.mark.parametrize(
    ("body", "texts"),
    [
        ({}, ['"stop_reason":"end_turn"', "message_stop"]),
        ({"max_tokens": 12}, ['"stop_reason":"max_tokens"']),
        ({"stop_sequences": ["has a few"]}, ['"stop_sequence":"has a few"']),
    ],
)
def test_messages_without_parsers(
    plain: Streams, body: dict[str, Any], texts: list[str], burst: int
) -> None:
    result = plain.went_on(Endpoint.MESSAGES, TEXT, {"messages": ASK} | body, burst=burst)
    check(result, *texts, places=4)


@pytest.mark.parametrize("choice", ["auto", "required"])
@pytest.mark.parametrize("usage", [USAGE, AT_THE_END], ids=["in each event", "at the end"])
def test_tools_keep_their_ids(streams: Streams, choice: str, usage: dict[str, bool]) -> None:
    script = 'Well: <tool_call>{"name": "f", "arguments": {}}</tool_call>' + CALL
    body = {"messages": ASK, "tools": TOOLS, "tool_choice": choice, "stream_options": usage}
    check(streams.went_on(CHAT, script, body), '"id":"chatcmpl-tool-')


def test_structured_output(streams: Streams) -> None:
    body = {"messages": ASK, "response_format": SCHEMA}
    check(streams.went_on(CHAT, '{"a": [1, 2, {"b": null}]}', body))


@pytest.mark.parametrize("burst", [1, 3])
@pytest.mark.parametrize(
    ("body", "texts"),
    [
        ({"stream_options": USAGE}, ['"finish_reason":"stop"']),
        ({"prompt": ["hello"] * 3, "stream_options": USAGE}, ['"index":2']),
        ({"prompt": ["one", "two"], "n": 2, "max_tokens": 9}, ['"index":3']),
        ({"echo": True, "logprobs": 2}, ['"token_logprobs"', '"text":"hello']),
        ({"logprobs": 1, "stop": "wörds"}, ['"text_offset"']),
        ({"return_token_ids": True, "echo": True}, ['"prompt_token_ids"']),
    ],
)
def test_completions(streams: Streams, body: dict[str, Any], texts: list[str], burst: int) -> None:
    result = streams.went_on(COMPLETIONS, TEXT, {"prompt": "hello"} | body, burst=burst)
    check(result, *texts, places=6)


def test_responses(streams: Streams) -> None:
    body = {"input": "hello", "max_output_tokens": 100}
    check(streams.went_on(Endpoint.RESPONSES, TEXT, body), "response.completed")


def test_responses_with_tools(streams: Streams) -> None:
    tools = [{"type": "function", "name": "f", "parameters": {"type": "object"}}]
    body = {"input": "hello", "max_output_tokens": 100, "tools": tools}
    check(streams.went_on(Endpoint.RESPONSES, f"Well: {CALL}", body), "function_call")


@pytest.mark.parametrize("script", [TEXT, f"Well: {CALL}"])
def test_messages(streams: Streams, script: str) -> None:
    body = {"messages": ASK, "tools": CLAUDE_TOOLS}
    check(streams.went_on(Endpoint.MESSAGES, script, body), "message_stop")


def test_a_stream_that_comes_out_otherwise_is_ended(streams: Streams) -> None:
    result = streams.went_on(CHAT, TEXT, {"messages": ASK}, spoil=True)
    assert result["errors"] == ["", "not_reproduced"]
    assert any("the processor is lost." in told for told in result["different"])
    assert not [told for told in result["different"] if told.startswith("vLLM")]
