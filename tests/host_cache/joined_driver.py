"""Plays vLLM's halves of the connector, to see which loads belong to a step (see `test_joined`)."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from vllm.distributed.kv_transfer.kv_connector.v1.offloading.common import (
    OffloadingConnectorMetadata,
)
from vllm.distributed.kv_transfer.kv_connector.v1.offloading.scheduler import (
    OffloadingConnectorScheduler,
)
from vllm.distributed.kv_transfer.kv_connector.v1.offloading.worker import (
    OffloadingConnectorWorker,
)

from dynamo_cli.engines.vllm.host_cache.joined import JOINED_BYTES, JoiningScheduler, JoiningWorker
from tests.support.driver import BLOCK, tell

MOST_BLOCKS = 8
"""So many blocks are as large as the loads of a step may be."""


class Base:
    """What vLLM's scheduler side does: it finds blocks, makes a job for each load, and ends it.

    Attributes:
        found: tokens that it finds next, and whether they are loaded.
        began_at: hash of the first block of the last load, as vLLM was shown it.
        seen: loads and stores of each request, as vLLM saw them when it made a step.
    """

    def __init__(self) -> None:
        self.found: tuple[int | None, bool] = (BLOCK, True)
        self.began_at: Any = None
        self.seen: dict[str, set[int]] = {}

    def install(self) -> None:
        vllm: Any = OffloadingConnectorScheduler
        vllm.__init__ = lambda *_: None
        vllm.get_num_new_matched_tokens = lambda *_: self.found
        vllm.request_finished = lambda *_: (False, None)
        vllm.update_state_after_alloc = lambda *args: self._load(*args)  # noqa: PLW0108 - it is bound to the side
        vllm.build_connector_meta = lambda side, _: self._step(side)

    def _load(self, side: Any, request: Any, blocks: Any, tokens: int) -> None:
        self.began_at = blocks.blocks[0][0].block_hash
        if tokens:
            job = len(side._jobs) + 1
            side._jobs[job] = SimpleNamespace(is_store=False)
            side._req_status[request.request_id] = SimpleNamespace(transfer_jobs={job}, ended=False)

    def _step(self, side: Any) -> Any:
        self.seen = {name: set(one.transfer_jobs) for name, one in side._req_status.items()}
        for name in [name for name, one in side._req_status.items() if one.ended]:
            del side._req_status[name]
        return OffloadingConnectorMetadata({}, {}, set())


class Stage:
    """A scheduler side whose base is played, with so many groups of layers."""

    def __init__(self, groups: int = 1) -> None:
        self.base = Base()
        self.base.install()
        self.side: Any = JoiningScheduler(None)
        group = SimpleNamespace(tokens_per_block=BLOCK)
        self.side.config = SimpleNamespace(kv_group_configs=(group,) * groups)
        self.side.manager = SimpleNamespace(block_bytes=JOINED_BYTES // MOST_BLOCKS)
        self.side._jobs = {}
        self.side._req_status = {}

    def waits(self, found: int | None, *, more: int = 1, cached: int = 0, name: str = "a") -> Any:
        """Whether a request whose prompt goes on after what is found waits for its load."""
        self.base.found = (found, bool(found))
        request = SimpleNamespace(request_id=name, num_tokens=cached + (found or 0) + more)
        tokens, waits = self.side.get_num_new_matched_tokens(request, cached)
        assert tokens == found
        return waits

    def load(self, blocks: int, name: str = "a", **more: Any) -> bool:
        """The scheduler has admitted a request; whether its load belongs to the step."""
        if not more.pop("asked", False):
            self.waits(blocks * BLOCK, name=name, **more)
        block = SimpleNamespace(block_id=1, is_null=False, block_hash="known")
        request = SimpleNamespace(request_id=name)
        self.side.update_state_after_alloc(
            request, SimpleNamespace(blocks=[[block]]), blocks * BLOCK
        )
        return self.base.began_at is None

    def step(self) -> list[int]:
        return sorted(self.side.build_connector_meta(None).joined)


def a_part_of_the_prompt() -> Any:
    """A step computes a token of each request: of a prompt that is loaded whole there is none."""
    stage = Stage()
    return [
        [stage.waits(BLOCK, more=more, cached=cached) for more in (0, 1) for cached in (0, BLOCK)],
        [stage.waits(found) for found in (0, None)],
        sorted(stage.side._joining),
    ]


def the_bytes_of_a_step() -> Any:
    stage = Stage()
    whole = [stage.waits(blocks * BLOCK) for blocks in (MOST_BLOCKS, MOST_BLOCKS + 1)]
    shared = [stage.load(blocks, name) for blocks, name in ((5, "a"), (4, "b"), (0, "c"))]
    stage.side._jobs.pop(2)
    shared += [stage.load(2, "d"), stage.load(2, "e")]
    told = [stage.step(), stage.step()]
    stage.side._jobs.clear()
    return [whole, shared, told, stage.load(MOST_BLOCKS, "f")]


def several_groups() -> Any:
    return Stage(groups=2).waits(BLOCK)


def loads_between_steps() -> Any:
    """As long as one runs, others wait for it; stores and loads of steps are none."""
    stage = Stage()
    stage.side._jobs[7] = SimpleNamespace(is_store=True)
    beside_a_store = stage.waits(BLOCK)
    stage.load(1)
    beside_one_of_the_step = stage.waits(BLOCK, name="b")
    stage.side._jobs[8] = SimpleNamespace(is_store=False)
    return [beside_a_store, beside_one_of_the_step, stage.waits(BLOCK, name="b")]


def one_that_ends_or_asks_again() -> Any:
    """What was decided for an earlier question does not hold for a later load."""
    stage = Stage()
    stage.waits(BLOCK)
    stage.side.request_finished(SimpleNamespace(request_id="a"))
    left = sorted(stage.side._joining)
    stage.waits(BLOCK)
    stage.waits(BLOCK, more=0)
    later = stage.load(1, asked=True)
    stage.side._jobs.clear()
    stage.waits(BLOCK)
    nothing = stage.load(0, asked=True)
    return [left, later, nothing, stage.load(1, asked=True), stage.step()]


def a_load_under_way() -> Any:
    """vLLM sees no load of a request that runs, and the load is there again after that."""
    stage = Stage()
    stage.load(1)
    status = stage.side._req_status["a"]
    status.transfer_jobs.add(9)
    first = stage.step()
    seen = sorted(stage.base.seen["a"])
    status.ended = True
    stage.step()
    kept = stage.side._req_status.get("a") is status
    under_way = [sorted(status.transfer_jobs), kept]
    stage.side._jobs.clear()
    del stage.side._req_status["a"]
    return [first, seen, under_way, stage.step(), len(stage.side._under_way)]


def a_worker() -> Any:
    """Who did not wait for a load is not told of; the others are, and all of them once."""
    joined: list[list[int]] = []
    loads = {1: "a", 2: "b", 3: "c"}

    def start(side: Any, _: Any) -> None:
        side._load_jobs = dict(loads)

    def finished(side: Any, ended: set[int]) -> Any:
        return {"sent"}, {side._load_jobs.pop(job) for job in ended}

    vllm: Any = OffloadingConnectorWorker
    vllm.__init__, vllm.start_kv_transfers, vllm.get_finished = lambda *_: None, start, finished
    side: Any = JoiningWorker(None)
    side.worker = SimpleNamespace(join=lambda jobs: joined.append(sorted(jobs)))
    side.start_kv_transfers(SimpleNamespace(joined=frozenset()))
    before = list(joined)
    side.start_kv_transfers(SimpleNamespace(joined=frozenset({1, 2})))
    told = [[sorted(one) for one in side.get_finished(ended)] for ended in ({1, 3}, set(), {2})]
    return [before, joined, told, side._joined]


CASES = (
    *(a_part_of_the_prompt, the_bytes_of_a_step, several_groups, loads_between_steps),
    *(one_that_ends_or_asks_again, a_load_under_way, a_worker),
)

if __name__ == "__main__":
    tell({case.__name__: case() for case in CASES})
