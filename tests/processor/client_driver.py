"""vLLM's client between a fake processor and a fake worker, in a process of its own.

Prints the names by which the worker would know three requests with the same X-Request-ID: two
answers to one prompt, and a request of another client; and how requests end that are too large
for any worker, or whose outputs are too large (see `test_client`).
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

from vllm import SamplingParams
from vllm.v1.engine import EngineCoreRequest
from vllm.v1.serial_utils import MsgpackDecoder

from dynamo_cli.engines.vllm.front.client import RoutedClient
from dynamo_cli.engines.vllm.front.failures import failure_of
from dynamo_cli.engines.vllm.front.trace import RequestTrace, current_trace
from dynamo_cli.engines.vllm.front.workers import ChosenWorker
from dynamo_cli.errors import TooLarge
from dynamo_cli.messages.request import AddRequest, EngineReady, RequestRefused
from dynamo_cli.messages.routing import RouteQuery

GIVEN = "cmpl-same-0"
"""The id that vLLM derives from an X-Request-ID; the n answers to a prompt share it."""


LARGE = 1000
"""Bytes of the token ids of a request that no link takes."""


class Workers:
    """Workers that take every request but those that are `LARGE`, as links do."""

    def __init__(self) -> None:
        self.sent: list[AddRequest] = []
        self.left: list[str] = []

    async def place(self, query: RouteQuery) -> ChosenWorker:
        return ChosenWorker(0, 0, None, 0)

    def send(self, worker: int, message: Any) -> bool:
        if len(message.token_ids) >= LARGE:
            raise TooLarge("ask for less")
        self.sent.append(message)
        return True

    def ended(self, request_id: str) -> None:
        self.left.append(request_id)

    def ready_workers(self) -> set[int]:
        return {0}

    def follow(self, request_id: str, worker: int, prompt_tokens: int) -> None: ...


def engine_request(name: str, tokens: int = 3) -> EngineCoreRequest:
    return EngineCoreRequest(
        request_id=name,
        external_req_id=GIVEN,
        prompt_token_ids=[1] * tokens,
        mm_features=None,
        sampling_params=SamplingParams(max_tokens=1),
        pooling_params=None,
        arrival_time=0.0,
        lora_request=None,
        cache_salt=None,
        data_parallel_rank=None,
    )


async def main() -> tuple[list[str], list[list[str]]]:
    workers = Workers()
    client = RoutedClient(workers)  # type: ignore[arg-type]
    failed: list[tuple[str, Exception]] = []
    client.fail = lambda name, error: failed.append((name, error))
    client.engine_ready(EngineReady(0, ["generate"], 4096, 32, 512, 8))
    for key, names in (("k1", ("a", "b")), ("k2", ("c",))):
        current_trace.set(RequestTrace(key, api_id="same"))
        for name in names:
            await client.add_request_async(engine_request(name))
    decode = MsgpackDecoder(EngineCoreRequest).decode
    too_large = RequestTrace("k3", api_id="large")
    current_trace.set(too_large)
    await client.add_request_async(engine_request("d", LARGE))
    assert workers.left, "it counts as load of its worker for ever"
    assert not client.held_for(too_large)
    names = [decode(message.frames).external_req_id for message in workers.sent]
    outputs = RequestTrace("k4", api_id="outputs")
    current_trace.set(outputs)
    await client.add_request_async(engine_request("e"))
    refused = workers.sent[-1].request_id
    client.request_refused(RequestRefused(refused, "ask for less", TooLarge.http_status))
    assert [name for name, _ in failed] == ["d", "e"]
    failures = [
        failure_of(error, trace)
        for (_, error), trace in zip(failed, (too_large, outputs), strict=True)
    ]
    return names, [[str(failure.status), failure.kind] for failure in failures]


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main())))
