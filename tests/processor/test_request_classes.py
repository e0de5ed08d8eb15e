"""The gate against vLLM's own request classes, and the OpenAPI document that is made of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from dynamo_cli.engines.vllm import versions
from dynamo_cli.engines.vllm.front import gate
from dynamo_cli.engines.vllm.front.bounds import Refused
from dynamo_cli.messages.request import Endpoint, Question
from tests.support.driver import result_of

pytestmark = pytest.mark.engine  # no engine is started, but vLLM is imported

REF = "#/components/schemas/"

NESTED = {
    "AnthropicContentBlock": "content data id input is_error name signature source text thinking "
    "tool tool_name tool_use_id type",
    "AnthropicJsonOutputFormat": "json_schema type",
    "AnthropicMessage": "content role",
    "AnthropicOutputConfig": "effort format",
    "AnthropicThinkingConfigAdaptive": "display type",
    "AnthropicThinkingConfigDisabled": "type",
    "AnthropicThinkingConfigEnabled": "budget_tokens display type",
    "AnthropicTool": "defer_loading description input_schema name strict",
    "AnthropicToolChoice": "disable_parallel_tool_use name type",
    "AudioURL": "url",
    "ChatCompletionContentPartAudioEmbedsParam": "audio_embeds type uuid",
    "ChatCompletionContentPartAudioParam": "audio_url type",
    "ChatCompletionContentPartImageEmbedsParam": "image_embeds type uuid",
    "ChatCompletionContentPartPromptEmbedsParam": "data type",
    "ChatCompletionContentPartVideoEmbedsParam": "type uuid video_embeds",
    "ChatCompletionContentPartVideoParam": "type video_url",
    "ChatCompletionNamedFunction": "name",
    "ChatCompletionNamedToolChoiceParam": "function type",
    "ChatCompletionToolsParam": "defer_loading function type",
    "CustomChatCompletionContentPILImageParam": "image_pil uuid",
    "CustomChatCompletionContentSimpleAudioParam": "audio_url",
    "CustomChatCompletionContentSimpleImageParam": "image_url uuid",
    "CustomChatCompletionContentSimpleVideoParam": "uuid video_url",
    "CustomChatCompletionContentToolReferenceParam": "name type",
    "CustomChatCompletionMessageParam": "content name reasoning role task "
    "tool_call_id tool_calls tools",
    "CustomThinkCompletionContentParam": "closed thinking type",
    "FunctionDefinition": "defer_loading description name parameters strict",
    "JsonSchemaResponseFormat": "description json_schema name strict",
    "LegacyStructuralTag": "begin end structural_tag_schema",
    "LegacyStructuralTagResponseFormat": "structures triggers type",
    "PILImage": "image_pil",
    "RepetitionDetectionParams": " ".join(sorted(gate.REPETITION_DETECTION)),
    "ResponseFormat": "json_schema type",
    "StreamOptions": "continuous_usage_stats include_usage",
    "StructuralTagResponseFormat": "format type",
    "StructuredOutputsParams": " ".join(sorted(gate.STRUCTURED_OUTPUTS)),
    "VideoURL": "url",
}
"""The types of vLLM within the request classes, with fields that were reviewed.

None of these fields can harm an engine. If a new one appears, find out what vLLM does with it, add
a rule to `gate.py` if it can harm other requests, then add its name to this table.
"""

NEW_NESTED = {
    "0.33": {
        # The audio of a video; vLLM refuses it without --enable-mm-embeds, as the video itself.
        "ChatCompletionContentPartVideoEmbedsParam": "audio_embeds type uuid video_embeds",
        # Only repeated in the answer.
        "PromptCacheOptionsParam": "comparison_response_id mode prewarm ttl",
    },
}
"""What later releases have instead, or add."""

RELEASE = versions.release()


def since(release: str) -> tuple[str, ...]:
    """The supported releases after this one."""
    return versions.SUPPORTED[versions.SUPPORTED.index(release) + 1 :]


@pytest.fixture(scope="module")
def classes() -> Any:
    return result_of("tests.processor.classes")


def test_the_gate_knows_every_field_and_no_other(classes: Any) -> None:
    assert set(classes["top"]) == {*Endpoint}
    fields = {
        name
        for of_endpoint in classes["top"].values()
        for of_class in of_endpoint.values()
        for name in of_class
    }
    assert not fields - set(gate.RULES), "new in vLLM: decide, and give them a rule"
    newer = {name for release in since(RELEASE) for name in gate.NEW.get(release, ())}
    gone = set(gate.RULES) - fields - newer
    assert gone == gate.UNDECLARED, "gone from vLLM: delete their rules"
    assert not newer & fields
    assert classes["aliases"] == []  # the gate finds fields by their names


def test_what_is_inside_of_fields_is_known_too(classes: Any) -> None:
    found = {name: " ".join(fields) for name, fields in classes["nested"].items()}
    expected = dict(NESTED)
    for release in versions.SUPPORTED:
        expected |= {} if release in since(RELEASE) else NEW_NESTED.get(release, {})
    assert found == expected


def test_the_document_shows_what_passes_the_gate(classes: Any) -> None:
    document = classes["document"]
    for endpoint, of_endpoint in classes["top"].items():
        body = document["paths"][endpoint]["post"]["requestBody"]["content"]["application/json"]
        shown = {name for one in objects(body["schema"], document) for name in one["properties"]}
        declared = {name for fields in of_endpoint.values() for name in fields}
        refused = {name for name, rule in gate.RULES.items() if isinstance(rule, Refused)}
        assert shown == declared - refused
    chat = document["components"]["schemas"]["ChatCompletionRequest"]["properties"]
    assert {"minimum": 1, "maximum": gate.MAX_N, "type": "integer"} in chat["n"]["anyOf"]
    xargs = next(one for one in chat["vllm_xargs"]["anyOf"] if one["type"] == "object")
    assert set(xargs["propertyNames"]["not"]["enum"]) == set(gate.ENGINE_ARGUMENTS)
    outputs = document["components"]["schemas"]["StructuredOutputsParams"]["properties"]
    assert outputs["regex"]["anyOf"][0]["maxLength"] == 8192


def test_the_document_is_whole(classes: Any) -> None:
    document = classes["document"]
    for ref in refs(document):
        assert ref.removeprefix(REF) in document["components"]["schemas"]
    assert "get" in document["paths"][Question.MODELS]


def objects(schema: Any, document: Any) -> Iterator[Any]:
    if "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].removeprefix(REF)]
    for one in schema.get("anyOf", ()):
        yield from objects(one, document)
    if "properties" in schema:
        yield schema


def refs(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for one in value.values():
            yield from refs(one)
    elif isinstance(value, list):
        for one in value:
            yield from refs(one)
