"""The requests of `tests.benchmarks.conformance`: every endpoint, streams, and errors of each kind.

All of them are greedy or seeded, and are sent one after the other.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
RESPONSES, MESSAGES = "/v1/responses", "/v1/messages"
TALK = [{"role": "user", "content": "Hello, how are you?"}]
TOOL = {
    "name": "weather",
    "description": "The weather of a place",
    "parameters": {"type": "object", "properties": {"place": {"type": "string"}}},
}
BODIES: dict[str, dict[str, Any]] = {
    CHAT: {"model": "tiny", "messages": TALK, "max_tokens": 12, "temperature": 0},
    TEXT: {"model": "tiny", "prompt": "Once upon a time", "max_tokens": 12, "temperature": 0},
    RESPONSES: {"model": "tiny", "input": "Hello", "max_output_tokens": 12, "temperature": 0},
    MESSAGES: {"model": "tiny", "messages": TALK, "max_tokens": 12, "temperature": 0},
}
OTHERS: dict[str, dict[str, Any]] = {
    "/v1/messages/count_tokens": {"model": "tiny", "messages": TALK},
    "/v1/embeddings": {"model": "tiny", "input": "Hello"},
    "/tokenize": {"model": "tiny", "prompt": "Hello, how are you?"},
    "/detokenize": {"model": "tiny", "tokens": [1, 2, 3, 40, 50]},
}
VARIANTS: dict[str, list[dict[str, Any]]] = {
    CHAT: [
        {"n": 2, "seed": 7, "temperature": 1},
        {"logprobs": True, "top_logprobs": 2},
        {"stop": ["e"]},
        {"messages": [{"role": "system", "content": "Be kind."}, *TALK]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]},
        {"response_format": {"type": "json_object"}, "max_tokens": 8},
        {"tools": [{"type": "function", "function": TOOL}]},
        {"tools": [{"type": "function", "function": TOOL}], "tool_choice": "none"},
        {"return_token_ids": True},
        {"max_completion_tokens": 3, "max_tokens": None},
        {"session_id": "s1", "user": "somebody"},
        {"logit_bias": {"40": 5.0}},
    ],
    TEXT: [
        {"prompt": [1, 2, 3, 4, 5]},
        {"prompt": ["one", "two"]},
        {"prompt": [[1, 2], [3, 4]]},
        {"echo": True},
        {"echo": True, "logprobs": 1, "max_tokens": 1},
        {"logprobs": 2},
        {"n": 3, "seed": 7, "temperature": 1},
        {"stop": ["e"], "include_stop_str_in_output": True},
        {"ignore_eos": True, "min_tokens": 12},
        {"suffix": "the end"},
        {"structured_outputs": {"choice": ["yes", "no"]}},
        {"structured_outputs": {"regex": "[ab]{2}"}},
        {"prompt": "again and again " * 30},
        {"prompt": "again and again " * 30, "max_tokens": 2},
        {"use_beam_search": True, "n": 2},
    ],
    RESPONSES: [
        {"input": TALK},
        {"instructions": "Be kind."},
        {"store": False},
        {"tools": [{"type": "function", **TOOL}]},
        {"reasoning": {"effort": "low"}},
        {"text": {"format": {"type": "text"}}},
    ],
    MESSAGES: [
        {"system": "Be kind."},
        {"stop_sequences": ["e"]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]},
        {"tools": [{"name": "weather", "input_schema": TOOL["parameters"]}]},
        {"top_k": 1, "top_p": 0.5},
        {"metadata": {"user_id": "somebody"}},
    ],
}
LIMIT = "max tokens"
"""Stands for the name of the field that has them."""

WRONG: list[dict[str, Any]] = [
    {"model": "nobody"},
    {"temperature": "warm"},
    {LIMIT: -1},
    {LIMIT: 1_000_000},
    {LIMIT: "all"},
    {"top_p": 7},
    {"kv_transfer_params": {"do_remote_prefill": True}},
    {"priority": "high"},
    {"session_id": "a" * 300},
    {"vllm_xargs": {"kv_transfer_params": "x"}},
]
WRONG_OF: dict[str, list[dict[str, Any]]] = {
    CHAT: [{"messages": []}, {"messages": "Hi"}, {"n": 0}, {"tools": "all"}, {"logprobs": 3}],
    TEXT: [{"prompt": ""}, {"prompt": []}, {"prompt": [-1]}, {"prompt": None}, {"n": 10_000}],
    RESPONSES: [{"input": []}, {"input": 3}, {"background": True}, {"previous_response_id": "x"}],
    MESSAGES: [{"messages": []}, {"max_tokens": None}, {"system": 3}, {"stop_sequences": "e"}],
}
GETS = (
    *("/v1/models", "/v1/models/tiny", "/v1/models/nobody", "/openapi.json", "/docs", "/version"),
    *("/health", "/metrics", "/dynamo/snapshot", "/dynamo/decisions", "/dynamo/timeline"),
    *("/dynamo/decisions?limit=0", "/dynamo/decisions?limit=x", "/dynamo/decisions?worker=99"),
    *("/dynamo/timeline?limit=0", "/dynamo/timeline?limit=2", "/dynamo/workers"),
    *("/", "/v1", "/nowhere", "/v1/chat/completions", "/tokenize", "/sleep"),
)
ADMIN: list[tuple[str, Any]] = [
    ("/dynamo/workers", {"workers": 0}),
    ("/dynamo/workers", {"workers": "many"}),
    ("/dynamo/workers", {"nonsense": 1}),
    ("/dynamo/placement", {"nonsense": 1}),
    ("/dynamo/placement", []),
    ("/v1/load_lora_adapter", {"lora_name": "a", "lora_path": "/nowhere"}),
    ("/v1/load_lora_adapter", {}),
    ("/v1/unload_lora_adapter", {"lora_name": "a"}),
    ("/sleep?level=9", None),
    ("/wake_up?tags=nothing", None),
]


@dataclass(frozen=True)
class Asked:
    """One request.

    Attributes:
        raw: sent as it is, instead of all others.
        events: read only so many lines of the answer, which does not end by itself.
    """

    name: str
    method: str = "POST"
    path: str = ""
    body: bytes | None = None
    headers: dict[str, str] = field(default_factory=dict)
    raw: bytes = b""
    events: int = 0


def requests(key: str) -> Iterator[Asked]:
    """All of them; their names are unique."""
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    for name, path, body in (*_answered(), *_refused()):
        yield Asked(name, "POST", path, json.dumps(body).encode(), headers)
    yield from _not_json(headers)
    yield from _not_http()
    for number, (path, body) in enumerate(ADMIN):
        data = None if body is None else json.dumps(body).encode()
        yield Asked(f"admin {number} {path}", "POST", path, data, headers)
    for path in GETS:
        yield Asked(f"GET {path}", "GET", path, headers=headers)
    yield Asked("GET /dynamo/stream", "GET", "/dynamo/stream", headers=headers, events=1)


def _answered() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, body in BODIES.items():
        for number, more in enumerate(({}, *VARIANTS[path])):
            yield f"{path} {number}", path, body | more
            yield f"{path} {number} streamed", path, body | more | {"stream": True}
        usage = {"stream": True, "stream_options": {"include_usage": True}}
        yield f"{path} with usage", path, body | usage
    for path, body in OTHERS.items():
        yield path, path, body
        yield f"{path} streamed", path, body | {"stream": True}
    yield "/tokenize of messages", "/tokenize", {"messages": TALK, "return_token_strs": True}


def _refused() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, body in BODIES.items():
        for number, wrong in enumerate((*WRONG, *WRONG_OF[path])):
            limit = "max_output_tokens" if path == RESPONSES else "max_tokens"
            known = {limit if name == LIMIT else name: value for name, value in wrong.items()}
            yield f"{path} wrong {number}", path, body | known
            yield f"{path} wrong {number} streamed", path, body | known | {"stream": True}
    for path, body in OTHERS.items():
        yield f"{path} without anything", path, {}
        yield f"{path} of nobody", path, body | {"model": "nobody"}


def _not_json(headers: dict[str, str]) -> Iterator[Asked]:
    """Bodies and headers that nothing can be made of."""
    bodies = (b"", b"{", b"[]", b"3", b"null", b"\xff\xfe", b'{"a":1}' * 2, b"[" * 5000)
    for path, good in BODIES.items():
        for body in (*bodies, b" " * 300_000):
            yield Asked(f"{path} of {len(body)} bytes {body[:4]!r}", "POST", path, body, headers)
        body = json.dumps(good).encode()
        given: list[tuple[str, dict[str, str]]] = [
            ("without a key", {"Content-Type": "application/json"}),
            ("with a wrong key", headers | {"Authorization": "Bearer wrong"}),
            ("as text", headers | {"Content-Type": "text/plain"}),
            ("with an id", headers | {"X-Request-Id": "mine-1"}),
            ("with a priority", headers | {"X-Priority": "3"}),
            ("with a wrong priority", headers | {"X-Priority": "high"}),
            ("with a session", headers | {"X-Session-ID": "s2"}),
            ("with a long session", headers | {"X-Session-ID": "s" * 300}),
        ]
        for name, some in given:
            yield Asked(f"{path} {name}", "POST", path, body, some)
        yield Asked(f"{path} deleted", "DELETE", path, headers=headers)
    origin = {"Origin": "http://elsewhere", "Access-Control-Request-Method": "POST"}
    yield Asked("a preflight", "OPTIONS", CHAT, headers=origin)


def _not_http() -> Iterator[Asked]:
    end = b"Connection: close\r\n\r\n"
    yield Asked("raw nonsense", raw=b"nonsense\r\n\r\n")
    yield Asked("raw method", raw=b"BREW /v1/models HTTP/1.1\r\nHost: a\r\n" + end)
    yield Asked("raw length", raw=b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n" + end)
    yield Asked("raw health", raw=b"GET /version HTTP/1.0\r\n\r\n")
