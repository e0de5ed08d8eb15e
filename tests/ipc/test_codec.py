"""Encoding and decoding of messages."""

from __future__ import annotations

import msgspec
import pytest

from dynamo_cli.config import Adapter
from dynamo_cli.errors import Corrupt
from dynamo_cli.ipc.codec import Decoder, encode
from dynamo_cli.messages.admin import LoadAdapter, UnloadAdapter
from dynamo_cli.messages.base import Message
from dynamo_cli.messages.flows import FromRouter, ToFrontend, ToProcessor, ToWorker
from dynamo_cli.messages.request import (
    Abort,
    AddRequest,
    Ask,
    Chunk,
    Chunks,
    Endpoint,
    Finish,
    Question,
    Submit,
    SubmitProbe,
    Usage,
)
from dynamo_cli.messages.routing import (
    Candidate,
    Decisions,
    Measured,
    RequestEnd,
    RouteAnswer,
    RoutingDecision,
)

DECISION = RoutingDecision(
    request_id="r",
    api_id="api",
    worker=1,
    policy="kv",
    reason="cost",
    prompt_tokens=70,
    required_blocks=3,
    overlap_blocks=2,
    block_size=32,
    candidates=[Candidate(1, 0.5, 2, {"load": 0.5})],
    margin=0.0,
    waited_us=0.0,
    decision_us=12.5,
    decided_ns=7,
)


@pytest.mark.parametrize(
    ("union", "message"),
    [
        (ToProcessor, Submit("r", "mine", Endpoint.CHAT, b"{\xff}", [("x-request-id", "r")])),
        (ToProcessor, SubmitProbe("r", "probe-1", 1)),
        (ToProcessor, Ask("r", "mine", Question.MODELS)),
        (ToProcessor, LoadAdapter("r", "adapter-7", Adapter("name", "/path", 7, is_3d=True))),
        (ToProcessor, UnloadAdapter("r", "adapter-7", Adapter("name", "/path", 7))),
        (ToProcessor, Abort("r", "client_left")),
        (ToFrontend, Chunks([Chunk("a", b"data: 1\n\n", 1), Chunk("b", b"", 0)])),
        (ToFrontend, Chunks([Chunk("a", b"", 0)], Finish("a", Usage(1, 0, 2)))),
        (ToWorker, AddRequest("r", b"\x01\x00\x00\x00", [b"envelope", b"buffer"])),
        (FromRouter, RouteAnswer("r", 1, 3)),
        (ToFrontend, Decisions([DECISION], [Measured("r", 32)], 0)),
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
        pytest.param(encode(RequestEnd("r")), id="of another link"),
    ],
)
def test_what_is_none_of_the_union_is_corrupt(payload: bytes) -> None:
    with pytest.raises(Corrupt):
        Decoder(ToProcessor)(payload)
