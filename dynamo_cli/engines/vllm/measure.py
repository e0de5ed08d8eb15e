"""Measures a real engine step by step, for a `Profile`; a process of its own.

    python -m dynamo_cli.engines.vllm.measure < CONFIG

The configuration is a `MeasurePlan` as JSON. The output is JSON too, one object a line: several
``{"progress": ...}``, then ``{"measured": ...}`` or ``{"error": NAME, "message": ...}``.
"""

from __future__ import annotations

import os
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec
import orjson

from dynamo_cli.config import EngineConfig
from dynamo_cli.engines.measured import Burst, MeasuredRun, pairs
from dynamo_cli.engines.vllm.options import environment
from dynamo_cli.errors import ChildFailed, DynamoError
from dynamo_cli.kv import hashes
from dynamo_cli.messages.request import AddRequest

REPEATS = 5
"""Repetitions of each measurement. Only the fastest counts, since other load makes steps slower."""

PROMPTS = (8, 32, 128, 512, 2048, 8192, 32768)
PREFIXES = (256, 1024, 4096, 16384)
NEW_TOKENS = (32, 256)
"""Numbers of new tokens after a cached prefix."""

AT_ONCE = ((2, 256), (4, 64), (4, 500), (8, 128), (16, 16), (16, 100))
"""Numbers of prompts in one step, and of tokens of each."""

REQUESTS = (1, 2, 4, 8, 16, 32, 64, 128)
CONTEXTS = (16, 256, 1024, 4096)
DECODE_STEPS = 8
BURST, BURSTS = 24, 3
PATIENCE_S = 60.0
"""How long the last measurement may go on after the time for all of them is over, seconds."""

KV_SHARE = 0.8
"""Fraction of the KV cache that a measurement may fill."""


class MeasurePlan(msgspec.Struct, frozen=True):
    """What is to be measured.

    Attributes:
        config: the engine.
        seconds: time after which no further measurement begins.
    """

    config: EngineConfig
    seconds: float = 30.0


class Measurements(msgspec.Struct, frozen=True):
    """The results for an engine. For the sizes see `Profile`.

    Attributes:
        runs: the measured steps.
        burst: requests to check a profile with.
        left_out: number of measurements for which there was no time, or no room.
    """

    runs: list[MeasuredRun]
    burst: Burst
    left_out: int
    block_size: int
    num_blocks: int
    max_num_seqs: int
    max_num_batched_tokens: int
    max_model_len: int


def main() -> None:
    """Read the plan, measure, and write the results."""
    out = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what libraries print must not mix with the results

    def say(**content: Any) -> None:
        out.write(orjson.dumps(msgspec.to_builtins(content)) + b"\n")

    plan = msgspec.json.decode(sys.stdin.buffer.read(), type=MeasurePlan)
    environment.prepare(plan.config)
    environment.select_devices(plan.config.devices)
    try:
        say(progress="loading the engine")
        meter = EngineMeter(plan, lambda what: say(progress=what))
        say(measured=meter.measure())
    except DynamoError as error:
        say(error=type(error).__name__, message=error.message)


