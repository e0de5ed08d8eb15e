"""Turns request bodies into objects of vLLM's own classes, and says where vLLM handles them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson
from pydantic import BaseModel, TypeAdapter, ValidationError
from vllm.entrypoints.anthropic.protocol import AnthropicMessagesRequest
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.entrypoints.openai.responses.protocol import ResponsesRequest
from vllm.entrypoints.pooling.embed.protocol import EmbeddingRequest
from vllm.entrypoints.serve.tokenize.protocol import DetokenizeRequest, TokenizeRequest

from dynamo_cli.engines.vllm.front import anthropic, gate
from dynamo_cli.engines.vllm.front.failures import validation_failure
from dynamo_cli.engines.vllm.front.short import Short
from dynamo_cli.errors import InvalidRequest
from dynamo_cli.messages.request import Endpoint


@dataclass(frozen=True, slots=True)
class Route:
    """Where vLLM handles an endpoint.

    Attributes:
        request: adapter of the pydantic class of its bodies.
        handler: name of the serving object in vLLM's application state.
        method: name of the method of that object.
    """

    request: TypeAdapter[Any]
    handler: str
    method: str


def _field(request: type[BaseModel], name: str) -> dict[str, TypeAdapter[Any]]:
    kind: Any = request.model_fields[name].annotation
    return {name: TypeAdapter(kind)}


ROUTES: dict[Endpoint, Route] = {
    Endpoint.CHAT: Route(
        TypeAdapter(ChatCompletionRequest), "openai_serving_chat", "create_chat_completion"
    ),
    Endpoint.COMPLETIONS: Route(
        TypeAdapter(CompletionRequest), "openai_serving_completion", "create_completion"
    ),
    Endpoint.RESPONSES: Route(
        TypeAdapter(ResponsesRequest), "openai_serving_responses", "create_responses"
    ),
    Endpoint.MESSAGES: Route(anthropic.MESSAGES, anthropic.HANDLER, "create_messages"),
    Endpoint.COUNT_TOKENS: Route(anthropic.COUNT_TOKENS, anthropic.HANDLER, "count_tokens"),
    Endpoint.EMBEDDINGS: Route(TypeAdapter(EmbeddingRequest), "serving_embedding", "__call__"),
    Endpoint.TOKENIZE: Route(
        TypeAdapter(TokenizeRequest), "serving_tokenization", "create_tokenize"
    ),
    Endpoint.DETOKENIZE: Route(
        TypeAdapter(DetokenizeRequest), "serving_tokenization", "create_detokenize"
    ),
}

_SHORT = Short()
_CHAT = _field(ChatCompletionRequest, "messages")
_MESSAGES = _field(AnthropicMessagesRequest, "messages")
_LONG_LISTS: dict[Endpoint, dict[str, TypeAdapter[Any]]] = {
    **dict.fromkeys((Endpoint.CHAT, Endpoint.TOKENIZE, Endpoint.EMBEDDINGS), _CHAT),
    **dict.fromkeys((Endpoint.MESSAGES, Endpoint.COUNT_TOKENS), _MESSAGES),
    Endpoint.RESPONSES: _field(ResponsesRequest, "input"),
}
"""By endpoint, the fields that may be lists of thousands of objects."""


def request_of(endpoint: Endpoint, body: bytes, limits: gate.ModelLimits) -> Any:
    """Return a body as an object of the class that vLLM has for the endpoint. May take seconds.

    Raises:
        InvalidRequest, ValidationError, VLLMError: the body is no such request.
    """
    weight = gate.check_weight(body, limits)
    content = orjson.loads(body)
    gate.check(endpoint, content, weight, limits)
    try:
        if (plain := _plain(endpoint, content)) is not None:
            return plain
        for name, entries in _LONG_LISTS.get(endpoint, {}).items():
            _check_entries(name, entries, content)
        return ROUTES[endpoint].request.validate_python(content)
    except (TypeError, AttributeError, KeyError) as error:
        # vLLM's own validators raise these for fields of a type that they do not expect.
        raise InvalidRequest(f"the body does not have the shape of {endpoint}: {error}.") from error


def _plain(endpoint: Endpoint, content: dict[str, Any]) -> Any:
    """Return the request of a plain body; None if pydantic must make it."""
    match endpoint:
        case Endpoint.CHAT:
            return _SHORT.chat(content)
        case Endpoint.COMPLETIONS:
            return _SHORT.completion(content)
    return None


def _check_entries(name: str, entries: TypeAdapter[Any], content: dict[str, Any]) -> None:
    """Check a long list piece by piece, and stop at the first piece with an error."""
    value = content.get(name)
    if not isinstance(value, list):
        return
    pieces = list(_pieces(value))
    for first, after in pieces if len(pieces) > 1 else ():
        try:
            entries.validate_python(value[first:after])
        except ValidationError as error:
            said = validation_failure(error).message
            raise InvalidRequest(f"{name}, from entry {first}: {said}", param=name) from error


def _pieces(entries: list[Any]) -> Iterator[tuple[int, int]]:
    """Yield ranges of entries, as begin and end, that have at most about `gate.MANY` parts."""
    first = parts = 0
    for after, entry in enumerate(entries, 1):
        lists = entry.values() if isinstance(entry, dict) else ()
        parts += 1 + sum(len(one) for one in lists if isinstance(one, list))
        if parts >= gate.MANY or after == len(entries):
            yield first, after
            first, parts = after, 0
