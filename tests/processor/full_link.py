"""A processor whose frontend does not read, in a process of its own.

    python -m tests.processor.full_link

prints what its frontend gets once it reads again, a line for each message.
"""

from __future__ import annotations

import asyncio

from dynamo_cli.config import EngineConfig, ProcessorConfig
from dynamo_cli.engines.vllm.front.outgoing import Tell
from dynamo_cli.engines.vllm.front.serving import Serving
from dynamo_cli.ipc import link, switchboard
from dynamo_cli.ipc.codec import Decoder
from dynamo_cli.ipc.switchboard import join
from dynamo_cli.messages.flows import ToFrontend
from dynamo_cli.messages.request import Chunk, Endpoint, Head, Reply, Submit, Usage
from dynamo_cli.processor.process import Processor
from dynamo_cli.topology import FRONTEND, LinkSpec
from dynamo_cli.units import KIB
from tests.ipc.support import HERE, Party

TURNS = 200


class Talker(Serving):
    """Streams more than the link takes, answers one request with more than any link takes, and
    raises an exception for another."""

    def __init__(self) -> None: ...

    async def handle(self, submit: Submit, tell: Tell) -> None:
        if submit.request_id == "bug":
            raise KeyError("nobody expects this")
        if submit.request_id == "large":
            body = bytes(switchboard.MAX_MESSAGE_BYTES)
            tell(Reply(submit.request_id, 200, "application/json", body, Usage()))
            return
        tell(Head(submit.request_id, 200, "text/event-stream"))
        while True:
            tell(Chunk(submit.request_id, bytes(KIB), 1))
            await asyncio.sleep(0)


async def main() -> None:
    link.MAX_PENDING_BYTES, switchboard.MAX_MESSAGE_BYTES = 1, 64 * KIB
    frontend, supervised = Party(FRONTEND), Party(HERE)
    board, heard = frontend.board()
    config = ProcessorConfig(EngineConfig("tiny", "tiny", ("tiny",)), routed=False)
    processor = Processor(HERE, config, supervised.theirs)
    processor._loop = asyncio.get_running_loop()
    processor._serving = Talker()
    processor._switchboard.attach(processor._loop)
    small = LinkSpec(FRONTEND.role, HERE.role, 4 * KIB, 16 * KIB, "test")
    join(frontend.control, supervised.control, FRONTEND, HERE, spec=small, generation=1)
    board.poll(0)
    for request_id in ("talks", "bug", "large"):
        board.send(HERE, Submit(request_id, request_id, Endpoint.CHAT, b"{}", []))
    for _ in range(TURNS):
        await asyncio.sleep(0)
    assert not processor._requests
    decode = Decoder(ToFrontend)
    while board.poll(0):
        processor._switchboard.poll(0)
    for payload in heard.payloads():
        print(decode(payload), flush=True)
    processor._switchboard.close()
    board.close()


if __name__ == "__main__":
    asyncio.run(main())
