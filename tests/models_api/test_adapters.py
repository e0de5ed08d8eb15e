"""LoRA adapters at start and at run time: all workers use them, also after restarts."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.models_api.conftest import BLOCK, Client
from tests.support import adapter
from tests.support.server import wait_until

pytestmark = pytest.mark.engine

PROMPT = " ".join(str(number) for number in range(100))
LOAD, UNLOAD = "/v1/load_lora_adapter", "/v1/unload_lora_adapter"


@pytest.fixture
def one(client: Client, adapters: dict[str, Path]) -> Iterator[str]:
    """The name of an adapter that is loaded during a test."""
    answer = client.post(LOAD, {"lora_name": "one", "lora_path": str(adapters["one"])})
    assert answer.status == 200, answer.body
    assert answer.body == "Success: LoRA adapter 'one' added successfully."
    yield "one"
    assert client.post(UNLOAD, {"lora_name": "one"}).status == 200


def kill(client: Client, name: str) -> None:
    """Kill a process and wait until it is ready again."""
    before = client.server.processes()[name]
    os.kill(before["pid"], signal.SIGKILL)

    def back() -> bool:
        try:
            process = client.server.processes()[name]
        except OSError:
            return False  # the frontend itself is down
        return bool(process["pid"] != before["pid"] and process["phase"] == "ready")

    wait_until(back, 60, f"{name} is back")
    client.server.wait_ready()


def test_an_adapter_of_the_start_answers_otherwise(client: Client) -> None:
    assert "fixed" in client.names()
    answer = client.complete("fixed", PROMPT)
    assert answer.text != client.complete("tiny", PROMPT).text
    assert answer.body["model"] == "fixed"


def test_an_adapter_comes_and_goes(client: Client, adapters: dict[str, Path]) -> None:
    load = {"lora_name": "two", "lora_path": str(adapters["two"])}
    assert client.complete("two", PROMPT).status == 404
    assert client.post(LOAD, load).status == 200
    assert "two" in client.names()
    # Requests alternate between both processors.
    answers = {client.complete("two", PROMPT).text for _ in range(4)}
    assert len(answers) == 1
    others = {client.complete(name, PROMPT).text for name in ("tiny", "fixed")}
    assert not answers & others
    assert client.post(UNLOAD, {"lora_name": "two"}).status == 200
    assert [client.complete("two", PROMPT).status for _ in range(4)] == [404] * 4
    assert "two" not in client.names()


def test_a_name_can_become_another_adapter(client: Client, adapters: dict[str, Path]) -> None:
    said = []
    for path in (adapters["one"], adapters["two"]):
        assert client.post(LOAD, {"lora_name": "it", "lora_path": str(path)}).status == 200
        said.append({client.complete("it", PROMPT).text for _ in range(4)})
        assert client.post(UNLOAD, {"lora_name": "it"}).status == 200
    assert [len(texts) for texts in said] == [1, 1]
    assert said[0] != said[1]


def test_a_folder_can_become_another_adapter(client: Client, tmp_path: Path) -> None:
    """A regression: the blocks of the first one were found for the second, which then answered
    something that neither of them says."""
    prompt = "the same folder " + PROMPT
    said = []
    for name, seed in (("it", 1), ("it", 2), ("that", 2)):
        adapter.write(tmp_path, seed)
        load = {"lora_name": name, "lora_path": str(tmp_path)}
        assert client.post(LOAD, load).status == 200
        answers = [client.complete(name, prompt) for _ in range(4)]
        assert {answer.text for answer in answers} == {answers[0].text}
        assert answers[0].cached_tokens == 0
        assert answers[0].headers["X-Dynamo-Overlap-Blocks"] == "0"
        said.append(answers[0].text)
        assert client.post(UNLOAD, {"lora_name": name}).status == 200
    assert said[0] != said[1] == said[2]


def test_routing_keeps_prefixes_of_adapters_apart(client: Client, one: str) -> None:
    prompt = "apart " + PROMPT
    assert client.complete("tiny", prompt).cached_tokens == 0
    first = client.complete(one, prompt)
    assert first.cached_tokens == 0
    assert first.headers["X-Dynamo-Overlap-Blocks"] == "0"

    def predicted() -> bool:
        again = client.complete(one, prompt)
        overlap = int(again.headers["X-Dynamo-Overlap-Blocks"])
        return overlap * BLOCK == again.cached_tokens > 0

    # The worker tells the router by a message of its own.
    wait_until(predicted, 5, "the router knows what the first one has left")


def test_those_that_start_again_know_it(client: Client, one: str) -> None:
    said = client.complete(one, PROMPT).text
    for name in ("worker 0", "processor 0", "frontend"):
        kill(client, name)
        assert {client.complete(one, PROMPT).text for _ in range(4)} == {said}, name
        assert one in client.names(), name


@pytest.mark.parametrize(
    ("request_", "status", "says"),
    [
        ({"lora_name": "x"}, 400, "lora_path must be a string"),
        ({"lora_name": 5, "lora_path": "/"}, 400, "lora_name must be a string"),
        ({"lora_name": "x", "lora_path": "/nowhere"}, 404, "no adapter at '/nowhere'"),
        ({"lora_name": "x", "lora_path": "/", "load_inplace": True}, 400, "load_inplace"),
        ({"lora_name": "tiny", "lora_path": "/"}, 400, "a name of the model"),
        ({"lora_name": "fixed", "lora_path": "/"}, 400, "one of --lora-modules"),
        ({"lora_name": "one", "lora_path": "/"}, 400, "loaded already"),
    ],
)
def test_what_cannot_be_loaded_says_why(
    client: Client, one: str, request_: dict[str, object], status: int, says: str
) -> None:
    before = client.names()
    answer = client.post(LOAD, request_)
    assert answer.status == status, answer.body
    assert says in answer.body["error"]["message"]
    assert client.names() == before


def test_broken_files_are_an_error_and_nothing_dies(client: Client, tmp_path: Path) -> None:
    tmp_path.joinpath("adapter_config.json").write_text('{"r": 8}')
    answer = client.post(LOAD, {"lora_name": "broken", "lora_path": str(tmp_path)})
    assert answer.status == 400, answer.body
    assert "cannot be loaded" in answer.body["error"]["message"]
    assert client.complete("tiny", PROMPT).status == 200
    assert client.server.processes()["worker 0"]["phase"] == "ready"


def test_unknown_names_cannot_be_unloaded(client: Client) -> None:
    for name in ("nobody", "fixed"):
        answer = client.post(UNLOAD, {"lora_name": name})
        assert answer.status == 404
        assert LOAD in answer.body["error"]["message"]
