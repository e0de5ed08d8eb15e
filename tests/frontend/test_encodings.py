"""Bodies that are compressed: what is taken, what is refused, and that no other request waits."""

from __future__ import annotations

import asyncio
import gzip
import json
import zlib

import pytest

from dynamo_cli.config import FrontendConfig
from dynamo_cli.errors import InvalidRequest, UnsupportedMediaType
from dynamo_cli.frontend.http.encoding import PIECE_BYTES, decoder_of
from dynamo_cli.messages.request import Submit
from tests.frontend.stage import Stage, answer

BODY = json.dumps({"prompt": "x" * 3 * PIECE_BYTES}).encode()
HEAD = b"POST %b HTTP/1.1\r\nHost: %b\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n"
MIB = 2**20
DECODED_BYTES = 1024 * MIB
LATE_S = 0.5


def _bare(data: bytes) -> bytes:
    deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return deflate.compress(data) + deflate.flush()


def _bomb() -> bytes:
    deflate = zlib.compressobj(9, wbits=16 + zlib.MAX_WBITS)
    return b"".join(
        [*(deflate.compress(bytes(MIB)) for _ in range(DECODED_BYTES // MIB)), deflate.flush()]
    )


def decoded(encoding: str, data: bytes, step: int) -> bytes:
    """Decode a body that arrives in parts of `step` bytes."""
    decoder = decoder_of(encoding)
    pieces = [
        piece for at in range(0, len(data), step) for piece in decoder.decode(data[at : at + step])
    ]
    decoder.end()
    assert max(map(len, pieces)) <= max(PIECE_BYTES, step if encoding in ("", "identity") else 0)
    return b"".join(pieces)


@pytest.mark.parametrize("step", [1, 1000, 10**9])
def test_what_was_compressed_comes_out_again(step: int) -> None:
    for encoding, data in (
        ("", BODY[:5000]),
        ("identity", BODY[:5000]),
        ("gzip", gzip.compress(BODY)),
        (" GZip", gzip.compress(BODY)),
        ("x-gzip", gzip.compress(BODY)),
        ("deflate", zlib.compress(BODY)),
        ("deflate", _bare(BODY)),
    ):
        assert decoded(encoding, data, step) == (BODY[:5000] if data == BODY[:5000] else BODY)
    # Bodies of all lengths around the size of a piece: nothing may stay inside.
    for length in range(PIECE_BYTES - 3, PIECE_BYTES + 300, 43):
        assert decoded("deflate", _bare(bytes(length)), step) == bytes(length)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (gzip.compress(BODY)[:-9], "cut off"),
        (gzip.compress(BODY) + b"{}", "behind its end"),
        (gzip.compress(b"{}") * 2, "behind its end"),
        (zlib.compress(BODY), "not gzip"),
    ],
)
def test_what_is_wrong_with_a_body_is_told(data: bytes, why: str) -> None:
    for step in (1, 10**9):
        with pytest.raises(InvalidRequest, match=why):
            decoded("gzip", data, step)


@pytest.mark.parametrize("data", [gzip.compress(b"{}")])
def test_names_of_tests_do_not_hold_what_changes(
    data: bytes, request: pytest.FixtureRequest
) -> None:
    assert request.node.name.endswith(f"[data of {len(data)} bytes]")


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, gzip", "x"])
def test_an_unknown_encoding_is_refused(encoding: str) -> None:
    with pytest.raises(UnsupportedMediaType, match="gzip or deflate"):
        decoder_of(encoding)


def test_a_compressed_body_is_answered() -> None:
    async def scenario() -> None:
        async with Stage() as stage:
            headers = {"Content-Encoding": "gzip"}
            asked = asyncio.create_task(stage.post(data=gzip.compress(BODY), headers=headers))
            submit = await stage.processor.take(Submit)
            assert submit.body == BODY
            stage.processor.send(answer(submit, b"1"))
            assert (await asked)[::2] == (200, 1)

    asyncio.run(scenario())


def test_a_body_whose_end_is_missing_is_not_answered() -> None:
    """What came of it is all of the JSON, but what tells whether it is right has not come."""

    async def scenario() -> None:
        async with Stage() as stage:
            headers = {"Content-Encoding": "gzip"}
            async with asyncio.timeout(10):
                status, _, told = await stage.post(data=gzip.compress(BODY)[:-8], headers=headers)
            assert (status, "cut off" in told["error"]["message"]) == (400, True)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("path", "host", "status"),
    [
        (b"/v1/completions", b"localhost", b" 413 "),
        (b"/v1/completions", b"elsewhere", b" 403 "),
        (b"/nowhere", b"localhost", b" 404 "),
    ],
)
def test_nobody_waits_while_a_body_that_becomes_huge_is_refused(
    path: bytes, host: bytes, status: bytes
) -> None:
    async def scenario() -> None:
        bomb = _bomb()
        async with Stage(FrontendConfig(port=0, max_body_bytes=MIB)) as stage:
            reader, _ = await stage.raw(HEAD % (path, host, len(bomb)) + bomb)
            assert status in await reader.readline()
            # The rest of the body arrives while others ask.
            loop = asyncio.get_running_loop()
            for _ in range(20):
                asked = loop.time()
                assert (await stage.get("/live"))[0] == 200
                assert loop.time() - asked < LATE_S

    asyncio.run(scenario())
