"""Keeps blocks of prefilled prompts in the host cache until their decode workers have loaded
them."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass

from vllm.v1.kv_offload.base import OffloadKey

from dynamo_cli.engines.vllm.host_cache.manager import Manager

NO_ROOM, NO_CACHE = "no_room", "no_cache"
"""Why blocks of a prompt are missing: the host cache had no room for them, or did not answer."""


@dataclass(slots=True)
class _Lease:
    """What is kept for one job.

    Attributes:
        owner: index of the decode worker that will load the blocks.
        keys: keys of the blocks; None until all of them are in the host's memory.
        since_ns: when all of them were there, on the monotonic clock; 0 before.
    """

    owner: int
    keys: list[OffloadKey] | None = None
    since_ns: int = 0


class Leases:
    """The leases of a prefill worker.

    To keep blocks, this engine asks the host cache for them like a request that loads them: found
    blocks are pinned until the question is ended.

    Args:
        manager: the manager of this engine's scheduler.

    Attributes:
        client: this engine's client of the host cache.
        failures: number of prompts of which blocks are missing, by reason.
    """

    def __init__(self, manager: Manager) -> None:
        self.failures: Counter[str] = Counter()
        self.client = manager.client
        self._leases: dict[str, _Lease] = {}
        self._wanted: dict[str, None] = {}  # jobs for which the host cache is to pin blocks
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
        """Jobs whose blocks are kept now, and were not at the last call; some may be missing."""
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
        """Release the blocks of this job; unknown jobs are ignored."""
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
    """The name of the question for a lease; the engine itself asks with the id of the job."""
    return f"{job_id}:lease"
