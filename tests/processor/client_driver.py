"""vLLM's client between a fake processor and a fake worker, in a process of its own.

Prints the names by which the worker would know three requests with the same X-Request-ID: two
answers to one prompt, and a request of another client (see `test_client`).
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

from vllm import SamplingParams
from vllm.v1.engine import EngineCoreRequest
from vllm.v1.serial_utils import MsgpackDecoder

from dynamo_cli.engines.vllm.front.client import RoutedClient
from dynamo_cli.engines.vllm.front.trace import RequestTrace, current_trace
from dynamo_cli.engines.vllm.front.workers import ChosenWorker
from dynamo_cli.messages.request import AddRequest, EngineReady
from dynamo_cli.messages.routing import RouteQuery

GIVEN = "cmpl-same-0"
"""The id that vLLM derives from an X-Request-ID; the n answers to a prompt share it."""


class Workers:
    """Workers that take every request."""

    def __init__(self) -> None:
        self.sent: list[AddRequest] = []

    async def place(self, query: RouteQuery) -> ChosenWorker:
        return ChosenWorker(0, 0, None, 0)

    def send(self, worker: int, message: Any) -> bool:
        self.sent.append(message)
        return True

    def ready_workers(self) -> set[int]:
        return {0}

    def follow(self, request_id: str, worker: int, prompt_tokens: int) -> None: ...


def engine_request(name: str) -> EngineCoreRequest:
    return EngineCoreRequest(
        request_id=name,
        external_req_id=GIVEN,
        prompt_token_ids=[1, 2, 3],
        mm_features=None,
        sampling_params=SamplingParams(max_tokens=1),
        pooling_params=None,
        arrival_time=0.0,
        lora_request=None,
        cache_salt=None,
        data_parallel_rank=None,
    )


async def main() -> list[str]:
    workers = Workers()
    client = RoutedClient(workers)  # type: ignore[arg-type]
    client.engine_ready(EngineReady(0, ["generate"], 4096, 32, 512, 8))
    for key, names in (("k1", ("a", "b")), ("k2", ("c",))):
        current_trace.set(RequestTrace(key, api_id="same"))
        for name in names:
            await client.add_request_async(engine_request(name))
    decode = MsgpackDecoder(EngineCoreRequest).decode
    return [decode(message.frames).external_req_id for message in workers.sent]


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main())))
