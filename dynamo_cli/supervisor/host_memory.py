"""The memory of the host cache, which lives as long as the supervisor: no other death empties it.

The host cache and the engines open it by the path in their configuration.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from dynamo_cli.config import HostCacheConfig
from dynamo_cli.errors import ResourceError
from dynamo_cli.host import oserrors
from dynamo_cli.host.memory_file import MemoryFile
from dynamo_cli.serve_config import ServeConfig


@contextmanager
def host_memory(config: ServeConfig) -> Iterator[ServeConfig]:
    """Make the memory if the plan has a host cache here; gives the plan with its path.

    Raises:
        ResourceError: the system refuses.
    """
    if config.host_cache is None or config.cluster is not None:
        yield config
        return
    memory = make(config.host_cache)
    try:
        yield replace(config, host_cache=replace(config.host_cache, path=memory.path))
    finally:
        memory.close()


def make(cache: HostCacheConfig) -> MemoryFile:
    """Make the memory of a host cache.

    Raises:
        ResourceError: the system refuses.
    """
    try:
        return MemoryFile("host cache", cache.size_bytes)
    except OSError as error:
        raise ResourceError(
            f"the memory of --host-cache cannot be made: {oserrors.reason(error)}. "
            "It needs memfd_create, which a sandbox may refuse; --host-cache 0 needs none."
        ) from error
