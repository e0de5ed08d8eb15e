"""What clients get: answers, and every error in the shape of OpenAI."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator

import msgspec
import pytest
from aiohttp import web

from dynamo_cli.config import FrontendConfig
from dynamo_cli.frontend.http.server import HttpServer, json_response
from dynamo_cli.messages.lifecycle import Phase, ProcessTable
from dynamo_cli.messages.request import Abort, Ask, Endpoint, Head, Question, Submit
from dynamo_cli.topology import ProcessId, Role

from .stage import SSE, UNMOVED, Stage, answer, chunks, finish, patiently, table

LIMITS = FrontendConfig(port=0, max_body_bytes=1000, api_keys=("one", "two"))
KEY = {"Authorization": "Bearer two"}


def test_a_request_goes_to_the_processor_as_it_came_and_its_answer_back() -> None:
    async def scenario() -> None:
        async with Stage() as stage:
            body = '{"prompt": "café"}'.encode()
            headers = {"X-Request-ID": "mine-1", "X-Session-ID": "s"}
            asked = asyncio.create_task(
                stage.post("/v1/chat/completions", data=body, headers=headers)
            )
            submit = await stage.processor.take(Submit)
            assert (submit.endpoint, submit.body) == (Endpoint.CHAT, body)
            assert submit.headers == [("x-request-id", "mine-1"), ("x-session-id", "s")]
            assert submit.api_id == "mine-1"
            assert "mine-1" not in submit.request_id
            stage.processor.send(answer(submit, b'{"a": 1}', 201))
            status, head, content = await asked
            assert (status, content, head["X-Request-ID"]) == (201, {"a": 1}, "mine-1")

    asyncio.run(scenario())


def test_one_id_used_twice_at_a_time_names_two_requests() -> None:
    async def scenario() -> None:
        async with Stage() as stage:
            asked = [
                asyncio.create_task(stage.post(headers={"X-Request-ID": "same"})) for _ in range(2)
            ]
            submits = [await stage.processor.take(Submit) for _ in asked]
            assert submits[0].request_id != submits[1].request_id
            for number, submit in enumerate(submits):
                stage.processor.send(answer(submit, b"%d" % number))
            answers = [await one for one in asked]
            assert sorted(content for _, _, content in answers) == [0, 1]
            assert {head["X-Request-ID"] for _, head, _ in answers} == {"same"}

    asyncio.run(scenario())


def test_what_comes_late_never_lands_in_a_later_request_of_the_same_id() -> None:
    async def scenario() -> None:
        async with Stage() as stage:
            headers = {"X-Request-ID": "same"}
            early = asyncio.create_task(stage.post(headers=headers))
            first = await stage.processor.take(Submit)
            early.cancel()
            assert (await stage.processor.take(Abort)).request_id == first.request_id
            late = asyncio.create_task(stage.post(headers=headers))
            second = await stage.processor.take(Submit)
            assert first.request_id != second.request_id
            # The processor sent this before it read the abort.
            stage.processor.send(Head(first.request_id, 200, SSE))
            stage.processor.send(chunks(first, b"another's words"))
            stage.processor.send(finish(first))
            stage.processor.send(answer(second, b"1"))
            assert (await late)[::2] == (200, 1)

    asyncio.run(scenario())


def test_every_refusal_has_its_status_and_shape() -> None:
    gzip = {"Content-Encoding": "gzip"}
    post, wrong = "/v1/completions", {"Authorization": "Bearer \xff"}
    rows: list[tuple[str, str, bytes | None, dict[str, str], int, str, str]] = [
        ("GET", "/nowhere", None, KEY, 404, "not_found", "/nowhere"),
        ("GET", "/v1/%ff", None, KEY, 404, "not_found", "%FF"),
        ("GET", post, None, KEY, 405, "method_not_allowed", "takes POST"),
        ("POST", "/health", b"{}", {}, 405, "method_not_allowed", "takes GET"),
        ("POST", post, b"{}", {}, 401, "invalid_api_key", "Bearer"),
        ("POST", post, b"{}", wrong, 401, "invalid_api_key", "not valid"),
        ("POST", post, b"{}", {"Authorization": "Basic two"}, 401, "invalid_api_key", "Bearer"),
        ("GET", "/dynamo/snapshot", None, {}, 401, "invalid_api_key", "Bearer"),
        ("POST", post, b"x" * 1001, KEY, 413, "payload_too_large", "--max-body-bytes"),
        ("POST", post, b"", KEY, 400, "", "empty"),
        ("POST", post, b'{"a":', KEY, 400, "", "line 1 column"),
        ("POST", post, b'{"a":"\xff"}', KEY, 400, "", "UTF-8"),
        ("POST", post, b"[1]", KEY, 400, "", "object"),
        ("POST", post, b"[" * 900, KEY, 400, "", "JSON"),
        ("POST", post, b"not gzip", KEY | gzip, 400, "", "body"),
    ]

    async def scenario() -> None:
        async with Stage(LIMITS) as stage:
            for method, path, body, headers, status, code, words in rows:
                got = await stage.ask(
                    method, path, data=body, headers=headers | {"X-Request-ID": "r"}
                )
                error = got[2]["error"]
                row = (method, path, status)
                assert got[0] == status, (row, got)
                assert (error["code"] or "") == code, (row, error)
                assert words in error["message"], (row, error)
                assert set(error) == {"message", "type", "param", "code"}
                assert got[1]["X-Request-ID"] == "r"
                assert got[1].get("Allow", "") == (
                    words.removeprefix("takes ") if status == 405 else ""
                )
            assert stage.processor.inbox.empty()

    asyncio.run(scenario())


def test_head_is_get_without_the_body() -> None:
    """Many monitors ask so."""

    async def scenario() -> None:
        async with Stage() as stage:
            for path in ("/", "/live", "/health", "/metrics", "/dynamo/snapshot"):
                status, head, body = await stage.ask("HEAD", path)
                assert (status, body) == ((await stage.get(path))[0], ""), path
                assert int(head["Content-Length"]) > 0
            for path in ("/dynamo/stream", "/v1/completions"):
                assert (await stage.ask("HEAD", path))[0] == 405

    asyncio.run(scenario())


def test_monitors_need_no_key_and_keys_open_the_rest() -> None:
    async def scenario() -> None:
        async with Stage(LIMITS) as stage:
            for path in ("/", "/live", "/health", "/metrics", "/version"):
                assert (await stage.get(path))[0] == 200
            assert (await stage.get("/version"))[2]["name"] == "dynamo-llm"
            for key in LIMITS.api_keys:
                got = await stage.get(
                    "/dynamo/snapshot", headers={"Authorization": f"bearer {key}"}
                )
                assert got[0] == 200

    asyncio.run(scenario())


def test_bodies_that_are_too_large_are_refused_while_they_come() -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(50):
            yield b"x" * 100

    async def scenario() -> None:
        async with Stage(LIMITS) as stage:
            status, _, content = await stage.post(data=endless(), headers=KEY)
            assert status == 413
            assert "--max-body-bytes (1000 bytes)" in content["error"]["message"]
            asked = asyncio.create_task(stage.post(data=b'{"a":"%b"}' % (b"x" * 992), headers=KEY))
            submit = await stage.processor.take(Submit)
            assert len(submit.body) == LIMITS.max_body_bytes
            stage.processor.send(answer(submit))
            assert (await asked)[0] == 200

    asyncio.run(scenario())


def test_a_client_that_waits_for_100_continue_gets_it_only_when_its_body_is_wanted() -> None:
    request = (
        "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\n"
        "Authorization: Bearer {key}\r\nContent-Length: {length}\r\n\r\n"
    )
    rows = [("one", 2, b" 100 "), ("one", 2000, b" 413 "), ("no", 2, b" 401 ")]

    async def scenario() -> None:
        async with Stage(LIMITS) as stage:
            for key, length, status in rows:
                data = request.format(key=key, length=length).encode()
                reader, writer = await stage.raw(data)
                assert status in await patiently(reader.readline()), (key, length)
                if status == b" 100 ":
                    writer.write(b"{}")
                    stage.processor.send(answer(await stage.processor.take(Submit)))
                    await patiently(reader.readuntil(b'{"ok":true}'))

    asyncio.run(scenario())


def test_request_ids_that_could_do_harm_are_replaced() -> None:
    async def scenario() -> None:
        async with Stage() as stage:
            for given in ("x" * 129, "caf\u00e9", "", "a b"):
                _, head, _ = await stage.get("/version", headers={"X-Request-ID": given})
                assert len(head["X-Request-ID"]) == 32
            _, head, _ = await stage.get("/version", headers={"X-Request-ID": "x" * 128})
            assert head["X-Request-ID"] == "x" * 128

    asyncio.run(scenario())


def test_what_is_not_http_gets_a_json_400_and_no_traceback() -> None:
    rows = [
        b"garbage\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 a TLS hello\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nbad header\r\n\r\n",
        b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ]

    async def scenario() -> None:
        async with Stage() as stage:  # its log must stay empty
            for data in rows:
                reader, _ = await stage.raw(data)
                head, _, body = (await patiently(reader.read())).partition(b"\r\n\r\n")
                assert head.startswith((b"HTTP/1.1 400 ", b"HTTP/1.0 400 ")), (data, head)
                assert b"x-request-id" in head.lower()
                assert json.loads(body)["error"]["type"] == "invalid_request_error"
            # Bytes beyond ASCII are allowed in some places and must do no harm.
            reader, _ = await stage.raw(b"GET /\xff HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert (await patiently(reader.readline())).split()[1] in {b"400", b"404"}

    asyncio.run(scenario())


def test_headers_outside_of_ascii_reach_the_processor_as_latin_1() -> None:
    request = (
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n"
        b"X-Session-ID: \xff\xe9\r\n\r\n{}"
    )

    async def scenario() -> None:
        async with Stage() as stage:
            _, _writer = await stage.raw(request)
            submit = await stage.processor.take(Submit)
            assert ("x-session-id", "\xff\xe9") in submit.headers

    asyncio.run(scenario())


def test_nothing_is_served_before_everything_is_ready() -> None:
    async def scenario() -> None:
        async with Stage(serving=False) as stage:
            status, head, content = await stage.post()
            assert (status, content["error"]["code"]) == (503, "not_ready")
            assert "starting" in content["error"]["message"]
            assert int(head["Retry-After"]) > 0
            assert (await stage.get("/v1/models"))[0] == 503
            status, head, health = await stage.get("/health")
            assert (status, health["status"], health["reason"]) == (503, "unavailable", "starting")
            assert "Retry-After" in head

            stage.tell(table(False, "worker 0 is loading weights", worker=Phase.LOADING))
            while "worker 0 is loading" not in (await stage.post())[2]["error"]["message"]:
                await asyncio.sleep(0.005)
            health = (await stage.get("/health"))[2]
            assert health["processes"][2]["phase"] == "loading weights"

    asyncio.run(scenario())


def test_health_tells_ok_from_degraded_and_lists_every_process() -> None:
    async def scenario() -> None:
        async with Stage() as stage:
            status, _, health = await stage.get("/health")
            assert (status, health["status"]) == (200, "ok")
            row = health["processes"][2]
            assert (row["name"], row["phase"], row["pid"], row["restarts"]) == (
                "worker 0",
                "ready",
                1000,
                2,
            )
            assert row["phase_s"] >= 3
            assert row["uptime_s"] >= 5
            stage.tell(table(True, worker=Phase.BACKOFF))
            while health["status"] != "degraded":
                status, _, health = await stage.get("/health")
                assert status == 200

    asyncio.run(scenario())


def test_more_requests_than_may_be_in_flight_are_sent_away() -> None:
    async def scenario() -> None:
        async with Stage(FrontendConfig(port=0, max_inflight=1)) as stage:
            first = asyncio.create_task(stage.post())
            submit = await stage.processor.take(Submit)
            status, head, content = await stage.post()
            assert (status, head["Retry-After"]) == (429, "1")
            assert "--max-inflight is 1" in content["error"]["message"]
            stage.processor.send(answer(submit))
            assert (await first)[0] == 200
            again = asyncio.create_task(stage.post())
            stage.processor.send(answer(await stage.processor.take(Submit)))
            assert (await again)[0] == 200
            while "requests are refused (too_many_requests)" not in stage.log:
                await asyncio.sleep(0.01)
            stage.expected_log = stage.log

    asyncio.run(scenario())


def test_models_are_listed_and_found_by_id() -> None:
    models = {"object": "list", "data": [{"id": "org/name"}, {"id": "short"}]}

    async def scenario() -> None:
        async with Stage() as stage:

            async def ask(path: str) -> tuple[int, object]:
                asked = asyncio.create_task(stage.get(path))
                question = await stage.processor.take(Ask)
                assert question.question is Question.MODELS
                stage.processor.send(answer(question, json.dumps(models).encode()))
                status, _, content = await asked
                return status, content

            assert await ask("/v1/models") == (200, models)
            assert await ask("/v1/models/org/name") == (200, {"id": "org/name"})
            assert await ask("/v1/models/org%2Fname") == (200, {"id": "org/name"})
            status, content = await ask("/v1/models/none")
            assert status == 404
            assert "'none'" in content["error"]["message"]  # type: ignore[index]

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("path", "meant"),
    [
        ("/chat/completions", "did you mean /v1/chat/completions?"),  # a base URL without /v1
        ("/v1/v1/chat/completions", "did you mean /v1/chat/completions?"),  # and with it twice
        ("/v1/chat/completions/", "did you mean /v1/chat/completions?"),
        ("//v1//completions", "did you mean /v1/completions?"),
        ("/v1/chat/completion", "did you mean /v1/chat/completions?"),
        ("/metric", "did you mean /metrics?"),
        ("/slep", "the API is under /v1."),  # it would need --enable-admin
        ("/favicon.ico", "the API is under /v1."),
        ("/v1/chat/completions" * 9, "the API is under /v1."),
    ],
)
def test_a_wrong_path_is_answered_with_the_right_one(path: str, meant: str) -> None:
    async def scenario() -> None:
        async with Stage() as stage:
            reader, _ = await stage.raw(f"POST {path} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
            head, _, body = (await reader.read()).partition(b"\r\n\r\n")
            assert b" 404 " in head
            assert json.loads(body)["error"]["message"].endswith(meant)

    asyncio.run(scenario())


def test_a_body_that_cannot_be_read_is_answered_in_words() -> None:
    async def scenario() -> None:
        async with Stage() as stage:
            for data, headers, why in (
                (b'{"a": "\xe9"}', {}, "byte 7 is not UTF-8 (0xe9); encode the body as UTF-8."),
                (b"{}", {"Content-Encoding": "gzip"}, "it is not gzip."),
            ):
                status, _, content = await stage.post(data=data, headers=headers)
                assert (status, content["error"]["message"].partition(": ")[2]) == (400, why)

    asyncio.run(scenario())


def test_a_client_that_leaves_before_the_answer_aborts_its_request_at_once() -> None:
    async def scenario() -> None:
        async with Stage() as stage:
            _, writer = await stage.raw(
                b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n{}"
            )
            submit = await stage.processor.take(Submit)
            left = time.monotonic()
            writer.close()
            assert await stage.processor.take(Abort) == Abort(submit.request_id, "client_left")
            assert time.monotonic() - left < 1
            page = (await stage.get("/metrics"))[2]
            assert 'dynamo_llm_requests_total{endpoint="/v1/completions",status="499"} 1.0' in page
            assert 'dynamo_llm_aborts_total{reason="client_left"} 1.0' in page

    asyncio.run(scenario())


def test_a_processor_that_dies_fails_what_it_held_and_its_next_life_serves() -> None:
    async def scenario() -> None:
        async with Stage(UNMOVED) as stage:
            asked = asyncio.create_task(stage.post())
            await stage.processor.take(Submit)
            stage.processor.die("SIGKILL")
            status, _, content = await asked
            assert (status, content["error"]["code"]) == (503, "worker_lost")
            assert "SIGKILL" in content["error"]["message"]
            status, head, _ = await stage.post()
            assert (status, head["Retry-After"]) == (503, "1")

            reborn = await stage.neighbour(stage.processor.process)
            stage.tell(table(serving=True))
            while True:
                asked = asyncio.create_task(stage.post())
                taken = asyncio.create_task(reborn.take(Submit))
                await asyncio.wait({asked, taken}, return_when=asyncio.FIRST_COMPLETED)
                if not asked.done():
                    break
                taken.cancel()
            reborn.send(answer(await taken))
            assert (await asked)[0] == 200

    asyncio.run(scenario())


def test_requests_go_to_the_processor_that_has_the_fewest() -> None:
    async def scenario() -> None:
        async with Stage() as stage:
            second = await stage.neighbour(ProcessId(Role.PROCESSOR, 1))
            both = table(serving=True).processes
            both.append(msgspec.structs.replace(both[1], name="processor 1", index=1))
            stage.tell(ProcessTable(both, True, ""))
            while len((await stage.get("/health"))[2]["processes"]) < 4:
                await asyncio.sleep(0.005)
            asked = [asyncio.create_task(stage.post()) for _ in range(4)]
            both_twice = (stage.processor, second) * 2
            taken = [(processor, await processor.take(Submit)) for processor in both_twice]
            for processor, submit in taken:
                processor.send(answer(submit))
            assert [status for status, _, _ in await asyncio.gather(*asked)] == [200] * 4

    asyncio.run(scenario())


def test_small_writes_leave_at_once() -> None:
    """No write waits for an acknowledgement of the client (Nagle's algorithm)."""

    async def scenario() -> None:
        async with Stage() as stage:
            times = []
            for _ in range(20):
                started = time.monotonic()
                asked = asyncio.create_task(stage.post())
                stage.processor.send(answer(await stage.processor.take(Submit)))
                await asked
                times.append(time.monotonic() - started)
            assert sorted(times)[10] < 0.03, times  # Nagle and delayed ACK would make it 0.04

    asyncio.run(scenario())


def test_accepted_sockets_have_nagle_off() -> None:
    async def scenario() -> None:
        async def handle(http: web.BaseRequest) -> web.Response:
            assert http.transport is not None
            accepted = http.transport.get_extra_info("socket")
            flag = accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            return json_response({"nodelay": flag})

        server = HttpServer(handle, FrontendConfig(), lambda _, __: None)
        listener = await asyncio.get_running_loop().create_server(server, "127.0.0.1", 0)
        port = listener.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        content = (await patiently(reader.read())).rpartition(b"\r\n")[2]
        assert json.loads(content)["nodelay"] != 0
        writer.close()
        await writer.wait_closed()
        listener.close()
        await listener.wait_closed()

    asyncio.run(scenario())