class EngineMeter:
    """Measures an engine.

    Args:
        plan: what to measure.
        say: is called with what is being measured, for people.
    """

    def __init__(self, plan: MeasurePlan, say: Callable[[str], None]) -> None:
        # To be imported only after the environment is prepared.
        from vllm.v1.engine import EngineCoreOutputs  # noqa: PLC0415
        from vllm.v1.serial_utils import MsgpackDecoder, MsgpackEncoder  # noqa: PLC0415

        from dynamo_cli.engines.vllm.core.engine import VllmEngine  # noqa: PLC0415

        self._engine = VllmEngine(0, plan.config)
        self._ready = self._engine.ready()
        self._encoder = MsgpackEncoder()
        self._decode = MsgpackDecoder(EngineCoreOutputs).decode
        self._say = say
        self._dice = random.Random(0)
        self._numbers = iter(range(1 << 62))
        self._deadline_s = time.monotonic() + plan.seconds
        self._longest = self._ready.max_model_len - 1
        self._room = int(KV_SHARE * (self._ready.num_blocks - 1) * self._ready.block_size)
        self._outputs: dict[str, int] = {}  # request -> tokens so far
        self._left_out = 0

    def measure(self) -> Measurements:
        """Do all measurements, from small to large."""
        self._warm()
        runs = [
            *self._prefills(),
            *self._prefills_at_once(),
            *self._prefills_after_prefixes(),
            *self._decodes(),
        ]
        self._say("a burst of requests")
        seqs, tokens = self._engine.batch_limits
        ready = self._ready
        return Measurements(
            runs=runs,
            burst=self._burst(),
            left_out=self._left_out,
            block_size=ready.block_size,
            num_blocks=ready.num_blocks,
            max_num_seqs=seqs,
            max_num_batched_tokens=tokens,
            max_model_len=ready.max_model_len,
        )

    def _warm(self) -> None:
        for length in (8, 64, 8, 64):
            self._add(self._prompt(min(length, self._longest)), 4)
            self._finish()

    # -- prefill -----------------------------------------------------------------------------

    def _prefills(self) -> Iterator[MeasuredRun]:
        """Single prompts of which nothing is cached."""
        for length in PROMPTS:
            if self._has_room(1, length, f"prompts of {length} tokens"):
                yield self._prefill(1, length)

    def _prefills_at_once(self) -> Iterator[MeasuredRun]:
        """Several prompts in one step."""
        seqs, tokens = self._engine.batch_limits
        for count, length in AT_ONCE:
            what = f"{count} prompts of {length} tokens"
            fits = count <= seqs and count * length <= tokens
            if fits and self._has_room(count, length, what):
                yield self._prefill(count, length)

    def _prefills_after_prefixes(self) -> Iterator[MeasuredRun]:
        """Prompts with a cached prefix: few tokens are computed, with many before them."""
        for wanted in PREFIXES if self._engine.caches_prefixes else ():
            prefix = self._prompt(wanted // self._ready.block_size * self._ready.block_size)
            for new in NEW_TOKENS:
                what = f"{new} tokens after {len(prefix)} cached ones"
                if prefix and self._has_room(1, len(prefix) + new, what):
                    self._add(prefix + self._prompt(1), 1)
                    self._finish()
                    yield self._prefill(1, new, prefix)

    def _prefill(self, count: int, length: int, prefix: Sequence[int] = ()) -> MeasuredRun:
        """The fastest of several runs of `count` prompts, each with one token of output."""
        _, most_tokens = self._engine.batch_limits
        steps = -(-count * length // most_tokens)
        return MeasuredRun(
            kind="prefill",
            steps=steps,
            prefill_requests=max(steps, count),
            prefill_tokens=count * length,
            prefill_pairs=count * pairs(length, len(prefix)),
            decode_requests=0,
            decode_context=0,
            seconds=min(
                self._until_first_tokens(
                    [self._add([*prefix, *self._prompt(length)], 1) for _ in range(count)]
                )
                for _ in range(REPEATS)
            ),
        )

    def _until_first_tokens(self, names: list[str]) -> float:
        """Seconds until all requests have a token, without the later steps that clean up."""
        began = time.perf_counter()
        while not all(map(self._outputs.get, names)):
            self._step()
        seconds = time.perf_counter() - began
        self._finish()
        return seconds

    # -- decode ------------------------------------------------------------------------------

    def _decodes(self) -> Iterator[MeasuredRun]:
        """Several requests at once that decode, each with a number of cached tokens."""
        seqs, _ = self._engine.batch_limits
        for context in CONTEXTS:
            for count in REQUESTS:
                what = f"{count} requests with {context} tokens each"
                length = context + REPEATS * DECODE_STEPS
                if count <= seqs and self._has_room(count, length, what):
                    yield self._decode_run(count, context)

    def _decode_run(self, count: int, context: int) -> MeasuredRun:
        """The fastest of several parts of one long decode, with the cached tokens in that part."""
        most = self._longest - context  # the requests are aborted long before that
        names = [self._add(self._prompt(context), most) for _ in range(count)]
        while not all(map(self._outputs.get, names)):
            self._step()
        pieces = []
        for _ in range(REPEATS):
            cached = sum(context + self._outputs[name] - 1 for name in names)
            grown = count * DECODE_STEPS * (DECODE_STEPS - 1) // 2
            began = time.perf_counter()
            for _ in range(DECODE_STEPS):
                self._step()
            pieces.append((time.perf_counter() - began, DECODE_STEPS * cached + grown))
        self._engine.abort(names)
        self._finish()
        seconds, total = min(pieces)
        return MeasuredRun(
            kind="decode",
            steps=DECODE_STEPS,
            prefill_requests=0,
            prefill_tokens=0,
            prefill_pairs=0,
            decode_requests=DECODE_STEPS * count,
            decode_context=total,
            seconds=seconds,
        )

    # -- a check -----------------------------------------------------------------------------

    def _burst(self) -> Burst:
        """Many requests of all lengths at once, to check a profile: the fastest of several runs."""
        most = min(600, self._longest // 2, self._room // BURST)
        lengths = tuple(
            (self._dice.randint(8, max(8, most)), self._dice.randint(4, max(4, min(48, most))))
            for _ in range(BURST)
        )
        goes = [self._burst_once(lengths) for _ in range(BURSTS)]
        return min(goes, key=lambda burst: burst.total_s)

    def _burst_once(self, lengths: tuple[tuple[int, int], ...]) -> Burst:
        names = [self._add(self._prompt(prompt), output) for prompt, output in lengths]
        first_s: dict[str, float] = {}
        began = time.perf_counter()
        left = dict(zip(names, (output for _, output in lengths), strict=True))
        while any(self._outputs.get(name, 0) < output for name, output in left.items()):
            self._step()
            now_s = time.perf_counter() - began
            for name in names:
                if name not in first_s and self._outputs.get(name):
                    first_s[name] = now_s
        total_s = time.perf_counter() - began
        self._finish()
        return Burst(lengths, tuple(first_s[name] for name in names), total_s)

    # -- the engine --------------------------------------------------------------------------

    def _has_room(self, count: int, length: int, what: str) -> bool:
        """Whether there is room and time for `count` requests of this length, with output."""
        if length > self._longest:
            return False
        if count * length > self._room or time.monotonic() > self._deadline_s:
            self._left_out += 1
            return False
        self._say(what)
        return True

    def _prompt(self, length: int) -> list[int]:
        """A random prompt, which shares no prefix with the others."""
        return self._dice.choices(range(3, self._engine.vocabulary), k=length)

    def _add(self, prompt: list[int], tokens: int) -> str:
        from vllm import SamplingParams  # noqa: PLC0415
        from vllm.v1.engine import EngineCoreRequest  # noqa: PLC0415

        name = str(next(self._numbers))
        request = EngineCoreRequest(
            request_id=name,
            prompt_token_ids=None,
            mm_features=None,
            sampling_params=SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True),
            pooling_params=None,
            arrival_time=time.time(),
            lora_request=None,
            cache_salt=None,
            data_parallel_rank=None,
        )
        frames = [bytes(frame) for frame in self._encoder.encode(request)]
        self._engine.add(0, AddRequest(name, hashes.pack_tokens(prompt), frames))
        return name

    def _step(self) -> None:
        if time.monotonic() > self._deadline_s + PATIENCE_S:
            raise ChildFailed("the engine did not finish the requests of a measurement in time.")
        for _, message in self._engine.step():
            for output in self._decode(message.frames).outputs:
                before = self._outputs.get(output.request_id, 0)
                self._outputs[output.request_id] = before + len(output.new_token_ids)

    def _finish(self) -> None:
        """Step until the engine has nothing left to do."""
        while self._engine.has_work():
            self._step()


if __name__ == "__main__":
    main()
