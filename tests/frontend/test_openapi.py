"""`/openapi.json`, and the page that shows it."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import dynamo_cli.frontend
from dynamo_cli.config import FrontendConfig
from dynamo_cli.frontend import openapi
from dynamo_cli.frontend.admin.paths import Admin
from dynamo_cli.frontend.api import Api
from dynamo_cli.frontend.model_requests import GENERATE_PATHS
from dynamo_cli.frontend.status.pages import StatusPages
from dynamo_cli.messages.request import Ask, Endpoint, Question, Reply
from tests.frontend.stage import Stage, answer

KEY = {"Authorization": "Bearer sesame"}
GOOD: Any = {"responses": {"200": {"description": "The answer", "content": {}}}}
OF_PROCESSOR: Any = {
    "paths": {
        Endpoint.CHAT: {"post": GOOD | {"requestBody": {"content": {}}}},
        Endpoint.MESSAGES: {"post": GOOD},
        Question.MODELS: {"get": GOOD},
    },
    "components": {"schemas": {"Chat": {"type": "object"}}},
}


def whole(*, admin: bool = False, keys: bool = False) -> Any:
    """The document as a server sends it."""

    async def scenario() -> Any:
        config = FrontendConfig(port=0, admin=admin, api_keys=("sesame",) if keys else ())
        async with Stage(config) as stage:
            if keys:
                assert (await stage.get("/openapi.json"))[0] == 401
            asked = asyncio.create_task(stage.get("/openapi.json", headers=KEY))
            asked_of_processor = await stage.processor.take(Ask)
            assert asked_of_processor.question is Question.OPENAPI
            stage.processor.send(answer(asked_of_processor, json.dumps(OF_PROCESSOR).encode()))
            status, _, document = await asked
            assert status == 200
            return document

    return asyncio.run(scenario())


def test_every_operation_is_described_whole() -> None:
    document = whole()
    assert document["openapi"] == "3.1.0"
    assert document["components"]["schemas"]["Chat"] == {"type": "object"}
    ids = []
    for path, methods in document["paths"].items():
        for operation in methods.values():
            ids.append(operation["operationId"])
            responses = operation["responses"]
            assert {"200", "400", "401", "404", "503", "default"} <= responses.keys()
            assert all(one["description"] for one in responses.values())
            error = responses["default"]["content"]["application/json"]["schema"]["$ref"]
            shape = "AnthropicErrorBody" if path == Endpoint.MESSAGES else "Error"
            assert error == f"#/components/schemas/{shape}"
    assert len(set(ids)) == len(ids)
    assert document["paths"][Endpoint.CHAT]["post"]["requestBody"]
    assert document["paths"][Endpoint.CHAT]["post"]["responses"]["413"]
    assert "security" not in document


def test_it_describes_the_paths_that_are_there() -> None:
    plain, admin = whole()["paths"], whole(admin=True)["paths"]
    assert "post" not in plain["/dynamo/workers"]
    assert "/sleep" not in plain
    assert "post" in admin["/dynamo/workers"]
    assert "post" in admin["/sleep"]


def test_no_path_is_forgotten() -> None:
    admin = Admin(
        enabled=True,
        adapters=MagicMock(),
        engines=MagicMock(),
        scaling=MagicMock(),
        placement=MagicMock(),
    )
    status = StatusPages(*(MagicMock() for _ in range(4)), running=(), max_pending_bytes=1)
    bodies, meter, fanout, models = (MagicMock() for _ in range(4))
    api = Api(FrontendConfig(port=0), bodies, meter, fanout, models, status, admin)
    routes = {
        (path, method)
        for path, methods in api._routes.items()
        for method in methods
        if path not in GENERATE_PATHS and path != Question.MODELS
    }
    described = {
        (path, method.upper()) for path, methods in openapi.OWN.items() for method in methods
    }
    assert described == routes | {("/v1/models/{model}", "GET")}


def test_a_key_is_needed_where_the_document_says_so() -> None:
    document = whole(keys=True)
    assert set(document["components"]["securitySchemes"]) == {"bearer", "x-api-key"}
    assert document["security"]
    open_paths = [
        path for path, one in document["paths"].items() if one.get("get", {}).get("security") == []
    ]
    assert set(open_paths) == {"/", "/live", "/health", "/metrics", "/version", "/docs"}


def test_errors_of_the_processor_pass() -> None:
    async def scenario() -> None:
        async with Stage() as stage:
            asked = asyncio.create_task(stage.get("/openapi.json"))
            question = await stage.processor.take(Ask)
            stage.processor.send(Reply(question.request_id, 500, "application/json", b'{"a":1}'))
            assert (await asked)[0] == 500
        async with Stage(serving=False) as stage:
            assert (await stage.get("/openapi.json"))[0] == 503

    asyncio.run(scenario())


def test_the_page_needs_nothing_from_elsewhere() -> None:
    async def scenario() -> None:
        async with Stage(FrontendConfig(port=0, api_keys=("sesame",)), serving=False) as stage:
            status, headers, page = await stage.get("/docs")
            assert status == 200
            assert headers["Content-Type"] == "text/html; charset=utf-8"
            assert "default-src 'none'" in headers["Content-Security-Policy"]
            assert "openapi.json" in page

    asyncio.run(scenario())
    source = (Path(dynamo_cli.frontend.__file__).parent / "http" / "docs.html").read_text()
    assert not re.search(r"https?:|src=|@import|url\(|innerHTML", source)
    assert re.findall(r'href="([^"]*)"', source) == ["data:,", "openapi.json"]
