"""Common chats, completions and messages take short ways, and get the answers of vLLM's own way."""

from __future__ import annotations

from pathlib import Path

import pytest

from dynamo_cli.engines.vllm import versions
from tests.support.driver import result_of

pytestmark = pytest.mark.engine

OF_ALL_RELEASES = ("chat", "completion", "render", "read", "echo")
"""The short ways that requests take whatever the release of vLLM is; the others are for answers."""

CHATS = ("chat", "render", "chat body", "begin of chat", "token of chat")
COMPLETIONS = (
    *("completion", "read", "completion body"),
    *("begin of completions", "token of completions", "echo"),
)
MESSAGES = ("message", "message body", "begin of messages", "token of messages")
OF_PARSED = ("chat", "begin of chat", "message", "begin of messages", *COMPLETIONS)
PARSERS = ("--enable-auto-tool-choice", "--tool-call-parser", "hermes")


@pytest.mark.parametrize(
    ("options", "ways"),
    [
        (("--enable-prompt-tokens-details",), (*CHATS, *COMPLETIONS, *MESSAGES)),
        ((*PARSERS, "--reasoning-parser", "qwen3"), OF_PARSED),
    ],
)
def test_answers_are_the_same(
    options: tuple[str, ...], ways: tuple[str, ...], tmp_path: Path
) -> None:
    told = result_of("tests.processor.ways", str(tmp_path), str(len(options)), "900", *options)
    assert told["different"] == []
    assert told["left"] == 0
    assert told["warned"] == 0
    assert len(told["broken"]) == (3 if "render" in ways else 1), told["broken"]
    if versions.release() not in versions.SHORT_WAYS:
        ways = tuple(way for way in ways if way in OF_ALL_RELEASES)
    for way in ways:
        assert told["taken"][way] > 50, way
