"""vLLM's front half over a simulated engine, in a process of its own.

    python -m tests.processor.front FOLDER OPTION ...

reads a JSON object per line (see `Asked`), and writes the answer of each.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import sys
from collections import deque
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from vllm.v1.engine import EngineCoreOutput, EngineCoreOutputs, FinishReason
from vllm.v1.engine.detokenizer import FastIncrementalDetokenizer
from vllm.v1.outputs import LogprobsLists, LogprobsTensors
from vllm.v1.serial_utils import MsgpackEncoder

from dynamo_cli.config import EngineConfig, MigrationRule, SimulationConfig
from dynamo_cli.engines.mock.engine import MockEngine
from dynamo_cli.engines.vllm.front.serving import Serving
from dynamo_cli.engines.vllm.front.trace import RequestTrace
from dynamo_cli.engines.vllm.front.workers import ChosenWorker
from dynamo_cli.errors import InvalidRequest
from dynamo_cli.kv import hashes
from dynamo_cli.messages.flows import ToWorker
from dynamo_cli.messages.request import (
    AbortRequests,
    AddRequest,
    Chunk,
    Endpoint,
    EngineReady,
    Finish,
    Head,
    Reply,
    RequestRefused,
    StepOutputs,
    Submit,
)
from dynamo_cli.messages.routing import RouteQuery
from dynamo_cli.models import tiny

from .mistakes import CONTEXT, POOLING

PATIENCE_S = 120.0
STEP_TOKENS = 60
"""Tokens with log probabilities that come at once."""

BUG = KeyError("nobody expects this")
DECODE = FastIncrementalDetokenizer.decode_next


class Front:
    """`Serving` and its one worker.

    Args:
        folder: for the model's files.
        args: engine options.
        context: of the model, tokens.

    Attributes:
        live: engine requests that were sent and have not ended.
        scored_tokens: length of answers, which then have log probabilities of 21 tokens for each;
            0 for the answers of the simulated engine.
        scored_prompts: whether the tokens of prompts then have such log probabilities, too.
    """

    def __init__(self, folder: Path, *args: str, context: int = CONTEXT) -> None:
        tiny.write(folder)
        length = ("--max-model-len", str(context))
        simulation = SimulationConfig("cpu-tiny", speedup=1000)
        config = EngineConfig(
            "tiny", str(folder), ("tiny",), (*length, *args), simulation=simulation
        )
        self._engine = MockEngine(0, config)
        self.live: set[str] = set()
        self._stuck, self._bug = False, ""
        self.scored_tokens = 0
        self.scored_prompts = False
        self._scored: deque[tuple[AddRequest, int]] = deque()
        self._encoder = MsgpackEncoder()
        self._loop = asyncio.get_running_loop()
        self._pooling = args == POOLING
        # With one worker that never comes back, a request that lost it can only fail.
        self.serving = Serving(config, self, rule=MigrationRule(limit=0))
        task = "embed" if self._pooling else "generate"
        self.serving.client.engine_ready(EngineReady(0, [task], context, 32, 100, 16))

    async def ask(self, endpoint: Endpoint, body: Any, dies_after: int, bug: str) -> list[Any]:
        """Return the messages that answer a request.

        Args:
            dies_after: after how many messages its worker dies; 0: before the first; -1: never.
            bug: where an exception is raised: placing, streaming, decoding, outputs; empty for
                nowhere. With "sending" the link to the worker is full.
        """
        messages: list[Reply | Head | Chunk | Finish] = []
        self._stuck, self._bug = dies_after == 0, bug
        async with asyncio.timeout(PATIENCE_S):
            if bug == "outputs":
                self.serving._llm.output_processor.process_outputs = _broken
            dying = self._loop.create_task(self._die_when_asked()) if self._stuck else None
            submit = Submit("r", "r", endpoint, body, [])

            def tell(message: Reply | Head | Chunk | Finish) -> None:
                messages.append(message)
                if len(messages) == dies_after:
                    self._loop.call_soon(self.die)  # not within a step of its own
                if bug == "streaming" and len(messages) == 4:
                    break_once()
                if bug == "decoding" and len(messages) == 4:
                    FastIncrementalDetokenizer.decode_next = _broken

            try:
                await self.serving.handle(submit, tell)
            finally:
                FastIncrementalDetokenizer.decode_next = DECODE
            if dying is not None:
                await dying
        return messages

    async def _die_when_asked(self) -> None:
        while not self.live:
            await asyncio.sleep(0)
        self.die()

    def die(self) -> None:
        """Let the worker die."""
        self._engine.abort_client(0)
        self.serving.client.worker_lost(0, "SIGKILL")

    @property
    def unfinished(self) -> int:
        """Number of requests that vLLM still keeps."""
        return int(self.serving._llm.output_processor.get_num_unfinished_requests())

    # -- the `Workers` of the client -----------------------------------------------------------

    async def place(self, query: RouteQuery) -> ChosenWorker:
        if self._bug == "placing":
            raise BUG
        await asyncio.sleep(0)  # a router would be another process
        return ChosenWorker(0, 0, None, 0)

    def follow(self, request_id: str, worker: int, prompt_tokens: int) -> None: ...

    def ready_workers(self) -> list[int]:
        return [0]

    def first_token(self, request_id: str, cached_tokens: int) -> None: ...

    def ended(self, request_id: str) -> None:
        self.live.discard(request_id)

    def send(self, worker: int, message: ToWorker) -> bool:
        match message:
            case AddRequest() if self._bug == "sending":
                return False
            case AddRequest(request_id):
                self.live.add(request_id)
                self._loop.call_soon(self._add, message)
            case AbortRequests(request_ids):
                self._engine.abort(request_ids)
        return True

    def _add(self, message: AddRequest) -> None:
        if self._pooling:
            vector = EngineCoreOutput(
                message.request_id,
                [],
                pooling_output=torch.ones(64),
                finish_reason=FinishReason.STOP,
            )
            self._tell(vector)
            return
        if self.scored_tokens:
            self._scored.append((message, self.scored_tokens))
            if len(self._scored) == 1:
                self._loop.call_soon(self._score)
            return
        try:
            self._engine.add(0, message)
        except InvalidRequest as error:
            refusal = RequestRefused(message.request_id, error.message, error.http_status)
            self.serving.client.request_refused(refusal)
        else:
            self._loop.call_soon(self._step)

    def _tell(self, output: EngineCoreOutput) -> None:
        frames = self._encoder.encode(EngineCoreOutputs(outputs=[output]))
        self.serving.client.step_outputs(StepOutputs([bytes(frame) for frame in frames]))

    def _score(self) -> None:
        """Give a part of one answer in each iteration of the loop, as steps would come."""
        request, left = self._scored.popleft()
        output = _scored(request.request_id, min(left, STEP_TOKENS))
        if left > STEP_TOKENS:
            output.finish_reason = None
            self._scored.append((request, left - STEP_TOKENS))
        if self.scored_prompts and left == self.scored_tokens:
            ids, scores, ranks = _scores(len(request.token_ids) // hashes.TOKEN_BYTES - 1)
            ids[:, 0] = 7  # as all of the prompt
            output.new_prompt_logprobs_tensors = LogprobsTensors(
                torch.tensor(ids), torch.tensor(scores), torch.tensor(ranks)
            )
        self._tell(output)
        if self._scored:
            self._loop.call_soon(self._score)

    def _step(self) -> None:
        if self._stuck or not self._engine.has_work():
            return
        # After an output that cannot be decoded, the next one comes before anybody can react.
        for _ in range(2 if self._bug == "decoding" else 1):
            for _, outputs in self._engine.step():
                self.serving.client.step_outputs(outputs)
        self._loop.call_soon(self._step)


def _scored(request_id: str, tokens: int) -> EngineCoreOutput:
    """A whole answer, with log probabilities."""
    ids, scores, ranks = _scores(tokens)
    return EngineCoreOutput(
        request_id,
        ids[:, 0].tolist(),
        new_logprobs=LogprobsLists(ids, scores, ranks),
        finish_reason=FinishReason.LENGTH,
    )


def _scores(tokens: int) -> tuple[Any, Any, Any]:
    """21 tokens for each of `tokens`, their log probabilities, and the ranks of the first ones."""
    ids = np.arange(100, 100 + 21 * tokens).reshape(tokens, 21) % 900
    return ids, np.full(ids.shape, -1.5, np.float32), np.ones(tokens, int)


def _broken(*_: Any) -> None:
    raise BUG


def break_once() -> None:
    """Let the next chunk of a stream raise an exception."""
    take = RequestTrace.take_new_tokens

    def broken(self: RequestTrace) -> int:
        RequestTrace.take_new_tokens = take  # type: ignore[method-assign]
        raise BUG

    RequestTrace.take_new_tokens = broken  # type: ignore[method-assign]


async def main(folder: str, *args: str) -> None:
    told_to = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever libraries print
    front = Front(Path(folder), *args)
    await front.serving.start()
    for line in sys.stdin:
        endpoint, body, dies_after, bug = json.loads(line)
        data = json.dumps(body).encode()
        messages = await front.ask(Endpoint(endpoint), data, dies_after, bug)
        told = {
            "messages": [
                {"kind": type(one).__name__} | msgspec.structs.asdict(one) for one in messages
            ],
            "left": [*front.live] + ["unfinished"] * front.unfinished,
        }
        print(json.dumps(told, default=_encoded), file=told_to, flush=True)


def _encoded(value: Any) -> Any:
    return (
        base64.b64encode(value).decode() if isinstance(value, bytes) else msgspec.to_builtins(value)
    )


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
