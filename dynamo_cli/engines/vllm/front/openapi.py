"""The OpenAPI description of a processor's endpoints, from the classes that it really uses.

It has bodies and successful answers only: the frontend adds its own paths and the errors.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema
from vllm.entrypoints.anthropic.protocol import (
    AnthropicCountTokensResponse,
    AnthropicMessagesResponse,
)
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionResponse
from vllm.entrypoints.openai.completion.protocol import CompletionResponse
from vllm.entrypoints.openai.responses.protocol import ResponsesResponse
from vllm.entrypoints.pooling.embed.protocol import EmbeddingResponse
from vllm.entrypoints.serve.engine.protocol import ModelList
from vllm.entrypoints.serve.tokenize.protocol import DetokenizeResponse, TokenizeResponse

from dynamo_cli.engines.vllm.front import gate
from dynamo_cli.engines.vllm.front.bounds import BoundedJson, FieldRule, Refused
from dynamo_cli.messages.request import Endpoint, Question

ANSWERS: Mapping[Endpoint | Question, Any] = {
    Endpoint.CHAT: ChatCompletionResponse,
    Endpoint.COMPLETIONS: CompletionResponse,
    Endpoint.RESPONSES: ResponsesResponse,
    Endpoint.MESSAGES: AnthropicMessagesResponse,
    Endpoint.COUNT_TOKENS: AnthropicCountTokensResponse,
    Endpoint.EMBEDDINGS: EmbeddingResponse,
    Endpoint.TOKENIZE: TokenizeResponse,
    Endpoint.DETOKENIZE: DetokenizeResponse,
    Question.MODELS: ModelList,
}

_SUMMARIES: Mapping[Endpoint | Question, str] = {
    Endpoint.CHAT: "Continue a conversation",
    Endpoint.COMPLETIONS: "Continue a text",
    Endpoint.RESPONSES: "Continue a conversation (OpenAI's Responses API)",
    Endpoint.MESSAGES: "Continue a conversation (Anthropic's Messages API)",
    Endpoint.COUNT_TOKENS: "Count the tokens of a conversation",
    Endpoint.EMBEDDINGS: "Turn texts into vectors",
    Endpoint.TOKENIZE: "Turn a text or a conversation into tokens",
    Endpoint.DETOKENIZE: "Turn tokens into a text",
    Question.MODELS: "List the models",
}

_STREAMED = (Endpoint.CHAT, Endpoint.COMPLETIONS, Endpoint.RESPONSES, Endpoint.MESSAGES)
_REF = "#/components/schemas/"
_TYPES = {  # to which types of values a bound applies
    "minimum": ("integer", "number"),
    "maximum": ("integer", "number"),
    "maxLength": ("string",),
    "maxItems": ("array",),
    "propertyNames": ("object",),
}


class _Schemas(GenerateJsonSchema):
    def handle_invalid_for_json_schema(
        self, schema: core_schema.CoreSchema, error_info: str
    ) -> JsonSchemaValue:
        """Allow anything where JSON Schema cannot express the class."""
        return {}


def document(requests: Mapping[Endpoint, TypeAdapter[Any]]) -> dict[str, Any]:
    """Return paths and schemas.

    Args:
        requests: the endpoints that this model has, and the classes of their bodies.
    """
    answered: tuple[Endpoint | Question, ...] = (*requests, Question.MODELS)
    answers = {one: TypeAdapter(ANSWERS[one]) for one in answered}
    inputs = [
        *(((one, "body"), "validation", adapter) for one, adapter in requests.items()),
        # Validation, not serialization: answers may leave fields out.
        *(((one, "answer"), "validation", adapter) for one, adapter in answers.items()),
    ]
    schemas, shared = TypeAdapter.json_schemas(
        inputs,  # type: ignore[arg-type]
        ref_template=_REF + "{model}",
        schema_generator=_Schemas,
    )
    components: dict[str, Any] = shared.get("$defs", {})
    paths: dict[str, Any] = {}
    for endpoint in answers:
        answer = schemas[(endpoint, "answer"), "validation"]
        operation = _operation(endpoint, answer)
        if isinstance(endpoint, Endpoint):
            body = schemas[(endpoint, "body"), "validation"]
            for one in _objects(body, components):
                _narrow(one, gate.rules_of(endpoint), components)
            operation["requestBody"] = {"required": True, "content": _json(body)}
        paths[str(endpoint)] = {"post" if isinstance(endpoint, Endpoint) else "get": operation}
    return {"paths": paths, "components": {"schemas": components}}


def _operation(endpoint: Endpoint | Question, answer: JsonSchemaValue) -> dict[str, Any]:
    content = _json(answer)
    if endpoint in _STREAMED:
        content["text/event-stream"] = {"schema": {"type": "string"}}
    if endpoint is Endpoint.EMBEDDINGS:
        content["application/octet-stream"] = {"schema": {}}
    return {
        "summary": _SUMMARIES[endpoint],
        "responses": {"200": {"description": "The answer", "content": content}},
    }


def _json(schema: JsonSchemaValue) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _objects(schema: JsonSchemaValue, components: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the schemas of all objects that a schema allows."""
    if "$ref" in schema:
        yield from _objects(components[schema["$ref"].removeprefix(_REF)], components)
    for one in schema.get("anyOf", ()):
        yield from _objects(one, components)
    if "properties" in schema:
        yield schema


def _narrow(
    schema: dict[str, Any], rules: Mapping[str, FieldRule], components: dict[str, Any]
) -> None:
    """Remove fields that the gate refuses, and add its bounds to the others."""
    properties = schema["properties"]
    for name in rules.keys() & properties.keys():
        rule = rules[name]
        if isinstance(rule, Refused):
            del properties[name]
            continue
        _bound(properties[name], rule.schema())
        if isinstance(rule, BoundedJson) and rule.inner is not None:
            for one in _objects(properties[name], components):
                _narrow(one, rule.inner, components)


def _bound(schema: dict[str, Any], bounds: dict[str, Any]) -> None:
    for one in (schema, *schema.get("anyOf", ())):
        for keyword, value in bounds.items():
            if one.get("type") in _TYPES[keyword]:
                one[keyword] = value
