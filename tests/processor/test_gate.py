"""What the gate lets pass and what it refuses, as tables."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest

from dynamo_cli.engines.vllm.front import gate
from dynamo_cli.engines.vllm.front.bounds import Refused, place
from dynamo_cli.errors import InvalidRequest
from dynamo_cli.frontend.http import admission
from dynamo_cli.messages.request import Endpoint

GENERATE = (Endpoint.CHAT, Endpoint.COMPLETIONS, Endpoint.RESPONSES, Endpoint.MESSAGES)
LIMITS = gate.ModelLimits()
PULL = {"do_remote_prefill": True, "transfer_id": "a"}


def let(content: dict[str, Any], endpoint: Endpoint = Endpoint.CHAT) -> dict[str, Any]:
    """Return what the gate leaves of a body."""
    body = json.dumps(content).encode()
    content = orjson.loads(body)
    weight = gate.check_weight(body, LIMITS)
    gate.check(endpoint, content, weight, LIMITS)
    return content


def refused(content: dict[str, Any], endpoint: Endpoint = Endpoint.CHAT) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        let(content, endpoint)
    return caught.value


@pytest.mark.parametrize("endpoint", list(Endpoint))
@pytest.mark.parametrize("name", gate.ENGINE_ARGUMENTS)
def test_nobody_reaches_the_engine_past_us(endpoint: Endpoint, name: str) -> None:
    for value in (PULL, "full", 1, [], {}):
        assert refused({name: value}, endpoint).param == name
        for holder in ("vllm_xargs", "extra_args"):
            error = refused({holder: {"ngram_size": 3, name: value}}, endpoint)
            assert error.param == f"{holder}.{name}"
            assert name in error.message
    assert let({name: None, "vllm_xargs": {name: None}}, endpoint).keys() <= {"vllm_xargs", "store"}


@pytest.mark.parametrize(
    ("content", "param", "says"),
    [
        ({"request_id": "a"}, "request_id", "X-Request-ID"),
        ({"background": True}, "background", "not kept"),
        ({"previous_response_id": "resp_1"}, "previous_response_id", "conversation"),
        ({"logits_processors": ["os.system"]}, "logits_processors", "code"),
        ({"session_id": "a" * 257}, "session_id", "256 characters"),
        ({"vllm_xargs": {"session_id": "a" * 257}}, "vllm_xargs.session_id", "256 characters"),
        ({"priority": 2**63}, "priority", str(2**63 - 1)),
        ({"priority": str(-(2**63) - 2**20)}, "priority", str(2**63 - 1)),
        ({"n": 129}, "n", "from 1 to 128"),
        ({"n": "16384"}, "n", "from 1 to 128"),
        ({"n": 0}, "n", "from 1 to 128"),
        ({"max_tokens": 2**31}, "max_tokens", "2147483647"),
        ({"max_completion_tokens": 2**63}, "max_completion_tokens", "2147483647"),
        ({"thinking": {"type": "enabled", "budget_tokens": 2**40}}, "thinking.budget_tokens", ""),
        ({"thinking_token_budget": 2**40}, "thinking_token_budget", "2147483647"),
        ({"stream_interval": 2**70}, "stream_interval", "2147483647"),
        ({"top_k": 2**64}, "top_k", "2147483647"),
        ({"length_penalty": "NaN"}, "length_penalty", "-10"),
        ({"length_penalty": 1e308}, "length_penalty", "10"),
        ({"repetition_penalty": 1e-300}, "repetition_penalty", "0.01"),
        ({"messages": [{}] * 8193}, "messages", "8192"),
        ({"allowed_token_ids": [1] * 1025}, "allowed_token_ids", "1024"),
        ({"logit_bias": {str(token): 1 for token in range(1025)}}, "logit_bias", "1024"),
        ({"stop_token_ids": [1] * 65}, "stop_token_ids", "64"),
        ({"bad_words": ["a"] * 200}, "bad_words", "128"),
        ({"bad_words": ["a" * 600]}, "bad_words", "512"),
        ({"stop": "a" * 1025}, "stop", "1024"),
        ({"stop": ["a", "a" * 1025]}, "stop", "1024"),
        ({"stop": ["a"] * 17}, "stop", "16"),
        (
            {"repetition_detection": {"max_pattern_size": 10**9, "min_count": 2}},
            "repetition_detection.max_pattern_size",
            "256",
        ),
        ({"structured_outputs": {"regex": "a" * 9000}}, "structured_outputs.regex", "8192"),
        ({"structured_outputs": {"grammar": "a" * 70000}}, "structured_outputs.grammar", "65536"),
        ({"structured_outputs": {"json": "a" * 140000}}, "structured_outputs.json", "131072"),
        ({"structured_outputs": {"choice": ["a"] * 1025}}, "structured_outputs.choice", "1024"),
        ({"response_format": {"schema": "a" * 140000}}, "response_format", "131072"),
        ({"text": {"format": "a" * 140000}}, "text", "131072"),
        ({"output_config": {"format": "a" * 140000}}, "output_config", "131072"),
        ({"tools": [{}] * 1025}, "tools", "1024"),
        ({"tools": [{"description": "a" * 2**20}]}, "tools", "1048576"),
        ({"vllm_xargs": {"a": "a" * 70000}}, "vllm_xargs", "65536"),
        (
            {"chat_template_kwargs": {"padding": "max_length", "max_length": 10**9}},
            None,  # either of the two
            "tokenizer",
        ),
        ({"prompt": ["a"] * 1025}, "prompt", "1024"),
        ({"prompt": [[1], [2]] * 100, "n": 6}, "n", "1024"),
        ({"metadata": {str(one): {} for one in range(20000)}}, None, "16384"),
    ],
)
def test_what_can_hurt_others_is_refused(
    content: dict[str, Any], param: str | None, says: str
) -> None:
    error = refused(content)
    assert says in error.message
    if param is not None:
        assert error.param == param
        assert param in error.message


def test_of_several_mistakes_the_first_is_told() -> None:
    """In each process alike, whatever the seed of its hashes is."""
    wrong = {"kv_transfer_params": PULL, "n": 10**6, "kv_cache_report_mode": "full"}
    for order in (list(wrong), list(wrong)[::-1]):
        assert refused({name: wrong[name] for name in order}).param == order[0]


def test_depth_is_bounded_wherever_it_is() -> None:
    deep: Any = {}
    for _ in range(gate.MAX_DEPTH - 1):
        deep = {"a": deep}
    assert let(deep)
    for content in ({"a": deep}, {"tools": [deep]}, {"messages": [{"content": deep}]}):
        assert "deep" in refused(content).message


def test_texts_for_vectors_are_bounded() -> None:
    assert let({"input": ["a"] * 2048}, Endpoint.EMBEDDINGS)
    assert let({"input": [7] * 100_000}, Endpoint.EMBEDDINGS)  # one text, as tokens
    assert refused({"input": ["a"] * 2049}, Endpoint.EMBEDDINGS).param == "input"
    assert refused({"input": [[1]] * 2049}, Endpoint.EMBEDDINGS).param == "input"
    assert let({"input": [{}] * 2049}, Endpoint.RESPONSES)


def test_what_clients_send_passes_unchanged() -> None:
    content = {
        "model": "tiny",
        "messages": [{"role": "user", "content": "{" * 10_000}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "n": 128,
        "temperature": 0.5,
        "top_k": -1,
        "max_tokens": 4096,
        "session_id": "a" * 256,
        "priority": -5,
        "vllm_xargs": {"ngram_size": 3, "session_id": "b"},
        "chat_template_kwargs": {"enable_thinking": False},
        "stop": ["\n\n", "END"],
        "logit_bias": {"7": -100},
        "bad_words": ["never", "ever"],
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}],
        "guided_json": {"unknown": "to vLLM"},
        "extra_args": {"unknown": 1},
    }
    for endpoint in (Endpoint.CHAT, Endpoint.COMPLETIONS, Endpoint.MESSAGES):
        assert let(content, endpoint) == content


def test_nothing_is_nothing() -> None:
    """Clients send null for what they leave out."""
    content = dict.fromkeys(gate.RULES)
    for endpoint in GENERATE:
        left = let(content, endpoint)
        assert "request_id" not in left  # vLLM does not take null there
        assert not any(left.values())
    assert "background" not in let({"background": False}, Endpoint.RESPONSES)


def test_answers_are_never_kept() -> None:
    assert let({}, Endpoint.RESPONSES) == {"store": False}
    assert let({"store": True}, Endpoint.RESPONSES) == {"store": False}
    assert let({"store": True}, Endpoint.CHAT) == {"store": True}


@pytest.mark.parametrize("value", ["a", [], {}, 1.5, True, [[]], {"a": []}])
def test_what_has_another_type_is_for_vllm_to_refuse(value: Any) -> None:
    for name, rule in gate.RULES.items():
        if isinstance(rule, Refused):
            continue
        try:
            let({name: value})
        except InvalidRequest as error:
            assert error.param == name


def test_a_session_is_bounded_alike_in_body_and_header() -> None:
    admission.check_headers({"X-Priority": "-999999999", "X-Session-ID": "a" * 256})
    for wrong in ({"X-Priority": "1000000000"}, {"X-Session-ID": "a" * 257}):
        with pytest.raises(InvalidRequest):
            admission.check_headers(wrong)


def test_headers_have_no_power_either() -> None:
    """vLLM reads these in requests too."""
    sent = {
        "x-data-parallel-rank": "3",
        "x-vllm-priority": "-1",
        "x-request-id": "theirs",
        "traceparent": "theirs",
        "x-priority": "1",
    }
    own = {"X-Request-ID": "ours"}
    assert admission.forwarded(sent, own) == [("x-request-id", "ours"), ("x-priority", "1")]


@pytest.mark.parametrize(
    ("loc", "param"),
    [
        (("function-wrap[__log_extra_fields__()]", "prompt"), "prompt"),
        (("prompt", "list[constrained-int]"), "prompt"),
        (("messages", 0, "content", "str"), "messages.0.content"),
        (("messages", 0, "ChatCompletionDeveloperMessageParam", "content"), "messages.0.content"),
        (("tokens", 3), "tokens.3"),
        (("str",), ""),
        ((), ""),
    ],
)
def test_complaints_name_fields_of_the_body_and_no_classes(
    loc: tuple[int | str, ...], param: str
) -> None:
    assert place(loc) == param
