"""What a node adds to its post: the model's path, its GPUs and the memory of its host cache."""

from __future__ import annotations

import os
from dataclasses import replace
from types import SimpleNamespace

import pytest

from dynamo_cli.config import Device, HostCacheConfig, SimulationConfig
from dynamo_cli.errors import ResourceError
from dynamo_cli.host.gpus import Gpu
from dynamo_cli.host.memory_file import map_shared
from dynamo_cli.outpost import prepare as module
from dynamo_cli.outpost.prepare import prepare
from tests.cluster.outposts import post

SIMULATED = SimulationConfig("default")


@pytest.fixture(autouse=True)
def _no_downloads(monkeypatch: pytest.MonkeyPatch) -> None:
    found = SimpleNamespace(resolve=lambda model, tell: SimpleNamespace(path=f"/models/{model}"))
    monkeypatch.setattr(module, "catalog", found)
    monkeypatch.setenv("VLLM_NIXL_SIDE_CHANNEL_HOST", "kept")


def test_it_makes_the_memory_that_its_processes_open() -> None:
    prepared = prepare(replace(post(), host_cache=HostCacheConfig(1 << 20)))
    assert prepared.engine.path == "/models/tiny"
    assert prepared.host_cache is not None
    assert prepared.host_cache.path.startswith(f"/proc/{os.getpid()}/")
    with map_shared(prepared.host_cache.path) as memory:
        assert len(memory) == 1 << 20
    assert prepare(post()).host_cache is None


def test_more_memory_than_the_node_has_is_refused_by_name() -> None:
    large = replace(post(), host_cache=HostCacheConfig(1 << 50))
    with pytest.raises(ResourceError, match="is more than the"):
        prepare(large)
    simulated = replace(large, engine=replace(large.engine, simulation=SIMULATED))
    assert prepare(simulated).host_cache is not None


def test_engines_get_those_gpus_that_ray_has_given_by_their_own_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The head numbers them within the node; `nvidia-smi` there may number them otherwise."""
    here = tuple(Gpu(Device(str(one), f"GPU-{one}")) for one in range(4))
    monkeypatch.setattr(module, "read_gpus", lambda: here)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,3")
    engine = replace(post().engine, devices=(Device("0", "node-b/0"),))
    prepared = prepare(replace(post(), engine=engine))
    assert [one.uuid for one in prepared.engine.devices] == ["GPU-1", "GPU-3"]
