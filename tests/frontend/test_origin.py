"""From which web pages and under which host names the server may be used."""

from __future__ import annotations

import asyncio

import pytest

from dynamo_cli.config import FrontendConfig, OriginRules
from dynamo_cli.errors import Forbidden, UnsupportedMediaType
from dynamo_cli.messages.request import Head, Submit
from dynamo_cli.origin import OriginGate, check_json, is_loopback, name_of
from tests.frontend.stage import SSE, Stage, answer, chunks, finish

PAGE, EVIL = "https://chat.example", "https://evil.example"
LOCAL, PUBLIC = "127.0.0.1", "0.0.0.0"
CHAT = OriginRules(origins=(PAGE,))


@pytest.mark.parametrize(
    ("listening", "rules", "headers", "refused"),
    [
        (LOCAL, OriginRules(), {}, ""),
        (LOCAL, OriginRules(), {"Host": "localhost"}, ""),
        (LOCAL, OriginRules(), {"Host": "LOCALHOST.:8181"}, ""),
        (LOCAL, OriginRules(), {"Host": "127.0.0.1:1"}, ""),
        (LOCAL, OriginRules(), {"Host": "[::1]:8181"}, ""),
        (LOCAL, OriginRules(), {"Host": "evil.example:8181"}, "--allowed-hosts"),
        (LOCAL, OriginRules(), {"Host": "localhost.evil.example"}, "--allowed-hosts"),
        (LOCAL, OriginRules(), {"Host": "localhost@evil.example"}, "--allowed-hosts"),
        (LOCAL, OriginRules(), {"Host": ""}, "--allowed-hosts"),
        (LOCAL, OriginRules(), {"Host": "192.168.0.7:8181"}, "--allowed-hosts"),
        ("127.0.0.9", OriginRules(), {"Host": "127.0.0.9"}, ""),
        (LOCAL, OriginRules(hosts=("a.example",)), {"Host": "a.example"}, ""),
        (LOCAL, OriginRules(hosts=("a.example",)), {"Host": "localhost"}, ""),
        (LOCAL, OriginRules(hosts=("*.example",)), {"Host": "a.example:1"}, ""),
        (LOCAL, OriginRules(hosts=("*.example",)), {"Host": "aexample"}, "--allowed-hosts"),
        (LOCAL, OriginRules(hosts=("*",)), {"Host": "evil.example"}, ""),
        (PUBLIC, OriginRules(), {"Host": "any.example"}, ""),
        (PUBLIC, OriginRules(hosts=("a.example",)), {"Host": "b.example"}, "--allowed-hosts"),
        (LOCAL, OriginRules(), {"Host": "localhost:1", "Origin": "http://localhost:1"}, ""),
        (LOCAL, OriginRules(), {"Host": "localhost:1", "Origin": "http://127.0.0.1:1"}, ""),
        (PUBLIC, OriginRules(), {"Host": "a.example", "Origin": "https://a.example"}, ""),
        (PUBLIC, OriginRules(), {"Host": "a.example:443", "Origin": "https://a.example"}, ""),
        (LOCAL, OriginRules(), {"Host": "localhost:1", "Origin": "http://localhost:2"}, "origins"),
        (LOCAL, OriginRules(), {"Host": "localhost:1", "Origin": EVIL}, "--allowed-origins"),
        (LOCAL, OriginRules(), {"Origin": "http://localhost"}, "--allowed-origins"),
        (LOCAL, OriginRules(), {"Host": "localhost", "Origin": "null"}, "--allowed-origins"),
        (LOCAL, OriginRules(), {"Host": "localhost", "Origin": "http://["}, "--allowed-origins"),
        (LOCAL, CHAT, {"Host": "localhost", "Origin": PAGE}, ""),
        (LOCAL, CHAT, {"Host": "localhost", "Origin": EVIL}, "--allowed-origins"),
        (LOCAL, CHAT, {"Host": "evil.example", "Origin": PAGE}, "--allowed-hosts"),
        (LOCAL, OriginRules(origins=("*",)), {"Host": "localhost", "Origin": "null"}, ""),
    ],
)
def test_who_may_come(
    listening: str, rules: OriginRules, headers: dict[str, str], refused: str
) -> None:
    gate = OriginGate(rules, listening)
    if not refused:
        gate.check(headers)
        return
    with pytest.raises(Forbidden, match=refused):
        gate.check(headers)


@pytest.mark.parametrize(
    ("headers", "fine"),
    [
        ({}, True),
        ({"Content-Type": "application/json"}, True),
        ({"Content-Type": "Application/JSON; charset=utf-8"}, True),
        ({"Content-Type": "application/json", "Origin": PAGE}, True),
        ({"Origin": PAGE}, False),
        ({"Content-Type": "text/plain"}, False),
        ({"Content-Type": "text/plain; application/json"}, False),
        ({"Content-Type": "application/x-www-form-urlencoded"}, False),
        ({"Content-Type": "multipart/form-data; boundary=x"}, False),
        ({"Content-Type": "application/jsonp"}, False),
        ({"Content-Type": ""}, False),
    ],
)
def test_what_is_json(headers: dict[str, str], fine: bool) -> None:
    if fine:
        check_json(headers)
        return
    with pytest.raises(UnsupportedMediaType, match="-H 'Content-Type: application/json'"):
        check_json(headers)


