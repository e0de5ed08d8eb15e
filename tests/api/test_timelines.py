"""Timelines of requests and how they ended, with a real engine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.support.server import Server

if TYPE_CHECKING:  # its import takes two seconds
    import openai

pytestmark = pytest.mark.engine

WAY = (
    *("arrival", "received", "prepared", "routed", "sent", "queued", "scheduled"),
    *("first_token", "last_token", "ended"),
)


def ask(client: openai.OpenAI, name: str, **more: Any) -> Any:
    options: dict[str, Any] = {"model": "tiny", "prompt": "Once", "max_tokens": 12} | more
    headers = {"X-Request-ID": name}
    return client.completions.create(**options, temperature=0, extra_headers=headers)


def told(server: Server, name: str) -> Any:
    (timeline,) = server.get(f"/dynamo/timeline?request_id={name}")[1]["timelines"]
    return timeline


def test_a_request_passes_every_stage_in_order(server: Server, client: openai.OpenAI) -> None:
    ask(client, "way-whole", prompt=["Once", "Twice"], extra_body={"ignore_eos": True})
    whole = told(server, "way-whole")
    assert tuple(whole["stages_ms"]) == WAY
    assert (whole["worker"], whole["finish_reason"], whole["output_tokens"]) == (0, "length", 24)
    stream = ask(client, "way-stream", stream=True)
    assert list(stream)
    streamed = told(server, "way-stream")
    stages = [name for name in streamed["stages_ms"] if name != "first_byte"]
    assert tuple(stages) == WAY
    assert streamed["stages_ms"]["first_byte"] >= streamed["stages_ms"]["first_token"]


def test_finish_reasons_are_told(server: Server, client: openai.OpenAI) -> None:
    import openai

    text = ask(client, "way-long", max_tokens=40, extra_body={"ignore_eos": True}).choices[0].text
    ask(client, "way-stop", max_tokens=40, stop=[text[10:14]], extra_body={"ignore_eos": True})
    assert told(server, "way-stop")["finish_reason"] == "stop"
    with pytest.raises(openai.NotFoundError):
        ask(client, "way-refused", model="other")
    refused = told(server, "way-refused")
    assert (refused["status"], refused["worker"], refused["finish_reason"]) == (404, None, "")
    assert tuple(refused["stages_ms"]) == ("arrival", "received", "ended")
