"""The OpenAPI document of the whole server. Pure.

A processor describes the endpoints of the model, from the classes of their bodies and answers. This
module adds the frontend's own paths and the shapes of errors.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from dynamo_cli import __version__
from dynamo_cli.errors import ANTHROPIC_TYPES
from dynamo_cli.frontend.admin.engines import LEVELS, MODES
from dynamo_cli.frontend.admin.paths import LOAD_ADAPTER, UNLOAD_ADAPTER
from dynamo_cli.frontend.http.admission import OPEN_PATHS
from dynamo_cli.frontend.status import inspect
from dynamo_cli.messages.request import Question
from dynamo_cli.origin import JSON
from dynamo_cli.shapes import ANTHROPIC
from dynamo_cli.watch.decisions import KEPT

OperationObject = dict[str, Any]

DOCS_PATH = "/docs"

_DESCRIPTION = """\
A large language model on one host, behind OpenAI's API and Anthropic's Messages API.
Fields that are not listed are ignored, except those that only servers send each other."""

_NULLABLE = {"type": ["string", "null"]}
_TEXT = {"type": "string"}
_BOUND = {"type": "integer", "minimum": 0}

_ERROR_SCHEMAS: dict[str, Any] = {
    "Error": {
        "type": "object",
        "required": ["error"],
        "properties": {
            "error": {
                "type": "object",
                "required": ["message", "type", "param", "code"],
                "properties": {
                    "message": _TEXT,
                    "type": _TEXT,
                    "param": _NULLABLE,
                    "code": {"type": ["string", "integer", "null"]},
                },
            }
        },
    },
    "AnthropicErrorBody": {
        "type": "object",
        "required": ["type", "error"],
        "properties": {
            "type": {"const": "error"},
            "error": {
                "type": "object",
                "required": ["type", "message"],
                "properties": {
                    "type": {"enum": sorted({*ANTHROPIC_TYPES.values(), "api_error"})},
                    "message": _TEXT,
                },
            },
        },
    },
}

_GENERATE_ERRORS = {
    "400": "The body is not valid, or the model cannot do this",
    "401": "An API key is needed",
    "404": "There is no such model",
    "405": "The path takes another method",
    "408": "The request took too long to come in",
    "413": "The body is too large",
    "415": "The body is not JSON",
    "429": "Too many requests are in flight",
    "431": "The headers are too large",
    "500": "A bug, or a failure of the engine",
    "503": "Nothing can serve right now; try again",
    "default": "Any other failure",
}
_OWN_ERRORS = {
    name: _GENERATE_ERRORS[name] for name in ("400", "401", "404", "405", "503", "default")
}


def complete(
    document: dict[str, Any], exists: Callable[[str, str], bool], *, has_keys: bool
) -> dict[str, Any]:
    """The document of the whole server.

    Args:
        document: paths and schemas of a processor; it is changed.
        exists: whether this server takes a method at a path.
        has_keys: whether clients need an API key.
    """
    paths: dict[str, dict[str, OperationObject]] = document["paths"]
    for path, method, operation in _operations(OWN):
        if exists(path, method.upper()):
            paths.setdefault(str(path), {})[method] = dict(operation)
    for path, method, operation in _operations(paths):
        operation["operationId"] = "_".join([method, *re.findall(r"\w+", path)])
        operation["responses"] = _errors(path, method) | operation["responses"]
        if has_keys and path in OPEN_PATHS:
            operation["security"] = []
    components = document["components"]
    components["schemas"].update(_ERROR_SCHEMAS)
    whole = {
        "openapi": "3.1.0",
        "info": {"title": "dynamo-llm", "version": __version__, "description": _DESCRIPTION},
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": components,
    }
    if has_keys:
        components["securitySchemes"] = {
            "bearer": {"type": "http", "scheme": "bearer"},
            "x-api-key": {"type": "apiKey", "in": "header", "name": "X-Api-Key"},
        }
        whole["security"] = [{"bearer": []}, {"x-api-key": []}]
    return whole


def _operations(
    paths: Mapping[str, Mapping[str, OperationObject]],
) -> Iterator[tuple[str, str, OperationObject]]:
    for path, methods in paths.items():
        for method, operation in methods.items():
            yield path, method, operation


def _errors(path: str, method: str) -> dict[str, Any]:
    name = "AnthropicErrorBody" if path in ANTHROPIC else "Error"
    schema = {"$ref": f"#/components/schemas/{name}"}
    return {
        status: {"description": description, "content": {JSON: {"schema": schema}}}
        for status, description in (_GENERATE_ERRORS if method == "post" else _OWN_ERRORS).items()
    }


def _answer(content_type: str, schema: Any, status: str = "200") -> dict[str, Any]:
    content = {content_type: {"schema": schema}}
    return {status: {"description": "The answer", "content": content}}


def _operation(
    summary: str,
    *parameters: dict[str, Any],
    answer: str = JSON,
    status: str = "200",
    body: Any = None,
) -> OperationObject:
    schema = {"type": "object"} if answer == JSON else _TEXT
    operation: OperationObject = {"summary": summary, "responses": _answer(answer, schema, status)}
    if parameters:
        operation["parameters"] = list(parameters)
    if body is not None:
        operation["requestBody"] = {"required": True, "content": {JSON: {"schema": body}}}
    return operation


def _query(name: str, schema: Any) -> dict[str, Any]:
    return {"name": name, "in": "query", "schema": schema}


def _object(required: tuple[str, ...], **properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": list(required), "properties": properties}


_LIMIT = _query("limit", {"type": "integer", "minimum": 1, "maximum": KEPT})
_OF_REQUEST = _query("request_id", _TEXT)
_OF_MOVED = _query("moved", {"type": "boolean"})
_STATE = _query("state", {"type": "string", "enum": [inspect.ENDED, inspect.RUNNING, inspect.ALL]})
_AFTER = _query("after", {"type": "integer", "minimum": 0})
_HEALTH = _operation("Whether requests can be answered, and why not")
_HEALTH["responses"] |= _answer(JSON, {"type": "object"}, "503")

OWN: Mapping[str, Mapping[str, OperationObject]] = {
    Question.MODELS + "/{model}": {
        "get": _operation("One model")
        | {"parameters": [{"name": "model", "in": "path", "required": True, "schema": _TEXT}]}
    },
    "/": {"get": _operation("What is served, a command to try, and links", answer="text/html")},
    "/live": {"get": _operation("Whether the server runs, whatever its engines do")},
    "/health": {"get": _HEALTH},
    "/version": {"get": _operation("The version of the server")},
    "/metrics": {"get": _operation("Metrics for Prometheus", answer="text/plain")},
    "/dynamo/snapshot": {"get": _operation("The state of the whole process tree")},
    "/dynamo/decisions": {
        "get": _operation(
            "The last routing decisions, newest first",
            _LIMIT,
            _query("worker", {"anyOf": [_BOUND | {"maximum": 1 << 16}, {"const": inspect.NO_ONE}]}),
            _OF_REQUEST,
            _OF_MOVED,
        )
    },
    "/dynamo/timeline": {
        "get": _operation(
            "Timelines of the last requests", _LIMIT, _OF_REQUEST, _OF_MOVED, _STATE, _AFTER
        )
    },
    "/dynamo/stream": {
        "get": _operation(
            "Snapshots, decisions and log lines as they come",
            _query(
                "interval",
                {
                    "type": "number",
                    "minimum": inspect.MIN_INTERVAL_S,
                    "maximum": inspect.MAX_INTERVAL_S,
                },
            ),
            answer="text/event-stream",
        )
    },
    "/dynamo/record": {
        "get": _operation(
            "Lengths and hashes of the last requests, as --record writes them",
            _query("seconds", {"type": "number", "minimum": 1, "maximum": inspect.MAX_RECORD_S}),
            answer="application/x-ndjson",
        )
    },
    "/dynamo/placement": {
        "get": _operation("Where prompts are prefilled"),
        "post": _operation(
            "Change when prompts are prefilled elsewhere",
            body=_object(
                (),
                max_local_prefill_length=_BOUND,
                max_prefill_queue_size=_BOUND | {"type": ["integer", "null"]},
            ),
        ),
    },
    "/dynamo/workers": {
        "get": _operation("The number of workers, and the goal"),
        "post": _operation(
            "Start or end workers",
            status="202",
            body=_object(("count",), count={"type": "integer", "minimum": 1})
            | {"additionalProperties": False},
        ),
    },
    Question.OPENAPI: {"get": _operation("This document")},
    DOCS_PATH: {"get": _operation("This document for people", answer="text/html")},
    LOAD_ADAPTER: {
        "post": _operation(
            "Load a LoRA adapter",
            answer="text/plain",
            body=_object(
                ("lora_name", "lora_path"),
                lora_name=_TEXT,
                lora_path=_TEXT,
                is_3d_lora_weight={"type": "boolean"},
            ),
        )
    },
    UNLOAD_ADAPTER: {
        "post": _operation(
            "Unload a LoRA adapter",
            answer="text/plain",
            body=_object(("lora_name",), lora_name=_TEXT),
        )
    },
    "/sleep": {
        "post": _operation(
            "Free the memory of the engines",
            _query("level", {"enum": list(LEVELS)}),
            _query("mode", {"enum": list(MODES)}),
        )
    },
    "/wake_up": {
        "post": _operation(
            "Wake up the engines", _query("tags", {"type": "array", "items": {"type": "string"}})
        )
    },
    "/is_sleeping": {"get": _operation("Whether engines sleep, and which")},
    "/reset_prefix_cache": {
        "post": _operation(
            "Forget the prefix caches", _query("reset_running_requests", {"type": "boolean"})
        )
    },
}
"""The frontend's own paths; some exist only with some options."""
