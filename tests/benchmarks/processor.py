"""Measures the CPU time of the processor's work: per request, and per token of an answer.

    python -m tests.benchmarks.processor [--model tiny] [--rounds 5] [--against FOLDER]
        [--only ...] [--parsers]

vLLM's serving classes run as in a processor, without other processes around them; the engine is a
list of tokens, whose own time does not count. CPU time says more than wall time on a machine that
others use, but it grows as well when others use the caches. So the figure is the smallest of the
rounds. ``--against`` measures another checkout too, in turns, and prints the ratio this / other of
the smallest, and the range of the ratios within a round.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import random
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CONTEXT = 32_768
BLOCK = 32
ANSWER = 128
"""Tokens of a streamed answer."""

COMPLETIONS, MESSAGES, RESPONSES = "completions", "messages", "responses"

PARSERS = (
    *("--enable-auto-tool-choice", "--tool-call-parser", "hermes"),
    *("--reasoning-parser", "qwen3"),
)

SHARED = 0.8
"""Part of a prompt that is shared by the requests of a case."""


@dataclass(frozen=True)
class Case:
    """Requests that are sent together.

    Attributes:
        prompt: approximate length of the prompt, tokens.
        answer: tokens of the answer, which is streamed if there are several.
        shared: part of the prompt that all requests have in common.
        at_once: requests in flight.
        count: requests of a round.
        of: their endpoint, as the path without its beginning.
        reached: if not 0, the figure is the time until this part of the requests, which begin
            together, has reached the engine.
    """

    prompt: int
    answer: int
    shared: float
    at_once: int
    count: int
    of: str = "chat/completions"
    reached: float = 0.0

    @property
    def per_token(self) -> bool:
        """Whether the figure is per token instead of per request."""
        return self.answer > 1


CASES = {
    "128 fresh": Case(128, 1, 0, 16, 200),
    "2000 fresh": Case(2000, 1, 0, 4, 60),
    "2000 shared": Case(2000, 1, SHARED, 4, 60),
    "16000 fresh": Case(16_000, 1, 0, 2, 16),
    "16000 shared": Case(16_000, 1, SHARED, 2, 16),
    "stream 1": Case(100, ANSWER, 0, 1, 12),
    "stream 16": Case(100, ANSWER, 0, 16, 48),
    "stream 64": Case(100, ANSWER, 0, 64, 64),
    "half of 64 at once": Case(128, 1, 0, 64, 64, reached=0.5),
    "all of 64 at once": Case(128, 1, 0, 64, 64, reached=1.0),
    "completion 128 fresh": Case(128, 1, 0, 16, 200, COMPLETIONS),
    "completion stream 1": Case(100, ANSWER, 0, 1, 12, COMPLETIONS),
    "completion stream 64": Case(100, ANSWER, 0, 64, 64, COMPLETIONS),
    "message 128 fresh": Case(128, 1, 0, 16, 200, MESSAGES),
    "message stream 1": Case(100, ANSWER, 0, 1, 12, MESSAGES),
    "message stream 64": Case(100, ANSWER, 0, 64, 64, MESSAGES),
    "response 128 fresh": Case(128, 1, 0, 16, 200, RESPONSES),
    "response stream 1": Case(100, ANSWER, 0, 1, 12, RESPONSES),
    "response stream 64": Case(100, ANSWER, 0, 64, 64, RESPONSES),
}


class Bench:
    """A front half and its engine.

    Args:
        folder: folder of the model.
        parsers: whether parsers look for reasoning and tool calls.
    """

    def __init__(self, folder: str, *, parsers: bool = False) -> None:
        from dynamo_cli.config import EngineConfig, SimulationConfig
        from dynamo_cli.engines.vllm.front.serving import Serving
        from dynamo_cli.lab.load.workload import words
        from dynamo_cli.messages.flows import ToWorker
        from dynamo_cli.messages.request import EngineReady, StepOutputs
        from tests.processor.resumes import Engine

        class Timed(Engine):
            """An engine that knows the CPU time that it took, seconds, and that of others when each
            message came."""

            reached_s: list[float] = []  # noqa: RUF012 - there is one engine
            spent_s = 0.0

            def send(self, worker: int, message: ToWorker) -> bool:
                began = time.thread_time()
                self.reached_s.append(time.process_time() - self.spent_s)
                done = super().send(worker, message)
                self.spent_s += time.thread_time() - began
                return done

            def outputs(self) -> StepOutputs:
                began = time.thread_time()
                outputs = super().outputs()
                self.spent_s += time.thread_time() - began
                return outputs

        longer = json.dumps({"max_position_embeddings": CONTEXT})
        more = PARSERS if parsers else ()
        options = ("--max-model-len", str(CONTEXT), "--hf-overrides", longer, *more)
        config = EngineConfig("m", folder, ("m",), options, simulation=SimulationConfig("cpu-tiny"))
        self._engine = Timed()
        self._serving = Serving(config, self._engine, kv_routing=True)
        self._engine.serve(self._serving)
        ready = EngineReady(0, ["generate"], CONTEXT, BLOCK, 100_000, 64)
        self._serving.client.engine_ready(ready)
        self._numbers = itertools.count()
        self._dice = random.Random(time.time_ns())
        self._words = words

    async def start(self) -> None:
        await self._serving.start()
        tokenizer = self._serving._llm.renderer.tokenizer
        sample = self._words(random.Random(1), 1000)
        self._words_per_token = 1000 / len(tokenizer.encode(sample))
        self._engine.script = self._words(random.Random(2), ANSWER)

    def _text(self, dice: random.Random, tokens: float) -> str:
        return str(self._words(dice, round(tokens * self._words_per_token)))

    async def run(self, name: str) -> float:
        """Return the CPU time of a case: milliseconds per request or until requests have reached
        the engine, or microseconds per token."""
        case, number = CASES[name], next(self._numbers)
        shared = self._text(random.Random(number), case.prompt * case.shared)
        bodies = [self._body(case, shared) for _ in range(case.count)]
        waiting = iter(bodies)
        if case.shared:  # the first request does not find what it shares
            await self._all(case, [next(waiting)], 1)
        rest = list(waiting)
        self._engine.reached_s.clear()
        began = time.process_time() - self._engine.spent_s
        await self._all(case, rest, case.at_once)
        if case.reached:
            return 1e3 * (self._engine.reached_s[round(case.reached * case.count) - 1] - began)
        spent = time.process_time() - self._engine.spent_s - began
        if case.per_token:
            return 1e6 * spent / (len(rest) * case.answer)
        return 1e3 * spent / len(rest)

    def _body(self, case: Case, shared: str) -> bytes:
        own = self._text(self._dice, case.prompt * (1 - case.shared))
        body: dict[str, Any] = {"model": "m", "stream": case.per_token}
        match case.of:
            case "completions":
                body |= {"max_tokens": case.answer, "prompt": shared + own}
            case "responses":
                return json.dumps(body | {"max_output_tokens": case.answer, "input": own}).encode()
            case _:
                messages = [{"role": "system", "content": shared}] if shared else []
                body |= {"max_tokens": case.answer}
                body["messages"] = [*messages, {"role": "user", "content": own}]
        if case.per_token and case.of != MESSAGES:
            body |= {"ignore_eos": True, "stream_options": {"include_usage": True}}
        return json.dumps(body).encode()

    async def _all(self, case: Case, bodies: list[bytes], at_once: int) -> None:
        waiting = iter(bodies)
        clients = [asyncio.ensure_future(self._client(case, waiting)) for _ in range(at_once)]
        done = asyncio.gather(*clients)
        while not done.done():
            await asyncio.sleep(0)
            if self._engine.live:
                self._engine.step()
                for _ in range(3):
                    await asyncio.sleep(0)
            else:
                await asyncio.sleep(0.0002)
        await done

    async def _client(self, case: Case, waiting: Any) -> None:
        from dynamo_cli.messages.request import Endpoint, Submit

        endpoint = Endpoint(f"/v1/{case.of}")
        for body in waiting:
            name = f"r{next(self._numbers)}"
            seed = name.encode().ljust(16)
            submit = Submit(name, name, endpoint, body, [], seed, 1_700_000_000.5)
            await self._serving.handle(submit, lambda message: None)


async def _serve(model: str, *, parsers: bool) -> None:
    told_to = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever libraries print
    from dynamo_cli.models import catalog

    bench = Bench(str(catalog.resolve(model, lambda _: None).path), parsers=parsers)
    await bench.start()
    print("ready", file=told_to, flush=True)
    for line in sys.stdin:
        print(await bench.run(line.strip()), file=told_to, flush=True)


class Side:
    """A checkout that is measured, in a process of its own."""

    def __init__(self, folder: Path, model: str, *, parsers: bool) -> None:
        words = [sys.executable, "-m", "tests.benchmarks.processor", "--serve", "--model", model]
        words += ["--parsers"] if parsers else []
        self._process = subprocess.Popen(
            words,
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"},
        )

    def ask(self, line: str = "") -> str:
        assert self._process.stdin is not None and self._process.stdout is not None
        if line:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        told = self._process.stdout.readline().strip()
        assert told, "the process has ended"
        return told

    def end(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def _row(name: str, figures: list[list[float]]) -> str:
    unit = "us per token" if CASES[name].per_token else "ms per request"
    unit = "ms" if CASES[name].reached else unit
    least = [min(side) for side in figures]
    told = " | ".join(f"{one:.4g}" for one in least)
    if len(figures) == 1:
        return f"| {name}, {unit} | {told} |"
    ratios = [ours / theirs for ours, theirs in zip(*figures, strict=True)]
    spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
    return f"| {name}, {unit} | {told} | {least[0] / least[1]:.2f} ({spread}) |"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default="tiny", help="tiny, demo or a folder")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default=",".join(CASES), help=f"of {','.join(CASES)}")
    parser.add_argument("--against", type=Path, help="another checkout")
    parser.add_argument("--parsers", action="store_true", help="with those for reasoning and tools")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        asyncio.run(_serve(given.model, parsers=given.parsers))
        return
    folders = [Path.cwd()] + ([given.against] if given.against else [])
    sides = [Side(folder, given.model, parsers=given.parsers) for folder in folders]
    for side in sides:
        side.ask()
    for name in given.only.split(","):
        figures: list[list[float]] = [[] for _ in sides]
        for number in range(given.rounds + 1):
            for side, found in zip(sides, figures, strict=True):
                figure = float(side.ask(name))
                if number:  # the first round warms up
                    found.append(figure)
        print(_row(name, figures), flush=True)
    for side in sides:
        side.end()


if __name__ == "__main__":
    main()
