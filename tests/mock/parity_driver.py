"""A real engine and a simulated one side by side, in a process of its own (see `test_parity`).

Random conversations in several turns come to a cache that is too small for them, with long prompts
in chunks, some requests aborted and many preempted. The real engine goes first; the simulated one
gets the same requests before the same steps and says the same words, because a block's hash
depends on them. For each step the two tell what they stored and removed, in order, what they found
cached, and who finished.

    python -m tests.mock.parity_driver MODEL_FOLDER SEED
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from dynamo_cli.config import EngineConfig
from dynamo_cli.engines.mock.profile import Profile
from dynamo_cli.engines.mock.request import SimRequest
from dynamo_cli.engines.mock.state import SimEngine
from dynamo_cli.engines.vllm import environment
from dynamo_cli.kv import hashes
from dynamo_cli.messages import AddRequest

BLOCK = 32
STEPS = 1200
PROFILE = Profile(
    name="tiny",
    source="the limits of the real one",
    step_s=0.001,
    prefill_token_s=0.0,
    decode_request_s=0.0,
    block_size=BLOCK,
    num_blocks=36,
    max_num_seqs=6,
    max_num_batched_tokens=200,
    max_model_len=1024,
)


@dataclass
class Arrival:
    """A request that comes, or is aborted when `tokens` is empty."""

    name: str
    tokens: list[int]
    output_tokens: int = 0


@dataclass
class Step:
    """What one step told."""

    events: list[tuple[str, int]] = field(default_factory=list)
    cached: dict[str, int] = field(default_factory=dict)
    finished: list[str] = field(default_factory=list)

    def as_row(self) -> Any:
        return [self.events, sorted(self.cached.items()), sorted(self.finished)]


class Traffic:
    """Conversations: a turn's prompt is the turn before it, what was said to it, and more."""

    def __init__(self, dice: random.Random) -> None:
        self.dice = dice
        self.system = [self.tokens(n) for n in (70, 128)]
        self.talks: list[list[int]] = []
        self.said: dict[str, list[int]] = {}  # of each request: all that is said
        self.number = 0

    def tokens(self, count: int) -> list[int]:
        return [self.dice.randrange(3, 1000) for _ in range(count)]

    def arrivals(self, running: list[str]) -> Iterator[Arrival]:
        if running and self.dice.random() < 0.02:
            yield Arrival(self.dice.choice(running), [])
        if len(running) > 12 or self.dice.random() > 0.12:
            return
        prompt = self.prompt()
        for _ in range(self.dice.choice((1, 1, 1, 2))):  # some come twice at once
            self.number += 1
            name = f"r{self.number}"
            self.said[name] = list(prompt)
            yield Arrival(name, prompt, self.dice.randrange(1, 100))

    def prompt(self) -> list[int]:
        start = self.dice.choice(self.talks[-10:] + self.system)
        if len(start) > 700 or self.dice.random() < 0.2:
            start = self.dice.choice(self.system)
        more = self.dice.choice((1, 31, 32, 33, self.dice.randrange(1, 250)))
        return start + self.tokens(more)

    def finished(self, name: str) -> None:
        self.talks.append(self.said[name])


class Real:
    """vLLM's engine, with its events in our hashes."""

    def __init__(self, model: str) -> None:
        from vllm.v1.serial_utils import MsgpackEncoder

        from dynamo_cli.engines.vllm.engine import Engine

        args = {
            "--block-size": BLOCK,
            "--num-gpu-blocks-override": PROFILE.num_blocks,
            "--max-num-seqs": PROFILE.max_num_seqs,
            "--max-num-batched-tokens": PROFILE.max_num_batched_tokens,
            "--max-model-len": PROFILE.max_model_len,
            "--dtype": "float32",
        }
        typed = [str(part) for pair in args.items() for part in pair]
        config = EngineConfig(
            model="tiny",
            path=model,
            served_names=("tiny",),
            args=(*typed, "--enforce-eager"),
            threads=1,
            kv_cache_limit_bytes=64 << 20,
        )
        environment.prepare(config)
        self.engine = Engine(0, config, kv_events=True)
        self.encoder = MsgpackEncoder()
        self.names: dict[Any, int] = {}
        self.events: list[tuple[str, int]] = []
        self.engine._cache_events._apply = self.note

    def note(self, event: Any) -> None:
        if type(event).__name__ == "BlockRemoved":
            self.events += [("removed", self.names[name]) for name in event.block_hashes]
            return
        parent = hashes.ROOT
        if event.parent_block_hash is not None:
            parent = self.names[event.parent_block_hash]
        tokens = hashes.pack_tokens(event.token_ids)
        chained = hashes.chain(tokens, BLOCK, (), parent)
        self.names |= dict(zip(event.block_hashes, chained, strict=True))
        self.events += [("stored", block) for block in chained]

    def add(self, arrival: Arrival) -> None:
        from vllm import SamplingParams
        from vllm.v1.engine import EngineCoreRequest

        request = EngineCoreRequest(
            request_id=arrival.name,
            prompt_token_ids=None,
            mm_features=None,
            sampling_params=SamplingParams(
                temperature=0, max_tokens=arrival.output_tokens, ignore_eos=True
            ),
            pooling_params=None,
            arrival_time=0.0,
            lora_request=None,
            cache_salt=None,
            data_parallel_rank=None,
        )
        frames = [bytes(frame) for frame in self.encoder.encode(request)]
        tokens = hashes.pack_tokens(arrival.tokens)
        self.engine.add(0, AddRequest(arrival.name, tokens, frames))

    def step(self, traffic: Traffic) -> Step:
        from vllm.v1.engine import EngineCoreOutputs
        from vllm.v1.serial_utils import MsgpackDecoder

        step = Step()
        for _, message in self.engine.step():
            for output in MsgpackDecoder(EngineCoreOutputs).decode(message.frames).outputs:
                traffic.said[output.request_id] += output.new_token_ids
                if output.prefill_stats is not None:
                    step.cached[output.request_id] = output.prefill_stats.num_cached_tokens
                if output.finish_reason is not None:
                    step.finished.append(output.request_id)
        step.events, self.events = self.events, []
        return step


