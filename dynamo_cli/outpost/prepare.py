"""Adds to a `Post` what only the node itself knows: the model's path, the GPUs, and the memory."""

from __future__ import annotations

import os
from dataclasses import replace

from dynamo_cli.config import Devices, HostCacheConfig
from dynamo_cli.errors import ResourceError
from dynamo_cli.host.gpus import read_gpus, visible
from dynamo_cli.host.memory import read_memory
from dynamo_cli.models import catalog
from dynamo_cli.supervisor import host_memory
from dynamo_cli.supervisor.post import Post
from dynamo_cli.units import GIB


def prepare(post: Post) -> Post:
    """The post with the path of the model, the GPUs, and the memory of the host cache.

    The memory lives as long as this process.

    Raises:
        DynamoError: the node has not the model, the GPUs or the memory.
    """
    path = catalog.resolve(post.engine.model, lambda progress: None).path
    devices: Devices = ()
    if post.engine.devices:
        seen = visible(read_gpus(), os.environ.get("CUDA_VISIBLE_DEVICES"))
        devices = tuple(gpu.device for gpu in seen)
    cache = post.host_cache
    if cache is not None:
        cache = _with_memory(cache, simulated=post.engine.simulation is not None)
    os.environ.setdefault("VLLM_NIXL_SIDE_CHANNEL_HOST", post.address)
    engine = replace(post.engine, path=path, devices=devices)
    return replace(post, engine=engine, host_cache=cache)


def _with_memory(cache: HostCacheConfig, *, simulated: bool) -> HostCacheConfig:
    """The configuration of the host cache, with its memory made. Simulated engines never fill
    it."""
    total_bytes = read_memory().total_bytes
    if cache.size_bytes > total_bytes and not simulated:
        raise ResourceError(
            f"--host-cache {_gib(cache.size_bytes)} is more than the {_gib(total_bytes)} of memory "
            "there; --host-cache auto takes half of what the smallest node has."
        )
    return replace(cache, path=host_memory.make(cache).path)


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / GIB:.1f} GiB"
