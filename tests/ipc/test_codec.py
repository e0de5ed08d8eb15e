"""Messages to bytes and back."""

from __future__ import annotations

import msgspec
import pytest

from dynamo_cli.errors import Corrupt
from dynamo_cli.ipc.codec import Decoder, encode
from dynamo_cli.messages import (
    Abort,
    AddRequest,
    Candidate,
    Chunk,
    Chunks,
    Endpoint,
    FirstToken,
    FromRouter,
    Message,
    RoutingDecision,
    Submit,
    ToFrontend,
    ToProcessor,
    ToWorker,
)


@pytest.mark.parametrize(
    ("union", "message"),
    [
        (ToProcessor, Submit("r", Endpoint.CHAT, b"{\xff}", [("x-request-id", "r")], 17)),
        (ToProcessor, Abort("r", "client_left")),
        (ToFrontend, Chunks([Chunk("a", b"data: 1\n\n", 1), Chunk("b", b"", 0)])),
        (ToWorker, AddRequest("r", b"\x01\x00\x00\x00", [b"envelope", b"buffer"])),
        (FromRouter, RoutingDecision("r", 1, "kv", [Candidate(1, 0.5, {"load": 0.5})], 12.5)),
    ],
)
def test_there_and_back(union: object, message: Message) -> None:
    assert Decoder(union)(encode(message)) == message


WHOLE = encode(Abort("r", "client_left"))


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(WHOLE[:-1], id="cut off"),
        pytest.param(WHOLE + b"\x00", id="too much"),
        pytest.param(b"\xc1" * 8, id="not msgpack"),
        pytest.param(msgspec.msgpack.encode(["Abort", 1, 2]), id="wrong types"),
        pytest.param(msgspec.msgpack.encode(["Abort"]), id="fields missing"),
        pytest.param(msgspec.msgpack.encode({"type": "Abort"}), id="not an array"),
        pytest.param(msgspec.msgpack.encode(["Abort", b"\xff", "x"]), id="bytes for text"),
        pytest.param(msgspec.msgpack.encode(["Abort", "r"])[:-1] + b"\xff", id="not text"),
        pytest.param(encode(FirstToken("r")), id="of another link"),
    ],
)
def test_what_is_none_of_the_union_is_corrupt(payload: bytes) -> None:
    with pytest.raises(Corrupt):
        Decoder(ToProcessor)(payload)
