"""Logs and traces of a real server with a router and a prefill worker."""

from __future__ import annotations

import http.client
import json
import time
from itertools import pairwise
from typing import Any

import pytest

from tests.support.otlp import Receiver, Span
from tests.support.requests import post
from tests.support.server import Server, wait_until

pytestmark = pytest.mark.engine

MARK = "zebra xylophone"
LONG = " ".join(f"{MARK} {number}" for number in range(40))
TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


def ask(server: Server, path: str, body: dict[str, Any], **headers: str) -> tuple[int, Any]:
    """Send a request and read the whole answer; returns its status and headers."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    given = {"Content-Type": "application/json", **headers}
    connection.request("POST", path, json.dumps({"model": "tiny"} | body), given)
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer.status, answer.headers


def lines(server: Server) -> list[dict[str, Any]]:
    return [json.loads(line) for line in server.log.splitlines()]


def access(server: Server, name: str) -> dict[str, Any]:
    """The access line of a request; waits until it is written."""

    def found() -> list[dict[str, Any]]:
        whole = server.log.rpartition("\n")[0]
        return [json.loads(line) for line in whole.splitlines() if f'"id":"{name}"' in line]

    wait_until(found, 5, f"the line of {name}")
    (line,) = found()
    return line


def test_a_stream_leaves_a_line(server: Server) -> None:
    body = {"prompt": "Once", "max_tokens": 8, "stream": True, "ignore_eos": True}
    ask(server, "/v1/completions", body, **{"X-Request-ID": "log-stream"})
    line = access(server, "log-stream")
    assert (line["level"], line["process"], line["message"]) == ("INFO", "frontend", "request")
    assert (line["endpoint"], line["model"], line["status"]) == ("/v1/completions", "tiny", 200)
    assert (line["output_tokens"], line["finish_reason"]) == (8, "length")
    assert line["worker"] in (0, 1)
    assert 0 < line["ttft_ms"] <= line["total_ms"]


def test_no_text_of_requests_is_in_the_log_at_any_level(server: Server) -> None:
    said = [{"role": "user", "content": MARK}]
    schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": MARK}}}
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    tokens = post(server, "/tokenize", {"model": "tiny", "prompt": MARK})[1]["tokens"]
    statuses, names = [], []
    for path, body in (
        ("/v1/completions", {"prompt": MARK, "max_tokens": 3, "echo": True}),
        ("/v1/completions", {"prompt": LONG, "max_tokens": 3}),
        ("/v1/completions", {"prompt": MARK * 500, "max_tokens": 3}),
        ("/v1/completions", {"prompt": MARK, "stop": [MARK], "max_tokens": MARK}),
        ("/v1/chat/completions", {"messages": said, "max_tokens": 3}),
        ("/v1/chat/completions", {"messages": said, "stream": True, "max_tokens": 3}),
        ("/v1/chat/completions", {"messages": said, "tools": [tool], "max_tokens": 3}),
        ("/v1/chat/completions", {"messages": said, "response_format": schema}),
        ("/v1/chat/completions", {"messages": [{"role": MARK, "content": MARK}]}),
        ("/v1/chat/completions", {"messages": MARK}),
        ("/v1/chat/completions", {"messages": said, "chat_template": f"{{{{ '{MARK}' }}}}"}),
        ("/v1/responses", {"input": MARK, "max_output_tokens": 3}),
        ("/tokenize", {"prompt": MARK}),
    ):
        status, headers = ask(server, path, body)
        statuses.append(status)
        names.append(headers["X-Request-ID"])
    assert set(statuses) == {200, 400}
    assert statuses.count(200) > 5
    for name in names:
        access(server, name)
    log = server.log
    assert "DEBUG" in log
    for word in (*MARK.split(), ", ".join(map(str, tokens[:4]))):
        assert word not in log


def test_every_line_is_an_object(server: Server) -> None:
    processes = set()
    for line in lines(server):
        assert {"ts", "level", "process", "message"} <= line.keys()
        processes.add(line["process"])
    assert processes >= {
        *("dynamo-llm", "frontend", "processor 0", "router", "zygote"),
        *("worker 0", "worker 1", "prefill queue", "prefill worker 0"),
    }
    engine = [line["message"] for line in lines(server) if line["process"] == "worker 0"]
    assert any("KV cache" in message for message in engine), "what vLLM says in its own words"


def spans(receiver: Receiver, trace_id: str) -> dict[str, Span]:
    wait_until(lambda: receiver.trace(trace_id), 10, "the trace arrives")
    return receiver.trace(trace_id)


def check_nesting(found: dict[str, Span], root: Span) -> None:
    for span in found.values():
        assert span.trace_id == root.trace_id
        assert root.begin_ns <= span.begin_ns <= span.end_ns <= root.end_ns, span
        assert span is root or span.parent_id == root.span_id


def test_a_trace_follows_a_request_through_the_processes(
    server: Server, receiver: Receiver
) -> None:
    before = time.time_ns()
    body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 8, "ignore_eos": True}
    status, headers = ask(
        server, "/v1/chat/completions", body, traceparent=f"00-{TRACE}-{CALLER}-01"
    )
    assert status == 200
    found = spans(receiver, TRACE)
    root = found["chat tiny"]
    assert headers["traceparent"] == f"00-{TRACE}-{root.span_id}-01"
    assert (root.parent_id, root.kind, root.failed) == (CALLER, 2, False)
    assert before <= root.begin_ns <= root.end_ns <= time.time_ns()
    names = ("receive", "tokenize", "route", "queue", "prefill", "decode")
    assert found.keys() == {root.name, *names}
    check_nesting(found, root)
    for one, next_one in pairwise(names):
        assert found[one].end_ns <= found[next_one].begin_ns
    usage = root.attributes
    assert (usage["gen_ai.usage.output_tokens"], usage["gen_ai.operation.name"]) == (8, "chat")
    assert usage["gen_ai.response.finish_reasons"] == ["length"]
    worker = usage["dynamo.worker"]
    assert found["decode"].attributes["dynamo.process"] == f"worker {worker}"
    assert access(server, headers["X-Request-ID"])["trace_id"] == TRACE


def test_a_trace_follows_a_prompt_that_is_prefilled_elsewhere(
    server: Server, receiver: Receiver
) -> None:
    status, headers = ask(server, "/v1/completions", {"prompt": f"far {LONG}", "max_tokens": 4})
    assert status == 200
    found = spans(receiver, headers["traceparent"][3:35])
    root = found["text_completion tiny"]
    check_nesting(found, root)
    assert found["remote prefill"].attributes["dynamo.process"] == "prefill worker 0"
    assert found["prefill queue"].end_ns <= found["remote prefill"].begin_ns
    assert found["remote prefill"].end_ns <= found["queue"].begin_ns
    assert root.attributes["dynamo.prefill_worker"] == 0


def test_failures_are_marked(server: Server, receiver: Receiver) -> None:
    status, headers = ask(server, "/v1/completions", {"prompt": "a", "model": "other"})
    assert status == 404
    root = spans(receiver, headers["traceparent"][3:35])["text_completion other"]
    assert (root.attributes["error.type"], root.failed) == ("NotFoundError", False)
