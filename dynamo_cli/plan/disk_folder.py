"""Looks at the folder of ``--disk-cache``."""

from __future__ import annotations

import os
import shutil

from dynamo_cli.config import HostCacheConfig
from dynamo_cli.errors import UsageError
from dynamo_cli.host import oserrors
from dynamo_cli.host.unnamed_file import in_memory, open_unnamed
from dynamo_cli.plan.resolve_host_cache import DISK, disk_cache
from dynamo_cli.plan.sizes import sized
from dynamo_cli.plan.typed import Typed


def check(typed: Typed) -> None:
    """Check that there can be a file in the folder.

    Raises:
        UsageError: there cannot; the message says why.
    """
    disk = disk_cache(typed)
    if disk is None:
        return
    folder = disk.folder
    try:
        os.close(open_unnamed(folder, direct=False))
        total = shutil.disk_usage(folder).total
    except OSError as error:
        why = oserrors.reason(error)
        raise UsageError(
            f"{DISK} {folder} cannot have files: {why}. It takes a folder that is there."
        ) from error
    if in_memory(folder):
        raise UsageError(
            f"{DISK} {folder} is in memory (tmpfs), not on a disk; choose another folder."
        )
    if disk.size_bytes > total:
        raise UsageError(
            f"{DISK} {typed.disk_cache} is more than the whole disk, which has {sized(total)}."
        )


def free_bytes(cache: HostCacheConfig | None) -> int | None:
    """Free space for the tier on disk, bytes; None if there is none, or nobody knows."""
    if cache is None or cache.disk is None:
        return None
    try:
        return shutil.disk_usage(cache.disk.folder).free
    except OSError:
        return None


def warnings(cache: HostCacheConfig | None) -> list[str]:
    """Warns of a disk that has less room than the tier on it may take."""
    free = free_bytes(cache)
    if cache is None or cache.disk is None or free is None or free >= cache.disk.size_bytes:
        return []
    return [
        f"{DISK} may take {sized(cache.disk.size_bytes)}, and {sized(free)} of the disk are free: "
        "it will take what there is."
    ]
