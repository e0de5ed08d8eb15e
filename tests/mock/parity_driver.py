"""Compares a real engine with a simulated one, in a process of its own (see `test_parity`).

Both serve random conversations of several turns. Their cache is too small for these, prompts are
long and chunked, priorities differ, some requests are aborted and many preempted. The real engine
goes first. The simulated one gets the same requests before the same steps and gives the same
tokens, because block hashes depend on them. After each step both report which blocks they stored
and removed, in order, how much was cached, and which requests finished.

The real one is a whole engine or, for many more steps, vLLM's scheduler with random tokens. With an
odd seed, steps have fewer prompt tokens while an answer streams.

    python -m tests.mock.parity_driver MODEL_FOLDER engine|scheduler SEED ...
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from dynamo_cli.config import EngineConfig
from dynamo_cli.engines.mock.profile import Profile
from dynamo_cli.engines.mock.request import SimRequest
from dynamo_cli.engines.mock.state import SimEngine
from dynamo_cli.engines.vllm.options import environment
from dynamo_cli.kv import hashes
from dynamo_cli.messages.request import AddRequest
from tests.support.driver import tell

BLOCK = 32
STEPS = {"engine": 1200, "scheduler": 3000}
CHUNK = 40
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
    """A request that arrives or, if `tokens` is empty, is aborted."""

    name: str
    tokens: list[int]
    output_tokens: int = 0
    priority: int = 0


@dataclass
class Step:
    """What an engine reports after a step."""

    events: list[tuple[str, int]] = field(default_factory=list)
    cached: dict[str, int] = field(default_factory=dict)
    finished: list[str] = field(default_factory=list)

    def as_row(self) -> Any:
        return [self.events, sorted(self.cached.items()), sorted(self.finished)]


class Traffic:
    """Conversations: the prompt of a turn is the turn before it, its answer, and new tokens."""

    def __init__(self, dice: random.Random) -> None:
        self.dice = dice
        self.system = [self.tokens(n) for n in (70, 128)]
        self.talks: list[list[int]] = []
        self.said: dict[str, list[int]] = {}  # by request: the whole answer
        self.number = 0

    def tokens(self, count: int) -> list[int]:
        return [self.dice.randrange(3, 1000) for _ in range(count)]

    def arrivals(self, running: list[str]) -> Iterator[Arrival]:
        if running and self.dice.random() < 0.02:
            yield Arrival(self.dice.choice(running), [])
        if len(running) > 12 or self.dice.random() > 0.12:
            return
        prompt = self.prompt()
        for _ in range(
            self.dice.choice((1, 1, 1, 2))
        ):  # some requests arrive twice at the same time
            self.number += 1
            name = f"r{self.number}"
            self.said[name] = list(prompt)
            priority = self.dice.choice((0, 0, 0, 1, -1))
            yield Arrival(name, prompt, self.dice.randrange(1, 100), priority)

    def prompt(self) -> list[int]:
        start = self.dice.choice(self.talks[-10:] + self.system)
        if len(start) > 700 or self.dice.random() < 0.2:
            start = self.dice.choice(self.system)
        more = self.dice.choice((1, 31, 32, 33, self.dice.randrange(1, 250)))
        return start + self.tokens(more)

    def finished(self, name: str) -> None:
        self.talks.append(self.said[name])


class Real:
    """vLLM's engine; its KV events are reported with our hashes."""

    def __init__(self, config: EngineConfig, seed: int) -> None:
        from vllm.v1.serial_utils import MsgpackEncoder

        from dynamo_cli.engines.vllm.core.engine import VllmEngine

        self.engine = VllmEngine(0, config, kv_events=True)
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
            arrival_time=float(arrival.name[1:]),
            priority=arrival.priority,
            lora_request=None,
            cache_salt=None,
            data_parallel_rank=None,
        )
        frames = [bytes(frame) for frame in self.encoder.encode(request)]
        tokens = hashes.pack_tokens(arrival.tokens)
        self.engine.add(0, AddRequest(arrival.name, tokens, frames))

    def abort(self, name: str) -> None:
        self.engine.abort([name])

    def outputs(self) -> Iterator[Any]:
        """The report of one step."""
        from vllm.v1.engine import EngineCoreOutputs
        from vllm.v1.serial_utils import MsgpackDecoder

        for _, message in self.engine.step():
            yield from MsgpackDecoder(EngineCoreOutputs).decode(message.frames).outputs

    def step(self, traffic: Traffic) -> Step:
        step = Step()
        for output in self.outputs():
            traffic.said[output.request_id] += output.new_token_ids
            if output.prefill_stats is not None:
                step.cached[output.request_id] = output.prefill_stats.num_cached_tokens
            if output.finish_reason is not None:
                step.finished.append(output.request_id)
        step.events, self.events = self.events, []
        return step

    def close(self) -> None:
        self.engine.close()


