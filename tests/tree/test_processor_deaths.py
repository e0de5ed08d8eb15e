"""A processor dies under load: no client notices, and answers are those of a quiet server."""

from __future__ import annotations

import http.client
import json
import os
import signal
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from tests.support.server import SMALL, Server, wait_until

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
BACK_S = 60.0
SCHEMA = {
    "type": "object",
    "properties": {"words": {"type": "string", "minLength": 60, "maxLength": 90}},
    "required": ["words"],
}


class Asked:
    """A request on a connection of its own, whose answer is read by a thread.

    Attributes:
        lines: lines of the answer that have come.
    """

    def __init__(self, server: Server, path: str, body: dict[str, Any]) -> None:
        self.body = body
        self.lines: list[bytes] = []
        self._connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=120)
        self._request = (path, json.dumps({"model": "tiny", "temperature": 0} | body))

    def run(self) -> bytes:
        """Read the answer to its end."""
        headers = {"Content-Type": "application/json"}
        try:
            self._connection.request("POST", *self._request, headers)
            with self._connection.getresponse() as answer:
                for line in answer:  # one after the other, since others look at them
                    self.lines.append(line)
                assert answer.status == 200, self.lines
        finally:
            self._connection.close()
        return b"".join(self.lines)


def parts(answer: bytes) -> tuple[dict[int, Any], set[Any]]:
    """What a stream says, by choice, and the ids and times of its events."""
    said: dict[int, Any] = {}
    names: set[Any] = set()
    *events, done = [event for event in answer.split(b"\n\n") if event]
    assert done == b"data: [DONE]", answer[-500:]
    for event in events:
        content = json.loads(event.removeprefix(b"data: "))
        names.add((content["id"], content["created"]))
        for choice in content["choices"]:
            text, logprobs, ends = said.setdefault(choice["index"], ([], [], []))
            text.append(choice["delta"].get("content") if "delta" in choice else choice["text"])
            logprobs += (choice["logprobs"] or {}).get("content", ())
            ends += [choice["finish_reason"]] if choice["finish_reason"] else []
        if content.get("usage") and not content["choices"]:
            usage = content["usage"]
            said[-1] = usage["prompt_tokens"], usage["completion_tokens"]
    return {
        index: ("".join(filter(None, one[0])), *one[1:]) if index >= 0 else one
        for index, one in said.items()
    }, names


def kill_processors(server: Server, asked: list[Asked], *indexes: int) -> None:
    """Kill one after the other, as soon as it is back and every stream has gone on."""
    streams = [one for one in asked if one.body.get("stream")]
    for index in indexes:
        name = f"processor {index}"
        had = [len(one.lines) + 6 for one in streams]
        wait_until(
            lambda had=had: all(
                len(one.lines) > lines or one.lines[-2:-1] == [b"data: [DONE]\n"]
                for one, lines in zip(streams, had, strict=True)
            ),
            BACK_S,
            "all streams go on",
        )
        before = server.processes()[name]
        os.kill(before["pid"], signal.SIGKILL)
        wait_back(server, name, before["restarts"])


def wait_back(server: Server, name: str, restarts: int) -> None:
    def back() -> bool:
        now = server.processes()[name]
        return bool(now["restarts"] > restarts and now["phase"] == "ready")

    wait_until(back, BACK_S, f"{name} is back")


def all_of(pool: ThreadPoolExecutor, asked: list[Asked]) -> list[Future[bytes]]:
    return [pool.submit(one.run) for one in asked]


@pytest.fixture(scope="module")
def simulated() -> Iterator[Server]:
    options = ("--engine", "mock", "--engine-profile", "cpu-tiny", "--workers", "2")
    with Server(*options, "--router", "kv") as server:
        yield server


def test_no_request_fails_and_streams_say_the_same(simulated: Server) -> None:
    bodies: list[tuple[str, dict[str, Any]]] = []
    for number in range(5):
        text = f"{number} " + "all words of a prompt come back " * (number + 1)
        usage = {"stream": True, "stream_options": {"include_usage": True}}
        chat = {"messages": [{"role": "user", "content": text}], "max_tokens": 1500}
        bodies += [(CHAT, chat | usage), (COMPLETIONS, {"prompt": text, "max_tokens": 1500})]
        bodies += [(COMPLETIONS, {"prompt": [text, text[2:]], "max_tokens": 900} | usage)]
    with ThreadPoolExecutor(2 * len(bodies)) as pool:
        asked = [Asked(simulated, *one) for one in bodies]
        running = all_of(pool, asked)
        kill_processors(simulated, asked, 0, 1)
        disturbed = [future.result() for future in running]
        quiet = [future.result() for future in all_of(pool, [Asked(simulated, *b) for b in bodies])]
    for (_, body), had, wanted in zip(bodies, disturbed, quiet, strict=True):
        if "stream" not in body:
            assert json.loads(had)["choices"] == json.loads(wanted)["choices"]
            continue
        (said, names), (should, _) = parts(had), parts(wanted)
        assert said == should
        assert len(names) == 1
    moves = simulated.snapshot()["moves"]
    assert moves["moved"]["died"] >= len(bodies) / 2
    assert not any(moves["not_moved"].values())


SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": (CHAT, {"messages": [{"role": "user", "content": "Tell me all."}]}),
    "two answers": (
        CHAT,
        {"messages": [{"role": "user", "content": "Twice."}], "n": 2, "temperature": 1, "top_k": 1},
    ),
    "logprobs": (
        CHAT,
        {"messages": [{"role": "user", "content": "Why?"}], "logprobs": True, "top_logprobs": 2},
    ),
    "json": (
        CHAT,
        {
            "messages": [{"role": "user", "content": "Some JSON."}],
            "ignore_eos": False,
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "words", "schema": SCHEMA},
            },
        },
    ),
    "completions": (COMPLETIONS, {"prompt": ["one", "and two"]}),
}


@pytest.mark.engine
def test_greedy_answers_are_those_of_a_quiet_server() -> None:
    common = {"max_tokens": 400, "ignore_eos": True, "stream": True}
    bodies = [(path, common | body) for path, body in SHAPES.values() for _ in range(2)]
    options = (*SMALL, "--dtype", "float32", "--workers", "2", "--max-model-len", "1024")
    with Server(*options) as server, ThreadPoolExecutor(len(bodies)) as pool:
        quiet = [Asked(server, *body).run() for body in bodies[::2]]
        asked = [Asked(server, *body) for body in bodies]
        running = all_of(pool, asked)
        kill_processors(server, [one for one in asked if len(one.body) < 6], 0)
        disturbed = [future.result() for future in running]
        moved = server.snapshot()["moves"]["moved"]["died"]
    for place, had in enumerate(disturbed):
        (said, names), (should, _) = parts(had), parts(quiet[place // 2])
        assert said == should, list(SHAPES)[place // 2]
        assert len(names) == 1
    assert moved >= 1
