"""Streams that go on at another processor, at every place; a program of its own.

    python -m tests.processor.resumes FOLDER OPTION ...

reads a JSON object per line (see `Asked`), and writes for how many places it went on, and what came
out otherwise than without a death. vLLM's front half is real; the engine gives the tokens that the
test says.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from vllm.v1.engine import EngineCoreOutput, EngineCoreOutputs, EngineCoreRequest, FinishReason
from vllm.v1.metrics.stats import PrefillStats
from vllm.v1.outputs import LogprobsLists, LogprobsTensors
from vllm.v1.serial_utils import MsgpackDecoder, MsgpackEncoder

from dynamo_cli.config import EngineConfig, SimulationConfig
from dynamo_cli.engines.vllm.front.serving import Serving
from dynamo_cli.engines.vllm.front.workers import ChosenWorker
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
    Resume,
    StepOutputs,
    Submit,
)
from dynamo_cli.messages.routing import RouteQuery
from dynamo_cli.models import tiny

CONTEXT = 512
PATIENCE_S = 60.0
SEED, CREATED_S = b"0123456789abcdef", 1_700_000_000.5
LOST = "the processor is lost."


class Asked(msgspec.Struct):
    """One stream to be tried.

    Attributes:
        script: what the engine says; with n > 1 each answer begins one letter later.
        burst: tokens per step.
        spoil: whether the size that the client has is made wrong.
    """

    endpoint: Endpoint
    body: dict[str, Any]
    script: str
    burst: int = 1
    spoil: bool = False


@dataclass
class Running:
    """An engine request."""

    request: EngineCoreRequest
    prompt: list[int]
    script: list[int]
    given: int
    started: bool = False


@dataclass
class Engine:
    """The `Workers` of the client, with one engine that says what it is told.

    Attributes:
        burst: tokens per step.
        fails: whether its requests end with an error after the third token.
    """

    script: str = ""
    burst: int = 1
    fails: bool = False
    wrong: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.live: dict[str, Running] = {}
        self._encoder, self._requests = MsgpackEncoder(), MsgpackDecoder(EngineCoreRequest)

    def serve(self, serving: Serving) -> None:
        self.serving, self.tokenizer = serving, serving._llm.renderer.tokenizer

    async def place(self, query: RouteQuery) -> ChosenWorker:
        await asyncio.sleep(0)  # a router would be another process
        return ChosenWorker(0, 0, None, 0)

    async def another_ready(self, timeout_s: float) -> bool:
        return False

    def follow(self, request_id: str, worker: int, prompt_tokens: int) -> None: ...

    def ready_workers(self) -> set[int]:
        return {0}

    def first_token(self, request_id: str, cached_tokens: int) -> None: ...

    def ended(self, request_id: str) -> None: ...

    def send(self, worker: int, message: ToWorker) -> bool:
        match message:
            case AddRequest():
                self._add(message)
            case AbortRequests(request_ids):
                for request_id in request_ids:
                    self.live.pop(request_id, None)
        return True

    def _add(self, message: AddRequest) -> None:
        request = self._requests.decode(message.frames)
        choice = message.request_id.partition("_")[0]
        later = int(choice) if choice.isdecimal() else 0
        script = self.tokenizer.encode(self.script[later:], add_special_tokens=False)
        script.append(self.tokenizer.eos_token_id)
        before = np.frombuffer(message.output_tokens, np.int32).tolist()
        if before != script[: len(before)]:
            self.wrong.append(f"an engine was told {before} of {script}")
        prompt = np.frombuffer(message.token_ids, np.int32).tolist()
        self.live[message.request_id] = Running(request, prompt, script, len(before))

    def step(self) -> None:
        """Give the next tokens of all requests."""
        self.serving.client.step_outputs(self.outputs())

    def outputs(self) -> StepOutputs:
        """Return the next tokens of all requests."""
        outputs = [self._next(name, running) for name, running in self.live.items()]
        for output in outputs:
            if output.finish_reason is not None:
                del self.live[output.request_id]
        frames = self._encoder.encode(EngineCoreOutputs(outputs=outputs))
        return StepOutputs([bytes(frame) for frame in frames])

    def _next(self, name: str, running: Running) -> EngineCoreOutput:
        params = running.request.sampling_params
        most = min(params.max_tokens, running.given + self.burst)
        tokens = running.script[running.given : most]
        output = EngineCoreOutput(name, tokens)
        if not running.started:
            cached = 0 if running.given else len(running.prompt) // 2
            stats = PrefillStats(num_prompt_tokens=len(running.prompt), num_cached_tokens=cached)
            output.prefill_stats = stats
            if params.prompt_logprobs is not None and not running.given:
                ids = torch.tensor(running.prompt)[1:].reshape(-1, 1)
                ranks = torch.ones(len(ids), dtype=torch.int)
                output.new_prompt_logprobs_tensors = LogprobsTensors(ids, ids / -1000, ranks)
        if params.logprobs is not None:
            ids = np.array([[token, token + 1, token + 2] for token in tokens])
            output.new_logprobs = LogprobsLists(ids, ids / -1000, np.ones(len(tokens), int))
        running.started, running.given = True, running.given + len(tokens)
        if tokens[-1] == running.script[-1]:
            output.finish_reason = FinishReason.STOP
        elif running.given >= params.max_tokens:
            output.finish_reason = FinishReason.LENGTH
        if self.fails and running.given > 3:
            output.finish_reason = FinishReason.ERROR
        return output


@dataclass
class Told:
    """What the frontend got."""

    messages: list[Reply | Head | Chunk | Finish] = field(default_factory=list)

    @property
    def chunks(self) -> list[Chunk]:
        return [one for one in self.messages if isinstance(one, Chunk)]

    @property
    def finish(self) -> Finish:
        last = self.messages[-1]
        assert isinstance(last, Finish), last
        return last


class Trial:
    """A front half and its engine."""

    def __init__(self, folder: Path, *args: str) -> None:
        tiny.write(folder)
        simulation = SimulationConfig("cpu-tiny")
        words = ("--max-model-len", str(CONTEXT), *args)
        config = EngineConfig("tiny", str(folder), ("tiny",), words, simulation=simulation)
        self.engine = Engine()
        self.serving = Serving(config, self.engine)
        self.engine.serve(self.serving)
        self.serving.client.engine_ready(EngineReady(0, ["generate"], CONTEXT, 32, 100, 16))
        self._number = 0

    async def run(self, asked: Asked) -> dict[str, Any]:
        """Let the processor die after each chunk."""
        self.engine.script, self.engine.burst = asked.script, asked.burst
        whole = await self._answer(asked, None)
        different = list(self.engine.wrong)
        places = [place for place in range(len(whole.chunks) + 1) if _can_end(whole, place)]
        for place in places:
            had = whole.chunks[:place]
            size = sum(len(chunk.data) for chunk in had) + asked.spoil
            output = b"".join(chunk.output for chunk in had)
            rest = await self._answer(asked, Resume(place, size, output, LOST))
            different += self._differences(asked, place, whole, rest)
        left = self.serving._llm.output_processor.get_num_unfinished_requests()
        different += ["vLLM keeps requests"] * left + self.engine.wrong
        self.engine.wrong = []
        text = b"".join(chunk.data for chunk in whole.chunks).decode()
        errors = sorted({message.error for message in (whole.finish, rest.finish)})
        return {"places": len(places), "different": different[:9], "text": text, "errors": errors}

    def _differences(self, asked: Asked, place: int, whole: Told, rest: Told) -> list[str]:
        wanted = _by_choice([*whole.chunks])
        got = _by_choice([*whole.chunks[:place], *rest.chunks])
        found = [] if got == wanted else [f"{place}: {got!r}\nnot {wanted!r}"]
        # Tokens after a stop string count only where the engine still gave them.
        stops = not asked.body.keys().isdisjoint(("stop", "stop_sequences"))
        if rest.finish.usage != whole.finish.usage and not (stops and asked.burst > 1):
            found.append(f"{place}: {rest.finish.usage} not {whole.finish.usage}")
        if rest.finish.finish_reason != whole.finish.finish_reason:
            found.append(f"{place}: {rest.finish.finish_reason}")
        return found

    async def _answer(self, asked: Asked, resume: Resume | None) -> Told:
        self._number += 1
        headers = [("x-request-id", "mine")]
        body = json.dumps(asked.body).encode()
        name = f"r{self._number}"
        submit = Submit(name, "mine", asked.endpoint, body, headers, SEED, CREATED_S, resume)
        told = Told()
        answering = self.serving.handle(submit, told.messages.append)
        task = asyncio.ensure_future(answering)
        async with asyncio.timeout(PATIENCE_S):
            while not task.done():
                before = -1
                while before != len(told.messages) or not self.serving.client._outputs.empty():
                    before = len(told.messages)
                    for _ in range(20):  # so that each step makes its own events
                        await asyncio.sleep(0)
                if self.engine.live:
                    self.engine.step()
                await asyncio.sleep(0.0005)
            await task
            while self.engine.live:  # a stop string was found, and the engine is told of it
                await asyncio.sleep(0)
        return told


def _can_end(whole: Told, place: int) -> bool:
    """Whether a processor can die there: all that one output makes is sent in one message."""
    return place == len(whole.chunks) or bool(whole.chunks[place].output)


def _by_choice(chunks: list[Chunk]) -> list[bytes]:
    """The bytes for each choice, since those of several prompts come in any order."""
    found: dict[bytes, bytes] = {}
    for chunk in chunks:
        index = (
            re.search(rb'"index":\d+', chunk.data) if b'"text_completion"' in chunk.data else None
        )
        key = index[0] if index else b""
        found[key] = found.get(key, b"") + chunk.data
    return [found[key] for key in sorted(found)]


async def main(folder: str, *args: str) -> None:
    told_to = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever libraries print
    trial = Trial(Path(folder), *args)
    await trial.serving.start()
    for line in sys.stdin:
        result = await trial.run(msgspec.json.decode(line, type=Asked))
        print(json.dumps(result), file=told_to, flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
