"""The OpenAPI document is right, and fields that it leaves out are refused."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest

from tests.support.requests import post
from tests.support.server import Server

pytestmark = pytest.mark.engine

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}
TRANSFER = {"do_remote_prefill": True}
ASKED = [
    ("/v1/chat/completions", CHAT),
    ("/v1/chat/completions", CHAT | {"n": 2, "return_token_ids": True, "seed": 1}),
    ("/v1/completions", {"prompt": "Once", "max_tokens": 4}),
    ("/v1/completions", {"prompt": [[1, 2], [3]], "max_tokens": 4, "echo": True}),
    ("/v1/responses", {"input": "Hello", "max_output_tokens": 4}),
    ("/v1/responses", {"input": [{"role": "user", "content": "Hi"}], "max_output_tokens": 4}),
    ("/v1/messages", CHAT | {"model": "tiny", "stop_sequences": ["#"]}),
    ("/v1/messages/count_tokens", {"model": "tiny", "messages": CHAT["messages"]}),
    ("/tokenize", {"prompt": "Hello", "return_token_strs": True}),
    ("/tokenize", {"messages": CHAT["messages"]}),
    ("/detokenize", {"tokens": [1, 2, 3]}),
]
ENDPOINTS = dict(reversed(ASKED))


@pytest.fixture(scope="module")
def document(server: Server) -> Any:
    status, document = server.get("/openapi.json", timeout_s=60)
    assert status == 200
    return document


def check(value: Any, schema: Any, document: Any) -> None:
    whole = {"components": document["components"], **schema}
    jsonschema.Draft202012Validator(whole).validate(value)


@pytest.mark.parametrize(("path", "body"), ASKED)
def test_answers_are_as_described(
    path: str, body: dict[str, Any], server: Server, document: Any
) -> None:
    described = document["paths"][path]["post"]
    check(body, described["requestBody"]["content"]["application/json"]["schema"], document)
    status, content = post(server, path, body)
    assert status == 200, content
    check(content, described["responses"]["200"]["content"]["application/json"]["schema"], document)


def test_it_describes_what_this_model_can_do(document: Any) -> None:
    served = {
        path for path, one in document["paths"].items() if "requestBody" in one.get("post", {})
    }
    assert served - {"/dynamo/placement"} == set(ENDPOINTS)
    assert "kv_transfer_params" not in str(
        document["components"]["schemas"]["ChatCompletionRequest"]["properties"].keys()
    )


@pytest.mark.parametrize("path", ENDPOINTS)
@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"kv_transfer_params": TRANSFER}, "kv_transfer_params"),
        ({"vllm_xargs": {"kv_transfer_params": "x"}}, "vllm_xargs.kv_transfer_params"),
        ({"session_id": "a" * 257}, "session_id"),
    ],
)
def test_what_it_leaves_out_is_refused_by_name(
    path: str, more: dict[str, Any], param: str, server: Server, document: Any
) -> None:
    for stream in (False, True):
        status, content = post(server, path, ENDPOINTS[path] | more | {"stream": stream})
        assert status == 400
        described = document["paths"][path]["post"]["responses"]["400"]
        check(content, described["content"]["application/json"]["schema"], document)
        assert param in content["error"]["message"]
        if "messages" not in path:
            assert content["error"]["param"] == param


def test_null_is_as_good_as_nothing(server: Server) -> None:
    nothing = dict.fromkeys(("kv_transfer_params", "request_id", "session_id", "n", "stop"))
    assert post(server, "/v1/chat/completions", CHAT | nothing)[0] == 200


def test_what_is_wrong_with_an_answer_is_in_the_shape_of_its_endpoint(
    server: Server, document: Any
) -> None:
    for path in ("/dynamo/decisions?limit=0", "/v1/models/none"):
        content = server.get(path)[1]
        check(content, document["components"]["schemas"]["Error"], document)
