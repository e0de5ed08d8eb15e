"""The memory of the host cache: made once, and opened by path in every other process."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest

from dynamo_cli.config import EngineConfig, FrontendConfig, HostCacheConfig
from dynamo_cli.errors import ResourceError
from dynamo_cli.host import memory_file
from dynamo_cli.host.memory_file import map_shared
from dynamo_cli.serve_config import ServeConfig
from dynamo_cli.supervisor.host_memory import host_memory
from dynamo_cli.topology import HOST_CACHE, ProcessId, Role

PLAN = ServeConfig(
    EngineConfig("tiny", "tiny", ("tiny",)),
    FrontendConfig(),
    prefill_devices=((),),
    host_cache=HostCacheConfig(1 << 20, min_tokens=7),
)


def test_engines_and_the_host_cache_get_the_same_memory() -> None:
    with host_memory(PLAN) as plan:
        own = plan.config_of(HOST_CACHE)
        assert isinstance(own, HostCacheConfig)
        assert (own.size_bytes, own.min_tokens) == (1 << 20, 7)
        for engine in (plan.worker_config(0).engine, plan.prefill_worker_config(0).engine):
            assert engine.host_cache == own
        with map_shared(own.path) as writes, map_shared(own.path) as reads:
            writes[:3] = b"abc"
            assert (reads[:3], len(reads)) == (b"abc", 1 << 20)
        assert HOST_CACHE in plan.tree()
    assert not Path(own.path).exists()


def test_it_takes_no_room_before_it_is_used() -> None:
    huge = replace(PLAN, host_cache=HostCacheConfig(1 << 40))
    with host_memory(huge) as plan:
        assert plan.host_cache is not None
        assert Path(plan.host_cache.path).stat().st_blocks == 0


def test_without_a_host_cache_there_is_no_memory_and_no_process() -> None:
    with host_memory(replace(PLAN, host_cache=None)) as plan:
        assert plan.worker_config(0).engine.host_cache is None
        assert ProcessId(Role.HOST_CACHE) not in plan.tree()


def test_a_system_that_refuses_the_memory_ends_the_start_with_a_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(memory_file.os, "memfd_create", refuse)
    with pytest.raises(ResourceError, match="--host-cache cannot be made: function not impl"):
        host_memory(PLAN).__enter__()
