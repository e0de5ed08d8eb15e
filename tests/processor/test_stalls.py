"""Whatever a client sends, the streams of other clients go on."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.driver import run

pytestmark = pytest.mark.engine

LONGEST_S = 0.25
"""Most CPU time between two ticks, seconds: how long streams would stop on an idle machine."""

REFUSED = {
    "messages",
    "messages in parts",
    "token ids",
    "prompts of ids",
    "biases",
    "fields",
    "wrong ids",
    "ids to text",
    "text to ids",
    "messages to ids",
    "wrong items",
    "wrong texts",
}
ANSWERED = {"most ids", "most ids to text", "a long prompt to be cut", "metadata"}
SCORED = {
    *("scores of a chat", "scores of completions", "scores of a response"),
    *("scores of a prompt", "scores of a chat's prompt", "scores of an echo"),
}
OTHERS = {
    *("commas", "most messages", "most wrong messages"),
    *("scores of a response in a stream", "scores of an echo in a stream"),
}


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    names = sorted(REFUSED | ANSWERED | SCORED | OTHERS)
    folder = tmp_path_factory.mktemp("model")
    told = run("tests.processor.stalls", str(folder), str(LONGEST_S), *names)
    assert told.returncode == 0, told.stderr
    return {found["name"]: found for found in map(json.loads, told.stdout.splitlines())}


@pytest.mark.parametrize("name", sorted(REFUSED | ANSWERED | SCORED | OTHERS))
def test_streams_go_on_beside_a_large_request(measured: dict[str, Any], name: str) -> None:
    assert measured[name]["cpu_s"] < LONGEST_S, measured[name]


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_what_no_client_needs_is_refused_with_a_reason(measured: dict[str, Any], name: str) -> None:
    assert measured[name]["status"] == 400, measured[name]
    assert "error" in measured[name]["said"]
    assert measured[name]["size"] < 1000


@pytest.mark.parametrize("name", sorted(ANSWERED | SCORED))
def test_what_clients_may_send_is_answered(measured: dict[str, Any], name: str) -> None:
    assert measured[name]["status"] == 200, measured[name]
