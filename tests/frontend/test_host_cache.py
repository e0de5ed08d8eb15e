"""What the host cache and the engines report of it arrives at the frontend."""

from __future__ import annotations

import asyncio
from typing import Any

from dynamo_cli.messages.host_cache import HostCacheStats, HostCopies
from dynamo_cli.topology import HOST_CACHE, ProcessId, Role
from tests.frontend.stage import Stage


def test_the_snapshot_has_the_host_cache_and_keeps_its_totals() -> None:
    async def scenario() -> None:
        async with Stage() as stage:

            async def shown(wanted: int, used: int) -> dict[str, Any]:
                """Wait until the snapshot has these figures."""
                while True:
                    seen = (await stage.get("/dynamo/snapshot"))[2]["host_cache"] or {}
                    if (seen.get("wanted"), seen.get("used")) == (wanted, used):
                        return dict(seen)
                    await asyncio.sleep(0.005)

            cache = await stage.neighbour(HOST_CACHE)
            worker = await stage.neighbour(ProcessId(Role.WORKER, 0))
            worker.send(HostCopies(False, 0, 10, 1_000, 0.5, 4, 400, 0.25, 32, {}, 0.0))
            cache.send(HostCacheStats(100, 4096, 40, 3, 12, 200, 150, 60, 5, 15, 0, 0))
            assert (await shown(200, 40))["engines"][0]["loaded_bytes"] == 1_000
            cache.die()
            assert (await shown(200, 0))["slots"] == 0

    asyncio.run(scenario())
