"""Several served names of one model, and Anthropic's Messages API."""

from __future__ import annotations

import json

import pytest

from tests.models_api.conftest import KEY, Client

pytestmark = pytest.mark.engine

ASK = {"model": "tiny", "max_tokens": 4, "messages": [{"role": "user", "content": "hello"}]}
LONG = [{"role": "user", "content": "hello " * 5000}]


def events(text: str) -> list[tuple[str, dict[str, object]]]:
    """The name and the data of each server-sent event."""
    blocks = [block.split("\n") for block in text.strip().split("\n\n")]
    return [
        (name.removeprefix("event: "), json.loads(data.removeprefix("data: ")))
        for name, data in blocks
    ]


def test_every_name_answers_and_the_first_signs(client: Client) -> None:
    answers = [client.complete(name, "the cat") for name in ("tiny", "also-tiny")]
    assert answers[0].text == answers[1].text
    assert [answer.body["model"] for answer in answers] == ["tiny", "tiny"]
    assert {"tiny", "also-tiny"} <= set(client.names())
    assert client.get("/v1/models/also-tiny").status == 200
    assert client.complete("other", "the cat").status == 404


def test_messages_answer_as_anthropic_does(client: Client) -> None:
    answer = client.post("/v1/messages", ASK)
    assert answer.status == 200
    assert answer.body["type"] == "message"
    assert answer.body["role"] == "assistant"
    assert answer.body["content"][0]["type"] == "text"
    assert answer.body["stop_reason"] == "max_tokens"
    assert "stop_sequence" not in answer.body
    assert answer.body["usage"]["output_tokens"] == 4


def test_messages_count_their_tokens(client: Client) -> None:
    counted = client.post("/v1/messages/count_tokens", ASK)
    usage = client.post("/v1/messages", ASK).body["usage"]
    assert counted.status == 200
    whole = usage["input_tokens"] + usage["cache_read_input_tokens"]
    assert counted.body["input_tokens"] == whole


def test_messages_stream_anthropics_events(client: Client) -> None:
    answer = client.post("/v1/messages", ASK | {"stream": True})
    assert answer.headers.get_content_type() == "text/event-stream"
    names = [name for name, _ in events(answer.body)]
    assert names[:2] == ["message_start", "content_block_start"]
    assert names[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert "content_block_delta" in names


def test_messages_take_anthropics_key(client: Client) -> None:
    for key, status in ((KEY, 200), ("wrong", 401)):
        answer = client.ask("POST", "/v1/messages", ASK, {"x-api-key": key})
        assert answer.status == status
    assert answer.body["type"] == "error"
    assert answer.body["error"]["type"] == "authentication_error"


@pytest.mark.parametrize(
    ("changed", "status", "kind"),
    [
        ({"model": "other"}, 404, "not_found_error"),
        ({"messages": "hello"}, 400, "invalid_request_error"),
        ({"messages": LONG}, 400, "invalid_request_error"),
        ({"messages": LONG, "stream": True}, 400, "invalid_request_error"),
    ],
)
def test_messages_fail_as_anthropic_does(
    client: Client, changed: dict[str, object], status: int, kind: str
) -> None:
    answer = client.post("/v1/messages", ASK | changed)
    assert answer.status == status
    assert answer.body["type"] == "error"
    assert answer.body["error"]["type"] == kind
    assert answer.body["error"]["message"]
