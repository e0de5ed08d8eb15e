"""Drives a real engine step by step, in a process of its own (see `test_faults`).

python -m tests.engine.fault_driver MODEL_FOLDER
"""

from __future__ import annotations

import concurrent.futures
import sys
import time
from types import SimpleNamespace
from typing import Any

from dynamo_cli.config import EngineConfig
from dynamo_cli.engines.vllm.options import environment
from dynamo_cli.errors import InternalError, InvalidRequest
from dynamo_cli.messages.prefill import PushJob
from dynamo_cli.messages.request import AddRequest
from dynamo_cli.topology import MAX_MESSAGE_BYTES
from tests.support.driver import config_of, tell

NAMES = ("a", "b", "c")


def main(model: str) -> dict[str, Any]:
    config = config_of(model, "--max-model-len", "512", "--num-gpu-blocks-override", "32")
    environment.prepare(config)
    return Driver(config).run()


class Driver:
    """An engine whose sampler and scheduler raise an error when the test says so."""

    def __init__(self, config: EngineConfig) -> None:
        from vllm.v1.engine import EngineCoreOutputs
        from vllm.v1.serial_utils import MsgpackDecoder, MsgpackEncoder

        from dynamo_cli.engines.vllm.core import engine

        self.engine = engine.VllmEngine(0, config)
        self.encoder, self.decoder = MsgpackEncoder(), MsgpackDecoder(EngineCoreOutputs)
        self.errors: list[str] = []
        self.naps = 0
        executor = self.engine._core.model_executor
        self.sample, executor.sample_tokens = executor.sample_tokens, self.sampled
        engine.time = SimpleNamespace(sleep=self.nap)
        self.tables = 0
        manager = sys.modules["vllm.v1.structured_output"]
        self.make_tables, manager.XgrammarBackend = manager.XgrammarBackend, self.made_tables

    def made_tables(self, *args: Any, **more: Any) -> Any:
        self.tables += 1
        return self.make_tables(*args, **more)

    def nap(self, limit_s: float) -> None:
        self.naps += 1

    def sampled(self, *args: Any, **more: Any) -> Any:
        if self.errors:
            raise RuntimeError(self.errors.pop())
        return self.sample(*args, **more)

    def frames(
        self, name: str, tokens: int, grammar: str = "", logprobs: int | None = None
    ) -> list[bytes]:
        from vllm import SamplingParams
        from vllm.sampling_params import StructuredOutputsParams
        from vllm.v1.engine import EngineCoreRequest

        request = EngineCoreRequest(
            request_id=f"{name}-request",
            prompt_token_ids=[ord(name) + place % 7 for place in range(70)],
            mm_features=None,
            sampling_params=SamplingParams(
                temperature=0, max_tokens=tokens, ignore_eos=True, prompt_logprobs=logprobs
            ),
            pooling_params=None,
            arrival_time=time.time(),
            lora_request=None,
            cache_salt=None,
            data_parallel_rank=None,
        )
        if grammar:
            chosen = StructuredOutputsParams(grammar=grammar)
            chosen._backend = "xgrammar"
            request.sampling_params.structured_outputs = chosen
        return [bytes(frame) for frame in self.encoder.encode(request)]

    def add(
        self, name: str, tokens: int = 40, grammar: str = "", logprobs: int | None = None
    ) -> None:
        frames = self.frames(name, tokens, grammar, logprobs)
        self.engine.add(0, AddRequest(f"{name}-request", b"", frames))

    def add_job(self, name: str) -> None:
        """A prompt that another engine decodes."""
        job = PushJob("job", 70, 0, None, 0, 0, b"", self.frames(name, 1))
        self.engine.prefill_side.add(job, 0)

    def step(self, answers: dict[str, list[int]]) -> int:
        """Run one step, and return the number of its messages."""
        messages = list(self.engine.step())
        for _, message in messages:
            for output in self.decoder.decode(message.frames).outputs:
                answers.setdefault(output.request_id[0], []).extend(output.new_token_ids)
        return len(messages)

    def answers(self, names: tuple[str, ...], fault: str = "", after: int = 0) -> dict[str, Any]:
        answers: dict[str, list[int]] = {}
        for name in names:
            self.add(name)
        steps = 0
        while self.engine.has_work():
            if fault and steps == after:
                self.errors.append(fault)
            self.step(answers)
            steps += 1
        return answers

    def run(self) -> dict[str, Any]:
        result: dict[str, Any] = {"plain": self.answers(NAMES), "naps": self.naps}
        result["named"] = {
            after: self.answers(NAMES, "cannot sample for b-request", after) for after in (0, 5, 35)
        }
        result["failed"] = self.failed()
        result["alone"] = self.answers(("a",), "no name in it")
        result["failed alone"] = self.failed()
        result["grammar"] = self.answers_with_grammar()
        result["tables"] = self.tables
        result["failed grammar"] = self.failed()
        result["after"] = self.answers(NAMES)
        result["large"] = [self.large(10_000, 5), self.large(20_000, 20)]
        result["twice"] = self.twice()
        result["refused"] = self.refused()
        result["copies"] = [self.goes_on(copies) for copies in (False, True)]
        result["unnamed"] = self.unnamed()
        return result

    def failed(self) -> list[tuple[int, str, int, str]]:
        failed = self.engine.take_failed()
        return [(client, name, error.http_status, error.message) for client, name, error in failed]

    def answers_with_grammar(self) -> dict[str, list[int]]:
        """A request whose grammar only the engine refuses, beside another request."""
        answers: dict[str, list[int]] = {}
        self.add("a")
        frames = self.frames("b", 40, "root ::= ")
        prepared = self.engine._intake.prepare(0, AddRequest("b-request", b"", frames))
        # It is refused before the request starts, which may wait for blocks of other engines.
        concurrent.futures.wait([prepared.begin[0].structured_output_request._grammar], 30)
        self.engine._intake.start(prepared)
        while self.engine.has_work():
            self.step(answers)
        return answers

    def large(self, most_bytes: int, logprobs: int) -> list[Any]:
        """Requests whose first outputs are large, beside others.

        Args:
            most_bytes: what a message may have.
            logprobs: for how many tokens "c" asks; "b" asks for 20, which takes 12,000 bytes.

        Returns:
            the tokens of the answers, the most messages of a step, and the requests that failed.
        """
        from dynamo_cli.engines.vllm.core import outgoing

        outgoing.MAX_MESSAGE_BYTES = most_bytes
        for name, asked in (("a", None), ("b", 20), ("c", logprobs)):
            self.add(name, logprobs=asked)
        answers: dict[str, list[int]] = {}
        messages = [self.step(answers)]
        while self.engine.has_work():
            messages.append(self.step(answers))
        outgoing.MAX_MESSAGE_BYTES = MAX_MESSAGE_BYTES
        return [answers, max(messages), self.failed()]

    def twice(self) -> str:
        """A request with an id that is in use is refused, and the first one goes on."""
        answers: dict[str, list[int]] = {}
        self.add("a", 5)
        try:
            self.add("a", 5)
        except InvalidRequest as error:
            refused = error.message
        while self.engine.has_work():
            self.step(answers)
        return f"{refused} {len(answers['a'])}"

    def refused(self) -> list[Any]:
        """What the engine refuses when it is half queued, a prompt for another engine too."""
        queue = self.engine._core.add_request

        def half(*args: Any) -> None:
            queue(*args)
            raise RuntimeError("no place in the queue")

        self.engine._core.add_request = half
        found: list[Any] = []
        for add in (self.add, self.add_job):
            try:
                add("a")
            except InternalError as error:
                found.append(error.message)
        self.engine._core.add_request = queue
        answers: dict[str, list[int]] = {}
        while self.engine.has_work():
            self.step(answers)
        return [found, answers]

    def goes_on(self, copies: bool) -> bool:
        """Whether it could go on after an error, with a host cache and copies under way or not."""
        from dynamo_cli.engines.vllm.core import faults

        scheduler = self.engine._core.scheduler
        scheduler.connector = SimpleNamespace(has_pending_push_work=lambda: copies)
        can = faults.can_go_on(self.engine._core, RuntimeError())
        scheduler.connector = None
        return can

    def unnamed(self) -> str:
        try:
            self.answers(NAMES, "nobody is to blame", 3)
        except RuntimeError as error:
            return str(error)
        return ""


if __name__ == "__main__":
    tell(main(sys.argv[1]))
