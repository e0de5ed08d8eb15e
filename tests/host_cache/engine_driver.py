"""Drives a real engine whose cache is far too small, with and without a host cache.

python -m tests.host_cache.engine_driver MODEL_FOLDER plain|shared|between|disk|packed [OPTION ...]

With `between`, only small loads belong to a step, and the others are done between steps. With
`packed`, the layers of a block lie side by side in the engine's cache, as on a GPU.
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from collections import deque
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from dynamo_cli.config import DiskCacheConfig, EngineConfig, HostCacheConfig
from dynamo_cli.engines.vllm.options import environment
from dynamo_cli.host.memory_file import MemoryFile
from dynamo_cli.host_cache.disk_tier import DiskTier
from dynamo_cli.host_cache.state import HostCache
from dynamo_cli.kv import hashes, slots
from dynamo_cli.kv.hashes import ROOT
from dynamo_cli.kv.holdings import Holdings
from dynamo_cli.messages.admin import Operate, Operation
from dynamo_cli.messages.host_cache import (
    BlocksFound,
    BlocksRead,
    BlocksWritten,
    FindBlocks,
    OpenCache,
    SlotsLent,
    SlotsReturned,
)
from dynamo_cli.messages.request import AddRequest
from dynamo_cli.topology import ProcessId, Role
from dynamo_cli.units import SECOND_NS
from tests.support.driver import BLOCK, config_of, tell

GPU_BLOCKS = 20
HOST_BLOCKS = 60
DISK_BLOCKS = 200
SIZE_BYTES = 16 << 20
BETWEEN_BYTES = 100_000
"""Some loads of a step are larger than this."""

ME = ProcessId(Role.WORKER, 0)
REQUESTS = 60


class Link:
    """The host cache, whose answers take up to three steps.

    Args:
        disk: folder of the tier on disk; empty if there is none.
        memory: the memory that it shares with the engine.
    """

    def __init__(self, client: Any, dice: random.Random, disk: str, memory: str) -> None:
        self.cache = HostCache(SIZE_BYTES, time.monotonic_ns)
        self.cache.all_linked()
        self.client = client
        self.disk_tier: DiskTier | None = None
        self.on_disk = 0
        self._folder, self._memory = disk, memory
        self._dice = dice
        self._down: deque[Any] = deque()
        self.late = True
        client.connect(self._hear, self._hear)
        client.opened()
        self.step(late=False)

    def _hear(self, message: Any) -> bool:
        match message:
            case OpenCache(size, layout, reserve, busy):
                self._make(size)
                assert not self.cache.open(ME, size, layout, slots.unpack(busy), reserve)
                if self.disk_tier is not None:
                    self.disk_tier.opened()
                    assert not self.disk_tier.disk.off
            case FindBlocks(name, keys):
                found = self.cache.find(ME, name, keys)
                if self.disk_tier is None or not self.disk_tier.disk.search(
                    ME, name, keys, found, SECOND_NS
                ):
                    self._down.append(BlocksFound(name, slots.pack(found)))
            case BlocksRead(name):
                if self.disk_tier is not None:
                    self.disk_tier.disk.waits.forget(ME, name)
                self.cache.read(ME, name)
            case BlocksWritten(keys, written, blocks, parents):
                packed = slots.unpack(written), hashes.unpack(blocks), hashes.unpack(parents)
                new = self.cache.wrote(ME, keys, *packed)
                if self.disk_tier is not None:
                    self.disk_tier.disk.stored(new)
            case SlotsReturned(returned):
                self.cache.returned(ME, slots.unpack(returned))
        return True

    def _make(self, slot_bytes: int) -> None:
        """Start it, smaller than the memory, so that it evicts."""
        if not self._folder:
            self.cache = HostCache(HOST_BLOCKS * slot_bytes, time.monotonic_ns)
        else:
            self.end()
            disk = DiskCacheConfig(self._folder, DISK_BLOCKS * slot_bytes)
            config = HostCacheConfig(HOST_BLOCKS * slot_bytes, self._memory, disk=disk)
            reach = Holdings(0)
            self.cache = HostCache(config.size_bytes, time.monotonic_ns, reach)
            self.disk_tier = DiskTier(config, self.cache, reach, time.monotonic_ns, lambda _: None)
        self.cache.all_linked()

    def end(self) -> None:
        """End the copies of a process that dies, as the system does."""
        if self.disk_tier is not None:
            self.on_disk += self.disk_tier.disk.stats().found
            if self.disk_tier._file is not None:
                self.disk_tier._file.close(wait=True)

    def _forget(self) -> None:
        """Let the memory drop all that is on disk, so that all that is found comes from there."""
        assert self.disk_tier is not None
        if not self.disk_tier.disk._copies and not self.disk_tier.disk._queue:
            while (slot := self.cache.blocks.evict()) is not None:
                self.cache._free.append(slot)

    def step(self, *, late: bool = True) -> None:
        """Deliver some of what is on its way."""
        if self.disk_tier is not None:
            self.disk_tier.take_done()
            self._forget()
            for _, name, found in self.disk_tier.disk.waits.answers():
                self._down.append(BlocksFound(name, slots.pack(found)))
        for lent in self.cache.lend().values():
            self._down.append(SlotsLent(slots.pack(lent)))
        if self.disk_tier is not None:
            self.disk_tier.begin()
        while self._down and not (late and self.late and self._dice.random() < 0.3):
            self.client.apply(self._down.popleft())

    def die(self) -> None:
        """It starts again, empty."""
        self._down.clear()
        self.client.lost()
        self.client.opened()


class Driver:
    def __init__(self, config: EngineConfig, disk: str = "") -> None:
        from vllm.v1.engine import EngineCoreOutputs
        from vllm.v1.serial_utils import MsgpackDecoder, MsgpackEncoder

        from dynamo_cli.engines.vllm.core.engine import VllmEngine

        self.dice = random.Random(1)
        self.engine = VllmEngine(0, config, kv_events=True)
        client = self.engine.cache_client
        self.link: Link | None = None
        if config.host_cache is not None:
            self.link = Link(client, random.Random(2), disk, config.host_cache.path)
        self._encode = MsgpackEncoder().encode
        self._decode = MsgpackDecoder(EngineCoreOutputs).decode
        self.told: dict[str, list[int]] = {}
        self.cached = 0
        self.joined = self.between = 0  # loads that belonged to a step, and others
        if self.link is not None:
            self._count_joined()

    def _count_joined(self) -> None:
        scheduler = self.engine._core.scheduler.connector.connector_scheduler
        build = scheduler.build_connector_meta

        def counted(output: Any) -> Any:
            meta = build(output)
            self.joined += len(meta.joined)
            self.between += len(meta.load_jobs) - len(meta.joined)
            return meta

        scheduler.build_connector_meta = counted

    def _request(self, name: str, prompt: list[int]) -> AddRequest:
        from vllm import SamplingParams
        from vllm.v1.engine import EngineCoreRequest

        params = SamplingParams(
            temperature=0, max_tokens=self.dice.randrange(1, 60), ignore_eos=True
        )
        params.update_from_generation_config({}, 2)
        request = EngineCoreRequest(
            request_id=name,
            prompt_token_ids=prompt,
            mm_features=None,
            sampling_params=params,
            pooling_params=None,
            arrival_time=time.time(),
            lora_request=None,
            cache_salt=None,
            data_parallel_rank=None,
        )
        return AddRequest(name, b"", [bytes(frame) for frame in self._encode(request)])

    def add(self, name: str, prompt: list[int]) -> None:
        self.told[name] = []
        self.engine.add(0, self._request(name, prompt))

    def add_known(self, name: str, prompt: list[int]) -> int:
        """The same; how many tokens need not be computed, as it is known before."""
        self.told[name] = []
        side = self.engine.decode_side
        prepared = side.prepare(0, self._request(name, prompt))
        for _ in prepared.unfinished:
            pass
        cached = side.cached_tokens(prepared)
        for forgotten in (True, False):
            while (known := side.known_tokens(prepared, cached)) is None:
                assert self.link is not None
                self.link.step()
            if forgotten:
                side.forget_known(name)
        side.start(prepared)
        return known

    def step(self) -> None:
        if self.link is not None:
            self.link.step()
        for _, message in self.engine.step():
            for output in self._decode(message.frames).outputs:
                self.told[output.request_id] += output.new_token_ids
                if output.prefill_stats is not None:
                    self.cached += output.prefill_stats.num_cached_tokens

    def run(self) -> dict[str, Any]:
        dice = random.Random(3)
        prompts = [[dice.randrange(60, 200) for _ in range(300)] for _ in range(8)]
        for number in range(REQUESTS):
            prompt = dice.choice(prompts)
            length = dice.randrange(BLOCK, len(prompt))
            # Some end with a block, all of which may be found.
            self.add(f"r{number}", prompt[: length - length % BLOCK * (number % 3 == 0)])
            if number % 10 == 9:
                self.engine.abort([f"r{number}"])
                del self.told[f"r{number}"]
            steps = dice.randrange(12)
            while self.engine.has_work() and steps:
                self.step()
                steps -= 1
            if self.link is not None and number == REQUESTS // 2:
                self.link.die()
        self.end()
        if self.link is not None:
            self.link.late = False  # no block is dropped for want of a slot
        # More than the engine's cache has room for, and less than the host cache.
        again = enumerate(prompts[:4] * 2)
        known = [self._known_and_found(number, prompt) for number, prompt in again]
        stats = self.engine.stats(0)
        told = {"tokens": self.told, "cached": self.cached, "preemptions": stats.preemptions}
        told |= {"known": known}
        told["layout"] = self.engine._core.vllm_config.cache_config.kv_cache_layout
        return told | {"kept": stats.kept_requests} | self._shared() | self._reset(prompts[3])

    def end(self) -> None:
        while self.engine.has_work():
            self.step()

    def _known_and_found(self, number: int, prompt: list[int]) -> tuple[int, int]:
        """What is known of a prompt before, and what the engine finds of it."""
        before = self.cached
        known = self.add_known(f"known {number}", prompt)
        self.end()
        return known, self.cached - before

    def _reset(self, prompt: list[int]) -> dict[str, Any]:
        """Reset everything, and run a prompt that was known before: what is found and stored."""
        if self.link is None or self.link.disk_tier is not None:
            return {}
        order = Operate(1, Operation.RESET_PREFIX_CACHE)
        self.link.cache.reset(closed=True)
        reset = [self.engine.operate(order)]
        self.link.step(late=False)
        reset.append(self.link.cache.reset())
        self.link.step(late=False)
        known = self.add_known("after", prompt)
        self.end()
        self.link.step(late=False)
        computed = len(prompt) + len(self.told.pop("after")) - 1
        stored = len(self.link.cache.blocks)
        return {"reset": reset, "known_after": known, "lacks": computed // BLOCK - stored}

    def _reachable(self, name: int) -> bool:
        """Whether all blocks before this one are in the host cache too; else nobody can find it."""
        assert self.link is not None
        by_hash = self.link.cache.blocks._by_hash
        while name in by_hash:
            name = by_hash[name].parent
        return name == ROOT

    def _shared(self) -> dict[str, Any]:
        if self.link is None:
            return {}
        self.link.step(late=False)
        while self.link.disk_tier is not None and self.link.disk_tier.disk._copies:
            self.link.step(late=False)
        self.link.end()
        cache, copies = self.link.cache, self.link.client.copies(0, prefill=False)
        return {
            "loaded": copies.loaded_blocks,
            "stored": copies.stored_blocks,
            "block_bytes": copies.stored_bytes // copies.stored_blocks,
            "dropped": copies.dropped,
            "joined": self.joined,
            "between": self.between,
            "evicted": cache.evicted,
            "invalid": cache.invalid,
            "pinned": cache.blocks.pinned,
            "blocks": len(cache.blocks),
            "published": len(cache.blocks.holdings.all()),
            "reachable": sum(map(self._reachable, cache.blocks._by_hash)),
            "slots": [cache.free + cache.lent + len(cache.blocks), cache.busy],
            "on_disk": self.link.on_disk,
            "disk": self.link.disk_tier.disk.stats().dropped if self.link.disk_tier else {},
        }


def _pack() -> None:
    """Lay the engine's cache out as on a GPU.

    The kernels for CPUs declare one layout only, but they follow the strides of the others with
    the same interior of a block.
    """
    from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend
    from vllm.v1.kv_cache_layout import KVCacheLayout

    from dynamo_cli.engines.vllm.host_cache import connector

    kernels: Any = CPUAttentionBackend
    kernels.supported_kv_cache_layouts = lambda: (KVCacheLayout.LBHNC, KVCacheLayout.BLHNC)
    connector.PACKED = "BLHNC"
    platform: Any = SimpleNamespace(
        is_cuda=lambda: True, has_device_capability=lambda capability: False
    )
    connector.current_platform = platform


def main(model: str, kind: str, *options: str) -> dict[str, Any]:
    sizes = ("--max-model-len", "512", "--num-gpu-blocks-override", str(GPU_BLOCKS))
    config = config_of(model, *sizes, *options)
    if kind != "plain":
        memory = MemoryFile("driver", SIZE_BYTES)
        config = replace(config, host_cache=HostCacheConfig(SIZE_BYTES, memory.path))
    environment.prepare(config)
    if kind == "between":
        from dynamo_cli.engines.vllm.host_cache import joined

        joined.JOINED_BYTES = BETWEEN_BYTES
    if kind == "packed":
        _pack()
    with tempfile.TemporaryDirectory() as folder:
        driver = Driver(config, folder if kind == "disk" else "")
        try:
            return driver.run()
        finally:
            driver.engine.close()


if __name__ == "__main__":
    tell(main(*sys.argv[1:]))
