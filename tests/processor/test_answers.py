"""Every request ends with an answer in the shape of its endpoint, whatever is raised and when."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dynamo_cli.engines.vllm import versions
from dynamo_cli.host import vital
from dynamo_cli.messages.request import Endpoint
from tests.support.driver import Talk

from .mistakes import ENDPOINTS, MISTAKES, POOLING

pytestmark = pytest.mark.engine

ERROR_TYPES = {"invalid_request_error", "not_found_error", "overloaded_error"}
LONG = {"max_tokens": 200, "max_output_tokens": 200}


class Answer:
    """All messages that answered a request."""

    def __init__(self, messages: list[Any]) -> None:
        self.kinds = [message["kind"] for message in messages]
        self.last = messages[-1]
        chunks = [message["data"] for message in messages if message["kind"] == "Chunk"]
        self.text = b"".join(map(base64.b64decode, chunks)).decode()

    @property
    def whole(self) -> Any:
        """The whole answer; the request must not have been streamed."""
        assert self.kinds == ["Reply"], (self.kinds, self.text)
        return self.last | {"body": base64.b64decode(self.last["body"])}

    @property
    def finish(self) -> Any:
        """The end of the stream; the request must have been streamed to a proper end."""
        assert self.kinds == ["Head", *["Chunk"] * (len(self.kinds) - 2), "Finish"], self.last
        return self.last


class Asked:
    """`tests.processor.front` in a process of its own, and its log."""

    def __init__(self, folder: Path, *args: str) -> None:
        self._log = folder / "log"
        (folder / "model").mkdir()
        with self._log.open("w") as log:
            self._talk = Talk(log, "tests.processor.front", str(folder / "model"), *args)

    def ask(self, endpoint: Endpoint, body: Any, *, dies_after: int = -1, bug: str = "") -> Answer:
        """Return the answer to a request, of which nothing may be left afterwards."""
        line = self._talk.ask(json.dumps([endpoint, body, dies_after, bug]))
        assert line, self.log
        told = json.loads(line)
        assert not told["left"]
        return Answer(told["messages"])

    @property
    def log(self) -> str:
        return self._log.read_text()

    def exit_code(self) -> int:
        return self._talk.end()

    def close(self) -> None:
        self._talk.end()


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asked]:
    tools = ("--enable-auto-tool-choice", "--tool-call-parser", "hermes")
    asked = Asked(tmp_path_factory.mktemp("tiny"), *tools)
    yield asked
    asked.close()


def error_of(endpoint: Endpoint, body: Any) -> Any:
    """Return the error in a body, which must have the shape of the endpoint."""
    if endpoint is Endpoint.MESSAGES:
        assert body.keys() == {"type", "error"}
        assert body["type"] == "error"
        assert body["error"].keys() == {"type", "message"}
        assert body["error"]["type"] in ERROR_TYPES
    else:
        assert body.keys() == {"error"}
        assert body["error"].keys() == {"message", "type", "param", "code"}
    return body["error"]


def events_of(text: str) -> list[tuple[str, Any]]:
    """Return name and data of each event of a stream."""
    found = []
    for block in text.strip().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n"))
        data = fields["data"]
        found.append((fields.get("event", ""), data if data == "[DONE]" else json.loads(data)))
    return found


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(
    ("endpoint", "body"),
    [(endpoint, body) for endpoint, _, body in MISTAKES],
    ids=[f"{endpoint} {name}" for endpoint, name, _ in MISTAKES],
)
def test_a_mistake_has_a_status_of_its_own(
    asked: Asked, endpoint: Endpoint, body: dict[str, Any], stream: bool
) -> None:
    reply = asked.ask(endpoint, body | {"stream": stream}).whole
    error = error_of(endpoint, json.loads(reply["body"]))
    assert reply["status"] in (400, 404), error
    assert reply["error"]
    assert error["message"]
    assert "validation error" not in error["message"]


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_a_stream_goes_to_its_end(asked: Asked, endpoint: Endpoint) -> None:
    answer = asked.ask(endpoint, ENDPOINTS[endpoint] | {"stream": True})
    assert not answer.finish["error"]
    assert answer.finish["usage"][2] == 8
    assert "error" not in dict(events_of(answer.text))


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_a_worker_that_dies_before_the_first_token(
    asked: Asked, endpoint: Endpoint, stream: bool
) -> None:
    reply = asked.ask(endpoint, ENDPOINTS[endpoint] | {"stream": stream}, dies_after=0).whole
    assert (reply["status"], reply["error"]) == (503, "worker_lost")
    assert "worker 0 stopped" in error_of(endpoint, json.loads(reply["body"]))["message"]


def long_answer(endpoint: Endpoint) -> dict[str, int]:
    return {name: LONG[name] for name in LONG.keys() & ENDPOINTS[endpoint].keys()}


def broken(asked: Asked, endpoint: Endpoint) -> list[tuple[str, Any]]:
    """Return the events of a stream whose worker dies in the middle."""
    body = ENDPOINTS[endpoint] | long_answer(endpoint) | {"stream": True}
    answer = asked.ask(endpoint, body, dies_after=4)
    assert answer.finish["error"] == "worker_lost"
    return events_of(answer.text)


@pytest.mark.parametrize("endpoint", [Endpoint.CHAT, Endpoint.COMPLETIONS])
def test_a_chat_whose_worker_dies(asked: Asked, endpoint: Endpoint) -> None:
    *_, (_, data), (_, done) = broken(asked, endpoint)
    assert error_of(endpoint, data)["code"] == "worker_lost"
    assert done == "[DONE]"


def test_a_response_whose_worker_dies(asked: Asked) -> None:
    events = broken(asked, Endpoint.RESPONSES)
    (_, created), *_, (error, told), (failed, response) = events
    assert (error, failed) == ("error", "response.failed")
    assert told["code"] == "worker_lost"
    assert "worker 0 stopped" in told["message"]
    assert response["response"]["status"] == "failed"
    assert response["response"]["id"] == created["response"]["id"]
    assert [data["sequence_number"] for _, data in events] == list(range(len(events)))


def test_a_message_whose_worker_dies(asked: Asked) -> None:
    *_, (name, data) = broken(asked, Endpoint.MESSAGES)
    assert name == "error"
    assert error_of(Endpoint.MESSAGES, data)["type"] == "overloaded_error"


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_a_bug_is_an_internal_error_and_in_the_log(
    asked: Asked, endpoint: Endpoint, stream: bool
) -> None:
    reply = asked.ask(endpoint, ENDPOINTS[endpoint] | {"stream": stream}, bug="placing").whole
    message = json.loads(reply["body"])["error"]["message"]
    assert reply["status"] == 500
    assert "request id r" in message
    assert "nobody expects" not in message
    assert "nobody expects" in asked.log


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_a_worker_whose_link_is_full(asked: Asked, endpoint: Endpoint, stream: bool) -> None:
    reply = asked.ask(endpoint, ENDPOINTS[endpoint] | {"stream": stream}, bug="sending").whole
    assert reply["status"] == 503
    assert "worker 0 cannot take" in error_of(endpoint, json.loads(reply["body"]))["message"]


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_a_bug_in_the_middle_of_a_stream(asked: Asked, endpoint: Endpoint) -> None:
    body = ENDPOINTS[endpoint] | long_answer(endpoint) | {"stream": True}
    answer = asked.ask(endpoint, body, bug="streaming")
    assert answer.finish["error"]
    *_, (name, data) = [one for one in events_of(answer.text) if one[1] != "[DONE]"]
    assert name in ("error", "response.failed") or "error" in data
    assert "request id r" in answer.text
    assert "nobody expects" not in answer.text


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asked]:
    asked = Asked(tmp_path_factory.mktemp("plain"))
    yield asked
    asked.close()


@pytest.mark.skipif(
    versions.release() not in versions.SHORT_WAYS, reason="this release has no short ways"
)
@pytest.mark.parametrize("bug", ["streaming", "decoding"])
def test_a_bug_in_a_stream_that_takes_the_short_way_ends_that_stream_alone(
    plain: Asked, bug: str
) -> None:
    body = ENDPOINTS[Endpoint.CHAT] | {"max_tokens": 200, "stream": True}
    answer = plain.ask(Endpoint.CHAT, body, bug=bug)
    assert answer.finish["error"] == "InternalServerError"
    assert "request id r" in answer.text
    assert "nobody expects" in plain.log
    assert not plain.ask(Endpoint.CHAT, body).finish["error"]


def test_a_process_whose_outputs_are_not_handled_any_more_ends(tmp_path: Path) -> None:
    """vLLM would fail all running and all later requests; only a new process helps."""
    asked = Asked(tmp_path)
    assert asked.ask(Endpoint.CHAT, ENDPOINTS[Endpoint.CHAT], bug="outputs").whole["status"] == 500
    assert asked.exit_code() == vital.EXIT_CODE
    assert "output_handler" in asked.log
    assert "which ends this process" in asked.log


@pytest.fixture(scope="module")
def vectors(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asked]:
    asked = Asked(tmp_path_factory.mktemp("embed"), *POOLING)
    yield asked
    asked.close()


@pytest.mark.parametrize("form", ["float", "base64", "bytes", "bytes_only"])
def test_embeddings_in_every_form(vectors: Asked, form: str) -> None:
    body = {"model": "tiny", "input": ["one", "two"], "encoding_format": form}
    reply = vectors.ask(Endpoint.EMBEDDINGS, body).whole
    assert reply["status"] == 200
    if form.startswith("bytes"):
        assert reply["content_type"] == "application/octet-stream"
        assert len(reply["body"]) == 2 * 64 * 4
        assert ("metadata" in dict(reply["headers"])) == (form == "bytes")
    else:
        assert len(json.loads(reply["body"])["data"]) == 2


@pytest.mark.parametrize(
    "wrong",
    [
        {"model": "other"},
        {"encoding_format": "words"},
        {"input": None},
        {"input": ["word " * 600]},
        {"dimensions": -1},
        {"input": [[99999]]},
    ],
)
def test_mistakes_in_embeddings(vectors: Asked, wrong: dict[str, Any]) -> None:
    reply = vectors.ask(Endpoint.EMBEDDINGS, {"model": "tiny", "input": "one"} | wrong).whole
    assert reply["status"] in (400, 404), reply["body"]
    assert error_of(Endpoint.EMBEDDINGS, json.loads(reply["body"]))["message"]