def test_names() -> None:
    assert [name_of(text) for text in ("A:1", "[::1]:8", "::1", "a.", " a ")] == [
        "a",
        "::1",
        "::1",
        "a",
        "a",
    ]
    assert [is_loopback(host) for host in ("localhost", "127.0.0.3", "::1", "0.0.0.0", "a")] == [
        True,
        True,
        True,
        False,
        False,
    ]


ORIGIN, ALL = "Access-Control-Allow-Origin", OriginRules(origins=("*",))


@pytest.mark.parametrize(
    ("rules", "headers", "told"),
    [
        (OriginRules(), {"Origin": PAGE}, {}),
        (CHAT, {}, {}),
        (CHAT, {"Origin": PAGE}, {ORIGIN: PAGE, "Vary": "Origin"}),
        (ALL, {"Origin": PAGE}, {ORIGIN: "*"}),
        (ALL, {"Origin": PAGE, "Cookie": "a=b"}, {ORIGIN: PAGE, "Vary": "Origin"}),
        (
            OriginRules(origins=(PAGE,), credentials=True),
            {"Origin": PAGE},
            {ORIGIN: PAGE, "Vary": "Origin", "Access-Control-Allow-Credentials": "true"},
        ),
    ],
)
def test_what_pages_are_told(
    rules: OriginRules, headers: dict[str, str], told: dict[str, str]
) -> None:
    assert OriginGate(rules, LOCAL).answer_headers(headers) == told


def test_every_path_refuses_other_pages_and_other_names() -> None:
    rows = [
        ("POST", "/v1/chat/completions"),
        ("GET", "/v1/models"),
        ("GET", "/dynamo/decisions"),
        ("GET", "/dynamo/stream"),
        ("GET", "/metrics"),
        ("GET", "/health"),
        ("POST", "/dynamo/placement"),
        ("OPTIONS", "/v1/chat/completions"),
    ]

    async def scenario() -> None:
        async with Stage() as stage:
            for method, path in rows:
                for headers in ({"Origin": EVIL}, {"Host": "evil.example"}):
                    status, head, body = await stage.ask(method, path, headers=headers)
                    assert (status, body["error"]["code"]) == (403, "forbidden"), (method, path)
                    assert ORIGIN not in head

    asyncio.run(scenario())


def test_a_page_that_may_asks_first_without_a_key_and_then_reads_every_answer() -> None:
    async def scenario() -> None:
        config = FrontendConfig(port=0, api_keys=("k",), origins=CHAT)
        async with Stage(config) as stage:
            ask = {
                "Origin": PAGE,
                "Access-Control-Request-Method": "POST",
                "Access-Control-Request-Headers": "authorization,content-type",
            }
            status, head, _ = await stage.ask("OPTIONS", "/v1/completions", headers=ask)
            assert (status, head[ORIGIN]) == (200, PAGE)
            assert "POST" in head["Access-Control-Allow-Methods"]
            assert head["Access-Control-Allow-Headers"] == "authorization,content-type"
            status, head, _ = await stage.post(headers={"Origin": PAGE})
            assert (status, head[ORIGIN]) == (401, PAGE)
            key = {"Origin": PAGE, "Authorization": "Bearer k"}
            asked = asyncio.create_task(stage.post(headers=key))
            submit = await stage.processor.take(Submit)
            assert not [name for name, _ in submit.headers if name.startswith("access")]
            stage.processor.send(answer(submit))
            status, head, _ = await asked
            assert (status, head[ORIGIN]) == (200, PAGE)
            asked = asyncio.create_task(stage.post(headers=key))
            submit = await stage.processor.take(Submit)
            stage.processor.send(Head(submit.request_id, 200, SSE))
            stage.processor.send(chunks(submit, b"a"))
            stage.processor.send(finish(submit))
            status, head, body = await asked
            assert (status, head[ORIGIN], body) == (200, PAGE, "a")

    asyncio.run(scenario())


def test_what_forms_can_send_is_not_served() -> None:
    async def scenario() -> None:
        async with Stage() as stage:
            for path in ("/v1/chat/completions", "/v1/messages", "/tokenize"):
                for kind in ("text/plain", "application/x-www-form-urlencoded"):
                    status, _, body = await stage.post(path, headers={"Content-Type": kind})
                    assert status == 415, (path, kind)
                    assert "application/json" in body["error"]["message"]
            assert stage.processor.inbox.empty()

    asyncio.run(scenario())
