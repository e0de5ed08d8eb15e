"""The transfers of one engine: state that its connector, its copier and its process share."""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakValueDictionary

from vllm.config import VllmConfig
from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorTransferResults

from dynamo_cli.engines.vllm.transfer.arena import STAMPS, Arena
from dynamo_cli.engines.vllm.transfer.copier import LOAD, Copier, Copy, CopyStats
from dynamo_cli.engines.vllm.transfer.planes import Planes
from dynamo_cli.engines.vllm.transfer.slots import Slots
from dynamo_cli.messages.prefill import TransferStats
from dynamo_cli.units import SECOND_NS

NO_ROOM, GAP, NOT_COMPUTED = "no_room", "gap", "not_computed"
"""Why transfers fail before any copy: the arena is full, a prefix was evicted, no result."""


@dataclass(slots=True, weakref_slot=True)
class Transfers:
    """The transfers of one engine.

    Attributes:
        slots, arena: the arena of an engine that prefills; None until its cache is allocated.
        copier: does the copies; None until the cache is allocated.
        failures: number of transfers that failed before any copy, by reason.
    """

    slots: Slots | None = None
    arena: Arena | None = None
    copier: Copier | None = None
    failures: Counter[str] = field(default_factory=Counter)
    _bases: Iterator[int] = field(default_factory=lambda: itertools.count(STAMPS, STAMPS))
    _unneeded: list[str] = field(default_factory=list)
    _news: bool = False  # the last step has seen the end of a copy

    # -- for the process -----------------------------------------------------------------------

    def take_unneeded(self) -> list[str]:
        """Transfers since the last call whose slots the prefill side can free."""
        unneeded, self._unneeded = self._unneeded, []
        return unneeded

    def wait(self, limit_s: float) -> None:
        """After a step in which nothing ran, wait for the end of a copy, at most `limit_s` seconds.

        Does not wait if that step has seen the end of a copy, because the next step can go on then.
        """
        news, self._news = self._news, False
        if news:
            return
        if self.copier is not None:
            self.copier.wait(limit_s)
        else:
            time.sleep(limit_s)

    def stats(self, worker: int, *, prefill: bool, **more: Any) -> TransferStats:
        """Counters since the start; `more` are the fields that the worker itself counts."""
        copies = self.copier.stats if self.copier else CopyStats()
        slots, arena = self.slots, self.arena
        slot_bytes = arena.memory[0].nbytes if arena else 0
        fields: dict[str, Any] = {
            "prefill": prefill,
            "worker": worker,
            "placements": {},
            "fallbacks": {},
            "away": 0,
            "copies": dict(copies.copies),
            "nbytes": dict(copies.nbytes),
            "copy_s": {kind: spent / SECOND_NS for kind, spent in copies.nanoseconds.items()},
            "failures": dict(self.failures + copies.failures),
            "arena_used_bytes": slots.used * slot_bytes if slots else 0,
            "arena_bytes": slots.capacity * slot_bytes if slots else 0,
            "prefill_s": [],
        }
        return TransferStats(**fields | more)

    # -- for the connector ---------------------------------------------------------------------

    def open(self, planes: Planes, num_slots: int) -> None:
        """Start the copier, as soon as the cache is allocated.

        Args:
            planes: the cache.
            num_slots: slots of the arena, in an engine that prefills; else 0.
        """
        if num_slots:
            self.slots = Slots(num_slots)
            self.arena = Arena(planes.layout, planes.slot_bytes, num_slots)
        self.copier = Copier(planes, self.arena)

    def close(self) -> None:
        """End the copies and close the arena."""
        if self.copier is not None:
            self.copier.close()
        if self.arena is not None:
            self.arena.close()
        self.copier = self.arena = None

    def save(self, request_id: str, params: dict[str, Any], blocks: list[int]) -> dict[str, Any]:
        """Begin to copy the blocks of a prefilled prompt.

        Returns:
            kv_transfer_params for the decode side, or why there are none as ``failed``.
        """
        assert self.slots is not None
        assert self.arena is not None
        assert self.copier is not None
        transfer_id, now = params["transfer_id"], time.monotonic_ns()
        slots = self.slots.reserve(transfer_id, params["owner"], len(blocks), now)
        if slots is None:
            self.failures[NO_ROOM] += 1
            return {"failed": NO_ROOM}
        base = next(self._bases)
        self.copier.submit(Copy(request_id, transfer_id, blocks, slots, base, None, now))
        return {
            "do_remote_prefill": True,
            "do_remote_decode": False,
            "transfer_id": transfer_id,
            "skip_tokens": params["skip_tokens"],
            "arena": list(self.arena.ref),
            "slots": slots,
            "base": base,
        }

    def not_needed(self, params: dict[str, Any]) -> None:
        """Note that this engine does not need the blocks of a transfer (any more)."""
        self._unneeded.append(params["transfer_id"])

    def results(self) -> KVConnectorTransferResults:
        """What the copier has done since the last call, in vLLM's own form."""
        results = KVConnectorTransferResults()
        for copy, _, failed in self.copier.done() if self.copier else ():
            if copy.kind != LOAD:
                results.finished_sending.add(copy.request_id)
                continue
            results.finished_recving.add(copy.request_id)
            self._unneeded.append(copy.transfer_id)
            if failed:
                results.failed_recving.add(copy.request_id)
        self._news = bool(results.finished_sending or results.finished_recving)
        return results


_all: WeakValueDictionary[str, Transfers] = WeakValueDictionary()


def transfers_of(vllm_config: VllmConfig) -> Transfers:
    """The transfers of the engine with this configuration.

    The first caller makes them, and they are kept as long as any caller has them.
    """
    return _all.setdefault(vllm_config.kv_transfer_config.engine_id, Transfers())