class Scheduling(Real):
    """vLLM's scheduler and cache, with random tokens instead of a model."""

    def __init__(self, config: EngineConfig, seed: int) -> None:
        import torch
        from vllm.utils.hashing import get_hash_fn_by_name
        from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
        from vllm.v1.core.sched.scheduler import Scheduler
        from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
        from vllm.v1.structured_output import StructuredOutputManager

        from dynamo_cli.engines.vllm.core import chunks, events
        from dynamo_cli.engines.vllm.options import arguments

        vllm_config = arguments.engine_config(arguments.parse(config), config)
        vllm_config.cache_config.num_gpu_blocks = PROFILE.num_blocks
        events.enable(vllm_config)
        attention = FullAttentionSpec(
            block_size=BLOCK, num_kv_heads=1, head_size=64, dtype=torch.float32
        )
        self.scheduler = Scheduler(
            vllm_config=vllm_config,
            kv_cache_config=KVCacheConfig(
                num_blocks=PROFILE.num_blocks,
                kv_cache_tensors=[],
                kv_cache_groups=[KVCacheGroupSpec(["layer"], attention)],
            ),
            structured_output_manager=StructuredOutputManager(vllm_config),
            block_size=BLOCK,
            hash_block_size=BLOCK,
            log_stats=True,
        )
        chunks.install(self.scheduler, config.prefill_chunk_tokens)
        digest = get_hash_fn_by_name(vllm_config.cache_config.prefix_caching_hash_algo)
        init_none_hash(digest)
        self.hasher = get_request_block_hasher(BLOCK, digest)
        self.dice = random.Random(seed)
        self.names = {}
        self.events = []

    def add(self, arrival: Arrival) -> None:
        from vllm import SamplingParams
        from vllm.v1.request import Request

        self.scheduler.add_request(
            Request(
                request_id=arrival.name,
                prompt_token_ids=list(arrival.tokens),
                sampling_params=SamplingParams(max_tokens=arrival.output_tokens, ignore_eos=True),
                pooling_params=None,
                arrival_time=float(arrival.name[1:]),
                priority=arrival.priority,
                block_hasher=self.hasher,
            )
        )

    def abort(self, name: str) -> None:
        from vllm.v1.request import RequestStatus

        self.scheduler.finish_requests([name], RequestStatus.FINISHED_ABORTED)

    def outputs(self) -> Iterator[Any]:
        from vllm.v1.outputs import ModelRunnerOutput

        planned = self.scheduler.schedule()
        requests = [self.scheduler.requests[name] for name in planned.num_scheduled_tokens]
        said = [
            [self.dice.randrange(3, 1000)] if one.num_computed_tokens >= one.num_tokens else []
            for one in requests
        ]
        ran = ModelRunnerOutput(
            req_ids=[one.request_id for one in requests],
            req_id_to_index={one.request_id: place for place, one in enumerate(requests)},
            sampled_token_ids=said,
            logprobs=None,
            prompt_logprobs_dict={},
            pooler_output=[],
        )
        for batch in self.scheduler.update_from_output(planned, ran).values():
            yield from batch.outputs
        for event in self.scheduler.kv_event_publisher.kept:
            self.note(event)
        self.scheduler.kv_event_publisher.kept = []

    def close(self) -> None:
        """Nothing to close."""


def engine_config(model: str) -> EngineConfig:
    """vLLM's configuration with the sizes of `PROFILE`."""
    args = {
        "--block-size": BLOCK,
        "--num-gpu-blocks-override": PROFILE.num_blocks,
        "--max-num-seqs": PROFILE.max_num_seqs,
        "--max-num-batched-tokens": PROFILE.max_num_batched_tokens,
        "--max-model-len": PROFILE.max_model_len,
        "--dtype": "float32",
        "--scheduling-policy": "priority",
    }
    typed = [str(part) for pair in args.items() for part in pair]
    return EngineConfig(
        model="tiny",
        path=model,
        served_names=("tiny",),
        args=(*typed, "--enforce-eager"),
        threads=1,
        kv_cache_limit_bytes=64 << 20,
    )


class Simulated:
    """The simulated engine, which gives the tokens that the real one has given."""

    def __init__(self, said: dict[str, list[int]], chunk: int) -> None:
        self.said = said
        self.events: list[tuple[str, int]] = []
        profile = msgspec.structs.replace(PROFILE, prefill_chunk_tokens=chunk)
        self.engine = SimEngine(profile, lambda kind, name: self.events.append((kind, name)))

    def add(self, arrival: Arrival) -> None:
        tokens = hashes.pack_tokens(arrival.tokens)
        self.engine.add(
            SimRequest(
                arrival.name,
                len(arrival.tokens),
                arrival.output_tokens,
                hashes.chain(tokens, BLOCK),
                self.name_block,
                arrival.priority,
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


def main(config: EngineConfig, kind: str, seed: int) -> dict[str, Any]:
    config = replace(config, prefill_chunk_tokens=CHUNK if seed % 2 else 0)
    traffic = Traffic(random.Random(seed))
    real = (Real if kind == "engine" else Scheduling)(config, seed)
    script: list[list[Arrival]] = []
    told: list[Step] = []
    running: dict[str, None] = {}
    while len(script) < STEPS[kind]:
        arrivals = list(traffic.arrivals(list(running)))
        for arrival in arrivals:
            if arrival.tokens:
                real.add(arrival)
                running[arrival.name] = None
            else:
                real.abort(arrival.name)
                del running[arrival.name]
        script.append(arrivals)
        told.append(real.step(traffic) if running else Step())
        for name in told[-1].finished:
            del running[name]
            traffic.finished(name)
    real.close()
    return compare(script, told, Simulated(traffic.said, config.prefill_chunk_tokens))


def compare(script: list[list[Arrival]], told: list[Step], sim: Simulated) -> dict[str, Any]:
    """The first step in which both differ, and counts of what could have differed."""
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
        "preemptions": sim.engine.totals.preemptions,
    }


if __name__ == "__main__":
    model, kind, *seeds = sys.argv[1:]
    config = engine_config(model)
    environment.prepare(config)
    tell([main(config, kind, int(seed)) for seed in seeds])