class Simulated:
    """The simulated engine, which says what the real one has said."""

    def __init__(self, said: dict[str, list[int]]) -> None:
        self.said = said
        self.events: list[tuple[str, int]] = []
        self.engine = SimEngine(PROFILE, lambda kind, name: self.events.append((kind, name)))

    def add(self, arrival: Arrival) -> None:
        tokens = hashes.pack_tokens(arrival.tokens)
        self.engine.add(
            SimRequest(
                arrival.name,
                len(arrival.tokens),
                arrival.output_tokens,
                hashes.chain(tokens, BLOCK),
                self.name_block,
            )
        )

    def name_block(self, request: SimRequest, block: int) -> int:
        tokens = self.said[request.request_id][block * BLOCK : (block + 1) * BLOCK]
        parent = request.hashes[block - 1] if block else hashes.ROOT
        return hashes.chain(hashes.pack_tokens(tokens), BLOCK, (), parent)[0]

    def step(self) -> Step:
        result = self.engine.step()
        step = Step(
            cached={one.request_id: one.cached_tokens for one in result.joined if one.fresh},
            finished=[one.request_id for one in result.finished],
        )
        step.events, self.events = self.events, []
        return step


def main(model: str, seed: int) -> dict[str, Any]:
    traffic = Traffic(random.Random(seed))
    real = Real(model)
    script: list[list[Arrival]] = []
    told: list[Step] = []
    running: dict[str, None] = {}
    while len(script) < STEPS:
        arrivals = list(traffic.arrivals(list(running)))
        for arrival in arrivals:
            if arrival.tokens:
                real.add(arrival)
                running[arrival.name] = None
            else:
                real.engine.abort([arrival.name])
                del running[arrival.name]
        script.append(arrivals)
        told.append(real.step(traffic) if running else Step())
        for name in told[-1].finished:
            del running[name]
            traffic.finished(name)
    preempted = real.engine.stats(0).preemptions
    real.engine.close()
    return compare(script, told, Simulated(traffic.said)) | {"preempted": preempted}


def compare(script: list[list[Arrival]], told: list[Step], sim: Simulated) -> dict[str, Any]:
    """The first step in which the two differ, and how much there was to differ in."""
    differs: Any = None
    for number, (arrivals, real) in enumerate(zip(script, told, strict=True)):
        for arrival in arrivals:
            if arrival.tokens:
                sim.add(arrival)
            else:
                sim.engine.abort(arrival.name)
        step = sim.step() if sim.engine.has_work() else Step()
        if step.as_row() != real.as_row():
            differs = {"step": number, "real": real.as_row(), "simulated": step.as_row()}
            break
    events = [kind for step in told for kind, _ in step.events]
    return {
        "differs": differs,
        "requests": sum(bool(arrival.tokens) for arrivals in script for arrival in arrivals),
        "aborted": sum(not arrival.tokens for arrivals in script for arrival in arrivals),
        "stored": events.count("stored"),
        "removed": events.count("removed"),
        "cached": sum(sum(step.cached.values()) for step in told),
        "simulated_preemptions": sim.engine.totals.preemptions,
    }


if __name__ == "__main__":
    print("RESULT" + json.dumps(main(sys.argv[1], int(sys.argv[2]))))
