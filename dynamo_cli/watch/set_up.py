"""Describes the server for the first line of a record. Pure."""

from __future__ import annotations

from dynamo_cli.messages.set_up import SetUp
from dynamo_cli.topology import Role
from dynamo_cli.watch.schema import Snapshot


def set_up(snapshot: Snapshot) -> SetUp:
    """Return what serves at this moment; engines that are not ready yet have no sizes."""
    ready = next((worker for worker in snapshot.workers if worker.num_blocks), None)
    cache = snapshot.host_cache
    roles = [process.role for process in snapshot.processes]
    return SetUp(
        version=snapshot.version,
        models=list(snapshot.models),
        router=snapshot.router.policy if snapshot.router else "",
        workers=roles.count(Role.WORKER),
        prefill_workers=roles.count(Role.PREFILL_WORKER),
        num_blocks=ready.num_blocks if ready else 0,
        block_size=ready.block_size if ready else 0,
        max_num_seqs=ready.max_num_seqs if ready else 0,
        host_cache_bytes=cache.slots * cache.slot_bytes if cache else 0,
    )
