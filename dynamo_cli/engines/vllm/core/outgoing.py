"""Makes messages of the outputs of a step, none of them larger than a link takes."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec
from vllm.v1.engine import EngineCoreOutputs
from vllm.v1.serial_utils import MsgpackEncoder

from dynamo_cli.errors import TooLarge
from dynamo_cli.ipc.link import too_large
from dynamo_cli.messages.request import Frames, StepOutputs
from dynamo_cli.topology import MAX_MESSAGE_BYTES

FRAMING_BYTES, FRAME_BYTES = 64, 8
"""Most bytes that a message has besides its frames, and for each of them."""


class Sent(NamedTuple):
    """The outputs of a step for one processor.

    Attributes:
        messages: the largest first. There are several only if they do not fit into one; then the
            outputs of each request are in one of them.
        too_large: requests whose outputs no message can hold, each with the error.
    """

    messages: list[StepOutputs]
    too_large: list[tuple[str, TooLarge]]


def sent(encoder: MsgpackEncoder, batch: EngineCoreOutputs) -> Sent:
    """Encode the outputs of a step for one processor."""
    messages: list[tuple[int, StepOutputs]] = []
    refused: list[tuple[str, TooLarge]] = []
    waiting = [batch]
    while waiting:  # once, unless the outputs are very large
        part = waiting.pop()
        encoded = encoder.encode(part)
        size_bytes = _size_bytes(encoded)
        if size_bytes <= MAX_MESSAGE_BYTES:
            messages.append((size_bytes, StepOutputs(copied(encoded))))
        elif len(part.outputs) == 1:
            refused.append((part.outputs[0].request_id, too_large(size_bytes)))
        else:
            waiting += _halves(part)
    messages.sort(key=lambda message: -message[0])
    return Sent([message for _, message in messages], refused)


def _halves(batch: EngineCoreOutputs) -> list[EngineCoreOutputs]:
    outputs = batch.outputs
    middle = len(outputs) // 2
    return [
        msgspec.structs.replace(batch, outputs=half)
        for half in (outputs[:middle], outputs[middle:])
    ]


def _size_bytes(frames: Any) -> int:
    """Size of the message of these frames, at most."""
    return FRAMING_BYTES + sum(FRAME_BYTES + memoryview(frame).nbytes for frame in frames)


def copied(frames: Any) -> Frames:
    """Copy frames to bytes: the encoder returns its own buffer and views of tensors."""
    return [bytes(frame) for frame in frames]
