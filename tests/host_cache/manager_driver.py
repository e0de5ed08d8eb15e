"""Drives the manager in vLLM's scheduler and a prefill worker's leases (see `test_manager`)."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

from vllm.v1.kv_offload.base import OffloadKey, ReqContext, ScheduleEndContext

from dynamo_cli.engines.cache_client import CacheClient
from dynamo_cli.engines.vllm.core.engine import VllmEngine
from dynamo_cli.engines.vllm.core.operations import operate
from dynamo_cli.engines.vllm.core.sides import VllmDecodeSide
from dynamo_cli.engines.vllm.host_cache.leases import Leases
from dynamo_cli.engines.vllm.host_cache.manager import Manager
from dynamo_cli.errors import InternalError
from dynamo_cli.kv import slots
from dynamo_cli.messages.admin import Operate, Operation
from dynamo_cli.messages.host_cache import (
    MISSING,
    BlocksFound,
    BlocksRead,
    BlocksWritten,
    FindBlocks,
    SlotsLent,
)
from tests.support.driver import tell

KEYS = [OffloadKey(bytes([number])) for number in range(200)]


class Stage:
    """A manager whose host cache holds blocks 0 and 1, in slots of the same numbers."""

    def __init__(self, min_blocks: int = 0) -> None:
        self.sent: list[Any] = []
        self.client = CacheClient(4096, "flat", 32, slots=100)
        self.manager = Manager(self.client, min_blocks, 4096)
        self.client.connect(self._send, self._send)
        self.client.opened()
        self.client.apply(SlotsLent(slots.pack(range(10, 60))))
        self.sent.clear()

    def _send(self, message: Any) -> bool:
        self.sent.append(message)
        return True

    def find(self, name: str, keys: Sequence[OffloadKey]) -> ReqContext:
        """Ask for a request, and get the answer."""
        context = ReqContext(req_id=name)
        assert not self.manager.find(context, keys)
        self.answer()
        assert self.manager.find(context, keys)
        return context

    def answer(self) -> None:
        """Answer the last question."""
        asked = self.of(FindBlocks)[-1]
        found = [key[0] if key in KEYS[:2] else MISSING for key in asked.keys]
        self.client.apply(BlocksFound(asked.name, slots.pack(found)))

    def of(self, kind: type) -> list[Any]:
        return [message for message in self.sent if isinstance(message, kind)]


def an_aborted_load() -> Any:
    """It keeps its slots until the copies have ended."""
    stage = Stage()
    context = stage.find("a", KEYS[:3])
    spec = stage.manager.prepare_load(KEYS[:2], context)
    stage.manager.on_request_finished(context)
    before = stage.of(BlocksRead)
    stage.manager.complete_load(set(KEYS[:2]), context)
    return [
        spec.block_ids.tolist(),
        before,
        len(stage.of(BlocksRead)),
        stage.client.kept,
        left(stage),
    ]


def a_load() -> Any:
    """What was found is not stored again; what is written is told in the order of the prompt."""
    stage = Stage()
    context = stage.find("a", KEYS)
    stage.manager.prepare_load(KEYS[:2], context)
    stage.manager.complete_load(set(KEYS[:2]), context)
    stage.manager.on_schedule_end(ScheduleEndContext(["a"], []))
    wanted = stage.manager.prepare_store(KEYS[:30], context).keys_to_store
    stage.manager.complete_store(set(wanted), context)
    [told] = stage.of(BlocksWritten)
    in_order = told.keys == KEYS[2:30]
    more = stage.manager.prepare_store(KEYS[:100], context).keys_to_store
    stage.manager.complete_store(set(more), context, success=False)
    stage.manager.on_request_finished(context)
    return [in_order, len(more), stage.client.kept, left(stage)]


def a_small_prompt() -> Any:
    stage = Stage(min_blocks=4)
    context = ReqContext(req_id="a")
    assert stage.manager.find(context, KEYS[:3])
    stored = stage.manager.prepare_store(KEYS[:3], context).keys_to_store
    stage.manager.on_request_finished(context)
    return [stage.sent, stored, left(stage)]


def left(stage: Stage) -> int:
    """Entries that are left when all requests have ended."""
    manager = stage.manager
    kept = (manager._storing, manager._held, manager._prompts, manager._copying)
    return sum(map(len, (*kept, manager._over, manager._unstored, manager._loading)))


# -- leases --------------------------------------------------------------------------------------


class Prefills(Stage):
    """The same in a prefill worker."""

    def __init__(self) -> None:
        super().__init__()
        self.leases = Leases(self.manager)

    def run(self, name: str, count: int, *, store: bool = True) -> ReqContext:
        """Compute a prompt of so many blocks."""
        context = self.find(name, KEYS[:count])
        self.manager.on_schedule_end(ScheduleEndContext([name], []))
        if store:
            self.manager.prepare_store(KEYS[:count], context)
        return context

    def stored(self, context: ReqContext, count: int) -> None:
        self.manager.complete_store(set(KEYS[2:count]), context)


def a_lease() -> Any:
    """It begins when the request has ended and its blocks are stored, and ends once."""
    stage = Prefills()
    stage.leases.begin("a", 0)
    context = stage.run("a", 4)
    stage.manager.on_request_finished(context)
    early = stage.leases.take_kept()
    stage.stored(context, 4)
    asks = stage.leases.take_kept()
    asked = stage.of(FindBlocks)[-1]
    stage.client.apply(BlocksFound(asked.name, slots.pack([0, 1, 12, 13])))
    kept = stage.leases.take_kept()
    stage.leases.end("a")
    stage.leases.end("a")
    read = [one for one in stage.of(BlocksRead) if one.name == asked.name]
    return [early, asks, kept, dict(stage.leases.failures), len(read), *empty(stage)]


def a_lease_on_what_another_job_stores() -> Any:
    """Its blocks were in the engine's cache, but are in the host's memory only later."""
    stage = Prefills()
    contexts = {}
    for name in ("a", "b"):
        stage.leases.begin(name, 0)
        contexts[name] = stage.run(name, 4)
    stage.manager.on_request_finished(contexts["b"])
    stage.leases.take_kept()
    early = stage.client.waits()
    stage.stored(contexts["a"], 4)
    stage.leases.take_kept()
    late = stage.client.waits()
    stage.manager.on_request_finished(contexts["a"])
    for name in ("a", "b"):
        stage.leases.end(name)
    return [early, late, *empty(stage)]


def what_is_missing() -> Any:
    """Blocks that found no room, and a host cache that is gone, are counted by reason."""
    stage = Prefills()
    for name in ("a", "b"):
        stage.leases.begin(name, 0)
    context = stage.run("a", 4, store=False)
    stage.manager.on_request_finished(context)
    stage.leases.take_kept()
    stage.answer()
    kept = stage.leases.take_kept()
    context = stage.run("b", 4, store=False)
    stage.client.lost()
    stage.manager.on_request_finished(context)
    kept += stage.leases.take_kept()
    failures = dict(stage.leases.failures)
    stage.leases.owner_gone(0)
    return [kept, failures, *empty(stage)]


def jobs_that_end_otherwise() -> Any:
    """Dropped before their end, expired, of a worker that is gone, never computed."""
    stage = Prefills()
    for number, name in enumerate("abcd"):
        stage.leases.begin(name, number)
    contexts = {name: stage.run(name, 4, store=False) for name in "abc"}
    stage.leases.end("a")  # dropped while it runs
    stage.leases.expire(1)  # nothing is old
    stage.leases.owner_gone(1)
    for context in contexts.values():
        stage.manager.on_request_finished(context)
    stage.leases.end("d")
    stage.leases.take_kept()  # asks for c
    before = len(stage.leases)
    stage.leases.expire(1 << 63)
    stage.answer()
    return [before, *empty(stage)]


def a_reset() -> Any:
    """What is being loaded goes on; the end of an older answer is not stored, what runs is."""
    stage = Stage()
    loads, waits, ended, runs = (stage.find(name, KEYS[:4]) for name in "abcd")
    stage.manager.prepare_load(KEYS[:2], loads)
    stage.manager.on_schedule_end(ScheduleEndContext(["d"], []))
    stage.manager.reset(["c"])
    found = [stage.manager.leading(one, KEYS[:4]) for one in (loads, waits)]
    stage.client.apply(SlotsLent(slots.pack(range(70, 80))))
    stored = [
        len(stage.manager.prepare_store(KEYS[:4], one).keys_to_store) for one in (ended, runs)
    ]
    stage.manager.complete_store(set(KEYS[:4]), runs)
    stage.manager.complete_load(set(KEYS[:2]), loads)
    for one in (loads, waits, ended, runs):
        stage.manager.on_request_finished(one)
    return [found, stored, stage.client.kept, left(stage)]


def a_reset_of_what_cannot_be_reset() -> Any:
    """vLLM raises when blocks of a request are being loaded; the answer is no."""

    def refuse(running: bool) -> bool:
        if running:
            raise RuntimeError("Failed to reset KV cache")
        return False

    core: Any = SimpleNamespace(
        reset_prefix_cache=refuse, scheduler=SimpleNamespace(connector=None)
    )
    orders = (Operate(1, Operation.RESET_PREFIX_CACHE, reset_running=one) for one in (True, False))
    return [operate(core, order) for order in orders]


def a_prompt_that_is_only_asked_about() -> Any:
    stage = Prefills()
    stage.find("a", KEYS[:4])
    before = [stage.client.kept, len(stage.manager._prompts)]
    stage.manager.forget("a")
    return [before, len(stage.of(BlocksRead)), *empty(stage)]


def empty(stage: Prefills) -> list[int]:
    return [len(stage.leases), stage.client.kept, left(stage)]


def a_request_that_fails_alone() -> Any:
    """Its worker gives the blocks back that were kept for it, and the engine others."""
    engine = object.__new__(VllmEngine)
    side = engine.decode_side = VllmDecodeSide(0, Any, Any, None)
    side._handed_over = {"a", "b"}
    engine._failed = [(0, "a", InternalError("it cannot."))]
    failed = [name for _, name, _ in engine.take_failed()]
    return [failed, side.take_unneeded(), side.handed_over("b")]


CASES = (
    *(an_aborted_load, a_load, a_small_prompt, a_lease, a_lease_on_what_another_job_stores),
    *(what_is_missing, jobs_that_end_otherwise, a_request_that_fails_alone),
    *(a_prompt_that_is_only_asked_about, a_reset, a_reset_of_what_cannot_be_reset),
)

if __name__ == "__main__":
    tell({case.__name__: case() for case in CASES})
