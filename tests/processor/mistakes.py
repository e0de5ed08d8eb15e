"""Wrong requests to each endpoint that generates text."""

from __future__ import annotations

from typing import Any

from dynamo_cli.messages.request import Endpoint

CONTEXT = 512
"""Context length of the model, tokens."""

POOLING = ("--runner", "pooling", "--convert", "embed")

SAID = [{"role": "user", "content": "hello"}]
ENDPOINTS: dict[Endpoint, dict[str, Any]] = {
    Endpoint.COMPLETIONS: {"model": "tiny", "prompt": "hello", "max_tokens": 8},
    Endpoint.CHAT: {"model": "tiny", "messages": SAID, "max_tokens": 8},
    Endpoint.RESPONSES: {"model": "tiny", "input": "hello", "max_output_tokens": 8},
    Endpoint.MESSAGES: {"model": "tiny", "messages": SAID, "max_tokens": 8},
}
BAD_SCHEMA = {"type": "no such type"}
LONG = "word " * CONTEXT
BAD_TOOL = {"name": "f", "strict": True, "parameters": BAD_SCHEMA}
CALLABLE = {"type": "function", "function": BAD_TOOL}

ANYWHERE: dict[str, dict[str, Any]] = {
    "another model": {"model": "other"},
    "a model that is a number": {"model": 7},
    "a temperature in words": {"temperature": "hot"},
    "a temperature below zero": {"temperature": -1},
    "top_p above one": {"top_p": 7},
}
SAMPLED = {
    "a bias for a token that is not there": {"logit_bias": {"99999": 1}},
    "a bias without a number": {"logit_bias": {"a": "b"}},
    "a regular expression that ends too early": {"structured_outputs": {"regex": "("}},
    "a grammar that is none": {"structured_outputs": {"grammar": "root ::="}},
    "two constraints": {"structured_outputs": {"regex": "a", "choice": ["a"]}},
    "a token to stop at that is not there": {"stop_token_ids": ["x"]},
    "an order without a meaning": {"top_k": -7},
    "a penalty out of range": {"repetition_penalty": -1},
}
OWN: dict[Endpoint, dict[str, dict[str, Any]]] = {
    Endpoint.COMPLETIONS: SAMPLED
    | {
        "no prompt": {"prompt": None},
        "an empty prompt": {"prompt": []},
        "a prompt that is too long": {"prompt": LONG},
        "tokens that are not there": {"prompt": [99999]},
        "an answer that is too long": {"max_tokens": CONTEXT * 2},
        "an answer of no token": {"max_tokens": 0},
        "too many probabilities": {"logprobs": 21},
        "fewer than no answers": {"n": -1},
        "a schema that is none": {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "a", "schema": BAD_SCHEMA},
            }
        },
    },
    Endpoint.CHAT: SAMPLED
    | {
        "no messages": {"messages": []},
        "messages that are none": {"messages": "hello"},
        "a role that is not there": {"messages": [{"role": 7, "content": "a"}]},
        "messages that are too long": {"messages": [{"role": "user", "content": LONG}]},
        "an answer of no token": {"max_tokens": 0},
        "an answer that is too long": {"max_tokens": CONTEXT * 2},
        "too many probabilities": {"logprobs": True, "top_logprobs": 21},
        "a tool with a bad schema": {"tools": [CALLABLE], "tool_choice": "required"},
        "a tool that is not there": {
            "tools": [CALLABLE],
            "tool_choice": {"type": "function", "function": {"name": "g"}},
        },
        "a choice that is none": {"tools": [CALLABLE], "tool_choice": "sometimes"},
        "a schema that is none": {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "a", "schema": BAD_SCHEMA},
            }
        },
        "a template that cannot be read": {"chat_template": "{% if"},
    },
    Endpoint.RESPONSES: {
        "too many probabilities": {
            "top_logprobs": 21,
            "include": ["message.output_text.logprobs"],
        },
        "a schema that is none": {
            "text": {"format": {"type": "json_schema", "name": "a", "schema": BAD_SCHEMA}}
        },
        "a regular expression that ends too early": {"structured_outputs": {"regex": "("}},
        "a bias for a token that is not there": {"logit_bias": {"99999": 1}},
        "a strict tool with a bad schema": {
            "tools": [{"type": "function", **BAD_TOOL}],
            "tool_choice": "required",
        },
        "no input": {"input": None},
        "an input that is too long": {"input": LONG},
        "an item that is none": {"input": [{"type": "no such type"}]},
        "an answer of no token": {"max_output_tokens": 0},
        "an answer that is too long": {"max_output_tokens": CONTEXT * 2},
        "a response that is not there": {"previous_response_id": "resp_1"},
        "a tool of no type": {"tools": [{"type": "no such type"}]},
        "a penalty out of range": {"repetition_penalty": -1},
    },
    Endpoint.MESSAGES: {
        "no messages": {"messages": []},
        "messages that are none": {"messages": "hello"},
        "a role that is not there": {"messages": [{"role": "king", "content": "a"}]},
        "a block that is none": {"messages": [{"role": "user", "content": [{"type": "x"}]}]},
        "messages that are too long": {"messages": [{"role": "user", "content": LONG}]},
        "an answer of no token": {"max_tokens": 0},
        "an answer that is too long": {"max_tokens": CONTEXT * 2},
        "no length": {"max_tokens": None},
        "a schema that is none": {
            "output_config": {"format": {"type": "json_schema", "schema": BAD_SCHEMA}}
        },
        "a tool with a bad schema": {
            "tools": [{"name": "f", "input_schema": BAD_SCHEMA}],
            "tool_choice": {"type": "any"},
        },
    },
}
MISTAKES = [
    (endpoint, name, base | wrong)
    for endpoint, base in ENDPOINTS.items()
    for name, wrong in (ANYWHERE | OWN[endpoint]).items()
]
