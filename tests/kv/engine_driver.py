"""Drives one real engine step by step, in a process of its own (see `test_engine_events`).

It sends random prompts, with and without LoRA adapter and cache salt, some of them at the same
time, to an engine whose cache is too small for all of them. For each prompt it compares the cached
tokens by the index with those that the engine finds, and at the end the hashes of the processor
with those of the events. Prompts are hashed in parts of 100 tokens.

    python -m tests.kv.engine_driver MODEL_FOLDER ADAPTER_FOLDER SEED
"""

from __future__ import annotations

import copy
import gc
import random
import sys
import time
from typing import Any

from dynamo_cli.config import EngineConfig
from dynamo_cli.engines.vllm.options import environment
from dynamo_cli.kv import hashes
from dynamo_cli.kv.announcer import CacheAnnouncer
from dynamo_cli.kv.index import PrefixIndex
from dynamo_cli.messages.request import AddRequest
from tests.support.driver import BLOCK, config_of, tell

ROUNDS = 150


def main(model: str, adapter: str, seed: int) -> dict[str, Any]:
    config = config_of(
        model,
        *("--max-model-len", "1024", "--num-gpu-blocks-override", "72"),
        *("--enable-lora", "--max-lora-rank", "8"),
    )
    environment.prepare(config)
    return Driver(config, adapter, random.Random(seed)).run()


class Driver:
    """Engine, cache announcer and index, without processes between them."""

    def __init__(self, config: EngineConfig, adapter: str, dice: random.Random) -> None:
        from vllm.lora.request import LoRARequest
        from vllm.v1.serial_utils import MsgpackEncoder

        from dynamo_cli.engines.vllm.core import hashing
        from dynamo_cli.engines.vllm.core.engine import VllmEngine

        hashing.PART_TOKENS = 100  # so that most prompts are hashed in several parts
        self.engine = VllmEngine(0, config, kv_events=True)
        assert self.engine.holdings is not None
        self.announcer = CacheAnnouncer(0, self.engine.holdings)
        self.index = PrefixIndex()
        self.encoder = MsgpackEncoder()
        self.dice = dice
        self.adapters = [None, LoRARequest("one", 1, adapter), LoRARequest("two", 2, adapter)]
        self.families: list[tuple[list[int], Any, str | None]] = []
        self.wrong: list[Any] = []
        self.hits = self.removed = self.parts = 0

    def run(self) -> dict[str, Any]:
        for number in range(ROUNDS):
            together = self.dice.choice((1, 1, 1, 3))
            requests = [self.request(f"{number}-{place}") for place in range(together)]
            if together > 1:  # the same prompt at the same time: its blocks are computed twice
                requests[1] = copy.copy(requests[0])
                requests[1].request_id = f"{number}-twin"
                requests[1].prompt_token_ids = list(requests[0].prompt_token_ids)
            self.play(requests, alone=together == 1)
        self.reset()
        frozen = gc.get_freeze_count()
        self.engine.close()
        thawed = frozen - gc.get_freeze_count()
        return {
            "wrong": self.wrong,
            "hits": self.hits,
            "removed": self.removed,
            "parts": self.parts,
            "thawed_by_the_end": thawed,
        }

    def request(self, name: str) -> Any:
        from vllm import SamplingParams
        from vllm.v1.engine import EngineCoreRequest

        prompt, adapter, salt = self.family()
        self.families.append((prompt, adapter, salt))
        return EngineCoreRequest(
            request_id=name,
            prompt_token_ids=prompt,
            mm_features=None,
            sampling_params=SamplingParams(
                temperature=0, max_tokens=self.tokens(), ignore_eos=True
            ),
            pooling_params=None,
            arrival_time=time.time(),
            lora_request=adapter,
            cache_salt=salt,
            data_parallel_rank=None,
        )

    def tokens(self) -> int:
        """Of an answer: mostly few, for each is a step of the engine; some fill whole blocks."""
        return self.dice.randrange(1, 80 if self.dice.random() < 0.2 else 8)

    def family(self) -> tuple[list[int], Any, str | None]:
        """Choose a new prompt, or part of a recent one followed by new tokens."""
        adapter = self.dice.choice(self.adapters)
        salt = self.dice.choice((None, None, "pepper", "sumac"))
        start: list[int] = []
        if self.families and self.dice.random() < 0.8:
            older, same_adapter, same_salt = self.dice.choice(self.families[-8:])
            start = older[: self.dice.randrange(len(older) // 2, len(older) + 1)]
            if (
                self.dice.random() < 0.8
            ):  # with another adapter or salt, the same tokens would have other hashes
                adapter, salt = same_adapter, same_salt
        length = self.dice.choice((1, 31, 32, 33, self.dice.randrange(1, 300)))
        prompt = start + [self.dice.randrange(3, 1000) for _ in range(length)]
        return prompt[:900], adapter, salt

    def play(self, requests: list[Any], *, alone: bool) -> None:
        from dynamo_cli.engines.vllm.core.events import sequence_hashes

        asked = []
        for request in requests:
            tokens = hashes.pack_tokens(request.prompt_token_ids)
            blocks = sequence_hashes(request, tokens, BLOCK)
            usable = blocks[: (len(request.prompt_token_ids) - 1) // BLOCK]
            asked.append((request, blocks, self.index.leading(usable).get(0, 0) * BLOCK))
            request.prompt_token_ids = None
            frames = [bytes(frame) for frame in self.encoder.encode(request)]
            side = self.engine.decode_side
            prepared = side.prepare(0, AddRequest(request.request_id, tokens, frames))
            self.parts += sum(1 for _ in prepared.unfinished)
            side.start(prepared)
        cached = self.finish()
        for request, blocks, predicted in asked:
            measured = cached[request.request_id]
            self.hits += measured
            if alone and predicted != measured:
                self.wrong.append([request.request_id, predicted, measured])
            if alone and not all(self.index.holds(0, block) for block in blocks):
                self.wrong.append([request.request_id, "hashes differ from those of the events"])

    def finish(self) -> dict[str, int]:
        """Run until all requests are over; return the cached tokens of each."""
        from vllm.v1.engine import EngineCoreOutputs
        from vllm.v1.serial_utils import MsgpackDecoder

        decoder, cached = MsgpackDecoder(EngineCoreOutputs), {}
        while self.engine.has_work():
            for _, message in self.engine.step():
                for output in decoder.decode(message.frames).outputs:
                    if output.prefill_stats is not None:
                        cached[output.request_id] = output.prefill_stats.num_cached_tokens
            self.publish()
        return cached

    def publish(self) -> None:
        change = self.announcer.changes(0)
        if change is not None:
            removed = hashes.unpack(change.removed)
            self.removed += len(removed)
            self.index.remove(0, removed)
            self.index.store(0, hashes.unpack(change.stored))
        assert self.engine.holdings is not None
        if self.engine.holdings.unknown or self.index.unknown_removals:
            self.wrong.append(["unknown", dict(self.engine.holdings.unknown)])

    def reset(self) -> None:
        """Check that a reset of the cache outside of a step reaches the index too."""
        from dynamo_cli.messages.request import CallUtility

        frames = [bytes(frame) for frame in self.encoder.encode(())]
        answer = self.engine.call(CallUtility(1, "reset_prefix_cache", frames))
        self.publish()
        if answer.error or len(self.index):
            self.wrong.append(["reset", answer.error, len(self.index)])


if __name__ == "__main__":
    tell(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
