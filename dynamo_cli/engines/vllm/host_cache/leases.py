"""Blocks of prefilled prompts, which the host cache keeps until their decode workers have them."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass

from vllm.v1.kv_offload.base import OffloadKey

from dynamo_cli.engines.vllm.host_cache.manager import Manager

NO_ROOM, NO_CACHE = "no_room", "no_cache"
"""Why blocks of a prompt are missing: they found no room, or the host cache did not answer."""


@dataclass(slots=True)
class _Lease:
    """What is kept for one job.

    Attributes:
        owner: index of the decode worker that will load the blocks.
        keys: the blocks; None until all are in the host's memory.
        since_ns: when that was, on the monotonic clock.
    """

    owner: int
    keys: list[OffloadKey] | None = None
    since_ns: int = 0


class Leases:
    """The leases of a prefill worker.

    A lease is a search of the host cache that is not ended: it keeps the blocks where they are.

    Args:
        manager: the manager of this engine's scheduler.

    Attributes:
        client: this engine's side of the host cache.
        failures: number of prompts of which something is missing, by reason.
    """

    def __init__(self, manager: Manager) -> None:
        self.failures: Counter[str] = Counter()
        self.client = manager.client
        self._leases: dict[str, _Lease] = {}
        self._wanted: dict[str, None] = {}  # jobs that wait for the answer of the host cache
        manager.saved = self._saved

    def __len__(self) -> int:
        return len(self._leases)

    def begin(self, job_id: str, owner: int) -> None:
        """Note that the blocks of this job are for decode worker `owner`."""
        self._leases[job_id] = _Lease(owner)

    def _saved(self, job_id: str, keys: list[OffloadKey]) -> None:
        if (lease := self._leases.get(job_id)) is not None:
            lease.keys, lease.since_ns = keys, time.monotonic_ns()
            self._wanted[job_id] = None

    def take_kept(self) -> list[str]:
        """Jobs whose blocks the host cache keeps since the last call, as far as it has them."""
        kept = []
        for job_id in list(self._wanted):
            keys = self._leases[job_id].keys or []
            found = self.client.find(_name(job_id), keys)
            if found is None:
                continue
            del self._wanted[job_id]
            if len(found) < len(keys):
                self.failures[NO_ROOM if self.client.answers else NO_CACHE] += 1
            kept.append(job_id)
        return kept

    def end(self, job_id: str) -> None:
        """The blocks of this job were loaded, or will not be; ignores unknown jobs."""
        if self._leases.pop(job_id, None) is not None:
            self._wanted.pop(job_id, None)
            self.client.end(_name(job_id))

    def owner_gone(self, worker: int) -> None:
        """End all leases for a decode worker."""
        for job_id in [name for name, lease in self._leases.items() if lease.owner == worker]:
            self.end(job_id)

    def expire(self, before_ns: int) -> None:
        """End the leases whose blocks were ready before this time."""
        old = [name for name, one in self._leases.items() if 0 < one.since_ns < before_ns]
        for job_id in old:
            self.end(job_id)


def _name(job_id: str) -> str:
    """The name under which the blocks are searched; the engine uses the job's own."""
    return f"{job_id}:lease"
